//! The board of the run, and the roll of the processors besides the first: the number that have come up, and of those that have
//! gone.

use core::sync::atomic::{AtomicUsize, Ordering};

use vmm_core::board::Board;

/// The state that the vCPUs share.
pub(crate) static BOARD: Board = Board::new();

static CAME: AtomicUsize = AtomicUsize::new(0);
static WENT: AtomicUsize = AtomicUsize::new(0);

/// Notes that a processor besides the first has come up.
pub(crate) fn comes() {
    CAME.fetch_add(1, Ordering::AcqRel);
}

/// Notes that a processor besides the first has nothing left to do for the monitor.
pub(crate) fn leaves() {
    WENT.fetch_add(1, Ordering::AcqRel);
}

/// Whether any processor besides the first has come up.
pub(crate) fn have_come() -> bool {
    CAME.load(Ordering::Acquire) > 0
}

/// The number of processors besides the first that have come up and not gone.
pub(crate) fn left() -> usize {
    CAME.load(Ordering::Acquire) - WENT.load(Ordering::Acquire)
}
