//! The SVM instructions that the monitor executes; VMRUN of a vCPU is the stub's (APM 3, chapter 4).
//!
//! The precondition of an instruction is in a type: all of them need [`SvmOperation`].
#![expect(unsafe_code, reason = "executes SVM instructions")]

use core::arch::asm;
use core::marker::PhantomData;

use super::gates;
use super::vmcb::Vmcb;
#[cfg(test)]
use crate::host::registers::scripted;

/// Proof that this processor has EFER.SVME set and a host save area.
#[derive(Debug)]
pub struct SvmOperation {
    _not_send: PhantomData<*mut ()>,
}

impl SvmOperation {
    /// # Safety
    /// EFER.SVME is set on this processor, and VM_HSAVE_PA is the physical address of a page that nobody else uses from now on.
    /// The IDT's gates are without interrupt stacks, since TR is a guest's. The gates of interrupts are the [`gates`], which
    /// leave the vector in AL and RFLAGS.IF clear; the gate of NMIs returns with everything as it was.
    pub const unsafe fn new() -> Self {
        Self { _not_send: PhantomData }
    }

    /// VMSAVE: FS, GS, TR, LDTR and the MSRs that go with them, from the processor to the block.
    pub fn save(&self, vmcb: &Vmcb) {
        #[cfg(test)]
        if scripted::counts() {
            return;
        }
        // SAFETY: SVM is on, by `self`; the block is a page whose virtual address is its physical one, as for all of the
        // monitor's memory. Not `nomem`: VMSAVE writes to the block.
        unsafe { asm!("vmsave rax", in("rax") vmcb, options(nostack, preserves_flags)) };
    }

    /// VMLOAD, the inverse of VMSAVE. The monitor uses none of the state that it loads.
    pub fn load(&mut self, vmcb: &Vmcb) {
        #[cfg(test)]
        if scripted::counts() {
            return;
        }
        // SAFETY: as in `save`; the loaded state matters to the guest alone.
        unsafe { asm!("vmload rax", in("rax") vmcb, options(nostack, preserves_flags)) };
    }

    /// INVLPGA: drops the translation of one linear address of the guest with this ASID.
    pub fn invalidate_address(&mut self, linear: u64, asid: u32) {
        #[cfg(test)]
        if scripted::counts() {
            return;
        }
        // SAFETY: SVM is on; the instruction only drops a cached translation.
        unsafe { asm!("invlpga rax, ecx", in("rax") linear, in("ecx") asid, options(nostack, preserves_flags)) };
    }

    /// VMRUN of a guest whose block has everything that it needs, up to its first exit. Interrupts are off, RFLAGS.IF is clear in
    /// the guest, too, and its code changes no register but RAX.
    pub(super) fn run_once(&mut self, vmcb: &Vmcb) {
        // SAFETY: SVM is on, by `self`; the block's address is its physical one. By the caller, the guest's code is a probe's,
        // which ends with an intercepted instruction and writes no memory. VMRUN and its exit keep all of the monitor's state but
        // the global interrupt flag, which has its old value afterwards.
        unsafe { asm!("clgi", "vmrun rax", "stgi", in("rax") vmcb) };
    }

    /// Sets the global interrupt flag, with RFLAGS.IF clear, for a time in which SMIs and NMIs are to come through (APM 2 15.17);
    /// the next entry clears it again.
    pub(super) fn let_through(&mut self) {
        // SAFETY: maskable interrupts stay off; the gate of NMIs changes nothing, by `new`.
        unsafe { asm!("stgi", options(nostack, preserves_flags)) };
    }

    /// Takes the pending interrupt; 0 if there is none. The global interrupt flag is clear, as an exit leaves it; RFLAGS.IF is
    /// set afterwards.
    pub fn take_interrupt(&mut self) -> u8 {
        // SAFETY: SVM is on, and the IDT has the gates, by `new`. They clear RFLAGS.IF, so that at most one interrupt comes.
        unsafe { gates::let_in() as u8 }
    }

    /// Takes the pending NMI, if there is one.
    pub fn take_nmi(&mut self) {
        // SAFETY: the gate of NMIs changes nothing, by `new`; interrupts are held back meanwhile.
        unsafe { asm!("cli", "stgi", "nop", "clgi", "sti") };
    }
}
