//! Reads a serial log, line by line, into a [`Log`].

use std::io::{self, Read};

use tollgate_abi::record::{self, Kind, MAX_LINE_BYTES, PROTOCOL, Record, Reject};
use tollgate_abi::virtualization::Facts;

use super::error::LogError;
use super::fields::Fields;
use super::recorded;
use super::{
    Calibration, Cost, Count, ExitRow, Header, KeyCount, KeyRow, Log, ScenarioRun, Stop, Total, VariantRow, Verdict,
    WorkloadEnd, WorkloadRun,
};
use crate::lines::{Line, Lines};

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

    /// Likewise, and shows `observe` each record once it is checked.
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
            Kind::Controls => self.controls(&fields),
            Kind::Begin => self.workload_begins(&fields),
            Kind::Result => self.workload_ends(&fields),
            Kind::Count => self.count(&fields),
            Kind::Scenario => self.scenario(&fields),
            Kind::Exit => self.exit(&fields),
            Kind::Key => self.key(&fields),
            Kind::Variant => self.variant(&fields),
            Kind::Trace => recorded::of(&mut self.log.traces, &fields)?.trace(&fields),
            Kind::Dropped => recorded::of(&mut self.log.traces, &fields)?.dropped(&fields),
            Kind::Traced => recorded::of(&mut self.log.traces, &fields)?.end(&fields),
            Kind::Rate => {
                let place = (fields.number("vcpu")?, fields.reason()?);
                self.log.rates.entry(place).or_default().take(&fields)?;
                self.bounded("rates", self.log.rates.len(), MOST_ROWS)
            }
            Kind::Tally => self.tally(&fields),
            Kind::Total => self.total(&fields),
            Kind::Stop => {
                let [vcpu, rip, reason, qualification] =
                    ["vcpu", "rip", "reason", "qualification"].map(|key| fields.optional_number(key));
                let (outcome, detail) = (fields.text("outcome")?, fields.optional_text("detail"));
                self.log.stop = Some(Stop { vcpu, outcome, rip, reason, qualification, detail });
                Ok(())
            }
            Kind::Verdict => {
                let [detail, remedy] = ["detail", "remedy"].map(|key| fields.optional_text(key));
                self.log.verdict = Some(Verdict { result: fields.text("result")?, detail, remedy });
                Ok(())
            }
            Kind::KeyCount => self.key_count(&fields),
            Kind::Calibration => self.calibration(&fields),
            Kind::Samples => self.samples(&fields),
            Kind::Cost => self.cost(&fields),
            Kind::Probe => {
                *self.log.probes.entry(fields.reason()?).or_default() += 1;
                Ok(())
            }
            Kind::Tollgate | Kind::Memory | Kind::Console => Ok(()),
        }
    }

    fn begin(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        if self.began {
            return Err(LogError::AnotherRun { line: self.line });
        }
        self.began = true;
        let found = fields.number("protocol")?;
        if found != PROTOCOL {
            return Err(LogError::Protocol { found });
        }
        self.log.header = Header {
            build: fields.optional_text("build"),
            platform: fields.optional_text("platform"),
            virtualization: fields.optional_text("virtualization"),
            cpu: fields.optional_text("cpu"),
            sdm_edition: fields.optional_text("sdm"),
            leaf_map: fields.optional_text("leaf_map"),
            vcpus: fields.optional_number("vcpus").unwrap_or(1),
            facts: Facts::from_word(fields.optional_number("facts").unwrap_or_default()),
            options: fields.optional_text("options"),
        };
        Ok(())
    }

    /// Logs of earlier monitors do not say what a profile enables.
    fn controls(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        if ["enabled", "enabled_high"].iter().all(|key| fields.record.raw(key).is_none()) {
            return Ok(());
        }
        let profile = fields.text("profile")?;
        let enabled = u128::from(fields.number("enabled_high")?) << 64 | u128::from(fields.number("enabled")?);
        if self.log.enabled.insert(profile.clone(), enabled).is_some_and(|known| known != enabled) {
            return Err(fields.problem(format!("contradicts another of profile {profile}")));
        }
        self.bounded("profiles", self.log.enabled.len(), MOST_ROWS)
    }

    fn workload_begins(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let (name, iterations) = (fields.text("workload")?, fields.number("iterations")?);
        self.log.workloads.push(WorkloadRun { name, iterations, ..WorkloadRun::default() });
        self.bounded("workloads", self.log.workloads.len(), MOST_WORKLOADS)
    }

    fn workload_ends(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let end = WorkloadEnd {
            verdict: fields.text("verdict")?,
            exits: fields.number("exits")?,
            cycles: fields.number("cycles")?,
            message: fields.optional_text("message"),
        };
        let iterations = fields.number("iterations")?;
        let workload = self.workload(fields, |workload| workload.ended.is_none())?;
        workload.iterations = iterations;
        workload.ended = Some(end);
        Ok(())
    }

    fn count(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let reason = fields.reason()?;
        let count = Count {
            predicted: fields.optional_number("predicted"),
            guest: fields.optional_number("guest"),
            observed: fields.number("observed")?,
            looks: fields.optional_number("looks").unwrap_or(0),
        };
        self.workload(fields, |workload| !workload.counts.contains_key(&reason))?.counts.insert(reason, count);
        self.counts += 1;
        self.bounded("counts", self.counts, MOST_ROWS)
    }

    fn key_count(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let count = KeyCount {
            reason: fields.reason()?,
            key: fields.number("key")?,
            name: fields.text("name")?,
            predicted: fields.number("predicted")?,
            observed: fields.number("observed")?,
        };
        let is_same = |known: &KeyCount| (known.reason, known.key) == (count.reason, count.key);
        self.workload(fields, |workload| !workload.keys.iter().any(is_same))?.keys.push(count);
        self.counts += 1;
        self.bounded("counts", self.counts, MOST_ROWS)
    }

    fn calibration(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let calibration = Calibration {
            turns: fields.number("turns")?,
            empty: fields.number("empty")?,
            frame: fields.number("frame")?,
            whole: fields.number("whole")?,
            inside: fields.number("inside")?,
        };
        match self.log.calibration.replace(calibration) {
            None => Ok(()),
            Some(_) => Err(fields.problem("comes twice".to_owned())),
        }
    }

    fn samples(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let first = fields.number("first")?;
        let runs: Vec<_> = fields.record.runs("ticks").ok_or_else(|| fields.lacks("ticks"))?.collect();
        let samples = match self.timed_scenario(fields)? {
            Some(scenario) => &mut scenario.samples,
            None => &mut self.workload(fields, |_| true)?.samples,
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
        let reason = fields.reason()?;
        let cost = Cost { exits: fields.number("exits")?, cycles: fields.number("cycles")? };
        if let Some(scenario) = self.timed_scenario(fields)? {
            scenario.cost = cost;
            return Ok(());
        }
        self.workload(fields, |workload| !workload.costs.contains_key(&reason))?.costs.insert(reason, cost);
        self.counts += 1;
        self.bounded("counts", self.counts, MOST_ROWS)
    }

    /// The scenario that a record belongs to, if it is about one: the last.
    fn timed_scenario(&mut self, fields: &Fields<'_>) -> Result<Option<&mut ScenarioRun>, LogError> {
        let Ok(name) = fields.text("scenario") else { return Ok(None) };
        let last = self.log.scenarios.last_mut().filter(|last| last.name == name);
        last.map(Some).ok_or_else(|| fields.problem(format!("is about scenario {name}, which has not run")))
    }

    /// The workload that a record belongs to: the last one, or a new one whose beginning was lost.
    fn workload(
        &mut self,
        fields: &Fields<'_>,
        lacks: impl Fn(&WorkloadRun) -> bool,
    ) -> Result<&mut WorkloadRun, LogError> {
        let name = fields.text("workload")?;
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
        self.log.scenarios.push(ScenarioRun {
            name: fields.text("scenario")?,
            reason: fields.reason()?,
            verdict: fields.text("verdict")?,
            predicted: fields.number("predicted")?,
            observed: fields.number("observed")?,
            detail: fields.optional_text("detail"),
            ..ScenarioRun::default()
        });
        self.bounded("scenarios", self.log.scenarios.len(), MOST_WORKLOADS)
    }

    fn exit(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let place = (fields.number("vcpu")?, fields.reason()?);
        let row = ExitRow {
            name: fields.text("name")?,
            status: fields.text("status")?,
            count: fields.number("count")?,
            cycles: fields.number("cycles")?,
            min: fields.number("min")?,
            max: fields.number("max")?,
            histogram: fields.histogram()?,
            looks: fields.optional_number("looks").unwrap_or(0),
        };
        match self.log.exits.insert(place, row) {
            Some(_) => Err(fields.problem(format!("repeats reason {} of vCPU {}", place.1, place.0))),
            None => self.bounded("ledger rows", self.log.exits.len(), MOST_ROWS),
        }
    }

    fn key(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let place = (fields.number("vcpu")?, fields.reason()?);
        let row = KeyRow {
            key: fields.optional_number("key"),
            name: fields.text("name")?,
            count: fields.number("count")?,
            cycles: fields.number("cycles")?,
            min: fields.optional_number("min").unwrap_or(0),
            max: fields.optional_number("max").unwrap_or(0),
        };
        self.log.keys.entry(place).or_default().push(row);
        self.keys += 1;
        self.bounded("keys", self.keys, MOST_ROWS)
    }

    fn variant(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let place = (fields.number("vcpu")?, fields.reason()?);
        let row = VariantRow {
            name: fields.text("name")?,
            count: fields.number("count")?,
            cycles: fields.number("cycles")?,
            min: fields.number("min")?,
            max: fields.number("max")?,
        };
        self.log.variants.entry(place).or_default().push(row);
        self.variants += 1;
        self.bounded("variants", self.variants, MOST_ROWS)
    }

    fn tally(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let (reason, guest) = (fields.reason()?, fields.number("guest")?);
        match self.log.tally.get_or_insert_default().insert(reason, guest) {
            Some(_) => Err(fields.problem(format!("repeats reason {reason}"))),
            None => Ok(()),
        }
    }

    fn total(&mut self, fields: &Fields<'_>) -> Result<(), LogError> {
        let vcpu = fields.number("vcpu")?;
        let total = Total {
            exits: fields.number("exits")?,
            entries: fields.number("entries")?,
            cycles: fields.number("cycles")?,
            elapsed: fields.number("elapsed")?,
        };
        match self.log.totals.insert(vcpu, total) {
            Some(_) => Err(fields.problem(format!("repeats vCPU {vcpu}"))),
            None => self.bounded("vCPUs", self.log.totals.len(), MOST_ROWS),
        }
    }

    fn bounded(&self, what: &'static str, count: usize, most: usize) -> Result<(), LogError> {
        if count > most { Err(LogError::TooMany { line: self.line, what, most }) } else { Ok(()) }
    }
}
