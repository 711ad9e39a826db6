//! From the result of an emulator's run to an account, or to the reason that there is none.

use tollgate_books::account::{Account, Verdict};
use tollgate_books::audit::Audit;
use tollgate_books::failure::Failure;
use tollgate_books::log::{Log, LogError};
use tollgate_books::terminal::Terminal;

use crate::emulator::ovmf::FIRMWARE_VARIABLE;
use crate::emulator::{Ended, Launch, Session};

/// The account of a session, or the reason that there is none.
pub(super) fn account(launch: &Launch, session: Session) -> Result<Account, Failure> {
    let Session { ended, log, audit, said, wall } = session;
    let name = &launch.name;
    let seconds = wall.as_secs_f64();
    let after = |what: &str| format!("{name} {what} after {seconds:.1} s, before a verdict{}", quoted(&said));
    let log = match (log, ended) {
        (Ok(log), _) if log.verdict.is_some() => return Ok(of(&log, audit.as_ref(), launch)),
        (log, _) => log,
    };
    let cause = match ended {
        Ended::Interrupted => Failure::no_verdict(format_args!("interrupted: {name} was stopped")),
        Ended::TimedOut if launch.by_firmware && matches!(log, Err(LogError::Empty | LogError::NotOurs { .. })) => {
            Failure::no_verdict(format_args!(
                "{name} was stopped after {seconds:.1} s, in which its firmware did not start the stick's application"
            ))
            .remedy(format_args!(
                "allow it more with --timeout, or name another firmware with {FIRMWARE_VARIABLE} (Debian's package `ovmf` has \
                 OVMF.fd)"
            ))
        }
        Ended::TimedOut => {
            Failure::no_verdict(format_args!("{name} gave no verdict in {seconds:.1} s and was stopped"))
                .remedy("allow it more with --timeout, or ask for fewer iterations")
        }
        Ended::Flooded(what) => {
            Failure::no_verdict(format_args!("the {what} of {name} grew beyond its limit; it was stopped"))
                .remedy("ask for fewer iterations, or leave --audit out")
        }
        Ended::Exited(status) => match (launch.explain)(&said) {
            Some(failure) => failure,
            None => Failure::no_verdict(after(&format!("ended ({status})"))),
        },
        Ended::AfterVerdict => Failure::no_verdict(after("was stopped")),
    };
    match log {
        Ok(log) => {
            Terminal::of_stderr().tell(&format!("tollgate: {cause}"));
            Ok(of(&log, audit.as_ref(), launch))
        }
        Err(LogError::Empty) => Err(cause),
        Err(error) => Err(Failure::new(cause.status, format_args!("{error}\n  {cause}"))),
    }
}

/// The account of a log. An emulator's log without a single exit, beside a ledger that has some, counts as one that can't be
/// read.
fn of(log: &Log, audit: Option<&Audit>, launch: &Launch) -> Account {
    let mut account = Account::new(log, audit, Some(launch.platform.name));
    let emulator = &launch.emulator;
    if account.totals.audit_count == Some(0) && account.totals.exits > 0 {
        let cause = format!("no line of the log of {} is read as an exit: the audit says nothing", emulator.title);
        if let Verdict::Differs(what) = &mut account.verdict {
            what.clone_from(&cause);
        }
        account.findings.insert(0, cause);
        account.remedy.get_or_insert("leave --audit out, or use a version that `tollgate platforms` knows".to_owned());
    }
    account.platform.emulator = Some(emulator.title.clone());
    account
}

fn quoted(said: &str) -> String {
    if said.is_empty() {
        return "; it printed nothing".to_owned();
    }
    said.lines().fold("; it printed last:".to_owned(), |text, line| text + "\n  | " + line)
}
