//! Exits that time brings about: the VMX-preemption timer (SDM 3C 26.5.1), and the processor's own APIC.

use super::Vmx;
use super::field as f;
use crate::exit::Timers;
use crate::host::own_apic::{OnProcessor, OwnApic};
use crate::host::registers::{self, NEVER};
use crate::host::vectors::TIMER_VECTOR;

impl Vmx {
    /// Loads the timer that makes an exit for the next look.
    pub(super) fn load_timer(&mut self) {
        if self.watch.has_timer {
            self.vmcs.write(f::PREEMPTION_TIMER, self.watch.timer());
        } else if self.watch.interrupts {
            self.share_timer();
        }
    }

    /// Sets the processor's own APIC timer to the earlier of its two uses.
    #[cold]
    #[inline(never)]
    fn share_timer(&self) {
        let (vector, at_tsc) = self.watch.interrupt();
        self.own_apic.local_apic.arm_timer(vector, at_tsc);
    }

    /// Stops the watchdog: from now on only scenarios run, each with a bound of its own, and no interrupt of the watchdog may end
    /// one.
    pub(super) fn watch_no_more(&mut self) {
        if core::mem::take(&mut self.watch.interrupts) {
            self.arm_timer(None);
        }
    }
}

impl OnProcessor for Vmx {
    #[inline(always)]
    fn own_apic(&self) -> &OwnApic {
        &self.own_apic
    }
}

impl Timers for Vmx {
    const WATCHDOG_INTERRUPTS: bool = false;

    fn set_limit(&mut self, limit_tsc: u64, ticks: u64) {
        self.watch.set_limit(limit_tsc, ticks);
        self.own_apic.local_apic.prepare_timer(TIMER_VECTOR);
        self.arm_timer(None);
    }

    fn arm_timer(&mut self, deadline_tsc: Option<u64>) {
        let at_tsc = deadline_tsc.map_or(self.watch.idle_tsc, |deadline| deadline.min(self.watch.bound_tsc));
        if self.watch.interrupts {
            self.watch.timer_tsc = at_tsc;
            return self.share_timer();
        }
        self.own_apic.local_apic.set_timer(TIMER_VECTOR, at_tsc);
    }

    fn set_bound(&mut self, deadline_tsc: Option<u64>) -> bool {
        self.watch.set_bound(deadline_tsc.unwrap_or(NEVER))
    }

    fn restart_watchdog(&mut self) {
        self.watch.restart(registers::tsc());
        self.load_timer();
    }

    fn watchdog_is_due(&mut self) -> bool {
        let due = self.watch.is_due(registers::tsc());
        if !due {
            self.load_timer();
        }
        due
    }
}
