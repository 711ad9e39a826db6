//! From what came of an emulator's run to an account, or to the reason why there is none.

use crate::account::Account;
use crate::emulator::{Ended, Launch, Session};
use crate::failure::Failure;
use crate::log::LogError;

/// The account of a session, or why there is none.
pub(super) fn account(launch: &Launch, session: Session) -> Result<Account, Failure> {
    let Session { ended, log, audit, said, wall } = session;
    let name = &launch.name;
    let seconds = wall.as_secs_f64();
    let after = |what: &str| format!("{name} {what} after {seconds:.1} s, before a verdict{}", quoted(&said));
    let log = match (log, ended) {
        (Ok(log), _) if log.verdict.is_some() => return Ok(Account::new(&log, audit.as_ref(), Some(launch.kind))),
        (log, _) => log,
    };
    let cause = match ended {
        Ended::Interrupted => Failure::no_verdict(format_args!("interrupted: {name} was stopped")),
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
            eprintln!("tollgate: {cause}");
            Ok(Account::new(&log, audit.as_ref(), Some(launch.kind)))
        }
        Err(LogError::Empty) => Err(cause),
        Err(error) => Err(Failure::new(cause.status, format_args!("{error}\n  {cause}"))),
    }
}

fn quoted(said: &str) -> String {
    if said.is_empty() {
        return "; it printed nothing".to_owned();
    }
    said.lines().fold("; it printed last:".to_owned(), |text, line| text + "\n  | " + line)
}
