//! Reads a serial log, line by line, into a [`Log`].

use std::io::{self, Read};

use tollgate_abi::record::records::read;
use tollgate_abi::record::{self, Kind, MAX_LINE_BYTES, PROTOCOL, Record, Reject, Text};
use tollgate_abi::virtualization::Facts;

use super::error::LogError;
use super::fields::{Fields, printable, text};
use super::recorded;
use super::{
    Calibration, Cost, Count, ExitRow, Header, Judged, KeyCount, KeyRow, Log, Named, ScenarioRun, Silicon, Stop, Total,
    VariantRow, Verdict, WorkloadEnd, WorkloadRun,
};
use crate::exits::Exits;
use crate::lines::{Line, Lines};
use tollgate_abi::figures::Figures;

/// The most workloads in one log.
const MOST_WORKLOADS: usize = 10_000;
/// The most rows of one kind in one log: reasons on every vCPU, or reasons of a workload.
const MOST_ROWS: usize = 100_000;

/// The most runs of samples in one log.
const MOST_RUNS_OF_SAMPLES: usize = 4_000_000;

/// Reads a log as it comes.
#[derive(Debug)]
pub struct LogReader {
    lines: Lines,
    state: State,
}

#[derive(Debug, Default)]
struct State {
    log: Log,
    line: u64,
    began: bool,
    counts: usize,
    runs: usize,
    keys: usize,
    variants: usize,
    error: Option<LogError>,
}

impl Default for LogReader {
    fn default() -> Self {
        Self::new()
    }
}

impl LogReader {
    /// A reader at the beginning of a log.
    pub fn new() -> Self {
        Self { lines: Lines::new(MAX_LINE_BYTES + 2), state: State::default() }
    }

    /// Reads a log to its end.
    ///
    /// # Errors
    /// It can't be read, or is not the log of one run.
    pub fn read(source: impl Read) -> Result<Log, LogError> {
        Self::read_observed(source, &mut |_| {})
    }

    /// Reads a log, and shows `observe` each record once it is checked.
    ///
    /// # Errors
    /// As [`LogReader::read`].
    pub fn read_observed(mut source: impl Read, observe: &mut impl FnMut(&Record<'_>)) -> Result<Log, LogError> {
        let mut reader = Self::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return reader.finish_observed(observe),
                Ok(count) => reader.feed_observed(&buffer[..count], observe),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(error) = reader.state.error.take() {
                return Err(error);
            }
        }
    }

    /// Takes the next bytes of the log.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.feed_observed(bytes, &mut |_| {});
    }

    /// Takes the next bytes of the log and shows `observe` each record.
    pub fn feed_observed(&mut self, bytes: &[u8], observe: &mut impl FnMut(&Record<'_>)) {
        let state = &mut self.state;
        if state.error.is_none()
            && let Err(error) = self.lines.feed(bytes, |line| state.line(line, observe))
        {
            state.error = Some(error);
        }
    }

    /// Whether the verdict has come.
    pub fn has_verdict(&self) -> bool {
        self.state.log.verdict.is_some()
    }

    /// The log, once there is no more of it.
    ///
    /// # Errors
    /// It is not the log of one run.
    pub fn finish(self) -> Result<Log, LogError> {
        self.finish_observed(&mut |_| {})
    }

    fn finish_observed(mut self, observe: &mut impl FnMut(&Record<'_>)) -> Result<Log, LogError> {
        let state = &mut self.state;
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        self.lines.finish(|line| state.line(line, observe))?;
        match (state.line, state.log.quality.records) {
            (0, _) => Err(LogError::Empty),
            (lines, 0) => Err(LogError::NotOurs { lines }),
            (_, records) if !state.began => Err(LogError::NoBeginning { records }),
            _ => Ok(self.state.log),
        }
    }
}

impl State {
    fn line(&mut self, line: Line<'_>, observe: &mut impl FnMut(&Record<'_>)) -> Result<(), LogError> {
        self.line += 1;
        let Line::Whole(line) = line else {
            self.log.quality.noise += 1;
            return Ok(());
        };
        match record::parse(line) {
            Ok(record) => {
                self.log.quality.records += 1;
                self.record(&record)?;
                observe(&record);
            }
            Err(Reject::Noise) => self.log.quality.noise += 1,
            Err(Reject::Damaged) => self.log.quality.damaged += 1,
        }
        Ok(())
    }

    fn record(&mut self, record: &Record<'_>) -> Result<(), LogError> {
        let fields = Fields { record, line: self.line };
        if record.kind == Kind::Tollgate {
            return self.begin(&fields);
        }
        if !self.began {
            return Ok(());
        }
        if self.log.verdict.is_some() {
            self.log.quality.after_verdict += 1;
            return Ok(());
        }
        match record.kind {
            Kind::Processor => self.processor(&fields),
            Kind::Controls => self.controls(&fields),
            Kind::Begin => self.workload_begins(&fields),
            Kind::Result => self.workload_ends(&fields),
            Kind::Count => self.count(&fields),
            Kind::Scenario => self.scenario(&fields),
            Kind::Exit => self.exit(&fields),
            Kind::Key => self.key(&fields),
            Kind::Variant => self.variant(&fields),
            Kind::Trace => {
                let record = fields.of(read::Trace::of)?;
                recorded::of(&mut self.log.traces, record.vcpu, &fields)?.trace(&record, &fields)
            }
            Kind::Dropped => {
                let record = fields.of(read::Dropped::of)?;
                recorded::of(&mut self.log.traces, record.vcpu, &fields)?.dropped(&record, &fields)
            }
            Kind::Traced => {
                let record = fields.of(read::Traced::of)?;
                recorded::of(&mut self.log.traces, record.vcpu, &fields)?.end(&record, &fields)
            }
            Kind::Rate => {
                let record = fields.of(read::Rate::of)?;
                self.log.rates.entry((record.vcpu, record.reason)).or_default().take(&record, &fields)?;
                self.bounded("rates", self.log.rates.len(), MOST_ROWS)
            }
            Kind::Tally => self.tally(&fields),
            Kind::Total => self.total(&fields),
            Kind::Stop => {
                let read::Stop { vcpu, outcome, rip, reason, qualification, detail } = fields.of(read::Stop::of)?;
                let (outcome, detail) = (Named::of(&printable(outcome)), text(detail));
                self.log.stop = Some(Stop { vcpu, outcome, rip, reason, qualification, detail });
                Ok(())
            }
            Kind::Verdict => {
                let read::Verdict { result, detail, remedy } = fields.of(read::Verdict::of)?;
                self.log.verdict = Some(Verdict {
                    result: Judged::of(&printable(result)),
                    detail: text(detail),
                    remedy: text(remedy),
                });
                Ok(())
            }
            Kind::KeyCount => self.key_count(&fields),
            Kind::Calibration => self.calibration(&fields),
            Kind::Samples => self.samples(&fields),
            Kind::Cost => self.cost(&fields),
            Kind::Probe => {
                *self.log.probes.entry(fields.of(read::Probe::of)?.reason).or_default() += 1;
                Ok(())
            }
            Kind::Console => {
                let read::Console { by, text } = fields.of(read::Console::of)?;
                if by.is_none() {
                    let line = printable(text);
                    self.log.cpuid.take(&line);
                    self.log.console.line(line);
                }
                Ok(())
            }
            Kind::Tollgate | Kind::Memory => Ok(()),
        }
    }

    fn begin(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        if self.began {
            return Err(LogError::AnotherRun { line: self.line });
        }
        self.began = true;
        let record = fields.of(read::Tollgate::of)?;
        if record.protocol != PROTOCOL {
            return Err(LogError::Protocol { found: record.protocol });
        }
        self.log.header = Header {
            build: text(record.build),
            platform: text(record.platform),
            virtualization: text(record.virtualization),
            cpu: text(record.cpu),
            sdm_edition: text(record.sdm),
            leaf_map: text(record.leaf_map),
            vcpus: record.vcpus.unwrap_or(1),
            facts: Facts::from_word(record.facts.unwrap_or_default()),
            options: text(record.options),
        };
        Ok(())
    }

    fn processor(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let read::Processor { microcode, threads, spec_ctrl, smis } = fields.of(read::Processor::of)?;
        let silicon = Silicon { microcode, threads_per_core: threads, spec_ctrl, smis_before: smis, smis: None };
        match self.log.silicon.replace(silicon) {
            None => Ok(()),
            Some(_) => Err(fields.problem("comes twice".to_owned())),
        }
    }

    /// Logs of earlier monitors do not say what a profile enables.
    fn controls(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let record = fields.of(read::Controls::of)?;
        let (low, high) = match (record.enabled, record.enabled_high) {
            (None, None) => return Ok(()),
            (None, Some(_)) => return Err(fields.lacks("enabled")),
            (Some(_), None) => return Err(fields.lacks("enabled_high")),
            (Some(low), Some(high)) => (low, high),
        };
        let (profile, enabled) = (printable(record.profile), u128::from(high) << 64 | u128::from(low));
        if self.log.enabled.insert(profile.clone(), enabled).is_some_and(|known| known != enabled) {
            return Err(fields.problem(format!("contradicts another of profile {profile}")));
        }
        self.bounded("profiles", self.log.enabled.len(), MOST_ROWS)
    }

    fn workload_begins(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let record = fields.of(read::Begin::of)?;
        let (name, iterations) = (printable(record.workload), record.iterations);
        self.log.workloads.push(WorkloadRun { name, iterations, ..WorkloadRun::default() });
        self.bounded("workloads", self.log.workloads.len(), MOST_WORKLOADS)
    }

    fn workload_ends(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let read::Result { workload, iterations, verdict, exits, cycles, smis, message } =
            fields.of(read::Result::of)?;
        let end = WorkloadEnd { verdict: Judged::of(&printable(verdict)), exits, cycles, smis, message: text(message) };
        let workload = self.workload(workload, |workload| workload.ended.is_none())?;
        workload.iterations = iterations;
        workload.ended = Some(end);
        Ok(())
    }

    fn count(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let read::Count { workload, reason, predicted, guest, observed, looks } = fields.of(read::Count::of)?;
        let count = Count { predicted, guest, observed, looks: looks.unwrap_or(0) };
        self.workload(workload, |workload| !workload.counts.contains_key(&reason))?.counts.insert(reason, count);
        self.counts += 1;
        self.bounded("counts", self.counts, MOST_ROWS)
    }

    fn key_count(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let read::KeyCount { workload, reason, key, name, predicted, observed } = fields.of(read::KeyCount::of)?;
        let count = KeyCount { reason, key, name: printable(name), predicted, observed };
        let is_same = |known: &KeyCount| (known.reason, known.key) == (count.reason, count.key);
        self.workload(workload, |workload| !workload.keys.iter().any(is_same))?.keys.push(count);
        self.counts += 1;
        self.bounded("counts", self.counts, MOST_ROWS)
    }

    fn calibration(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let read::Calibration { turns, empty, frame, whole, inside } = fields.of(read::Calibration::of)?;
        match self.log.calibration.replace(Calibration { turns, empty, frame, whole, inside }) {
            None => Ok(()),
            Some(_) => Err(fields.problem("comes twice".to_owned())),
        }
    }

    fn samples(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let read::Samples { workload, scenario, first, ticks } = fields.of(read::Samples::of)?;
        let runs: Vec<_> = ticks.iter().collect();
        let samples = match (scenario, workload) {
            (Some(scenario), _) => &mut self.timed_scenario(scenario, fields)?.samples,
            (None, Some(workload)) => &mut self.workload(workload, |_| true)?.samples,
            (None, None) => return Err(fields.lacks("workload")),
        };
        let known = samples.count;
        if first != known {
            return Err(fields.problem(format!("begins with sample {first}, behind {known}")));
        }
        let more = runs.len();
        samples.extend(runs);
        self.runs += more;
        self.bounded("samples", self.runs, MOST_RUNS_OF_SAMPLES)
    }

    fn cost(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let read::Cost { workload, scenario, reason, exits, cycles } = fields.of(read::Cost::of)?;
        let cost = Cost { exits, cycles };
        if let Some(scenario) = scenario {
            self.timed_scenario(scenario, fields)?.cost = cost;
            return Ok(());
        }
        let workload = workload.ok_or_else(|| fields.lacks("workload"))?;
        self.workload(workload, |workload| !workload.costs.contains_key(&reason))?.costs.insert(reason, cost);
        self.counts += 1;
        self.bounded("counts", self.counts, MOST_ROWS)
    }

    /// The scenario that a record belongs to: the last.
    fn timed_scenario(&mut self, name: Text<'_>, fields: &Fields<'_>) -> Result<&mut ScenarioRun, LogError> {
        let name = printable(name);
        let last = self.log.scenarios.last_mut().filter(|last| last.name == name);
        last.ok_or_else(|| fields.problem(format!("is about scenario {name}, which has not run")))
    }

    /// The workload that a record belongs to: the last one, or a new one whose beginning was lost.
    fn workload(&mut self, name: Text<'_>, lacks: impl Fn(&WorkloadRun) -> bool) -> Result<&mut WorkloadRun, LogError> {
        let name = printable(name);
        let workloads = &mut self.log.workloads;
        if !workloads.last().is_some_and(|last| last.name == name && lacks(last)) {
            if workloads.len() >= MOST_WORKLOADS {
                return Err(LogError::TooMany { line: self.line, what: "workloads", most: MOST_WORKLOADS });
            }
            workloads.push(WorkloadRun { name, ..WorkloadRun::default() });
        }
        let last = workloads.len() - 1;
        Ok(&mut workloads[last])
    }

    fn scenario(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let read::Scenario { scenario, reason, verdict, predicted, observed, detail } =
            fields.of(read::Scenario::of)?;
        let (name, verdict, detail) = (printable(scenario), Judged::of(&printable(verdict)), text(detail));
        let run = ScenarioRun { name, reason, verdict, predicted, observed, detail, ..ScenarioRun::default() };
        self.log.scenarios.push(run);
        self.bounded("scenarios", self.log.scenarios.len(), MOST_WORKLOADS)
    }

    fn exit(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let read::Exit { vcpu, reason, name, status, count, cycles, min, max, histogram, looks } =
            fields.of(read::Exit::of)?;
        let (name, status) = (printable(name), Named::of(&printable(status)));
        let histogram = histogram.iter().flat_map(|histogram| histogram.iter()).collect();
        let exits = Exits { figures: Figures { count, cycles, min, max }, histogram };
        let row = ExitRow { name, status, exits, looks: looks.unwrap_or(0) };
        match self.log.exits.insert((vcpu, reason), row) {
            Some(_) => Err(fields.problem(format!("repeats reason {reason} of vCPU {vcpu}"))),
            None => self.bounded("ledger rows", self.log.exits.len(), MOST_ROWS),
        }
    }

    fn key(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let read::Key { vcpu, reason, key, name, count, cycles, min, max } = fields.of(read::Key::of)?;
        let figures = Figures { count, cycles, min: min.unwrap_or(0), max: max.unwrap_or(0) };
        self.log.keys.entry((vcpu, reason)).or_default().push(KeyRow { key, name: printable(name), figures });
        self.keys += 1;
        self.bounded("keys", self.keys, MOST_ROWS)
    }

    fn variant(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let read::Variant { vcpu, reason, name, count, cycles, min, max } = fields.of(read::Variant::of)?;
        let row = VariantRow { name: printable(name), figures: Figures { count, cycles, min, max } };
        self.log.variants.entry((vcpu, reason)).or_default().push(row);
        self.variants += 1;
        self.bounded("variants", self.variants, MOST_ROWS)
    }

    fn tally(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let read::Tally { reason, guest } = fields.of(read::Tally::of)?;
        match self.log.tally.get_or_insert_default().insert(reason, guest) {
            Some(_) => Err(fields.problem(format!("repeats reason {reason}"))),
            None => Ok(()),
        }
    }

    fn total(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let read::Total { vcpu, exits, entries, cycles, elapsed, skipped, smis } = fields.of(read::Total::of)?;
        if let (Some(silicon), Some(_)) = (&mut self.log.silicon, smis) {
            silicon.smis = smis;
        }
        match self.log.totals.insert(vcpu, Total { exits, entries, cycles, elapsed, skipped: skipped.unwrap_or(0) }) {
            Some(_) => Err(fields.problem(format!("repeats vCPU {vcpu}"))),
            None => self.bounded("vCPUs", self.log.totals.len(), MOST_ROWS),
        }
    }

    fn bounded(&self, what: &'static str, count: usize, most: usize) -> Result<(), LogError> {
        if count > most { Err(LogError::TooMany { line: self.line, what, most }) } else { Ok(()) }
    }
}
