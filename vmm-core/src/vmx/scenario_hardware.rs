//! What scenarios do to the processor itself, and undo: IA32_XSS, IA32_S_CET, IA32_USER_MSR_CTL, and NMIs that an NMI's exit
//! leaves blocked.
#![expect(unsafe_code, reason = "writes MSRs and executes IRET")]

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use x86_64::registers::model_specific::Msr;

const IA32_USER_MSR_CTL: u32 = 0x1c;
const IA32_S_CET: u32 = 0x6a2;
const IA32_XSS: u32 = 0xda0;

/// The first state component that IA32_XSS can have (CPUID.(EAX=0DH,ECX=1):ECX), as its bit; 0 if there is none. Which it is depends
/// on the processor; a bit that it lacks raises #GP.
pub(super) fn supervisor_component() -> u64 {
    let leaves = core::arch::x86_64::__cpuid(0).eax;
    let components = if leaves >= 0xd { core::arch::x86_64::__cpuid_count(0xd, 1).ecx } else { 0 };
    u64::from(components & components.wrapping_neg())
}

/// Writes IA32_XSS, where the XSAVES control says that there is one, with a component of [`supervisor_component`].
pub(super) fn write_xss(value: u64) {
    // SAFETY: a scenario about XSAVES runs only where the control is allowed and CPUID shows such a component, hence the MSR exists
    // and takes it; the monitor uses no supervisor state.
    unsafe { Msr::new(IA32_XSS).write(value) };
}

/// IA32_S_CET as it was before a scenario. One runs at a time, on the first processor.
static KEPT_S_CET: AtomicU64 = AtomicU64::new(0);

/// Writes IA32_S_CET, which no control loads at an entry or exit: the guest has what the monitor has.
pub(super) fn write_s_cet(value: u64) {
    let mut msr = Msr::new(IA32_S_CET);
    // SAFETY: a scenario about CET runs only where there is indirect-branch tracking, hence the MSR exists; CR4.CET is clear
    // in the monitor, so that the value means nothing there.
    unsafe {
        KEPT_S_CET.store(msr.read(), Relaxed);
        msr.write(value);
    }
}

/// Puts back what [`write_s_cet`] has replaced.
pub(super) fn restore_s_cet() {
    // SAFETY: as there; the value was read from the MSR.
    unsafe { Msr::new(IA32_S_CET).write(KEPT_S_CET.load(Relaxed)) };
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
