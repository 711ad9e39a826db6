//! From the monitor's verdict and the host's findings to the verdict of the run, and to its exit status.

use std::fmt;

use serde::{Serialize, Serializer};
use tollgate_abi::command_line::Options;
use tollgate_abi::judgement::Judgement;

use super::phases;
use crate::failure::{Failure, Status};
use crate::log::{Judged, Log, Stop};

/// The verdict of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All books agree.
    Balanced,
    /// The run kept no ledger, because it measured what the ledger costs.
    Unaccounted,
    /// Some numbers don't agree; a sentence says which.
    Differs(String),
    /// The monitor's own word for what went wrong, and its detail.
    Reported(Judged, String),
    /// The log ends before its verdict.
    Unfinished,
    /// Records are damaged or missing, so that nobody can tell; a sentence says which.
    Unjudged(String),
    /// One of several runs gave no account, because of this failure.
    Ended(Failure),
    /// The verdict of one of several runs, and the name of that run.
    Of(Box<Verdict>, String),
}

impl Verdict {
    /// The verdict of a run whose host-side findings are `findings`, given the reason that there may be others.
    pub(super) fn of(log: &Log, findings: &[String], doubt: Option<&str>, accounted: bool) -> Self {
        let Some(verdict) = &log.verdict else {
            let lost = doubt.filter(|_| log.lost.heading);
            return lost.map_or(Verdict::Unfinished, |doubt| Verdict::Unjudged(doubt.to_owned()));
        };
        // A guest that keeps no book is judged by its own words, too.
        let is_bookless = Options::parse(&log.header.options).is_ok_and(|options| !options.guest_keeps_book);
        let says = |line: &Option<String>| line.clone().filter(|_| is_bookless);
        if let (Judged::Known(Judgement::Balanced), None, Some(panic)) =
            (&verdict.result, findings.first(), says(&log.console.panic))
        {
            let words = [ended(log), mark(log)].concat();
            return Verdict::Reported(Judged::Known(Judgement::Failed), format!("the guest said: {panic}{words}"));
        }
        match (&verdict.result, findings.first()) {
            (Judged::Known(Judgement::Balanced), None) if let Some(doubt) = doubt => {
                Verdict::Unjudged(doubt.to_owned())
            }
            (Judged::Known(Judgement::Balanced), None) if accounted => Verdict::Balanced,
            (Judged::Known(Judgement::Balanced), None) => Verdict::Unaccounted,
            (Judged::Known(Judgement::Balanced), Some(finding)) => Verdict::Differs(finding.clone()),
            (Judged::Known(Judgement::Differs), _) if !verdict.detail.is_empty() => {
                Verdict::Differs(verdict.detail.clone())
            }
            (Judged::Known(Judgement::Differs), Some(finding)) => Verdict::Differs(finding.clone()),
            (Judged::Known(Judgement::Differs), None) => Verdict::Differs("the monitor did not say where".to_owned()),
            (judged @ Judged::Known(Judgement::Stopped), _) if is_bookless => {
                let line = log.console.last.as_ref().map(|last| format!("; its last line: {last}"));
                let words = [line.unwrap_or_default(), mark(log)].concat();
                Verdict::Reported(judged.clone(), format!("{}{words}", verdict.detail))
            }
            (judged, _) => Verdict::Reported(judged.clone(), verdict.detail.clone()),
        }
    }

    /// Puts the name of an address behind it.
    pub(super) fn name_place(&mut self, address: u64, name: &str) {
        if let Verdict::Reported(_, detail) = self {
            let at = format!(" at {address:#x}");
            *detail = detail.replacen(&at, &format!("{at} ({name})"), 1);
        }
    }

    /// The status with which the process exits.
    pub fn status(&self) -> Status {
        match self {
            Verdict::Balanced => Status::Balanced,
            Verdict::Unaccounted | Verdict::Differs(_) => Status::Differs,
            Verdict::Reported(Judged::Known(Judgement::Refused), _) => Status::Platform,
            Verdict::Reported(..) => Status::Differs,
            Verdict::Unfinished | Verdict::Unjudged(_) => Status::NoVerdict,
            Verdict::Ended(failure) => failure.status,
            Verdict::Of(verdict, _) => verdict.status(),
        }
    }

    /// Its first word, by which runs are counted.
    pub fn word(&self) -> &str {
        match self {
            Verdict::Balanced => Judgement::Balanced.word(),
            Verdict::Unaccounted => Judgement::Unaccounted.word(),
            Verdict::Differs(_) => Judgement::Differs.word(),
            Verdict::Reported(reported, _) => reported.word(),
            Verdict::Unfinished => Judged::Unfinished.word(),
            Verdict::Unjudged(_) => "can't be judged",
            Verdict::Ended(_) => "no verdict",
            Verdict::Of(verdict, _) => verdict.word(),
        }
    }
}

/// The way in which the guest ended, and its place, as the end of a sentence.
fn ended(log: &Log) -> String {
    let rip = |stop: &Stop| stop.rip.map_or_else(String::new, |rip| format!(" at {rip:#x}"));
    log.stop.as_ref().map_or_else(String::new, |stop| format!("; it ended as {}{}", stop.outcome, rip(stop)))
}

/// The marks between which the guest ended, as the end of a sentence.
fn mark(log: &Log) -> String {
    phases::progress(log).map_or_else(String::new, |mark| format!("; {mark}"))
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word();
        match self {
            Verdict::Balanced | Verdict::Unfinished => f.write_str(word),
            Verdict::Unaccounted => write!(f, "{word}: the run kept no ledger (accounting=off)"),
            Verdict::Reported(_, detail) if detail.is_empty() => f.write_str(word),
            Verdict::Differs(detail) | Verdict::Reported(_, detail) | Verdict::Unjudged(detail) => {
                write!(f, "{word}: {detail}")
            }
            Verdict::Ended(failure) => write!(f, "{failure}"),
            Verdict::Of(verdict, which) => write!(f, "{verdict} ({which})"),
        }
    }
}

/// In documents it is a sentence.
impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
