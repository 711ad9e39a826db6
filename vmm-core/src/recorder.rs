//! An account that also records: every exit in a ring (`run --trace`), and the number of exits in equal steps of time (`run
//! --rate-step`). It is a type of its own around the account with keys, so that the others pay nothing for it; keys are kept if they
//! are asked for, too.
//!
//! The time of recording lies between two exits' cycles, but for the few ticks around the time stamps that leave it out.
//! Meanwhile nothing is written to the log: [`crate::session`] empties the rings while every vCPU is quiet.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tollgate_abi::ExitReason;

use crate::figures::{KeyRow, VariantRow};
use crate::keys::Keyed;
use crate::ledger::{Account, Book, Ledger, Open};
use crate::recording::{Rates, Recording, Ring, Witness};

/// An account with a ring and samples.
#[derive(Debug)]
pub struct Recorded {
    account: Keyed,
    /// Whether the account gets to know keys.
    keys: bool,
    ring: Ring,
    rates: Rates,
    /// RIP at the open exit.
    rip: AtomicU64,
    qualification: AtomicU64,
    /// The part of the open exit's time that looking at it took.
    excluded_tsc: AtomicU64,
}

impl Default for Recorded {
    fn default() -> Self {
        Self::new(&Recording::default())
    }
}

impl Account for Recorded {
    const KEEPS: bool = true;

    fn new(recording: &Recording) -> Self {
        Self {
            account: Keyed::default(),
            keys: recording.keys,
            ring: Ring::new(recording.ring),
            rates: Rates::new(recording.rate_step_ticks, recording.start_tsc),
            rip: AtomicU64::new(0),
            qualification: AtomicU64::new(0),
            excluded_tsc: AtomicU64::new(0),
        }
    }

    #[inline(always)]
    fn witness(&self, what: impl FnOnce() -> Witness, now: impl Fn() -> u64) {
        let start = now();
        let Witness { rip, qualification } = what();
        self.rip.store(rip, Relaxed);
        self.qualification.store(qualification, Relaxed);
        self.excluded_tsc.store(now().wrapping_sub(start), Relaxed);
    }

    #[inline(always)]
    fn takes_quick_forms(&self) -> bool {
        !self.keys
    }

    #[inline(always)]
    fn expect(&self, reason: ExitReason, key: impl FnOnce() -> Option<u64>, now: impl Fn() -> u64) {
        if self.keys {
            self.account.expect(reason, key, now);
        }
    }

    /// Keys are found on the thorough way alone, which an exit takes where they are kept.
    #[inline(always)]
    fn expect_quick(&self, _: ExitReason, _: impl FnOnce() -> Option<u64>, _: impl Fn() -> u64) {}

    #[inline(always)]
    fn excluded_tsc(&self) -> u64 {
        self.excluded_tsc.load(Relaxed).wrapping_add(self.account.excluded_tsc())
    }

    #[inline(always)]
    fn open(&self, reason: ExitReason) -> Open {
        self.account.open(reason)
    }

    #[inline(never)]
    fn close(&self, open: Open, since_tsc: u64, now: impl FnOnce() -> u64) {
        let now_tsc = now();
        let cycles = now_tsc.wrapping_sub(since_tsc).wrapping_sub(self.excluded_tsc());
        let row = open.row();
        let witness = Witness { rip: self.rip.load(Relaxed), qualification: self.qualification.load(Relaxed) };
        self.ring.push(row, since_tsc, cycles, witness);
        self.rates.count(row, since_tsc);
        // The other account leaves out its own part by itself.
        let from_tsc = since_tsc.wrapping_add(self.excluded_tsc.load(Relaxed));
        self.account.close(open, from_tsc, || now_tsc);
    }
}

impl Book for Recorded {
    fn keeps(&self) -> bool {
        true
    }

    fn ledger(&self) -> &Ledger {
        self.account.ledger()
    }

    fn keeps_keys(&self) -> bool {
        self.keys
    }

    fn keys(&self, each: &mut dyn FnMut(ExitReason, &KeyRow)) {
        // None was counted where none is kept.
        self.account.keys(each);
    }

    fn variants(&self, each: &mut dyn FnMut(&VariantRow)) {
        self.account.variants(each);
    }

    fn ring(&self) -> Option<&Ring> {
        (self.ring.capacity() > 0).then_some(&self.ring)
    }

    fn rates(&self) -> Option<&Rates> {
        self.rates.is_sampled().then_some(&self.rates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{STEPS, Slot};
    use proptest::prelude::*;
    use std::vec::Vec;
    use tollgate_abi::exit_reason::ROWS;
    use tollgate_abi::trace::Event;

    pub(crate) fn slots(count: usize) -> &'static [Slot] {
        (0..count).map(|_| Slot::default()).collect::<Vec<_>>().leak()
    }

    fn recorded(ring: usize, rate_step_ticks: u64) -> Recorded {
        Recorded::new(&Recording { ring: slots(ring), rate_step_ticks, start_tsc: 1000, keys: false })
    }

    fn exit(recorded: &impl Account, reason: u16, tsc: u64, cycles: u64) {
        recorded.witness(|| Witness { rip: tsc ^ 1, qualification: cycles + 7 }, || 3);
        let open = recorded.open(ExitReason(reason));
        recorded.close(open, tsc, || tsc.wrapping_add(cycles));
    }

    fn drained(recorded: &Recorded) -> Vec<Event> {
        let mut events = Vec::new();
        recorded.ring.drain(|event| events.push(event));
        events
    }

    #[test]
    fn exits_come_back_in_their_order_and_none_is_lost_silently() {
        let recorded = recorded(3, 0);
        for round in 0..2 {
            for at in 0..4 {
                exit(&recorded, 10 + at, 2000 + u64::from(at), 50 + u64::from(at));
            }
            let events = drained(&recorded);
            let expected = |at: u64| Event {
                tsc: 2000 + at,
                reason: 10 + at as u16,
                cycles: 50 + at,
                rip: (2000 + at) ^ 1,
                qualification: 57 + at,
            };
            assert_eq!(events, [expected(0), expected(1), expected(2)]);
            assert_eq!(recorded.ring.dropped(ExitReason(13)), (round + 1, 53 * (round + 1)));
            assert_eq!(recorded.ring.dropped(ExitReason(12)), (0, 0));
        }
    }

    #[test]
    fn what_it_takes_to_look_is_in_no_figure() {
        let (recorded, clock) = (recorded(1, 0), core::cell::Cell::new(1000));
        let look = || {
            clock.set(1030);
            Witness { rip: 1, qualification: 2 }
        };
        recorded.witness(look, || clock.get());
        recorded.close(recorded.open(ExitReason::CPUID), 990, || clock.get() + 20);
        let event = drained(&recorded)[0];
        assert_eq!((event.tsc, event.cycles, recorded.ledger().cycles()), (990, 30, 30));
    }

    #[test]
    fn a_trace_and_keys_agree_and_what_either_takes_is_in_no_figure() {
        let ring = slots(9);
        let recorded = Recorded::new(&Recording { ring, rate_step_ticks: 100, start_tsc: 1000, keys: true });
        for at in 0..4 {
            let clock = core::cell::Cell::new(2000 + 100 * at);
            let now = || clock.replace(clock.get() + 10);
            recorded.witness(|| Witness { rip: at, qualification: 0 }, now);
            recorded.expect(ExitReason::CPUID, || Some(at % 2), now);
            // Between two time stamps each time lie 10 ticks, which are left out.
            recorded.close(recorded.open(ExitReason::CPUID), 1990 + 100 * at, || 2080 + 100 * at);
        }
        assert_eq!(drained(&recorded).iter().map(|event| event.cycles).collect::<Vec<_>>(), [70; 4]);
        let mut keys = Vec::new();
        recorded.keys(&mut |_, row| keys.push((row.key.unwrap().1, row.figures.count, row.figures.cycles)));
        assert_eq!(keys, [(0, 2, 140), (1, 2, 140)]);
        assert_eq!((recorded.ledger().cycles(), recorded.rates.of(ExitReason::CPUID).sum::<u32>()), (280, 4));
        assert!(recorded.keeps_keys() && recorded.ring().is_some() && recorded.rates().is_some());
        let mut variants = 0;
        recorded.variants(&mut |_| variants += 1);
        assert_eq!(variants, 0, "CPUID has none");
    }

    #[test]
    fn what_is_not_asked_for_is_not_there() {
        let recorded = Recorded::default();
        recorded.expect(ExitReason(10), || panic!("no key is found"), || panic!("no time is taken"));
        exit(&recorded, 10, 5000, 1);
        assert!(recorded.ring().is_none() && recorded.rates().is_none() && !recorded.keeps_keys());
        recorded.keys(&mut |reason, row| panic!("{reason:?} {row:?}"));
        assert_eq!(recorded.ring.dropped(ExitReason(10)), (0, 0));
        assert_eq!(recorded.rates.of(ExitReason(10)).count(), 0);
    }

    #[test]
    fn steps_double_when_they_are_used_up() {
        let recorded = recorded(0, 10);
        for tsc in [900, 1000, 1009, 1010, 1000 + 10 * STEPS as u64 - 1] {
            exit(&recorded, 10, tsc, 1);
        }
        let counts = |recorded: &Recorded| recorded.rates.of(ExitReason(10)).collect::<Vec<_>>();
        assert_eq!((recorded.rates.steps(), counts(&recorded).len()), ((10, 1000), STEPS));
        assert_eq!(counts(&recorded)[..3], [3, 1, 0]);
        exit(&recorded, 10, 1000 + 10 * STEPS as u64, 1);
        assert_eq!((recorded.rates.steps().0, counts(&recorded).len()), (20, STEPS / 2 + 1));
        assert_eq!((counts(&recorded)[0], counts(&recorded)[STEPS / 2 - 1], counts(&recorded)[STEPS / 2]), (4, 1, 1));
        exit(&recorded, 12, u64::MAX, 1);
        assert_eq!(counts(&recorded), [6]);
    }

    proptest! {
        #[test]
        fn trace_drops_and_rates_are_the_ledger(ring in 0usize..40, exits in proptest::collection::vec((0u16..120, 0u64..1 << 40, 0u64..1 << 20), 0..60)) {
            let recorded = recorded(ring, 1 << 12);
            for &(reason, tsc, cycles) in &exits {
                exit(&recorded, reason, tsc, cycles);
            }
            let events = drained(&recorded);
            for row in (0..ROWS as u16).map(ExitReason).filter(|row| row.ledger_row() == usize::from(row.0)) {
                let figures = recorded.ledger().figures(row);
                let of_row = |event: &&Event| event.reason == row.0;
                let (dropped, cycles) = recorded.ring.dropped(row);
                if ring > 0 {
                    prop_assert_eq!(events.iter().filter(of_row).count() as u64 + dropped, figures.count);
                    prop_assert_eq!(events.iter().filter(of_row).map(|event| event.cycles).sum::<u64>() + cycles, figures.cycles);
                }
                prop_assert_eq!(recorded.rates.of(row).map(u64::from).sum::<u64>(), figures.count);
            }
        }
    }
}
