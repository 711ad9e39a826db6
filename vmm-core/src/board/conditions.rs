//! The conditions of the vCPUs, and the question whether anything can ever happen again.

use core::sync::atomic::{Ordering, fence};

use tollgate_abi::machine::MOST_VCPUS;

use super::Board;

/// The condition of a vCPU, as far as others have to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Condition {
    /// It has no processor.
    Absent = 0,
    /// It waits for INIT and a start-up IPI.
    Waiting = 1,
    /// It runs, or its exit is being handled.
    Running = 2,
    /// It has halted until an interrupt.
    Halted = 3,
    /// It has ended, or is off line for good.
    Over = 4,
}

impl Condition {
    fn from_number(number: u32) -> Self {
        match number {
            1 => Condition::Waiting,
            2 => Condition::Running,
            3 => Condition::Halted,
            4 => Condition::Over,
            _ => Condition::Absent,
        }
    }
}

/// Bits of a seat's condition; above them its wake-ups are counted.
const CONDITION_BITS: u32 = 3;

impl Board {
    /// The present condition of a vCPU.
    pub fn condition(&self, at: usize) -> Condition {
        Condition::from_number(self.seats[at].condition.load(Ordering::Acquire) & ((1 << CONDITION_BITS) - 1))
    }

    /// Sets this vCPU's condition: to running before it reads its messages or lets its timer fire. For the others see
    /// [`Board::rest`].
    pub fn set_condition(&self, at: usize, condition: Condition) {
        let word = &self.seats[at].condition;
        let wakes =
            (word.load(Ordering::Relaxed) >> CONDITION_BITS).wrapping_add((condition == Condition::Running).into());
        word.store(wakes << CONDITION_BITS | condition as u32, Ordering::Release);
    }

    /// Says that this vCPU waits, has halted or is over. True if nothing can ever happen again; the last vCPU to come to rest
    /// finds that out. vCPU 0 then ends the guest: another vCPU interrupts it.
    pub fn rest(&self, at: usize, condition: Condition) -> bool {
        self.set_condition(at, condition);
        self.is_dead()
    }

    /// Says whether an interrupt of this vCPU's own timer is to come.
    pub fn set_timer(&self, at: usize, armed: bool) {
        debug_assert_eq!(self.condition(at), Condition::Running, "whoever looks takes vCPU {at} for quiet");
        self.seats[at].timer.store(armed.into(), Ordering::Release);
    }

    /// The first other vCPU that may still exit: it runs, or a message or its timer will make it run. The caller sends no
    /// message.
    pub fn first_busy(&self, but: usize) -> Option<usize> {
        self.first_restless::<true>(Some(but))
    }

    /// Whether nothing happens before a timer fires: every vCPU waits, has halted or is over, and no message is under way.
    pub(super) fn is_at_rest(&self) -> bool {
        self.first_restless::<false>(None).is_none()
    }

    /// Whether nothing can ever happen again: every vCPU waits, has halted or is over, no message is under way, and no timer
    /// will fire.
    pub(super) fn is_dead(&self) -> bool {
        self.first_restless::<true>(None).is_none()
    }

    /// The first vCPU that may still exit, but for `but`. A vCPU reads its messages, sends and arms its timer only while its
    /// condition is running. So messages and timers stood still during the look if each vCPU was at rest before and after it, and
    /// did not run in between. Without `TIMERS` those don't count.
    fn first_restless<const TIMERS: bool>(&self, but: Option<usize>) -> Option<usize> {
        // This vCPU's condition is stored before the others' are read: of two that halt at once, one sees the other.
        fence(Ordering::SeqCst);
        let seats = || (0..self.vcpus()).filter(|&at| Some(at) != but);
        let word = |at: usize| self.seats[at].condition.load(Ordering::Acquire);
        let mut before = [0; MOST_VCPUS];
        seats().for_each(|at| before[at] = word(at));
        let is_restless = |at: &usize| match self.condition(*at) {
            Condition::Running => true,
            // Such a vCPU gets no more messages, and its timer does not matter.
            Condition::Over | Condition::Absent => false,
            Condition::Waiting | Condition::Halted => {
                self.is_under_way(*at) || TIMERS && self.seats[*at].timer.load(Ordering::Acquire) != 0
            }
        };
        seats().find(is_restless).or_else(|| seats().find(|&at| word(at) != before[at]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Message;
    use crate::board::tests::board;
    use core::sync::atomic::AtomicU32;

    #[test]
    fn a_board_is_dead_only_if_nothing_is_under_way() {
        let board = board(2);
        board.set_timer(1, true);
        assert!(!board.rest(1, Condition::Halted) && !board.rest(0, Condition::Halted));
        assert!(board.rest(1, Condition::Over), "its timer is over, too");
        board.set_condition(1, Condition::Running);
        board.set_timer(1, false);
        assert!(board.rest(1, Condition::Waiting));
        assert!(board.send(1, 0, Message::Interrupt(0x30)) && !board.is_dead());
        assert_eq!(board.first_busy(1), Some(0), "it will wake");
        board.set_condition(0, Condition::Over);
        assert!(board.is_dead(), "what is sent to one that is over is lost");
        assert_eq!(board.first_busy(1), None);
    }

    /// One message goes round as often as `HOPS` says, and each vCPU halts behind it. Only when it has ended is the board dead,
    /// and then some vCPU finds that out.
    #[test]
    fn vcpus_that_halt_and_wake_are_not_taken_for_dead() {
        const VCPUS: usize = 4;
        const HOPS: u32 = 20_000;
        let (board, hops, deaths) = (board(VCPUS), AtomicU32::new(0), AtomicU32::new(0));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let vcpu = &|at: usize| {
            while deaths.load(Ordering::Acquire) == 0 {
                assert!(std::time::Instant::now() < deadline, "no one found out that the board is dead");
                if !board.is_under_way(at) {
                    std::thread::yield_now();
                    continue;
                }
                board.set_condition(at, Condition::Running);
                assert_eq!(board.receive(at), Some(Message::Nmi));
                if hops.fetch_add(1, Ordering::AcqRel) < HOPS {
                    assert!(board.send(at, (at + 1) % VCPUS, Message::Nmi));
                }
                if board.rest(at, Condition::Halted) {
                    assert!(hops.load(Ordering::Acquire) > HOPS, "taken for dead");
                    deaths.fetch_add(1, Ordering::AcqRel);
                }
            }
        };
        (0..VCPUS).for_each(|at| board.set_condition(at, Condition::Halted));
        assert!(board.send(0, 1, Message::Nmi));
        std::thread::scope(|scope| (0..VCPUS).for_each(|at| drop(scope.spawn(move || vcpu(at)))));
        assert_eq!(deaths.load(Ordering::Acquire), 1);
    }
}
