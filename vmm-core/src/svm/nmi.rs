//! NMIs, which the monitor masks while the guest handles one: it intercepts the IRET that ends the handler (APM 2 15.9). The exit
//! comes before the IRET, and a pending NMI must not come before the IRET is done: the guest is stepped over it.

use super::Svm;
use super::controls::{ALL_EXCEPTIONS, IRET};
use super::exit_information as information;
use super::vmcb as f;
use crate::exit::{ExitFacts, GuestState};
use tollgate_abi::svm_exit::code;
use tollgate_abi::x86::control::{DR6_BREAKPOINTS, DR6_BS, RFLAGS_IF, RFLAGS_IOPL_SHIFT, RFLAGS_TF};

/// The masking of NMIs, and its end.
#[derive(Debug, Default)]
pub(super) struct Nmis {
    /// An NMI was injected and its handler has not come to its IRET.
    pub(super) in_handler: bool,
    /// An NMI waits until the handler of the last one has executed IRET, which is intercepted for that.
    awaits_iret: bool,
    /// The address of the IRET that ends the handler. As long as RIP is there, it has not been executed.
    iret_rip: Option<u64>,
    /// The step over the IRET, if the guest is stepped.
    step: Option<Step>,
}

/// A guest's state and intercepts before the step. During the step every exception makes an exit, so that no handler of the guest
/// sees RFLAGS.TF. RFLAGS.IF is clear: no interrupt is injected either.
#[derive(Clone, Copy, Debug)]
struct Step {
    rflags: u64,
    dr6: u64,
    exceptions: u64,
    /// IRET leaves RFLAGS.IF alone at this privilege level.
    keeps_if: bool,
}

impl Nmis {
    pub(super) const fn intercepts_iret(&self) -> bool {
        self.in_handler || self.awaits_iret
    }

    /// Notes that an NMI is injected.
    pub(super) fn begin(&mut self) {
        (self.in_handler, self.iret_rip) = (true, None);
    }
}

impl Svm {
    /// Whether the IRET that ends the handler is still to come.
    pub(super) fn is_before_iret(&self) -> bool {
        self.nmis.iret_rip == Some(self.vmcb.get(f::RIP))
    }

    /// Notes an exit for IRET, which is executed next.
    pub(super) fn iret(&mut self) {
        self.nmis.iret_rip = self.nmis.in_handler.then(|| self.vmcb.get(f::RIP));
        (self.nmis.in_handler, self.nmis.awaits_iret) = (false, false);
        self.set_intercept_0(IRET, false);
    }

    /// Has the guest exit when an NMI can be taken: behind the IRET that it is at, or at the next one.
    #[cold]
    #[inline(never)]
    pub(super) fn await_nmi_window(&mut self) {
        if self.nmis.intercepts_iret() || self.nmis.step.is_some() {
            return;
        }
        if self.is_before_iret() && self.vectoring_event().is_none() {
            return self.step_over_iret();
        }
        self.nmis.awaits_iret = true;
        self.set_intercept_0(IRET, true);
    }

    fn step_over_iret(&mut self) {
        let vmcb = self.vmcb;
        let (rflags, dr6) = (vmcb.get(f::RFLAGS), vmcb.get(f::DR6));
        let keeps_if = u64::from(self.privilege_level()) > rflags >> RFLAGS_IOPL_SHIFT & 3;
        self.nmis.step = Some(Step { rflags, dr6, exceptions: vmcb.part(f::INTERCEPT_EXCEPTION), keeps_if });
        vmcb.set(f::RFLAGS, rflags & !RFLAGS_IF | RFLAGS_TF);
        vmcb.set(f::DR6, dr6 & !(DR6_BS | DR6_BREAKPOINTS));
        let all = ALL_EXCEPTIONS & !self.capabilities.facts.exceptions_without_exit();
        vmcb.set_part(f::INTERCEPT_EXCEPTION, all.into());
    }

    /// Whether an exception or NMI is only the end of the step.
    #[inline(always)]
    pub(super) fn ends_own_step(&mut self) -> bool {
        self.nmis.step.is_some() && self.end_step()
    }

    #[cold]
    #[inline(never)]
    fn end_step(&mut self) -> bool {
        let code = self.code();
        if code == code::NMI {
            return false;
        }
        let Some(step) = self.nmis.step.take() else { return false };
        let vmcb = self.vmcb;
        let dr6 = vmcb.get(f::DR6);
        vmcb.set_part(f::INTERCEPT_EXCEPTION, step.exceptions);
        // Bochs 2.7 sets no bit of DR6 for a #DB that makes an exit, so that RIP has to tell.
        let is_done = code == information::DB && (dr6 & DR6_BS != 0 || !self.is_before_iret());
        // An IRET that faults unmasks NMIs, too.
        self.nmis.iret_rip = None;
        let mut is_guests = true;
        if !is_done {
            vmcb.set(f::RFLAGS, step.rflags);
        } else if step.keeps_if {
            vmcb.set(f::RFLAGS, vmcb.get(f::RFLAGS) | step.rflags & RFLAGS_IF);
        }
        if code != information::DB {
            vmcb.set(f::DR6, step.dr6);
        } else if step.rflags & RFLAGS_TF == 0 {
            is_guests = !is_done || dr6 & DR6_BREAKPOINTS != 0;
            let bits = if is_guests { dr6 } else { step.dr6 };
            vmcb.set(f::DR6, bits & !DR6_BS | step.dr6 & DR6_BS);
        }
        if is_guests {
            // The guest's exception comes first.
            self.await_nmi_window();
        }
        !is_guests
    }
}
