//! The virtual machine control block: fields with their place and width (APM 2 appendix B).
//!
//! The processor reads and writes the block at VMRUN and #VMEXIT only, at which no reference to a value in it is alive. Its
//! quadwords are atomics that are loaded and stored, relaxed: on x86 that is one plain instruction, and lets the monitor share
//! the page with the processor in safe code.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One block: a page.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Vmcb([AtomicU64; 512]);

const _: () = assert!(size_of::<Vmcb>() == 4096);

/// A 64-bit field, by its byte offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field(u16);

/// A field of up to 32 bits in a quadword.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    quadword: Field,
    shift: u8,
    bits: u8,
}

/// A segment register or descriptor-table register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment(u16);

impl Segment {
    /// The selector.
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

    /// The base.
    pub const fn base(self) -> Field {
        Field(self.0 + 8)
    }
}

impl Vmcb {
    /// All zero.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }

    /// Reads a field.
    #[inline(always)]
    pub fn get(&self, field: Field) -> u64 {
        self.0[field.0 as usize / 8].load(Relaxed)
    }

    /// Writes a field.
    #[inline(always)]
    pub fn set(&self, field: Field, value: u64) {
        self.0[field.0 as usize / 8].store(value, Relaxed);
    }

    /// Reads a part of a quadword.
    #[inline(always)]
    pub fn part(&self, part: Part) -> u64 {
        self.get(part.quadword) >> part.shift & ((1 << part.bits) - 1)
    }

    /// Writes a part of a quadword; what does not fit it is dropped.
    #[inline(always)]
    pub fn set_part(&self, part: Part, value: u64) {
        let mask = ((1u64 << part.bits) - 1) << part.shift;
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
    0x058  0 32 GUEST_ASID;
    0x058 32  8 TLB_CONTROL;
    0x068  0  1 INTERRUPT_SHADOW;
    0x090  0  1 NP_ENABLE;
}
fields! {
    0x040 IOPM_BASE_PA;
    0x048 MSRPM_BASE_PA;
    0x050 TSC_OFFSET;
    0x060 VIRTUAL_INTERRUPT;
    0x070 EXITCODE;
    0x078 EXITINFO1;
    0x080 EXITINFO2;
    0x088 EXITINTINFO;
    0x0a8 EVENTINJ;
    0x0b0 N_CR3;
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

/// Where RAX is, for the entry stub.
pub const RAX_OFFSET: usize = RAX.0 as usize;

/// [`VIRTUAL_INTERRUPT`]: V_IRQ, one that waits.
pub const V_IRQ: u64 = 1 << 8;
/// [`VIRTUAL_INTERRUPT`]: of the highest priority, whatever V_TPR is: V_INTR_PRIO, V_IGN_TPR.
pub const V_IRQ_ANYHOW: u64 = 0xf << 16 | 1 << 20;
/// [`VIRTUAL_INTERRUPT`]: V_INTR_MASKING, by which RFLAGS.IF of the guest does not hold back physical interrupts.
pub const V_INTR_MASKING: u64 = 1 << 24;
/// [`VIRTUAL_INTERRUPT`]: V_INTR_VECTOR. Where VINTR is intercepted any does: it never arrives.
pub const V_INTR_VECTOR: u64 = 0xff << V_INTR_VECTOR_SHIFT;
/// [`VIRTUAL_INTERRUPT`]: where V_INTR_VECTOR begins.
pub const V_INTR_VECTOR_SHIFT: u32 = 32;

/// EFER.SVME, without which VMRUN fails; the guest does not see it.
pub const EFER_SVME: u64 = 1 << 12;

#[cfg(test)]
mod tests {
    use super::*;

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
