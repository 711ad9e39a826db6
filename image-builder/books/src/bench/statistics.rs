//! Distributions of samples: percentiles by nearest rank, and a confidence interval of the median.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The number of samples by their ticks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Distribution(BTreeMap<u32, u64>);

/// The shown figures of a distribution, in TSC ticks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statistics {
    /// The number of samples.
    pub samples: u64,
    /// The least sample.
    pub min: u32,
    /// The 50th percentile.
    pub median: u32,
    /// The 90th percentile.
    pub p90: u32,
    /// The 99th percentile.
    pub p99: u32,
    /// The greatest sample.
    pub max: u32,
    /// The average.
    pub mean: f64,
    /// The bounds of the median with a confidence of 95%, by order statistics.
    pub median_between: [u32; 2],
    /// Samples more than three interquartile ranges above the third quartile.
    pub outliers: u64,
}

/// The quantile of the normal distribution for a confidence of 95%.
const CONFIDENT: f64 = 1.96;

impl Distribution {
    /// Adds `count` samples of `ticks` each.
    pub fn add(&mut self, ticks: u32, count: u64) {
        let known = self.0.entry(ticks).or_default();
        *known = known.saturating_add(count);
    }

    /// Adds another's samples.
    pub fn add_all(&mut self, other: &Distribution) {
        other.0.iter().for_each(|(&ticks, &count)| self.add(ticks, count));
    }

    /// The number of samples.
    pub fn samples(&self) -> u64 {
        self.0.values().copied().fold(0, u64::saturating_add)
    }

    /// The `rank`th sample in ascending order, from 1 on.
    fn ranked(&self, rank: u64) -> u32 {
        let mut below = 0u64;
        for (&ticks, &count) in &self.0 {
            below = below.saturating_add(count);
            if below >= rank {
                return ticks;
            }
        }
        self.0.keys().next_back().copied().unwrap_or(0)
    }

    /// The percentile by nearest rank.
    fn percentile(&self, percent: u64) -> u32 {
        self.ranked(u128::from(self.samples()).saturating_mul(percent.into()).div_ceil(100).max(1) as u64)
    }

    /// All shown figures; `None` if there are no samples.
    pub fn statistics(&self) -> Option<Statistics> {
        let samples = self.samples();
        let (&min, &max) = (self.0.keys().next()?, self.0.keys().next_back()?);
        if samples == 0 {
            return None;
        }
        let sum: f64 = self.0.iter().map(|(&ticks, &count)| f64::from(ticks) * count as f64).sum();
        // The number of samples below the median is binomial, hence nearly normal with this deviation.
        let (half, deviation) = (samples as f64 / 2.0, (samples as f64).sqrt() / 2.0);
        let low = (half - CONFIDENT * deviation).floor().max(1.0) as u64;
        let high = ((half + CONFIDENT * deviation).ceil() as u64 + 1).min(samples);
        let (first, third) = (u64::from(self.percentile(25)), u64::from(self.percentile(75)));
        let fence = third + 3 * (third - first);
        let outliers = self.0.iter().filter(|&(&ticks, _)| u64::from(ticks) > fence).map(|(_, count)| count);
        Some(Statistics {
            samples,
            min,
            median: self.percentile(50),
            p90: self.percentile(90),
            p99: self.percentile(99),
            max,
            mean: sum / samples as f64,
            median_between: [self.ranked(low), self.ranked(high)],
            outliers: outliers.fold(0, |sum, &count| sum.saturating_add(count)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(samples: impl IntoIterator<Item = u32>) -> Distribution {
        let mut distribution = Distribution::default();
        samples.into_iter().for_each(|ticks| distribution.add(ticks, 1));
        distribution
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let shown = of((1..=100).rev()).statistics().unwrap();
        assert_eq!((shown.min, shown.median, shown.p90, shown.p99, shown.max), (1, 50, 90, 99, 100));
        assert_eq!((shown.samples, shown.mean), (100, 50.5));
        let few = of([7]).statistics().unwrap();
        assert_eq!((few.min, few.median, few.p90, few.p99, few.max, few.outliers), (7, 7, 7, 7, 7, 0));
        assert_eq!(few.median_between, [7, 7]);
        assert_eq!(of([]).statistics(), None);
    }

    #[test]
    fn the_median_lies_where_order_statistics_say() {
        // Of 100 samples, ranks 40 and 61: a textbook's table has 40 and 61 for 95%.
        assert_eq!(of(1..=100).statistics().unwrap().median_between, [40, 61]);
        assert_eq!(of([5; 1000]).statistics().unwrap().median_between, [5, 5]);
    }

    #[test]
    fn outliers_are_far_above_the_rest() {
        let shown = of((1..=100).chain([301, 1000])).statistics().unwrap();
        assert_eq!(shown.outliers, 2);
    }

    #[test]
    fn pooled_samples_are_all_there() {
        let mut both = of([1, 2]);
        both.add_all(&of([2, 3]));
        assert_eq!(both, of([1, 2, 2, 3]));
    }
}
