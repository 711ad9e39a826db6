//! The decision of a handler, and of a quick form.

use tollgate_abi::profile::Profile;
use tollgate_abi::workload::Outcome;

use super::Event;

/// The decision of a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// The instruction was emulated: go on behind it.
    Advance,
    /// The instruction was emulated: go on behind it without a look at interrupt shadow and single step. For CPUID, which has a
    /// budget of VMREADs.
    StepOver,
    /// Go on at the same instruction.
    Resume,
    /// Raise an event instead of completing the instruction.
    Inject(Event),
    /// The instruction was emulated, and behind it an interrupt arrives.
    AdvanceAndInject(Event),
    /// The instruction was emulated: do this outside the account, then go on behind it.
    AdvanceAndPause(Pause),
    /// The guest is over.
    Stop(Outcome),
}

/// The decision of a quick form, which has already left its results where the guest finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Quickly {
    /// The exit is left to the next steps. Nothing has been changed.
    NotDecided,
    /// The exit is left to the next step, which has all of the guest's registers. Nothing has been changed.
    LacksRegister,
    /// The exit is decided.
    Decided,
    /// The exit is decided, and the guest's RBX, which a stub does not save, becomes this.
    DecidedWithRbx(u64),
}

impl From<bool> for Quickly {
    #[inline(always)]
    fn from(decided: bool) -> Self {
        if decided { Self::Decided } else { Self::NotDecided }
    }
}

/// The work between two stretches of guest execution, at the guest's request, when no exit is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// Switch the profile and nothing else.
    Profile(Profile),
    /// Start workload `number` with `iterations`.
    Begin {
        /** Position in the table of workloads. */
        number: usize,
        /** The iterations that the guest asked for. */
        iterations: u64,
    },
    /// End the workload; the guest's book is at this guest-physical address.
    End {
        /** The address of the book. */
        book_gpa: u64,
        /** The address of a microbenchmark's samples; 0 if there are none. */
        samples_gpa: u64,
        /** The TSC at the request. */
        tsc: u64,
        /** Cycles of all VMCALLs before this one, which does not belong to the workload. */
        call_cycles: u64,
    },
    /// Keep `bytes` bytes of the guest's memory for the log. They exist.
    Console {
        /** Their address. */
        gpa: u64,
        /** Their number. */
        bytes: usize,
    },
    /// Take the serial port's text for the log.
    Print,
    /// Look for marks in the serial port's text, which goes to the log with the rest of its line.
    Look,
    /// Say that this vCPU halts, which it does at the next entry.
    Halted,
    /// Enter through the stub of another mode of the processor.
    ModeChanged,
}
