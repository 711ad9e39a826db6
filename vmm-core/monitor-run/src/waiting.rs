//! A vCPU that does not run: how it waits for a start-up IPI, and how the first hears that nothing can happen any more.

use vmm_core::board::{Condition, Message};
use vmm_core::handlers::apic::KICK_VECTOR;
use vmm_core::host::local_apic::LocalApic;

use crate::board::BOARD;

/// Waits for a start-up IPI, and runs then; `None` if the guest is over.
pub(crate) fn start_up_vector(vcpu: usize, local_apic: &LocalApic) -> Option<u8> {
    loop {
        if BOARD.is_to_stop(vcpu) {
            return None;
        }
        if !BOARD.is_under_way(vcpu) {
            core::hint::spin_loop();
            continue;
        }
        if !BOARD.run(vcpu) {
            return None;
        }
        while let Some(message) = BOARD.receive(vcpu) {
            if let Message::StartUp(vector) = message {
                return Some(vector);
            }
            // What was sent before INIT was taken is lost with it.
        }
        rest(vcpu, local_apic, Condition::Waiting);
    }
}

/// Says that a vCPU waits or is over; vCPU 0 hears of it if nothing can ever happen again.
pub(crate) fn rest(vcpu: usize, local_apic: &LocalApic, condition: Condition) {
    if BOARD.rest(vcpu, condition) {
        local_apic.interrupt(BOARD.apic_id(0), KICK_VECTOR + vcpu as u8);
    }
}
