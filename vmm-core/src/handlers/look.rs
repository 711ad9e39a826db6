//! Looks at the account: exits that the monitor causes to see whether the guest still causes any, and whether a person has pressed Esc.

use tollgate_abi::ExitReason;
use tollgate_abi::workload::Outcome;

use crate::exit::{Action, Backend};
use crate::handlers::delivery::resume;
use crate::machine::Machine;

/// Looks at the account, at an exit for `reason`. A guest without an exit of its own since the last look is stopped, unless it
/// has halted; a guest whose person has pressed Esc is stopped, too. Before the watchdog is due, nothing can be told yet. A look
/// after which the guest goes on does not count as an exit of the guest's.
pub fn look<B: Backend>(reason: ExitReason, backend: &mut B, machine: &mut Machine) -> Action {
    if machine.shared.board.listens() && backend.escape_was_pressed() {
        machine.looks(reason);
        return Action::Stop(Outcome::EscapePressed);
    }
    let due = backend.watchdog_is_due();
    if due && !machine.activity.halted && !machine.exited_meanwhile() {
        return Action::Stop(Outcome::NoExits);
    }
    machine.looks(reason);
    if due {
        machine.note_exits();
        backend.restart_watchdog();
    }
    resume(backend, machine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;

    use crate::exit::Event;
    use crate::handlers::interrupt::external_interrupt;
    use crate::host::vectors::WATCHDOG_VECTOR;
    use crate::ledger::{Account, Ledger};
    use crate::script::{Script, interruptible, machine, machine_with, machines};

    /// The outcome of the watchdog's interrupt after so many exits since its last start.
    fn look(
        backend: &mut Script,
        machine: &mut Machine,
        ledger: &Ledger,
        due: bool,
        exits: u64,
    ) -> (Action, u64, usize) {
        let exit = |reason| ledger.close(ledger.open(reason), 0, || 50);
        (0..exits).for_each(|_| exit(ExitReason::CPUID));
        (backend.watchdog_is_due, backend.exit_event) = (due, Some(Event::interrupt(WATCHDOG_VECTOR)));
        let open = ledger.open(ExitReason::EXTERNAL_INTERRUPT);
        let action = external_interrupt(backend, machine);
        ledger.close(open, 0, || 50);
        (action, ledger.looks(), backend.watchdog_starts)
    }

    #[test]
    fn the_watchdog_looks_at_a_guest_that_exits_and_stops_one_that_does_not() {
        let ledger: &'static Ledger = Box::leak(Box::new(Ledger::new()));
        let mut machine = machine_with(Box::leak(Box::new([ledger])));
        let mut backend = interruptible();
        let mut look = |due, exits| look(&mut backend, &mut machine, ledger, due, exits);
        assert_eq!(look(true, 1), (Action::Resume, 1, 1));
        assert_eq!(look(true, 2), (Action::Resume, 2, 2));
        assert_eq!(look(false, 0), (Action::Resume, 3, 2), "too early to tell");
        assert_eq!(look(false, 0), (Action::Resume, 4, 2), "an early look is no exit of the guest's");
        assert_eq!(look(true, 0), (Action::Stop(Outcome::NoExits), 4, 2), "the last is the guest's end");
        assert_eq!(ledger.count(ExitReason::EXTERNAL_INTERRUPT), 5);
    }

    #[test]
    fn esc_ends_a_guest_at_a_look_where_somebody_listens() {
        let ledger: &'static Ledger = Box::leak(Box::new(Ledger::new()));
        for reason in [ExitReason::EXTERNAL_INTERRUPT, ExitReason::PREEMPTION_TIMER] {
            let [mut machine] = machines();
            machine.shared.ledgers = Box::leak(Box::new([ledger]));
            let mut backend = Script { escape_is_pressed: true, ..interruptible() };
            let looks = ledger.looks();
            assert_eq!(super::look(reason, &mut backend, &mut machine), Action::Resume);
            assert!(backend.escape_is_pressed, "nobody listens, and nobody takes the key");
            machine.shared.board.listen();
            assert_eq!(super::look(reason, &mut backend, &mut machine), Action::Stop(Outcome::EscapePressed));
            assert_eq!(super::look(reason, &mut backend, &mut machine), Action::Resume);
            assert_eq!(ledger.looks(), looks + 3, "no look is the guest's exit");
        }
    }

    #[test]
    fn an_early_look_leaves_what_was_noted() {
        let ledger: &'static Ledger = Box::leak(Box::new(Ledger::new()));
        let mut machine = machine_with(Box::leak(Box::new([ledger])));
        let mut backend = interruptible();
        let mut look = |due, exits| look(&mut backend, &mut machine, ledger, due, exits);
        assert_eq!(look(false, 1), (Action::Resume, 1, 0));
        assert_eq!(look(true, 0), (Action::Resume, 2, 1), "there was an exit before the early look");
    }

    #[test]
    fn a_look_at_a_halted_vcpu_wakes_nothing() {
        let (mut backend, mut machine) = (interruptible(), machine());
        (machine.activity.halted, backend.halts) = (true, 1);
        backend.exit_event = Some(Event::interrupt(WATCHDOG_VECTOR));
        assert_eq!(external_interrupt(&mut backend, &mut machine), Action::Resume);
        assert_eq!((machine.activity.halted, backend.halts, backend.watchdog_starts), (true, 1, 0));
    }
}
