//! The registers of the guest's local APIC, which are MSRs: an access asks the APIC, and its effect is seen to here. The processors'
//! own APICs are [`crate::host::local_apic`]'s.

use tollgate_abi::apic::*;

use crate::devices::guest_apic::Effect;
use crate::exit::{Action, Backend, Event, Processor};
use crate::handlers::delivery::{advance, resume};
use crate::handlers::ipi::send;
use crate::handlers::lines::{self, advance_sent};
use crate::handlers::timer::arm;
use crate::machine::Machine;

const REFUSED: Action = Action::Inject(Event::GENERAL_PROTECTION);

/// The value of one of the APIC's registers; `None` for one that can't be read.
#[inline(never)]
pub fn read<B: Processor>(msr: u32, backend: &B, machine: &Machine) -> Option<u64> {
    machine.devices.apic.read(msr, backend.tsc()).ok()
}

/// WRMSR to one of the APIC's registers. The effect of the write is called last, so that this needs no stack frame.
#[inline(never)]
pub fn write<B: Backend>(msr: u32, value: u64, backend: &mut B, machine: &mut Machine) -> Action {
    match machine.devices.apic.write(msr, value, backend.tsc()) {
        Err(_) => REFUSED,
        Ok(Effect::None) => Action::Advance,
        Ok(Effect::Timer) => arm_and_advance(backend, machine),
        Ok(Effect::Priorities) => advance(backend, machine),
        Ok(Effect::TaskPriority) => {
            backend.set_task_priority(machine.devices.apic.cr8() as u8);
            advance(backend, machine)
        }
        Ok(Effect::EndOfLevel(vector)) => end_and_advance(vector, backend, machine),
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
    advance_sent(backend, machine)
}

#[cold]
#[inline(never)]
fn end_and_advance<B: Backend>(vector: u8, backend: &mut B, machine: &mut Machine) -> Action {
    lines::end(vector, backend, machine);
    advance_sent(backend, machine)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Condition;
    use crate::script::{Script, interruptible, machine, machines, wrmsr};

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
}
