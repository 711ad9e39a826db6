//! The protocol by which a vCPU that waits on a word and one that changes the word find each other. It knows neither interrupts
//! nor time, which are the callers'.
//!
//! A vCPU that waits first says so and then looks at the word; a vCPU that wakes others first changes the word and then looks for
//! waiting vCPUs. So one of the two sees the other, and no wake-up is lost.

use core::ptr;
use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use core::sync::atomic::{AtomicU32, AtomicUsize, fence};

/// Set beside the word's address, whose low bits are 0, when the vCPU halts or is about to.
const ASLEEP: usize = 1;

/// The address of the word that a vCPU waits on; 0 if none.
pub(crate) struct Waiter(AtomicUsize);

impl Waiter {
    /// A vCPU that waits on no word.
    pub(crate) const fn none() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Begins to wait; false if the word is not what was expected, and the wait is over.
    pub(crate) fn begin(&self, word: &AtomicU32, expected: u32) -> bool {
        self.0.store(ptr::from_ref(word).addr(), SeqCst);
        fence(SeqCst);
        word.load(SeqCst) == expected || !self.give_up(word)
    }

    /// Whether another vCPU has woken this one.
    pub(crate) fn is_woken(&self) -> bool {
        self.0.load(Acquire) == 0
    }

    /// Waits no longer; false if it has been woken at the last moment.
    pub(crate) fn give_up(&self, word: &AtomicU32) -> bool {
        self.0.compare_exchange(ptr::from_ref(word).addr(), 0, SeqCst, Relaxed).is_ok()
    }

    /// Says that the vCPU halts, so that the one that wakes it has to interrupt it; false if it has been woken.
    pub(crate) fn fall_asleep(&self, word: &AtomicU32) -> bool {
        let address = ptr::from_ref(word).addr();
        self.0.compare_exchange(address, address | ASLEEP, SeqCst, Relaxed).is_ok()
    }
}

/// Wakes up to `count` vCPUs that wait on the word, and interrupts those of them that halt, by their places; returns the number
/// woken.
pub(crate) fn wake<'a>(
    waiters: impl Iterator<Item = &'a Waiter>,
    word: &AtomicU32,
    count: i32,
    mut interrupt: impl FnMut(usize),
) -> i32 {
    let address = ptr::from_ref(word).addr();
    fence(SeqCst);
    let mut woken = 0;
    for (place, waiter) in waiters.enumerate() {
        if woken == count {
            break;
        }
        let of_this_word = |waits_on: usize| (waits_on & !ASLEEP == address).then_some(0);
        if let Ok(before) = waiter.0.fetch_update(SeqCst, SeqCst, of_this_word) {
            woken += 1;
            if before & ASLEEP != 0 {
                interrupt(place);
            }
        }
    }
    woken
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;
    use std::vec::Vec;

    fn woken(waiters: &[Waiter], word: &AtomicU32, count: i32) -> (i32, Vec<usize>) {
        let mut interrupted = Vec::new();
        let woken = wake(waiters.iter(), word, count, |place| interrupted.push(place));
        (woken, interrupted)
    }

    #[test]
    fn a_wait_for_another_value_does_not_begin() {
        let (waiter, word) = (Waiter::none(), AtomicU32::new(2));
        assert!(!waiter.begin(&word, 1) && waiter.is_woken());
        assert!(waiter.begin(&word, 2) && !waiter.is_woken());
        assert!(waiter.give_up(&word) && waiter.is_woken() && !waiter.give_up(&word));
    }

    #[test]
    fn only_those_that_wait_on_the_word_are_woken_and_only_those_that_halt_interrupted() {
        let (waiters, word, other) = ([const { Waiter::none() }; 4], AtomicU32::new(0), AtomicU32::new(0));
        assert!([0, 1, 3].iter().all(|&at| waiters[at].begin(&word, 0)) && waiters[2].begin(&other, 0));
        assert!(waiters[3].fall_asleep(&word) && waiters[2].fall_asleep(&other));
        assert_eq!(woken(&waiters, &word, 1), (1, Vec::new()));
        assert!(waiters[0].is_woken() && !waiters[1].is_woken());
        assert_eq!(woken(&waiters, &word, i32::MAX), (2, [3].to_vec()));
        assert_eq!(woken(&waiters, &word, i32::MAX), (0, Vec::new()));
        assert!(!waiters[2].is_woken());
        // Woken between its last look and its HLT: it does not halt, and no interrupt is left over.
        assert!(waiters[0].begin(&word, 0));
        assert_eq!(woken(&waiters, &word, 1), (1, Vec::new()));
        assert!(!waiters[0].fall_asleep(&word));
    }

    /// Two threads hand a token back and forth; each halts on a channel, which stands for HLT and the interrupt that ends it.
    #[test]
    fn no_wake_up_is_lost() {
        const TURNS: u32 = 20_000;
        let (waiters, word) = ([const { Waiter::none() }; 2], AtomicU32::new(0));
        let (interrupts, halts): (Vec<_>, Vec<_>) = (0..2).map(|_| mpsc::channel::<()>()).unzip();
        let left_over = thread::scope(|scope| {
            let players: Vec<_> = halts
                .into_iter()
                .enumerate()
                .map(|(own, halt)| {
                    let (waiters, word, interrupts) = (&waiters, &word, interrupts.clone());
                    scope.spawn(move || {
                        for turn in 0..TURNS {
                            let own_turn = 2 * turn + own as u32;
                            loop {
                                let now = word.load(SeqCst);
                                if now == own_turn {
                                    break;
                                }
                                if waiters[own].begin(word, now) && waiters[own].fall_asleep(word) {
                                    halt.recv().unwrap();
                                }
                            }
                            word.store(own_turn + 1, SeqCst);
                            wake(waiters.iter(), word, 1, |place| interrupts[place].send(()).unwrap());
                        }
                        halt.try_iter().count()
                    })
                })
                .collect();
            players.into_iter().map(|player| player.join().unwrap()).sum::<usize>()
        });
        assert_eq!((word.load(SeqCst), left_over), (2 * TURNS, 0));
    }
}
