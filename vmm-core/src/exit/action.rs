//! The decision of a handler.

use tollgate_abi::profile::Profile;
use tollgate_abi::workload::Outcome;

use super::Event;

/// The decision of a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// The instruction was emulated: go on behind it.
    Advance,
    /// The instruction was emulated: go on behind it without a look at interrupt shadow and single step: CPUID, which has a budget of VMREADs.
    StepOver,
    /// Go on at the same instruction.
    Resume,
    /// Raise an event instead of completing the instruction.
    Inject(Event),
    /// The instruction was emulated, and behind it an interrupt arrives.
    AdvanceAndInject(Event),
    /// The instruction was emulated; before the guest goes on, do this outside the account.
    AdvanceAndPause(Pause),
    /// The guest is over.
    Stop(Outcome),
}

/// The work between two stretches of guest execution, at the guest's request, when no exit is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// Switch the profile and nothing else.
    Profile(Profile),
    /// Start workload `number` with `iterations`.
    Begin {
        /** Position in the table. */
        number: usize,
        /** As asked for. */
        iterations: u64,
    },
    /// End it; the guest's book is at this guest-physical address.
    End {
        /** Where. */
        book_gpa: u64,
        /** Where the samples of a microbenchmark are; 0 if there are none. */
        samples_gpa: u64,
        /** TSC when it was asked for. */
        tsc: u64,
        /** Cycles of all VMCALLs before this one, which is not of the workload. */
        call_cycles: u64,
    },
    /// Keep so many bytes of the guest's memory for the log. They exist.
    Console {
        /** Where. */
        gpa: u64,
        /** How many. */
        bytes: usize,
    },
    /// Say that this vCPU halts, which it does at the next entry.
    Halted,
    /// Enter through the stub of another mode of the processor.
    ModeChanged,
}
