//! Many runs of one kind as one: sums, and how far the runs lie apart. The memory that this takes grows with the kinds of runs
//! and with the reasons, not with the number of runs.

use std::collections::BTreeMap;

use compact_str::CompactString;
use serde::Serialize;

use super::{Account, PlatformFacts, Reason};
use crate::exits::Exits;

/// The merged document's format. Fields may be added under this name, not renamed.
pub const MERGED_SCHEMA: &str = "tollgate.merged/1";

/// The most kinds of runs that are told apart; logs of more kinds have nothing in common.
pub const MOST_KINDS: usize = 1000;

/// The most verdicts that are told apart, by their first words.
const MOST_VERDICTS: usize = 16;

/// Runs merged by what makes them comparable.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Merged {
    /// [`MERGED_SCHEMA`].
    pub schema: &'static str,
    /// Runs in all groups.
    pub runs: u64,
    /// Logs that could not be used.
    pub unusable: u64,
    /// The groups, by platform, build and options.
    pub groups: Vec<Group>,
}

/// The runs of one build with the same options on one platform.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// The platform that they ran on.
    pub platform: PlatformFacts,
    /// The monitor's build.
    pub build: String,
    /// The runs' options.
    pub options: String,
    /// The number of runs.
    pub runs: u64,
    /// The number of runs with a ledger; the figures are of these.
    pub accounted: u64,
    /// Runs by the first word of their verdict.
    pub verdicts: BTreeMap<String, u64>,
    /// Exits of all runs.
    pub exits: u64,
    /// TSC ticks of all exits.
    pub cycles: u64,
    /// The reasons that any run has exits of, in ascending order.
    pub reasons: Vec<MergedReason>,
}

/// One reason over the runs of a group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MergedReason {
    /// Sums over all runs, and the extremes.
    #[serde(flatten)]
    pub reason: MergedRow,
    /// The number of runs that have exits for this reason.
    pub runs: u64,
    /// Exits of one run; 0 for a run that has none.
    #[serde(rename = "count_of_a_run")]
    pub count: Spread<u64>,
    /// TSC ticks of an average exit of one run, over the runs that have any.
    #[serde(rename = "average_of_a_run")]
    pub average: Spread<f64>,
}

/// A reason's sums over many runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MergedRow {
    /// The basic exit reason.
    pub number: u16,
    /// The SDM's name.
    pub name: CompactString,
    /// The reason's exits.
    #[serde(flatten)]
    pub exits: Exits,
}

/// The least, the middle and the most of a figure over all runs; of two in the middle, the lower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spread<T> {
    /// The least figure.
    pub min: T,
    /// The middle: half of the runs had no more. Exact up to some thousand different figures, then to a few bits less at a time.
    pub median: T,
    /// The greatest figure.
    pub max: T,
}

/// The part of a run's account that is merged.
#[derive(Debug)]
pub struct Share {
    kind: [String; 5],
    verdict: String,
    /// The reasons with exits; `None` if the run's figures are not whole.
    reasons: Option<Vec<MergedRow>>,
}

impl Share {
    /// The share of a run.
    pub fn of(account: Account) -> Self {
        let verdict = account.verdict.word().to_owned();
        let has_ledger = account.has_whole_ledger();
        let reasons = account.reasons.into_iter().filter(|reason| reason.exits.figures.count > 0);
        let row = |Reason { number, name, exits, .. }| MergedRow { number, name, exits };
        let reasons = has_ledger.then(|| reasons.map(row).collect());
        let PlatformFacts { virtualization, kind, cpu, .. } = account.platform;
        Self { kind: [virtualization, kind, cpu, account.build, account.options], verdict, reasons }
    }
}

/// Collects runs.
#[derive(Debug, Default)]
pub struct Merge {
    groups: BTreeMap<[String; 5], Collected>,
    runs: u64,
}

#[derive(Debug, Default)]
struct Collected {
    runs: u64,
    accounted: u64,
    verdicts: BTreeMap<String, u64>,
    reasons: BTreeMap<u16, CollectedReason>,
}

#[derive(Debug, Default)]
struct CollectedReason {
    row: MergedRow,
    runs: u64,
    counts: Sample,
    /// Average ticks, in hundredths.
    averages: Sample,
}

const HUNDREDTHS: u64 = 100;

impl Merge {
    /// Takes the next run; `false` if there are too many kinds for it to be told apart, so that it is left out.
    pub fn add(&mut self, Share { kind, verdict, reasons }: Share) -> bool {
        if self.groups.len() >= MOST_KINDS && !self.groups.contains_key(&kind) {
            return false;
        }
        self.runs += 1;
        self.groups.entry(kind).or_default().add(verdict, reasons);
        true
    }

    /// The result.
    pub fn finish(self, unusable: u64) -> Merged {
        let groups = self.groups.into_iter().map(|(key, collected)| collected.finish(key)).collect();
        Merged { schema: MERGED_SCHEMA, runs: self.runs, unusable, groups }
    }
}

impl Collected {
    fn add(&mut self, verdict: String, reasons: Option<Vec<MergedRow>>) {
        self.runs += 1;
        let told_apart = self.verdicts.len() < MOST_VERDICTS || self.verdicts.contains_key(&verdict);
        *self.verdicts.entry(if told_apart { verdict } else { "other".to_owned() }).or_default() += 1;
        let Some(reasons) = reasons else { return };
        self.accounted += 1;
        for reason in &reasons {
            self.reasons.entry(reason.number).or_default().add(reason);
        }
    }

    fn finish(self, [virtualization, kind, cpu, build, options]: [String; 5]) -> Group {
        let sum = |figure: fn(&MergedRow) -> u64| {
            self.reasons.values().fold(0_u64, |sum, reason| sum.saturating_add(figure(&reason.row)))
        };
        let (exits, cycles) = (sum(|row| row.exits.figures.count), sum(|row| row.exits.figures.cycles));
        let accounted = self.accounted;
        Group {
            platform: PlatformFacts { kind, emulator: None, virtualization, cpu },
            build,
            options,
            runs: self.runs,
            accounted,
            verdicts: self.verdicts,
            exits,
            cycles,
            reasons: self.reasons.into_values().map(|reason| reason.finish(accounted)).collect(),
        }
    }
}

impl CollectedReason {
    fn add(&mut self, more: &MergedRow) {
        let row = &mut self.row;
        if self.runs == 0 {
            row.number = more.number;
            row.name.clone_from(&more.name);
        }
        self.runs += 1;
        row.exits.add(&more.exits);
        self.counts.add(more.exits.figures.count, 1);
        let average = u128::from(more.exits.figures.cycles) * u128::from(HUNDREDTHS)
            / u128::from(more.exits.figures.count.max(1));
        self.averages.add(average.try_into().unwrap_or(u64::MAX), 1);
    }

    fn finish(mut self, accounted: u64) -> MergedReason {
        self.counts.add(0, accounted - self.runs);
        let average = self.averages.spread();
        let ticks = |hundredths: u64| hundredths as f64 / HUNDREDTHS as f64;
        MergedReason {
            reason: self.row,
            runs: self.runs,
            count: self.counts.spread(),
            average: Spread { min: ticks(average.min), median: ticks(average.median), max: ticks(average.max) },
        }
    }
}

/// Numbers of which the median is wanted, in bounded memory: each with the times that it came. Once there are too many different
/// numbers, those with the same leading bits are one.
#[derive(Debug)]
struct Sample {
    times: BTreeMap<u64, u64>,
    bits: u32,
    extremes: Option<(u64, u64)>,
}

impl Default for Sample {
    fn default() -> Self {
        Self { times: BTreeMap::new(), bits: u64::BITS, extremes: None }
    }
}

impl Sample {
    /// The most different numbers that are kept.
    const MOST: usize = 4096;

    fn add(&mut self, value: u64, times: u64) {
        if times == 0 {
            return;
        }
        let (min, max) = self.extremes.unwrap_or((value, value));
        self.extremes = Some((min.min(value), max.max(value)));
        *self.times.entry(leading(value, self.bits)).or_default() += times;
        while self.times.len() > Self::MOST {
            self.bits -= 1;
            for (value, times) in std::mem::take(&mut self.times) {
                *self.times.entry(leading(value, self.bits)).or_default() += times;
            }
        }
    }

    fn spread(&self) -> Spread<u64> {
        let Some((min, max)) = self.extremes else { return Spread::default() };
        let all: u64 = self.times.values().sum();
        let mut before = 0;
        let middle = self.times.iter().find(|(_, times)| {
            before += **times;
            before >= all.div_ceil(2)
        });
        Spread { min, median: middle.map_or(min, |(&value, _)| value).clamp(min, max), max }
    }
}

/// A number with nothing but its `bits` leading bits.
fn leading(value: u64, bits: u32) -> u64 {
    let dropped = (u64::BITS - value.leading_zeros()).saturating_sub(bits);
    value >> dropped << dropped
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sample_of_any_size_is_bounded_and_close() {
        let mut sample = Sample::default();
        (0..200_000_u64).for_each(|value| sample.add(value * 7919 % 200_000 + 1_000_000, 1));
        assert!(sample.times.len() <= Sample::MOST);
        let Spread { min, median, max } = sample.spread();
        assert_eq!((min, max), (1_000_000, 1_199_999));
        assert!(median.abs_diff(1_100_000) < 1_100, "{median}");
    }

    proptest! {
        #[test]
        fn few_numbers_have_an_exact_middle(values in proptest::collection::vec(any::<u64>(), 1..100)) {
            let mut sample = Sample::default();
            values.iter().for_each(|&value| sample.add(value, 1));
            let mut sorted = values;
            sorted.sort_unstable();
            let last = sorted.len() - 1;
            let expected = Spread { min: sorted[0], median: sorted[last / 2], max: sorted[last] };
            prop_assert_eq!(sample.spread(), expected);
        }
    }
}
