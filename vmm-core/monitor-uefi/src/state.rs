//! The state of a processor that belongs to firmware: kept before the monitor takes the processor, put back afterwards.
//!
//! All that the monitor changes for itself (descriptor tables, segments, control registers), that a VM exit loads (SDM 3C
//! 28.5) and that a guest leaves behind because the monitor saves none of it: debug registers, XCR0, the MSRs of SYSCALL,
//! x87 and SSE state, for which these are the only instructions in the image. CR3 is firmware's throughout.
#![expect(unsafe_code, reason = "reads and writes the registers of the processor")]

use core::arch::asm;

use x86_64::instructions::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use x86_64::instructions::tables::{lgdt, lidt, load_tss, sgdt, sidt};
use x86_64::registers::control::{Cr0, Cr4, Cr4Flags};
use x86_64::registers::model_specific::{Efer, Msr};
use x86_64::registers::rflags;
use x86_64::registers::segmentation::SegmentSelector;
use x86_64::structures::DescriptorTablePointer;

/// IA32_SYSENTER_CS, ESP and EIP, IA32_PAT; STAR, LSTAR, CSTAR, FMASK; the bases of FS, GS and the other GS.
const MSRS: [u32; 11] = [
    0x174,
    0x175,
    0x176,
    0x277,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0100,
    0xc000_0101,
    0xc000_0102,
];
const CPUID_1_ECX_XSAVE: u32 = 1 << 26;

/// MSRs that not every processor has, each with the CPUID leaf, subleaf, register (EAX to EDX) and bits of which one says that there
/// is one: IA32_DEBUGCTL, which a VM exit clears, by the debug store that it enables; IA32_TSC_AUX, by RDTSCP; IA32_S_CET, by shadow stacks or indirect-branch
/// tracking; IA32_XSS, by XSAVES.
const MSRS_BY_CPUID: [(u32, [u32; 3], u32); 5] = [
    (0x1d9, [1, 0, 3], 1 << 21),
    (0xc000_0103, [0x8000_0001, 0, 3], 1 << 27),
    (0x6a2, [7, 0, 2], 1 << 7),
    (0x6a2, [7, 0, 3], 1 << 20),
    (0xda0, [0xd, 1, 0], 1 << 3),
];

/// Whether CPUID shows one of these bits.
fn shows([leaf, subleaf, register]: [u32; 3], bits: u32) -> bool {
    use core::arch::x86_64::{__cpuid, __cpuid_count};
    if __cpuid(leaf & 0x8000_0000).eax < leaf {
        return false;
    }
    let answer = __cpuid_count(leaf, subleaf);
    [answer.eax, answer.ebx, answer.ecx, answer.edx][register as usize] & bits != 0
}

/// What FXSAVE64 writes.
#[repr(C, align(16))]
struct VectorState([u8; 512]);

/// A processor's state.
pub(crate) struct State {
    vectors: VectorState,
    gdt: DescriptorTablePointer,
    idt: DescriptorTablePointer,
    /// CS, SS, DS, ES, FS, GS.
    segments: [SegmentSelector; 6],
    tr: u16,
    ldtr: u16,
    cr0: u64,
    cr4: u64,
    efer: u64,
    xcr0: Option<u64>,
    msrs: [u64; MSRS.len()],
    more_msrs: [Option<u64>; MSRS_BY_CPUID.len()],
    /// DR0 to DR3, DR6, DR7.
    debug: [u64; 6],
    interrupts: bool,
}

impl State {
    /// Keeps this processor's state, and disables interrupts.
    #[inline(never)]
    pub(crate) fn keep() -> Self {
        let interrupts = rflags::read().contains(rflags::RFlags::INTERRUPT_FLAG);
        x86_64::instructions::interrupts::disable();
        let mut vectors = VectorState([0; 512]);
        let (tr, ldtr): (u16, u16);
        let mut debug = [0; 6];
        // SAFETY: each only reads the processor's registers; FXSAVE64 writes its 512 bytes, which are aligned.
        unsafe {
            asm!("fxsave64 [{}]", in(reg) &raw mut vectors, options(nostack, preserves_flags));
            asm!("str {:x}", "sldt {:x}", out(reg) tr, out(reg) ldtr, options(nomem, nostack, preserves_flags));
            asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3", "mov {}, dr6", "mov {}, dr7",
                out(reg) debug[0], out(reg) debug[1], out(reg) debug[2], out(reg) debug[3], out(reg) debug[4],
                out(reg) debug[5], options(nomem, nostack, preserves_flags));
        }
        let segments = [CS::get_reg(), SS::get_reg(), DS::get_reg(), ES::get_reg(), FS::get_reg(), GS::get_reg()];
        Self {
            vectors,
            gdt: sgdt(),
            idt: sidt(),
            segments,
            tr,
            ldtr,
            cr0: Cr0::read_raw(),
            cr4: Cr4::read_raw(),
            efer: Efer::read_raw(),
            xcr0: xcr0(),
            // SAFETY: every processor with 64-bit mode has these MSRs; reading them changes nothing.
            msrs: MSRS.map(|msr| unsafe { Msr::new(msr).read() }),
            // SAFETY: CPUID shows that the processor has the MSR; reading it changes nothing.
            more_msrs: MSRS_BY_CPUID.map(|(msr, at, bits)| shows(at, bits).then(|| unsafe { Msr::new(msr).read() })),
            debug,
            interrupts,
        }
    }

    /// Puts it back, interrupts last.
    ///
    /// # Safety
    /// It is this processor's, CR3 is what it was, and nothing of what follows counts on the monitor's tables.
    #[inline(never)]
    pub(crate) unsafe fn put_back(&self) {
        let [cs, ss, ds, es, fs, gs] = self.segments;
        // SAFETY: the caller's contract: firmware's own values, in an order in which each finds what it needs. The selectors
        // are of the table that is loaded first; the bases of FS and GS come after the selectors, which set them; XCR0 is
        // written while CR4.OSXSAVE is still set, which it is where `xcr0` found XSAVE.
        unsafe {
            lgdt(&self.gdt);
            CS::set_reg(cs);
            SS::set_reg(ss);
            DS::set_reg(ds);
            ES::set_reg(es);
            FS::set_reg(fs);
            GS::set_reg(gs);
            asm!("lldt {:x}", in(reg) self.ldtr, options(nostack, preserves_flags));
            self.load_task_register();
            lidt(&self.idt);
            asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", "mov dr6, {}", "mov dr7, {}",
                in(reg) self.debug[0], in(reg) self.debug[1], in(reg) self.debug[2], in(reg) self.debug[3],
                in(reg) self.debug[4], in(reg) self.debug[5], options(nomem, nostack, preserves_flags));
            for (msr, value) in MSRS.into_iter().zip(self.msrs) {
                Msr::new(msr).write(value);
            }
            for ((msr, ..), value) in MSRS_BY_CPUID.into_iter().zip(self.more_msrs) {
                if let Some(value) = value {
                    Msr::new(msr).write(value);
                }
            }
            if let Some(xcr0) = self.xcr0 {
                Cr4::write_raw(Cr4::read_raw() | Cr4Flags::OSXSAVE.bits());
                asm!("xsetbv", in("ecx") 0, in("eax") xcr0 as u32, in("edx") (xcr0 >> 32) as u32, options(nomem, nostack));
            }
            Efer::write_raw(self.efer);
            Cr4::write_raw(self.cr4);
            Cr0::write_raw(self.cr0);
            asm!("fxrstor64 [{}]", in(reg) &raw const self.vectors, options(nostack, preserves_flags));
        }
        if self.interrupts {
            x86_64::instructions::interrupts::enable();
        }
    }

    /// Firmware that has no task keeps the monitor's, whose segment stays in memory: the register can't be emptied.
    ///
    /// # Safety
    /// The global descriptor table is the one that was kept.
    unsafe fn load_task_register(&self) {
        /// Bit 1 of a TSS descriptor's type: LTR demands that it be clear, and sets it.
        const BUSY: u64 = 1 << 41;
        if self.tr != 0 {
            let descriptor = (self.gdt.base + u64::from(self.tr & !7)).as_mut_ptr::<u64>();
            // SAFETY: the selector that was in the register, hence of a TSS in the table.
            unsafe {
                descriptor.write_volatile(descriptor.read_volatile() & !BUSY);
                load_tss(SegmentSelector(self.tr));
            }
        }
    }
}

/// XCR0, where there is XSAVE. Firmware need not have enabled that; it is, for the moment of the question.
fn xcr0() -> Option<u64> {
    if core::arch::x86_64::__cpuid(1).ecx & CPUID_1_ECX_XSAVE == 0 {
        return None;
    }
    let cr4 = Cr4::read_raw();
    let (low, high): (u32, u32);
    // SAFETY: the processor has XSAVE, hence the bit, which only allows the instruction; then CR4 is as it was.
    unsafe {
        Cr4::write_raw(cr4 | Cr4Flags::OSXSAVE.bits());
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
        Cr4::write_raw(cr4);
    }
    Some(u64::from(high) << 32 | u64::from(low))
}
