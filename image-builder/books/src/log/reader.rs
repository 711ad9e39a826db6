//! Reads a serial log, line by line, into a [`Log`].

use std::collections::VecDeque;
use std::collections::btree_map::Entry;
use std::convert::Infallible;
use std::io::{self, Read};
use std::ops::ControlFlow;

use compact_str::CompactString;
use tollgate_abi::record::records::read;
use tollgate_abi::record::{Kind, MAX_LINE_BYTES, PROTOCOL, Record, Text};
use tollgate_abi::virtualization::Facts;

use super::error::LogError;
use super::fields::{Fields, named, printable, short, text};
use super::line::{self, Piece};
use super::lost::Lost;
use super::{
    Calibration, Cost, Count, ExitRow, Header, Judged, KeyCount, KeyRow, Log, Quality, ScenarioRun, Silicon, Stop,
    Total, VariantRow, Verdict, WorkloadEnd, WorkloadRun,
};
use super::{marked, recorded};
use crate::account::row_name;
use crate::exits::Exits;
use crate::lines::{Line, Lines};
use crate::unpacked::Unpacker;
use tollgate_abi::figures::Figures;

/// The most workloads in one log.
const MOST_WORKLOADS: usize = 10_000;
/// The most rows of one kind in one log: reasons on every vCPU, or reasons of a workload.
const MOST_ROWS: usize = 100_000;

/// The most runs of samples in one log.
const MOST_RUNS_OF_SAMPLES: usize = 4_000_000;

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 64 << 10;

/// The longest line, with a record and whatever stands around it.
const MOST_LINE_BYTES: usize = 4 * MAX_LINE_BYTES;

/// Bytes before the first record after which a file is taken for none of ours.
const MOST_LEADING_BYTES: u64 = 64 << 20;

/// Reads a log as it comes, run by run.
#[derive(Debug)]
pub struct LogReader {
    lines: Lines,
    /// Room for a line without control characters.
    room: Vec<u8>,
    state: State,
}

/// The lines so far, and the runs in them.
#[derive(Debug, Default)]
struct State {
    run: Run,
    line: u64,
    bytes: u64,
    /// Whether a second run is one more, and no error.
    several: bool,
    ended: VecDeque<Result<Log, LogError>>,
    runs: u64,
}

/// A run in the making.
#[derive(Debug, Default)]
struct Run {
    log: Log,
    line: u64,
    began: bool,
    counts: usize,
    runs: usize,
    keys: usize,
    variants: usize,
    unpacker: Unpacker,
    error: Option<LogError>,
}

impl Default for LogReader {
    fn default() -> Self {
        Self::new()
    }
}

impl LogReader {
    /// A reader at the beginning of the log of one run.
    pub fn new() -> Self {
        Self { lines: Lines::cut_at_returns(MOST_LINE_BYTES), room: Vec::new(), state: State::default() }
    }

    /// A reader at the beginning of a log of any number of runs.
    pub fn of_runs() -> Self {
        let mut reader = Self::new();
        reader.state.several = true;
        reader
    }

    /// Reads the log of one run to its end.
    ///
    /// # Errors
    /// It can't be read, or is not the log of one run.
    pub fn read(source: impl Read) -> Result<Log, LogError> {
        Self::read_observed(source, &mut |_| {})
    }

    /// Reads the log of one run, and shows `observe` each record once it is checked.
    ///
    /// # Errors
    /// As [`LogReader::read`].
    pub fn read_observed(source: impl Read, observe: &mut impl FnMut(&Record<'_>)) -> Result<Log, LogError> {
        let mut only = Err(LogError::Empty);
        Self::new().read_runs(source, &mut |_, record| observe(record), &mut |_, run| {
            only = run;
            ControlFlow::Continue(())
        });
        only
    }

    /// Reads a log to its end. `observe` is shown each record and the number of its run, from 1 on; `take` gets each run with its number,
    /// as it ends, and may break off. A log without a run is an error in place of the first.
    pub fn read_runs(
        mut self,
        mut source: impl Read,
        observe: &mut impl FnMut(u64, &Record<'_>),
        take: &mut impl FnMut(u64, Result<Log, LogError>) -> ControlFlow<()>,
    ) {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => self.take_bytes(&buffer[..count], observe),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.end(Some(error.into()));
                    let _ = self.hand_out(take);
                    return;
                }
            }
            if self.hand_out(take).is_break() {
                return;
            }
            if self.state.is_stopped() {
                break;
            }
        }
        self.finish_lines(observe);
        self.end(None);
        let _ = self.hand_out(take);
    }

    fn hand_out(&mut self, take: &mut impl FnMut(u64, Result<Log, LogError>) -> ControlFlow<()>) -> ControlFlow<()> {
        while let Some(run) = self.next_run() {
            take(self.state.runs, run)?;
        }
        ControlFlow::Continue(())
    }

    /// Takes the next bytes of the log.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.feed_observed(bytes, &mut |_| {});
    }

    /// Takes the next bytes of the log and shows `observe` each record.
    pub fn feed_observed(&mut self, bytes: &[u8], observe: &mut impl FnMut(&Record<'_>)) {
        self.take_bytes(bytes, &mut |_, record| observe(record));
    }

    fn take_bytes(&mut self, bytes: &[u8], observe: &mut impl FnMut(u64, &Record<'_>)) {
        let (state, room) = (&mut self.state, &mut self.room);
        state.bytes += bytes.len() as u64;
        let Ok(()) = self.lines.feed(bytes, |line| state.line(line, room, observe));
    }

    fn finish_lines(&mut self, observe: &mut impl FnMut(u64, &Record<'_>)) {
        let (state, room) = (&mut self.state, &mut self.room);
        let Ok(()) = self.lines.finish(|line| state.line(line, room, observe));
    }

    /// Whether the verdict of the run has come.
    pub fn has_verdict(&self) -> bool {
        self.state.run.log.verdict.is_some()
    }

    /// Whether a run is whole: its verdict has come, or another run begins.
    pub fn has_run(&self) -> bool {
        self.has_verdict() || !self.state.ended.is_empty()
    }

    /// The run so far.
    pub fn so_far(&self) -> &Log {
        &self.state.run.log
    }

    /// The next run that has ended.
    pub fn next_run(&mut self) -> Option<Result<Log, LogError>> {
        let run = self.state.ended.pop_front()?;
        self.state.runs += 1;
        Some(run)
    }

    /// Ends the log: the last run has ended, too.
    pub fn close(&mut self) {
        self.finish_lines(&mut |_, _| {});
        self.end(None);
    }

    /// The log, once there is no more of it.
    ///
    /// # Errors
    /// It is not the log of one run.
    pub fn finish(mut self) -> Result<Log, LogError> {
        self.close();
        self.next_run().unwrap_or(Err(LogError::Empty))
    }

    /// Ends the last run, for this reason if not because the log ends.
    fn end(&mut self, error: Option<LogError>) {
        let state = &mut self.state;
        let Quality { records, damaged, .. } = state.run.log.quality;
        let error = error.or(match (state.line, records, damaged) {
            _ if state.run.began || state.run.error.is_some() || state.run_number() > 1 => None,
            (0, ..) => Some(LogError::Empty),
            (lines, 0, 0) => Some(LogError::NotOurs { lines }),
            (_, 0, lines) => Some(LogError::Damaged { lines }),
            _ => None,
        });
        state.end_run();
        state.ended.extend(error.map(Err));
    }
}

impl State {
    fn line(
        &mut self,
        line: Line<'_>,
        room: &mut Vec<u8>,
        observe: &mut impl FnMut(u64, &Record<'_>),
    ) -> Result<(), Infallible> {
        self.line += 1;
        self.run.line = self.line;
        let mut is_noise = true;
        if let Line::Whole(line) = line {
            line::pieces::<Infallible>(line, room, |piece| {
                is_noise = false;
                self.piece(&piece, observe);
                Ok(())
            })?;
        }
        self.run.log.quality.noise += u64::from(is_noise);
        Ok(())
    }

    fn piece(&mut self, piece: &Piece<'_>, observe: &mut impl FnMut(u64, &Record<'_>)) {
        let run = &self.run;
        let begins = match piece {
            Piece::Record(record) if record.kind == Kind::Tollgate => run.began || run.log.quality.records > 0,
            Piece::Damaged(Some(Kind::Tollgate)) => run.log.quality.records > 0,
            // Nothing but another run, whose beginning is lost, begins behind a verdict.
            Piece::Record(record) => run.log.verdict.is_some() && comes_early(record.kind),
            Piece::Damaged(_) => false,
        };
        if begins && self.several {
            self.end_run();
        } else if begins && matches!(piece, Piece::Record(record) if record.kind == Kind::Tollgate) {
            self.run.error.get_or_insert(LogError::AnotherRun { line: self.line });
        }
        let number = self.run_number();
        match piece {
            Piece::Record(record) => {
                self.run.take(record);
                if self.run.error.is_none() {
                    observe(number, record);
                }
            }
            Piece::Damaged(kind) => {
                self.run.log.quality.damaged += 1;
                self.run.log.lost.damaged(self.line, *kind);
            }
        }
    }

    /// The number of the run that is read now.
    fn run_number(&self) -> u64 {
        self.runs + self.ended.len() as u64 + 1
    }

    /// Whether there is no use in reading on.
    fn is_stopped(&self) -> bool {
        let Quality { records, damaged, .. } = self.run.log.quality;
        let is_none = self.run_number() == 1 && records == 0 && damaged == 0 && self.bytes > MOST_LEADING_BYTES;
        is_none || self.run.error.is_some() && !self.several
    }

    /// Ends the run that is read, if any record of it came.
    fn end_run(&mut self) {
        let Run { mut log, began, error, .. } =
            std::mem::replace(&mut self.run, Run { line: self.line, ..Run::default() });
        if let Some(error) = error {
            self.ended.push_back(Err(error));
        } else if began || log.quality.records > 0 {
            if !began {
                log.lost.heading = true;
                let of_rows = log.exits.keys().map(|&(vcpu, _)| vcpu);
                let last = of_rows.chain(log.totals.keys().copied()).max().unwrap_or(0);
                log.header.vcpus = last.saturating_add(1);
            }
            self.ended.push_back(Ok(log));
        }
    }
}

/// Whether a record of this kind comes only before the account.
fn comes_early(kind: Kind) -> bool {
    matches!(kind, Kind::Memory | Kind::Processor | Kind::Probe | Kind::Controls | Kind::Begin | Kind::Calibration)
}

impl Run {
    fn take(&mut self, record: &Record<'_>) {
        self.log.quality.records += 1;
        if self.error.is_none()
            && let Err(error) = self.record(record)
        {
            self.error = Some(error);
        }
    }

    fn record(&mut self, record: &Record<'_>) -> Result<(), LogError> {
        let fields = Fields { record, line: self.line };
        if record.kind == Kind::Tollgate {
            return self.begin(&fields);
        }
        if self.log.verdict.is_some() {
            self.log.quality.after_verdict += 1;
            return Ok(());
        }
        match record.kind {
            Kind::Processor => self.processor(&fields),
            Kind::Controls => self.controls(&fields),
            Kind::Mark => marked::mark(&mut self.log.marks, &fields),
            Kind::AtMark => marked::at_mark(&mut self.log.marks, &mut self.log.lost, &fields),
            Kind::Begin => self.workload_begins(&fields),
            Kind::Result => self.workload_ends(&fields),
            Kind::Count => self.count(&fields),
            Kind::Scenario => self.scenario(&fields),
            Kind::Exit => self.exit(&fields),
            Kind::Key => self.key(&fields),
            Kind::Variant => self.variant(&fields),
            Kind::Trace => {
                let record = fields.of(read::Trace::of)?;
                let traced = recorded::of(&mut self.log.traces, record.vcpu, &fields)?;
                traced.trace(&record, &mut self.unpacker, &fields)
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
                let place = (record.vcpu, record.reason);
                if !self.log.rates.entry(place).or_default().take(&record, &fields)? {
                    let (vcpu, reason) = place;
                    self.log.lost.gap(Kind::Rate, format!("exits over time of reason {reason} on vCPU {vcpu}"));
                }
                self.bounded("rates", self.log.rates.len(), MOST_ROWS)
            }
            Kind::Tally => self.tally(&fields),
            Kind::Total => self.total(&fields),
            Kind::Stop => {
                let read::Stop { vcpu, outcome, rip, reason, qualification, code, detail } =
                    fields.of(read::Stop::of)?;
                let (outcome, detail) = (named(outcome), text(detail));
                self.log.stop = Some(Stop { vcpu, outcome, rip, reason, qualification, code, symbol: None, detail });
                Ok(())
            }
            Kind::Verdict => {
                let read::Verdict { result, detail, remedy, records } = fields.of(read::Verdict::of)?;
                if let Some(records) = records {
                    self.log.lost.told(records, self.log.quality.records - 1);
                }
                self.log.verdict = Some(Verdict {
                    result: Judged::of(&printable(result)),
                    detail: text(detail),
                    remedy: text(remedy),
                    records,
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

    fn begin(&mut self, fields: &Fields<'_, '_>) -> Result<(), LogError> {
        self.began = true;
        // A line that was damaged before the first record is not of this run.
        self.log.lost = Lost::default();
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

    fn processor(&mut self, fields: &Fields<'_, '_>) -> Result<(), LogError> {
        let read::Processor { microcode, threads, spec_ctrl, smis, tsc_hz } = fields.of(read::Processor::of)?;
        let silicon =
            Silicon { microcode, threads_per_core: threads, spec_ctrl, smis_before: smis, smis: None, tsc_hz };
        fields.same(self.log.silicon.replace(silicon).as_ref(), Some(&silicon), || "comes twice".to_owned())
    }

    /// Logs of earlier monitors do not say what a profile enables.
    fn controls(&mut self, fields: &Fields<'_, '_>) -> Result<(), LogError> {
        let record = fields.of(read::Controls::of)?;
        let (low, high) = match (record.enabled, record.enabled_high) {
            (None, None) => return Ok(()),
            (None, Some(_)) => return Err(fields.lacks("enabled")),
            (Some(_), None) => return Err(fields.lacks("enabled_high")),
            (Some(low), Some(high)) => (low, high),
        };
        let (profile, enabled) = (printable(record.profile), u128::from(high) << 64 | u128::from(low));
        if self.log.enabled.insert(profile.clone(), enabled).is_some_and(|known| known != enabled) {
            return Err(fields.contradiction(format!("contradicts another of profile {profile}")));
        }
        self.bounded("profiles", self.log.enabled.len(), MOST_ROWS)
    }

    fn workload_begins(&mut self, fields: &Fields<'_, '_>) -> Result<(), LogError> {
        let record = fields.of(read::Begin::of)?;
        let (name, iterations) = (printable(record.workload), record.iterations);
        self.log.workloads.push(WorkloadRun { name, iterations, ..WorkloadRun::default() });
        self.bounded("workloads", self.log.workloads.len(), MOST_WORKLOADS)
    }

    fn workload_ends(&mut self, fields: &Fields<'_, '_>) -> Result<(), LogError> {
        let read::Result { workload, iterations, verdict, exits, cycles, smis, message } =
            fields.of(read::Result::of)?;
        let end = WorkloadEnd { verdict: Judged::of(&printable(verdict)), exits, cycles, smis, message: text(message) };
        let workload = self.workload(workload, |workload| workload.ended.is_none())?;
        workload.iterations = iterations;
        workload.ended = Some(end);
        Ok(())
    }

    fn count(&mut self, fields: &Fields<'_, '_>) -> Result<(), LogError> {
        let read::Count { workload, reason, predicted, guest, observed, looks } = fields.of(read::Count::of)?;
        let count = Count { predicted, guest, observed, looks: looks.unwrap_or(0) };
        self.workload(workload, |workload| !workload.counts.contains_key(&reason))?.counts.insert(reason, count);
        self.counts += 1;
        self.bounded("counts", self.counts, MOST_ROWS)
    }

    fn key_count(&mut self, fields: &Fields<'_, '_>) -> Result<(), LogError> {
        let read::KeyCount { workload, reason, key, name, predicted, observed } = fields.of(read::KeyCount::of)?;
        let count = KeyCount { reason, key, name: short(name), predicted, observed };
        let is_same = |known: &KeyCount| (known.reason, known.key) == (count.reason, count.key);
        self.workload(workload, |workload| !workload.keys.iter().any(is_same))?.keys.push(count);
        self.counts += 1;
        self.bounded("counts", self.counts, MOST_ROWS)
    }

    fn calibration(&mut self, fields: &Fields<'_, '_>) -> Result<(), LogError> {
        let read::Calibration { turns, empty, frame, whole, inside } = fields.of(read::Calibration::of)?;
        let calibration = Calibration { turns, empty, frame, whole, inside };
        let known = self.log.calibration.replace(calibration);
        fields.same(known.as_ref(), Some(&calibration), || "comes twice".to_owned())
    }

    fn samples(&mut self, fields: &Fields<'_, '_>) -> Result<(), LogError> {
        let read::Samples { workload, scenario, first, ticks } = fields.of(read::Samples::of)?;
        let runs: Vec<_> = ticks.iter().collect();
        let of = scenario.or(workload).map(printable).unwrap_or_default();
        let samples = match (scenario, workload) {
            (Some(scenario), _) => match self.timed_scenario(scenario) {
                Some(run) => &mut run.samples,
                None => return Ok(()),
            },
            (None, Some(workload)) => &mut self.workload(workload, |_| true)?.samples,
            (None, None) => return Err(fields.lacks("workload")),
        };
        let known = samples.count;
        if first < known {
            return Err(fields.contradiction(format!("begins with sample {first}, behind {known}")));
        }
        let more = runs.len();
        samples.count = first;
        samples.extend(runs);
        if first > known {
            self.log.lost.gap(Kind::Samples, format!("samples {known} to {} of {of}", first - 1));
        }
        self.runs += more;
        self.bounded("samples", self.runs, MOST_RUNS_OF_SAMPLES)
    }

    fn cost(&mut self, fields: &Fields<'_, '_>) -> Result<(), LogError> {
        let read::Cost { workload, scenario, reason, exits, cycles } = fields.of(read::Cost::of)?;
        let cost = Cost { exits, cycles };
        if let Some(scenario) = scenario {
            if let Some(run) = self.timed_scenario(scenario) {
                run.cost = cost;
            }
            return Ok(());
        }
        let workload = workload.ok_or_else(|| fields.lacks("workload"))?;
        self.workload(workload, |workload| !workload.costs.contains_key(&reason))?.costs.insert(reason, cost);
        self.counts += 1;
        self.bounded("counts", self.counts, MOST_ROWS)
    }

    /// The scenario that a record belongs to: the last. `None` if the record of that one is missing.
    fn timed_scenario(&mut self, name: Text<'_>) -> Option<&mut ScenarioRun> {
        let name = printable(name);
        let last = self.log.scenarios.last_mut().filter(|last| last.name == name);
        if last.is_none() {
            self.log.lost.gap(Kind::Scenario, format!("the record of scenario {name}"));
        }
        last
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

    fn scenario(&mut self, fields: &Fields<'_, '_>) -> Result<(), LogError> {
        let read::Scenario { scenario, reason, verdict, predicted, observed, detail } =
            fields.of(read::Scenario::of)?;
        let (name, verdict, detail) = (printable(scenario), Judged::of(&printable(verdict)), text(detail));
        let run = ScenarioRun { name, reason, verdict, predicted, observed, detail, ..ScenarioRun::default() };
        self.log.scenarios.push(run);
        self.bounded("scenarios", self.log.scenarios.len(), MOST_WORKLOADS)
    }

    fn exit(&mut self, fields: &Fields<'_, '_>) -> Result<(), LogError> {
        let read::Exit { vcpu, reason, name, status, count, cycles, min, max, histogram, looks } =
            fields.of(Record::exit)?;
        // Almost every row has the name of the table, which needs no room of its own.
        let of_table = Some(row_name(reason)).filter(|&known| name.as_plain() == Some(known));
        let (name, status) = (of_table.map_or_else(|| short(name), CompactString::const_new), named(status));
        let histogram = histogram.iter().flat_map(|histogram| histogram.iter()).collect();
        let exits = Exits { figures: Figures { count, cycles, min, max }, histogram };
        let row = ExitRow { name, status, exits, looks: looks.unwrap_or(0) };
        match self.log.exits.entry((vcpu, reason)) {
            Entry::Vacant(place) => drop(place.insert(row)),
            Entry::Occupied(known) => {
                fields.same(Some(known.get()), Some(&row), || format!("repeats reason {reason} of vCPU {vcpu}"))?;
            }
        }
        self.bounded("ledger rows", self.log.exits.len(), MOST_ROWS)
    }

    fn key(&mut self, fields: &Fields<'_, '_>) -> Result<(), LogError> {
        let read::Key { vcpu, reason, key, name, count, cycles, min, max } = fields.of(Record::key)?;
        let figures = Figures { count, cycles, min: min.unwrap_or(0), max: max.unwrap_or(0) };
        self.log.keys.entry((vcpu, reason)).or_default().push(KeyRow { key, name: short(name), figures });
        self.keys += 1;
        self.bounded("keys", self.keys, MOST_ROWS)
    }

    fn variant(&mut self, fields: &Fields<'_, '_>) -> Result<(), LogError> {
        let read::Variant { vcpu, reason, name, count, cycles, min, max } = fields.of(read::Variant::of)?;
        let row = VariantRow { name: short(name), figures: Figures { count, cycles, min, max } };
        self.log.variants.entry((vcpu, reason)).or_default().push(row);
        self.variants += 1;
        self.bounded("variants", self.variants, MOST_ROWS)
    }

    fn tally(&mut self, fields: &Fields<'_, '_>) -> Result<(), LogError> {
        let read::Tally { reason, guest } = fields.of(read::Tally::of)?;
        let known = self.log.tally.get_or_insert_default().insert(reason, guest);
        fields.same(known.as_ref(), Some(&guest), || format!("repeats reason {reason}"))
    }

    fn total(&mut self, fields: &Fields<'_, '_>) -> Result<(), LogError> {
        let read::Total { vcpu, exits, entries, cycles, elapsed, skipped, smis, paused } =
            fields.of(read::Total::of)?;
        if let (Some(silicon), Some(_)) = (&mut self.log.silicon, smis) {
            silicon.smis = smis;
        }
        let (skipped, paused) = (skipped.unwrap_or(0), paused.unwrap_or(0));
        let total = Total { exits, entries, cycles, elapsed, skipped, paused };
        fields.same(self.log.totals.insert(vcpu, total).as_ref(), Some(&total), || format!("repeats vCPU {vcpu}"))?;
        self.bounded("vCPUs", self.log.totals.len(), MOST_ROWS)
    }

    fn bounded(&self, what: &'static str, count: usize, most: usize) -> Result<(), LogError> {
        if count > most { Err(LogError::TooMany { line: self.line, what, most }) } else { Ok(()) }
    }
}
