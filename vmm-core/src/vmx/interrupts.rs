//! Events that are injected, and events that arrive: VM-entry control fields, windows, activity (SDM 3C 25.8.3, 27.6, 27.7.5).

use super::field as f;
use super::state::SHADOW;
use super::wanted::{INTERRUPT_WINDOW, NMI_WINDOW};
use super::{Vmx, qualification};
use crate::exit::{Event, GuestState, Interrupts, State, VirtualizedApic};
use tollgate_abi::x86::control::{
    ACTIVITY_ACTIVE, ACTIVITY_HLT, BLOCKING_BY_NMI, CR0_PE, EVENT_HAS_ERROR_CODE, RFLAGS_IF, RFLAGS_TF,
};

/// Interruptibility state: blocking by NMI, or virtual-NMI blocking if there are virtual NMIs.
const BLOCKED_BY_NMI: u32 = BLOCKING_BY_NMI as u32;
/// Exit interruption information: an IRET has raised this exception, and has already ended the blocking by NMI (SDM 3C 28.2.3).
const UNBLOCKED_BY_IRET: u32 = 1 << 12;
/// Entry interruption information: deliver an error code.
const DELIVER_ERROR_CODE: u32 = EVENT_HAS_ERROR_CODE as u32;
/// Activity states (SDM 3C 25.4.2).
const ACTIVE: u32 = ACTIVITY_ACTIVE as u32;
const HALTED: u32 = ACTIVITY_HLT as u32;

impl Vmx {
    /// Blocks NMIs again, as before an IRET that has not come to its end.
    #[cold]
    #[inline(never)]
    fn block_nmis_again(&mut self) {
        let interruptibility = self.vmcs.read(f::GUEST_INTERRUPTIBILITY);
        self.vmcs.write(f::GUEST_INTERRUPTIBILITY, interruptibility | BLOCKED_BY_NMI);
    }
}

impl Interrupts for Vmx {
    #[inline(always)]
    fn inject(&mut self, event: Event) {
        let mut information = qualification::entry_information(event);
        if let Some(error_code) = event.error_code {
            self.vmcs.write(f::ENTRY_EXCEPTION_ERROR_CODE, error_code);
            // In real mode no error code is delivered, and a VM entry would refuse one (SDM 3C 27.2.1.3).
            if !self.long_mode && self.get(State::Cr0) & CR0_PE == 0 {
                information &= !DELIVER_ERROR_CODE;
            }
        }
        self.vmcs.write(f::ENTRY_INTERRUPTION_INFORMATION, information);
        if event.instruction_bytes != 0 {
            self.vmcs.write(f::ENTRY_INSTRUCTION_LENGTH, event.instruction_bytes.into());
        }
    }

    fn takes_interrupts(&self, ends: bool) -> bool {
        let rflags = self.vmcs.read(f::GUEST_RFLAGS);
        if ends {
            return rflags & (RFLAGS_IF | RFLAGS_TF) == RFLAGS_IF;
        }
        rflags & RFLAGS_IF != 0 && self.vmcs.read(f::GUEST_INTERRUPTIBILITY) & SHADOW == 0
    }

    fn takes_nmis(&self, ends: bool) -> bool {
        let interruptibility = self.vmcs.read(f::GUEST_INTERRUPTIBILITY);
        if ends {
            return interruptibility & BLOCKED_BY_NMI == 0 && self.vmcs.read(f::GUEST_RFLAGS) & RFLAGS_TF == 0;
        }
        interruptibility & (BLOCKED_BY_NMI | SHADOW) == 0
    }

    fn ask_for_window(&mut self, wanted: bool) {
        if wanted != self.window {
            let controls = self.vmcs.read(f::PROC_CONTROLS);
            self.vmcs.write(f::PROC_CONTROLS, controls & !INTERRUPT_WINDOW | if wanted { INTERRUPT_WINDOW } else { 0 });
            self.window = wanted;
        }
    }

    fn ask_for_nmi_window(&mut self, wanted: bool) {
        if self.virtual_nmis && wanted != self.nmi_window {
            let controls = self.vmcs.read(f::PROC_CONTROLS);
            self.vmcs.write(f::PROC_CONTROLS, controls & !NMI_WINDOW | if wanted { NMI_WINDOW } else { 0 });
            self.nmi_window = wanted;
        }
    }

    fn take_exit_event(&mut self) -> Option<Event> {
        let information = self.vmcs.read(f::EXIT_INTERRUPTION_INFORMATION);
        if information & UNBLOCKED_BY_IRET != 0 {
            self.block_nmis_again();
        }
        self.event_of(information)
    }

    fn take_interrupt(&mut self) -> u8 {
        // The exit has acknowledged the interrupt.
        self.vmcs.read(f::EXIT_INTERRUPTION_INFORMATION) as u8
    }

    fn take_nmi(&mut self) {}

    #[inline(always)]
    fn takes_own_step(&mut self) -> bool {
        false
    }

    fn nmi_handler_ends(&mut self) {}

    fn halt(&mut self) {
        self.watch.halted = true;
        self.load_timer();
        self.vmcs.write(f::GUEST_ACTIVITY, HALTED);
    }

    fn wake(&mut self) {
        self.watch.halted = false;
        self.load_timer();
        self.vmcs.write(f::GUEST_ACTIVITY, ACTIVE);
    }

    fn virtualized_apic(&self) -> VirtualizedApic {
        self.virtualized_apic
    }

    fn set_interrupt_status(&mut self, requested: u8, in_service: u8) {
        self.vmcs.write(f::GUEST_INTERRUPT_STATUS, u16::from(in_service) << 8 | u16::from(requested));
    }

    fn set_priority_threshold(&mut self, class: u8) {
        self.vmcs.write(f::TPR_THRESHOLD, class.into());
    }

    fn set_task_priority(&mut self, _: u8) {}
}
