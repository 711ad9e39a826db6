//! How a guest ended, and how each of its vCPUs did.

use core::fmt::{Display, Write};

use alloc::string::String;
use tollgate_abi::workload::Outcome;

use crate::exit::{Backend, RawReason};

/// How a guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End<F> {
    /// The outcome.
    pub outcome: Outcome,
    /// Where it was.
    pub rip: u64,
    /// The exit-reason field of the last exit.
    pub reason: u32,
    /// The exit qualification of the last exit.
    pub qualification: u64,
    /// The entry instruction's own error, if it failed without an exit.
    pub failure: Option<F>,
    /// TSC ticks from the first entry to the last exit.
    pub elapsed_tsc: u64,
    /// The same until that exit was dealt with, which may take long: what its cycles are a part of.
    pub whole_tsc: u64,
}

/// How a vCPU ended, for the account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The outcome.
    pub outcome: Outcome,
    /// Where it was.
    pub rip: u64,
    /// The exit-reason field of its last exit.
    pub reason: u32,
    /// The exit qualification of its last exit.
    pub qualification: u64,
    /// More for a person; empty if there is nothing to say.
    pub detail: String,
    /// How the guest ended itself, if it did so here.
    pub exit: Option<GuestExit>,
}

/// The guest's last words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestExit {
    /// Its exit status.
    pub status: u64,
    /// Where its book is.
    pub book_gpa: u64,
}

impl Ended {
    /// An end about which nothing more is known.
    pub const fn of(outcome: Outcome) -> Self {
        Self { outcome, rip: 0, reason: 0, qualification: 0, detail: String::new(), exit: None }
    }

    /// A run's end in words, which outlives its guest.
    pub fn new<B: Backend>(end: &End<impl Display>, exit: Option<GuestExit>, backend: &B) -> Self {
        let mut detail = String::new();
        let _ = match &end.failure {
            Some(failure) => write!(detail, "{failure}"),
            None if RawReason(end.reason).is_entry_failure() => detail.write_str(backend.entry_failure()),
            None => Ok(()),
        };
        let End { outcome, rip, reason, qualification, .. } = *end;
        Self { outcome, rip, reason, qualification, detail, exit }
    }
}
