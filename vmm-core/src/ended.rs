//! The end of a guest, and that of each of its vCPUs.

use core::fmt::{Display, Write};

use alloc::string::String;
use tollgate_abi::workload::Outcome;

use crate::exit::{Backend, RawReason};

/// The end of a run of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End<F> {
    /// The outcome.
    pub outcome: Outcome,
    /// The guest's RIP.
    pub rip: u64,
    /// The exit-reason field of the last exit.
    pub reason: u32,
    /// The exit qualification of the last exit.
    pub qualification: u64,
    /// The entry instruction's own error, if it failed without an exit.
    pub failure: Option<F>,
    /// TSC ticks from the first entry to the last exit.
    pub elapsed_tsc: u64,
    /// TSC ticks from the first entry until the last exit was dealt with, which may take long; the last exit's cycles are a part
    /// of them.
    pub whole_tsc: u64,
}

/// The end of a vCPU, for the account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The outcome.
    pub outcome: Outcome,
    /// The guest's RIP.
    pub rip: u64,
    /// The exit-reason field of its last exit.
    pub reason: u32,
    /// The exit qualification of its last exit.
    pub qualification: u64,
    /// More detail for a person; empty if there is none.
    pub detail: String,
    /// The guest's last words, if it ended itself on this vCPU.
    pub exit: Option<GuestExit>,
}

/// The guest's last words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestExit {
    /// The guest's exit status.
    pub status: u64,
    /// The address of its book.
    pub book_gpa: u64,
}

impl Ended {
    /// An end without further facts.
    pub const fn of(outcome: Outcome) -> Self {
        Self { outcome, rip: 0, reason: 0, qualification: 0, detail: String::new(), exit: None }
    }

    /// The end of a run in words, which outlive its guest.
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
