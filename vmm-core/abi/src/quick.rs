//! The quick exits: the reasons that the monitor's spine decides without a stack frame, and the budget of each.
//!
//! The spine makes its arms of this table, and `bench` prints the budgets from it. A test that decodes the monitor's image counts
//! the instructions of each arm against it.

use crate::ExitReason;

/// The condition under which a quick form may decide an exit. Otherwise the next steps of the spine decide it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing is looked at: CPUID has a budget of VMREADs, and spares those that would show an interrupt shadow or a single step.
    Steps,
    /// Nothing comes with the end of the instruction: no interrupt shadow, no single step.
    EndsPlainly,
    /// The instruction is executed again: it has no end.
    Repeats,
}

impl Condition {
    /// Whether RIP moves on when the form has decided the exit.
    #[inline(always)]
    pub const fn ends_instruction(self) -> bool {
        !matches!(self, Self::Repeats)
    }
}

/// One quick form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quick {
    /// The exit reason.
    pub reason: ExitReason,
    /// The budget under both extensions: TSC ticks of a round trip on Bochs, where each instruction takes one. The guest's loop
    /// is included.
    pub budget_ticks: u64,
    /// The condition under which the form may decide it.
    pub condition: Condition,
}

/// Hands the table to a macro: a row for each reason, with its budget in ticks, its condition and its form. KVM with VT-x takes
/// twelve to forty times as long on the same emulator.
#[macro_export]
macro_rules! quick_exits {
    ($use_rows:ident) => {
        $use_rows! {
            // reason          budget  condition    form
            CPUID              66      Steps        cpuid;
            VMCALL             66      EndsPlainly  hypercall;
            CR_ACCESS          80      EndsPlainly  control_regs;
            IO_INSTRUCTION     80      EndsPlainly  io;
            RDMSR              80      EndsPlainly  msr;
            EPT_VIOLATION      80      Repeats      event;
        }
    };
}

macro_rules! rows {
    ($($reason:ident $ticks:literal $condition:ident $form:ident;)*) => {
        &[$(Quick {
            reason: ExitReason::$reason,
            budget_ticks: $ticks,
            condition: Condition::$condition,
        }),*]
    };
}

/// The table of the quick exits.
pub const QUICK: &[Quick] = quick_exits!(rows);

/// The most that count, cycles, minimum, maximum and histogram together may cost, in ticks of one exit.
pub const LEDGER_BUDGET_TICKS: u64 = 17;

/// The budget of the quick exits for a reason.
///
/// # Panics
/// There is none for it. Since constants are made of this, the program does not compile then.
pub const fn budget_ticks(reason: ExitReason) -> u64 {
    let mut at = 0;
    while at < QUICK.len() {
        if QUICK[at].reason.0 == reason.0 {
            return QUICK[at].budget_ticks;
        }
        at += 1;
    }
    panic!("no quick exit has this reason")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_one_row() {
        for row in QUICK {
            assert_eq!(QUICK.iter().filter(|other| other.reason == row.reason).count(), 1, "{row:?}");
            assert_eq!(budget_ticks(row.reason), row.budget_ticks);
        }
    }
}
