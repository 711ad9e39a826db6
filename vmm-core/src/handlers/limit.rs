//! The end of a run that has lasted as long as its options allow, whatever its guest does.
//!
//! Every exit that the quick forms leave is held against the limit, in the one comparison that also ends scenarios. Two timers
//! bring such an exit about. The APIC timer fires at the limit at the latest, whether the guest runs or has halted. Bochs 2.7
//! makes no exit for an external interrupt while RFLAGS.IF has been 0 since the VM entry; for that there is the VMX-preemption
//! timer, which counts across exits.

use tollgate_abi::ExitReason;
use tollgate_abi::workload::Outcome;

use crate::exit::{Interrupts, Processor, RawReason};
use crate::handlers::interrupt;
use crate::host::vectors::TIMER_VECTOR;
use crate::machine::Machine;

/// The outcome of an exit past the limit.
pub fn reached<B: Interrupts + Processor>(raw: RawReason, backend: &mut B, machine: &mut Machine) -> Outcome {
    if raw.is_entry_failure() {
        return Outcome::EntryFailed;
    }
    match raw.basic() {
        ExitReason::EXTERNAL_INTERRUPT => {
            let vector = backend.take_interrupt();
            interrupt::end_of_interrupt(vector, backend);
            let fired = vector == TIMER_VECTOR && machine.devices.apic.timer_fired(backend.tsc());
            if !fired && interrupt::sender(vector, machine).is_none() {
                machine.looks(ExitReason::EXTERNAL_INTERRUPT);
            }
        }
        ExitReason::PREEMPTION_TIMER => machine.looks(ExitReason::PREEMPTION_TIMER),
        _ => {}
    }
    // Another vCPU may have found this out first.
    let is_to_stop = machine.shared.board.is_to_stop(machine.vcpu);
    if is_to_stop { Outcome::StoppedByAnother } else { Outcome::LimitReached }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ended::End;
    use crate::exit::{Event, GuestRegisters};
    use crate::host::registers::NEVER;
    use crate::host::vectors::{KICK_VECTOR, SPURIOUS_VECTOR, WATCHDOG_VECTOR};
    use crate::ledger::Ledger;
    use crate::script::{Script, machine};
    use crate::vcpu::Vcpu;

    /// The end of a guest that has a limit of 1000 ticks and these exits: TSC, reason, vector of the interrupt.
    fn run(vcpu: &mut Vcpu<Script>, exits: &[(u64, ExitReason, u8)]) -> (End<()>, &'static Ledger) {
        let ledger: &'static Ledger = Box::leak(Box::new(Ledger::new()));
        vcpu.machine.shared.ledgers = Box::leak(Box::new([ledger]));
        let mut exits = exits.iter();
        let mut enter = |vcpu: &mut Vcpu<Script>| {
            loop {
                let &(tsc, reason, vector) = exits.next().ok_or(())?;
                (vcpu.backend.tsc, vcpu.backend.reason) = (tsc, reason.0.into());
                vcpu.backend.exit_event = Some(Event::interrupt(vector));
                if vcpu.drive(ledger, &mut GuestRegisters::default(), tsc) == crate::vcpu::Flow::Leave {
                    return Ok(());
                }
            }
        };
        (vcpu.run(ledger, &mut enter, |_, _| None), ledger)
    }

    fn limited() -> Vcpu<Script> {
        let mut vcpu = Vcpu::new(Script::default(), machine());
        vcpu.set_limit(1000, 1000);
        vcpu
    }

    #[test]
    fn any_exit_from_the_limit_on_ends_the_guest_with_a_full_account() {
        for reason in [ExitReason::WBINVD, ExitReason::PREEMPTION_TIMER, ExitReason(4711)] {
            let mut vcpu = limited();
            let (end, ledger) = run(&mut vcpu, &[(999, ExitReason::WBINVD, 0), (1000, reason, 0)]);
            assert_eq!((end.outcome, ledger.exits()), (Outcome::LimitReached, 2), "{reason:?}");
            assert_eq!(ledger.check(), Ok(()));
            assert_eq!(vcpu.backend.limit_tsc, 1000);
        }
    }

    #[test]
    fn a_run_without_a_limit_goes_on() {
        let mut vcpu = limited();
        vcpu.set_limit(NEVER, 0);
        let (end, _) = run(&mut vcpu, &[(1 << 63, ExitReason::WBINVD, 0)]);
        assert_eq!(end.outcome, Outcome::EntryFailed, "the script is over");
    }

    #[test]
    fn whoever_is_told_first_is_not_the_one_that_found_out() {
        let mut vcpu = limited();
        assert!(vcpu.machine.shared.board.ask_to_stop(0));
        assert_eq!(run(&mut vcpu, &[(1000, ExitReason::WBINVD, 0)]).0.outcome, Outcome::StoppedByAnother);
    }

    #[test]
    fn the_exit_that_the_monitor_brings_about_is_its_own_look() {
        for (reason, vector, looks) in [
            (ExitReason::EXTERNAL_INTERRUPT, TIMER_VECTOR, 1),
            (ExitReason::EXTERNAL_INTERRUPT, WATCHDOG_VECTOR, 1),
            (ExitReason::EXTERNAL_INTERRUPT, 0x30, 1),
            (ExitReason::EXTERNAL_INTERRUPT, SPURIOUS_VECTOR, 1),
            (ExitReason::EXTERNAL_INTERRUPT, KICK_VECTOR, 0),
            (ExitReason::PREEMPTION_TIMER, 0, 1),
            (ExitReason::WBINVD, 0, 0),
        ] {
            let mut vcpu = limited();
            let (end, ledger) = run(&mut vcpu, &[(1000, reason, vector)]);
            assert_eq!(
                (end.outcome, ledger.looks_of(reason)),
                (Outcome::LimitReached, looks),
                "{reason:?} {vector:#x}"
            );
            let is_in_service = reason == ExitReason::EXTERNAL_INTERRUPT && vector != SPURIOUS_VECTOR;
            assert_eq!(vcpu.backend.ended_interrupts, usize::from(is_in_service));
        }
    }

    #[test]
    fn any_exit_ends_a_scenario() {
        let mut vcpu = limited();
        vcpu.machine.begin_scenarios();
        assert_eq!(run(&mut vcpu, &[(0, ExitReason::WBINVD, 0)]).0.outcome, Outcome::Exited);
    }
}
