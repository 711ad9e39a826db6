//! The books of a run. They decide which counts are compared, and the verdict names them.

use serde::Serialize;

/// One of the books in which exits are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Book {
    /// The table of workloads and that of scenarios.
    Prediction,
    /// The guest's own tally.
    Guest,
    /// The monitor's account, whose invariants are checked whether there is another book or not.
    Ledger,
    /// The emulator's log of VM exits.
    Emulator,
    /// The leaves as Debian's `cpuid` read them in the guest.
    Cpuid,
}

impl Book {
    /// The books of a run that keeps a ledger.
    pub(super) fn of_run(guest_keeps_book: bool, audited: bool, has_cpuid: bool) -> Vec<Self> {
        let own: &[Book] = if guest_keeps_book { &[Book::Prediction, Book::Guest] } else { &[] };
        let emulator: &[Book] = if audited { &[Book::Emulator] } else { &[] };
        let cpuid: &[Book] = if has_cpuid { &[Book::Cpuid] } else { &[] };
        [own, &[Book::Ledger], emulator, cpuid].concat()
    }

    /// The book's name for people.
    pub fn name(self) -> &'static str {
        match self {
            Book::Prediction => "prediction",
            Book::Guest => "guest",
            Book::Ledger => "ledger",
            Book::Emulator => "emulator's log",
            Book::Cpuid => "cpuid in the guest",
        }
    }
}
