//! Requests that a vCPU leave its guest.

use core::sync::atomic::{Ordering, fence};

use super::{Board, Condition};

impl Board {
    /// Asks a vCPU to leave its guest. True if it may be in there, so that its processor has to be told.
    pub fn ask_to_stop(&self, at: usize) -> bool {
        self.seats[at].stop.0.store(1, Ordering::Release);
        // Pairs with the fence in `run`.
        fence(Ordering::SeqCst);
        matches!(self.condition(at), Condition::Running | Condition::Halted)
    }

    /// Marks a waiting vCPU as running. False if it was asked to stop meanwhile. The fence pairs with the one in
    /// [`Board::ask_to_stop`]: at least one side sees the other's store.
    pub fn run(&self, at: usize) -> bool {
        self.set_condition(at, Condition::Running);
        fence(Ordering::SeqCst);
        !self.is_to_stop(at)
    }

    /// Whether a vCPU was asked to stop.
    pub fn is_to_stop(&self, at: usize) -> bool {
        self.seats[at].stop.0.load(Ordering::Acquire) != 0
    }
}
