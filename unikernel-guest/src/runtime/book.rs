//! The guest's own book: how many exits of each reason it has provoked, written before each is provoked. Each vCPU keeps a
//! tally; the book is their sum.

use core::sync::atomic::Ordering::Relaxed;

use tollgate_abi::exit_reason::{ExitReason, ROWS};

use super::cpu;

/// Exits by ledger row.
pub(crate) type Tally = [u64; ROWS];

/// Books one exit that the next instruction provokes.
#[inline(always)]
pub(crate) fn book(reason: ExitReason) {
    book_times(reason, 1);
}

/// Books the exits of a loop at once.
#[inline(always)]
pub(crate) fn book_times(reason: ExitReason, times: u64) {
    let row = &cpu::this().tally[reason.ledger_row()];
    // Not one atomic addition, which would cost a locked access: this vCPU alone writes its tally, and interrupts, which
    // book, are off but where one is waited for.
    row.store(row.load(Relaxed).wrapping_add(times), Relaxed);
}

fn row(row: usize) -> u64 {
    cpu::all().iter().map(|cpu| cpu.tally[row].load(Relaxed)).fold(0, u64::wrapping_add)
}

/// Exits booked for `reason` since the start.
pub(crate) fn booked(reason: ExitReason) -> u64 {
    row(reason.ledger_row())
}

/// All exits booked since the start.
pub(crate) fn total() -> u64 {
    tally().into_iter().fold(0, u64::wrapping_add)
}

/// The whole tally.
pub(crate) fn tally() -> Tally {
    core::array::from_fn(row)
}

/// What was booked since `start` was taken.
pub(crate) fn tally_since(start: &Tally) -> Tally {
    let now = tally();
    core::array::from_fn(|row| now[row].wrapping_sub(start[row]))
}
