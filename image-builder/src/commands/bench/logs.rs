//! Microbenchmarks that ran elsewhere: on a real machine, from a stick, or in a hypervisor of one's own. Only their logs are
//! here.

use std::path::PathBuf;

use tollgate_books::account::Account;
use tollgate_books::bench::{Identity, Measured};
use tollgate_books::failure::{Failure, Status};
use tollgate_books::log::{Header, Log};

use super::super::reading::Reading;
use super::Outcome;

const ASK: &str = "let it measure something: `tollgate image --uefi FILE --workload bench` writes a stick that does";

/// Pools the samples in logs of one machine.
///
/// # Errors
/// One of them can't be used: it is no log, its run did not balance, has measured nothing, or was on another machine.
pub(super) fn measure(paths: &[PathBuf]) -> Result<Outcome, Failure> {
    let mut reading = Reading::new(paths, |log| {
        let (status, account) = Account::with_status(&log);
        (status, (log, account))
    });
    let mut measured = Measured::default();
    let mut platform: Option<Identity> = None;
    let mut runs = 0;
    while let Some((title, (log, account))) = reading.next()? {
        let refuse =
            |status: Status, what: &dyn std::fmt::Display| Failure::new(status, format_args!("{title}: {what}"));
        if account.status != Status::Balanced {
            let what = format!("nothing was measured: {}", account.verdict);
            return Err(refuse(account.status.max(Status::Differs), &what));
        }
        if !log.workloads.iter().any(|run| run.samples.count > 0) {
            return Err(refuse(Status::Usage, &"the run has no microbenchmark in it").remedy(ASK));
        }
        let here = identity(&log);
        if let Some(what) = platform.as_ref().and_then(|first| first.difference(&here)) {
            let what = format!("it is of another machine than the first log: {what}");
            return Err(refuse(Status::Usage, &what).remedy("compare two machines by --save and --against of each"));
        }
        platform.get_or_insert(here);
        measured.add(&log);
        runs += 1;
    }
    if reading.unusable > 0 {
        return Err(Failure::usage("the whole records of these logs are not all that was measured")
            .remedy("name the logs that are whole"));
    }
    reading.finish()?;
    let platform = platform.ok_or_else(|| Failure::usage("there is no log").remedy(ASK))?;
    Ok(Outcome {
        measured,
        platform,
        image: String::new(),
        runs,
        budgets: Vec::new(),
        findings: Vec::new(),
        target: None,
    })
}

/// The facts that a log tells of the machine. It does not tell whether that was an emulator that repeats itself.
fn identity(log: &Log) -> Identity {
    let Header { build, platform, virtualization, cpu, .. } = &log.header;
    Identity {
        platform: format!("log of {platform}"),
        repeats: false,
        emulator: String::new(),
        extension: virtualization.clone(),
        model: String::new(),
        cpu: cpu.clone(),
        memory_mib: 0,
        host: String::new(),
        tollgate: format!("{}, monitor {build}", env!("CARGO_PKG_VERSION")),
    }
}
