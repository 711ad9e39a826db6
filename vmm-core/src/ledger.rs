//! The account of one vCPU: per exit reason, the count, the cycles, the extremes and a histogram.
//!
//! [`Ledger::open`] counts an exit before anybody handles it; [`Ledger::close`] books its cycles as the last thing
//! before the guest goes on. In between the two, the exit that is being handled is counted, and its time is not yet in.
//!
//! An exit's cycles run from the time stamp that the entry stub takes right after the exit (three registers saved) to the one
//! that `close` takes right before the guest's registers are restored.
//!
//! One vCPU writes its ledger and every vCPU may read it, for the leaves. So each figure is an atomic that is loaded and
//! stored, relaxed: on x86 that is the same one instruction as for a plain integer, and nothing is locked. A reader sees
//! counts that only grow; sums of several are exact at a quiet point.

#![expect(unsafe_code, reason = "closes an exit in assembly")]

use core::arch::asm;
use core::fmt;
use core::mem::offset_of;
use core::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use tollgate_abi::ExitReason;
use tollgate_abi::exit_reason::{LOOKS, ROWS};
use tollgate_abi::figures::Figures;

use crate::figures::{Kept, KeyRow, VariantRow, add};
use crate::recording::{Rates, Recording, Ring, Witness};

/// Buckets of a histogram: bucket n holds exits of at least `1 << n` cycles and less than twice that; bucket 0 also 0.
pub const BUCKETS: usize = 64;

/// The account of one reason.
#[derive(Debug)]
#[repr(C)]
struct Row {
    figures: Kept,
    /// Exits by duration.
    histogram: [AtomicU64; BUCKETS],
}

impl Row {
    const fn empty() -> Self {
        Self { figures: Kept::empty(), histogram: [const { AtomicU64::new(0) }; BUCKETS] }
    }
}

/// The account of one vCPU. Aligned so that no two share a cache line.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Ledger {
    rows: [Row; ROWS],
    /// Cycles of all reasons, counted apart from the rows: an invariant needs two witnesses.
    cycles: AtomicU64,
    /// VM entries that do not follow the closing of an exit: the first; and less one, the entry that never came after the last.
    entries_besides: AtomicI64,
    /// Exits by which the monitor itself looked at a guest that ran long, by their place in [`LOOKS`].
    looks: [AtomicU64; LOOKS.len()],
}

/// An exit that has been counted and whose cycles are still to be booked.
#[derive(Debug)]
#[repr(transparent)]
#[must_use = "an exit that is opened must be closed"]
pub struct Open {
    row: usize,
}

impl Open {
    /// The number of its row.
    pub(crate) fn row(&self) -> usize {
        self.row
    }
}

/// An imbalance in a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the two sides of an equation")]
pub enum Imbalance {
    /// Exits are not entries.
    Entries { exits: u64, entries: u64 },
    /// The cycles of the rows are not the total.
    Cycles { rows: u64, total: u64 },
    /// The histogram of a row does not sum to its count.
    Histogram { reason: u16, histogram: u64, count: u64 },
}

impl fmt::Display for Imbalance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Imbalance::Entries { exits, entries } => write!(f, "{exits} exits, {entries} entries"),
            Imbalance::Cycles { rows, total } => write!(f, "its rows have {rows} cycles, its total {total}"),
            Imbalance::Histogram { reason, histogram, count } => {
                write!(f, "reason {reason} has {histogram} exits in its histogram and a count of {count}")
            }
        }
    }
}

/// An account as it is read, by any vCPU and for reports: one code for every kind of account.
pub trait Book: Sync {
    /// Whether it keeps an account at all.
    fn keeps(&self) -> bool;
    /// The ledger, empty if none is kept.
    fn ledger(&self) -> &Ledger;
    /// Whether the account keeps keys and variants.
    fn keeps_keys(&self) -> bool {
        false
    }
    /// Calls `each` with every key by reason, in the order of [`tollgate_abi::key::KINDS`], if any are kept.
    fn keys(&self, each: &mut dyn FnMut(ExitReason, &KeyRow)) {
        let _ = each;
    }
    /// Calls `each` with every variant, in the order of [`tollgate_abi::key::VARIANTS`], if any are kept.
    fn variants(&self, each: &mut dyn FnMut(&VariantRow)) {
        let _ = each;
    }
    /// The exits that are still to be written, if they are traced.
    fn ring(&self) -> Option<&Ring> {
        None
    }
    /// The exits over time, if they are sampled.
    fn rates(&self) -> Option<&Rates> {
        None
    }
}

/// Something that keeps the account, or, to measure what that costs, does not. Written by one vCPU.
pub trait Account: Book + Default + 'static {
    /// Whether this keeps an account at all; the entry stub takes its time stamp only then.
    const KEEPS: bool;
    /// Whether this keeps figures alone: the brief forms can be used.
    const KEEPS_FIGURES_ALONE: bool = false;
    /// An account in which nothing is booked yet.
    fn new(recording: &Recording) -> Self {
        let _ = recording;
        Self::default()
    }
    /// Takes note of the exit that is opened next, where exits are recorded; `now` reads the time stamp.
    #[inline(always)]
    fn witness(&self, what: impl FnOnce() -> Witness, now: impl Fn() -> u64) {
        let _ = (what, now);
    }
    /// Counts the key of the exit that is opened next; `key` finds it out, where keys are kept, and `now` reads the time
    /// stamp.
    #[inline(always)]
    fn expect(&self, reason: ExitReason, key: impl FnOnce() -> Option<u64>, now: impl Fn() -> u64) {
        let _ = (reason, key, now);
    }
    /// Whether the next exit may be decided by a quick form. One that keeps keys only now and then has none found there, so that
    /// the others need no room for it.
    #[inline(always)]
    fn takes_quick_forms(&self) -> bool {
        true
    }
    /// [`Account::expect`] in front of a quick form.
    #[inline(always)]
    fn expect_quick(&self, reason: ExitReason, key: impl FnOnce() -> Option<u64>, now: impl Fn() -> u64) {
        self.expect(reason, key, now);
    }
    /// The part of the open exit's time that the account took for itself, and leaves out of the exit's.
    #[inline(always)]
    fn excluded_tsc(&self) -> u64 {
        0
    }
    /// Counts an exit.
    fn open(&self, reason: ExitReason) -> Open;
    /// An exit that has been counted already.
    #[inline(always)]
    fn opened(&self, reason: ExitReason) -> Open {
        Open { row: reason.ledger_row() }
    }
    /// Books its cycles; `now` reads the time stamp.
    fn close(&self, open: Open, since_tsc: u64, now: impl FnOnce() -> u64);
    /// Books its cycles, where the row is known when the monitor is built.
    #[inline(always)]
    fn close_row<const ROW: usize>(&self, since_tsc: u64, now: impl FnOnce() -> u64) {
        self.close(Open { row: ROW }, since_tsc, now);
    }
}

impl Ledger {
    /// An empty ledger.
    pub const fn new() -> Self {
        Self {
            rows: [const { Row::empty() }; ROWS],
            cycles: AtomicU64::new(0),
            entries_besides: AtomicI64::new(0),
            looks: [const { AtomicU64::new(0) }; LOOKS.len()],
        }
    }

    /// The figures of `reason`.
    pub fn figures(&self, reason: ExitReason) -> Figures {
        self.rows[reason.ledger_row()].figures.read()
    }

    /// The exits for `reason` by duration.
    pub fn histogram(&self, reason: ExitReason) -> [u64; BUCKETS] {
        self.rows[reason.ledger_row()].histogram.each_ref().map(|bucket| bucket.load(Relaxed))
    }

    /// Exits for `reason`.
    pub fn count(&self, reason: ExitReason) -> u64 {
        self.rows[reason.ledger_row()].figures.count.load(Relaxed)
    }

    /// TSC ticks of the exits for `reason`.
    pub fn cycles_of(&self, reason: ExitReason) -> u64 {
        self.rows[reason.ledger_row()].figures.cycles.load(Relaxed)
    }

    /// Exits for `reason` in one bucket of its histogram; 0 if there is no such bucket.
    pub fn bucket(&self, reason: ExitReason, bucket: usize) -> u64 {
        self.rows[reason.ledger_row()].histogram.get(bucket).map_or(0, |count| count.load(Relaxed))
    }

    /// The least and the most TSC ticks of one exit for `reason`; `(u64::MAX, 0)` if none was closed.
    pub fn extremes(&self, reason: ExitReason) -> (u64, u64) {
        let figures = &self.rows[reason.ledger_row()].figures;
        (figures.min.load(Relaxed), figures.max.load(Relaxed))
    }

    /// The counts of all rows, by number; the last counts reasons beyond the table.
    pub fn counts(&self) -> [u64; ROWS] {
        self.rows.each_ref().map(|row| row.figures.count.load(Relaxed))
    }

    /// Says that the exit that is open, for one of [`LOOKS`], is a look of the monitor's own.
    pub fn is_look(&self, reason: ExitReason) {
        if let Some(looks) = reason.look().and_then(|at| self.looks.get(at)) {
            add(looks, 1);
        }
    }

    /// Exits for `reason` that nobody but the monitor caused: its looks at a guest that ran long. They are in the count of the
    /// reason.
    pub fn looks_of(&self, reason: ExitReason) -> u64 {
        reason.look().and_then(|at| self.looks.get(at)).map_or(0, |looks| looks.load(Relaxed))
    }

    /// Exits of all reasons that nobody but the monitor caused.
    pub fn looks(&self) -> u64 {
        self.looks.iter().map(|looks| looks.load(Relaxed)).sum()
    }

    /// Exits of all reasons.
    pub fn exits(&self) -> u64 {
        // Under SVM this is between each pause and the entry that follows: eight rows at a time.
        let (eights, rest) = self.rows.as_chunks::<8>();
        let add = |sum: u64, row: &Row| sum.wrapping_add(row.figures.count.load(Relaxed));
        rest.iter().fold(eights.iter().fold(0, |sum, eight| eight.iter().fold(sum, add)), add)
    }

    /// TSC ticks of all exits.
    pub fn cycles(&self) -> u64 {
        self.cycles.load(Relaxed)
    }

    /// VM entries: each closed exit is followed by one, and closing is what fills the histograms.
    pub fn entries(&self) -> u64 {
        let closed: u64 = self.rows.iter().flat_map(|row| &row.histogram).map(|bucket| bucket.load(Relaxed)).sum();
        closed.wrapping_add_signed(self.entries_besides.load(Relaxed))
    }

    /// Checks the invariants at a quiet point: the guest is over, or no exit of this vCPU is open.
    ///
    /// # Errors
    /// The first equation that does not hold.
    pub fn check(&self) -> Result<(), Imbalance> {
        let (exits, entries) = (self.exits(), self.entries());
        if exits != entries {
            return Err(Imbalance::Entries { exits, entries });
        }
        let rows = self.rows.iter().map(|row| row.figures.cycles.load(Relaxed)).sum();
        if rows != self.cycles() {
            return Err(Imbalance::Cycles { rows, total: self.cycles() });
        }
        for (number, row) in self.rows.iter().enumerate() {
            let histogram = row.histogram.iter().map(|bucket| bucket.load(Relaxed)).sum();
            let count = row.figures.count.load(Relaxed);
            if histogram != count {
                return Err(Imbalance::Histogram { reason: number as u16, histogram, count });
            }
        }
        Ok(())
    }

    /// Counts the first VM entry, which follows no exit.
    pub fn first_entry(&self) {
        self.entries_besides(1);
    }

    /// Takes back the last entry that was counted: it did not come about.
    pub fn no_entry_followed(&self) {
        self.entries_besides(-1);
    }

    fn entries_besides(&self, more: i64) {
        self.entries_besides.store(self.entries_besides.load(Relaxed) + more, Relaxed);
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

/// Books an exit that ends at `$now` in the row that lies `$offset` bytes behind `$base`. In assembly, because a compiler
/// does not compare with a figure in memory that others may read.
macro_rules! close_in_assembly {
    ($ledger:expr, $base:expr, $offset:expr, $now:expr, $since:expr) => {
        // SAFETY: every access is to an aligned quadword of this ledger, hence single, as a relaxed one is. If two processors
        // closed exits in one ledger, figures would be lost and nothing worse; each has its own, by `Stack::take`.
        // BSR of what is not 0 is at most 63, the last bucket.
        unsafe {
            asm!(
                "sub {cycles}, {since}",
                "jz 5f",
                "bsr {bucket}, {cycles}",
                "2:",
                "add [{row} + {row_cycles}], {cycles}",
                "cmp {cycles}, [{row} + {min}]",
                "jae 3f",
                "mov [{row} + {min}], {cycles}",
                "3:",
                "cmp {cycles}, [{row} + {max}]",
                "jbe 4f",
                "mov [{row} + {max}], {cycles}",
                "4:",
                "inc qword ptr [{row} + {histogram} + {bucket} * 8]",
                "add [{ledger} + {total}], {cycles}",
                ".pushsection .text.none_elapsed, \"ax\"",
                "5:",
                "xor {bucket:e}, {bucket:e}",
                "jmp 2b",
                ".popsection",
                cycles = inout(reg) $now => _,
                since = in(reg) $since,
                bucket = out(reg) _,
                row = in(reg) $base,
                ledger = in(reg) core::ptr::from_ref($ledger),
                row_cycles = const $offset + offset_of!(Row, figures.cycles),
                min = const $offset + offset_of!(Row, figures.min),
                max = const $offset + offset_of!(Row, figures.max),
                histogram = const $offset + offset_of!(Row, histogram),
                total = const offset_of!(Ledger, cycles),
                options(nostack),
            );
        }
    };
}

impl Account for Ledger {
    const KEEPS: bool = true;
    const KEEPS_FIGURES_ALONE: bool = true;

    #[inline(always)]
    fn open(&self, reason: ExitReason) -> Open {
        let row = reason.ledger_row();
        add(&self.rows[row].figures.count, 1);
        Open { row }
    }

    #[inline(always)]
    fn close(&self, open: Open, since_tsc: u64, now: impl FnOnce() -> u64) {
        let row = core::ptr::from_ref(&self.rows[open.row]);
        close_in_assembly!(self, row, 0, now(), since_tsc);
    }

    #[inline(always)]
    fn close_row<const ROW: usize>(&self, since_tsc: u64, now: impl FnOnce() -> u64) {
        const { assert!(ROW < ROWS) };
        let ledger = core::ptr::from_ref(self);
        close_in_assembly!(self, ledger, offset_of!(Ledger, rows) + ROW * size_of::<Row>(), now(), since_tsc);
    }
}

impl Book for Ledger {
    fn keeps(&self) -> bool {
        true
    }

    fn ledger(&self) -> &Ledger {
        self
    }
}

/// Keeps no account: what is left is the exit path without it.
#[derive(Debug, Default)]
pub struct Unaccounted {
    empty: Ledger,
}

impl Account for Unaccounted {
    const KEEPS: bool = false;

    #[inline(always)]
    fn open(&self, _: ExitReason) -> Open {
        Open { row: 0 }
    }

    #[inline(always)]
    fn close(&self, _: Open, _: u64, _: impl FnOnce() -> u64) {}
}

impl Book for Unaccounted {
    fn keeps(&self) -> bool {
        false
    }

    fn ledger(&self) -> &Ledger {
        &self.empty
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tollgate_abi::exit_reason::UNKNOWN_ROW;

    fn book(ledger: &Ledger, reason: u16, cycles: u64) {
        let open = ledger.open(ExitReason(reason));
        ledger.close(open, 1000, || 1000 + cycles);
    }

    #[test]
    fn an_exit_is_counted_before_its_time_is_in() {
        let ledger = Ledger::new();
        let open = ledger.open(ExitReason::CPUID);
        let row = ledger.figures(ExitReason::CPUID);
        assert_eq!((row.count, ledger.cycles(), row.min, row.max), (1, 0, 0, 0));
        ledger.close(open, 5, || 85);
        let row = ledger.figures(ExitReason::CPUID);
        assert_eq!((row.cycles, row.min, row.max, ledger.bucket(ExitReason::CPUID, 6)), (80, 80, 80, 1));
    }

    #[test]
    fn an_unknown_reason_has_its_own_row() {
        let ledger = Ledger::new();
        book(&ledger, 4711, 1);
        assert_eq!(ledger.counts()[UNKNOWN_ROW], 1);
        assert_eq!(ledger.exits(), 1);
    }

    #[test]
    fn looks_are_a_part_of_their_reasons() {
        let ledger = Ledger::new();
        book(&ledger, 1, 80);
        book(&ledger, 1, 80);
        ledger.is_look(ExitReason::EXTERNAL_INTERRUPT);
        assert_eq!((ledger.count(ExitReason::EXTERNAL_INTERRUPT), ledger.exits(), ledger.looks()), (2, 2, 1));
        book(&ledger, 52, 80);
        (0..2).for_each(|_| ledger.is_look(ExitReason::PREEMPTION_TIMER));
        ledger.is_look(ExitReason::CPUID);
        let looks = [ExitReason::EXTERNAL_INTERRUPT, ExitReason::PREEMPTION_TIMER, ExitReason::CPUID];
        assert_eq!((looks.map(|reason| ledger.looks_of(reason)), ledger.looks()), ([1, 2, 0], 3));
    }

    #[test]
    fn each_imbalance_is_named() {
        let broken = |change: fn(&mut Ledger)| {
            let mut ledger = Ledger::new();
            book(&ledger, 10, 80);
            assert_eq!(ledger.check(), Ok(()));
            change(&mut ledger);
            ledger.check().unwrap_err()
        };
        assert_eq!(broken(|l| *l.entries_besides.get_mut() = 1), Imbalance::Entries { exits: 1, entries: 2 });
        assert_eq!(broken(|l| *l.cycles.get_mut() = 81), Imbalance::Cycles { rows: 80, total: 81 });
        let moved = |l: &mut Ledger| {
            (*l.rows[10].histogram[6].get_mut(), *l.rows[11].histogram[6].get_mut()) = (0, 1);
        };
        assert_eq!(broken(moved), Imbalance::Histogram { reason: 10, histogram: 0, count: 1 });
    }

    proptest! {
        #[test]
        fn any_sequence_of_exits_balances(exits in proptest::collection::vec((any::<u16>(), 0u64..1 << 40), 0..200)) {
            let ledger = Ledger::new();
            for &(reason, cycles) in &exits {
                book(&ledger, reason, cycles);
            }
            prop_assert_eq!(ledger.check(), Ok(()));
            prop_assert_eq!(ledger.exits(), exits.len() as u64);
            prop_assert_eq!(ledger.cycles(), exits.iter().map(|&(_, cycles)| cycles).sum::<u64>());
            for reason in (0..ROWS).map(|number| ExitReason(number as u16)).filter(|&reason| ledger.count(reason) > 0) {
                let row = ledger.figures(reason);
                prop_assert!(row.min <= row.max && row.cycles >= row.max);
                let lowest = ledger.histogram(reason).iter().position(|&n| n > 0).unwrap();
                prop_assert_eq!(lowest as u32, (row.min | 1).ilog2());
            }
        }
    }
}
