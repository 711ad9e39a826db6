//! Idle time that is skipped: where no vCPU has anything to do before a timer fires, the guest's clock is moved on to that time.
//!
//! The board has the sum of all skips, which every vCPU adds to its guest's TSC before its guest runs again. Times on the board
//! are the processor's TSC plus that sum, so that a skip changes none of them.

use core::sync::atomic::Ordering;

use super::{Board, Condition};

/// The least ticks that are skipped. A timer that fires earlier might wake its vCPU while another moves the clock on.
const LEAST_TICKS: u64 = 1 << 14;

impl Board {
    /// TSC ticks by which the guest's clock has been moved on so far.
    pub fn skipped_ticks(&self) -> u64 {
        self.skipped_ticks.load(Ordering::Acquire)
    }

    /// Says when the timer of a vCPU that is about to halt fires, by the processor's TSC; `None` if it does not.
    pub fn set_deadline(&self, at: usize, deadline_tsc: Option<u64>) {
        let deadline = deadline_tsc.map_or(u64::MAX, |tsc| tsc.saturating_add(self.skipped_ticks()));
        self.seats[at].deadline.store(deadline, Ordering::Release);
    }

    /// Moves the guest's clock on to the first timer of a vCPU, if every one is at rest until then. True if it was moved: then
    /// the vCPUs that have halted have to learn of it.
    ///
    /// A vCPU at rest wakes by a message or by its timer. No message is under way and none is sent, and the first timer is
    /// [`LEAST_TICKS`] ahead, so that nobody wakes between the look and the move. Of two vCPUs that find this out at once, one
    /// moves the clock.
    pub fn skip_idle_time(&self, now_tsc: u64) -> bool {
        let skipped = self.skipped_ticks();
        if !self.is_at_rest() {
            return false;
        }
        let deadline = (0..self.vcpus()).filter_map(|at| self.awaited_deadline(at)).min();
        let Some((deadline, now)) = deadline.zip(now_tsc.checked_add(skipped)) else { return false };
        let ticks = deadline.saturating_sub(now);
        let (order, else_order) = (Ordering::AcqRel, Ordering::Relaxed);
        ticks >= LEAST_TICKS && self.skipped_ticks.compare_exchange(skipped, skipped + ticks, order, else_order).is_ok()
    }

    /// The time at which a vCPU that has halted wakes by its timer, if it does.
    fn awaited_deadline(&self, at: usize) -> Option<u64> {
        let deadline = self.seats[at].deadline.load(Ordering::Acquire);
        (self.condition(at) == Condition::Halted && deadline != u64::MAX).then_some(deadline)
    }

    /// Whether a vCPU has halted until its timer fires.
    pub fn waits_for_timer(&self, at: usize) -> bool {
        self.awaited_deadline(at).is_some()
    }

    /// Adds ticks that were skipped while a vCPU had halted, which alone calls this.
    pub fn add_skipped(&self, at: usize, ticks: u64) {
        self.seats[at].skipped_ticks.store(self.skipped_on(at) + ticks, Ordering::Relaxed);
    }

    /// TSC ticks that were skipped while a vCPU had halted.
    pub fn skipped_on(&self, at: usize) -> u64 {
        self.seats[at].skipped_ticks.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Message;
    use crate::board::tests::board;

    #[test]
    fn the_clock_moves_to_the_first_timer_once_all_are_at_rest() {
        let board = board(3);
        board.set_deadline(0, Some(900_000));
        board.set_deadline(1, Some(500_000));
        board.set_deadline(2, None);
        (0..2).for_each(|at| assert!(!board.rest(at, Condition::Halted)));
        assert!(!board.skip_idle_time(1000), "vCPU 2 runs");
        board.rest(2, Condition::Waiting);
        assert!(board.skip_idle_time(1000));
        assert_eq!(board.skipped_ticks(), 499_000);
        assert!(!board.skip_idle_time(1001), "that timer is about to fire");
        board.set_condition(1, Condition::Running);
        board.set_deadline(1, None);
        board.rest(1, Condition::Halted);
        assert!(board.skip_idle_time(3000));
        assert_eq!(board.skipped_ticks(), 499_000 + (900_000 - 499_000 - 3000));
    }

    #[test]
    fn a_message_or_a_near_timer_or_none_moves_nothing() {
        let board = board(2);
        board.set_deadline(0, Some(LEAST_TICKS + 10));
        board.rest(0, Condition::Halted);
        board.rest(1, Condition::Waiting);
        assert!(board.send(1, 0, Message::Nmi) && !board.skip_idle_time(10), "it will wake");
        board.set_condition(0, Condition::Running);
        board.receive(0);
        board.rest(0, Condition::Halted);
        assert!(!board.skip_idle_time(11), "too near");
        board.set_deadline(0, None);
        assert!(!board.skip_idle_time(10), "no timer");
        board.set_deadline(0, Some(u64::MAX - 1));
        assert!(board.skip_idle_time(10), "as far as a clock goes");
        assert!(!board.skip_idle_time(u64::MAX), "and no further");
    }
}
