//! The processor under a vCPU, as its exits need it: the time, and the processor's own APIC.

use super::local_apic::LocalApic;
use super::{keyboard, registers};
use crate::exit::Processor;

/// The APIC of the processor that a vCPU runs on.
#[derive(Debug)]
pub struct OwnApic {
    pub(crate) local_apic: LocalApic,
    kick_vector: u8,
}

impl OwnApic {
    /// The given APIC, and the vector with which the vCPU interrupts the others' processors.
    pub fn new(local_apic: LocalApic, kick_vector: u8) -> Self {
        Self { local_apic, kick_vector }
    }
}

/// A backend that runs on a processor, and not in a test.
pub trait OnProcessor {
    /// The processor's own APIC.
    fn own_apic(&self) -> &OwnApic;
}

impl<B: OnProcessor> Processor for B {
    #[inline(always)]
    fn tsc(&self) -> u64 {
        registers::tsc()
    }

    fn kick(&mut self, apic_id: u32) {
        let OwnApic { local_apic, kick_vector } = self.own_apic();
        local_apic.interrupt(apic_id, *kick_vector);
    }

    fn end_of_interrupt(&mut self) {
        self.own_apic().local_apic.end_of_interrupt();
    }

    fn escape_was_pressed(&mut self) -> bool {
        keyboard::escape_was_pressed()
    }
}
