//! A semaphore as the counter that it is. Half of it is the word that those wait on who find it at 0.
#![expect(unsafe_code, reason = "half of a counter is an atomic of its own")]

use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::{AtomicU32, AtomicUsize};

/// Adds 1; false if it is at its largest value. The caller wakes one of those that wait.
pub(crate) fn post(counter: &AtomicUsize) -> bool {
    let fits = |value: usize| (value < u32::MAX as usize).then_some(value + 1);
    counter.fetch_update(SeqCst, SeqCst, fits).is_ok()
}

/// Takes 1; false if it is at 0.
pub(crate) fn take(counter: &AtomicUsize) -> bool {
    counter.fetch_update(SeqCst, SeqCst, |value| value.checked_sub(1)).is_ok()
}

/// The half that changes with every post and wait.
pub(crate) fn low_half(counter: &AtomicUsize) -> &AtomicU32 {
    // SAFETY: the first four bytes of eight, on a little-endian processor.
    unsafe { AtomicU32::from_ptr(counter.as_ptr().cast()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_stays_between_0_and_the_largest_value() {
        let counter = AtomicUsize::new(0);
        assert!(!take(&counter) && post(&counter) && post(&counter));
        assert_eq!((counter.load(SeqCst), low_half(&counter).load(SeqCst)), (2, 2));
        assert!(take(&counter) && take(&counter) && !take(&counter));
        assert_eq!(low_half(&counter).load(SeqCst), 0, "those that wait go by this");
        counter.store(u32::MAX as usize - 1, SeqCst);
        assert!(post(&counter) && !post(&counter));
        assert_eq!(low_half(&counter).load(SeqCst), u32::MAX, "it is never 0 but at 0");
    }
}
