//! Events that are injected, and events that arrive: EVENTINJ, virtual interrupts, and intercepts as windows (APM 2 15.20,
//! 15.21).

use super::controls::{HLT, IRET, VINTR};
use super::exit_information as information;
use super::vmcb as f;
use super::{Halt, Svm};
use crate::exit::{Event, EventKind, Interrupts, VirtualizedApic};
use tollgate_abi::x86::control::{CR0_PE, RFLAGS_IF};

impl Svm {
    /// Whether interrupts are injected as virtual ones, by V_IRQ (APM 2 15.21.4). QEMU takes one from EVENTINJ a second time if
    /// the processor's turn ends before the next exit: it keeps the vector as that of an exception under way (seen on 7.2).
    #[inline(always)]
    pub(super) fn injects_virtual_interrupts(&self) -> bool {
        self.capabilities.facts.is_qemu && !self.window
    }
}

impl Interrupts for Svm {
    #[inline(always)]
    fn inject(&mut self, event: Event) {
        if event.instruction_bytes != 0 {
            let rip = self.vmcb.get(f::RIP);
            (self.software_rip, self.software_bytes) = (rip, event.instruction_bytes);
            // The pushed RIP is the one behind the instruction.
            let rip = rip.wrapping_add(event.instruction_bytes.into());
            self.vmcb.set(f::RIP, rip);
            self.vmcb.set(f::NRIP, rip);
        }
        if event.kind == EventKind::Nmi {
            self.nmis.begin();
            self.set_intercept_0(IRET, true);
        }
        if event.kind == EventKind::ExternalInterrupt && self.injects_virtual_interrupts() {
            let others = self.vmcb.get(f::VIRTUAL_INTERRUPT) & !f::V_INTR_VECTOR;
            let vector = u64::from(event.vector) << f::V_INTR_VECTOR_SHIFT;
            self.vmcb.set(f::VIRTUAL_INTERRUPT, others | vector | f::V_IRQ);
        } else {
            // In real mode no error code is delivered (APM 2 8.2).
            let is_real_mode = || !self.long_mode && self.vmcb.get(f::CR0) & CR0_PE == 0;
            let error_code = event.error_code.filter(|_| !is_real_mode());
            self.vmcb.set(f::EVENTINJ, information::injection(Event { error_code, ..event }));
        }
    }

    fn takes_interrupts(&self, ends: bool) -> bool {
        self.vmcb.get(f::RFLAGS) & RFLAGS_IF != 0 && if ends { !self.steps() } else { !self.has_shadow() }
    }

    fn takes_nmis(&self, ends: bool) -> bool {
        !self.nmis.in_handler && !self.is_before_iret() && if ends { !self.steps() } else { !self.has_shadow() }
    }

    fn ask_for_window(&mut self, wanted: bool) {
        if wanted != self.window {
            self.vmcb.put(f::VIRTUAL_INTERRUPT, f::V_IRQ, wanted);
            self.set_intercept_0(VINTR, wanted);
            self.window = wanted;
        }
    }

    fn ask_for_nmi_window(&mut self, wanted: bool) {
        if wanted {
            self.await_nmi_window();
        }
    }

    #[inline(always)]
    fn take_exit_event(&mut self) -> Option<Event> {
        let bytes = || self.instruction().map_or(1, |instruction| instruction.length);
        Some(information::exception_or_nmi(self.code(), self.vmcb.get(f::EXITINFO1), bytes))
    }

    fn take_interrupt(&mut self) -> u8 {
        if let Some(Halt { rip, .. }) = self.halt {
            // The guest halts on, unless it is woken.
            self.vmcb.set(f::RIP, rip);
        }
        self.operation.take_interrupt()
    }

    fn take_nmi(&mut self) {
        self.operation.take_nmi();
    }

    #[inline(always)]
    fn takes_own_step(&mut self) -> bool {
        self.ends_own_step()
    }

    fn nmi_handler_ends(&mut self) {
        self.iret();
    }

    #[inline(always)]
    fn halt(&mut self) {
        // The guest is no longer behind STI, though HLT is executed again. Otherwise an interrupt that comes before that, as on
        // QEMU 10, could not be delivered and would wake nobody.
        self.vmcb.set_part(f::INTERRUPT_SHADOW, 0);
        // The pause that follows leaves the watchdog off.
        self.set_intercept_0(HLT, false);
        let rip = self.vmcb.get(f::RIP);
        self.halt = Some(Halt { rip, bytes: self.next_rip().wrapping_sub(rip), stays: false });
    }

    fn wake(&mut self) {
        if let Some(Halt { rip, bytes, .. }) = self.halt.take() {
            self.vmcb.set(f::RIP, rip.wrapping_add(bytes));
            self.set_intercept_0(HLT, true);
            self.set_watchdog(true);
        }
    }

    fn virtualized_apic(&self) -> VirtualizedApic {
        VirtualizedApic::default()
    }

    fn set_interrupt_status(&mut self, _: u8, _: u8) {}

    fn set_priority_threshold(&mut self, _: u8) {}

    #[inline(always)]
    fn set_task_priority(&mut self, class: u8) {
        self.vmcb.set_part(f::V_TPR, class.into());
    }
}
