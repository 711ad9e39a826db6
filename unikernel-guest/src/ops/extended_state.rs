//! XSETBV.
#![expect(unsafe_code, reason = "writes an extended control register")]

use core::arch::asm;

use tollgate_abi::exit_reason::ExitReason;
use tollgate_abi::x86::exception;

use crate::books::book::book;
use crate::books::intercepts::{book_exception, facts};
use crate::books::recovery::{Trap, attempt};

/// XSETBV.
///
/// # Safety
/// CR4.OSXSAVE is set and the processor supports every bit of `value`.
pub(crate) unsafe fn xsetbv(register: u32, value: u64) {
    if !facts().runs(ExitReason::XSETBV) {
        book(ExitReason::XSETBV);
    }
    // SAFETY: by the caller, CR4.OSXSAVE is set and the processor supports every bit.
    unsafe {
        asm!("xsetbv", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nomem, nostack, preserves_flags));
    }
}

/// XSETBV on a processor without XSAVE, where CR4.OSXSAVE is clear.
pub(crate) fn xsetbv_without_xsave() -> Result<(), Trap> {
    book_exception(exception::UD);
    // SAFETY: #UD comes before anything is written, and is expected.
    unsafe { attempt!("xsetbv", in("ecx") 0, in("eax") 1, in("edx") 0) }
}
