//! The spine: the course of every exit, and of the time between two stretches of guest execution.
//!
//! `Vcpu::exit` is the life of one exit, from the stub's call to its return. It reads downwards: each step either ends the exit
//! or hands the rest of it to the next. The steps after the first are functions of their own, to be jumped to, so that the
//! frequent exits need no stack frame.

use tollgate_abi::ExitReason;
use tollgate_abi::profile::Profile;
use tollgate_abi::quick::Condition;
use tollgate_abi::workload::Outcome;

use crate::ended::End;
use crate::exit::{
    Action, Backend, Event, ExitNumber, GuestRegisters, Pause, Quickly, RawReason, State, VolatileRegisters,
};
use crate::handlers::{control_regs, delivery, dispatch, limit};
use crate::keys::key_of;
use crate::ledger::{Account, Book};
use crate::machine::Machine;
use crate::recording::Witness;

mod arms;
#[cfg(test)]
mod driven;
mod idle;
mod scenario;
mod start_up;

use self::arms::{Arms, BriefForm, Form};

/// One virtual processor with its machine. Its account lies elsewhere, since others read it, and comes with each exit.
#[derive(Debug)]
pub struct Vcpu<B> {
    /// The virtualization extension.
    pub backend: B,
    /// The guest's surroundings.
    pub machine: Machine,
    leave: Leave,
    /// The action of a brief form that needs all of the guest's registers saved.
    decided: Action,
    last_exit_tsc: u64,
    /// It has been started by a start-up IPI before. The next one comes after INIT, which leaves more state than power-up does.
    has_started: bool,
}

/// The reason that the guest is not running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// There is work to do outside the account.
    Pause(Pause),
    /// The guest is over.
    Stop(Outcome),
}

/// An exit as its stub hands it over: the account that it goes to, the guest's registers, and the ways on.
pub(crate) trait Exit<B>: Sized {
    /// The kind of account.
    type Account: Account;
    /// The account, and the guest's registers as far as every stub saves them.
    fn quick_parts(&mut self) -> (&Self::Account, &mut VolatileRegisters);
    /// The account and all of the guest's registers, once they are saved: in the steps after the first.
    fn parts(&mut self) -> (&Self::Account, &mut GuestRegisters);
    /// Resumes the guest, with another value in RBX.
    fn resume_with_rbx(self, rbx: u64);
    /// Saves the registers that the stub has left in the processor, and calls [`Vcpu::exit_for_rare_reason`].
    fn go_on(self, vcpu: &mut Vcpu<B>, exit_tsc: u64, number: ExitNumber);
    /// Saves them, and calls [`Vcpu::exit_opened`] for an exit that is counted for `REASON`.
    fn go_on_opened<const REASON: u32>(self, vcpu: &mut Vcpu<B>, exit_tsc: u64);
    /// Saves them, and calls [`Vcpu::exit_with_registers`].
    fn go_on_with_registers(self, vcpu: &mut Vcpu<B>, exit_tsc: u64);
    /// Saves them, and calls [`Vcpu::exit_decided`] for an exit that is counted for `REASON`.
    fn go_on_decided<const REASON: u32>(self, vcpu: &mut Vcpu<B>, exit_tsc: u64);
    /// Leaves the guest, instead of going back to the stub, which would resume it.
    fn leave(self);
}

/// An exit that has been counted and not yet decided: the ticket for deciding it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Opened(RawReason);

impl<B: Backend> Vcpu<B> {
    /// One exit, from the time stamp `exit_tsc` that the stub took to the return to it, and so to the next entry; or out of
    /// the guest, by [`Exit::leave`].
    ///
    /// Step 1, the frequent reasons: counts the exit, and decides and closes it if it is an ordinary one. That needs no stack
    /// frame, and finds the ledger row without computing it.
    #[inline(always)]
    pub(crate) fn exit<E: Exit<B>>(&mut self, exit_tsc: u64, mut exit: E) {
        let account = exit.quick_parts().0;
        self.witness(account);
        let takes_quick_forms = account.takes_quick_forms();
        // The whole field, so that an entry failure, with its bit 31, is not taken for the reason in the low bits.
        let number = self.backend.number();
        if !takes_quick_forms {
            return exit.go_on(self, exit_tsc, number);
        }
        match (Arms::<E, B>::FIRST.get(number.0 as usize), B::NUMBERS.far) {
            (Some(arm), _) => arm(exit, self, exit_tsc, number),
            (None, Some((far, reason))) if number.0 == far => Arms::<E, B>::of(reason)(exit, self, exit_tsc, number),
            _ => exit.go_on(self, exit_tsc, number),
        }
    }

    /// [`Vcpu::exit`] while the quick forms can't be used: they take IA-32e mode for granted, and that the processor tells the
    /// next RIP.
    #[inline(always)]
    pub(crate) fn exit_without_quick_forms<E: Exit<B>>(&mut self, exit_tsc: u64, mut exit: E) {
        self.witness(exit.quick_parts().0);
        let number = self.backend.number();
        exit.go_on(self, exit_tsc, number);
    }

    /// Opens an exit for `REASON`, and closes it if the form can deal with all of it. The reason is a constant, so that its
    /// ledger row, `ROW`, is one, too.
    #[inline(always)]
    fn decide<E: Exit<B>, F: Form<B>, const REASON: u32, const ROW: usize>(
        &mut self,
        exit_tsc: u64,
        mut exit: E,
        number: ExitNumber,
    ) {
        let (reason, backend) = (ExitReason(REASON as u16), &self.backend);
        if !backend.confirms(reason) {
            return match const { Arms::<E, B>::otherwise(ExitReason(REASON as u16)) } {
                Some(arm) => arm(exit, self, exit_tsc, number),
                None => exit.go_on(self, exit_tsc, number),
            };
        }
        let (account, registers) = exit.quick_parts();
        let key = || key_of(reason, backend.rax(registers), registers.rcx, backend);
        account.expect_quick(reason, key, || backend.tsc());
        let _counted = account.open(reason);
        match self.close_quickly::<E::Account, F, ROW>(account, registers, exit_tsc) {
            Quickly::NotDecided => match const { Arms::<E, B>::step(ExitReason(REASON as u16)) } {
                Some(step) => step(exit, self, exit_tsc),
                None => exit.go_on_opened::<REASON>(self, exit_tsc),
            },
            Quickly::LacksRegister => exit.go_on_with_registers(self, exit_tsc),
            Quickly::Decided => {}
            Quickly::DecidedWithRbx(rbx) => exit.resume_with_rbx(rbx),
        }
    }

    /// Closes an exit that is open if the form can deal with all of it.
    #[inline(always)]
    fn close_quickly<A: Account, F: Form<B>, const ROW: usize>(
        &mut self,
        account: &A,
        registers: &mut VolatileRegisters,
        exit_tsc: u64,
    ) -> Quickly {
        if F::CONDITION == Condition::EndsPlainly && !self.backend.ends_plainly() {
            return Quickly::NotDecided;
        }
        let decided = F::decide(registers, &mut self.backend, &mut self.machine);
        if matches!(decided, Quickly::NotDecided | Quickly::LacksRegister) {
            return decided;
        }
        if F::CONDITION.ends_instruction() {
            self.backend.quick_step_over();
        }
        let backend = &self.backend;
        account.close_row::<ROW>(exit_tsc, || backend.tsc());
        decided
    }

    /// Step 2, of an exit that is counted for `REASON`: decides and closes it without the registers that the stub leaves in the
    /// processor, if its form can.
    #[inline(always)]
    fn decide_briefly<E: Exit<B>, F: BriefForm<B>, const REASON: u32, const ROW: usize>(
        &mut self,
        exit_tsc: u64,
        mut exit: E,
    ) {
        if self.is_last_exit::<E::Account>(exit_tsc) {
            return exit.go_on_opened::<REASON>(self, exit_tsc);
        }
        let (account, registers) = exit.quick_parts();
        match F::decide(registers, &mut self.backend, &mut self.machine) {
            Some(Action::Advance) if self.backend.ends_plainly() => self.backend.quick_step_over(),
            Some(Action::Resume) => {}
            Some(Action::Inject(event)) => self.inject(event),
            Some(Action::AdvanceAndInject(event)) => {
                self.backend.advance();
                self.inject(event);
            }
            Some(action) => {
                self.decided = action;
                return exit.go_on_decided::<REASON>(self, exit_tsc);
            }
            None => return exit.go_on_opened::<REASON>(self, exit_tsc),
        }
        let backend = &self.backend;
        account.close_row::<ROW>(exit_tsc, || backend.tsc());
    }

    #[inline(never)]
    fn inject(&mut self, event: Event) {
        self.backend.inject(event);
    }

    /// Step 2 of a MOV to CR0 that is counted, and for which only a register was lacking.
    #[inline(always)]
    pub(crate) fn exit_with_registers<E: Exit<B>>(&mut self, exit_tsc: u64, mut exit: E) {
        const CR_ACCESS: ExitReason = ExitReason::CR_ACCESS;
        const ROW: usize = CR_ACCESS.0 as usize;
        let (account, registers) = exit.parts();
        if !control_regs::quick_of_any(registers, &mut self.backend) {
            return self.exit_opened(exit_tsc, exit, Opened(RawReason(CR_ACCESS.0.into())));
        }
        self.backend.quick_step_over();
        let backend = &self.backend;
        account.close_row::<ROW>(exit_tsc, || backend.tsc());
    }

    /// Step 3, of an exit for a rare reason: counts it.
    #[inline(always)]
    pub(crate) fn exit_for_rare_reason<E: Exit<B>>(&mut self, exit_tsc: u64, mut exit: E, number: ExitNumber) {
        let raw = match self.backend.common_reason(number) {
            Some(raw) => raw,
            None => self.backend.uncommon_reason(number),
        };
        let (account, registers) = exit.parts();
        let opened = self.open(account, registers, raw);
        self.exit_opened(exit_tsc, exit, opened);
    }

    /// Takes note of the exit that is opened next, if exits are recorded.
    #[inline(always)]
    fn witness(&self, account: &impl Account) {
        let backend = &self.backend;
        let what = || Witness { rip: backend.get(State::Rip), qualification: backend.qualification() };
        account.witness(what, || backend.tsc());
    }

    /// Opens an exit for any reason.
    #[inline(always)]
    fn open(&self, account: &impl Account, registers: &GuestRegisters, raw: RawReason) -> Opened {
        let backend = &self.backend;
        account.expect(raw.basic(), || key_of(raw.basic(), registers.rax, registers.rcx, backend), || backend.tsc());
        let _counted = account.open(raw.basic());
        Opened(raw)
    }

    /// Step 4, of any exit that is counted: decides it, applies the decision, closes it. For an exit that a quick form could have
    /// decided, the decision is the same.
    #[inline(never)]
    pub(crate) fn exit_opened<E: Exit<B>>(&mut self, exit_tsc: u64, mut exit: E, opened: Opened) {
        if self.is_last_exit::<E::Account>(exit_tsc) {
            return self.last_exit(exit_tsc, exit, opened);
        }
        let Opened(raw) = opened;
        let (account, registers) = exit.parts();
        let action = dispatch(raw, registers, &mut self.backend, &mut self.machine);
        let flow = self.apply(action, exit_tsc);
        self.close(account, exit_tsc, raw);
        if flow == Flow::Leave {
            exit.leave();
        }
    }

    /// Whether no entry follows an exit of any reason, in a scenario or past the run's limit, or the vCPU idles.
    #[inline(always)]
    fn is_last_exit<A: Account>(&self, exit_tsc: u64) -> bool {
        // A stub for no account takes no time stamp.
        self.machine.is_past_limit(if A::KEEPS { exit_tsc } else { self.backend.tsc() })
    }

    /// Step 4 of an exit that no entry follows, or that ends the idle time of a vCPU.
    #[cold]
    #[inline(never)]
    fn last_exit<E: Exit<B>>(&mut self, exit_tsc: u64, mut exit: E, Opened(raw): Opened) {
        // The limit is now the run's again.
        if self.machine.bounds.wakes_from_idle() && !self.is_last_exit::<E::Account>(exit_tsc) {
            return self.exit_from_idle(exit_tsc, exit, Opened(raw));
        }
        let (backend, machine) = (&mut self.backend, &mut self.machine);
        let outcome = if machine.stage.in_scenario { Outcome::Exited } else { limit::reached(raw, backend, machine) };
        self.last_exit_tsc = exit_tsc;
        self.leave = Leave::Stop(outcome);
        self.close(exit.parts().0, exit_tsc, raw);
        exit.leave();
    }

    /// Step 4 of an exit that a brief form has decided, and whose action may leave the guest.
    #[inline(always)]
    pub(crate) fn exit_decided<E: Exit<B>>(&mut self, exit_tsc: u64, mut exit: E, Opened(raw): Opened) {
        let flow = self.apply(self.decided, exit_tsc);
        self.close(exit.parts().0, exit_tsc, raw);
        if flow == Flow::Leave {
            exit.leave();
        }
    }

    /// Books the cycles of an exit: the last step before the entry.
    #[inline(always)]
    fn close(&self, account: &impl Account, exit_tsc: u64, raw: RawReason) {
        let backend = &self.backend;
        account.close(account.opened(raw.basic()), exit_tsc, || backend.tsc());
    }

    #[inline(never)]
    fn apply(&mut self, action: Action, exit_tsc: u64) -> Flow {
        match action {
            Action::Advance => self.backend.advance(),
            Action::StepOver => self.backend.step_over(),
            Action::Resume => {}
            Action::Inject(event) => self.backend.inject(event),
            Action::AdvanceAndInject(event) => {
                self.backend.advance();
                self.backend.inject(event);
            }
            Action::AdvanceAndPause(pause) => {
                self.backend.advance();
                self.leave = Leave::Pause(pause);
                return Flow::Leave;
            }
            Action::Stop(outcome) => {
                self.last_exit_tsc = exit_tsc;
                self.leave = Leave::Stop(outcome);
                return Flow::Leave;
            }
        }
        Flow::Resume
    }
}

/// Whether the guest goes on after an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Flow {
    /// The guest goes on at once.
    Resume = 0,
    /// The guest does not go on; [`Leave`] says why.
    Leave = 1,
}

impl<B: Backend> Vcpu<B> {
    /// A vCPU that has not run yet.
    pub fn new(backend: B, machine: Machine) -> Self {
        let (leave, decided) = (Leave::Stop(Outcome::UnhandledExit), Action::Resume);
        Self { backend, machine, leave, decided, last_exit_tsc: 0, has_started: false }
    }

    /// Has any exit from `limit_tsc` on end the guest, and sees to it that there is one. The run began `ticks` before the limit.
    pub fn set_limit(&mut self, limit_tsc: u64, ticks: u64) {
        self.machine.bounds.limit_tsc = limit_tsc;
        self.backend.set_limit(limit_tsc, ticks);
        self.watch_anew();
    }

    /// Starts the time anew after which the guest is looked at.
    pub fn watch_anew(&mut self) {
        self.machine.note_exits();
        self.backend.restart_watchdog();
    }

    /// Puts the controls of a profile in force. Under these, pending interrupts at the APIC may have to be asked for in another
    /// way.
    pub fn set_profile(&mut self, profile: Profile) {
        self.machine.config.controls = self.backend.set_profile(profile);
        delivery::refresh(&mut self.backend, &self.machine);
    }

    /// Runs the guest to its end. `enter` runs it until an exit leaves, and books in `book`. `pause` does the work in between,
    /// and may find that the guest is over.
    ///
    /// # Panics
    /// Never by itself; `enter` and `pause` are the caller's.
    pub fn run<F>(
        &mut self,
        book: &dyn Book,
        mut enter: impl FnMut(&mut Self) -> Result<(), F>,
        mut pause: impl FnMut(&mut Self, Pause) -> Option<Outcome>,
    ) -> End<F> {
        let first_entry_tsc = self.backend.tsc();
        let (board, at) = (self.machine.shared.board, self.machine.vcpu);
        if at == 0 {
            board.begin(first_entry_tsc);
        }
        let ledger = book.ledger();
        ledger.first_entry();
        let (outcome, failure) = loop {
            if B::WATCHDOG_INTERRUPTS {
                self.machine.note_exits();
            }
            match enter(self).map(|()| self.leave) {
                Ok(Leave::Pause(what)) => {
                    self.machine.bounds.pause_tsc = self.backend.tsc();
                    let over = pause(self, what);
                    board.add_paused(at, self.backend.tsc().wrapping_sub(self.machine.bounds.pause_tsc));
                    if let Some(outcome) = over {
                        self.last_exit_tsc = self.backend.tsc();
                        break (outcome, None);
                    }
                }
                Ok(Leave::Stop(outcome)) => break (outcome, None),
                Err(failure) => {
                    self.last_exit_tsc = self.backend.tsc();
                    break (Outcome::EntryFailed, Some(failure));
                }
            }
        };
        ledger.no_entry_followed();
        End {
            outcome,
            rip: self.backend.get(State::Rip),
            reason: self.backend.exit_reason().0,
            qualification: self.backend.qualification(),
            failure,
            elapsed_tsc: self.last_exit_tsc.wrapping_sub(first_entry_tsc),
            whole_tsc: self.backend.tsc().wrapping_sub(first_entry_tsc),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::driven::Left;
    use super::*;
    use crate::exit::{CrAccess, GuestState, IoAccess, Processor};
    use crate::ledger::{Ledger, Unaccounted};
    use crate::script::{Script, machine};
    use proptest::prelude::*;
    use tollgate_abi::hypercall::Hypercall;

    /// Runs a guest whose exits, and RAX at each, are given.
    fn run<A: Account>(exits: &[(ExitReason, u64)]) -> (Vcpu<Script>, A, End<()>, Vec<Pause>) {
        let (mut vcpu, account) = (Vcpu::new(Script::default(), machine()), A::default());
        let (mut exits, mut pauses) = (exits.iter(), vec![]);
        let end = vcpu.run(
            &account,
            |vcpu| {
                loop {
                    let &(reason, rax) = exits.next().ok_or(())?;
                    vcpu.backend.reason = u32::from(reason.0);
                    vcpu.backend.elapse(100);
                    let stamp = vcpu.backend.tsc();
                    let mut registers = GuestRegisters { rax, rdi: 1, rsi: 1, ..Default::default() };
                    vcpu.backend.elapse(80);
                    if vcpu.drive(&account, &mut registers, stamp) == Flow::Leave {
                        return Ok(());
                    }
                }
            },
            |_, pause| {
                pauses.push(pause);
                None
            },
        );
        (vcpu, account, end, pauses)
    }

    const EXIT: (ExitReason, u64) = (ExitReason::VMCALL, Hypercall::Exit as u64);

    #[test]
    fn every_exit_is_counted_once_and_timed() {
        let (vcpu, account, end, _) =
            run::<Ledger>(&[(ExitReason::CPUID, 0), (ExitReason::CPUID, 1), (ExitReason::WBINVD, 0), EXIT]);
        assert_eq!(end.outcome, Outcome::Exited);
        let ledger = account.ledger();
        assert_eq!((ledger.exits(), ledger.entries()), (4, 4));
        let cpuid = ledger.figures(ExitReason::CPUID);
        assert_eq!((cpuid.count, cpuid.cycles, cpuid.min, cpuid.max), (2, 160, 80, 80));
        assert_eq!(ledger.check(), Ok(()));
        assert_eq!(vcpu.backend.advances, 3);
        assert_eq!((end.elapsed_tsc, end.whole_tsc), (3 * 180 + 100, 4 * 180), "the last exit is a part of the whole");
    }

    #[test]
    fn what_nobody_handles_is_counted_and_stops() {
        for reason in [ExitReason(35), ExitReason(86), ExitReason(0xffff), ExitReason::SPP] {
            let (_, account, end, _) = run::<Ledger>(&[(reason, 0)]);
            assert_eq!(end.outcome, Outcome::UnhandledExit);
            assert_eq!(account.count(reason), 1);
            assert_eq!(account.check(), Ok(()));
        }
    }

    #[test]
    fn refused_instructions_raise_their_event_and_do_not_advance() {
        let (vcpu, ..) = run::<Ledger>(&[(ExitReason::VMXON, 0), (ExitReason::RDPMC, 0), EXIT]);
        assert_eq!(vcpu.backend.injected, [Event::UNDEFINED_OPCODE, Event::GENERAL_PROTECTION]);
        assert_eq!(vcpu.backend.advances, 0);
    }

    #[test]
    fn a_pause_closes_its_exit_first() {
        let (vcpu, account, _, pauses) = run::<Ledger>(&[(ExitReason::VMCALL, Hypercall::Begin as u64), EXIT]);
        assert_eq!(pauses, [Pause::Begin { number: 1, iterations: 1 }]);
        assert_eq!((vcpu.backend.advances, account.check()), (1, Ok(())));
    }

    #[test]
    fn a_failed_entry_is_a_value() {
        let (_, account, end, _) = run::<Ledger>(&[(ExitReason::CPUID, 0)]);
        assert_eq!((end.outcome, end.failure), (Outcome::EntryFailed, Some(())));
        assert_eq!(account.check(), Ok(()));
    }

    #[test]
    fn an_entry_that_fails_by_exit_is_counted() {
        let mut vcpu = Vcpu::new(Script { reason: 1 << 31 | 33, ..Script::default() }, machine());
        let account = Ledger::new();
        assert_eq!(vcpu.drive(&account, &mut GuestRegisters::default(), 0), Flow::Leave);
        assert_eq!(vcpu.leave, Leave::Stop(Outcome::EntryFailed));
        assert_eq!(account.count(ExitReason::ENTRY_FAILURE_GUEST_STATE), 1);
    }

    #[test]
    fn without_an_account_nothing_is_booked() {
        let (_, account, end, _) = run::<Unaccounted>(&[(ExitReason::CPUID, 0), EXIT]);
        assert_eq!(end.outcome, Outcome::Exited);
        assert_eq!(account.ledger().exits(), 0);
    }

    /// Everything that an exit leaves behind in a vCPU.
    fn outcome(
        vcpu: &Vcpu<Script>,
        registers: GuestRegisters,
        flow: Flow,
    ) -> impl PartialEq + core::fmt::Debug + use<> {
        let (script, machine) = (&vcpu.backend, &vcpu.machine);
        let mut state: Vec<_> = script.state.iter().map(|(&state, &value)| (state as usize, value)).collect();
        state.sort_unstable();
        let leave = (flow == Flow::Leave).then_some(vcpu.leave);
        let effects = (script.advances, script.injected.clone(), script.flushes, script.window, script.timer);
        (registers, leave, state, effects, machine.activity.halted, script.halts, machine.devices.apic.cr8())
    }

    #[test]
    fn the_quick_and_the_brief_forms_decide_what_they_are_for() {
        let io = |port, is_in| Script {
            io: Some(IoAccess { port, bytes: 1, is_in, is_string: false, is_repeated: false }),
            ..Script::default()
        };
        let cr = |access| Script { cr: Some(access), ..Script::default() };
        let with = |rax, rcx| GuestRegisters { rax, rcx, rdx: 0, ..GuestRegisters::default() };
        let other = Script::default;
        for (reason, script, registers, quick) in [
            (ExitReason::CPUID, other(), with(1, 0), true),
            (ExitReason::CPUID, other(), with(0x4fff_ffff, 0), false),
            (ExitReason::VMCALL, other(), with(0, 0), true),
            (ExitReason::VMCALL, other(), with(99, 0), false),
            (ExitReason::RDMSR, other(), with(!0, 0x1b), true),
            (ExitReason::RDMSR, other(), with(!0, 0x3a), true),
            (ExitReason::WRMSR, other(), with(7, 0xc000_0102), true),
            (ExitReason::IO_INSTRUCTION, io(0x80, true), with(!0, 0), true),
            (ExitReason::IO_INSTRUCTION, io(0x80, false), with(7, 0), true),
            (ExitReason::IO_INSTRUCTION, io(0x5f0, true), with(7, 0), true),
            (ExitReason::CR_ACCESS, cr(CrAccess::Write { cr: 0, register: 1 }), with(0, 0x8000_0031), true),
            (ExitReason::CR_ACCESS, cr(CrAccess::Write { cr: 0, register: 1 }), with(0, 0xe000_0031), true),
            (ExitReason::CR_ACCESS, cr(CrAccess::Write { cr: 0, register: 3 }), with(0, 0), false),
            (ExitReason::CR_ACCESS, cr(CrAccess::Write { cr: 3, register: 1 }), with(0, 0x3000), true),
            (ExitReason::CR_ACCESS, cr(CrAccess::Read { cr: 3, register: 1 }), with(0, 0), true),
            (ExitReason::CR_ACCESS, cr(CrAccess::Read { cr: 3, register: 4 }), with(0, 0), false),
            (ExitReason::CR_ACCESS, cr(CrAccess::Clts), with(0, 0), true),
            (ExitReason::MOV_DR, other(), with(0, 0), true),
            (ExitReason::RDTSC, other(), with(0, 0), true),
            (ExitReason::XSETBV, other(), with(1, 0), true),
            (ExitReason::INVLPG, other(), with(0, 0), true),
            (ExitReason::WBINVD, other(), with(0, 0), true),
            (ExitReason::RDPMC, other(), with(0, 0), true),
            (ExitReason::LDTR_TR_ACCESS, other(), with(0, 0), false),
        ] {
            let mut vcpu = Vcpu::new(Script { reason: reason.0.into(), ..script }, machine());
            vcpu.backend.set(State::Cr0, 0x8000_0031);
            vcpu.backend.set(State::CsRights, 1 << 13);
            let account = Ledger::new();
            let decided = vcpu.drive_quickly(&account, &mut registers.clone()).is_none();
            assert_eq!(decided, quick, "{reason:?} {registers:x?}");
            if decided {
                assert_eq!((account.count(reason), account.check()), (1, Ok(())), "{reason:?} is counted and closed");
            }
        }
    }

    #[test]
    fn a_mov_to_cr0_from_a_register_that_stays_in_the_processor_takes_one_step_more() {
        let mut vcpu = Vcpu::new(Script { reason: 28, ..Script::default() }, machine());
        vcpu.backend.cr = Some(CrAccess::Write { cr: 0, register: 3 });
        let (account, mut registers) = (Ledger::new(), GuestRegisters { rbx: 0x8000_0031, ..Default::default() });
        let left = vcpu.drive_quickly(&account, &mut registers).expect("RBX is not at hand");
        assert_eq!(left, Left::WithRegisters);
        assert_eq!((vcpu.backend.quick_steps, account.count(ExitReason::CR_ACCESS)), (0, 1));
        assert_eq!(vcpu.drive_left(&account, &mut registers, left), Flow::Resume);
        assert_eq!((vcpu.backend.quick_steps, vcpu.backend.get(State::Cr0), account.check()), (1, 0x8000_0031, Ok(())));
        for wrong in [0x31, 0xe000_0031] {
            let mut registers = GuestRegisters { rbx: wrong, ..Default::default() };
            vcpu.drive(&account, &mut registers, 0);
            assert_eq!(vcpu.backend.quick_steps, 1, "{wrong:#x} is no value that only needs to be stored");
        }
    }

    #[test]
    fn outside_of_ia_32e_mode_no_quick_form_decides() {
        for (reason, quick) in [(ExitReason::CPUID, 1), (ExitReason::RDMSR, 1), (ExitReason::WBINVD, 1)] {
            let drive = |by: &dyn Fn(&mut Vcpu<Script>, &Ledger, &mut GuestRegisters) -> Flow| {
                let backend = Script { reason: u32::from(reason.0), ..Script::default() };
                let (mut vcpu, account) = (Vcpu::new(backend, machine()), Ledger::new());
                let mut registers = GuestRegisters { rcx: 0x1b, ..GuestRegisters::default() };
                assert_eq!(by(&mut vcpu, &account, &mut registers), Flow::Resume);
                assert_eq!((account.count(reason), account.check(), vcpu.backend.advances), (1, Ok(()), 1));
                (vcpu.backend.quick_steps, registers)
            };
            let usual = drive(&|vcpu, account, registers| vcpu.drive(account, registers, 0));
            let other = drive(&|vcpu, account, registers| vcpu.drive_without_quick_forms(account, registers));
            assert_eq!((usual.0, other.0), (quick, 0), "{reason:?}");
            assert_eq!(usual.1, other.1, "{reason:?}");
        }
    }

    #[test]
    fn a_single_step_is_left_to_the_second_half() {
        let mut vcpu = Vcpu::new(Script { reason: 18, ..Script::default() }, machine());
        vcpu.backend.set(State::Rflags, 1 << 8);
        assert!(vcpu.drive_quickly(&Ledger::new(), &mut GuestRegisters::default()).is_some());
    }

    proptest! {
        #[test]
        fn exits_are_decided_alike_with_and_without_the_quick_and_brief_forms(
            reason in 0..130u32,
            cr in (0..4u8, prop_oneof![Just(0u8), Just(3), Just(4), Just(8)], 0..16u8),
            (port, bytes, is_in) in (prop_oneof![Just(0x80u16), Just(0x3f8), 0x3f8..0x400u16, any::<u16>()], 0..3u32, any::<bool>()),
            words in proptest::array::uniform3(prop_oneof![
                0..16u64, Just(0x8000_0031u64), Just(0x1b), 0xc000_0080..0xc000_0104u64, 0x800..0x840u64, any::<u64>(),
            ]),
            (flags, rights, vector) in (any::<u64>(), prop_oneof![Just(0u64), Just(1 << 13)], 0..32u8),
        ) {
            let course = |with: bool| {
                let (kind, cr, register) = cr;
                let access = match kind {
                    0 => CrAccess::Write { cr, register },
                    1 => CrAccess::Read { cr, register },
                    2 => CrAccess::Clts,
                    _ => CrAccess::Lmsw { source: words[0] as u16 },
                };
                let io = IoAccess { port, bytes: 1 << bytes, is_in, is_string: false, is_repeated: false };
                let exit_event = Some(Event::exception(vector));
                let mut backend =
                    Script { reason, cr: Some(access), io: Some(io), exit_event, ..Script::default() };
                backend.set(State::Cr0, 0x8000_0031);
                backend.set(State::Rflags, flags & 0x300);
                backend.set(State::CsRights, rights);
                let mut vcpu = Vcpu::new(backend, machine());
                vcpu.set_limit(1 << 40, 1 << 40);
                let [rax, rcx, rbx] = words;
                let mut registers = GuestRegisters { rax, rcx, rbx, ..GuestRegisters::default() };
                let account = Ledger::new();
                let flow = if with {
                    vcpu.drive(&account, &mut registers, 0)
                } else {
                    vcpu.drive_without_quick_forms(&account, &mut registers)
                };
                (outcome(&vcpu, registers, flow), account.count(ExitReason(reason as u16)), account.check())
            };
            prop_assert_eq!(course(true), course(false));
        }

        #[test]
        fn any_sequence_of_exits_balances(reasons in proptest::collection::vec((0u16..100, any::<u64>()), 0..60)) {
            let exits: Vec<_> = reasons.into_iter().map(|(reason, rax)| (ExitReason(reason), rax)).collect();
            let (_, account, ..) = run::<Ledger>(&exits);
            prop_assert_eq!(account.check(), Ok(()));
        }
    }
}
