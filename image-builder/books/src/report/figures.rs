//! Figures that every form derives from an account in the same way.

use crate::account::{Account, Reason};
use crate::exits::{Bucket, Exits};

/// A share in percent, or `-` where the whole is 0.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.2}%", part as f64 * 100.0 / whole as f64) }
}

/// The count of a book, or `-` where there is none.
pub(super) fn book(count: Option<u64>) -> String {
    count.map_or_else(|| "-".to_owned(), |count| count.to_string())
}

/// A figure, or `-` where it is lost.
pub(super) fn unless_lost(lost: bool, figure: String) -> String {
    if lost { "-".to_owned() } else { figure }
}

/// TSC ticks of one of `count` exits.
pub(super) fn average(cycles: u64, count: u64) -> String {
    format!("{:.1}", cycles as f64 / count.max(1) as f64)
}

/// A number of things, in words: "1 run", "2 runs".
pub fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A number in the room of four digits and a binary unit.
pub(super) fn scaled(number: u64) -> (u64, &'static str) {
    const UNITS: [(u64, &str); 6] =
        [(1 << 60, "Ei"), (1 << 50, "Pi"), (1 << 40, "Ti"), (1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
    let unit = UNITS.iter().find(|(unit, _)| number >= *unit);
    unit.map_or((number, ""), |&(unit, name)| (number / unit, name))
}

/// The reasons that any book has.
pub(super) fn seen(account: &Account) -> Vec<&Reason> {
    let any = |reason: &&Reason| {
        reason.exits.figures.count > 0 || reason.guest_count > Some(0) || reason.audit_count > Some(0)
    };
    account.reasons.iter().filter(any).collect()
}

/// The least and the most ticks that a bucket holds.
pub(super) fn bounds(bucket: u8) -> (u64, u64) {
    let least = if bucket == 0 { 0 } else { 1_u64.checked_shl(bucket.into()).unwrap_or(u64::MAX) };
    let next = 1_u64.checked_shl(u32::from(bucket) + 1);
    (least, next.map_or(u64::MAX, |next| next - 1))
}

/// Ticks that `share` of all exits did not exceed, estimated: exact as to the power of two, within which exits are taken to lie
/// evenly between the shortest and the longest. `None` without exits.
pub(super) fn percentile(exits: &Exits, share: f64) -> Option<u64> {
    let count = exits.histogram.count();
    if count == 0 {
        return None;
    }
    let rank = ((count as f64 * share).ceil() as u64).clamp(1, count);
    let mut before = 0_u64;
    let holds_it = |bucket: &&Bucket| {
        let reached = before.saturating_add(bucket.count);
        if reached < rank {
            before = reached;
        }
        reached >= rank
    };
    let bucket = exits.histogram.buckets().iter().find(holds_it)?;
    let (least, most) = bounds(bucket.bucket);
    let (least, most) = (least.max(exits.figures.min), most.min(exits.figures.max));
    let within = (rank - before) as f64 - 0.5;
    let estimate = least as f64 + most.saturating_sub(least) as f64 * within / bucket.count as f64;
    // The figures of a damaged log may contradict each other.
    Some((estimate.round() as u64).clamp(least.min(most), most.max(least)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exits::Histogram;
    use proptest::prelude::*;
    use tollgate_abi::figures::Figures;

    #[test]
    fn a_bucket_holds_a_power_of_two() {
        for (bucket, expected) in [(0, (0, 1)), (1, (2, 3)), (6, (64, 127)), (63, (1 << 63, u64::MAX))] {
            assert_eq!(bounds(bucket), expected, "bucket {bucket}");
        }
    }

    #[test]
    fn estimates_are_exact_where_all_exits_took_the_same() {
        assert_eq!(percentile(&of([70; 1000].into_iter()), 0.5), Some(70));
        assert_eq!(percentile(&Exits::default(), 0.5), None);
    }

    /// Exits that took so many ticks.
    fn of(ticks: impl Iterator<Item = u64>) -> Exits {
        let mut exits = Exits::default();
        for ticks in ticks {
            exits.figures.add(Figures { count: 1, cycles: ticks, min: ticks, max: ticks });
            exits.histogram.extend([(Histogram::bucket_of(ticks), 1)]);
        }
        exits
    }

    proptest! {
        #[test]
        fn an_estimate_is_within_a_factor_of_two(ticks in proptest::collection::vec(1u64..1_000_000, 1..200), share in 0.01f64..1.0) {
            let mut sorted = ticks;
            sorted.sort_unstable();
            let extremes = [sorted[0], sorted[sorted.len() - 1]];
            let exact = sorted[((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len()) - 1];
            let estimate = percentile(&of(sorted.iter().copied()), share).unwrap();
            prop_assert!((extremes[0]..=extremes[1]).contains(&estimate));
            prop_assert_eq!(estimate.ilog2(), exact.ilog2());
        }
    }
}
