//! Accounts for monitoring systems, as OpenMetrics text: counters and histograms of each reason on each vCPU, in ticks of
//! the time-stamp counter, with the log, the platform and the virtualization extension as labels.

use std::fmt::{self, Debug};
use std::io::{self, Write};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::figures::bounds;
use super::{Form, Titled};
use crate::account::{Account, Merged, MergedReason};
use crate::exits::Exits;
use crate::failure::Status;

/// The last bucket with a boundary of its own. Boundaries are the same in every document, so that series can be added. Longer
/// exits, of about a second on most processors, are in `+Inf`.
const LAST_BUCKET: u8 = 31;

/// The most runs whose series a monitoring system takes at a time.
const MOST_EXPOSED: u64 = 1000;

/// OpenMetrics: families of series.
#[derive(Debug, Default)]
pub(super) struct Families {
    kept: Vec<Titled>,
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
        out.write_all(render(&self.kept).as_bytes())
    }

    fn merged(&self, merged: &Merged) -> String {
        render_merged(merged)
    }
}

type Labels = Vec<(&'static str, String)>;

/// The figure of a metric for one reason.
enum Figure {
    Counter(u64),
    Gauge(f64),
    Histogram(Exits),
}

/// One metric: its name without the suffix that its type adds, its description, and its series.
struct Metric {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
    series: Vec<(Labels, Figure)>,
}

impl Metric {
    fn new(name: &'static str, help: &'static str, kind: MetricType) -> Self {
        Self { name, help, unit: None, kind, series: Vec::new() }
    }

    fn ticks(mut self) -> Self {
        self.unit = Some(Unit::Other("ticks".to_owned()));
        self
    }

    fn add(&mut self, labels: &Labels, figure: Figure) {
        self.series.push((labels.clone(), figure));
    }
}

/// Writes accounts as one exposition, which ends with `# EOF`.
fn render(accounts: &[Titled]) -> String {
    let mut runs = Metric::new("tollgate_run", "A run that a log is of", MetricType::Info);
    let mut balanced =
        Metric::new("tollgate_balanced", "1 if every book of the run agrees, 0 if not", MetricType::Gauge);
    let mut exits = Metric::new("tollgate_exits", "VM exits in the monitor's ledger", MetricType::Counter);
    let mut times = Metric::new(
        "tollgate_exit_ticks",
        "How long VM exits took, in ticks of the time-stamp counter",
        MetricType::Histogram,
    );
    let mut shortest = Metric::new("tollgate_exit_min", "The shortest exit", MetricType::Gauge);
    let mut longest = Metric::new("tollgate_exit_max", "The longest exit", MetricType::Gauge);
    let mut entries = Metric::new("tollgate_entries", "VM entries", MetricType::Counter);
    let mut elapsed = Metric::new("tollgate_elapsed", "From the first entry to the last exit", MetricType::Gauge);
    let mut guest =
        Metric::new("tollgate_guest_exits", "Exits in the guest's own book, all vCPUs", MetricType::Counter);
    // A histogram has its unit in its name alone: readers do not agree on whether one may be declared.
    for metric in [&mut shortest, &mut longest, &mut elapsed] {
        metric.unit = Some(Unit::Other("ticks".to_owned()));
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
        balanced.add(&whole, Figure::Gauge(f64::from(u8::from(account.status == Status::Balanced))));
        for vcpu in &account.per_vcpu {
            let on_vcpu = with(&whole, [("vcpu", vcpu.vcpu.to_string())]);
            entries.add(&on_vcpu, Figure::Counter(vcpu.entries));
            elapsed.add(&on_vcpu, Figure::Gauge(vcpu.elapsed as f64));
            for row in vcpu.reasons.iter().filter(|row| row.exits.figures.count > 0) {
                let labels = with(&on_vcpu, [("number", row.number.to_string()), ("reason", row.name.clone())]);
                exits.add(&labels, Figure::Counter(row.exits.figures.count));
                shortest.add(&labels, Figure::Gauge(row.exits.figures.min as f64));
                longest.add(&labels, Figure::Gauge(row.exits.figures.max as f64));
                times.add(&labels, Figure::Histogram(row.exits.clone()));
            }
        }
        for row in account.reasons.iter().filter(|row| row.guest_count > Some(0)) {
            let labels = with(&whole, [("number", row.number.to_string()), ("reason", row.name.clone())]);
            guest.add(&labels, Figure::Counter(row.guest_count.unwrap_or(0)));
        }
    }
    encode(vec![runs, balanced, exits, times, shortest, longest, entries, elapsed, guest])
}

/// Writes merged runs: their sums as counters, their spread as gauges.
fn render_merged(merged: &Merged) -> String {
    let mut runs = Metric::new("tollgate_runs", "Runs that are merged, by verdict", MetricType::Counter);
    let mut unusable = Metric::new("tollgate_unusable_logs", "Logs that could not be used", MetricType::Counter);
    let mut exits = Metric::new("tollgate_merged_exits", "VM exits of all runs", MetricType::Counter);
    let mut times =
        Metric::new("tollgate_merged_exit_ticks", "How long the VM exits of all runs took", MetricType::Histogram);
    let mut counts =
        Metric::new("tollgate_exits_of_a_run", "VM exits of one run: least, median, most", MetricType::Gauge);
    let mut averages = Metric::new(
        "tollgate_exit_average",
        "Ticks of an exit on average in one run: least, median, most",
        MetricType::Gauge,
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
            let labels = with(&whole, [("number", reason.number.to_string()), ("reason", reason.name.clone())]);
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
    encode(vec![runs, unusable, exits, times, counts, averages])
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

fn encode(metrics: Vec<Metric>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Exposition(metrics)));
    let mut text = String::new();
    // Writing to memory can't fail.
    let _ = text::encode(&mut text, &registry);
    text
}

struct Exposition(Vec<Metric>);

impl Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} metrics", self.0.len())
    }
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in self.0.iter().filter(|metric| !metric.series.is_empty()) {
            let mut family = encoder.encode_descriptor(metric.name, metric.help, metric.unit.as_ref(), metric.kind)?;
            for (labels, figure) in &metric.series {
                if metric.kind == MetricType::Info {
                    family.encode_info(labels)?;
                } else {
                    figure.encode(family.encode_family(labels)?)?;
                }
            }
        }
        Ok(())
    }
}

impl Figure {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        match self {
            Figure::Counter(count) => ConstCounter::new(*count).encode(encoder),
            Figure::Gauge(value) => ConstGauge::new(*value).encode(encoder),
            Figure::Histogram(Exits { figures, histogram }) => {
                let mut buckets: Vec<(f64, u64)> =
                    (0..=LAST_BUCKET).map(|bucket| (bounds(bucket).1 as f64, histogram.of(bucket))).collect();
                let within = buckets.iter().fold(0_u64, |sum, bucket| sum.saturating_add(bucket.1));
                buckets.push((f64::INFINITY, figures.count.saturating_sub(within)));
                encoder.encode_histogram::<NoLabelSet>(figures.cycles as f64, figures.count, &buckets, None)
            }
        }
    }
}
