//! The trace and the samples in a log. A trace may be longer than memory, so that only its sums are kept.

use std::collections::BTreeMap;

use tollgate_abi::exit_reason::ROWS;
use tollgate_abi::record::records::read;

use super::error::LogError;
use super::fields::Fields;
use crate::unpacked::Unpacker;

/// The most vCPUs that a log's trace may name.
const MOST_VCPUS: usize = 1024;
/// The most steps of time that a reason's samples may have.
const MOST_STEPS: usize = 1 << 16;

/// Exits, and TSC ticks of all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Exits.
    pub count: u64,
    /// TSC ticks.
    pub cycles: u64,
}

impl Part {
    fn add(&mut self, count: u64, cycles: u64) {
        self.count = self.count.saturating_add(count);
        self.cycles = self.cycles.saturating_add(cycles);
    }
}

/// One vCPU's trace, summed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traced {
    /// `trace` records that were read.
    pub records: u64,
    /// Exits in them, by reason.
    pub recorded: BTreeMap<u16, Part>,
    /// Exits that found the ring full.
    pub dropped: BTreeMap<u16, Part>,
    /// The number that the next record has to have.
    next: u64,
    /// Records that are missing, by the numbers of those that came.
    pub missing: u64,
    /// The `traced` record, the last of a trace.
    pub end: Option<TraceEnd>,
}

/// The monitor's own sums of a trace, at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceEnd {
    /// `trace` records that it wrote.
    pub records: u64,
    /// Exits in these records.
    pub exits: u64,
    /// The most exits that the ring holds.
    pub ring: u64,
}

impl Traced {
    /// Takes a `trace` record.
    pub(super) fn trace(
        &mut self,
        record: &read::Trace<'_>,
        unpacker: &mut Unpacker,
        fields: &Fields<'_, '_>,
    ) -> Result<(), LogError> {
        let &read::Trace { seq: number, exits, tsc, data, .. } = record;
        if number < self.next {
            return Err(fields.contradiction(format!("has the number {number} where {} was to come", self.next)));
        }
        self.missing = self.missing.saturating_add(number - self.next);
        self.next = number.saturating_add(1);
        self.records += 1;
        let mut found = 0;
        // The reasons of the table have a place each, which is found at once; the sums are added when the record is done.
        let mut sums = [Part::default(); ROWS];
        let malformed = |_| fields.problem("has exits that can't be unpacked".to_owned());
        for event in unpacker.unpack(tsc, data.as_bytes()).map_err(malformed)? {
            let event = event.map_err(malformed)?;
            match sums.get_mut(usize::from(event.reason)) {
                Some(sum) => sum.add(1, event.cycles),
                None => self.recorded.entry(event.reason).or_default().add(1, event.cycles),
            }
            found += 1;
        }
        for (reason, sum) in (0..).zip(sums).filter(|(_, sum)| sum.count > 0) {
            self.recorded.entry(reason).or_default().add(sum.count, sum.cycles);
        }
        if found != exits {
            return Err(fields.problem(format!("has {found} exits and says that it has {exits}")));
        }
        Ok(())
    }

    /// Takes a `dropped` record.
    pub(super) fn dropped(&mut self, record: &read::Dropped<'_>, fields: &Fields<'_, '_>) -> Result<(), LogError> {
        let part = Part { count: record.count, cycles: record.cycles };
        fields.same(self.dropped.insert(record.reason, part).as_ref(), Some(&part), || "repeats a reason".to_owned())
    }

    /// Takes the `traced` record.
    pub(super) fn end(&mut self, record: &read::Traced<'_>, fields: &Fields<'_, '_>) -> Result<(), LogError> {
        let end = TraceEnd { records: record.seq, exits: record.exits, ring: record.ring };
        self.missing = self.missing.saturating_add(end.records.saturating_sub(self.next));
        self.next = self.next.max(end.records);
        fields.same(self.end.replace(end).as_ref(), Some(&end), || "repeats a vCPU".to_owned())
    }
}

/// The trace of the vCPU that a record names.
pub(super) fn of<'a>(
    traces: &'a mut BTreeMap<u64, Traced>,
    vcpu: u64,
    fields: &Fields<'_, '_>,
) -> Result<&'a mut Traced, LogError> {
    if traces.len() >= MOST_VCPUS && !traces.contains_key(&vcpu) {
        return Err(LogError::TooMany { line: fields.line, what: "vCPUs", most: MOST_VCPUS });
    }
    Ok(traces.entry(vcpu).or_default())
}

/// Exits of one vCPU for one reason in equal steps of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// The TSC at which the first step begins.
    pub start: u64,
    /// TSC ticks of a step.
    pub step: u64,
    /// Exits in each step.
    pub counts: Vec<u64>,
}

impl Steps {
    /// Takes a `rate` record; `false` if one before it is missing, so that it has no place.
    pub(super) fn take(&mut self, record: &read::Rate<'_>, fields: &Fields<'_, '_>) -> Result<bool, LogError> {
        let &read::Rate { start, step, from, counts, .. } = record;
        if self.counts.is_empty() {
            (self.start, self.step) = (start, step);
        }
        if from > self.counts.len() as u64 {
            return Ok(false);
        }
        if step == 0 || (self.start, self.step, self.counts.len() as u64) != (start, step, from) {
            return Err(fields.contradiction("does not go on where the one before it ends".to_owned()));
        }
        self.counts.extend(counts.iter());
        if self.counts.len() > MOST_STEPS {
            return Err(LogError::TooMany { line: fields.line, what: "steps of time", most: MOST_STEPS });
        }
        Ok(true)
    }
}
