//! Scenarios that only SVM has, or stages in a way of its own ([`crate::staging`] has the others). The twin of
//! [`crate::vmx::scenario`].

use tollgate_abi::ExitReason;
use tollgate_abi::exit_reason::{Controls, Feature};
use tollgate_abi::profile::Profile;
use tollgate_abi::svm_exit::{self, Intercept, code, intercept};
use tollgate_abi::x86::control::{CR0_ET, CR0_PE, EFER_SVME};
use tollgate_abi::x86::segment::{SELECTOR_RPL, attributes};

use super::controls::Intercepts;
use super::nmi::Nmis;
use super::scenario_hardware as hardware;
use super::vmcb::*;
use super::{Svm, guest_state};
use crate::board::Signal;
use crate::exit::{Backend, GuestState, Interrupts, vector};
use crate::handlers::interrupt::end_of_interrupt;
use crate::host::registers::NEVER;
use crate::staging::{LOOP, READ_RDI, Row, Staging, UD2, row};

/// Address bits of a nested entry that no processor has.
const RESERVED_ADDRESS: u64 = 1 << 51;

/// A loop with PAUSE, so that another processor gets its turn to send.
const PAUSE_LOOP: &[u8] = &[0xf3, 0x90, 0xeb, 0xfc];

impl Svm {
    /// The controls that this processor allows, as far as scenarios need to know: the features that it `has`, and those that
    /// QEMU's emulation lacks.
    pub fn allowed(&self, has: impl Fn(Feature) -> bool) -> Controls {
        let is_qemu = self.capabilities.facts.is_qemu;
        let features = u32::from(has(Feature::OtherCpu)) << Feature::OtherCpu as u8
            | u32::from(has(Feature::InitRedirection) && !is_qemu) << Feature::InitRedirection as u8
            | u32::from(!is_qemu) << Feature::WholeSvm as u8
            | u32::from(is_qemu) << Feature::EarlyRsm as u8
            | u32::from(has(Feature::InitForgotten)) << Feature::InitForgotten as u8;
        Controls { features, ..Staging::controls_now(self) }
    }

    #[inline(never)]
    fn intercept(&mut self, code: u32, on: bool) {
        let mut intercepts = Intercepts::read(self.vmcb);
        match intercept(code) {
            Intercept::CrWrite(bit) if !on => intercepts.cr_write &= !(1 << bit),
            Intercept::Other { word, bit } if !on => intercepts.others[usize::from(word)] &= !(1 << bit),
            _ => intercepts.set(code),
        }
        intercepts.write(self.vmcb);
    }
}

impl Staging for Svm {
    type Pages = ();

    const ROWS: &'static [Row<Self>] = &[
        row("shutdown", UD2, |_| {}),
        row("invalid-vmcb", LOOP, |frame| {
            let efer = frame.backend.vmcb.get(EFER);
            frame.backend.vmcb.set(EFER, efer & !EFER_SVME);
        }),
        Row {
            name: "reserved-nested-bit",
            code: READ_RDI,
            set_up: |frame| frame.backend.set_fresh_entry(RESERVED_ADDRESS | 0b111),
            clean_up: |frame| frame.backend.set_fresh_entry(0),
        },
        // mov rax, cr0; xor eax, AM; mov cr0, rax
        row("selective-cr0-write", &[0x0f, 0x20, 0xc0, 0x35, 0, 0, 4, 0, 0x0f, 0x22, 0xc0], |frame| {
            frame.backend.intercept(code::CR0_WRITE, false);
            frame.backend.intercept(code::CR0_SEL_WRITE, true);
        }),
        row("pushf", &[0x9c], |frame| frame.backend.intercept(code::PUSHF, true)),
        row("popf", &[0x9d], |frame| frame.backend.intercept(code::POPF, true)),
        row("rsm", &[0x0f, 0xaa], |frame| frame.backend.intercept(code::RSM, true)),
        row("iret", &[0x48, 0xcf], |frame| frame.backend.intercept(code::IRET, true)),
        row("software-interrupt", &[0xcd, 0x20], |frame| frame.backend.intercept(code::SWINT, true)),
        row("icebp", &[0xf1], |frame| frame.backend.intercept(code::ICEBP, true)),
        Row {
            name: "non-maskable-interrupt",
            code: PAUSE_LOOP,
            set_up: |frame| frame.ask(Signal::Nmi),
            clean_up: |frame| frame.backend.take_nmi(),
        },
        Row {
            name: "security-exception",
            code: PAUSE_LOOP,
            set_up: |frame| {
                frame.backend.intercept(code::INIT, false);
                frame.backend.intercept_exception(vector::SX);
                hardware::redirect_init(true);
                frame.ask(Signal::Init);
            },
            clean_up: |_| hardware::redirect_init(false),
        },
        row("init-signal", PAUSE_LOOP, |frame| frame.ask(Signal::Init)),
    ];

    fn controls_now(&self) -> Controls {
        Intercepts::read(self.vmcb).in_force()
    }

    #[inline(never)]
    fn reset(&mut self, rip: u64, rsp: u64, cr3: u64) {
        self.guest_deadline_tsc = NEVER;
        self.long_mode = true;
        self.halt = None;
        self.nmis = Nmis::default();
        guest_state::write(self.vmcb, rip, cr3);
        self.vmcb.set(RSP, rsp);
        self.operation.load(self.vmcb);
        let _ = self.set_profile(Profile::Minimal);
    }

    /// The watchdog is the bound.
    fn bound(&mut self, ticks: u64) {
        self.watchdog_ticks = ticks;
    }

    fn fresh_gpa(&self) -> u64 {
        self.npt.fresh_gpa()
    }

    #[inline(never)]
    fn set_fresh_entry(&mut self, entry: u64) {
        self.npt.set_fresh_entry(self.fresh_gpa(), entry);
        self.flush_translations(None);
    }

    fn intercept_exception(&mut self, vector: u8) {
        self.intercept(svm_exit::exception(vector), true);
    }

    fn set_code_rights(&mut self, rights: u64) {
        self.vmcb.set_part(CS.attributes(), attributes(rights));
    }

    fn enter_ring_3(&mut self, code_rights: u64, stack_rights: u64) {
        let vmcb = self.vmcb;
        for (segment, rights) in [(CS, code_rights), (SS, stack_rights)] {
            vmcb.set_part(segment.selector(), vmcb.part(segment.selector()) | u64::from(SELECTOR_RPL));
            vmcb.set_part(segment.attributes(), attributes(rights));
        }
        vmcb.set_part(CPL, 3);
    }

    fn go_unpaged(&mut self) {
        self.long_mode = false;
        self.vmcb.set(CR0, CR0_PE | CR0_ET);
        self.vmcb.set(CR4, 0);
        self.vmcb.set(EFER, EFER_SVME);
    }

    fn settle(&mut self) {
        // The interrupt at the end of the scenario's bound, if it came to that. An INIT that has made its exit stays pending, and
        // would reset the processor if interrupts were let in.
        if self.exit_reason().basic() == ExitReason::EXTERNAL_INTERRUPT {
            let vector = self.take_interrupt();
            end_of_interrupt(vector, self);
        }
        // Otherwise its interrupt would wait at the APIC for the next scenario, if this one's records take longer to write.
        self.set_watchdog(false);
    }
}
