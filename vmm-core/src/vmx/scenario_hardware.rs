//! The changes that scenarios make to the processor itself, and undo: IA32_XSS, IA32_S_CET, IA32_USER_MSR_CTL, and the blocking
//! of NMIs after an NMI's exit.
//! leaves blocked.
#![expect(unsafe_code, reason = "writes MSRs and executes IRET")]

use tollgate_abi::x86::msr::{IA32_S_CET, IA32_USER_MSR_CTL, IA32_XSS};
use x86_64::registers::model_specific::Msr;

/// Writes IA32_XSS, if the XSAVES control says that it exists; returns its old value.
pub(super) fn change_xss(value: u64) -> u64 {
    // SAFETY: a scenario about XSAVES runs only where the control is allowed, hence the MSR exists. The value is the old one or a
    // component that the processor takes; the monitor uses no supervisor state.
    unsafe { exchange(IA32_XSS, value) }
}

/// Writes IA32_S_CET, which no control loads at an entry or exit, so that guest and monitor share its value. Returns the old
/// value.
pub(super) fn change_s_cet(value: u64) -> u64 {
    // SAFETY: a scenario about CET runs only where there is indirect-branch tracking, hence the MSR exists, and CR4.CET is clear
    // in the monitor, so that the value means nothing there.
    unsafe { exchange(IA32_S_CET, value) }
}

/// Writes an MSR; returns its old value.
///
/// # Safety
/// The MSR exists, takes the value, and nothing of the monitor depends on it.
unsafe fn exchange(msr: u32, value: u64) -> u64 {
    let mut msr = Msr::new(msr);
    // SAFETY: the caller's contract.
    unsafe {
        let old = msr.read();
        msr.write(value);
        old
    }
}

/// IA32_USER_MSR_CTL: URDMSR and UWRMSR are enabled. Bits 63:12 are the linear address of their bitmap.
pub(super) const USER_MSR_ENABLED: u64 = 1;

/// Writes IA32_USER_MSR_CTL, which no control loads at an entry or exit.
pub(super) fn write_user_msr_ctl(value: u64) {
    // SAFETY: a scenario about URDMSR and UWRMSR runs only where CPUID shows them, hence the MSR exists; the monitor uses
    // neither.
    unsafe { Msr::new(IA32_USER_MSR_CTL).write(value) };
}

/// Ends the blocking of NMIs (SDM 3A 6.7.1), which lasts from an exit for one to the next IRET (SDM 3C 28.1).
pub(super) fn unblock_nmis() {
    // SAFETY: IRETQ goes to the next instruction, with the present stack, flags and segments.
    unsafe {
        core::arch::asm!(
            "mov {at}, rsp",
            "mov {word:e}, ss",
            "push {word}",
            "push {at}",
            "pushfq",
            "mov {word:e}, cs",
            "push {word}",
            "lea {word}, [rip + 2f]",
            "push {word}",
            "iretq",
            "2:",
            at = out(reg) _,
            word = out(reg) _,
        );
    }
}
