//! What scenarios do to the processor itself, and undo: IA32_XSS, IA32_S_CET, and NMIs that an NMI's exit leaves blocked.
#![expect(unsafe_code, reason = "writes MSRs and executes IRET")]

use x86_64::registers::model_specific::Msr;

const IA32_S_CET: u32 = 0x6a2;
const IA32_XSS: u32 = 0xda0;

/// Writes IA32_XSS, where the XSAVES control says that there is one.
pub(super) fn write_xss(value: u64) {
    // SAFETY: a scenario about XSAVES runs only where the control is allowed, hence the MSR exists; the monitor uses no
    // supervisor state.
    unsafe { Msr::new(IA32_XSS).write(value) };
}

/// Writes IA32_S_CET, which no control loads at an entry or exit: the guest has what the monitor has.
pub(super) fn write_s_cet(value: u64) {
    // SAFETY: a scenario about CET runs only where there is indirect-branch tracking, hence the MSR exists; CR4.CET is clear
    // in the monitor, so that the value means nothing there.
    unsafe { Msr::new(IA32_S_CET).write(value) };
}

/// Ends the blocking of NMIs (SDM 3A 6.7.1), which lasts from an exit for one to the next IRET (SDM 3C 28.1).
pub(super) fn unblock_nmis() {
    // SAFETY: IRETQ goes to the next instruction, with the stack, flags and segments that there are.
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
