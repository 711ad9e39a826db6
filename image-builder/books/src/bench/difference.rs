//! The differences between two measurements of one platform, row by row, as sentences.
//!
//! If runs repeat, every difference counts. If not, a row differs only if the 95% intervals of the medians have nothing in common
//! and the medians are more than [`NOISE`] apart: noise alone does either, but not both.

use super::baseline::{Budget, Row};
use super::parts::Split;

/// The distance that medians may have where runs do not repeat, as a part of the first.
const NOISE: f64 = 0.05;

/// A difference that is less than any tick and more than rounding.
const NOTHING: f64 = 1e-6;

/// The changes since `before`, as sentences that each begin with a row's name. Rows that `now` does not have are missed only if
/// `all` of them should be there.
pub fn differences(before: &[Row], now: &[Row], repeats: bool, all: bool) -> Vec<String> {
    let mut found = Vec::new();
    for row in now {
        match before.iter().find(|other| other.name == row.name) {
            Some(other) => found.extend(of_row(other, row, repeats)),
            None => found.push(format!("{}: it was not measured before", row.name)),
        }
    }
    let missing = before.iter().filter(|row| all && !now.iter().any(|other| other.name == row.name));
    found.extend(missing.map(|row| format!("{}: it was measured before, and is not any more", row.name)));
    found
}

fn of_row(before: &Row, now: &Row, repeats: bool) -> Option<String> {
    let (a, b) = match (&before.statistics, &now.statistics) {
        (None, None) => return None,
        (Some(a), Some(b)) => (a, b),
        (Some(_), None) => return Some(format!("{}: it has no samples any more", now.name)),
        (None, Some(_)) => return Some(format!("{}: it had no samples before", now.name)),
    };
    let same = if repeats {
        (&before.distribution, before.iterations, before.exits, before.cycles)
            == (&now.distribution, now.iterations, now.exits, now.cycles)
            && same_parts(before.parts, now.parts)
    } else {
        let overlap = a.median_between[0] <= b.median_between[1] && b.median_between[0] <= a.median_between[1];
        overlap || (f64::from(b.median) - f64::from(a.median)).abs() <= NOISE * f64::from(a.median)
    };
    if same {
        return None;
    }
    let mut what = Vec::new();
    let mut number = |name: &str, a: f64, b: f64| {
        if (a - b).abs() > NOTHING {
            what.push(format!("{name} {} -> {} ({:+})", shown(a), shown(b), Rounded(b - a)));
        }
    };
    number("median", a.median.into(), b.median.into());
    number("mean", a.mean, b.mean);
    number("minimum", a.min.into(), b.min.into());
    number("maximum", a.max.into(), b.max.into());
    number("exits an iteration", each(before.exits, before.iterations), each(now.exits, now.iterations));
    let mut sentence = format!("{}: ", now.name);
    match (before.parts, now.parts) {
        (Some(before), Some(now)) => {
            for (name, part) in Split::PARTS {
                number(name, part(&before), part(&now));
            }
            let change = |part: fn(&Split) -> f64| (part(&now) - part(&before)).abs();
            let most = Split::PARTS.into_iter().max_by(|(_, a), (_, b)| change(*a).total_cmp(&change(*b)));
            if let Some((name, part)) = most.filter(|&(_, part)| change(part) > NOTHING) {
                sentence += &format!("{} by its {name}; ", slower(part(&now) - part(&before)));
            }
        }
        _ => number("ledger's cycles", each(before.cycles, before.iterations), each(now.cycles, now.iterations)),
    }
    if what.is_empty() {
        what.push("the same figures of other samples".to_owned());
    }
    Some(sentence + &what.join(", "))
}

/// Whether the parts are the same, as far as a file keeps numbers. The calibration has its share in them.
fn same_parts(before: Option<Split>, now: Option<Split>) -> bool {
    match (before, now) {
        (Some(before), Some(now)) => Split::PARTS.iter().all(|(_, part)| (part(&before) - part(&now)).abs() <= NOTHING),
        (before, now) => before == now,
    }
}

fn each(sum: u64, iterations: u64) -> f64 {
    sum as f64 / iterations.max(1) as f64
}

fn slower(change: f64) -> &'static str {
    if change > 0.0 { "slower" } else { "faster" }
}

fn shown(number: f64) -> String {
    Rounded(number).to_string()
}

/// A number with as many digits as it takes, three at most.
struct Rounded(f64);

impl std::fmt::Display for Rounded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if f.sign_plus() && self.0 >= 0.0 { "+" } else { "" };
        let text = format!("{:.3}", self.0);
        write!(f, "{sign}{}", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// The differences of the operations with budgets, all of whose figures repeat.
pub fn of_budgets(before: &[Budget], now: &[Budget]) -> Vec<String> {
    let mut found = Vec::new();
    for (row, other) in now.iter().filter_map(|row| Some((row, before.iter().find(|other| other.exit == row.exit)?))) {
        let pairs = [
            ("ticks", other.ticks, row.ticks),
            ("ledger", other.ledger, row.ledger),
            ("keys", other.keys, row.keys),
            ("8 vCPUs", other.vcpus_8, row.vcpus_8),
        ];
        let what = pairs.iter().filter(|(_, a, b)| (a - b).abs() > NOTHING);
        let what: Vec<_> = what.map(|&(name, a, b)| format!("{name} {} -> {}", shown(a), shown(b))).collect();
        if !what.is_empty() {
            found.push(format!("budget of {}: {}", row.exit, what.join(", ")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::baseline::tests::row;
    use super::*;

    #[test]
    fn a_slower_handler_is_named() {
        let (before, now) = (row("cpuid", &[(86, 1000)]), row("cpuid", &[(91, 1000)]));
        let found = differences(&[before], &[now], true, true);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("cpuid: slower by its handler; median 86 -> 91 (+5)"), "{found:?}");
        assert!(found[0].contains("handler 27 -> 32 (+5)") && !found[0].contains("frame"), "{found:?}");
    }

    #[test]
    fn what_a_file_makes_of_a_number_is_no_difference() {
        let before = row("cpuid", &[(86, 1000)]);
        let with = |handler: f64| {
            let parts = before.parts.map(|parts| Split { handler, ..parts });
            differences(std::slice::from_ref(&before), &[Row { parts, ..before.clone() }], true, true)
        };
        let handler = before.parts.unwrap().handler;
        assert_eq!(with(handler.next_up()), [""; 0]);
        assert_eq!(with(handler + 1e-3).len(), 1);
    }

    #[test]
    fn one_sample_is_a_difference_where_runs_repeat() {
        let (before, now) = (row("cpuid", &[(86, 1000)]), row("cpuid", &[(86, 999), (87, 1)]));
        assert_eq!(differences(std::slice::from_ref(&before), std::slice::from_ref(&now), true, true).len(), 1);
        assert_eq!(differences(std::slice::from_ref(&before), &[now], false, true), [""; 0]);
        assert_eq!(differences(std::slice::from_ref(&before), std::slice::from_ref(&before), true, true), [""; 0]);
    }

    #[test]
    fn elsewhere_noise_is_none() {
        let of = |median: u32| row("cpuid", &[(median - 30, 300), (median, 400), (median + 30, 300)]);
        assert_eq!(differences(&[of(1000)], &[of(1040)], false, true), [""; 0], "disjoint, and within 5%");
        assert_eq!(differences(&[of(1000)], &[of(1060)], false, true).len(), 1);
        let few = |median: u32| row("cpuid", &[(median - 100, 2), (median, 1), (median + 100, 2)]);
        assert_eq!(differences(&[few(1000)], &[few(1060)], false, true), [""; 0], "more than 5%, and overlapping");
    }

    #[test]
    fn rows_come_and_go() {
        let (cpuid, vmcall) = (row("cpuid", &[(86, 1)]), row("vmcall", &[(86, 1)]));
        assert!(
            differences(&[], std::slice::from_ref(&cpuid), true, true)[0]
                .starts_with("cpuid: it was not measured before")
        );
        assert!(differences(&[cpuid.clone(), vmcall], &[cpuid], true, true)[0].starts_with("vmcall: it was measured"));
        assert_eq!(differences(&[row("vmcall", &[(86, 1)])], &[], true, false), [""; 0]);
    }
}
