//! RDTSC, RDTSCP, RDPMC.
#![expect(unsafe_code, reason = "reads counters")]

use core::arch::asm;

use tollgate_abi::exit_reason::ExitReason;

use crate::books::intercepts::{book_if_enabled, book_or_invalid_opcode};
use crate::books::recovery::{Trap, attempt};

/// RDTSC.
#[inline]
pub(crate) fn rdtsc() -> u64 {
    let (low, high): (u64, u64);
    book_if_enabled(ExitReason::RDTSC, 1);
    // SAFETY: RDTSC writes RAX and RDX alone; CR4.TSD does not matter at CPL 0.
    unsafe {
        asm!("rdtsc", inout("rax") u64::MAX => low, inout("rdx") u64::MAX => high, options(nomem, nostack, preserves_flags))
    };
    // The upper halves must have become zero, or the result is no time.
    high << 32 | low
}

/// RDTSCP: the time and IA32_TSC_AUX. #UD where the processor lacks it.
pub(crate) fn rdtscp() -> Result<(u64, u32), Trap> {
    let (low, high, aux): (u64, u64, u32);
    book_or_invalid_opcode(ExitReason::RDTSCP);
    // SAFETY: RDTSCP writes RAX, RCX and RDX alone, and the exception is expected.
    unsafe { attempt!("rdtscp", inout("rax") u64::MAX => low, inout("rdx") u64::MAX => high, out("ecx") aux) }?;
    Ok((high << 32 | low, aux))
}

/// RDPMC that should be refused.
pub(crate) fn try_rdpmc(counter: u32) -> Result<(), Trap> {
    book_if_enabled(ExitReason::RDPMC, 1);
    // SAFETY: reading a counter changes nothing else, and the exception is expected.
    unsafe { attempt!("rdpmc", in("ecx") counter, out("eax") _, out("edx") _) }
}
