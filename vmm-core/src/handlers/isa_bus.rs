//! Interrupts of the ISA bus' interrupt controllers and of its timer. They are vCPU 0's: its processor's timer fires for the interval
//! timer's, too, and it takes the controllers' interrupts where its APIC lets them through (SDM 3A 12.5.1, ExtINT).

use tollgate_abi::x86::msr::APIC_BASE_ENABLED;

use crate::board::Message;
use crate::exit::{Backend, Event};
use crate::handlers::ipi::{send_mapped, tell};
use crate::handlers::timer::arm;
use crate::machine::Machine;

/// Sees to it that vCPU 0 learns of a change at the bus. True if an interrupt of its controllers waits for this vCPU.
#[cold]
#[inline(never)]
pub(super) fn changed<B: Backend>(backend: &mut B, machine: &mut Machine) -> bool {
    if machine.vcpu == 0 {
        look(backend, machine);
        return machine.activity.beside_apic.has_pic();
    }
    let devices = machine.shared.devices;
    if devices.isa_bus.pics.is_up() || devices.is_armed_for_another_time() {
        tell(0, Message::IsaBus, backend, machine);
    }
    false
}

/// Looks at the bus, on vCPU 0: at the timer, the lines and the controllers' output.
pub(super) fn look<B: Backend>(backend: &mut B, machine: &mut Machine) {
    let devices = machine.shared.devices;
    devices.isa_bus.advance(machine.time(backend.tsc()));
    while let Some(command) = devices.next_interrupt() {
        send_mapped(command, backend, machine);
    }
    machine.activity.beside_apic.set_pic(devices.isa_bus.pics.is_up());
    devices.note_deadline();
    if backend.set_bound(machine.bus_deadline_tsc()) {
        arm(backend, machine);
    }
}

/// Looks at the bus after an interrupt of the processor's timer. True if the interval timer's was due.
#[cold]
#[inline(never)]
pub(super) fn fired<B: Backend>(backend: &mut B, machine: &mut Machine) -> bool {
    let Some(deadline_tsc) = machine.bus_deadline_tsc() else { return false };
    let is_due = deadline_tsc <= backend.tsc();
    look(backend, machine);
    is_due
}

/// Whether an interrupt of the controllers reaches this vCPU: its APIC lets it through, or is off.
pub(super) fn interrupts(machine: &Machine) -> bool {
    let is_off = machine.devices.msrs.apic_base() & APIC_BASE_ENABLED == 0;
    machine.activity.beside_apic.has_pic() && (is_off || machine.devices.apic.takes_external())
}

/// Takes the interrupt of the controllers.
pub(super) fn acknowledge<B: Backend>(backend: &mut B, machine: &mut Machine) -> Option<Event> {
    let vector = machine.shared.devices.isa_bus.pics.acknowledge();
    look(backend, machine);
    vector.map(Event::interrupt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;

    use tollgate_abi::ExitReason;
    use tollgate_abi::apic::*;
    use tollgate_abi::machine::LEGACY_PC;
    use tollgate_abi::machine::legacy_pc::{
        DEBUG_EXIT_PORT, KEYBOARD_COMMAND_PORT, PIC_PORTS, PM_TIMER_PORT, SHUTDOWN, SHUTDOWN_PORT, TEST_LINES_PORT,
        TIMER_PORT,
    };
    use tollgate_abi::machine::pc::{IO_APIC_GPA, SERIAL_PORT};
    use tollgate_abi::workload::Outcome;
    use tollgate_abi::x86::control::RFLAGS_IF;

    use crate::board::Condition;
    use crate::devices::SharedDevices;
    use crate::devices::constant_msrs::ConstantMsrs;
    use crate::devices::pages::Pages;
    use crate::devices::ports::Ports;
    use crate::exit::{Action, GuestRegisters, GuestState, IoAccess, RawReason, State};
    use crate::handlers::interrupt::external_interrupt;
    use crate::handlers::{dispatch, idle, ipi, mapped};
    use crate::host::vectors::{KICK_VECTOR, TIMER_VECTOR, WATCHDOG_VECTOR};
    use crate::ledger::{Account, Ledger};
    use crate::script::{Script, interruptible, machines, wrmsr};

    type Vcpu = (Script, Machine);

    /// vCPUs of the PC with an ISA bus, all of which run. vCPU 0's LINT0 is as firmware leaves it.
    fn pcs<const VCPUS: usize>() -> [Vcpu; VCPUS] {
        let devices: &'static SharedDevices = Box::leak(Box::default());
        devices.begin(&LEGACY_PC, None);
        machines::<VCPUS>().map(|mut machine| {
            machine.shared.devices = devices;
            machine.devices.ports = Ports::new(&LEGACY_PC, devices);
            machine.devices.pages = Pages::new(&LEGACY_PC);
            machine.devices.msrs = ConstantMsrs::new(&LEGACY_PC, APIC_BASE);
            machine.shared.board.set_condition(machine.vcpu, Condition::Running);
            if machine.vcpu == 0 {
                machine.devices.apic.let_external_through();
            }
            (interruptible(), machine)
        })
    }

    fn io((backend, machine): &mut Vcpu, port: u16, bytes: u8, is_in: bool, value: u32) -> (Action, u32) {
        backend.io = Some(IoAccess { port, bytes, is_in, is_string: false, is_repeated: false });
        let mut registers = GuestRegisters { rax: value.into(), ..Default::default() };
        let action = dispatch(RawReason(ExitReason::IO_INSTRUCTION.0.into()), &mut registers, backend, machine);
        (action, registers.rax as u32)
    }

    fn out(vcpu: &mut Vcpu, port: u16, value: u8) -> Action {
        io(vcpu, port, 1, false, value.into()).0
    }

    fn read(vcpu: &mut Vcpu, port: u16) -> u8 {
        let (action, value) = io(vcpu, port, 1, true, 0);
        assert_eq!(action, Action::Advance);
        value as u8
    }

    /// Sets the controllers up with vectors from 0x20 on, and masks all but these of the first eight inputs.
    fn set_up(vcpu: &mut Vcpu, enabled: u8) -> Action {
        for (port, words) in PIC_PORTS.into_iter().zip([[0x11, 0x20, 4, 1], [0x11, 0x28, 2, 1]]) {
            for (at, word) in words.into_iter().enumerate() {
                assert_eq!(out(vcpu, port + u16::from(at > 0), word), Action::Advance);
            }
            assert_eq!(out(vcpu, port + 1, 0xff), Action::Advance);
        }
        out(vcpu, PIC_PORTS[0] + 1, !enabled)
    }

    /// Has counter 0 interrupt every 11,932 ticks, 10 ms, by mode 2.
    fn start_timer(vcpu: &mut Vcpu) -> Action {
        for (port, value) in [(TIMER_PORT + 3, 0x34), (TIMER_PORT, 0x9c)] {
            assert_eq!(out(vcpu, port, value), Action::Advance);
        }
        out(vcpu, TIMER_PORT, 0x2e)
    }

    /// The TSC at which the interval timer, started at 0, interrupts for the n-th time: ticks of its own later.
    fn nth(n: u64) -> u64 {
        ((1 + n * 11_932) * 1_000_000_000).div_ceil(1_193_182)
    }

    fn interrupt((backend, machine): &mut Vcpu, vector: u8, tsc: u64) -> Action {
        (backend.tsc, backend.exit_event) = (tsc, Some(Event::interrupt(vector)));
        external_interrupt(backend, machine)
    }

    const END: u8 = 0x20;
    const TIMER: Event = Event::interrupt(0x20);

    #[test]
    fn the_timer_interrupts_through_the_controllers_again_and_again() {
        let [mut first] = pcs();
        assert_eq!(set_up(&mut first, 1), Action::Advance);
        assert_eq!(start_timer(&mut first), Action::Advance);
        assert_eq!((first.0.bound, first.0.timer), (Some(nth(1)), None));
        for n in 1..4 {
            assert_eq!(interrupt(&mut first, TIMER_VECTOR, nth(n) - 1), Action::Resume, "early");
            assert_eq!(interrupt(&mut first, TIMER_VECTOR, nth(n)), Action::Inject(TIMER));
            assert_eq!(first.0.bound, Some(nth(n + 1)), "it is awaited again once it is acknowledged");
            assert_eq!((out(&mut first, PIC_PORTS[0], END), first.0.window), (Action::Advance, false));
        }
        let apic = &first.1.devices.apic;
        assert_eq!((apic.requested(), apic.in_service()), (0, 0), "it is none of the APIC's");
        assert_eq!(out(&mut first, PIC_PORTS[0] + 1, 0xff), Action::Advance);
        assert_eq!(first.0.bound, None, "nobody listens");
    }

    #[test]
    fn with_interrupts_off_it_waits_for_the_window_and_fires_no_more() {
        let [mut first] = pcs();
        let _ = (set_up(&mut first, 1), start_timer(&mut first));
        first.0.set(State::Rflags, 0);
        assert_eq!(interrupt(&mut first, TIMER_VECTOR, nth(1)), Action::Resume);
        assert_eq!((first.0.window, first.0.bound), (true, None));
        assert_eq!(read(&mut first, PIC_PORTS[0]), 1, "the request shows");
        first.0.set(State::Rflags, RFLAGS_IF);
        let window = RawReason(ExitReason::INTERRUPT_WINDOW.0.into());
        let action = dispatch(window, &mut GuestRegisters::default(), &mut first.0, &mut first.1);
        assert_eq!((action, first.0.window, first.0.bound), (Action::Inject(TIMER), false, Some(nth(2))));
    }

    #[test]
    fn a_request_is_seen_before_the_processors_timer_fires() {
        let [mut first] = pcs();
        let _ = (set_up(&mut first, 0), start_timer(&mut first));
        first.0.tsc = nth(1) - 1;
        assert_eq!(read(&mut first, PIC_PORTS[0]), 0);
        first.0.tsc = nth(1);
        assert_eq!(read(&mut first, PIC_PORTS[0]), 1);
        assert_eq!(
            out(&mut first, PIC_PORTS[0] + 1, 0xfe),
            Action::AdvanceAndInject(TIMER),
            "it waited behind the mask"
        );
    }

    #[test]
    fn the_apic_lets_it_through_or_does_not() {
        let [mut first] = pcs();
        let _ = (set_up(&mut first, 1), start_timer(&mut first));
        let lint0 = |vcpu: &mut Vcpu, value| wrmsr(&mut vcpu.0, &mut vcpu.1, LVT_LINT0, value);
        assert_eq!(lint0(&mut first, 0x1_0700), Action::Advance);
        assert_eq!((interrupt(&mut first, TIMER_VECTOR, nth(1)), first.0.window), (Action::Resume, false));
        assert_eq!(lint0(&mut first, 0), Action::Advance, "fixed, and not of the controllers");
        assert_eq!(lint0(&mut first, DELIVERY_EXTERNAL), Action::AdvanceAndInject(TIMER));
        assert_eq!(out(&mut first, PIC_PORTS[0], END), Action::Advance);
        // Disabled by software, the APIC masks its entries.
        assert_eq!(wrmsr(&mut first.0, &mut first.1, SVR, 0xff), Action::Advance);
        assert_eq!(interrupt(&mut first, TIMER_VECTOR, nth(2)), Action::Resume);
        let off = APIC_BASE & !(APIC_BASE_ENABLED | 1 << 10);
        assert_eq!(
            mapped::set_apic_base(off, &mut first.0, &mut first.1),
            Action::AdvanceAndInject(TIMER),
            "it is off"
        );
    }

    #[test]
    fn the_controllers_come_before_the_apic_and_know_no_priority_of_its() {
        let [mut first] = pcs();
        let _ = (set_up(&mut first, 1), start_timer(&mut first));
        first.1.devices.apic.set_cr8(15);
        first.1.devices.apic.request(0x40);
        assert_eq!(interrupt(&mut first, TIMER_VECTOR, nth(1)), Action::Inject(TIMER));
        first.1.devices.apic.set_cr8(0);
        first.1.activity.beside_apic.set_nmi(true);
        first.0.tsc = nth(2);
        assert_eq!(out(&mut first, PIC_PORTS[0], END), Action::AdvanceAndInject(Event::NMI));
        assert!(first.0.window, "two more wait");
        assert_eq!(interrupt(&mut first, TIMER_VECTOR, nth(2)), Action::Inject(TIMER));
        assert_eq!((out(&mut first, PIC_PORTS[0], END), first.0.window), (Action::Advance, true));
        let window = RawReason(ExitReason::INTERRUPT_WINDOW.0.into());
        let action = dispatch(window, &mut GuestRegisters::default(), &mut first.0, &mut first.1);
        assert_eq!((action, first.0.window), (Action::Inject(Event::interrupt(0x40)), false));
    }

    #[test]
    fn an_event_that_was_under_way_comes_first() {
        let [mut first] = pcs();
        let _ = (set_up(&mut first, 1), start_timer(&mut first));
        first.0.vectoring_event = Some(Event::UNDEFINED_OPCODE);
        assert_eq!(interrupt(&mut first, TIMER_VECTOR, nth(1)), Action::Inject(Event::UNDEFINED_OPCODE));
        assert!(first.0.window);
    }

    #[test]
    fn the_timer_wakes_a_vcpu_that_halts_by_itself_and_with_others() {
        fn halt((backend, machine): &mut Vcpu) -> Action {
            dispatch(RawReason(ExitReason::HLT.0.into()), &mut GuestRegisters::default(), backend, machine)
        }
        let [mut alone] = pcs();
        assert_eq!(halt(&mut alone), Action::Stop(Outcome::HaltedForEver), "the timer runs, and is masked");
        let _ = (set_up(&mut alone, 1), start_timer(&mut alone));
        assert!(matches!(halt(&mut alone), Action::AdvanceAndPause(_)));
        let [mut first, second] = pcs();
        let _ = (set_up(&mut first, 1), start_timer(&mut first));
        assert!(!second.1.shared.board.rest(1, Condition::Halted));
        assert!(matches!(halt(&mut first), Action::AdvanceAndPause(_)));
        assert!(!ipi::rest(&mut first.0, &first.1), "the timer is to come");
        assert_eq!(interrupt(&mut first, TIMER_VECTOR, nth(1)), Action::Inject(TIMER));
        assert!(!first.1.activity.halted);
    }

    #[test]
    fn the_watchdogs_interrupt_may_come_for_the_timer() {
        let ledger: &'static Ledger = Box::leak(Box::new(Ledger::new()));
        let [mut first] = pcs();
        first.1.shared.ledgers = Box::leak(Box::new([ledger]));
        let _ = (set_up(&mut first, 1), start_timer(&mut first));
        first.0.watchdog_is_due = true;
        let open = ledger.open(ExitReason::EXTERNAL_INTERRUPT);
        assert_eq!(interrupt(&mut first, WATCHDOG_VECTOR, nth(1)), Action::Inject(TIMER));
        assert_eq!((ledger.looks(), first.0.watchdog_starts, first.0.ended_interrupts), (0, 0, 1));
        assert_eq!(interrupt(&mut first, WATCHDOG_VECTOR, nth(1) + 1), Action::Stop(Outcome::NoExits));
        ledger.close(open, 0, || 50);
    }

    #[test]
    fn idle_time_is_skipped_until_the_timer() {
        let [mut first] = pcs();
        let _ = (set_up(&mut first, 1), start_timer(&mut first));
        let (backend, machine) = (&mut first.0, &mut first.1);
        idle::fall_asleep(machine);
        assert!(!ipi::rest(backend, machine));
        backend.tsc = 1000;
        idle::skip(backend, machine);
        assert_eq!((machine.time(backend.tsc), backend.bound), (nth(1), Some(1000)), "it fires at once");
        machine.shared.board.set_condition(0, Condition::Running);
        assert_eq!(interrupt(&mut first, TIMER_VECTOR, 1000), Action::Inject(TIMER));
        assert_eq!(first.0.bound, Some(nth(2) - (nth(1) - 1000)));
        assert_eq!(io(&mut first, PM_TIMER_PORT, 4, true, 0).1, (nth(1) * 3_579_545 / 1_000_000_000) as u32);
    }

    #[test]
    fn another_vcpu_tells_the_first_of_the_timer_and_of_lines() {
        let [mut first, mut second] = pcs();
        assert_eq!(set_up(&mut first, 0b1_0001), Action::Advance);
        assert_eq!((start_timer(&mut second), second.0.kicks.last()), (Action::Advance, Some(&0)));
        assert_eq!((second.0.bound, second.0.timer), (None, None));
        second.0.kicks.clear();
        assert_eq!(interrupt(&mut first, KICK_VECTOR + 1, 5), Action::Resume);
        assert_eq!(first.0.bound, Some(nth(1)));
        let _ = out(&mut second, SERIAL_PORT + 4, 8);
        assert_eq!((out(&mut second, SERIAL_PORT + 1, 2), second.0.kicks.len()), (Action::Advance, 1));
        assert_eq!(interrupt(&mut first, KICK_VECTOR + 1, 6), Action::Inject(Event::interrupt(0x24)));
        assert_eq!(out(&mut second, PIC_PORTS[0], END), Action::Advance, "an odd place to end it");
        assert_eq!(second.0.kicks.len(), 1, "nothing waits for the first");
    }

    #[test]
    fn the_timer_and_lines_of_tests_interrupt_through_the_ioapic() {
        let [mut first] = pcs();
        for (input, entry) in [(2, 0x41), (14, 0x42), (23, LEVEL as u32 | 0x43)] {
            for (offset, value) in [(0, 0x10 + 2 * input), (0x10, entry)] {
                first.1.shared.devices.io_apic.write(offset, value);
            }
        }
        let end = |vcpu: &mut Vcpu| wrmsr(&mut vcpu.0, &mut vcpu.1, EOI, 0);
        let interrupts = |vector| Action::AdvanceAndInject(Event::interrupt(vector));
        let _ = start_timer(&mut first);
        assert_eq!(first.0.bound, Some(nth(1)));
        assert_eq!(interrupt(&mut first, TIMER_VECTOR, nth(1)), Action::Inject(Event::interrupt(0x41)));
        assert_eq!((end(&mut first), first.0.bound), (Action::Advance, Some(nth(2))));
        assert_eq!(out(&mut first, TEST_LINES_PORT + 14, 1), interrupts(0x42));
        assert_eq!((out(&mut first, TEST_LINES_PORT + 14, 1), end(&mut first)), (Action::Advance, Action::Advance));
        assert_eq!(out(&mut first, TEST_LINES_PORT + 14, 0), Action::Advance);
        assert_eq!((out(&mut first, TEST_LINES_PORT + 14, 1), end(&mut first)), (interrupts(0x42), Action::Advance));
        assert_eq!((out(&mut first, TEST_LINES_PORT + 23, 1), end(&mut first)), (interrupts(0x43), interrupts(0x43)));
        assert_eq!((out(&mut first, TEST_LINES_PORT + 23, 0), end(&mut first)), (Action::Advance, Action::Advance));
        assert_eq!(first.1.devices.pages.reach(IO_APIC_GPA).map(|(_, at)| at), Some(0));
    }

    #[test]
    fn a_guest_ends_in_each_of_the_usual_ways() {
        let [mut first] = pcs();
        let end = |vcpu: &mut Vcpu, bytes, value| io(vcpu, DEBUG_EXIT_PORT, bytes, false, value).0;
        for (bytes, code) in [(1, 0xef), (4, 0xdead_beef)] {
            assert_eq!(end(&mut first, bytes, 0xdead_beef), Action::Stop(Outcome::DebugExit));
            assert_eq!(first.1.stage.exit.map(|exit| exit.status), Some(code));
        }
        let (last, letters) = SHUTDOWN.split_last().unwrap();
        letters.iter().for_each(|&letter| assert_eq!(out(&mut first, SHUTDOWN_PORT, letter), Action::Advance));
        assert_eq!(out(&mut first, SHUTDOWN_PORT, *last), Action::Stop(Outcome::PoweredOff));
        assert_eq!(out(&mut first, KEYBOARD_COMMAND_PORT, 0xfe), Action::Stop(Outcome::Reset));
    }
}
