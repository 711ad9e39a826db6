//! Prometheus' text format 0.0.4, for collectors of text files: it knows no units and no facts, and a counter's metadata has the
//! name of its series.

use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric as Series, MetricFamily, MetricType};

use super::{Figure, Kind, Labels, Metric, buckets};

pub(super) fn encode(metrics: Vec<Metric>) -> String {
    let families: Vec<MetricFamily> = metrics.iter().filter(|metric| !metric.series.is_empty()).map(family).collect();
    // A family that is named and not empty, and a document in memory: nothing can fail.
    TextEncoder::new().encode_to_string(&families).unwrap_or_default()
}

fn family(metric: &Metric) -> MetricFamily {
    let (kind, suffix) = match metric.kind {
        Kind::Counter => (MetricType::COUNTER, "_total"),
        Kind::Gauge => (MetricType::GAUGE, ""),
        Kind::Histogram => (MetricType::HISTOGRAM, ""),
        Kind::Facts => (MetricType::GAUGE, "_info"),
    };
    let unit = metric.unit.map_or(String::new(), |unit| format!("_{unit}"));
    let mut family = MetricFamily::default();
    family.set_name(format!("{}{unit}{suffix}", metric.name));
    family.set_help(metric.help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metric.series.iter().map(|(labels, figure)| series(labels, figure)).collect());
    family
}

fn series(labels: &Labels, figure: &Figure) -> Series {
    let mut series = Series::default();
    series.set_label(labels.iter().map(|(name, value)| label(name, value)).collect());
    match figure {
        Figure::Counter(count) => {
            let mut counter = Counter::default();
            counter.set_value(*count as f64);
            series.set_counter(counter);
        }
        Figure::Gauge(value) => {
            let mut gauge = Gauge::default();
            gauge.set_value(*value);
            series.set_gauge(gauge);
        }
        Figure::Histogram(exits) => {
            let mut histogram = Histogram::default();
            histogram.set_sample_count(exits.figures.count);
            histogram.set_sample_sum(exits.figures.cycles as f64);
            histogram.set_bucket(cumulative(buckets(exits)));
            series.set_histogram(histogram);
        }
    }
    series
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

/// Buckets that hold all shorter exits, too, without the last, which the encoder adds.
fn cumulative(buckets: Vec<(f64, u64)>) -> Vec<Bucket> {
    let mut sum = 0_u64;
    let bounded = buckets.into_iter().filter(|(bound, _)| bound.is_finite());
    let bucket = bounded.map(|(bound, count)| {
        sum = sum.saturating_add(count);
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(sum);
        bucket
    });
    bucket.collect()
}
