//! OpenMetrics text 1.0. It ends with `# EOF`.

use std::fmt::{self, Debug};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Figure, Kind, Metric, buckets};

pub(super) fn encode(metrics: Vec<Metric>) -> String {
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
            let unit = metric.unit.map(|unit| Unit::Other(unit.to_owned()));
            let mut family = encoder.encode_descriptor(metric.name, metric.help, unit.as_ref(), metric.kind.into())?;
            for (labels, figure) in &metric.series {
                if metric.kind == Kind::Facts {
                    family.encode_info(labels)?;
                } else {
                    figure.encode(family.encode_family(labels)?)?;
                }
            }
        }
        Ok(())
    }
}

impl From<Kind> for MetricType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
            Kind::Facts => MetricType::Info,
        }
    }
}

impl Figure {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        match self {
            Figure::Counter(count) => ConstCounter::new(*count).encode(encoder),
            Figure::Gauge(value) => ConstGauge::new(*value).encode(encoder),
            Figure::Histogram(exits) => {
                let (ticks, count) = (exits.figures.cycles as f64, exits.figures.count);
                encoder.encode_histogram::<NoLabelSet>(ticks, count, &buckets(exits), None)
            }
        }
    }
}
