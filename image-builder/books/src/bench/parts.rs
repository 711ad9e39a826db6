//! The parts of a round trip: the ledger's, those of stub and account, and the rest, which is the hardware's.

use serde::{Deserialize, Serialize};
use tollgate_abi::bench::Parts;

use crate::log::{Calibration, Cost};

/// The parts of the mean round trip, in TSC ticks; they sum to the mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// The cost of the guest's timing.
    pub timing: f64,
    /// The instruction, the exit and the entry, as the hardware does them, and the guest's own handler where there is one.
    pub transition: f64,
    /// Saving and restoring the guest's registers.
    pub frame: f64,
    /// The ledger's part, without the way through stub and account.
    pub handler: f64,
    /// Reading the time stamps, opening and closing an exit.
    pub account: f64,
}

/// Reads a part.
type Part = fn(&Split) -> f64;

impl Split {
    /// The names of the parts, and the function that reads each.
    pub const PARTS: [(&'static str, Part); 5] = [
        ("timing", |split| split.timing),
        ("transition", |split| split.transition),
        ("frame", |split| split.frame),
        ("handler", |split| split.handler),
        ("account", |split| split.account),
    ];

    /// Tells the parts of `mean` apart. `None` where that can't be done: other vCPUs wait meanwhile, or the calibrated parts are
    /// more than the whole, as where a processor overlaps its work.
    pub fn new(parts: Parts, mean: f64, timing: f64, iterations: u64, cost: Cost, times: &Calibration) -> Option<Self> {
        let (turns, iterations) = (times.turns as f64, iterations as f64);
        if parts == Parts::Waiting || turns == 0.0 || iterations == 0.0 {
            return None;
        }
        let share = if parts == Parts::Clock { 0.5 } else { 1.0 };
        let (exits, ledger) = (cost.exits as f64 * share / iterations, cost.cycles as f64 * share / iterations);
        let of = |ticks: u64, less: u64| (ticks as f64 - less as f64) * exits / turns;
        let (frame, account) = (of(times.frame, times.empty), of(times.whole, times.frame));
        let inside = of(times.inside, 0);
        let handler = ledger - inside;
        let transition = mean - timing - ledger - (frame + account - inside);
        let split = Self { timing, transition, frame, handler, account };
        // No part is negative, but for rounding.
        Self::PARTS.iter().all(|(_, part)| part(&split) > -0.5).then_some(split)
    }

    /// The sum of the parts.
    pub fn sum(&self) -> f64 {
        Self::PARTS.iter().map(|(_, part)| part(self)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Calibration = Calibration { turns: 1000, empty: 2010, frame: 36_010, whole: 53_010, inside: 19_000 };
    const COST: Cost = Cost { exits: 1016, cycles: 50_800 };

    #[test]
    fn the_parts_are_the_whole() {
        let split = Split::new(Parts::Exits, 90.0, 4.0, 1016, COST, &TIMES).unwrap();
        assert_eq!((split.handler, split.account, split.frame), (31.0, 17.0, 34.0));
        assert_eq!((split.transition, split.sum()), (4.0, 90.0));
    }

    #[test]
    fn of_the_clocks_exits_half_are_within() {
        let twice = Cost { exits: 2 * COST.exits, cycles: 2 * COST.cycles };
        let split = Split::new(Parts::Clock, 90.0, 4.0, 1016, twice, &TIMES);
        assert_eq!(split, Split::new(Parts::Exits, 90.0, 4.0, 1016, COST, &TIMES));
    }

    #[test]
    fn what_cannot_be_told_apart_is_not_guessed() {
        assert_eq!(Split::new(Parts::Waiting, 90.0, 4.0, 1016, COST, &TIMES), None);
        assert_eq!(Split::new(Parts::Exits, 70.0, 4.0, 1016, COST, &TIMES), None, "less than its parts");
        assert_eq!(Split::new(Parts::Exits, 90.0, 4.0, 1016, COST, &Calibration::default()), None);
    }
}
