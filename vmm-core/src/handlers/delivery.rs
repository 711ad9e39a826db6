//! Delivery of the guest's interrupts and NMIs.
//!
//! It is one rule for both ways ([`settle`]): everything that may have made an interrupt deliverable ends with it. If
//! the processor virtualizes delivery, it delivers self-IPIs, and interrupts that an EOI uncovers, by itself. Interrupts that
//! arrive while the monitor runs are injected here all the same, with the guest interrupt status kept up to date (SDM 3C 30.2).

use crate::exit::{Action, Backend, Event, Interrupts};
use crate::handlers::isa_bus;
use crate::machine::Machine;

/// Ends the instruction that exited, and delivers an interrupt or NMI that can be delivered behind it.
#[inline(never)]
pub fn advance<B: Backend>(backend: &mut B, machine: &mut Machine) -> Action {
    settle(backend, machine, true).map_or(Action::Advance, Action::AdvanceAndInject)
}

/// Goes on at the same instruction, with an event that can be delivered. An event whose delivery the exit interrupted comes
/// first.
#[inline(never)]
pub fn resume<B: Backend>(backend: &mut B, machine: &mut Machine) -> Action {
    if let Some(event) = backend.vectoring_event() {
        return resume_with(event, backend, machine);
    }
    match settle_now(backend, machine, false) {
        Some(event) => Action::Inject(event),
        None => Action::Resume,
    }
}

/// Goes on with an event whose delivery the exit interrupted. The others wait.
#[inline(never)]
fn resume_with<B: Backend>(event: Event, backend: &mut B, machine: &mut Machine) -> Action {
    refresh(backend, machine);
    backend.ask_for_nmi_window(machine.activity.beside_apic.has_nmi());
    Action::Inject(event)
}

/// The event that is to be injected now. For one that can't be injected yet, an exit is asked for.
#[inline(never)]
pub fn settle<B: Backend>(backend: &mut B, machine: &mut Machine, ends: bool) -> Option<Event> {
    settle_now(backend, machine, ends)
}

/// [`settle`] inlined, for callers where an event is likely.
#[inline(always)]
fn settle_now<B: Backend>(backend: &mut B, machine: &mut Machine, ends: bool) -> Option<Event> {
    if !machine.activity.beside_apic.is_nothing() && waits_beside(backend, machine) {
        return settle_all(backend, machine, ends);
    }
    let deliverable = machine.devices.apic.deliverable();
    let Some(vector) = deliverable.filter(|_| backend.takes_interrupts(ends)) else {
        refresh_for(deliverable, backend, machine);
        return None;
    };
    machine.devices.apic.accept(vector);
    let event = Some(Event::interrupt(vector));
    refresh_for(machine.devices.apic.deliverable(), backend, machine);
    wake(backend, machine);
    event
}

/// Whether an event waits beside the APIC's. Looks at the ISA bus if that has changed.
#[cold]
#[inline(never)]
fn waits_beside<B: Backend>(backend: &mut B, machine: &mut Machine) -> bool {
    if machine.activity.beside_apic.has_isa_bus() {
        machine.activity.beside_apic.set_isa_bus(false);
        isa_bus::look(backend, machine);
    }
    !machine.activity.beside_apic.is_nothing()
}

/// [`settle`] where not only the APIC's interrupts wait. NMIs come first, then interrupts of an ISA bus' controllers, which know no
/// priority of the processor's.
#[cold]
#[inline(never)]
fn settle_all<B: Backend>(backend: &mut B, machine: &mut Machine, ends: bool) -> Option<Event> {
    let mut event = None;
    if machine.activity.beside_apic.has_nmi() {
        event = next_nmi(backend, machine, ends);
    }
    if event.is_none() && backend.takes_interrupts(ends) {
        event = if isa_bus::interrupts(machine) {
            isa_bus::acknowledge(backend, machine)
        } else {
            machine.devices.apic.deliverable().map(|vector| {
                machine.devices.apic.accept(vector);
                Event::interrupt(vector)
            })
        };
    }
    refresh(backend, machine);
    if event.is_some() {
        wake(backend, machine);
    }
    event
}

/// Takes the pending NMI, if it can be delivered.
#[cold]
#[inline(never)]
fn next_nmi<B: Interrupts>(backend: &mut B, machine: &mut Machine, ends: bool) -> Option<Event> {
    let takes = backend.takes_nmis(ends);
    machine.activity.beside_apic.set_nmi(!takes);
    backend.ask_for_nmi_window(!takes);
    takes.then_some(Event::NMI)
}

/// Tells the processor about pending interrupts. It delivers them by itself, or exits by an interrupt window or a priority
/// threshold once one can be delivered.
pub fn refresh<B: Interrupts>(backend: &mut B, machine: &Machine) {
    let deliverable = machine.devices.apic.deliverable();
    // Whatever its vector is: it waits for nothing but the window.
    let of_isa_bus = || isa_bus::interrupts(machine).then_some(0);
    refresh_for(deliverable.or_else(of_isa_bus), backend, machine);
}

/// [`refresh`] with the deliverable vector known.
#[inline(never)]
fn refresh_for<B: Interrupts>(deliverable: Option<u8>, backend: &mut B, machine: &Machine) {
    let apic = &machine.devices.apic;
    let virtualized = backend.virtualized_apic();
    if virtualized.delivery {
        backend.set_interrupt_status(apic.requested(), apic.in_service());
    } else if virtualized.priority {
        // The threshold must not be above the guest's priority, or a VM entry would refuse it (SDM 3C 27.2.1.1).
        backend.set_priority_threshold(if deliverable.is_none() { apic.awaited_class() } else { 0 });
    }
    backend.ask_for_window(deliverable.is_some());
}

/// Makes a halted vCPU active again.
pub fn wake<B: Interrupts>(backend: &mut B, machine: &mut Machine) {
    if machine.activity.halted {
        machine.activity.halted = false;
        backend.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_abi::apic::*;
    use tollgate_abi::x86::control::{RFLAGS_IF, RFLAGS_TF};

    use crate::exit::{GuestState, State, VirtualizedApic};
    use crate::script::{Script, interruptible, machine, wrmsr};

    #[test]
    fn what_the_guest_can_t_take_is_asked_for() {
        let (mut backend, mut machine) = (Script::default(), machine());
        assert_eq!(wrmsr(&mut backend, &mut machine, SELF_IPI, 0x40), Action::Advance);
        assert!(backend.window);
        backend.set(State::Rflags, RFLAGS_IF);
        assert_eq!(resume(&mut backend, &mut machine), Action::Inject(Event::interrupt(0x40)));
        assert!(!backend.window);
    }

    #[test]
    fn a_single_step_comes_before_what_arrives_with_its_instruction() {
        let (mut backend, mut machine) = (interruptible(), machine());
        backend.set(State::Rflags, RFLAGS_IF | RFLAGS_TF);
        assert_eq!(wrmsr(&mut backend, &mut machine, SELF_IPI, 0x40), Action::Advance);
        assert!(backend.window, "the interrupt comes behind the #DB");
        assert_eq!(resume(&mut backend, &mut machine), Action::Inject(Event::interrupt(0x40)));
    }

    #[test]
    fn an_nmi_waits_for_the_end_of_the_handler_of_another() {
        const SELF_NMI: u64 = 0x44400;
        let (mut backend, mut machine) = (Script::default(), machine());
        assert_eq!(wrmsr(&mut backend, &mut machine, ICR, SELF_NMI), Action::AdvanceAndInject(Event::NMI));
        backend.blocks_nmis = true;
        assert_eq!(wrmsr(&mut backend, &mut machine, ICR, SELF_NMI), Action::Advance);
        assert!(machine.activity.beside_apic.has_nmi() && backend.nmi_window);
        backend.vectoring_event = Some(Event::UNDEFINED_OPCODE);
        backend.blocks_nmis = false;
        assert_eq!(resume(&mut backend, &mut machine), Action::Inject(Event::UNDEFINED_OPCODE));
        assert!(machine.activity.beside_apic.has_nmi() && backend.nmi_window, "one event at a time");
        backend.vectoring_event = None;
        assert_eq!(resume(&mut backend, &mut machine), Action::Inject(Event::NMI));
        assert!(!machine.activity.beside_apic.has_nmi() && !backend.nmi_window);
    }

    #[test]
    fn an_event_that_was_under_way_comes_first() {
        let (mut backend, mut machine) = (interruptible(), machine());
        machine.devices.apic.request(0x40);
        backend.vectoring_event = Some(Event::UNDEFINED_OPCODE);
        assert_eq!(resume(&mut backend, &mut machine), Action::Inject(Event::UNDEFINED_OPCODE));
        assert!(backend.window);
    }

    #[test]
    fn a_shadowed_priority_sets_a_threshold_and_virtual_delivery_its_status() {
        let (mut backend, mut machine) = (interruptible(), machine());
        backend.virtualized = VirtualizedApic { priority: true, ..Default::default() };
        machine.devices.apic.set_cr8(5);
        assert_eq!(wrmsr(&mut backend, &mut machine, SELF_IPI, 0x47), Action::Advance);
        assert_eq!((backend.threshold, backend.window), (4, false));
        backend.virtualized = VirtualizedApic { priority: true, registers: true, delivery: true };
        machine.devices.apic.set_cr8(0);
        assert_eq!(resume(&mut backend, &mut machine), Action::Inject(Event::interrupt(0x47)));
        assert_eq!(backend.interrupt_status, (0, 0x47));
    }

    #[test]
    fn what_comes_with_an_nmi_or_behind_another_event_is_asked_for() {
        let (mut backend, mut machine) = (interruptible(), machine());
        machine.devices.apic.request(0x40);
        machine.activity.beside_apic.set_nmi(true);
        assert_eq!(resume(&mut backend, &mut machine), Action::Inject(Event::NMI));
        assert!(backend.window, "0x40 comes as soon as it can");
        backend.virtualized = VirtualizedApic { priority: true, ..Default::default() };
        backend.vectoring_event = Some(Event::UNDEFINED_OPCODE);
        machine.devices.apic.set_cr8(5);
        assert_eq!(resume(&mut backend, &mut machine), Action::Inject(Event::UNDEFINED_OPCODE));
        assert_eq!((backend.threshold, backend.window), (4, false), "it waits for the task priority");
    }
}
