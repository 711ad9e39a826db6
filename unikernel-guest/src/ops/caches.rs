//! INVD, WBINVD, INVLPG.
#![expect(unsafe_code, reason = "executes cache and TLB instructions")]

use core::arch::asm;

use tollgate_abi::exit_reason::ExitReason;

use crate::books::intercepts::book_if_enabled;

/// INVD, then WBINVD, `times` times.
pub(crate) fn invd_wbinvd_times(times: u64) {
    book_if_enabled(ExitReason::INVD, times);
    book_if_enabled(ExitReason::WBINVD, times);
    // SAFETY: INVD always exits, and a monitor that would throw away dirty lines would lose its own.
    unsafe { asm!("2:", "invd", "wbinvd", "dec {times}", "jnz 2b", times = inout(reg) times => _, options(nostack)) };
}

/// INVLPG of one page, `times` times.
pub(crate) fn invlpg_times(address: u64, times: u64) {
    book_if_enabled(ExitReason::INVLPG, times);
    // SAFETY: the translation is fetched again from the page tables, which did not change.
    unsafe {
        asm!("2:", "invlpg [{address}]", "dec {times}", "jnz 2b", address = in(reg) address, times = inout(reg) times => _, options(nostack));
    }
}
