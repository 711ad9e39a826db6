//! The virtual machine control block: fields with their place and width (APM 2 appendix B).
//!
//! The processor reads and writes the block at VMRUN and #VMEXIT only, at which no reference to a value in it is alive: these are
//! instructions of functions that the compiler does not see into. So the monitor shares the page with the processor in safe code,
//! by cells.

use core::cell::Cell;

/// One block: a page.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Vmcb([Cell<u64>; 512]);

const _: () = assert!(size_of::<Vmcb>() == 4096);

/// A 64-bit field, by its byte offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field(u16);

/// Fields that a processor may keep from one entry to the next, and the bit in [`CLEAN`] that says that they have not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    bit: u8,
    /** Byte offsets of quadwords, first and last. */
    quadwords: &'static [(u16, u16)],
}

/// THE table of clean bits (APM 2 15.15.3). No bit covers RAX, RSP, RIP, RFLAGS, the interrupt shadow, EVENTINJ, TLB_CONTROL and
/// the state that VMLOAD loads; these are read at each entry. So an exit whose instruction only leaves results in registers has
/// nothing to mark.
pub const GROUPS: [Group; 10] = [
    Group { bit: 0, quadwords: &[(0x000, 0x038), (0x050, 0x050)] }, // intercepts, pause filter, TSC offset
    Group { bit: 1, quadwords: &[(0x040, 0x048)] },                 // permission maps, and what is in them
    Group { bit: 2, quadwords: &[(0x058, 0x058)] },                 // ASID
    Group { bit: 3, quadwords: &[(0x060, 0x060)] },                 // virtual interrupt
    Group { bit: 4, quadwords: &[(0x090, 0x090), (0x0b0, 0x0b0), (0x668, 0x668)] }, // nested paging, PAT
    Group { bit: 5, quadwords: &[(0x4d0, 0x4d0), (0x548, 0x558)] }, // EFER, CR4, CR3, CR0
    Group { bit: 6, quadwords: &[(0x560, 0x568)] },                 // DR7, DR6
    Group { bit: 7, quadwords: &[(0x460, 0x468), (0x480, 0x488)] }, // GDTR, IDTR
    Group { bit: 8, quadwords: &[(0x400, 0x438), (0x4c8, 0x4c8)] }, // ES, CS, SS, DS, CPL
    Group { bit: 9, quadwords: &[(0x640, 0x640)] },                 // CR2
];

/// Every bit of the table.
pub const ALL_CLEAN: u32 = {
    let (mut all, mut at) = (0, 0);
    while at < GROUPS.len() {
        all |= GROUPS[at].mask();
        at += 1;
    }
    all
};

/// The permission maps: their contents count, too.
pub const PERMISSION_MAPS: Group = GROUPS[1];

impl Group {
    const fn mask(self) -> u32 {
        1 << self.bit
    }

    /// The bits of the groups that a quadword belongs to: one or none.
    pub const fn mask_of(field: Field) -> u32 {
        let mut at = 0;
        while at < GROUPS.len() {
            let mut range = 0;
            while range < GROUPS[at].quadwords.len() {
                let (first, last) = GROUPS[at].quadwords[range];
                if first <= field.0 && field.0 <= last {
                    return GROUPS[at].mask();
                }
                range += 1;
            }
            at += 1;
        }
        0
    }
}

/// The groups that stay clean if a quadword is written: all but its own.
static KEPT: [u16; 512] = {
    let (mut kept, mut at) = ([0; 512], 0);
    while at < 512 {
        kept[at] = ALL_CLEAN as u16 & !Group::mask_of(Field(8 * at as u16)) as u16;
        at += 1;
    }
    kept
};
const _: () = assert!(ALL_CLEAN <= u16::MAX as u32);

/// A field of up to 32 bits in a quadword.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    quadword: Field,
    shift: u8,
    bits: u8,
}

impl Part {
    const fn mask(self) -> u64 {
        ((1 << self.bits) - 1) << self.shift
    }
}

/// A segment register or descriptor-table register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment(u16);

impl Segment {
    /// The selector's field.
    pub const fn selector(self) -> Part {
        Part { quadword: Field(self.0), shift: 0, bits: 16 }
    }

    /// The attributes, packed (APM 2 15.5.1).
    pub const fn attributes(self) -> Part {
        Part { quadword: Field(self.0), shift: 16, bits: 16 }
    }

    /// The limit, in bytes whatever G is.
    pub const fn limit(self) -> Part {
        Part { quadword: Field(self.0), shift: 32, bits: 32 }
    }

    /// The base's field.
    pub const fn base(self) -> Field {
        Field(self.0 + 8)
    }
}

impl Vmcb {
    /// A block of zeros.
    pub const fn new() -> Self {
        Self([const { Cell::new(0) }; 512])
    }

    /// Reads a field.
    #[inline(always)]
    pub fn get(&self, field: Field) -> u64 {
        self.0[field.0 as usize / 8].get()
    }

    /// Writes a field, and marks its group as changed.
    #[inline(always)]
    pub fn set(&self, field: Field, value: u64) {
        let at = field.0 as usize / 8;
        self.0[at].set(value);
        // If the field is a constant and of no group, only the store is left.
        if KEPT[at] != ALL_CLEAN as u16 {
            self.keep(KEPT[at]);
        }
        #[cfg(test)]
        tests::WRITTEN.with_borrow_mut(|written| written.push(field));
    }

    /// Sets or clears bits of a field.
    #[inline(always)]
    pub fn put(&self, field: Field, bits: u64, on: bool) {
        let others = self.get(field) & !bits;
        self.set(field, if on { others | bits } else { others });
    }

    /// [`Vmcb::set`] for a field that is known only at run time.
    #[inline(always)]
    pub fn set_any(&self, field: Field, value: u64) {
        let at = field.0 as usize / 8;
        self.0[at].set(value);
        self.keep(KEPT[at]);
        #[cfg(test)]
        tests::WRITTEN.with_borrow_mut(|written| written.push(field));
    }

    /// Marks a group whose contents have changed although no field has.
    pub fn mark_group(&self, group: Group) {
        self.keep((ALL_CLEAN & !group.mask()) as u16);
    }

    #[inline(always)]
    fn keep(&self, kept: u16) {
        let clean = &self.0[CLEAN.0 as usize / 8];
        clean.set(clean.get() & u64::from(kept));
    }

    /// Reads a part of a quadword.
    #[inline(always)]
    pub fn part(&self, part: Part) -> u64 {
        self.get(part.quadword) >> part.shift & ((1 << part.bits) - 1)
    }

    /// Writes a part of a quadword; bits that do not fit are dropped.
    #[inline(always)]
    pub fn set_part(&self, part: Part, value: u64) {
        let mask = part.mask();
        self.set(part.quadword, self.get(part.quadword) & !mask | value << part.shift & mask);
    }
}

impl Default for Vmcb {
    fn default() -> Self {
        Self::new()
    }
}

macro_rules! fields {
    ($($offset:literal $name:ident;)*) => {$(
        #[doc = concat!("Offset ", stringify!($offset), ".")]
        pub const $name: Field = Field($offset);
    )*};
}

macro_rules! parts {
    ($($offset:literal $shift:literal $bits:literal $name:ident;)*) => {$(
        #[doc = concat!("Bits from ", stringify!($shift), " of the quadword at ", stringify!($offset), ".")]
        pub const $name: Part = Part { quadword: Field($offset), shift: $shift, bits: $bits };
    )*};
}

macro_rules! segments {
    ($($offset:literal $name:ident;)*) => {$(
        #[doc = concat!("Offset ", stringify!($offset), ".")]
        pub const $name: Segment = Segment($offset);
    )*};
}

// The control area (APM 2 table B-1).
parts! {
    0x000  0 16 INTERCEPT_CR_READ;
    0x000 16 16 INTERCEPT_CR_WRITE;
    0x000 32 16 INTERCEPT_DR_READ;
    0x000 48 16 INTERCEPT_DR_WRITE;
    0x008  0 32 INTERCEPT_EXCEPTION;
    0x008 32 32 INTERCEPT_0;
    0x010  0 32 INTERCEPT_1;
    0x010 32 32 INTERCEPT_2;
    0x038 32 16 PAUSE_FILTER_THRESHOLD;
    0x038 48 16 PAUSE_FILTER_COUNT;
    0x058  0 32 GUEST_ASID;
    0x058 32  8 TLB_CONTROL;
    0x060  0  8 V_TPR;
    0x068  0  1 INTERRUPT_SHADOW;
    0x090  0  1 NP_ENABLE;
}
fields! {
    0x008 INTERCEPTS;
    0x040 IOPM_BASE_PA;
    0x048 MSRPM_BASE_PA;
    0x050 TSC_OFFSET;
    0x058 ASID_AND_FLUSH;
    0x060 VIRTUAL_INTERRUPT;
    0x070 EXITCODE;
    0x078 EXITINFO1;
    0x080 EXITINFO2;
    0x088 EXITINTINFO;
    0x0a8 EVENTINJ;
    0x0b0 N_CR3;
    0x0c0 CLEAN;
    0x0c8 NRIP;
}

// The state-save area (APM 2 table B-2).
segments! {
    0x400 ES;
    0x410 CS;
    0x420 SS;
    0x430 DS;
    0x440 FS;
    0x450 GS;
    0x460 GDTR;
    0x470 LDTR;
    0x480 IDTR;
    0x490 TR;
}
parts! {
    0x4c8 24 8 CPL;
}
fields! {
    0x4d0 EFER;
    0x548 CR4;
    0x550 CR3;
    0x558 CR0;
    0x560 DR7;
    0x568 DR6;
    0x570 RFLAGS;
    0x578 RIP;
    0x5d8 RSP;
    0x5f8 RAX;
    0x600 STAR;
    0x608 LSTAR;
    0x610 CSTAR;
    0x618 SFMASK;
    0x620 KERNEL_GS_BASE;
    0x628 SYSENTER_CS;
    0x630 SYSENTER_ESP;
    0x638 SYSENTER_EIP;
    0x640 CR2;
    0x668 G_PAT;
}

/// The offset of RAX, for the entry stub.
pub const RAX_OFFSET: usize = RAX.0 as usize;
/// The offset of the clean bits, for the entry stub.
pub const CLEAN_OFFSET: usize = CLEAN.0 as usize;
/// The offset of TLB_CONTROL, a byte, for the entry stub.
pub const TLB_CONTROL_OFFSET: usize = ASID_AND_FLUSH.0 as usize + TLB_CONTROL.shift as usize / 8;
const _: () = assert!(TLB_CONTROL.bits == 8);

/// Attributes of CS (APM 2 15.5.1): 64-bit mode.
pub const ATTRIBUTE_LONG: u64 = 1 << 9;
/// Attributes of CS: operands of 32 bits outside of 64-bit mode.
pub const ATTRIBUTE_DEFAULT_BIG: u64 = 1 << 10;

/// [`VIRTUAL_INTERRUPT`]: V_IRQ, a virtual interrupt is pending.
pub const V_IRQ: u64 = 1 << 8;
/// [`VIRTUAL_INTERRUPT`]: of the highest priority, whatever V_TPR is: V_INTR_PRIO, V_IGN_TPR.
pub const V_IRQ_ANYHOW: u64 = 0xf << 16 | 1 << 20;
/// [`VIRTUAL_INTERRUPT`]: V_INTR_MASKING, by which RFLAGS.IF of the guest does not hold back physical interrupts.
pub const V_INTR_MASKING: u64 = 1 << 24;
/// [`VIRTUAL_INTERRUPT`]: V_INTR_VECTOR. If VINTR is intercepted any vector does: it never arrives.
pub const V_INTR_VECTOR: u64 = 0xff << V_INTR_VECTOR_SHIFT;
/// [`VIRTUAL_INTERRUPT`]: the lowest bit of V_INTR_VECTOR.
pub const V_INTR_VECTOR_SHIFT: u32 = 32;

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use core::cell::RefCell;

    std::thread_local! {
        /// Fields that this thread has written, of any block.
        pub(in crate::svm) static WRITTEN: RefCell<Vec<Field>> = const { RefCell::new(Vec::new()) };
    }

    impl Field {
        /// The field's name, if an exit writes it.
        pub(in crate::svm) fn name(self) -> &'static str {
            match self.0 {
                0x008 => "intercepts",
                0x050 => "TSC offset",
                0x058 => "ASID, TLB control",
                0x060 => "virtual interrupt",
                0x068 => "interrupt shadow",
                0x0a8 => "EVENTINJ",
                0x0c8 => "NRIP",
                0x548 => "CR4",
                0x550 => "CR3",
                0x558 => "CR0",
                0x560 => "DR7",
                0x568 => "DR6",
                0x578 => "RIP",
                0x5d8 => "RSP",
                0x5f8 => "RAX",
                0x640 => "CR2",
                _ => "another",
            }
        }
    }

    impl Vmcb {
        /// The stub's work behind an entry.
        pub(in crate::svm) fn entered(&self) {
            self.0[CLEAN_OFFSET / 8].set(ALL_CLEAN.into());
            let quadword = &self.0[TLB_CONTROL_OFFSET / 8];
            quadword.set(quadword.get() & !TLB_CONTROL.mask());
        }

        /// Every quadword of the block.
        pub(in crate::svm) fn snapshot(&self) -> Vec<u64> {
            self.0.iter().map(|quadword| quadword.get()).collect()
        }

        /// The first quadword that a processor would keep although it has changed since `entered`, the block as an entry found it
        /// or an exit left it.
        pub(in crate::svm) fn wrongly_clean(&self, entered: &[u64]) -> Option<Field> {
            let clean = self.get(CLEAN) as u32;
            let fields = (0..512).map(|at| Field(8 * at));
            fields
                .zip(entered)
                .find(|&(field, &old)| self.get(field) != old && Group::mask_of(field) & clean != 0)
                .map(|(field, _)| field)
        }
    }

    #[test]
    fn what_is_written_is_not_clean() {
        let vmcb = Vmcb::new();
        vmcb.entered();
        let entered = vmcb.snapshot();
        for field in [RIP, RSP, RAX, RFLAGS, EVENTINJ, NRIP, FS.base(), TR.base(), LDTR.base(), KERNEL_GS_BASE] {
            vmcb.set(field, 1);
        }
        vmcb.set_part(INTERRUPT_SHADOW, 1);
        assert_eq!((vmcb.get(CLEAN) as u32, vmcb.wrongly_clean(&entered)), (ALL_CLEAN, None));
        for (bit, field) in [
            (0, TSC_OFFSET),
            (1, MSRPM_BASE_PA),
            (3, VIRTUAL_INTERRUPT),
            (4, N_CR3),
            (4, G_PAT),
            (5, CR0),
            (5, CR3),
            (5, CR4),
            (5, EFER),
            (6, DR6),
            (6, DR7),
            (7, GDTR.base()),
            (7, IDTR.base()),
            (8, ES.base()),
            (8, DS.base()),
            (9, CR2),
        ] {
            vmcb.entered();
            vmcb.set(field, 1);
            assert_eq!(vmcb.get(CLEAN) as u32, ALL_CLEAN & !(1 << bit), "{field:?}");
        }
        for (bit, part) in [
            (0, INTERCEPT_CR_READ),
            (0, INTERCEPT_2),
            (0, PAUSE_FILTER_COUNT),
            (2, GUEST_ASID),
            (4, NP_ENABLE),
            (8, CPL),
            (8, CS.selector()),
        ] {
            vmcb.entered();
            vmcb.set_part(part, 1);
            assert_eq!(vmcb.get(CLEAN) as u32, ALL_CLEAN & !(1 << bit), "{part:?}");
        }
        vmcb.entered();
        vmcb.mark_group(PERMISSION_MAPS);
        assert_eq!(vmcb.get(CLEAN) as u32, ALL_CLEAN & !2);
        vmcb.entered();
        let entered = vmcb.snapshot();
        vmcb.0[CR0.0 as usize / 8].set(8);
        assert_eq!(vmcb.wrongly_clean(&entered), Some(CR0), "behind the back of `set`");
    }

    #[test]
    fn parts_keep_their_neighbours() {
        let vmcb = Vmcb::new();
        vmcb.set_part(GUEST_ASID, 7);
        vmcb.set_part(TLB_CONTROL, 0x1ff);
        assert_eq!((vmcb.part(GUEST_ASID), vmcb.part(TLB_CONTROL)), (7, 0xff));
        vmcb.set_part(CS.limit(), 0xffff_ffff);
        vmcb.set_part(CS.selector(), 8);
        vmcb.set_part(CS.attributes(), 0xa9b);
        assert_eq!(vmcb.get(Field(0x410)), 0xffff_ffff_0a9b_0008);
        vmcb.set_part(CPL, 3);
        assert_eq!(vmcb.get(Field(0x4c8)), 3 << 24);
    }
}
