//! Instructions about time, waiting and processor state: RDTSC, RDTSCP, HLT, XSETBV, INVLPG.

use tollgate_abi::workload::Outcome;
use tollgate_abi::x86::control::{RFLAGS_IF, RFLAGS_TF};

use crate::devices::cpuid_table::XCR0_OFFERED;
use crate::exit::{Action, Backend, Event, ExitFacts, GuestRegisters, GuestState, Pause, State, VolatileRegisters};
use crate::handlers::delivery;
use crate::machine::Machine;

/// XCR0's consistent values of the components that are offered: each component needs those before it (SDM 1 13.3).
const X87: u64 = 1;
const SSE: u64 = X87 | 1 << 1;
const AVX: u64 = SSE | 1 << 2;
const AVX512: u64 = AVX | 0b111 << 5;
const _: () = assert!(AVX512 == XCR0_OFFERED);

/// RDTSC, by the volatile registers. On a processor that takes RDTSCP for RDTSC, it is left.
#[inline(always)]
pub fn brief_tsc<B: Backend>(registers: &mut VolatileRegisters, backend: &mut B, _: &mut Machine) -> Option<Action> {
    if backend.is_rdtscp() {
        return None;
    }
    let tsc = backend.guest_tsc();
    backend.set_edx_eax(registers, tsc);
    Some(Action::Advance)
}

/// RDTSCP, by the volatile registers.
#[inline(always)]
pub fn brief_tscp<B: Backend>(registers: &mut VolatileRegisters, backend: &mut B, _: &mut Machine) -> Option<Action> {
    registers.rcx = backend.get(State::TscAux);
    let tsc = backend.guest_tsc();
    backend.set_edx_eax(registers, tsc);
    Some(Action::Advance)
}

/// XSETBV, by the volatile registers.
#[inline(always)]
pub fn brief_xcr0<B: Backend>(
    registers: &mut VolatileRegisters,
    backend: &mut B,
    machine: &mut Machine,
) -> Option<Action> {
    let rax = backend.rax(registers);
    Some(set_xcr0_by(rax, registers.rcx, registers.rdx, backend, machine))
}

/// INVLPG, where the processor tells the address.
#[inline(always)]
pub fn brief_invalidation<B: Backend>(_: &mut VolatileRegisters, backend: &mut B, _: &mut Machine) -> Option<Action> {
    let linear = backend.told_invalidated_address()?;
    backend.flush_translations(Some(linear));
    Some(Action::Advance)
}

/// RDTSC.
pub fn read_tsc<B: Backend>(registers: &mut GuestRegisters, backend: &B) -> Action {
    let tsc = backend.guest_tsc();
    registers.rax = tsc & 0xffff_ffff;
    registers.rdx = tsc >> 32;
    Action::Advance
}

/// RDTSCP.
pub fn read_tscp<B: Backend>(registers: &mut GuestRegisters, backend: &B) -> Action {
    registers.rcx = backend.get(State::TscAux);
    read_tsc(registers, backend)
}

/// INVLPG.
pub fn invalidate_page<B: ExitFacts + GuestState>(registers: &mut GuestRegisters, backend: &mut B) -> Action {
    let linear = backend.invalidated_address(registers);
    backend.flush_translations(Some(linear));
    Action::Advance
}

/// XSETBV, with the checks of SDM 3A 2.6 and that of the privilege level: SVM intercepts XSETBV before any check (APM 2 15.9),
/// and so does VT-x on Bochs.
#[inline(never)]
pub fn set_xcr0<B: GuestState>(registers: &GuestRegisters, backend: &mut B, machine: &Machine) -> Action {
    set_xcr0_by(registers.rax, registers.rcx, registers.rdx, backend, machine)
}

#[inline(always)]
fn set_xcr0_by<B: GuestState>(rax: u64, rcx: u64, rdx: u64, backend: &mut B, machine: &Machine) -> Action {
    let value = rax & 0xffff_ffff | rdx << 32;
    let consistent = matches!(value, X87 | SSE | AVX | AVX512) && value & !machine.devices.cpuid.xcr0_allowed() == 0;
    if rcx as u32 != 0 || !consistent || backend.privilege_level() != 0 {
        return Action::Inject(Event::GENERAL_PROTECTION);
    }
    backend.set(State::Xcr0, value);
    Action::Advance
}

/// HLT: takes a pending interrupt, or the armed one once it is due; otherwise the vCPU halts until its APIC has one. If nothing
/// can ever wake it, it is over. With RFLAGS.TF it does not halt: the #DB behind it would wake it at once.
#[inline(never)]
pub fn halt<B: Backend>(backend: &mut B, machine: &mut Machine) -> Action {
    let flags = backend.get(State::Rflags) & (RFLAGS_IF | RFLAGS_TF);
    if flags != RFLAGS_IF {
        let steps = flags & RFLAGS_TF != 0;
        return if steps { delivery::advance(backend, machine) } else { Action::Stop(Outcome::HaltedForEver) };
    }
    if let Some(wake) = machine.activity.wake.take() {
        loop {
            let now_tsc = backend.tsc();
            if now_tsc >= wake.deadline_tsc {
                break;
            }
            if machine.is_past_limit(now_tsc) {
                return Action::Stop(Outcome::LimitReached);
            }
            if machine.shared.board.is_to_stop(machine.vcpu) {
                return Action::Stop(Outcome::StoppedByAnother);
            }
            core::hint::spin_loop();
        }
        return Action::AdvanceAndInject(Event::interrupt(wake.vector));
    }
    if let Some(event) = delivery::settle(backend, machine, true) {
        return Action::AdvanceAndInject(event);
    }
    if machine.shared.board.vcpus() < 2 && machine.devices.apic.deadline_tsc().is_none() {
        return halt_without_timer(backend, machine);
    }
    fall_asleep(backend, machine)
}

/// Halts a vCPU that is alone, and whose APIC's timer is not armed.
#[cold]
#[inline(never)]
fn halt_without_timer<B: Backend>(backend: &mut B, machine: &mut Machine) -> Action {
    if machine.bus_deadline_tsc().is_none() {
        return Action::Stop(Outcome::HaltedForEver);
    }
    fall_asleep(backend, machine)
}

#[inline(always)]
fn fall_asleep<B: Backend>(backend: &mut B, machine: &mut Machine) -> Action {
    machine.activity.halted = true;
    backend.halt();
    Action::AdvanceAndPause(Pause::Halted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::GuestState;
    use crate::machine::Wake;
    use crate::script::{Script, machine, machines};

    #[test]
    fn xcr0_must_be_consistent() {
        let set = |rcx, value: u64| {
            let registers = GuestRegisters { rcx, rax: value & 0xffff_ffff, rdx: value >> 32, ..Default::default() };
            set_xcr0(&registers, &mut Script::default(), &machine()) == Action::Advance
        };
        for value in [1, 3, 7, 0xe7] {
            assert!(set(0, value), "{value:#x}");
        }
        for value in [0, 2, 5, 0x27, 0xe3, 8, 0x18, 0x207, 1 << 63 | 1] {
            assert!(!set(0, value), "{value:#x}");
        }
        assert!(!set(1, 1), "there is only XCR0");
        let mut in_ring_3 = Script::default();
        in_ring_3.set(State::Cr0, 1);
        in_ring_3.set(State::SsRights, 3 << 5);
        let registers = GuestRegisters { rax: 3, ..Default::default() };
        let refused = Action::Inject(Event::GENERAL_PROTECTION);
        assert_eq!(set_xcr0(&registers, &mut in_ring_3, &machine()), refused);
        assert_eq!(in_ring_3.get(State::Xcr0), 0);
        in_ring_3.set(State::Cr0, 0);
        assert_eq!(set_xcr0(&registers, &mut in_ring_3, &machine()), Action::Advance, "real mode has no rings");
    }

    #[test]
    fn hlt_under_a_single_step_does_not_halt() {
        let (mut backend, [mut machine, _]) = (Script::default(), machines());
        machine.devices.apic.request(0x41);
        for rflags in [RFLAGS_TF, RFLAGS_TF | RFLAGS_IF] {
            backend.set(State::Rflags, 2 | rflags);
            assert_eq!(halt(&mut backend, &mut machine), Action::Advance);
            assert_eq!((machine.activity.halted, backend.halts, backend.window), (false, 0, true), "{rflags:#x}");
        }
    }

    #[test]
    fn hlt_wakes_only_if_something_can_wake_it() {
        let mut machine = machine();
        let mut backend = Script::default();
        backend.set(State::Rflags, 2 | RFLAGS_IF);
        assert_eq!(halt(&mut backend, &mut machine), Action::Stop(Outcome::HaltedForEver));
        machine.activity.wake = Some(Wake { deadline_tsc: 0, vector: 32 });
        assert_eq!(halt(&mut backend, &mut machine), Action::AdvanceAndInject(Event::interrupt(32)));
        assert_eq!((machine.activity.wake, backend.halts), (None, 0));
        machine.devices.apic.request(0x41);
        assert_eq!(halt(&mut backend, &mut machine), Action::AdvanceAndInject(Event::interrupt(0x41)));
        let [mut one_of_two, _] = machines();
        assert_eq!(halt(&mut backend, &mut one_of_two), Action::AdvanceAndPause(Pause::Halted));
        assert_eq!((one_of_two.activity.halted, backend.halts), (true, 1));
        machine.activity.wake = Some(Wake { deadline_tsc: 0, vector: 32 });
        backend.set(State::Rflags, 2);
        assert_eq!(halt(&mut backend, &mut machine), Action::Stop(Outcome::HaltedForEver));
    }
}
