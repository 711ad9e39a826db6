//! Exceptions, and accesses that EPT refuses: they go back to the guest, map a page, or end the guest.
//!
//! An exception that the monitor intercepts is the guest's own and goes back to it. If it came up while another event
//! was being delivered, the two combine as the processor would combine them (SDM 3A 6.15, interrupt 8).

use tollgate_abi::workload::Outcome;
use tollgate_abi::x86::control::{DR6_BD, DR6_BREAKPOINTS, DR6_BS, DR6_BUS_LOCK, DR6_RTM, DR7_GD};

use crate::exit::{
    Action, Backend, Event, EventKind, ExitFacts, GuestRegisters, GuestState, Interrupts, Quickly, State,
    VolatileRegisters, vector,
};
use crate::handlers::{delivery, mapped};
use crate::machine::Machine;

/// The bits of DR6 that the exit qualification of #DB carries (SDM 3C table 28-1). The qualification has bus lock and RTM as
/// well; these are clear in DR6 where they are set in the qualification.
const DR6_CAUSES: u64 = DR6_BREAKPOINTS | DR6_BD | DR6_BS;

/// An exception or NMI.
#[inline(never)]
pub fn exception<B: Backend>(backend: &mut B, machine: &mut Machine) -> Action {
    exception_now(backend, machine)
}

/// [`exception`] inlined, for its brief form.
#[inline(always)]
pub fn exception_now<B: Backend>(backend: &mut B, machine: &mut Machine) -> Action {
    if backend.takes_own_step() {
        return delivery::resume(backend, machine);
    }
    let Some(event) = backend.take_exit_event() else {
        return Action::Stop(Outcome::UnhandledExit);
    };
    // An NMI is the platform's, not the guest's: it is counted, and that is all. Or it is from another vCPU, which has ended the
    // guest.
    if event.kind == EventKind::Nmi {
        backend.take_nmi();
        if machine.shared.board.is_to_stop(machine.vcpu) {
            return Action::Stop(Outcome::StoppedByAnother);
        }
        return resume_delivery(backend);
    }
    if event.vector == vector::MC {
        return Action::Stop(Outcome::UnhandledExit);
    }
    match combine(backend.vectoring_event(), event) {
        Combined::Single => deliver(event, backend, machine),
        Combined::DoubleFault => Action::Inject(Event::fault(vector::DF, 0)),
        Combined::TripleFault => Action::Stop(Outcome::TripleFault),
    }
}

/// Hands an exception over, with the state that the processor would have set for it.
fn deliver<B: ExitFacts + GuestState + Interrupts>(event: Event, backend: &mut B, machine: &mut Machine) -> Action {
    delivery::wake(backend, machine);
    match event.vector {
        vector::PF => backend.set(State::Cr2, backend.qualification()),
        vector::DB => {
            // B0 to B3 and RTM are those of this #DB alone; the others stay until the guest resets them (SDM 3B 18.2.3).
            let kept = backend.get(State::Dr6) & !DR6_BREAKPOINTS | DR6_RTM;
            let causes = backend.qualification();
            backend.set(State::Dr6, (kept | causes & DR6_CAUSES) & !(causes & (DR6_BUS_LOCK | DR6_RTM)));
            backend.keep_single_step();
            backend.set(State::Dr7, backend.get(State::Dr7) & !DR7_GD);
        }
        _ => {}
    }
    Action::Inject(event)
}

/// The exception that two exceptions become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Combined {
    Single,
    DoubleFault,
    TripleFault,
}

#[inline(always)]
fn combine(first: Option<Event>, second: Event) -> Combined {
    let Some(first) = first.filter(|first| first.kind == EventKind::HardwareException) else {
        return Combined::Single;
    };
    let contributory = |vector| matches!(vector, vector::DE | vector::TS | vector::NP | vector::SS | vector::GP);
    match (first.vector, second.vector) {
        (vector::DF, second) if contributory(second) || second == vector::PF => Combined::TripleFault,
        (vector::PF, second) if contributory(second) || second == vector::PF => Combined::DoubleFault,
        (first, second) if contributory(first) && contributory(second) => Combined::DoubleFault,
        _ => Combined::Single,
    }
}

/// The first touch of a fresh page, while no event was being delivered.
#[inline(always)]
pub fn quick<B: ExitFacts + GuestState>(_: &mut VolatileRegisters, backend: &mut B, _: &mut Machine) -> Quickly {
    let gpa = backend.fault_gpa();
    (!backend.was_delivering() && backend.map_fresh_page(gpa)).into()
}

/// An EPT violation: the first touch of a fresh page, or an access outside the guest's memory, to a device or to none.
#[inline(never)]
pub fn physical_fault<B: Backend>(registers: &mut GuestRegisters, backend: &mut B, machine: &mut Machine) -> Action {
    let fault = backend.physical_fault();
    if backend.map_fresh_page(fault.gpa) {
        return resume_delivery(backend);
    }
    match machine.devices.pages.reach(fault.gpa) {
        Some(reached) => mapped::access(fault, reached, registers, backend, machine),
        None => Action::Stop(Outcome::OutsideMemory),
    }
}

/// Goes on where the guest was, and delivers the event again whose delivery the exit interrupted: its own stack or tables raised
/// the fault, or something from outside came in between.
#[inline(always)]
pub fn resume_delivery<B: ExitFacts>(backend: &B) -> Action {
    backend.vectoring_event().map_or(Action::Resume, Action::Inject)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::{GuestState, PhysicalFault};
    use crate::script::{Script, machine};

    #[test]
    fn exceptions_combine_as_the_manual_says() {
        let (gp, pf, df) = (Event::GENERAL_PROTECTION, Event::fault(vector::PF, 2), Event::fault(vector::DF, 0));
        let (db, ud, de) = (Event::exception(vector::DB), Event::UNDEFINED_OPCODE, Event::exception(vector::DE));
        let check = |first, second, expected| assert_eq!(combine(first, second), expected, "{first:?} then {second:?}");
        check(None, pf, Combined::Single);
        check(Some(Event::interrupt(32)), gp, Combined::Single);
        check(Some(ud), gp, Combined::Single);
        check(Some(gp), pf, Combined::Single);
        check(Some(gp), de, Combined::DoubleFault);
        check(Some(pf), pf, Combined::DoubleFault);
        check(Some(pf), gp, Combined::DoubleFault);
        check(Some(pf), db, Combined::Single);
        check(Some(df), pf, Combined::TripleFault);
        check(Some(df), gp, Combined::TripleFault);
        check(Some(df), ud, Combined::Single);
    }

    #[test]
    fn a_page_fault_goes_back_with_its_address() {
        let mut backend =
            Script { exit_event: Some(Event::fault(vector::PF, 2)), qualification: 0x1234, ..Script::default() };
        assert_eq!(exception(&mut backend, &mut machine()), Action::Inject(Event::fault(vector::PF, 2)));
        assert_eq!(backend.get(State::Cr2), 0x1234);
    }

    #[test]
    fn a_single_step_goes_back_with_its_cause() {
        let mut backend =
            Script { exit_event: Some(Event::exception(vector::DB)), qualification: 0x4000, ..Script::default() };
        let mut check = |before: u64, qualification: u64, after: u64| {
            backend.set(State::Dr6, before);
            backend.qualification = qualification;
            assert_eq!(exception(&mut backend, &mut machine()), Action::Inject(Event::exception(vector::DB)));
            assert_eq!(backend.get(State::Dr6), after, "{before:#x}, {qualification:#x}");
        };
        check(0xffff_0ff0, 0x4000, 0xffff_4ff0);
        check(0xffff_4fff, 2, 0xffff_4ff2);
        // A bus lock stays in DR6; a breakpoint in a transaction does not stay at the next #DB.
        check(0xffff_0ff0, 1 << 11, 0xffff_07f0);
        check(0xffff_07f0, 1, 0xffff_07f1);
        check(0xffff_0ff0, 1 << 16 | 1, 0xfffe_0ff1);
        check(0xfffe_0ff1, 2, 0xffff_0ff2);
    }

    #[test]
    fn an_exception_ends_a_halt() {
        let [mut halted, _] = crate::script::machines();
        halted.activity.halted = true;
        let mut backend = Script { exit_event: Some(Event::exception(vector::DB)), halts: 1, ..Script::default() };
        assert_eq!(exception(&mut backend, &mut halted), Action::Inject(Event::exception(vector::DB)));
        assert_eq!((halted.activity.halted, backend.halts), (false, 0));
    }

    #[test]
    fn fresh_pages_are_mapped_and_others_end_the_guest() {
        let fault = |gpa| PhysicalFault { gpa, read: false, write: true, fetch: false };
        let mut backend =
            Script { physical_fault: Some(fault(0x80_0000)), fresh: 0x80_0000..0x100_0000, ..Script::default() };
        assert_eq!(physical_fault(&mut GuestRegisters::default(), &mut backend, &mut machine()), Action::Resume);
        backend.vectoring_event = Some(Event::interrupt(32));
        assert_eq!(
            physical_fault(&mut GuestRegisters::default(), &mut backend, &mut machine()),
            Action::Inject(Event::interrupt(32))
        );
        backend.physical_fault = Some(fault(0x4000_0000));
        assert_eq!(
            physical_fault(&mut GuestRegisters::default(), &mut backend, &mut machine()),
            Action::Stop(Outcome::OutsideMemory)
        );
    }
}
