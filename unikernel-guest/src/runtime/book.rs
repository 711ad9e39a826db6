//! The guest's own book: how many exits of each reason it has provoked, written before each is provoked.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tollgate_abi::exit_reason::{ExitReason, ROWS};

/// Exits by ledger row.
pub(crate) type Tally = [u64; ROWS];

static TALLY: [AtomicU64; ROWS] = [const { AtomicU64::new(0) }; ROWS];

/// Books one exit that the next instruction provokes.
#[inline(always)]
pub(crate) fn book(reason: ExitReason) {
    book_times(reason, 1);
}

/// Books the exits of a loop at once.
#[inline(always)]
pub(crate) fn book_times(reason: ExitReason, times: u64) {
    let row = &TALLY[reason.ledger_row()];
    // Not one atomic addition, which would cost a locked access: there is one vCPU, and trap handlers book nothing.
    row.store(row.load(Relaxed).wrapping_add(times), Relaxed);
}

/// Exits booked for `reason` since the start.
pub(crate) fn booked(reason: ExitReason) -> u64 {
    TALLY[reason.ledger_row()].load(Relaxed)
}

/// All exits booked since the start.
pub(crate) fn total() -> u64 {
    TALLY.iter().map(|row| row.load(Relaxed)).fold(0, u64::wrapping_add)
}

/// The whole tally.
pub(crate) fn tally() -> Tally {
    core::array::from_fn(|row| TALLY[row].load(Relaxed))
}

/// What was booked since `start` was taken.
pub(crate) fn tally_since(start: &Tally) -> Tally {
    let now = tally();
    core::array::from_fn(|row| now[row].wrapping_sub(start[row]))
}
