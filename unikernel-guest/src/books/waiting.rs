//! The protocol by which a vCPU that waits on a word and one that changes the word find each other. Interrupts and time are the
//! callers', by [`Vcpu`].
//!
//! A vCPU that waits first says so and then looks at the word; a vCPU that wakes others first changes the word and then looks for
//! waiting vCPUs. So one of the two sees the other, and no wake-up is lost.

use core::ptr;
use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use core::sync::atomic::{AtomicU32, AtomicUsize, fence};

/// The vCPU that waits, as far as waiting goes.
pub(crate) trait Vcpu {
    /// Looks before it halts: as PAUSE may exit, none is executed.
    const LOOKS: u32 = 1 << 24;
    /// The number of wake-up interrupts that it has taken.
    fn calls(&self) -> u64;
    /// Lets another go first, without an exit.
    fn give_way(&self);
    /// Halts until an interrupt comes. They are off otherwise, so that one that came before ends the halt at once.
    fn halt(&self);
    /// Nanoseconds since the start.
    fn now_ns(&self) -> u64;
}

/// The end of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It did not begin: the word was not what was expected.
    Differs,
    /// Somebody woke those who wait on the word.
    Woken,
    /// The deadline came.
    TimedOut,
}

/// Waits until those who wait on the word are woken, or until a time at the latest. With a time limit the vCPU does not halt.
pub(crate) fn wait<V: Vcpu>(
    vcpu: &V,
    waiter: &Waiter,
    word: &AtomicU32,
    expected: u32,
    deadline_ns: Option<u64>,
) -> Ended {
    if !waiter.begin(word, expected) {
        return Ended::Differs;
    }
    if let Some(deadline_ns) = deadline_ns {
        while !waiter.is_woken() {
            if vcpu.now_ns() >= deadline_ns && waiter.give_up(word) {
                return Ended::TimedOut;
            }
            vcpu.give_way();
        }
        return Ended::Woken;
    }
    let is_woken = (0..V::LOOKS).any(|_| {
        vcpu.give_way();
        waiter.is_woken()
    });
    if !is_woken {
        let calls = vcpu.calls();
        if waiter.fall_asleep(word) {
            while vcpu.calls() == calls {
                vcpu.halt();
            }
        }
    }
    Ended::Woken
}

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

    /// Announces that the vCPU halts: from now on a wake-up takes an interrupt. False if it has been woken already.
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
    use std::cell::Cell;
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

    /// A vCPU to which nothing happens but what the test has happen: `F` is called at each event, with the event's number. An
    /// interrupt that is sent stays pending until the vCPU halts.
    struct Scripted<F: Fn(usize) -> bool> {
        events: Cell<usize>,
        pending: Cell<bool>,
        calls: Cell<u64>,
        halts: Cell<usize>,
        happens: F,
    }

    impl<F: Fn(usize) -> bool> Scripted<F> {
        /// `happens` returns true if it has the vCPU interrupted.
        fn new(happens: F) -> Self {
            let (events, pending) = (Cell::new(0), Cell::new(false));
            Self { events, pending, calls: Cell::new(0), halts: Cell::new(0), happens }
        }

        fn event(&self) {
            let number = self.events.replace(self.events.get() + 1);
            self.pending.set(self.pending.get() | (self.happens)(number));
        }
    }

    impl<F: Fn(usize) -> bool> Vcpu for Scripted<F> {
        const LOOKS: u32 = 3;

        fn calls(&self) -> u64 {
            self.event();
            self.calls.get()
        }

        fn give_way(&self) {
            self.event();
        }

        fn halt(&self) {
            self.event();
            self.halts.set(self.halts.get() + 1);
            assert!(self.halts.get() < 100, "nobody wakes it");
            self.calls.set(self.calls.get() + u64::from(self.pending.take()));
        }

        /// As many nanoseconds as events.
        fn now_ns(&self) -> u64 {
            self.event();
            self.events.get() as u64
        }
    }

    /// The word is changed and the wait ended at every point of it in turn, with a time limit and without.
    #[test]
    fn whenever_it_is_woken_a_wait_ends_and_leaves_nothing_over() {
        const POINTS: usize = 12;
        const DEADLINE: u64 = 7;
        let mut ends = Vec::new();
        for deadline in [None, Some(DEADLINE)] {
            for point in 0..POINTS {
                let (waiters, word, was_woken) = ([Waiter::none()], AtomicU32::new(0), Cell::new(0));
                let vcpu = Scripted::new(|event| {
                    if event != point {
                        return false;
                    }
                    word.store(1, SeqCst);
                    let (count, interrupted) = woken(&waiters, &word, 1);
                    was_woken.set(count);
                    !interrupted.is_empty()
                });
                let ended = wait(&vcpu, &waiters[0], &word, 0, deadline);
                assert!(waiters[0].is_woken() && !vcpu.pending.get(), "{deadline:?}, woken at {point}");
                assert_eq!(was_woken.get() == 1, ended == Ended::Woken, "{deadline:?}, woken at {point}");
                assert!(deadline.is_none() || vcpu.halts.get() == 0, "nobody would end that at the deadline");
                ends.push((ended, vcpu.halts.get()));
            }
        }
        let (without, with) = ends.split_at(POINTS);
        // Three looks and the count of the interrupts; behind that it halts, until it is woken.
        assert!(without[..4].iter().all(|end| *end == (Ended::Woken, 0)), "{without:?}");
        assert!(without[4..].iter().all(|end| end.0 == Ended::Woken && end.1 > 0), "{without:?}");
        // The seventh event is the look at the clock that finds the deadline come.
        assert!(with[..7].iter().all(|end| end.0 == Ended::Woken), "{with:?}");
        assert!(with[7..].iter().all(|end| end.0 == Ended::TimedOut), "{with:?}");
    }

    #[test]
    fn an_interrupt_that_is_not_meant_for_the_wait_does_not_end_it() {
        let (waiters, word) = ([Waiter::none()], AtomicU32::new(0));
        let vcpu = Scripted::new(|event| event == 20 && woken(&waiters, &word, 1) == (1, Vec::from([0])));
        assert_eq!(wait(&vcpu, &waiters[0], &word, 0, None), Ended::Woken);
        assert!(vcpu.halts.get() > 5, "the timer's ended the halts before");
    }

    #[test]
    fn a_wait_that_has_no_reason_ends_at_once() {
        let (waiter, word) = (Waiter::none(), AtomicU32::new(1));
        let vcpu = Scripted::new(|_| false);
        assert_eq!(wait(&vcpu, &waiter, &word, 0, None), Ended::Differs);
        assert_eq!((vcpu.events.get(), waiter.is_woken()), (0, true));
        assert_eq!(wait(&vcpu, &waiter, &word, 1, Some(0)), Ended::TimedOut, "the deadline has been");
        assert_eq!((vcpu.events.get(), waiter.is_woken()), (1, true));
    }

    /// A thread of the host as a vCPU: a message on its channel is the interrupt that ends its halt.
    struct Thread {
        interrupts: mpsc::Receiver<()>,
        calls: Cell<u64>,
        now_ns: Cell<u64>,
    }

    impl Vcpu for Thread {
        const LOOKS: u32 = 3;

        fn calls(&self) -> u64 {
            self.calls.get()
        }

        fn give_way(&self) {
            thread::yield_now();
        }

        fn halt(&self) {
            self.interrupts.recv().unwrap();
            self.calls.set(self.calls.get() + 1);
        }

        fn now_ns(&self) -> u64 {
            self.now_ns.replace(self.now_ns.get() + 1)
        }
    }

    /// Threads hand a token round; each waits for its turn, now and then with a time limit.
    #[test]
    fn no_wake_up_is_lost() {
        const THREADS: u32 = 3;
        const TURNS: u32 = 3_000;
        let (waiters, word) = ([const { Waiter::none() }; THREADS as usize], AtomicU32::new(0));
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| mpsc::channel::<()>()).unzip();
        let left_over = thread::scope(|scope| {
            let players: Vec<_> = (0..THREADS)
                .zip(receivers)
                .map(|(own, interrupts)| {
                    let (waiters, word, senders) = (&waiters, &word, senders.clone());
                    scope.spawn(move || {
                        let vcpu = Thread { interrupts, calls: Cell::new(0), now_ns: Cell::new(0) };
                        for turn in 0..TURNS {
                            let own_turn = THREADS * turn + own;
                            loop {
                                let now = word.load(SeqCst);
                                if now == own_turn {
                                    break;
                                }
                                let deadline = (turn % 3 == own).then(|| vcpu.now_ns.get() + 5);
                                wait(&vcpu, &waiters[own as usize], word, now, deadline);
                            }
                            word.store(own_turn + 1, SeqCst);
                            wake(waiters.iter(), word, i32::MAX, |place| senders[place].send(()).unwrap());
                        }
                        vcpu.interrupts.try_iter().count()
                    })
                })
                .collect();
            players.into_iter().map(|player| player.join().unwrap()).sum::<usize>()
        });
        assert_eq!((word.load(SeqCst), left_over), (THREADS * TURNS, 0));
    }
}
