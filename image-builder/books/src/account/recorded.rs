//! Traces and samples as an account has them: sums, which have to be those of the ledger.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tollgate_abi::command_line::Options;
use tollgate_abi::record::Kind;

use super::findings::Findings;
use super::row_name;
use crate::log::{Log, Part, Traced};

/// Exits for one reason on one vCPU in equal steps of time, beginning with the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rate {
    /// The vCPU.
    pub vcpu: u64,
    /// The basic exit reason.
    pub reason: u16,
    /// TSC ticks of a step.
    pub step: u64,
    /// Exits in each step, up to the last that has any.
    pub counts: Vec<u64>,
}

/// The sums of one vCPU's trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TraceFacts {
    /// The vCPU.
    pub vcpu: u64,
    /// Exits in the trace.
    pub exits: u64,
    /// Exits that found the ring full: counted, and not in the trace.
    pub dropped: u64,
    /// Records of the trace that the log should have and has not.
    pub missing_records: u64,
    /// The most exits that the ring holds until it is emptied.
    pub ring: u64,
}

/// The samples over time.
pub(super) fn rates(log: &Log) -> Vec<Rate> {
    let rate = |(&(vcpu, reason), samples): (&(u64, u16), &crate::log::Steps)| Rate {
        vcpu,
        reason,
        step: samples.step,
        counts: samples.counts.clone(),
    };
    log.rates.iter().map(rate).collect()
}

/// The sums of the traces.
pub(super) fn traces(log: &Log) -> Vec<TraceFacts> {
    let sum = |parts: &mut dyn Iterator<Item = &Part>| parts.map(|part| part.count).fold(0, u64::saturating_add);
    let facts = |(&vcpu, traced): (&u64, &Traced)| TraceFacts {
        vcpu,
        exits: sum(&mut traced.recorded.values()),
        dropped: sum(&mut traced.dropped.values()),
        missing_records: traced.missing,
        ring: traced.end.map_or(0, |end| end.ring),
    };
    log.traces.iter().map(facts).collect()
}

/// Checks trace and samples against the ledger, and against the options.
pub(super) fn check(log: &Log, options: Option<&Options<'_>>, found: &mut Findings<'_>) {
    for (&vcpu, traced) in &log.traces {
        if traced.missing > 0 {
            found.missing(&[Kind::Trace], format!("{} records of the trace of vCPU {vcpu}", traced.missing));
        } else if traced.end.is_some() {
            against_ledger(log, vcpu, traced, found);
        }
    }
    let Some(options) = options.filter(|_| log.verdict.is_some()) else { return };
    let has_end = |vcpu: &u64| log.traces.get(vcpu).is_some_and(|traced| traced.end.is_some());
    for vcpu in log.totals.keys().filter(|vcpu| options.trace_exits > 0 && !has_end(vcpu)) {
        let what =
            format!("the trace of vCPU {vcpu}, or its end: lines are missing, or the machine has no memory for one");
        found.missing(&[Kind::Trace, Kind::Traced], what);
    }
    let sampled = log.rates.keys().chain(log.exits.keys().filter(|_| options.rate_step_ticks > 0));
    for &(vcpu, reason) in sampled.collect::<BTreeSet<_>>() {
        let counts = log.rates.get(&(vcpu, reason)).map_or(&[][..], |samples| &samples.counts);
        let (sum, row) =
            (counts.iter().fold(0, |sum: u64, &count| sum.saturating_add(count)), ledger(log, vcpu, reason));
        if sum != row.count {
            let place = format!("reason {reason} {} on vCPU {vcpu}", row_name(reason));
            let over_time = counts.is_empty().then(|| format!("exits over time of {place}"));
            let missing = found.missing_row(vcpu, reason).or(over_time);
            found.unless(missing, &[Kind::Exit, Kind::Rate], || {
                format!("{place}: ledger {}, over time {sum}", row.count)
            });
        }
    }
}

/// A reason's exits by the ledger.
fn ledger(log: &Log, vcpu: u64, reason: u16) -> Part {
    log.exits
        .get(&(vcpu, reason))
        .map_or(Part::default(), |row| Part { count: row.exits.figures.count, cycles: row.exits.figures.cycles })
}

/// Checks the trace of one vCPU, drops included, reason by reason.
fn against_ledger(log: &Log, vcpu: u64, traced: &Traced, found: &mut Findings<'_>) {
    let mut reasons: BTreeSet<u16> =
        log.exits.range((vcpu, 0)..=(vcpu, u16::MAX)).map(|(&(_, reason), _)| reason).collect();
    reasons.extend(traced.recorded.keys().chain(traced.dropped.keys()));
    for reason in reasons {
        let of = |parts: &BTreeMap<u16, Part>| parts.get(&reason).copied().unwrap_or_default();
        let (recorded, dropped_part, row) = (of(&traced.recorded), of(&traced.dropped), ledger(log, vcpu, reason));
        let (count, cycles) =
            (recorded.count.saturating_add(dropped_part.count), recorded.cycles.saturating_add(dropped_part.cycles));
        if (count, cycles) != (row.count, row.cycles) {
            let place = format!("reason {reason} {} on vCPU {vcpu}", row_name(reason));
            let is_short = !traced.dropped.contains_key(&reason) && count < row.count && cycles < row.cycles;
            let dropped = is_short.then(|| format!("exits that the trace dropped of {place}"));
            let missing = found.missing_row(vcpu, reason).or(dropped);
            found.unless(missing, &[Kind::Exit, Kind::Trace, Kind::Dropped], || {
                format!(
                    "{place}: ledger {} exits of {} cycles, trace {} of {}, dropped {} of {}",
                    row.count, row.cycles, recorded.count, recorded.cycles, dropped_part.count, dropped_part.cycles
                )
            });
        }
    }
}
