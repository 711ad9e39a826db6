//! One workload's window: opened and closed by hypercalls, its books compared before it closes, and the monitor's
//! account read through the leaves around it.

use alloc::format;
use alloc::vec::Vec;

use tollgate_abi::exit_reason::{ExitReason, TABLE};
use tollgate_abi::hypercall::Book;
use tollgate_abi::workload::Workload;

use super::expect::ensure;
use super::{Code, Outcome, Run};
use crate::ops::{control_registers, hypercall};
use crate::runtime::account;
use crate::runtime::book::{Tally, booked, tally, tally_since};
use crate::runtime::intercepts::enabled_in;
use crate::runtime::message::Message;

/// Runs one workload. The error names it.
pub(super) fn perform(workload: &'static Workload, code: Code, run: &Run) -> Outcome {
    let watched = watched(workload, run);
    let before = readings(&watched);
    hypercall::begin(workload, run.iterations)
        .map_err(|errno| format!("{}: the monitor does not begin it: errno {errno}", workload.name))?;

    let start = tally();
    let outcome = code(run);
    let window = tally_since(&start);

    let outcome = outcome.and_then(|()| as_predicted(workload, run, &window));
    let message = outcome.as_ref().err().map_or(Message::EMPTY, |what| Message::new(format_args!("{what}")));
    let book = Book { passed: u64::from(outcome.is_ok()), message: message.bytes(), tally: window, ..Book::new() };
    hypercall::end(&book).map_err(|errno| format!("{}: the monitor does not end it: errno {errno}", workload.name))?;
    control_registers::restore();

    outcome.and_then(|()| as_counted(&before, &readings(&watched))).map_err(|what| format!("{}: {what}", workload.name))
}

/// What the window's prediction is for one reason.
fn predicted(workload: &Workload, run: &Run, reason: ExitReason) -> u64 {
    workload.predict(reason, run.iterations, |reason| enabled_in(workload.profile, reason))
}

/// The guest's book against the prediction, every row.
fn as_predicted(workload: &Workload, run: &Run, window: &Tally) -> Outcome {
    for (row, &booked) in window.iter().enumerate() {
        let reason = ExitReason(row as u16);
        let predicted = predicted(workload, run, reason);
        ensure!(booked == predicted, "exit {reason:?} was provoked {booked} times, not {predicted}");
    }
    Ok(())
}

/// The reasons whose counts are read around the window: those that it predicts, and those of the harness itself.
/// None where the monitor keeps no account.
fn watched(workload: &Workload, run: &Run) -> Vec<ExitReason> {
    let own = [ExitReason::CPUID, ExitReason::VMCALL];
    let is_watched =
        |&reason: &ExitReason| run.account.kept && (own.contains(&reason) || predicted(workload, run, reason) > 0);
    TABLE.iter().map(|row| row.reason).filter(is_watched).collect()
}

/// What the leaves and the book say about one reason at one moment.
struct Reading {
    reason: ExitReason,
    counted: u64,
    booked: u64,
}

fn readings(reasons: &[ExitReason]) -> Vec<Reading> {
    // The count comes first: the query is booked before it is made, and counted before it is answered.
    let read = |&reason| Reading { reason, counted: account::exits(reason), booked: booked(reason) };
    reasons.iter().map(read).collect()
}

/// The leaves against the guest's book, over the window and the harness's own exits around it.
fn as_counted(before: &[Reading], after: &[Reading]) -> Outcome {
    for (before, after) in before.iter().zip(after) {
        let counted = after.counted.wrapping_sub(before.counted);
        let booked = after.booked.wrapping_sub(before.booked);
        ensure!(counted == booked, "the leaves count {counted} exits {:?}, the guest booked {booked}", after.reason);
    }
    Ok(())
}
