//! Interprocessor interrupts: messages from one vCPU to another over the board, and what INIT and a halt tell the others.

use tollgate_abi::apic::*;
use tollgate_abi::workload::Outcome;

use crate::board::{Condition, Message};
use crate::devices::guest_apic::addresses;
use crate::devices::guest_apic::mapped::{self, FROM_DEVICE};
use crate::exit::{Action, Backend, Processor};
use crate::handlers::timer::arm;
use crate::machine::Machine;

/// TSC ticks that a sender waits for room in a lane.
const DELIVERY_TICKS: u64 = 1 << 26;

/// Sends an interprocessor interrupt to each vCPU that it addresses.
pub(super) fn send<B: Processor>(command: u64, backend: &mut B, machine: &mut Machine) {
    let this = machine.vcpu as u32;
    let sending = Sending { of_device: false, level: false, to_one: false };
    send_to(command, sending, backend, machine, |_, to| addresses(command, this, to as u32));
}

/// [`send`] of a command in xAPIC's form, of the vCPU or of a device.
#[cold]
#[inline(never)]
pub(super) fn send_mapped<B: Processor>(command: u64, backend: &mut B, machine: &mut Machine) {
    let this = machine.vcpu as u32;
    let is_meant = |machine: &Machine, to: usize| {
        mapped::addresses(command, this, to as u32, &machine.shared.devices.logical_ids[to])
    };
    let of_device = command & FROM_DEVICE != 0;
    let level = of_device && command & LEVEL != 0;
    let to_one = of_device && command & DELIVERY_MASK == DELIVERY_LOWEST_PRIORITY;
    send_to(command, Sending { of_device, level, to_one }, backend, machine, is_meant);
}

/// The part of a command that is not the same for vCPUs and devices.
struct Sending {
    /// It is the IOAPIC's. An illegal vector is an error of those who receive it, and not of the vCPU that caused it.
    of_device: bool,
    /// The interrupt is level-triggered.
    level: bool,
    /// The first vCPU that is addressed and takes interrupts gets it.
    to_one: bool,
}

#[inline(always)]
fn send_to<B: Processor>(
    command: u64,
    Sending { of_device, level, to_one }: Sending,
    backend: &mut B,
    machine: &mut Machine,
    is_meant: impl Fn(&Machine, usize) -> bool,
) {
    let vector = command as u8;
    let message = match command & DELIVERY_MASK {
        DELIVERY_FIXED | DELIVERY_LOWEST_PRIORITY if level => Message::Level(vector),
        // A vCPU's lowest priority delivers to all that are addressed.
        DELIVERY_FIXED | DELIVERY_LOWEST_PRIORITY if of_device || vector >= LOWEST_VECTOR => Message::Interrupt(vector),
        // An interrupt with such a vector is not sent.
        DELIVERY_FIXED | DELIVERY_LOWEST_PRIORITY => return machine.devices.apic.sent_illegal_vector(),
        DELIVERY_NMI => Message::Nmi,
        DELIVERY_INIT if command & LEVEL == 0 || command & ASSERT != 0 => Message::Init,
        DELIVERY_START_UP => Message::StartUp(vector),
        // SMIs are the platform's; the rest is reserved.
        _ => return,
    };
    let this = machine.vcpu;
    for to in 0..machine.shared.board.vcpus() {
        if !is_meant(machine, to) {
            continue;
        }
        if to == this {
            match message {
                // A processor can't send itself INIT or a start-up IPI (SDM 3A 12.6.1).
                Message::Init | Message::StartUp(_) => {}
                message => take(message, machine),
            }
            if to_one {
                break;
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
            if to_one {
                break;
            }
        }
    }
}

/// Sends a message to another vCPU, if that runs or has halted.
#[cold]
#[inline(never)]
pub(super) fn tell<B: Processor>(to: usize, message: Message, backend: &mut B, machine: &mut Machine) {
    if matches!(machine.shared.board.condition(to), Condition::Running | Condition::Halted) {
        deliver(to, message, backend, machine);
        backend.kick(machine.shared.board.apic_id(to));
    }
}

/// Sends a message. If the lane is full, this vCPU reads its own messages while it waits, so that two that send to each other
/// can't wait for ever. A vCPU that does nothing but exit quickly, with interrupts off, reads none on a processor that makes no
/// exit for an interrupt then, as Bochs 2.7 does not. So the wait ends after some time, and the message is lost.
#[inline(always)]
fn deliver<B: Processor>(to: usize, message: Message, backend: &B, machine: &mut Machine) {
    if !machine.shared.board.send(machine.vcpu, to, message) {
        deliver_late(to, message, backend, machine);
    }
}

#[cold]
#[inline(never)]
fn deliver_late<B: Processor>(to: usize, message: Message, backend: &B, machine: &mut Machine) {
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

/// Takes a message from another vCPU.
#[inline(always)]
pub(super) fn take(message: Message, machine: &mut Machine) {
    match message {
        Message::Interrupt(vector) => machine.devices.apic.request(vector),
        Message::Level(vector) => machine.devices.apic.request_level(vector),
        Message::Nmi => machine.activity.beside_apic.set_nmi(true),
        Message::Init => machine.activity.init_pending = true,
        Message::IsaBus => machine.activity.beside_apic.set_isa_bus(true),
        // Only a vCPU that waits for a start-up IPI is started.
        Message::StartUp(_) => {}
    }
}

/// Obeys INIT: the vCPU waits for a start-up IPI, with an APIC as after power-up, and its timer is not armed.
pub(super) fn initialized<B: Backend>(backend: &mut B, machine: &mut Machine) -> Action {
    machine.devices.apic.reset();
    arm(backend, machine);
    Action::Stop(Outcome::Init)
}

/// INIT at the processor itself: another vCPU has ended the guest.
pub fn init_signal(machine: &Machine) -> Action {
    Action::Stop(if machine.shared.board.is_to_stop(machine.vcpu) { Outcome::StoppedByAnother } else { Outcome::Init })
}

/// Says that this vCPU has halted. True if it is to end the guest, because nothing can ever wake any vCPU.
pub fn rest<B: Processor>(backend: &mut B, machine: &Machine) -> bool {
    let dead = machine.shared.board.rest(machine.vcpu, Condition::Halted);
    if dead && machine.vcpu != 0 {
        backend.kick(machine.shared.board.apic_id(0));
    }
    // Others don't know of the ISA bus' timer, which is this vCPU's.
    dead && machine.vcpu == 0 && machine.bus_deadline_tsc().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::{Event, Processor};
    use crate::handlers::interrupt::external_interrupt;
    use crate::host::vectors::KICK_VECTOR;
    use crate::script::{Script, interruptible, machines, wrmsr};

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
