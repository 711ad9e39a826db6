//! VMCALL: the calls of [`tollgate_abi::hypercall`].

use tollgate_abi::ExitReason;
use tollgate_abi::hypercall::{
    BAD_ADDRESS, CONSOLE_BYTES, Hypercall, INVALID, LONGEST_WAKE_TICKS, NO_SUCH_CALL, PROFILE_ONLY,
};
use tollgate_abi::profile::Profile;
use tollgate_abi::workload::{Outcome, Workload};

use crate::ended::GuestExit;
use crate::exit::{Action, Event, GuestRegisters, GuestState, Pause, Processor, Quickly, VolatileRegisters};
use crate::machine::{Machine, Wake};

/// [`Hypercall::Nothing`]: its result is its number, which RAX has already.
#[inline(always)]
pub fn quick<B: GuestState>(registers: &mut VolatileRegisters, backend: &mut B, _: &mut Machine) -> Quickly {
    const { assert!(Hypercall::Nothing as u64 == 0) };
    (backend.rax(registers) == Hypercall::Nothing as u64).into()
}

/// Performs the call.
#[inline(never)]
pub fn handle<B: GuestState + Processor>(registers: &mut GuestRegisters, backend: &B, machine: &mut Machine) -> Action {
    if backend.privilege_level() != 0 {
        return Action::Inject(Event::UNDEFINED_OPCODE);
    }
    let (first, second) = (registers.rdi, registers.rsi);
    let (result, action) = match Hypercall::from_number(registers.rax) {
        None => (NO_SUCH_CALL, Action::Advance),
        Some(Hypercall::Nothing) => (0, Action::Advance),
        Some(Hypercall::Console) => console(first, second, machine),
        Some(Hypercall::Begin) => begin(first, second, machine),
        Some(Hypercall::End) if !machine.stage.window_open || machine.vcpu != 0 => (INVALID, Action::Advance),
        Some(Hypercall::End) => {
            machine.stage.window_open = false;
            let call_cycles = machine.shared.ledgers.iter().map(|ledger| ledger.cycles_of(ExitReason::VMCALL)).sum();
            (
                0,
                Action::AdvanceAndPause(Pause::End {
                    book_gpa: first,
                    samples_gpa: second,
                    tsc: backend.tsc(),
                    call_cycles,
                }),
            )
        }
        Some(Hypercall::WakeAfter) => (wake_after(first, second, backend.tsc(), machine), Action::Advance),
        Some(Hypercall::Exit) => {
            machine.stage.exit = Some(GuestExit { status: first, book_gpa: second });
            (0, Action::Stop(Outcome::Exited))
        }
    };
    registers.rax = result;
    action
}

fn console(gpa: u64, bytes: u64, machine: &Machine) -> (u64, Action) {
    let bytes = bytes.min(CONSOLE_BYTES);
    if gpa.checked_add(bytes).is_none_or(|end| end > machine.memory.bytes()) {
        return (BAD_ADDRESS, Action::Advance);
    }
    (bytes, Action::AdvanceAndPause(Pause::Console { gpa, bytes: bytes as usize }))
}

fn begin(number: u64, iterations: u64, machine: &mut Machine) -> (u64, Action) {
    if number == PROFILE_ONLY {
        let profile = Profile::from_number(iterations);
        return profile
            .map_or((INVALID, Action::Advance), |profile| (0, Action::AdvanceAndPause(Pause::Profile(profile))));
    }
    match usize::try_from(number).ok().and_then(Workload::by_number) {
        Some(workload)
            if (1..=workload.most).contains(&iterations) && !machine.stage.window_open && machine.vcpu == 0 =>
        {
            machine.stage.window_open = true;
            (0, Action::AdvanceAndPause(Pause::Begin { number: number as usize, iterations }))
        }
        _ => (INVALID, Action::Advance),
    }
}

/// Arms an interrupt. Vectors below 32 are the processor's, and refused.
fn wake_after(ticks: u64, vector: u64, now: u64, machine: &mut Machine) -> u64 {
    match u8::try_from(vector) {
        Ok(vector @ 32..) if ticks <= LONGEST_WAKE_TICKS => {
            machine.activity.wake = Some(Wake { deadline_tsc: now.saturating_add(ticks), vector });
            0
        }
        _ => INVALID,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::{GuestState, State};
    use crate::script::{Script, machine, machines};

    fn call(machine: &mut Machine, rax: u64, rdi: u64, rsi: u64) -> (u64, Action) {
        let mut registers = GuestRegisters { rax, rdi, rsi, ..Default::default() };
        let action = handle(&mut registers, &Script::default(), machine);
        (registers.rax, action)
    }

    #[test]
    fn bad_arguments_are_refused() {
        let machine = &mut machine();
        assert_eq!(call(machine, 99, 0, 0), (NO_SUCH_CALL, Action::Advance));
        assert_eq!(call(machine, u64::MAX, 0, 0), (NO_SUCH_CALL, Action::Advance));
        assert_eq!(call(machine, Hypercall::Console as u64, u64::MAX, 10), (BAD_ADDRESS, Action::Advance));
        assert_eq!(call(machine, Hypercall::Begin as u64, 4711, 1), (INVALID, Action::Advance));
        assert_eq!(call(machine, Hypercall::Begin as u64, 1, 0), (INVALID, Action::Advance));
        assert_eq!(
            call(machine, Hypercall::End as u64, 0, 0),
            (INVALID, Action::Advance),
            "an end without a beginning"
        );
        assert_eq!(call(machine, Hypercall::WakeAfter as u64, 1, 31), (INVALID, Action::Advance));
        assert_eq!(call(machine, Hypercall::WakeAfter as u64, 1, 256), (INVALID, Action::Advance));
        assert_eq!(
            call(machine, Hypercall::WakeAfter as u64, u64::MAX, 33),
            (INVALID, Action::Advance),
            "a wait for ever"
        );
        assert_eq!(machine.activity.wake, None);
    }

    #[test]
    fn windows_are_vcpu_0s_and_profiles_each_ones_own() {
        let [_, mut second] = machines();
        assert_eq!(call(&mut second, Hypercall::Begin as u64, 1, 1), (INVALID, Action::Advance));
        let switched = Action::AdvanceAndPause(Pause::Profile(Profile::VirtualApic));
        assert_eq!(call(&mut second, Hypercall::Begin as u64, PROFILE_ONLY, 2), (0, switched));
        let beyond = Profile::ALL.len() as u64;
        assert_eq!(call(&mut second, Hypercall::Begin as u64, PROFILE_ONLY, beyond), (INVALID, Action::Advance));
    }

    #[test]
    fn console_bytes_are_kept_for_printing() {
        let machine = &mut machine();
        let (bytes, action) = call(machine, Hypercall::Console as u64, 0x100, 5);
        assert_eq!((bytes, action), (5, Action::AdvanceAndPause(Pause::Console { gpa: 0x100, bytes: 5 })));
    }

    #[test]
    fn only_the_kernel_may_call() {
        let mut backend = Script::default();
        backend.set(State::Cr0, 1);
        backend.set(State::SsRights, 3 << 5);
        let mut registers = GuestRegisters { rax: Hypercall::Exit as u64, ..Default::default() };
        assert_eq!(handle(&mut registers, &backend, &mut machine()), Action::Inject(Event::UNDEFINED_OPCODE));
    }
}
