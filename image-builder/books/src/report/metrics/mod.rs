//! Accounts for monitoring systems: counters and histograms of each reason on each vCPU, in ticks of the time-stamp counter,
//! with the log, the platform and the virtualization extension as labels. The same series in either text format.

mod classic;
mod openmetrics;

use std::fmt::Debug;
use std::io::{self, Write};

use super::figures::bounds;
use super::{Form, Titled};
use crate::account::{Account, Merged, MergedReason, Verdict};
use crate::exits::Exits;
use crate::failure::Status;

/// The last bucket with a boundary of its own. Boundaries are the same in every document, so that series can be added. Longer
/// exits, of about a second on most processors, are in `+Inf`.
const LAST_BUCKET: u8 = 31;

/// The most runs whose series a monitoring system takes at a time.
const MOST_EXPOSED: u64 = 1000;

/// Families of series.
#[derive(Debug)]
pub(super) struct Families {
    kept: Vec<Titled>,
    encode: fn(Vec<Metric>) -> String,
}

impl Families {
    /// OpenMetrics text 1.0, which scrapers ask for.
    pub(super) fn openmetrics() -> Self {
        Self { kept: Vec::new(), encode: openmetrics::encode }
    }

    /// Prometheus' text format 0.0.4, which collectors of text files read.
    pub(super) fn classic() -> Self {
        Self { kept: Vec::new(), encode: classic::encode }
    }
}

impl Form for Families {
    fn most(&self) -> u64 {
        MOST_EXPOSED
    }

    fn add(&mut self, titled: Titled, _: &mut dyn Write) -> io::Result<()> {
        self.kept.push(titled);
        Ok(())
    }

    fn finish(&mut self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all((self.encode)(of_accounts(&self.kept)).as_bytes())
    }

    fn merged(&self, merged: &Merged) -> String {
        (self.encode)(of_merged(merged))
    }
}

/// The unit of times.
const TICKS: &str = "ticks";

type Labels = Vec<(&'static str, String)>;

/// The figure of a metric for one reason.
#[derive(Debug)]
enum Figure {
    Counter(u64),
    Gauge(f64),
    Histogram(Exits),
}

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
    /// A gauge of 1 whose labels are facts.
    Facts,
}

/// One metric: its name without the suffixes that its unit and its type add, its description, and its series.
#[derive(Debug)]
struct Metric {
    name: &'static str,
    help: &'static str,
    unit: Option<&'static str>,
    kind: Kind,
    series: Vec<(Labels, Figure)>,
}

impl Metric {
    fn new(name: &'static str, help: &'static str, kind: Kind) -> Self {
        Self { name, help, unit: None, kind, series: Vec::new() }
    }

    fn ticks(mut self) -> Self {
        self.unit = Some(TICKS);
        self
    }

    fn add(&mut self, labels: &Labels, figure: Figure) {
        self.series.push((labels.clone(), figure));
    }
}

/// The metrics of accounts.
fn of_accounts(accounts: &[Titled]) -> Vec<Metric> {
    let mut runs = Metric::new("tollgate_run", "A run that a log is of", Kind::Facts);
    let mut balanced = Metric::new("tollgate_balanced", "1 if every book of the run agrees, 0 if not", Kind::Gauge);
    let mut exits = Metric::new("tollgate_exits", "VM exits in the monitor's ledger", Kind::Counter);
    let mut times = Metric::new(
        "tollgate_exit_ticks",
        "How long VM exits took, in ticks of the time-stamp counter",
        Kind::Histogram,
    );
    let mut shortest = Metric::new("tollgate_exit_min", "The shortest exit", Kind::Gauge);
    let mut longest = Metric::new("tollgate_exit_max", "The longest exit", Kind::Gauge);
    let mut entries = Metric::new("tollgate_entries", "VM entries", Kind::Counter);
    let mut elapsed = Metric::new("tollgate_elapsed", "From the first entry to the last exit", Kind::Gauge);
    let mut guest = Metric::new("tollgate_guest_exits", "Exits in the guest's own book, all vCPUs", Kind::Counter);
    // A histogram has its unit in its name alone: readers do not agree on whether one may be declared.
    for metric in [&mut shortest, &mut longest, &mut elapsed] {
        metric.unit = Some(TICKS);
    }
    for Titled { title, account } in accounts {
        let whole = labels_of(title, account);
        let mut facts = whole.clone();
        facts.extend([
            ("cpu", account.platform.cpu.clone()),
            ("build", account.build.clone()),
            ("options", account.options.clone()),
            ("verdict", account.verdict.to_string()),
        ]);
        runs.add(&facts, Figure::Gauge(1.0));
        // A run that can't be judged is neither.
        if !matches!(account.verdict, Verdict::Unjudged(_)) {
            balanced.add(&whole, Figure::Gauge(f64::from(u8::from(account.status == Status::Balanced))));
        }
        for vcpu in &account.per_vcpu {
            let on_vcpu = with(&whole, [("vcpu", vcpu.vcpu.to_string())]);
            if !vcpu.lost {
                entries.add(&on_vcpu, Figure::Counter(vcpu.entries));
                elapsed.add(&on_vcpu, Figure::Gauge(vcpu.elapsed as f64));
            }
            for row in vcpu.reasons.iter().filter(|row| row.exits.figures.count > 0) {
                let labels = with(&on_vcpu, [("number", row.number.to_string()), ("reason", row.name.to_string())]);
                exits.add(&labels, Figure::Counter(row.exits.figures.count));
                shortest.add(&labels, Figure::Gauge(row.exits.figures.min as f64));
                longest.add(&labels, Figure::Gauge(row.exits.figures.max as f64));
                times.add(&labels, Figure::Histogram(row.exits.clone()));
            }
        }
        for row in account.reasons.iter().filter(|row| row.guest_count > Some(0)) {
            let labels = with(&whole, [("number", row.number.to_string()), ("reason", row.name.to_string())]);
            guest.add(&labels, Figure::Counter(row.guest_count.unwrap_or(0)));
        }
    }
    vec![runs, balanced, exits, times, shortest, longest, entries, elapsed, guest]
}

/// The metrics of merged runs: their sums as counters, their spread as gauges.
fn of_merged(merged: &Merged) -> Vec<Metric> {
    let mut runs = Metric::new("tollgate_runs", "Runs that are merged, by verdict", Kind::Counter);
    let mut unusable = Metric::new("tollgate_unusable_logs", "Logs that could not be used", Kind::Counter);
    let mut exits = Metric::new("tollgate_merged_exits", "VM exits of all runs", Kind::Counter);
    let mut times =
        Metric::new("tollgate_merged_exit_ticks", "How long the VM exits of all runs took", Kind::Histogram);
    let mut counts = Metric::new("tollgate_exits_of_a_run", "VM exits of one run: least, median, most", Kind::Gauge);
    let mut averages = Metric::new(
        "tollgate_exit_average",
        "Ticks of an exit on average in one run: least, median, most",
        Kind::Gauge,
    )
    .ticks();
    unusable.add(&Vec::new(), Figure::Counter(merged.unusable));
    for group in &merged.groups {
        let whole: Labels = vec![
            ("virtualization", group.platform.virtualization.clone()),
            ("platform", group.platform.kind.clone()),
            ("cpu", group.platform.cpu.clone()),
            ("build", group.build.clone()),
            ("options", group.options.clone()),
        ];
        for (verdict, &count) in &group.verdicts {
            runs.add(&with(&whole, [("verdict", verdict.clone())]), Figure::Counter(count));
        }
        for row in &group.reasons {
            let MergedReason { reason, count, average, .. } = row;
            let labels = with(&whole, [("number", reason.number.to_string()), ("reason", reason.name.to_string())]);
            exits.add(&labels, Figure::Counter(reason.exits.figures.count));
            times.add(&labels, Figure::Histogram(reason.exits.clone()));
            for (which, exits, ticks) in [
                ("least", count.min, average.min),
                ("median", count.median, average.median),
                ("most", count.max, average.max),
            ] {
                let labels = with(&labels, [("which", which.to_owned())]);
                counts.add(&labels, Figure::Gauge(exits as f64));
                averages.add(&labels, Figure::Gauge(ticks));
            }
        }
    }
    vec![runs, unusable, exits, times, counts, averages]
}

fn labels_of(title: &str, account: &Account) -> Labels {
    vec![
        ("log", title.to_owned()),
        ("platform", account.platform.kind.clone()),
        ("virtualization", account.platform.virtualization.clone()),
    ]
}

fn with<const N: usize>(labels: &Labels, more: [(&'static str, String); N]) -> Labels {
    labels.iter().cloned().chain(more).collect()
}

/// The buckets of a histogram, each by itself: the most ticks that it holds, and its exits. The last has no bound.
fn buckets(Exits { figures, histogram }: &Exits) -> Vec<(f64, u64)> {
    let mut buckets: Vec<(f64, u64)> =
        (0..=LAST_BUCKET).map(|bucket| (bounds(bucket).1 as f64, histogram.of(bucket))).collect();
    let within = buckets.iter().fold(0_u64, |sum, bucket| sum.saturating_add(bucket.1));
    buckets.push((f64::INFINITY, figures.count.saturating_sub(within)));
    buckets
}
