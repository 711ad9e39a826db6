//! Waits for other processors. Each ends by itself after a time, since a processor may never come.

use vmm_core::board::Board;
use vmm_core::host::registers::tsc;

/// The time that passes while a processor waits.
pub(crate) trait Clock {
    /// The TSC.
    fn now(&self) -> u64;
    /// Passes the time until the next look.
    fn pass(&self) {
        core::hint::spin_loop();
    }
}

/// The time of this processor.
pub(crate) struct Tsc;

impl Clock for Tsc {
    fn now(&self) -> u64 {
        tsc()
    }
}

/// Waits as long as something is pending, but for `ticks` at the most, or for as long as processors may be away, if that is longer.
/// There are `least_looks` looks at the least, however long one takes.
pub(crate) fn wait_while(
    board: &Board,
    clock: &impl Clock,
    ticks: u64,
    least_looks: u32,
    is_pending: impl Fn() -> bool,
) {
    let (start, mut looks) = (clock.now(), 0u32);
    while is_pending() && (looks < least_looks || clock.now().wrapping_sub(start) < board.patience(ticks)) {
        clock.pass();
        looks = looks.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;
    use std::cell::Cell;

    struct Slow {
        now: Cell<u64>,
        looks: Cell<u32>,
        ticks: u64,
    }

    impl Clock for Slow {
        fn now(&self) -> u64 {
            self.now.get()
        }

        fn pass(&self) {
            self.looks.set(self.looks.get() + 1);
            self.now.set(self.now.get().wrapping_add(self.ticks));
        }
    }

    /// Looks until the end of a wait in which each look takes so many ticks, and which is over after `ends` looks.
    fn looks(ticks_of_look: u64, patience: u64, least_looks: u32, ends: u32) -> u32 {
        let board = Box::new(Board::new());
        board.set_patience(patience);
        // The TSC wraps on the way.
        let clock = Slow { now: Cell::new(u64::MAX - 5), looks: Cell::new(0), ticks: ticks_of_look };
        wait_while(&board, &clock, 1000, least_looks, || clock.looks.get() < ends);
        clock.looks.get()
    }

    #[test]
    fn a_wait_ends_when_nothing_is_pending_and_after_its_time_at_the_latest() {
        const NEVER: u32 = u32::MAX;
        assert_eq!([0, 1, 7].map(|ends| looks(10, 0, 0, ends)), [0, 1, 7]);
        assert_eq!(looks(10, 0, 0, NEVER), 100);
        assert_eq!(looks(10, 5000, 0, NEVER), 500, "processors may be away for that long");
        assert_eq!(looks(10, 50, 0, NEVER), 100, "a short absence is no reason to be less patient");
        assert_eq!(looks(1 << 20, 0, 0, NEVER), 1);
        assert_eq!(looks(1 << 20, 0, 30, NEVER), 30, "each look takes the turn of all others");
        assert_eq!(looks(1 << 20, 0, 30, 4), 4);
    }
}
