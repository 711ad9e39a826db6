//! The state of a processor that belongs to firmware: kept before the monitor takes the processor, put back afterwards.
//!
//! It is everything that the monitor changes for itself (descriptor tables, segments, control registers) and everything that a VM
//! exit loads (SDM 3C 28.5). It is also the state that a guest or a scenario changes and the monitor does not save: debug
//! registers, XCR0, the MSRs of [`KEPT`], and x87 and SSE state. The image has no other instructions for x87 and SSE state than
//! these. CR3 is firmware's throughout.
#![expect(unsafe_code, reason = "reads and writes the registers of the processor")]

use core::arch::asm;

use tollgate_abi::leaves::Answer;
use tollgate_abi::x86::cpuid::ecx_1;
use tollgate_abi::x86::segment::SELECTOR_OFFSET;
use vmm_core::kept_msrs::KEPT;
use x86_64::instructions::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use x86_64::instructions::tables::{lgdt, lidt, load_tss, sgdt, sidt};
use x86_64::registers::control::{Cr0, Cr4, Cr4Flags};
use x86_64::registers::model_specific::{Efer, Msr};
use x86_64::registers::rflags;
use x86_64::registers::segmentation::SegmentSelector;
use x86_64::structures::DescriptorTablePointer;

/// The area that FXSAVE64 writes.
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
    /// The values of [`KEPT`], as far as the processor has them.
    msrs: [Option<u64>; KEPT.len()],
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
            // SAFETY: this processor has the MSR; reading it changes nothing.
            msrs: KEPT.map(|kept| kept.is_there(cpuid).then(|| unsafe { Msr::new(kept.msr).read() })),
            debug,
            interrupts,
        }
    }

    /// Puts it back, interrupts last.
    ///
    /// # Safety
    /// It is this processor's, CR3 is the same as then, and no later code counts on the monitor's tables.
    #[inline(never)]
    pub(crate) unsafe fn put_back(&self) {
        let [cs, ss, ds, es, fs, gs] = self.segments;
        // SAFETY: the caller's contract: these are firmware's own values, in an order in which each finds what it needs. The
        // selectors are of the table that is loaded first; the bases of FS and GS come after the selectors, which set them; XCR0
        // is written while CR4.OSXSAVE is still set, which it is where `xcr0` found XSAVE.
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
            for (kept, value) in KEPT.iter().zip(self.msrs) {
                if let Some(value) = value {
                    Msr::new(kept.msr).write(value);
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

    /// Loads firmware's task register. Firmware without a task keeps the monitor's, whose segment stays in memory: the register
    /// can't be emptied.
    ///
    /// # Safety
    /// The global descriptor table is the one that was kept.
    unsafe fn load_task_register(&self) {
        /// Bit 1 of a TSS descriptor's type: LTR demands that it be clear, and sets it.
        const BUSY: u64 = 1 << 41;
        if self.tr != 0 {
            let descriptor = (self.gdt.base + u64::from(self.tr & SELECTOR_OFFSET)).as_mut_ptr::<u64>();
            // SAFETY: the selector was in the register, hence is that of a TSS in the table.
            unsafe {
                descriptor.write_volatile(descriptor.read_volatile() & !BUSY);
                load_tss(SegmentSelector(self.tr));
            }
        }
    }
}

fn cpuid(leaf: u32, sub_leaf: u32) -> Answer {
    let result = core::arch::x86_64::__cpuid_count(leaf, sub_leaf);
    Answer { eax: result.eax, ebx: result.ebx, ecx: result.ecx, edx: result.edx }
}

/// XCR0, if the processor has XSAVE. Firmware need not have enabled XSAVE; it is enabled while XCR0 is read.
fn xcr0() -> Option<u64> {
    if cpuid(1, 0).ecx & ecx_1::XSAVE == 0 {
        return None;
    }
    let cr4 = Cr4::read_raw();
    let (low, high): (u32, u32);
    // SAFETY: the processor has XSAVE, hence the bit of CR4, which only allows the instruction; CR4 is put back.
    unsafe {
        Cr4::write_raw(cr4 | Cr4Flags::OSXSAVE.bits());
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
        Cr4::write_raw(cr4);
    }
    Some(u64::from(high) << 32 | u64::from(low))
}
