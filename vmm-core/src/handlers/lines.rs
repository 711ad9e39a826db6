//! Interrupts of devices: a line that an access or an EOI has left up goes through the IOAPIC to the vCPUs that its table names.

use crate::exit::{Action, Backend};
use crate::handlers::delivery::advance;
use crate::handlers::ipi::{initialized, send_mapped};
use crate::handlers::isa_bus;
use crate::machine::Machine;

/// Sends the interrupts that devices ask for. True if there was one.
#[cold]
#[inline(never)]
pub(super) fn send<B: Backend>(backend: &mut B, machine: &mut Machine) -> bool {
    machine.shared.board.keep_order();
    let mut any = false;
    while let Some(command) = machine.shared.devices.next_interrupt() {
        send_mapped(command, backend, machine);
        any = true;
    }
    any | (machine.shared.devices.isa_bus.is_there() && isa_bus::changed(backend, machine))
}

/// Ends a level-triggered interrupt at the IOAPIC. A line that is still up interrupts again.
#[cold]
#[inline(never)]
pub(super) fn end<B: Backend>(vector: u8, backend: &mut B, machine: &mut Machine) {
    machine.shared.devices.io_apic.end_of_interrupt(vector);
    send(backend, machine);
}

/// Ends the instruction that has sent an interrupt.
#[inline(never)]
pub(super) fn advance_sent<B: Backend>(backend: &mut B, machine: &mut Machine) -> Action {
    if machine.activity.init_pending { initialized(backend, machine) } else { advance(backend, machine) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;

    use tollgate_abi::ExitReason;
    use tollgate_abi::apic::{DELIVERY_LOWEST_PRIORITY, EOI, ESR, LEVEL, LOGICAL};
    use tollgate_abi::machine::PC;
    use tollgate_abi::machine::pc::{SERIAL_INPUT, SERIAL_PORT};
    use tollgate_abi::x86::control::RFLAGS_IF;

    use crate::board::{Condition, Message};
    use crate::devices::SharedDevices;
    use crate::devices::ports::Ports;
    use crate::exit::{Event, GuestRegisters, GuestState, IoAccess, Pause, RawReason, State};
    use crate::handlers::dispatch;
    use crate::handlers::interrupt::external_interrupt;
    use crate::host::vectors::KICK_VECTOR;
    use crate::script::{Script, interruptible, machines, wrmsr};

    type Vcpu = (Script, Machine);

    /// vCPUs of the PC that run, and the serial port's line as this entry of the IOAPIC's table has it.
    fn pcs<const VCPUS: usize>(entry: u64) -> [Vcpu; VCPUS] {
        let devices: &'static SharedDevices = Box::leak(Box::default());
        for (half, value) in [(1, entry >> 32), (0, entry)] {
            devices.io_apic.write(0, 0x10 + 2 * SERIAL_INPUT as u32 + half);
            devices.io_apic.write(0x10, value as u32);
        }
        machines::<VCPUS>().map(|mut machine| {
            machine.shared.devices = devices;
            machine.devices.ports = Ports::new(&PC, devices);
            machine.shared.board.set_condition(machine.vcpu, Condition::Running);
            (interruptible(), machine)
        })
    }

    fn io((backend, machine): &mut Vcpu, at: u16, is_in: bool, value: u8) -> Action {
        backend.io = Some(IoAccess { port: SERIAL_PORT + at, bytes: 1, is_in, is_string: false, is_repeated: false });
        let mut registers = GuestRegisters { rax: value.into(), ..Default::default() };
        dispatch(RawReason(ExitReason::IO_INSTRUCTION.0.into()), &mut registers, backend, machine)
    }

    fn out(vcpu: &mut Vcpu, at: u16, value: u8) -> Action {
        io(vcpu, at, false, value)
    }

    /// Reads the interrupt that waits.
    fn look(vcpu: &mut Vcpu) {
        assert_eq!(io(vcpu, 2, true, 0), Action::Advance);
    }

    fn end((backend, machine): &mut Vcpu) -> Action {
        wrmsr(backend, machine, EOI, 0)
    }

    const INTERRUPT: Action = Action::AdvanceAndInject(Event::interrupt(0x41));

    #[test]
    fn a_line_that_rises_interrupts_behind_the_instruction_and_one_that_stays_up_behind_the_end() {
        let [mut first] = pcs(LEVEL | 0x41);
        assert_eq!((out(&mut first, 4, 8), out(&mut first, 1, 2)), (Action::Advance, INTERRUPT));
        assert_eq!(out(&mut first, 0, b'a'), Action::Advance, "it is in service");
        assert_eq!(end(&mut first), INTERRUPT, "the line is up still");
        look(&mut first);
        assert_eq!(end(&mut first), Action::Advance);
        assert_eq!(out(&mut first, 0, b'b'), INTERRUPT);
    }

    #[test]
    fn an_edge_comes_again_behind_the_end_of_the_one_before() {
        let [mut first] = pcs(0x41);
        assert_eq!((out(&mut first, 4, 8), out(&mut first, 1, 2)), (Action::Advance, INTERRUPT));
        look(&mut first);
        assert_eq!((out(&mut first, 0, b'a'), end(&mut first)), (Action::Advance, INTERRUPT));
        assert_eq!(end(&mut first), Action::Advance, "the line is up, and that is no edge");
    }

    #[test]
    fn with_interrupts_off_or_behind_a_line_for_the_log_it_is_asked_for() {
        let [mut first] = pcs(LEVEL | 0x41);
        first.0.set(State::Rflags, 0);
        assert_eq!((out(&mut first, 4, 8), out(&mut first, 1, 2)), (Action::Advance, Action::Advance));
        assert!(first.0.window);
        first.0.set(State::Rflags, RFLAGS_IF);
        let window = RawReason(ExitReason::INTERRUPT_WINDOW.0.into());
        let action = dispatch(window, &mut GuestRegisters::default(), &mut first.0, &mut first.1);
        assert_eq!((action, first.0.window), (Action::Inject(Event::interrupt(0x41)), false));
        look(&mut first);
        assert_eq!(end(&mut first), Action::Advance);
        assert_eq!((out(&mut first, 0, b'\n'), first.0.window), (Action::AdvanceAndPause(Pause::Print), true));
        assert_eq!(first.1.devices.apic.deliverable(), Some(0x41));
    }

    #[test]
    fn bytes_of_a_string_before_a_fault_interrupt_too() {
        let [mut first] = pcs(LEVEL | 0x41);
        assert_eq!((out(&mut first, 4, 8), out(&mut first, 1, 2)), (Action::Advance, INTERRUPT));
        look(&mut first);
        assert_eq!(end(&mut first), Action::Advance);
        for (at, value) in [(0x1000, 0x2003), (0x2000, 0x3003), (0x3000, 0x4003), (0x4000, 0x3)] {
            first.1.memory.write_u64(at, value).unwrap();
        }
        first.0.set(State::Cr3, 0x1000);
        first.0.set(State::Cr0, 1 << 31 | 1);
        first.0.string_io = (0xffe, 8);
        first.0.io = Some(IoAccess { port: SERIAL_PORT, bytes: 1, is_in: false, is_string: true, is_repeated: true });
        let mut registers = GuestRegisters { rsi: 0xffe, rcx: 4, ..Default::default() };
        let reason = RawReason(ExitReason::IO_INSTRUCTION.0.into());
        let action = dispatch(reason, &mut registers, &mut first.0, &mut first.1);
        assert!(matches!(action, Action::Inject(_)), "{action:?}");
        assert_eq!((registers.rcx, first.0.window, first.1.devices.apic.deliverable()), (2, true, Some(0x41)));
    }

    #[test]
    fn it_goes_to_the_vcpu_that_the_table_names() {
        let [mut first, mut second] = pcs(1 << 56 | LEVEL | 0x41);
        assert_eq!((out(&mut first, 4, 8), out(&mut first, 1, 2)), (Action::Advance, Action::Advance));
        assert_eq!(first.0.kicks, [1]);
        second.0.exit_event = Some(Event::interrupt(KICK_VECTOR));
        let action = external_interrupt(&mut second.0, &mut second.1);
        assert_eq!(action, Action::Inject(Event::interrupt(0x41)));
        assert_eq!(out(&mut first, 0, b'a'), Action::Advance);
        assert_eq!(first.0.kicks.len(), 1, "it is in service there");
        assert_eq!(end(&mut second), INTERRUPT, "its end is told by the vCPU that had it");
        look(&mut first);
        assert_eq!(end(&mut second), Action::Advance);
    }

    #[test]
    fn one_vcpu_of_several_gets_it_at_lowest_priority_and_all_of_them_else() {
        for (mode, kicked) in [(DELIVERY_LOWEST_PRIORITY, &[1][..]), (0, &[1, 2])] {
            let [mut first, _second, third] = pcs(0b110 << 56 | LOGICAL | mode | LEVEL | 0x41);
            let _ = (out(&mut first, 4, 8), out(&mut first, 1, 2));
            assert_eq!(first.0.kicks, kicked);
            let board = third.1.shared.board;
            let received = [1, 2].map(|vcpu| board.receive(vcpu) == Some(Message::Level(0x41)));
            assert_eq!(received, [true, kicked.len() == 2]);
        }
        let [mut first, second] = pcs(0b11 << 56 | LOGICAL | DELIVERY_LOWEST_PRIORITY | 0x41);
        assert_eq!(
            (out(&mut first, 4, 8), out(&mut first, 1, 2)),
            (Action::Advance, INTERRUPT),
            "this one is the first"
        );
        assert_eq!((first.0.kicks.len(), second.1.shared.board.receive(1)), (0, None));
    }

    #[test]
    fn a_vector_below_16_is_an_error_of_the_vcpu_that_receives_it() {
        for trigger in [0, LEVEL] {
            let [mut first, mut second] = pcs(1 << 56 | trigger | 15);
            assert_eq!((out(&mut first, 4, 8), out(&mut first, 1, 2)), (Action::Advance, Action::Advance));
            second.0.exit_event = Some(Event::interrupt(KICK_VECTOR));
            assert_eq!(external_interrupt(&mut second.0, &mut second.1), Action::Resume);
            let errors = [&mut first, &mut second].map(|(backend, machine)| {
                assert_eq!(wrmsr(backend, machine, ESR, 0), Action::Advance);
                machine.devices.apic.read(ESR, 0)
            });
            assert_eq!(errors, [Ok(0), Ok(0x40)], "received");
        }
    }
}
