//! The settings of firmware in a local APIC, kept while the monitor has it and put back afterwards.
#![expect(unsafe_code, reason = "reads and writes the MSR of the timer's deadline")]

use tollgate_abi::apic::{
    DIVIDE, IA32_TSC_DEADLINE, INITIAL_COUNT, IRR, LVT_PERIODIC, LVT_TIMER, LVT_TSC_DEADLINE, SVR,
};
use x86_64::registers::model_specific::Msr;

use super::LocalApic;

/// Registers that hold the requested interrupts, 32 bits each.
const REQUEST_REGISTERS: u32 = 8;

/// The registers that [`LocalApic::enable`] and its timer change.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    apic: LocalApic,
    spurious: u32,
    lvt_timer: u32,
    divide: u32,
    initial_count: u32,
    /// Where the timer has a deadline.
    deadline: Option<u64>,
}

impl Settings {
    /// Those of this processor's APIC; `None` where [`LocalApic::enable`] would refuse it.
    pub fn keep() -> Option<Self> {
        let apic = LocalApic::find().ok()?;
        let lvt_timer = apic.read(LVT_TIMER);
        let has_deadline = lvt_timer & (LVT_PERIODIC | LVT_TSC_DEADLINE) == LVT_TSC_DEADLINE;
        Some(Self {
            apic,
            spurious: apic.read(SVR),
            lvt_timer,
            divide: apic.read(DIVIDE),
            initial_count: apic.read(INITIAL_COUNT),
            // SAFETY: a timer in this mode has the MSR.
            deadline: has_deadline.then(|| unsafe { Msr::new(IA32_TSC_DEADLINE).read() }),
        })
    }

    /// Whether an interrupt waits to be taken.
    pub fn has_request(&self) -> bool {
        (0..REQUEST_REGISTERS).any(|register| self.apic.read(IRR + register) != 0)
    }

    /// Ends the interrupt that was taken last.
    pub fn end_of_interrupt(&self) {
        self.apic.end_of_interrupt();
    }

    /// Puts them back. A timer that ran begins its period anew.
    pub fn put_back(&self) {
        self.apic.write(DIVIDE, self.divide);
        self.apic.write(LVT_TIMER, self.lvt_timer);
        match self.deadline {
            // SAFETY: as in `keep`; firmware had set this very deadline.
            Some(deadline) => unsafe {
                core::arch::asm!("mfence", options(nostack, preserves_flags));
                Msr::new(IA32_TSC_DEADLINE).write(deadline);
            },
            None => self.apic.write(INITIAL_COUNT, self.initial_count),
        }
        self.apic.write(SVR, self.spurious);
    }
}
