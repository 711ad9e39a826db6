//! The measurement of one or several boots, row by row.

use std::collections::BTreeMap;

use tollgate_abi::bench::{Bench, Parts};
use tollgate_abi::judgement::Judgement;
use tollgate_abi::scenario::Scenario;

use super::baseline::Row;
use super::parts::Split;
use super::statistics::Distribution;
use crate::log::{Calibration, Cost, Log, Samples};

/// Samples and costs of each row, before anything is derived from them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    rows: Vec<Raw>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Raw {
    bench: &'static str,
    iterations: u64,
    samples: Distribution,
    costs: BTreeMap<u16, Cost>,
    times: Calibration,
    lacks: Option<String>,
}

impl Measured {
    /// Adds the rows of a log. A row that is there already has been measured once more.
    pub fn add(&mut self, log: &Log) {
        for run in &log.workloads {
            let Some(bench) = Bench::of_name(&run.name) else { continue };
            let samples = distribution(&run.samples);
            let times = log.calibration.unwrap_or_default();
            let (iterations, costs) = (run.iterations, run.costs.clone());
            self.add_row(Raw { bench: bench.name(), iterations, samples, costs, times, lacks: None });
        }
        for run in &log.scenarios {
            let Some(scenario) = Scenario::by_name(&run.name) else { continue };
            let samples = distribution(&run.samples);
            let (bench, iterations, times) = (scenario.name, run.cost.exits, Calibration::default());
            let lacks = run.verdict.is(Judgement::Denied).then(|| run.detail.clone());
            self.add_row(Raw { bench, iterations, samples, costs: [(run.reason, run.cost)].into(), times, lacks });
        }
    }

    /// Adds a row that was not measured, and the reason.
    pub fn add_lacking(&mut self, scenario: &'static Scenario, why: &str) {
        self.add_row(Raw { bench: scenario.name, lacks: Some(why.to_owned()), ..Raw::default() });
    }

    /// Adds another measurement.
    pub fn add_all(&mut self, more: &Measured) {
        more.rows.iter().for_each(|raw| self.add_row(raw.clone()));
    }

    fn add_row(&mut self, raw: Raw) {
        match self.rows.iter_mut().find(|known| known.bench == raw.bench) {
            Some(known) => known.add(&raw),
            None => self.rows.push(raw),
        }
    }

    /// The rows, with all that follows from them.
    pub fn rows(&self) -> Vec<Row> {
        let empty =
            self.rows.iter().find(|raw| Bench::by_name(raw.bench).is_some_and(|row| row.parts == Parts::Timing));
        let timing = empty.and_then(|raw| raw.samples.statistics()).map(|empty| empty.mean);
        self.rows.iter().map(|raw| raw.row(timing)).collect()
    }
}

fn distribution(samples: &Samples) -> Distribution {
    let mut distribution = Distribution::default();
    samples.runs.iter().for_each(|&(ticks, count)| distribution.add(ticks, count.into()));
    distribution
}

impl Raw {
    fn add(&mut self, more: &Raw) {
        self.iterations = self.iterations.saturating_add(more.iterations);
        self.samples.add_all(&more.samples);
        for (&reason, cost) in &more.costs {
            let known = self.costs.entry(reason).or_default();
            known.exits = known.exits.saturating_add(cost.exits);
            known.cycles = known.cycles.saturating_add(cost.cycles);
        }
        for (known, more) in [
            (&mut self.times.turns, more.times.turns),
            (&mut self.times.empty, more.times.empty),
            (&mut self.times.frame, more.times.frame),
            (&mut self.times.whole, more.times.whole),
            (&mut self.times.inside, more.times.inside),
        ] {
            *known = known.saturating_add(more);
        }
    }

    fn row(&self, timing: Option<f64>) -> Row {
        let statistics = self.samples.statistics();
        let sum = self.costs.values().fold(Cost::default(), |sum, cost| Cost {
            exits: sum.exits.saturating_add(cost.exits),
            cycles: sum.cycles.saturating_add(cost.cycles),
        });
        let parts = Bench::by_name(self.bench).map_or(Parts::Waiting, |bench| bench.parts);
        let split = statistics.as_ref().zip(timing);
        let split =
            split.and_then(|(of, timing)| Split::new(parts, of.mean, timing, self.iterations, sum, &self.times));
        Row {
            name: self.bench.to_owned(),
            iterations: self.iterations,
            exits: sum.exits,
            cycles: sum.cycles,
            distribution: self.samples.clone(),
            statistics,
            parts: split,
            lacks: self.lacks.clone(),
        }
    }
}
