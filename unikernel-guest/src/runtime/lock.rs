//! A lock that waits in a loop of plain loads: PAUSE, which others execute there, may exit.
//!
//! It is held for a few instructions at a time, none of which may take it again. Interrupts don't matter: their handler is
//! assembly that takes no lock.
#![expect(unsafe_code, reason = "shares a value between vCPUs")]

use core::cell::UnsafeCell;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::ops::idle::give_way;

/// A value that one vCPU at a time can reach.
pub(crate) struct Lock<T> {
    is_taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `with` hands the value to one vCPU at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self { is_taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Runs `work` with the value while no other vCPU reaches it.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        while self.is_taken.swap(true, Acquire) {
            while self.is_taken.load(Relaxed) {
                give_way();
            }
        }
        // SAFETY: a vCPU that finds `is_taken` false is alone here until it stores false again.
        let result = work(unsafe { &mut *self.value.get() });
        self.is_taken.store(false, Release);
        result
    }
}
