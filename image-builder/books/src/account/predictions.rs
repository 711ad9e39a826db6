//! The predictions in a log against the table of workloads.

use tollgate_abi::ExitReason;
use tollgate_abi::exit_reason::{EnabledBy, ROWS};
use tollgate_abi::record::Kind;
use tollgate_abi::workload::{Ends, Workload};

use super::asked::left_out;
use super::findings::Findings;
use crate::log::{KeyCount, Log, WorkloadRun};

/// Finds every prediction of the monitor that the table does not make, and every one of the table that the monitor did not make.
/// `keys` says that the run kept keys.
pub(super) fn check(log: &Log, keys: bool, found: &mut Findings<'_>) {
    for run in log.workloads.iter().filter(|run| run.ended.is_some()) {
        if let Some(workload) = Workload::by_name(&run.name).filter(|workload| workload.ends == Ends::Returns) {
            check_workload(log, run, workload, found);
            if keys {
                check_keys(log, run, workload, found);
            }
        }
    }
}

fn check_workload(log: &Log, run: &WorkloadRun, workload: &Workload, found: &mut Findings<'_>) {
    let logged = |reason: ExitReason| run.counts.get(&reason.0).and_then(|count| count.predicted).unwrap_or(0);
    let bits = log.enabled.get(workload.profile.name());
    let enabled = |reason: ExitReason| match bits {
        Some(bits) => bits.checked_shr(reason.0.into()).is_some_and(|bits| bits & 1 != 0),
        // In logs of earlier monitors a reason was enabled if it was predicted.
        None => logged(reason) > 0 || reason.row().is_some_and(|row| row.enabled_by == EnabledBy::Always),
    };
    let observed = run.counts.values().fold(0, |sum: u64, count| sum.saturating_add(count.observed));
    let is_short = run.ended.as_ref().is_some_and(|end| observed < end.exits);
    for reason in (0..ROWS as u16).map(ExitReason).filter(|reason| reason.is_named()) {
        let expected = workload.predict(reason, run.iterations, log.header.vcpus, log.header.facts, enabled);
        if expected != logged(reason) {
            let place = format!("workload {}, reason {} {}", run.name, reason.0, reason.name());
            let missing = (is_short && !run.counts.contains_key(&reason.0)).then(|| format!("the count of {place}"));
            found.unless(missing, &[Kind::Count, Kind::Controls], || {
                format!("{place}: the monitor predicted {}, the table of workloads {expected}", logged(reason))
            });
        }
    }
}

fn check_keys(log: &Log, run: &WorkloadRun, workload: &Workload, found: &mut Findings<'_>) {
    let expected: Vec<(u16, u64, u64)> = workload
        .keys()
        .map(|key| {
            (key.reason.0, key.key, key.predict(workload.on, run.iterations, log.header.vcpus, log.header.facts))
        })
        .collect();
    let named =
        |(reason, key, _): &(u16, u64, u64)| format!("key {key:#x} of reason {reason} of workload {}", run.name);
    let is_it = |expected: &(u16, u64, u64), key: &KeyCount| *expected == (key.reason, key.key, key.predicted);
    match left_out(expected.into_iter(), &run.keys, is_it, named) {
        Some(missing) => missing.into_iter().for_each(|key| found.missing(&[Kind::KeyCount], key)),
        None => found.between(
            &[Kind::KeyCount],
            format!("workload {}: the monitor did not predict its keys as the table of workloads does", run.name),
        ),
    }
}
