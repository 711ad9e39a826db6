//! The spine: the course of every exit, and of the time between two stretches of guest execution.
//!
//! `Vcpu::exit` is the life of one exit, from the stub's call to its return. It reads downwards: each step either ends the exit
//! or hands the rest of it to the next. The steps after the first are functions of their own, to be jumped to, so that the
//! frequent exits need no stack frame.

#[cfg(test)]
use core::cell::Cell;

use tollgate_abi::ExitReason;
use tollgate_abi::profile::Profile;
use tollgate_abi::quick::Condition;
use tollgate_abi::workload::Outcome;

use crate::ended::End;
use crate::exit::{Action, Backend, GuestRegisters, Pause, RawReason, State};
use crate::handlers::{control_regs, cpuid, delivery, dispatch, event, hypercall, io, limit, msr};
use crate::keys::key_of;
use crate::ledger::{Account, Book};
use crate::machine::Machine;
use crate::recording::Witness;

mod idle;
mod scenario;
mod start_up;

/// One virtual processor with its machine. Its account lies elsewhere, since others read it, and comes with each exit.
#[derive(Debug)]
pub struct Vcpu<B> {
    /// The virtualization extension.
    pub backend: B,
    /// The guest's surroundings.
    pub machine: Machine,
    leave: Leave,
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

/// An exit as its stub hands it over: the account that it goes to, the guest's registers, and the way out.
pub(crate) trait Exit {
    /// The kind of account.
    type Account: Account;
    /// The account and the guest's registers.
    fn parts(&mut self) -> (&Self::Account, &mut GuestRegisters);
    /// Leaves the guest, instead of going back to the stub, which would resume it.
    fn leave(self);
}

/// An exit that has been counted and not yet decided: the ticket for deciding it.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Opened(RawReason);

/// The part of an exit that [`Vcpu::exit_quickly`] leaves.
#[derive(Debug)]
pub(crate) enum Left {
    /// The exit is counted; all other steps remain.
    Opened(Opened),
    /// All steps remain, since the reason is rare. This is the answer of
    /// [`ExitFacts::frequent_reason`](crate::exit::ExitFacts::frequent_reason).
    Unopened(RawReason),
}

impl<B: Backend> Vcpu<B> {
    /// One exit, from the time stamp `exit_tsc` that the stub took to the return to it, and so to the next entry; or out of
    /// the guest, by [`Exit::leave`].
    #[inline(always)]
    pub(crate) fn exit<E: Exit>(&mut self, exit_tsc: u64, mut exit: E) {
        let (account, registers) = exit.parts();
        match self.exit_quickly(account, registers, exit_tsc) {
            Ok(()) => {}
            Err(Left::Opened(opened)) if opened.wants_code::<B>() => self.exit_by_code(exit_tsc, exit, opened),
            Err(Left::Opened(opened)) => self.exit_thoroughly(exit_tsc, exit, opened),
            Err(Left::Unopened(frequent)) => self.exit_for_rare_reason(exit_tsc, exit, frequent),
        }
    }

    /// [`Vcpu::exit`] while the guest is not in IA-32e mode, which the quick forms take for granted.
    #[inline(always)]
    pub(crate) fn exit_of_other_mode<E: Exit>(&mut self, exit_tsc: u64, mut exit: E) {
        self.witness(exit.parts().0);
        let frequent = self.backend.frequent_reason();
        self.exit_for_rare_reason(exit_tsc, exit, frequent);
    }

    /// Step 1, the frequent reasons: counts the exit, and decides and closes it if it is an ordinary one. It needs no stack
    /// frame, and finds its ledger row without computing it.
    ///
    /// # Errors
    /// The part of the exit that remains.
    #[inline(always)]
    pub(crate) fn exit_quickly<A: Account>(
        &mut self,
        account: &A,
        registers: &mut GuestRegisters,
        exit_tsc: u64,
    ) -> Result<(), Left> {
        /// An arm for each row of the table.
        macro_rules! decide_quickly {
            ($($reason:ident $ticks:literal $condition:ident $form:ident;)*) => {{
                $(const $reason: u32 = ExitReason::$reason.0 as u32;)*
                let raw = self.backend.frequent_reason();
                // The whole field, so that an entry failure, with its bit 31, is not taken for the reason in the low bits.
                match raw.0 {
                    $($reason => self.decide::<A, { $reason as usize }>(account, registers, exit_tsc, |vcpu, registers| {
                        let (backend, machine) = (&mut vcpu.backend, &mut vcpu.machine);
                        let done = $form::quick(registers, backend, machine, |backend| {
                            is_met(Condition::$condition, backend)
                        });
                        if done && Condition::$condition.ends_instruction() {
                            vcpu.backend.quick_step_over();
                        }
                        done
                    }),)*
                    _ => Err(Left::Unopened(raw)),
                }
            }};
        }
        self.witness(account);
        if !account.takes_quick_forms() {
            return Err(Left::Unopened(self.backend.frequent_reason()));
        }
        tollgate_abi::quick_exits!(decide_quickly)
    }

    /// Opens an exit for `REASON`, and closes it if `quick` could deal with all of it. The reason is a constant, so that its
    /// ledger row is one, too.
    #[inline(always)]
    fn decide<A: Account, const REASON: usize>(
        &mut self,
        account: &A,
        registers: &mut GuestRegisters,
        exit_tsc: u64,
        quick: impl FnOnce(&mut Self, &mut GuestRegisters) -> bool,
    ) -> Result<(), Left> {
        let (reason, backend) = (ExitReason(REASON as u16), &self.backend);
        account.expect_quick(reason, || key_of(reason, registers, backend), || backend.tsc());
        let _counted = account.open(reason);
        if !quick(self, registers) {
            return Err(Left::Opened(Opened(RawReason(REASON as u32))));
        }
        let backend = &self.backend;
        account.close_row::<REASON>(exit_tsc, || backend.tsc());
        Ok(())
    }

    /// Step 2, of an exit that is counted, and that lacked a fact for a quick decision which the guest's code may tell.
    #[inline(never)]
    fn exit_by_code<E: Exit>(&mut self, exit_tsc: u64, mut exit: E, opened: Opened) {
        let (account, registers) = exit.parts();
        if let Err(opened) = self.decide_by_code(account, registers, exit_tsc, opened) {
            self.exit_thoroughly(exit_tsc, exit, opened);
        }
    }

    /// Closes the exit if the code is found quickly and tells all.
    ///
    /// # Errors
    /// The exit, if it does not.
    #[inline(always)]
    pub(crate) fn decide_by_code<A: Account>(
        &mut self,
        account: &A,
        registers: &mut GuestRegisters,
        exit_tsc: u64,
        opened: Opened,
    ) -> Result<(), Opened> {
        const CR_ACCESS: usize = ExitReason::CR_ACCESS.0 as usize;
        let backend = &mut self.backend;
        let may_end = |backend: &B| is_met(Condition::EndsPlainly, backend);
        if !control_regs::quick_by_code(registers, backend, may_end) {
            return Err(opened);
        }
        backend.quick_step_over();
        let backend = &self.backend;
        account.close_row::<CR_ACCESS>(exit_tsc, || backend.tsc());
        Ok(())
    }

    /// Step 3, of an exit for a rare reason: counts it.
    #[inline(never)]
    fn exit_for_rare_reason<E: Exit>(&mut self, exit_tsc: u64, mut exit: E, frequent: RawReason) {
        let (account, registers) = exit.parts();
        let opened = self.open(account, registers, frequent);
        self.exit_thoroughly(exit_tsc, exit, opened);
    }

    /// Takes note of the exit that is opened next, if exits are recorded.
    #[inline(always)]
    fn witness(&self, account: &impl Account) {
        let backend = &self.backend;
        let what = || Witness { rip: backend.get(State::Rip), qualification: backend.qualification() };
        account.witness(what, || backend.tsc());
    }

    /// Opens an exit for any reason.
    fn open(&self, account: &impl Account, registers: &GuestRegisters, frequent: RawReason) -> Opened {
        let backend = &self.backend;
        let raw = backend.whole_reason(frequent);
        account.expect(raw.basic(), || key_of(raw.basic(), registers, backend), || backend.tsc());
        let _counted = account.open(raw.basic());
        Opened(raw)
    }

    /// Step 4, of any exit that is counted: decides it, applies the decision, closes it. For an exit that a quick form could have
    /// decided, the decision is the same.
    #[inline(never)]
    fn exit_thoroughly<E: Exit>(&mut self, exit_tsc: u64, mut exit: E, opened: Opened) {
        if self.is_last_exit::<E::Account>(exit_tsc) {
            return self.last_exit(exit_tsc, exit, opened);
        }
        let (account, registers) = exit.parts();
        let Opened(raw) = opened;
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
    fn last_exit<E: Exit>(&mut self, exit_tsc: u64, mut exit: E, Opened(raw): Opened) {
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

    /// Books the cycles of an exit: the last step before the entry.
    #[inline(always)]
    fn close(&self, account: &impl Account, exit_tsc: u64, raw: RawReason) {
        let backend = &self.backend;
        account.close(account.opened(raw.basic()), exit_tsc, || backend.tsc());
    }

    #[inline(always)]
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

impl Opened {
    /// Whether [`Vcpu::exit_by_code`] may deal with this exit.
    #[inline(always)]
    fn wants_code<B: Backend>(&self) -> bool {
        B::MAY_NEED_CODE && self.0.0 == u32::from(ExitReason::CR_ACCESS.0)
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

/// Whether an exit meets the condition of its row.
#[inline(always)]
fn is_met<B: Backend>(condition: Condition, backend: &B) -> bool {
    match condition {
        Condition::Steps => backend.steps_quickly(),
        Condition::EndsPlainly => backend.steps_quickly() && backend.ends_plainly(),
        Condition::Repeats => true,
    }
}

impl<B: Backend> Vcpu<B> {
    /// A vCPU that has not run yet.
    pub fn new(backend: B, machine: Machine) -> Self {
        Self { backend, machine, leave: Leave::Stop(Outcome::UnhandledExit), last_exit_tsc: 0, has_started: false }
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

/// An exit that a test hands over in the stub's place.
#[cfg(test)]
struct Driven<'a, A> {
    account: &'a A,
    registers: &'a mut GuestRegisters,
    flow: &'a Cell<Flow>,
}

#[cfg(test)]
impl<A: Account> Exit for Driven<'_, A> {
    type Account = A;
    fn parts(&mut self) -> (&A, &mut GuestRegisters) {
        (self.account, self.registers)
    }
    fn leave(self) {
        self.flow.set(Flow::Leave);
    }
}

#[cfg(test)]
impl<B: Backend> Vcpu<B> {
    /// [`Vcpu::exit`] as a test calls it.
    pub(crate) fn drive(&mut self, account: &impl Account, registers: &mut GuestRegisters, exit_tsc: u64) -> Flow {
        let flow = Cell::new(Flow::Resume);
        self.exit(exit_tsc, Driven { account, registers, flow: &flow });
        flow.get()
    }

    /// [`Vcpu::exit_of_other_mode`] as a test calls it.
    fn drive_in_other_mode(&mut self, account: &impl Account, registers: &mut GuestRegisters) -> Flow {
        let flow = Cell::new(Flow::Resume);
        self.exit_of_other_mode(0, Driven { account, registers, flow: &flow });
        flow.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::{CrAccess, Event, GuestState, IoAccess, Processor};
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

    #[test]
    fn what_the_first_half_decides_the_second_would_decide_alike() {
        let io = |port, is_in| IoAccess { port, bytes: 1, is_in, is_string: false, is_repeated: false };
        let cr0 = |rbx| (ExitReason::CR_ACCESS, Some(CrAccess::Write { cr: 0, register: 3 }), io(0, false), 0, 0, rbx);
        let mut quick = 0;
        for (reason, cr, io, rax, rcx, rbx) in [
            (ExitReason::CPUID, None, io(0, false), 1, 0, 0),
            (ExitReason::CPUID, None, io(0, false), 0x4fff_ffff, 0, 0),
            (ExitReason::VMCALL, None, io(0, false), 0, 0, 0),
            (ExitReason::VMCALL, None, io(0, false), 99, 0, 0),
            (ExitReason::RDMSR, None, io(0, false), !0, 0x1b, 0),
            (ExitReason::RDMSR, None, io(0, false), !0, 0x3a, 0),
            (ExitReason::IO_INSTRUCTION, None, io(0x80, true), !0, 0, 0),
            (ExitReason::IO_INSTRUCTION, None, io(0x80, false), 7, 0, 0),
            (ExitReason::IO_INSTRUCTION, None, io(0x5f0, true), 7, 0, 0),
            cr0(0x8000_0031),
            cr0(0x8001_0437),
            cr0(0xe000_0031),
            cr0(0x31),
        ] {
            let vcpu = || {
                let mut backend = Script { reason: u32::from(reason.0), cr, io: Some(io), ..Script::default() };
                backend.set(State::CsRights, 1 << 13);
                backend.set(State::Cr0, 0x8000_0031);
                let registers = GuestRegisters { rax, rcx, rbx, ..Default::default() };
                (Vcpu::new(backend, machine()), registers)
            };
            let ((mut first, mut registers), (mut second, mut expected)) = (vcpu(), vcpu());
            let account = Ledger::new();
            let decided = first.exit_quickly(&account, &mut registers, 0).is_ok();
            quick += usize::from(decided);
            let opened = second.open(&account, &expected, RawReason(u32::from(reason.0)));
            let flow = Cell::new(Flow::Resume);
            second.exit_thoroughly(0, Driven { account: &account, registers: &mut expected, flow: &flow }, opened);
            if decided {
                assert_eq!((registers, flow.get()), (expected, Flow::Resume), "{reason:?}");
                assert_eq!(first.backend.get(State::Cr0), second.backend.get(State::Cr0));
                assert_eq!((first.backend.advances, second.backend.advances), (1, 1), "{reason:?}");
            }
        }
        assert_eq!(quick, 7);
    }

    #[test]
    fn outside_of_ia_32e_mode_no_quick_form_decides() {
        for (reason, quick) in [(ExitReason::CPUID, 1), (ExitReason::RDMSR, 1), (ExitReason::WBINVD, 0)] {
            let drive = |by: &dyn Fn(&mut Vcpu<Script>, &Ledger, &mut GuestRegisters) -> Flow| {
                let backend = Script { reason: u32::from(reason.0), ..Script::default() };
                let (mut vcpu, account) = (Vcpu::new(backend, machine()), Ledger::new());
                let mut registers = GuestRegisters { rcx: 0x1b, ..GuestRegisters::default() };
                assert_eq!(by(&mut vcpu, &account, &mut registers), Flow::Resume);
                assert_eq!((account.count(reason), account.check(), vcpu.backend.advances), (1, Ok(()), 1));
                (vcpu.backend.quick_steps, registers)
            };
            let usual = drive(&|vcpu, account, registers| vcpu.drive(account, registers, 0));
            let other = drive(&|vcpu, account, registers| vcpu.drive_in_other_mode(account, registers));
            assert_eq!((usual.0, other.0), (quick, 0), "{reason:?}");
            assert_eq!(usual.1, other.1, "{reason:?}");
        }
    }

    #[test]
    fn a_single_step_is_left_to_the_second_half() {
        let mut vcpu = Vcpu::new(Script { reason: 18, ..Script::default() }, machine());
        vcpu.backend.set(State::Rflags, 1 << 8);
        assert!(vcpu.exit_quickly(&Ledger::new(), &mut GuestRegisters::default(), 0).is_err());
    }

    proptest! {
        #[test]
        fn any_sequence_of_exits_balances(reasons in proptest::collection::vec((0u16..100, any::<u64>()), 0..60)) {
            let exits: Vec<_> = reasons.into_iter().map(|(reason, rax)| (ExitReason(reason), rax)).collect();
            let (_, account, ..) = run::<Ledger>(&exits);
            prop_assert_eq!(account.check(), Ok(()));
        }
    }
}
