//! Interrupts at the processor's own local APIC: the timer's, which stands for the guest's, those of other vCPUs, the watchdog's, and
//! those that nobody here has sent.

use tollgate_abi::ExitReason;
use tollgate_abi::apic::LOWEST_VECTOR;
use tollgate_abi::workload::Outcome;

use crate::board::Condition;
use crate::exit::{Action, Backend, Processor};
use crate::handlers::delivery::resume;
use crate::handlers::ipi::{initialized, rest, take};
use crate::handlers::isa_bus;
use crate::handlers::look::look;
use crate::handlers::timer::arm;
use crate::host::vectors::{KICK_VECTOR, SPURIOUS_VECTOR, TIMER_VECTOR, WATCHDOG_VECTOR};
use crate::machine::Machine;

/// An interrupt at the processor's own APIC: the timer's, or that of another vCPU that has left a message.
#[inline(never)]
pub fn external_interrupt<B: Backend>(backend: &mut B, machine: &mut Machine) -> Action {
    let vector = backend.take_interrupt();
    let sender = sender(vector, machine);
    if sender.is_none() && vector != TIMER_VECTOR {
        return look_or_stray(vector, backend, machine);
    }
    backend.end_of_interrupt();
    if machine.activity.halted {
        // The vCPU runs before it reads messages, which others may take for under way.
        machine.shared.board.set_condition(machine.vcpu, Condition::Running);
    }
    if let Some(sender) = sender {
        while let Some(message) = machine.shared.board.receive_from(sender, machine.vcpu) {
            take(message, machine);
        }
    } else {
        if !machine.devices.apic.timer_fired(backend.tsc()) && !isa_bus::fired(backend, machine) {
            // The timer counts in coarser steps than its deadline is given in, or can't count that far.
            machine.looks(ExitReason::EXTERNAL_INTERRUPT);
        }
        arm(backend, machine);
    }
    if machine.activity.init_pending {
        return initialized(backend, machine);
    }
    resume_or_rest(backend, machine)
}

/// Goes on. A vCPU that halts on says so.
#[inline(always)]
fn resume_or_rest<B: Backend>(backend: &mut B, machine: &mut Machine) -> Action {
    let action = resume(backend, machine);
    if machine.activity.halted && rest(backend, machine) {
        return Action::Stop(Outcome::HaltedForEver);
    }
    action
}

/// The vCPU that sends interrupts with this vector, if one does.
#[inline(always)]
pub fn sender(vector: u8, machine: &Machine) -> Option<usize> {
    let sender = usize::from(vector.wrapping_sub(KICK_VECTOR));
    (sender < machine.shared.board.vcpus()).then_some(sender)
}

/// Ends an interrupt that was taken, if one is in service. Vector 0 stands for none.
pub fn end_of_interrupt<B: Processor>(vector: u8, backend: &mut B) {
    if vector >= LOWEST_VECTOR && vector != SPURIOUS_VECTOR {
        backend.end_of_interrupt();
    }
}

/// The watchdog's interrupt, or one that neither a vCPU nor this processor's timer has sent, such as one of a device that
/// firmware has set up. The guest has not caused that exit, and goes on.
#[cold]
#[inline(never)]
fn look_or_stray<B: Backend>(vector: u8, backend: &mut B, machine: &mut Machine) -> Action {
    end_of_interrupt(vector, backend);
    if vector == WATCHDOG_VECTOR {
        // It also fires for the ISA bus' timer, where the watchdog is an interrupt.
        if machine.bus_deadline_tsc().is_some_and(|deadline_tsc| deadline_tsc <= backend.tsc()) {
            machine.shared.board.set_condition(machine.vcpu, Condition::Running);
            isa_bus::look(backend, machine);
            return resume_or_rest(backend, machine);
        }
        return look(ExitReason::EXTERNAL_INTERRUPT, backend, machine);
    }
    machine.looks(ExitReason::EXTERNAL_INTERRUPT);
    resume(backend, machine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;

    use tollgate_abi::apic::*;

    use crate::board::Message;
    use crate::exit::Event;
    use crate::ledger::{Account, Ledger};
    use crate::script::{interruptible, machine, machines, wrmsr};

    #[test]
    fn the_timer_wakes_a_halted_vcpu() {
        let (mut backend, mut machine) = (interruptible(), machine());
        let timer = u64::from(0x31 | LVT_TSC_DEADLINE);
        assert_eq!(wrmsr(&mut backend, &mut machine, LVT_TIMER, timer), Action::Advance);
        assert_eq!(wrmsr(&mut backend, &mut machine, IA32_TSC_DEADLINE, 500), Action::Advance);
        assert_eq!(backend.timer, Some(500));
        (machine.activity.halted, backend.halts) = (true, 1);
        backend.exit_event = Some(Event::interrupt(TIMER_VECTOR));
        backend.tsc = 499;
        assert_eq!(external_interrupt(&mut backend, &mut machine), Action::Resume, "too early: armed again");
        assert_eq!((backend.timer, machine.activity.halted), (Some(500), true));
        backend.tsc = 500;
        assert_eq!(external_interrupt(&mut backend, &mut machine), Action::Inject(Event::interrupt(0x31)));
        assert_eq!((backend.timer, machine.activity.halted), (None, false));
    }

    #[test]
    fn an_interrupt_that_nobody_has_sent_is_a_look_and_a_spurious_one_is_not_ended() {
        let ledger: &'static Ledger = Box::leak(Box::new(Ledger::new()));
        let [mut first, second] = machines();
        first.shared.ledgers = Box::leak(Box::new([ledger]));
        second.shared.board.set_condition(1, Condition::Running);
        assert!(second.shared.board.send(1, 0, Message::Nmi));
        let mut backend = interruptible();
        let mut looks = 0;
        for halted in [false, true] {
            (first.activity.halted, backend.halts) = (halted, usize::from(halted));
            // A local APIC delivers exceptions' vectors, too: those from 10h on (SDM 3A 12.5.2).
            let ended = (LOWEST_VECTOR..KICK_VECTOR).chain([KICK_VECTOR + 2]).map(|vector| (vector, 1));
            for (vector, ends) in ended.chain([(SPURIOUS_VECTOR, 0), (0, 0)]) {
                (backend.exit_event, backend.ended_interrupts) = (Some(Event::interrupt(vector)), 0);
                let open = ledger.open(ExitReason::EXTERNAL_INTERRUPT);
                assert_eq!(external_interrupt(&mut backend, &mut first), Action::Resume, "{vector:#x}");
                ledger.close(open, 0, || 50);
                looks += 1;
                assert_eq!((ledger.looks(), backend.ended_interrupts), (looks, ends), "{vector:#x}");
                assert_eq!((first.activity.halted, backend.halts), (halted, usize::from(halted)), "it wakes nothing");
            }
        }
        assert!(!first.activity.beside_apic.has_nmi(), "nobody's message is read");
        backend.exit_event = Some(Event::interrupt(KICK_VECTOR + 1));
        assert_eq!(external_interrupt(&mut backend, &mut first), Action::Inject(Event::NMI));
        assert_eq!(ledger.looks(), looks);
    }
}
