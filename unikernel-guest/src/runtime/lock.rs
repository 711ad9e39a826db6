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
        self.with_after(give_way, work)
    }

    /// The same; while another has the value, this calls `give_way` between its looks.
    #[inline(always)]
    fn with_after<R>(&self, give_way: impl Fn(), work: impl FnOnce(&mut T) -> R) -> R {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn one_at_a_time_has_the_value() {
        const THREADS: u64 = 4;
        const TIMES: u64 = 5_000;
        let lock = Lock::new((0u64, 0u64));
        let add = || {
            for _ in 0..TIMES {
                lock.with_after(thread::yield_now, |(first, second)| {
                    assert_eq!(first, second, "somebody is in the middle");
                    *first += 1;
                    thread::yield_now();
                    *second += 1;
                });
            }
        };
        thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(add))));
        assert_eq!(lock.with_after(|| panic!("nobody has it"), |both| *both), (THREADS * TIMES, THREADS * TIMES));
    }
}
