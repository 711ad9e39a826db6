//! The guest's local APIC at work: its MSRs, interrupts from outside and from other vCPUs, and their delivery.
//!
//! Delivery is one rule for both ways ([`settle`]): everything that may have made an interrupt deliverable ends with it. If
//! the processor virtualizes delivery, it delivers self-IPIs, and interrupts that an EOI uncovers, by itself. Interrupts that
//! arrive while the monitor runs are injected here all the same, with the guest interrupt status kept up to date (SDM 3C 30.2).

use tollgate_abi::ExitReason;
use tollgate_abi::apic::*;
use tollgate_abi::workload::Outcome;

use crate::board::{Condition, Message};
use crate::devices::guest_apic::{Effect, addresses};
use crate::exit::{Action, Backend, Event, GuestRegisters};
use crate::host::vectors::{KICK_VECTOR, SPURIOUS_VECTOR, TIMER_VECTOR, WATCHDOG_VECTOR};
use crate::machine::Machine;

/// TSC ticks that a sender waits for room in a lane.
const DELIVERY_TICKS: u64 = 1 << 26;

const REFUSED: Action = Action::Inject(Event::GENERAL_PROTECTION);

/// RDMSR of one of the APIC's registers.
#[inline(never)]
pub fn read<B: Backend>(registers: &mut GuestRegisters, backend: &B, machine: &Machine) -> Action {
    match machine.devices.apic.read(registers.rcx as u32, backend.tsc()) {
        Ok(value) => {
            registers.rax = value & 0xffff_ffff;
            registers.rdx = value >> 32;
            Action::Advance
        }
        Err(_) => REFUSED,
    }
}

/// WRMSR to one of the APIC's registers. The effect of the write is called last, so that this needs no stack frame.
#[inline(never)]
pub fn write<B: Backend>(registers: &GuestRegisters, backend: &mut B, machine: &mut Machine) -> Action {
    let value = registers.rax & 0xffff_ffff | registers.rdx << 32;
    match machine.devices.apic.write(registers.rcx as u32, value, backend.tsc()) {
        Err(_) => REFUSED,
        Ok(Effect::None) => Action::Advance,
        Ok(Effect::Timer) => arm_and_advance(backend, machine),
        Ok(Effect::Priorities) => advance(backend, machine),
        Ok(Effect::TaskPriority) => {
            backend.set_task_priority(machine.devices.apic.cr8() as u8);
            advance(backend, machine)
        }
        Ok(Effect::Send(command)) => send_and_advance(command, backend, machine),
    }
}

#[inline(never)]
fn arm_and_advance<B: Backend>(backend: &mut B, machine: &mut Machine) -> Action {
    arm(backend, machine);
    Action::Advance
}

#[inline(never)]
fn send_and_advance<B: Backend>(command: u64, backend: &mut B, machine: &mut Machine) -> Action {
    send(command, backend, machine);
    if machine.activity.init_pending { initialized(backend, machine) } else { advance(backend, machine) }
}

/// Takes a message from another vCPU.
#[inline(always)]
fn take(message: Message, machine: &mut Machine) {
    match message {
        Message::Interrupt(vector) => machine.devices.apic.request(vector),
        Message::Nmi => machine.activity.nmi_pending = true,
        Message::Init => machine.activity.init_pending = true,
        // Only a vCPU that waits for a start-up IPI is started.
        Message::StartUp(_) => {}
    }
}

/// Obeys INIT: the vCPU waits for a start-up IPI, with an APIC as after power-up, and its timer is not armed.
fn initialized<B: Backend>(backend: &mut B, machine: &mut Machine) -> Action {
    machine.devices.apic.reset();
    arm(backend, machine);
    Action::Stop(Outcome::Init)
}

/// INIT at the processor itself: another vCPU has ended the guest.
pub fn init_signal(machine: &Machine) -> Action {
    Action::Stop(if machine.shared.board.is_to_stop(machine.vcpu) { Outcome::StoppedByAnother } else { Outcome::Init })
}

/// Ends the instruction that exited, and delivers an interrupt or NMI that can be delivered behind it.
#[inline(never)]
pub fn advance<B: Backend>(backend: &mut B, machine: &mut Machine) -> Action {
    settle(backend, machine, true).map_or(Action::Advance, Action::AdvanceAndInject)
}

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
        if !machine.devices.apic.timer_fired(backend.tsc()) {
            // The timer counts in coarser steps than its deadline is given in, or can't count that far.
            machine.looks(ExitReason::EXTERNAL_INTERRUPT);
        }
        arm(backend, machine);
    }
    if machine.activity.init_pending {
        return initialized(backend, machine);
    }
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
pub fn end_of_interrupt<B: Backend>(vector: u8, backend: &mut B) {
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
        return look(ExitReason::EXTERNAL_INTERRUPT, backend, machine);
    }
    machine.looks(ExitReason::EXTERNAL_INTERRUPT);
    resume(backend, machine)
}

/// Looks at the account, at an exit for `reason`. A guest without an exit of its own since the last look is stopped, unless it
/// has halted; a guest whose person has pressed Esc is stopped, too. Before the watchdog is due, nothing can be told yet. A look after which the guest goes on does not count as an
/// exit of the guest's.
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

/// Says that this vCPU has halted. True if it is to end the guest, because nothing can ever wake any vCPU.
pub fn rest<B: Backend>(backend: &mut B, machine: &Machine) -> bool {
    let dead = machine.shared.board.rest(machine.vcpu, Condition::Halted);
    if dead && machine.vcpu != 0 {
        backend.kick(machine.shared.board.apic_id(0));
    }
    dead && machine.vcpu == 0
}

/// Goes on at the same instruction, with an event that can be delivered. An event whose delivery the exit interrupted comes
/// first.
#[inline(never)]
pub fn resume<B: Backend>(backend: &mut B, machine: &mut Machine) -> Action {
    if let Some(event) = backend.vectoring_event() {
        refresh(backend, machine);
        backend.ask_for_nmi_window(machine.activity.nmi_pending);
        return Action::Inject(event);
    }
    match settle_now(backend, machine, false) {
        Some(event) => Action::Inject(event),
        None => Action::Resume,
    }
}

/// The event that is to be injected now. For one that can't be injected yet, an exit is asked for.
#[inline(never)]
pub fn settle<B: Backend>(backend: &mut B, machine: &mut Machine, ends: bool) -> Option<Event> {
    settle_now(backend, machine, ends)
}

/// [`settle`] inlined, for callers where an event is likely.
#[inline(always)]
fn settle_now<B: Backend>(backend: &mut B, machine: &mut Machine, ends: bool) -> Option<Event> {
    let mut event = None;
    // NMIs come first.
    if machine.activity.nmi_pending {
        event = next_nmi(backend, machine, ends);
    }
    if event.is_none() {
        let deliverable = machine.devices.apic.deliverable();
        let Some(vector) = deliverable.filter(|_| backend.takes_interrupts(ends)) else {
            refresh_for(deliverable, backend, machine);
            return None;
        };
        machine.devices.apic.accept(vector);
        event = Some(Event::interrupt(vector));
    }
    refresh(backend, machine);
    wake(backend, machine);
    event
}

/// Takes the pending NMI, if it can be delivered.
#[cold]
#[inline(never)]
fn next_nmi<B: Backend>(backend: &mut B, machine: &mut Machine, ends: bool) -> Option<Event> {
    let takes = backend.takes_nmis(ends);
    machine.activity.nmi_pending = !takes;
    backend.ask_for_nmi_window(!takes);
    takes.then_some(Event::NMI)
}

/// Tells the processor about pending interrupts. It delivers them by itself, or exits by an interrupt window or a priority
/// threshold once one can be delivered.
#[inline(always)]
pub fn refresh<B: Backend>(backend: &mut B, machine: &Machine) {
    refresh_for(machine.devices.apic.deliverable(), backend, machine);
}

/// [`refresh`] with the deliverable vector known.
#[inline(never)]
fn refresh_for<B: Backend>(deliverable: Option<u8>, backend: &mut B, machine: &Machine) {
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

/// A write to a register of the virtual-APIC page that the processor leaves to the APIC. Of the registers that it takes, this is
/// a self-IPI with a vector below 16 alone (SDM 3C 30.4.3.3).
#[inline(never)]
pub fn written<B: Backend>(backend: &mut B, machine: &mut Machine) -> Action {
    const SELF_IPI_OFFSET: u64 = (SELF_IPI - MSR_BASE) as u64 * 16;
    if backend.qualification() == SELF_IPI_OFFSET {
        machine.devices.apic.self_ipi_is_illegal();
    }
    resume(backend, machine)
}

/// Makes a halted vCPU active again.
pub fn wake<B: Backend>(backend: &mut B, machine: &mut Machine) {
    if machine.activity.halted {
        machine.activity.halted = false;
        backend.wake();
    }
}

/// Has the processor's own timer fire when the guest's has to.
#[inline(never)]
pub fn arm<B: Backend>(backend: &mut B, machine: &Machine) {
    let deadline = machine.devices.apic.deadline_tsc();
    machine.shared.board.set_timer(machine.vcpu, deadline.is_some());
    backend.arm_timer(deadline);
}

/// Sends an interprocessor interrupt to each vCPU that it addresses.
fn send<B: Backend>(command: u64, backend: &mut B, machine: &mut Machine) {
    let vector = command as u8;
    let message = match command & DELIVERY_MASK {
        // Lowest priority delivers to all that are addressed.
        DELIVERY_FIXED | DELIVERY_LOWEST_PRIORITY if vector >= LOWEST_VECTOR => Message::Interrupt(vector),
        // An interrupt with such a vector is not sent.
        DELIVERY_FIXED | DELIVERY_LOWEST_PRIORITY => return machine.devices.apic.sent_illegal_vector(),
        DELIVERY_NMI => Message::Nmi,
        DELIVERY_INIT if command & LEVEL == 0 || command & ASSERT != 0 => Message::Init,
        DELIVERY_START_UP => Message::StartUp(vector),
        // SMIs are the platform's; the rest is reserved.
        _ => return,
    };
    let this = machine.vcpu;
    for to in (0..machine.shared.board.vcpus()).filter(|&to| addresses(command, this as u32, to as u32)) {
        if to == this {
            match message {
                // A processor can't send itself INIT or a start-up IPI (SDM 3A 12.6.1).
                Message::Init | Message::StartUp(_) => {}
                message => take(message, machine),
            }
            continue;
        }
        let runs = matches!(machine.shared.board.condition(to), Condition::Running | Condition::Halted);
        let wanted = match message {
            Message::StartUp(_) => machine.shared.board.condition(to) == Condition::Waiting,
            _ => runs,
        };
        if wanted {
            deliver(to, message, backend, machine);
            if runs {
                backend.kick(machine.shared.board.apic_id(to));
            }
        }
    }
}

/// Sends a message. If the lane is full, this vCPU reads its own messages while it waits, so that two that send to each other
/// can't wait for ever. A vCPU that does nothing but exit quickly, with interrupts off, reads none on a processor that makes no
/// exit for an interrupt then, as Bochs 2.7 does not. So the wait ends after some time, and the message is lost.
#[inline(always)]
fn deliver<B: Backend>(to: usize, message: Message, backend: &B, machine: &mut Machine) {
    if !machine.shared.board.send(machine.vcpu, to, message) {
        deliver_late(to, message, backend, machine);
    }
}

#[cold]
#[inline(never)]
fn deliver_late<B: Backend>(to: usize, message: Message, backend: &B, machine: &mut Machine) {
    let mut until_tsc = None;
    while !machine.shared.board.send(machine.vcpu, to, message) {
        match machine.shared.board.receive(machine.vcpu) {
            Some(message) => take(message, machine),
            None if machine.shared.board.condition(to) == Condition::Over
                || machine.shared.board.is_to_stop(machine.vcpu) =>
            {
                return;
            }
            None => {
                let now_tsc = backend.tsc();
                let until_tsc =
                    *until_tsc.get_or_insert(now_tsc.saturating_add(DELIVERY_TICKS).min(machine.bounds.limit_tsc));
                if now_tsc >= until_tsc {
                    return;
                }
                core::hint::spin_loop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::{GuestState, Processor, State, VirtualizedApic};
    use crate::ledger::{Account, Ledger};
    use crate::script::{Script, machine, machine_with, machines};

    use tollgate_abi::x86::control::RFLAGS_IF;

    fn interruptible() -> Script {
        let mut backend = Script::default();
        backend.set(State::Rflags, RFLAGS_IF);
        backend
    }

    fn wrmsr(backend: &mut Script, machine: &mut Machine, msr: u32, value: u64) -> Action {
        let registers =
            GuestRegisters { rcx: msr.into(), rax: value & 0xffff_ffff, rdx: value >> 32, ..Default::default() };
        write(&registers, backend, machine)
    }

    #[test]
    fn a_self_ipi_arrives_behind_its_instruction_and_waits_for_eoi() {
        let (mut backend, mut machine) = (interruptible(), machine());
        let delivered = |vector| Action::AdvanceAndInject(Event::interrupt(vector));
        assert_eq!(wrmsr(&mut backend, &mut machine, SELF_IPI, 0x40), delivered(0x40));
        assert_eq!(wrmsr(&mut backend, &mut machine, SELF_IPI, 0x41), Action::Advance, "0x40 is in service");
        assert!(!backend.window, "it waits for the EOI, not for RFLAGS.IF");
        assert_eq!(wrmsr(&mut backend, &mut machine, EOI, 0), delivered(0x41));
        assert_eq!(wrmsr(&mut backend, &mut machine, EOI, 0), Action::Advance);
        assert_eq!(wrmsr(&mut backend, &mut machine, EOI, 1), REFUSED);
    }

    #[test]
    fn a_vector_below_16_is_an_error_of_whoever_sends_it() {
        let [mut first, second] = machines();
        let mut backend = interruptible();
        second.shared.board.set_condition(1, Condition::Running);
        let raised = Action::AdvanceAndInject(Event::interrupt(0x45));
        let esr = |backend: &mut Script, machine: &mut Machine| {
            assert_eq!(wrmsr(backend, machine, EOI, 0), Action::Advance);
            assert_eq!(wrmsr(backend, machine, ESR, 0), Action::Advance);
            machine.devices.apic.read(ESR, 0)
        };
        assert_eq!(wrmsr(&mut backend, &mut first, LVT_ERROR, 0x45), Action::Advance);
        assert_eq!(wrmsr(&mut backend, &mut first, ICR, command(1, DELIVERY_FIXED, 15)), raised);
        assert_eq!(
            (esr(&mut backend, &mut first), second.shared.board.receive(1), backend.kicks.len()),
            (Ok(0x20), None, 0)
        );
        assert_eq!(wrmsr(&mut backend, &mut first, SELF_IPI, 15), raised);
        assert_eq!(esr(&mut backend, &mut first), Ok(0x60));
        backend.qualification = 0x3f0;
        assert_eq!(written(&mut backend, &mut first), Action::Inject(Event::interrupt(0x45)), "by the processor");
        assert_eq!(esr(&mut backend, &mut first), Ok(0x60));
    }

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
        use tollgate_abi::x86::control::RFLAGS_TF;
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
        assert!(machine.activity.nmi_pending && backend.nmi_window);
        backend.vectoring_event = Some(Event::UNDEFINED_OPCODE);
        backend.blocks_nmis = false;
        assert_eq!(resume(&mut backend, &mut machine), Action::Inject(Event::UNDEFINED_OPCODE));
        assert!(machine.activity.nmi_pending && backend.nmi_window, "one event at a time");
        backend.vectoring_event = None;
        assert_eq!(resume(&mut backend, &mut machine), Action::Inject(Event::NMI));
        assert!(!machine.activity.nmi_pending && !backend.nmi_window);
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
    fn an_ipi_reaches_a_vcpu_that_runs_and_kicks_it() {
        let [mut first, mut second] = machines();
        let (mut here, mut there) = (interruptible(), interruptible());
        second.shared.board.set_condition(1, Condition::Running);
        assert_eq!(wrmsr(&mut here, &mut first, ICR, command(1, DELIVERY_FIXED, 0x55)), Action::Advance);
        assert_eq!(here.kicks, [1]);
        there.exit_event = Some(Event::interrupt(KICK_VECTOR));
        assert_eq!(external_interrupt(&mut there, &mut second), Action::Inject(Event::interrupt(0x55)));
        assert_eq!(there.ended_interrupts, 1);
        assert_eq!(wrmsr(&mut here, &mut first, ICR, command(1, DELIVERY_INIT, 0)), Action::Advance);
        assert_eq!(external_interrupt(&mut there, &mut second), Action::Stop(Outcome::Init));
    }

    #[test]
    fn only_a_waiting_vcpu_is_started_and_one_that_is_over_gets_nothing() {
        let [mut first, second] = machines();
        let mut here = interruptible();
        let mut send = |delivery| wrmsr(&mut here, &mut first, ICR, command(1, delivery, 8));
        assert_eq!(send(DELIVERY_START_UP), Action::Advance);
        second.shared.board.set_condition(1, Condition::Running);
        assert_eq!(second.shared.board.receive(1), Some(Message::StartUp(8)));
        second.shared.board.set_condition(1, Condition::Over);
        assert_eq!((send(DELIVERY_START_UP), send(DELIVERY_NMI)), (Action::Advance, Action::Advance));
        second.shared.board.set_condition(1, Condition::Running);
        assert_eq!((second.shared.board.receive(1), here.kicks.len()), (None, 0));
    }

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
        assert!(!first.activity.nmi_pending, "nobody's message is read");
        backend.exit_event = Some(Event::interrupt(KICK_VECTOR + 1));
        assert_eq!(external_interrupt(&mut backend, &mut first), Action::Inject(Event::NMI));
        assert_eq!(ledger.looks(), looks);
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

    #[test]
    fn the_last_to_halt_tells_vcpu_0_which_ends_the_guest() {
        let [mut first, mut second] = machines();
        let (mut here, mut there) = (interruptible(), interruptible());
        second.shared.board.set_condition(1, Condition::Running);
        (first.activity.halted, second.activity.halted, here.halts) = (true, true, 1);
        assert!(!rest(&mut here, &first), "vCPU 1 runs");
        assert!(!rest(&mut there, &second), "it is vCPU 0 that ends the guest");
        assert_eq!(there.kicks, [0]);
        here.exit_event = Some(Event::interrupt(KICK_VECTOR + 1));
        assert_eq!(external_interrupt(&mut here, &mut first), Action::Stop(Outcome::HaltedForEver));
        assert!(first.shared.board.send(1, 0, Message::Interrupt(0x40)));
        assert_eq!(external_interrupt(&mut here, &mut first), Action::Inject(Event::interrupt(0x40)));
        assert_eq!(first.shared.board.condition(0), Condition::Running);
    }

    #[test]
    fn what_comes_with_an_nmi_or_behind_another_event_is_asked_for() {
        let (mut backend, mut machine) = (interruptible(), machine());
        machine.devices.apic.request(0x40);
        machine.activity.nmi_pending = true;
        assert_eq!(resume(&mut backend, &mut machine), Action::Inject(Event::NMI));
        assert!(backend.window, "0x40 comes as soon as it can");
        backend.virtualized = VirtualizedApic { priority: true, ..Default::default() };
        backend.vectoring_event = Some(Event::UNDEFINED_OPCODE);
        machine.devices.apic.set_cr8(5);
        assert_eq!(resume(&mut backend, &mut machine), Action::Inject(Event::UNDEFINED_OPCODE));
        assert_eq!((backend.threshold, backend.window), (4, false), "it waits for the task priority");
    }

    #[test]
    fn init_is_not_lost_while_a_message_waits_for_room() {
        let [mut first, second] = machines();
        let mut here = interruptible();
        second.shared.board.set_condition(1, Condition::Running);
        while first.shared.board.send(0, 1, Message::Nmi) {}
        assert!(second.shared.board.send(1, 0, Message::Init));
        second.shared.board.ask_to_stop(0);
        assert_eq!(wrmsr(&mut here, &mut first, ICR, command(1, DELIVERY_NMI, 0)), Action::Stop(Outcome::Init));
    }

    #[test]
    fn a_receiver_that_reads_nothing_does_not_hold_its_sender_for_ever() {
        let [mut first, second] = machines();
        let mut here = Script { ticks_per_look: 1 << 20, ..interruptible() };
        second.shared.board.set_condition(1, Condition::Running);
        while first.shared.board.send(0, 1, Message::Nmi) {}
        assert_eq!(wrmsr(&mut here, &mut first, ICR, command(1, DELIVERY_NMI, 0)), Action::Advance);
        let waited = here.tsc();
        assert!(waited > DELIVERY_TICKS, "{waited}");
        first.bounds.limit_tsc = waited + (1 << 21);
        assert_eq!(wrmsr(&mut here, &mut first, ICR, command(1, DELIVERY_NMI, 0)), Action::Advance);
        assert!(here.tsc() < waited + DELIVERY_TICKS, "no longer than the run may last");
    }

    #[test]
    fn init_disarms_the_timer() {
        let [mut first, second] = machines();
        let mut here = interruptible();
        let timer = u64::from(0x31 | LVT_TSC_DEADLINE);
        assert_eq!(wrmsr(&mut here, &mut first, LVT_TIMER, timer), Action::Advance);
        assert_eq!(wrmsr(&mut here, &mut first, IA32_TSC_DEADLINE, 500), Action::Advance);
        assert!(second.shared.board.send(1, 0, Message::Init));
        here.exit_event = Some(Event::interrupt(KICK_VECTOR + 1));
        assert_eq!(external_interrupt(&mut here, &mut first), Action::Stop(Outcome::Init));
        assert_eq!((here.timer, first.devices.apic.deadline_tsc()), (None, None));
        assert!(first.shared.board.rest(0, Condition::Waiting), "no timer is to fire");
    }

    #[test]
    fn an_init_signal_stops_the_vcpu_that_was_asked_to() {
        let [first, _] = machines();
        assert!(first.shared.board.ask_to_stop(0), "it runs");
        assert_eq!(init_signal(&first), Action::Stop(Outcome::StoppedByAnother));
        assert!(!first.shared.board.ask_to_stop(1), "it waits, and looks for itself");
        assert!(!first.shared.board.run(1));
    }
}
