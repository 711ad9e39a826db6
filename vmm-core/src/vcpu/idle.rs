//! A vCPU that halts where idle time is skipped ([`Board::skip_idle_time`](crate::board::Board::skip_idle_time)): it may move the
//! guest's clock on, and takes over another's move at its next exit, before anything else.

use tollgate_abi::ExitReason;
use tollgate_abi::workload::Outcome;

use super::{Exit, Flow, Leave, Opened, Vcpu};
use crate::board::Condition;
use crate::exit::{Action, Backend, Pause};
use crate::handlers::{dispatch, idle};

impl<B: Backend> Vcpu<B> {
    /// A pause where idle time is skipped. `perform` does what is asked for, and may find that the guest is over.
    pub fn pause_and_skip(
        &mut self,
        pause: Pause,
        perform: impl FnOnce(&mut Self, Pause) -> Option<Outcome>,
    ) -> Option<Outcome> {
        let halts = pause == Pause::Halted;
        if halts {
            idle::fall_asleep(&mut self.machine);
        }
        let over = perform(self, pause);
        if halts && over.is_none() {
            idle::skip(&mut self.backend, &mut self.machine);
        }
        over
    }

    /// Moves the clock of a vCPU that starts on by what was skipped before.
    pub fn catch_up(&mut self) {
        idle::catch_up(&mut self.backend, &mut self.machine);
    }

    /// An exit that is counted, of a vCPU that had halted in idle time. If it halts on, it leaves for another look at that.
    #[cold]
    #[inline(never)]
    pub(super) fn exit_from_idle<E: Exit<B>>(&mut self, exit_tsc: u64, mut exit: E, Opened(raw): Opened) {
        self.machine.shared.board.set_condition(self.machine.vcpu, Condition::Running);
        let is_anothers_skip = idle::wake_up(&mut self.backend, &mut self.machine);
        let (account, registers) = exit.parts();
        let action = dispatch(raw, registers, &mut self.backend, &mut self.machine);
        let halts_on = self.machine.activity.halted && action == Action::Resume;
        if halts_on && is_anothers_skip && raw.basic() == ExitReason::EXTERNAL_INTERRUPT {
            self.machine.looks(ExitReason::EXTERNAL_INTERRUPT);
        }
        let mut flow = self.apply(action, exit_tsc);
        if halts_on {
            (self.leave, flow) = (Leave::Pause(Pause::Halted), Flow::Leave);
        }
        self.close(account, exit_tsc, raw);
        if flow == Flow::Leave {
            exit.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;

    use tollgate_abi::apic::{IA32_TSC_DEADLINE, LVT_TIMER, LVT_TSC_DEADLINE};
    use tollgate_abi::x86::msr::IA32_TSC_ADJUST;

    use crate::exit::{Event, GuestRegisters};
    use crate::handlers::msr;
    use crate::host::vectors::{KICK_VECTOR, TIMER_VECTOR};
    use crate::ledger::Ledger;
    use crate::machine::Machine;
    use crate::script::{Script, interruptible, machine, machines, wrmsr};

    const DEADLINE: u64 = 5_000_000_000;

    fn vcpu(machine: Machine) -> Vcpu<Script> {
        let mut vcpu = Vcpu::new(interruptible(), machine);
        vcpu.set_limit(100_000, 100_000);
        vcpu
    }

    /// Halts, with a timer of vector 0x31 or without one, at a TSC.
    fn halt(vcpu: &mut Vcpu<Script>, ledger: &Ledger, deadline: Option<u64>, tsc: u64) -> Option<Outcome> {
        vcpu.backend.tsc = tsc;
        let (backend, machine) = (&mut vcpu.backend, &mut vcpu.machine);
        let _ = wrmsr(backend, machine, LVT_TIMER, u64::from(0x31 | LVT_TSC_DEADLINE));
        let _ = wrmsr(backend, machine, IA32_TSC_DEADLINE, deadline.unwrap_or(0));
        assert_eq!(exit(vcpu, ledger, ExitReason::HLT, 0), Flow::Leave);
        assert_eq!(vcpu.leave, Leave::Pause(Pause::Halted));
        pause(vcpu)
    }

    fn pause(vcpu: &mut Vcpu<Script>) -> Option<Outcome> {
        vcpu.pause_and_skip(Pause::Halted, crate::session::pause_anywhere)
    }

    fn exit(vcpu: &mut Vcpu<Script>, ledger: &Ledger, reason: ExitReason, vector: u8) -> Flow {
        vcpu.backend.reason = reason.0.into();
        vcpu.backend.exit_event = Some(Event::interrupt(vector));
        vcpu.drive(ledger, &mut GuestRegisters::default(), vcpu.backend.tsc)
    }

    fn tsc_adjust(vcpu: &Vcpu<Script>) -> u64 {
        let mut registers = GuestRegisters { rcx: IA32_TSC_ADJUST.into(), ..Default::default() };
        assert_eq!(msr::read(&mut registers, &vcpu.backend, &vcpu.machine), Action::Advance);
        registers.rdx << 32 | registers.rax
    }

    #[test]
    fn alone_it_has_its_timer_fire_at_once_and_its_clock_tells_the_time() {
        let ledger = Ledger::new();
        let mut vcpu = vcpu(machine());
        let adjust = GuestRegisters { rcx: IA32_TSC_ADJUST.into(), rax: 7, ..Default::default() };
        assert_eq!(msr::write(&adjust, &mut vcpu.backend, &mut vcpu.machine), Action::Advance);
        assert_eq!(halt(&mut vcpu, &ledger, Some(DEADLINE), 1000), None);
        assert_eq!(vcpu.backend.timer, Some(1000), "the processor's timer fires now");
        assert_eq!(vcpu.backend.guest_tsc(), DEADLINE);
        assert_eq!((tsc_adjust(&vcpu), vcpu.machine.shared.board.skipped_on(0)), (7, DEADLINE - 1007));
        vcpu.backend.tsc = 1100;
        assert_eq!(exit(&mut vcpu, &ledger, ExitReason::EXTERNAL_INTERRUPT, TIMER_VECTOR), Flow::Resume);
        assert_eq!(vcpu.backend.injected, [Event::interrupt(0x31)]);
        assert_eq!((ledger.looks(), vcpu.machine.bounds.limit_tsc), (0, 100_000));
        assert_eq!(msr::write(&adjust, &mut vcpu.backend, &mut vcpu.machine), Action::Advance);
        assert_eq!(
            (vcpu.backend.guest_tsc(), tsc_adjust(&vcpu)),
            (DEADLINE + 100, 7),
            "who writes it back moves nothing"
        );
    }

    #[test]
    fn without_a_timer_the_guest_is_over_and_past_the_limit_it_ends() {
        let ledger = Ledger::new();
        let [mut first, second] = machines().map(vcpu);
        assert_eq!(halt(&mut first, &ledger, None, 1000), Some(Outcome::HaltedForEver));
        drop(second);
        let mut late = vcpu(machine());
        assert_eq!(halt(&mut late, &ledger, Some(2000), 1000), None, "too near to be skipped");
        assert_eq!(late.machine.shared.board.skipped_ticks(), 0);
        late.backend.tsc = 100_000;
        assert_eq!(exit(&mut late, &ledger, ExitReason::EXTERNAL_INTERRUPT, TIMER_VECTOR), Flow::Leave);
        assert_eq!(late.leave, Leave::Stop(Outcome::LimitReached));
    }

    #[test]
    fn the_last_to_halt_moves_every_clock_and_tells_those_with_a_timer() {
        let ledgers: [&'static Ledger; 3] = [(); 3].map(|()| &*Box::leak(Box::new(Ledger::new())));
        let mut vcpus = machines::<3>().map(vcpu);
        let board = vcpus[0].machine.shared.board;
        for (at, vcpu) in vcpus.iter_mut().enumerate() {
            vcpu.machine.shared.ledgers = Box::leak(Box::new(ledgers));
            board.set_condition(at, Condition::Running);
        }
        let [first, second, third] = &mut vcpus;
        assert_eq!(halt(first, ledgers[0], Some(DEADLINE), 1000), None);
        assert_eq!(halt(second, ledgers[1], Some(DEADLINE + 1_000_000), 1000), None);
        assert_eq!((board.skipped_ticks(), first.backend.kicks.len()), (0, 0));
        assert_eq!(halt(third, ledgers[2], None, 2000), None);
        assert_eq!((board.skipped_ticks(), &third.backend.kicks[..]), (DEADLINE - 2000, &[0, 1][..]));
        assert_eq!(third.backend.guest_tsc(), DEADLINE);
        (first.backend.tsc, second.backend.tsc) = (2100, 2100);
        let kick = KICK_VECTOR + 2;
        assert_eq!(exit(first, ledgers[0], ExitReason::EXTERNAL_INTERRUPT, kick), Flow::Resume);
        assert_eq!((&first.backend.injected[..], first.backend.timer), (&[Event::interrupt(0x31)][..], None));
        assert_eq!(exit(second, ledgers[1], ExitReason::EXTERNAL_INTERRUPT, kick), Flow::Leave);
        assert_eq!(second.leave, Leave::Pause(Pause::Halted), "it halts on, and looks at the others again");
        assert_eq!((second.backend.guest_tsc(), second.backend.timer), (DEADLINE + 100, Some(1_002_000)));
        assert_eq!(ledgers.map(Ledger::looks), [0, 1, 0], "the second was told for nothing");
        assert_eq!((pause(second), board.skipped_ticks()), (None, DEADLINE - 2000), "the first runs");
        assert_eq!(halt(first, ledgers[0], None, 3000), None);
        assert_eq!((board.skipped_ticks(), &first.backend.kicks[..]), (DEADLINE + 1_000_000 - 3000, &[1][..]));
        third.backend.tsc = 3100;
        assert!(board.send(0, 2, crate::board::Message::Interrupt(0x40)));
        assert_eq!(exit(third, ledgers[2], ExitReason::EXTERNAL_INTERRUPT, KICK_VECTOR), Flow::Resume);
        assert_eq!(third.backend.guest_tsc(), DEADLINE + 1_000_100, "who had no timer catches up when it wakes");
    }
}
