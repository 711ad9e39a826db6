//! The board of the run, and the roll of the processors besides the first: how many have come to it, and how many of these have gone.

use core::sync::atomic::{AtomicUsize, Ordering};

use vmm_core::board::Board;

/// The state that the vCPUs share.
pub(crate) static BOARD: Board = Board::new();

static CAME: AtomicUsize = AtomicUsize::new(0);
static WENT: AtomicUsize = AtomicUsize::new(0);

/// Notes that one of the other processors has come up.
pub(crate) fn comes() {
    CAME.fetch_add(1, Ordering::AcqRel);
}

/// Notes that one of them has nothing left to do for the monitor.
pub(crate) fn leaves() {
    WENT.fetch_add(1, Ordering::AcqRel);
}

/// Whether any have come up.
pub(crate) fn have_come() -> bool {
    CAME.load(Ordering::Acquire) > 0
}

/// How many of them have not gone.
pub(crate) fn left() -> usize {
    CAME.load(Ordering::Acquire) - WENT.load(Ordering::Acquire)
}
