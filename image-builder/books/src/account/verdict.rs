//! From the monitor's verdict and the host's findings to the verdict of the run, and to its exit status.

use crate::failure::Status;
use crate::log::Log;

/// How a run went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All books agree.
    Balanced,
    /// The run kept no ledger, because it measured what the ledger costs.
    Unaccounted,
    /// Some numbers don't agree: which.
    Differs(String),
    /// The monitor's own word for what went wrong, and its detail.
    Reported(Reported, String),
    /// The log ends before its verdict.
    Unfinished,
}

/// The report of a monitor besides `balanced` and `differs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// An assertion of the guest failed.
    Failed,
    /// The guest had to be stopped.
    Stopped,
    /// The processor lacks something.
    Refused,
    /// The monitor itself failed.
    Fault,
    /// A word that this tool does not know.
    Unknown,
}

impl Reported {
    fn parse(word: &str) -> Self {
        match word {
            "failed" => Reported::Failed,
            "stopped" => Reported::Stopped,
            "refused" => Reported::Refused,
            "fault" => Reported::Fault,
            _ => Reported::Unknown,
        }
    }
}

impl Verdict {
    /// The verdict of a run whose host-side findings are `findings`.
    pub(super) fn of(log: &Log, findings: &[String], accounted: bool) -> Self {
        let Some(verdict) = &log.verdict else { return Verdict::Unfinished };
        match (verdict.result.as_str(), findings.first()) {
            ("balanced", None) if accounted => Verdict::Balanced,
            ("balanced", None) => Verdict::Unaccounted,
            ("balanced", Some(finding)) => Verdict::Differs(finding.clone()),
            ("differs", _) if !verdict.detail.is_empty() => Verdict::Differs(verdict.detail.clone()),
            ("differs", Some(finding)) => Verdict::Differs(finding.clone()),
            ("differs", None) => Verdict::Differs("the monitor did not say where".to_owned()),
            (word, _) => Verdict::Reported(Reported::parse(word), join(word, &verdict.detail)),
        }
    }

    /// The exit status of the process.
    pub fn status(&self) -> Status {
        match self {
            Verdict::Balanced => Status::Balanced,
            Verdict::Unaccounted | Verdict::Differs(_) => Status::Differs,
            Verdict::Reported(Reported::Refused, _) => Status::Platform,
            Verdict::Reported(..) => Status::Differs,
            Verdict::Unfinished => Status::NoVerdict,
        }
    }
}

fn join(word: &str, detail: &str) -> String {
    if detail.is_empty() { word.to_owned() } else { format!("{word}: {detail}") }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Verdict::Balanced => f.write_str("balanced"),
            Verdict::Unaccounted => f.write_str("unaccounted: the run kept no ledger (accounting=off)"),
            Verdict::Differs(what) => write!(f, "differs: {what}"),
            Verdict::Reported(_, text) => f.write_str(text),
            Verdict::Unfinished => f.write_str("unfinished"),
        }
    }
}
