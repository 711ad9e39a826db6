//! RDMSR and WRMSR. The registers of the local APIC are in [`apic`](super::apic).
#![expect(unsafe_code, reason = "executes RDMSR and WRMSR")]

use core::arch::asm;

use tollgate_abi::exit_reason::ExitReason;
use tollgate_abi::x86::msr::{IA32_SYSENTER_ESP, IA32_TIME_STAMP_COUNTER, IA32_TSC_ADJUST};

use crate::books::book::{book, book_times};
use crate::books::intercepts::current;
use crate::books::recovery::{Trap, attempt};

/// An MSR that nothing in 64-bit mode on one privilege level uses.
pub(crate) const SYSENTER_ESP: u32 = IA32_SYSENTER_ESP;

fn book_access(reason: ExitReason, msr: u32) {
    if current().msr_exits(msr) {
        book(reason);
    }
}

/// RDMSR, `times` times; returns the last RDX and RAX.
pub(crate) fn rdmsr_times(msr: u32, times: u64) -> (u64, u64) {
    let (high, low): (u64, u64);
    if current().msr_exits(msr) {
        book_times(ExitReason::RDMSR, times);
    }
    // SAFETY: reading an MSR changes nothing else; one that is refused raises #GP, which ends the guest.
    unsafe {
        asm!(
            "2:",
            "rdmsr",
            "dec {times}",
            "jnz 2b",
            times = inout(reg) times => _,
            in("ecx") msr,
            // RDMSR clears the upper halves; an emulation must, too.
            inout("rax") u64::MAX => low,
            inout("rdx") u64::MAX => high,
            options(nomem, nostack),
        );
    }
    (high, low)
}

/// Sets the ticks by which the TSC is ahead. Times on this vCPU compare only if both are taken before this, or after it is set
/// back.
pub(crate) fn adjust_tsc(ticks: u64) {
    set_clock(IA32_TSC_ADJUST, ticks);
}

/// Sets the TSC itself, and with it the ticks by which it is ahead. The rule of [`adjust_tsc`] holds.
pub(crate) fn set_tsc(tsc: u64) {
    set_clock(IA32_TIME_STAMP_COUNTER, tsc);
}

fn set_clock(msr: u32, value: u64) {
    book_access(ExitReason::WRMSR, msr);
    // SAFETY: it changes the value that RDTSC reads and the time of a TSC deadline; no memory depends on either. Not `nomem`: an
    // interrupt's handler may come in between.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack));
    }
}

/// RDMSR that may be refused.
pub(crate) fn try_rdmsr(msr: u32) -> Result<(), Trap> {
    book_access(ExitReason::RDMSR, msr);
    // SAFETY: reading an MSR changes nothing else, and the exception is expected.
    unsafe { attempt!("rdmsr", in("ecx") msr, out("eax") _, out("edx") _) }
}

/// WRMSR that should be refused.
///
/// # Safety
/// Whatever `value` does in the MSR, the guest can live with.
pub(crate) unsafe fn try_wrmsr(msr: u32, value: u64) -> Result<(), Trap> {
    book_access(ExitReason::WRMSR, msr);
    // SAFETY: by the caller, the guest can live with the value; the exception is expected.
    unsafe { attempt!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32) }
}

/// WRMSR of `high` and a count from `times` down to 1 to IA32_SYSENTER_ESP.
pub(crate) fn wrmsr_sysenter_esp_times(high: u32, times: u64) {
    if current().msr_exits(SYSENTER_ESP) {
        book_times(ExitReason::WRMSR, times);
    }
    // SAFETY: nobody executes SYSENTER.
    unsafe {
        asm!("2:", "wrmsr", "dec rax", "jnz 2b", in("ecx") SYSENTER_ESP, in("edx") high, inout("rax") times => _, options(nomem, nostack));
    }
}
