//! First touches of pages.
#![expect(unsafe_code, reason = "executes what it times")]

use tollgate_abi::exit_reason::ExitReason as R;
use tollgate_abi::machine::PAGE_BYTES;

use super::super::memory::RET;
use super::FAILED;
use super::timed::timed;
use crate::books::book::{book, book_times};
use crate::runtime::fresh;

pub(super) fn ept_violation_write() -> u32 {
    fresh_page().map_or(FAILED, |page| timed!("mov [{page}], {page}", page = in(reg) page))
}

pub(super) fn ept_violation_read() -> u32 {
    fresh_page().map_or(FAILED, |page| timed!("mov rax, [{page}]", page = in(reg) page))
}

/// The first fetch, from the last two bytes of a page that run into the RET of the next.
pub(super) fn ept_violation_fetch() -> u32 {
    let Some(fetched) = fresh::take(2) else { return FAILED };
    book_times(R::EPT_VIOLATION, 2);
    let mut sum = 1u64;
    // SAFETY: `fresh` handed the pages out to nobody else, and the identity map covers them.
    unsafe {
        ((fetched + PAGE_BYTES) as *mut u8).write_volatile(RET);
    }
    // Bytes of zero are `add [rax], al`, two bytes long; RAX points at `sum`.
    timed!("mov rax, r9\n call {code}", code = in(reg) fetched + PAGE_BYTES - 2, in("r9") &raw mut sum)
}

/// A page that nobody has touched, whose first touch is booked.
fn fresh_page() -> Option<u64> {
    book(R::EPT_VIOLATION);
    fresh::take(1)
}
