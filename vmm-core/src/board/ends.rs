//! The ends of vCPUs, of the guest and of the monitor, and the time that the guests ran or stood still.

use core::sync::atomic::Ordering;

use alloc::boxed::Box;
use tollgate_abi::workload::Outcome;

use super::{Board, Condition};
use crate::ended::Ended;
use crate::fault::Fault;

impl Board {
    /// Adds to the time that a vCPU's guest has run.
    pub fn add_elapsed(&self, at: usize, ticks: u64) {
        self.seats[at].elapsed_tsc.fetch_add(ticks, Ordering::Relaxed);
    }

    /// TSC ticks that a vCPU's guest has run.
    pub fn elapsed_tsc(&self, at: usize) -> u64 {
        self.seats[at].elapsed_tsc.load(Ordering::Relaxed)
    }

    /// Adds to the time of a vCPU's pauses, in which the monitor works and no exit is open.
    pub fn add_paused(&self, at: usize, ticks: u64) {
        self.seats[at].paused_tsc.fetch_add(ticks, Ordering::Relaxed);
    }

    /// TSC ticks of a vCPU's pauses.
    pub fn paused_tsc(&self, at: usize) -> u64 {
        self.seats[at].paused_tsc.load(Ordering::Relaxed)
    }

    /// Says at which TSC vCPU 0 is entered first.
    pub fn begin(&self, tsc: u64) {
        self.first_entry_tsc.store(tsc, Ordering::Relaxed);
    }

    /// The TSC at which vCPU 0 was entered first.
    pub fn first_entry_tsc(&self) -> u64 {
        self.first_entry_tsc.load(Ordering::Relaxed)
    }

    /// Notes the end of a vCPU. True if that ends the guest and no other vCPU has ended it before.
    pub fn end(&self, at: usize, ended: Ended) -> bool {
        let ends_guest = match ended.outcome {
            Outcome::StoppedByAnother | Outcome::Init => false,
            // Another vCPU is then off line.
            Outcome::HaltedForEver => at == 0,
            _ => true,
        };
        *self.seats[at].ended.lock() = Some(Box::new(ended));
        ends_guest && self.culprit.compare_exchange(0, at as u32 + 1, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Whether a vCPU has ended.
    pub fn has_ended(&self, at: usize) -> bool {
        self.seats[at].ended.lock().is_some()
    }

    /// The end of a vCPU, once it has ended.
    pub fn ended(&self, at: usize) -> Option<Ended> {
        self.seats[at].ended.lock().as_deref().cloned()
    }

    /// The vCPU that ended the guest.
    pub fn culprit(&self) -> Option<usize> {
        (self.culprit.load(Ordering::Acquire) as usize).checked_sub(1)
    }

    /// Notes that the monitor can't go on at the processor of vCPU `at`, whose guest is over with that. True for the first fault:
    /// the caller then stops the others, and the run's verdict is this fault.
    pub fn fail(&self, at: usize, detail: core::fmt::Arguments<'_>) -> bool {
        let first = self.fault.lock().note(at, detail);
        self.set_condition(at, Condition::Over);
        first
    }

    /// The fault that ended the run, if one did.
    pub fn fault(&self) -> Fault {
        self.fault.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::tests::board;

    #[test]
    fn a_fault_of_the_monitor_is_the_end_of_its_vcpu_and_of_all_others() {
        let board = board(3);
        assert_eq!((board.fault().vcpu(), board.seat_of(2), board.seat_of(3)), (None, Some(2), None));
        board.set_condition(0, Condition::Halted);
        assert!(board.fail(2, format_args!("exception 14")) && !board.fail(1, format_args!("exception 13")));
        assert_eq!((board.fault().vcpu(), board.fault().to_string().as_str()), (Some(2), "exception 14"));
        assert_eq!([1, 2].map(|at| board.condition(at)), [Condition::Over; 2]);
        assert!(board.is_dead(), "vCPU 0 waits for nobody");
    }

    #[test]
    fn the_first_end_is_the_guests() {
        let board = board(3);
        let ended = Ended::of;
        assert!(!board.end(1, ended(Outcome::HaltedForEver)), "off line");
        assert!(board.end(2, ended(Outcome::TripleFault)));
        assert!(!board.end(0, ended(Outcome::StoppedByAnother)));
        assert_eq!(board.culprit(), Some(2));
    }
}
