//! The account of one vCPU: per exit reason, the count, the cycles, the extremes and a histogram.
//!
//! [`Ledger::open`] counts an exit before anybody handles it; [`Ledger::close`] books its cycles as the last thing
//! before the guest goes on. In between the two, the exit that is being handled is counted, and its time is not yet in.
//!
//! An exit's cycles run from the time stamp that the entry stub takes right after the exit (three registers saved) to the one
//! that `close` takes right before the guest's registers are restored.

use tollgate_abi::ExitReason;
use tollgate_abi::exit_reason::ROWS;

use crate::keys::KeyTable;

/// Buckets of a histogram: bucket n holds exits of at least `1 << n` cycles and less than twice that; bucket 0 also 0.
pub const BUCKETS: usize = 64;

/// The account of one reason.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Row {
    /// Exits.
    pub count: u64,
    /// TSC ticks of all of them.
    pub cycles: u64,
    /// TSC ticks of the shortest; `u64::MAX` while there is none.
    min: u64,
    /// TSC ticks of the longest.
    max: u64,
    /// Exits by duration.
    pub histogram: [u64; BUCKETS],
}

impl Row {
    /// The account of nothing.
    pub const EMPTY: Self = Self { count: 0, cycles: 0, min: u64::MAX, max: 0, histogram: [0; BUCKETS] };

    /// TSC ticks of the shortest exit; 0 if none was closed.
    pub fn min(&self) -> u64 {
        if self.min == u64::MAX { 0 } else { self.min }
    }

    /// TSC ticks of the longest exit; 0 if none was closed.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Adds another vCPU's row.
    pub fn merge(&mut self, other: &Row) {
        self.count += other.count;
        self.cycles += other.cycles;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        for (bucket, more) in self.histogram.iter_mut().zip(&other.histogram) {
            *bucket += more;
        }
    }
}

/// The account of one vCPU. Aligned so that no two share a cache line.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Ledger {
    rows: [Row; ROWS],
    /// Cycles of all reasons, counted apart from the rows: an invariant needs two witnesses.
    cycles: u64,
    /// VM entries that do not follow the closing of an exit: the first; and less one, the entry that never came after the last.
    entries_besides: i64,
}

/// An exit that has been counted and whose cycles are still to be booked.
#[derive(Debug)]
#[repr(transparent)]
#[must_use = "an exit that is opened must be closed"]
pub struct Open {
    row: usize,
}

/// What does not add up in a ledger.
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

/// Something that keeps the account, or, to measure what that costs, does not.
pub trait Account {
    /// Whether this keeps an account at all; the entry stub takes its time stamp only then.
    const KEEPS: bool;
    /// Announces the key of the exit that is opened next; `key` finds it out, where keys are kept.
    #[inline(always)]
    fn expect(&mut self, key: impl FnOnce() -> Option<u64>) {
        let _ = key;
    }
    /// Counts an exit.
    fn open(&mut self, reason: ExitReason) -> Open;
    /// Books its cycles; `now` reads the time stamp.
    fn close(&mut self, open: Open, since_tsc: u64, now: impl FnOnce() -> u64);
    /// Counts the first VM entry, which follows no exit.
    fn first_entry(&mut self);
    /// Takes back the last entry that was counted: it did not come about.
    fn no_entry_followed(&mut self);
    /// The ledger, empty if none is kept.
    fn ledger(&self) -> &Ledger;
    /// The keys by reason, in the order of [`tollgate_abi::key::KINDS`]; none if none are kept.
    fn keys(&self) -> &[KeyTable] {
        &[]
    }
}

impl Ledger {
    /// An empty ledger.
    pub const fn new() -> Self {
        Self { rows: [Row::EMPTY; ROWS], cycles: 0, entries_besides: 0 }
    }

    /// The row that counts `reason`.
    pub fn row(&self, reason: ExitReason) -> &Row {
        &self.rows[reason.ledger_row()]
    }

    /// All rows, by number; the last counts reasons beyond the table.
    pub fn rows(&self) -> &[Row; ROWS] {
        &self.rows
    }

    /// Exits of all reasons.
    pub fn exits(&self) -> u64 {
        self.rows.iter().map(|row| row.count).sum()
    }

    /// TSC ticks of all exits.
    pub fn cycles(&self) -> u64 {
        self.cycles
    }

    /// VM entries: each closed exit is followed by one, and closing is what fills the histograms.
    pub fn entries(&self) -> u64 {
        let closed: u64 = self.rows.iter().flat_map(|row| row.histogram).sum();
        closed.wrapping_add_signed(self.entries_besides)
    }

    /// Checks the invariants at a quiet point: the guest is over, or `open` is an exit that is not closed yet.
    ///
    /// # Errors
    /// The first equation that does not hold.
    pub fn check(&self) -> Result<(), Imbalance> {
        let (exits, entries) = (self.exits(), self.entries());
        if exits != entries {
            return Err(Imbalance::Entries { exits, entries });
        }
        let rows = self.rows.iter().map(|row| row.cycles).sum();
        if rows != self.cycles {
            return Err(Imbalance::Cycles { rows, total: self.cycles });
        }
        for (number, row) in self.rows.iter().enumerate() {
            let histogram = row.histogram.iter().sum();
            if histogram != row.count {
                return Err(Imbalance::Histogram { reason: number as u16, histogram, count: row.count });
            }
        }
        Ok(())
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

impl Account for Ledger {
    const KEEPS: bool = true;

    #[inline(always)]
    fn open(&mut self, reason: ExitReason) -> Open {
        let row = reason.ledger_row();
        self.rows[row].count += 1;
        Open { row }
    }

    #[inline(always)]
    fn close(&mut self, open: Open, since_tsc: u64, now: impl FnOnce() -> u64) {
        let row = &mut self.rows[open.row];
        let cycles = now().wrapping_sub(since_tsc);
        row.cycles = row.cycles.wrapping_add(cycles);
        if cycles < row.min {
            row.min = cycles;
        }
        if cycles > row.max {
            row.max = cycles;
        }
        // Not `cycles | 1`: the subtraction has set the zero flag already.
        let bucket = if cycles == 0 { none_elapsed() } else { cycles.ilog2() };
        row.histogram[bucket as usize] += 1;
        self.cycles = self.cycles.wrapping_add(cycles);
    }

    fn first_entry(&mut self) {
        self.entries_besides += 1;
    }

    fn no_entry_followed(&mut self) {
        self.entries_besides -= 1;
    }

    fn ledger(&self) -> &Ledger {
        self
    }
}

/// The bucket of an exit during which the time-stamp counter stood still.
#[cold]
fn none_elapsed() -> u32 {
    0
}

/// Keeps no account: what is left is the exit path without it.
#[derive(Debug, Default)]
pub struct Unaccounted {
    empty: Ledger,
}

impl Account for Unaccounted {
    const KEEPS: bool = false;

    #[inline(always)]
    fn open(&mut self, _: ExitReason) -> Open {
        Open { row: 0 }
    }

    #[inline(always)]
    fn close(&mut self, _: Open, _: u64, _: impl FnOnce() -> u64) {}

    fn first_entry(&mut self) {}

    fn no_entry_followed(&mut self) {}

    fn ledger(&self) -> &Ledger {
        &self.empty
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn book(ledger: &mut Ledger, reason: u16, cycles: u64) {
        let open = ledger.open(ExitReason(reason));
        ledger.close(open, 1000, || 1000 + cycles);
    }

    #[test]
    fn an_exit_is_counted_before_its_time_is_in() {
        let mut ledger = Ledger::new();
        let open = ledger.open(ExitReason::CPUID);
        assert_eq!((ledger.row(ExitReason::CPUID).count, ledger.cycles()), (1, 0));
        assert_eq!((ledger.row(ExitReason::CPUID).min(), ledger.row(ExitReason::CPUID).max()), (0, 0));
        ledger.close(open, 5, || 85);
        let row = ledger.row(ExitReason::CPUID);
        assert_eq!((row.cycles, row.min(), row.max(), row.histogram[6]), (80, 80, 80, 1));
    }

    #[test]
    fn an_unknown_reason_has_its_own_row() {
        let mut ledger = Ledger::new();
        book(&mut ledger, 4711, 1);
        assert_eq!(ledger.rows()[ROWS - 1].count, 1);
        assert_eq!(ledger.exits(), 1);
    }

    #[test]
    fn each_imbalance_is_named() {
        let mut ledger = Ledger::new();
        book(&mut ledger, 10, 80);
        assert_eq!(ledger.check(), Ok(()));
        let broken = |change: fn(&mut Ledger)| {
            let mut ledger = ledger.clone();
            change(&mut ledger);
            ledger.check().unwrap_err()
        };
        assert_eq!(broken(|l| l.entries_besides = 1), Imbalance::Entries { exits: 1, entries: 2 });
        assert_eq!(broken(|l| l.cycles = 81), Imbalance::Cycles { rows: 80, total: 81 });
        let moved = |l: &mut Ledger| (l.rows[10].histogram[6], l.rows[11].histogram[6]) = (0, 1);
        assert_eq!(broken(moved), Imbalance::Histogram { reason: 10, histogram: 0, count: 1 });
    }

    proptest! {
        #[test]
        fn any_sequence_of_exits_balances(exits in proptest::collection::vec((any::<u16>(), 0u64..1 << 40), 0..200)) {
            let mut ledger = Ledger::new();
            for &(reason, cycles) in &exits {
                book(&mut ledger, reason, cycles);
            }
            prop_assert_eq!(ledger.check(), Ok(()));
            prop_assert_eq!(ledger.exits(), exits.len() as u64);
            prop_assert_eq!(ledger.cycles(), exits.iter().map(|&(_, cycles)| cycles).sum::<u64>());
            for row in ledger.rows().iter().filter(|row| row.count > 0) {
                prop_assert!(row.min() <= row.max() && row.cycles >= row.max());
                let lowest = row.histogram.iter().position(|&n| n > 0).unwrap();
                prop_assert_eq!(lowest as u32, (row.min() | 1).ilog2());
            }
        }
    }
}
