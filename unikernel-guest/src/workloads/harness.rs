//! One workload's window: opened and closed by hypercalls, its books compared before it closes, and the monitor's
//! account read through the leaves around it. Between those readings and the window's edges the other vCPUs are halted.
#![expect(unsafe_code, reason = "hands parts of a workload to other vCPUs")]

use alloc::format;
use alloc::vec::Vec;

use tollgate_abi::exit_reason::{ExitReason, TABLE};
use tollgate_abi::hypercall::Book;
use tollgate_abi::profile::Profile;
use tollgate_abi::workload::{On, Workload};

use super::expect::ensure;
use super::{Code, Outcome, Run, bench};
use crate::books::book::{Tally, booked, tally, tally_since};
use crate::books::intercepts::{enabled_in, facts};
use crate::books::vcpus;
use crate::ops::hypercall;
use crate::runtime::account;
use crate::runtime::lock::Lock;
use crate::runtime::message::Message;
use crate::runtime::threads;

/// Runs one workload, whose name an error has.
pub(super) fn perform(workload: &'static Workload, code: Code, run: &Run) -> Outcome {
    let watched = watched(workload, run);
    let before = readings(&watched);
    hypercall::begin(workload, run.iterations)
        .map_err(|errno| format!("{}: the monitor does not begin it: errno {errno}", workload.name))?;

    let start = tally();
    let outcome = everywhere(workload, code, run);
    let window = tally_since(&start);

    let outcome = outcome.and_then(|()| as_predicted(workload, run, &window));
    let message = outcome.as_ref().err().map_or(Message::EMPTY, |what| Message::new(format_args!("{what}")));
    let book = Book { passed: u64::from(outcome.is_ok()), message: message.bytes(), tally: window, ..Book::new() };
    let samples = bench::take_samples();
    hypercall::end(&book, &samples)
        .map_err(|errno| format!("{}: the monitor does not end it: errno {errno}", workload.name))?;
    threads::restore();

    outcome.and_then(|()| as_counted(&before, &readings(&watched))).map_err(|what| format!("{}: {what}", workload.name))
}

/// The work of one vCPU, and its result.
struct Part<'a> {
    code: Code,
    run: &'a Run,
    outcome: Lock<Outcome>,
}

/// Runs the code on each vCPU of the workload. The first error counts, and names the vCPU if it is another.
fn everywhere(workload: &Workload, code: Code, run: &Run) -> Outcome {
    let others = if workload.on == On::Every { 1..vcpus() } else { 1..1 };
    let parts: Vec<_> = others.map(|vcpu| (vcpu, Part { code, run, outcome: Lock::new(Ok(())) })).collect();
    for (vcpu, part) in &parts {
        let argument = core::ptr::from_ref(part).expose_provenance();
        // A panic, not an error to return: vCPUs that have begun still use the parts.
        assert!(threads::give(*vcpu, workload.profile, run_part, argument), "vCPU {vcpu} is busy");
    }
    let mut outcome = code(run);
    let switches = !parts.is_empty() && workload.profile != Profile::Minimal;
    if switches {
        hypercall::switch_profile(Profile::Minimal);
    }
    for (vcpu, part) in &parts {
        threads::finish(*vcpu);
        let elsewhere = part.outcome.with(|outcome| core::mem::replace(outcome, Ok(())));
        outcome = outcome.and(elsewhere.map_err(|what| format!("on vCPU {vcpu}: {what}")));
    }
    if switches {
        hypercall::switch_profile(workload.profile);
    }
    outcome
}

extern "C" fn run_part(part: usize) {
    // SAFETY: `everywhere` waits for this vCPU before it gives the part up.
    let part: &Part<'_> = unsafe { &*core::ptr::with_exposed_provenance::<Part<'_>>(part) };
    let outcome = (part.code)(part.run);
    part.outcome.with(|result| *result = outcome);
}

/// The window's prediction for one reason.
fn predicted(workload: &Workload, run: &Run, reason: ExitReason) -> u64 {
    workload.predict(reason, run.iterations, run.vcpus, facts(), |reason| enabled_in(workload.profile, reason))
}

/// Checks the guest's book against the prediction, every row.
fn as_predicted(workload: &Workload, run: &Run, window: &Tally) -> Outcome {
    for (row, &booked) in window.iter().enumerate() {
        let reason = ExitReason(row as u16);
        let predicted = predicted(workload, run, reason);
        ensure!(booked == predicted, "exit {reason:?} was provoked {booked} times, not {predicted}");
    }
    Ok(())
}

/// The reasons whose counts are read around the window: those that the workload predicts, and those of the harness itself. None
/// where the monitor keeps no account.
fn watched(workload: &Workload, run: &Run) -> Vec<ExitReason> {
    let own = [ExitReason::CPUID, ExitReason::VMCALL];
    let is_watched =
        |&reason: &ExitReason| run.account.kept && (own.contains(&reason) || predicted(workload, run, reason) > 0);
    TABLE.iter().map(|row| row.reason).filter(is_watched).collect()
}

/// The answers of leaves and book about one reason at one moment.
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

/// Checks the leaves against the guest's book, over the window and the harness's own exits around it.
fn as_counted(before: &[Reading], after: &[Reading]) -> Outcome {
    for (before, after) in before.iter().zip(after) {
        let counted = after.counted.wrapping_sub(before.counted);
        let booked = after.booked.wrapping_sub(before.booked);
        ensure!(counted == booked, "the leaves count {counted} exits {:?}, the guest booked {booked}", after.reason);
    }
    Ok(())
}
