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
        self.bound_tsc = limit_tsc;
        self.watch_tsc = limit_tsc;
        self.program_timer();
    }

    fn arm_timer(&mut self, deadline_tsc: Option<u64>) {
        self.guest_deadline_tsc = deadline_tsc.unwrap_or(NEVER);
        self.program_timer();
    }

    fn set_bound(&mut self, deadline_tsc: Option<u64>) -> bool {
        let bound_tsc = deadline_tsc.unwrap_or(NEVER).min(self.limit_tsc);
        let is_change = bound_tsc != self.bound_tsc;
        if is_change {
            self.bound_tsc = bound_tsc;
            self.watch_tsc = bound_tsc;
            // That is the watchdog's interrupt, which is not missed if it comes later.
            self.set_watchdog(self.halt.is_none());
        }
        is_change
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
