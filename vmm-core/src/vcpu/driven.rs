//! Exits that tests hand over in a stub's place, and the courses that they take.

use core::cell::Cell;

use super::{Exit, Flow, Opened, Vcpu};
use crate::exit::{Backend, ExitNumber, GuestRegisters, RawReason, VolatileRegisters};
use crate::ledger::Account;

/// An exit that a test hands over in the stub's place.
struct Driven<'a, A> {
    account: &'a A,
    registers: &'a mut GuestRegisters,
    course: &'a Course,
}

/// The part of an exit that the quick forms leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// All of it.
    Rare(ExitNumber),
    /// It is counted for a reason.
    Opened(Opened),
    /// It is counted, and a register was lacking.
    WithRegisters,
    /// It is counted and decided.
    Decided(Opened),
}

/// The course that a driven exit has taken.
#[derive(Debug, Default)]
pub(crate) struct Course {
    leaves: Cell<bool>,
    /// The part of the exit that the quick forms have left.
    pub(crate) left: Cell<Option<Left>>,
    /// It ends where the quick forms do.
    only_quick: bool,
}

impl<A: Account, B: Backend> Exit<B> for Driven<'_, A> {
    type Account = A;

    fn quick_parts(&mut self) -> (&A, &mut VolatileRegisters) {
        (self.account, self.registers.volatile())
    }

    fn parts(&mut self) -> (&A, &mut GuestRegisters) {
        (self.account, self.registers)
    }

    fn resume_with_rbx(self, rbx: u64) {
        self.registers.rbx = rbx;
    }

    fn go_on(self, vcpu: &mut Vcpu<B>, exit_tsc: u64, number: ExitNumber) {
        vcpu.drive_on(self, exit_tsc, Left::Rare(number));
    }

    fn go_on_opened<const REASON: u32>(self, vcpu: &mut Vcpu<B>, exit_tsc: u64) {
        vcpu.drive_on(self, exit_tsc, Left::Opened(Opened(RawReason(REASON))));
    }

    fn go_on_with_registers(self, vcpu: &mut Vcpu<B>, exit_tsc: u64) {
        vcpu.drive_on(self, exit_tsc, Left::WithRegisters);
    }

    fn go_on_decided<const REASON: u32>(self, vcpu: &mut Vcpu<B>, exit_tsc: u64) {
        vcpu.drive_on(self, exit_tsc, Left::Decided(Opened(RawReason(REASON))));
    }

    fn leave(self) {
        self.course.leaves.set(true);
    }
}

impl<B: Backend> Vcpu<B> {
    /// One exit as a test calls it, by the way that the stub would take.
    pub(crate) fn drive(&mut self, account: &impl Account, registers: &mut GuestRegisters, exit_tsc: u64) -> Flow {
        let course = Course::default();
        self.driven(account, registers, &course, |vcpu, exit| {
            if vcpu.backend.uses_quick_forms() {
                vcpu.exit(exit_tsc, exit);
            } else {
                vcpu.exit_without_quick_forms(exit_tsc, exit);
            }
        })
    }

    /// [`Vcpu::exit_without_quick_forms`] as a test calls it.
    pub(super) fn drive_without_quick_forms(&mut self, account: &impl Account, registers: &mut GuestRegisters) -> Flow {
        let course = Course::default();
        self.driven(account, registers, &course, |vcpu, exit| vcpu.exit_without_quick_forms(0, exit))
    }

    /// The quick forms alone. The result is the part of the exit that they leave.
    pub(crate) fn drive_quickly(&mut self, account: &impl Account, registers: &mut GuestRegisters) -> Option<Left> {
        let course = Course { only_quick: true, ..Course::default() };
        self.driven(account, registers, &course, |vcpu, exit| vcpu.exit(0, exit));
        course.left.get()
    }

    /// The exit from where the quick forms leave it.
    pub(super) fn drive_left(&mut self, account: &impl Account, registers: &mut GuestRegisters, left: Left) -> Flow {
        let course = Course::default();
        self.driven(account, registers, &course, |vcpu, exit| vcpu.drive_on(exit, 0, left))
    }

    fn driven<'a, A: Account>(
        &mut self,
        account: &'a A,
        registers: &'a mut GuestRegisters,
        course: &'a Course,
        by: impl FnOnce(&mut Self, Driven<'_, A>),
    ) -> Flow {
        self.give_rax(registers);
        by(self, Driven { account, registers, course });
        registers.rax = self.backend.rax(registers.volatile());
        if course.leaves.get() { Flow::Leave } else { Flow::Resume }
    }

    fn drive_on<A: Account>(&mut self, exit: Driven<'_, A>, exit_tsc: u64, left: Left) {
        let Driven { account, registers, course } = exit;
        course.left.set(Some(left));
        if !course.only_quick {
            registers.rax = self.backend.rax(registers.volatile());
            let exit = Driven { account, registers: &mut *registers, course };
            match left {
                Left::Rare(number) => self.exit_for_rare_reason(exit_tsc, exit, number),
                Left::Opened(opened) => self.exit_opened(exit_tsc, exit, opened),
                Left::WithRegisters => self.exit_with_registers(exit_tsc, exit),
                Left::Decided(opened) => self.exit_decided(exit_tsc, exit, opened),
            }
            self.give_rax(registers);
        }
    }

    /// Puts RAX where the backend has it while the guest runs.
    fn give_rax(&mut self, registers: &mut GuestRegisters) {
        let rax = registers.rax;
        if self.backend.rax(registers.volatile()) != rax {
            self.backend.set_rax(registers.volatile(), rax);
        }
    }
}
