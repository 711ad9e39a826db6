//! Exits of one kind: their figures and their histogram, and the one place where two of them are added.

use serde::Serialize;
use smallvec::SmallVec;
use tollgate_abi::figures::Figures;

/// Exits of one kind, as a ledger's row has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Exits {
    /// Their number and their ticks.
    #[serde(flatten)]
    pub figures: Figures,
    /// Their number by power of two of their ticks.
    pub histogram: Histogram,
}

impl Exits {
    /// Adds more exits.
    pub fn add(&mut self, more: &Exits) {
        self.figures.add(more.figures);
        self.histogram.add(&more.histogram);
    }
}

/// Exits by power of two of their ticks. It has the buckets that are not empty, in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Histogram(SmallVec<[Bucket; 3]>);

/// Exits that took from `1 << bucket` ticks to less than twice that; bucket 0 has 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// The power of two.
    pub bucket: u8,
    /// The number of such exits.
    pub count: u64,
}

impl Histogram {
    /// The buckets that are not empty.
    pub fn buckets(&self) -> &[Bucket] {
        &self.0
    }

    /// The exits in all buckets.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, bucket| sum.saturating_add(bucket.count))
    }

    /// The exits in one bucket.
    pub fn of(&self, bucket: u8) -> u64 {
        self.0.binary_search_by_key(&bucket, |known| known.bucket).map_or(0, |at| self.0[at].count)
    }

    /// Adds the exits of another.
    pub fn add(&mut self, more: &Histogram) {
        self.extend(more.0.iter().map(|bucket| (bucket.bucket, bucket.count)));
    }

    /// The bucket that counts an exit of `cycles`.
    pub(crate) fn bucket_of(cycles: u64) -> u8 {
        cycles.max(1).ilog2() as u8
    }
}

/// Adds so many exits to each of these buckets.
impl Extend<(u8, u64)> for Histogram {
    fn extend<T: IntoIterator<Item = (u8, u64)>>(&mut self, more: T) {
        for (bucket, count) in more.into_iter().filter(|&(_, count)| count > 0) {
            match self.0.binary_search_by_key(&bucket, |known| known.bucket) {
                Ok(at) => self.0[at].count = self.0[at].count.saturating_add(count),
                Err(at) => self.0.insert(at, Bucket { bucket, count }),
            }
        }
    }
}

impl FromIterator<(u8, u64)> for Histogram {
    fn from_iter<T: IntoIterator<Item = (u8, u64)>>(buckets: T) -> Self {
        let mut histogram = Self::default();
        histogram.extend(buckets);
        histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_added_with_their_buckets() {
        let of = |count, cycles, min, max, buckets: &[(u8, u64)]| Exits {
            figures: Figures { count, cycles, min, max },
            histogram: buckets.iter().copied().collect(),
        };
        let mut sum = of(3, 190, 60, 70, &[(6, 1), (5, 2)]);
        sum.add(&of(3, 2180, 80, 1050, &[(10, 2), (6, 1), (7, 0)]));
        assert_eq!(sum, of(6, 2370, 60, 1050, &[(5, 2), (6, 2), (10, 2)]));
        let buckets: Vec<(u8, u64)> = sum.histogram.buckets().iter().map(|one| (one.bucket, one.count)).collect();
        assert_eq!((buckets, sum.histogram.count()), (vec![(5, 2), (6, 2), (10, 2)], 6));
    }

    #[test]
    fn damaged_buckets_stay_at_the_most_that_there_is() {
        let histogram: Histogram = [(6, u64::MAX), (6, 1), (7, 1)].into_iter().collect();
        assert_eq!((histogram.buckets().len(), histogram.count()), (2, u64::MAX));
    }
}
