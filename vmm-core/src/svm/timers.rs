//! Exits that time brings about: by the processor's own APIC alone.

use super::Svm;
use crate::exit::{Processor, Timers};
use crate::host::own_apic::{OnProcessor, OwnApic};
use crate::host::registers::NEVER;

impl OnProcessor for Svm {
    #[inline(always)]
    fn own_apic(&self) -> &OwnApic {
        &self.own_apic
    }
}

impl Timers for Svm {
    const WATCHDOG_INTERRUPTS: bool = true;

    fn set_limit(&mut self, limit_tsc: u64, _: u64) {
        self.limit_tsc = limit_tsc;
        self.watch_tsc = limit_tsc;
        self.program_timer();
    }

    fn arm_timer(&mut self, deadline_tsc: Option<u64>) {
        self.guest_deadline_tsc = deadline_tsc.unwrap_or(NEVER);
        self.program_timer();
    }

    fn restart_watchdog(&mut self) {
        self.set_watchdog(self.halt.is_none());
    }

    fn watchdog_is_due(&mut self) -> bool {
        let due = self.is_past_watchdog(self.tsc());
        if !due {
            self.program_timer();
        }
        due
    }
}
