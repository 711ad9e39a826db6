//! The order of reasons.

use std::cmp::{Ordering, Reverse};

use crate::account::Reason;

/// The column by which reasons are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Order {
    /// The most exits first.
    Samples,
    /// The most ticks first.
    #[default]
    Time,
    /// The one with the longest shortest exit first.
    Min,
    /// The one with the longest exit first.
    Max,
    /// The longest on average first.
    Avg,
    /// By the reason's number.
    Number,
}

impl Order {
    /// Sorts rows; equal ones by their numbers.
    pub(super) fn sort(self, rows: &mut [&Reason]) {
        rows.sort_by(|one, other| self.compare(one, other).then(one.number.cmp(&other.number)));
    }

    fn compare(self, one: &Reason, other: &Reason) -> Ordering {
        let by = |figure: fn(&Reason) -> u64| Reverse(figure(one)).cmp(&Reverse(figure(other)));
        match self {
            Order::Samples => by(|row| row.exits.figures.count),
            Order::Time => by(|row| row.exits.figures.cycles),
            Order::Min => by(|row| row.exits.figures.min),
            Order::Max => by(|row| row.exits.figures.max),
            Order::Avg => average(other).total_cmp(&average(one)),
            Order::Number => Ordering::Equal,
        }
    }
}

fn average(row: &Reason) -> f64 {
    row.exits.figures.cycles as f64 / row.exits.figures.count.max(1) as f64
}
