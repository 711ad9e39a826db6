//! The predictions in a log against the table of workloads.

use tollgate_abi::ExitReason;
use tollgate_abi::exit_reason::{EnabledBy, ROWS};
use tollgate_abi::workload::{Ends, Workload};

use crate::log::{Log, WorkloadRun};

/// Finds every prediction of the monitor that the table does not make, and every one of the table that the monitor did not make.
/// `keys` says that the run kept keys.
pub(super) fn check(log: &Log, keys: bool, found: &mut Vec<String>) {
    for run in log.workloads.iter().filter(|run| run.ended.is_some()) {
        if let Some(workload) = Workload::by_name(&run.name).filter(|workload| workload.ends == Ends::Returns) {
            check_workload(log, run, workload, found);
            if keys {
                check_keys(log, run, workload, found);
            }
        }
    }
}

fn check_workload(log: &Log, run: &WorkloadRun, workload: &Workload, found: &mut Vec<String>) {
    let logged = |reason: ExitReason| run.counts.get(&reason.0).and_then(|count| count.predicted).unwrap_or(0);
    let bits = log.enabled.get(workload.profile.name());
    let enabled = |reason: ExitReason| match bits {
        Some(bits) => bits.checked_shr(reason.0.into()).is_some_and(|bits| bits & 1 != 0),
        // In logs of earlier monitors a reason was enabled if it was predicted.
        None => logged(reason) > 0 || reason.row().is_some_and(|row| row.enabled_by == EnabledBy::Always),
    };
    for reason in (0..ROWS as u16).map(ExitReason).filter(|reason| reason.is_named()) {
        let expected = workload.predict(reason, run.iterations, log.header.vcpus, log.header.facts, enabled);
        if expected != logged(reason) {
            found.push(format!(
                "workload {}, reason {} {}: the monitor predicted {}, the table of workloads {expected}",
                run.name,
                reason.0,
                reason.name(),
                logged(reason)
            ));
        }
    }
}

fn check_keys(log: &Log, run: &WorkloadRun, workload: &Workload, found: &mut Vec<String>) {
    let expected: Vec<(u16, u64, u64)> = workload
        .keys()
        .map(|key| {
            (key.reason.0, key.key, key.predict(workload.on, run.iterations, log.header.vcpus, log.header.facts))
        })
        .collect();
    if !run.keys.iter().map(|key| (key.reason, key.key, key.predicted)).eq(expected) {
        found.push(format!(
            "workload {}: the monitor did not predict its keys as the table of workloads does",
            run.name
        ));
    }
}
