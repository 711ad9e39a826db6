//! The bounds of a run: its last TSC, the time that a processor may be away, and a person's key.

use core::sync::atomic::Ordering;

use super::Board;

impl Board {
    /// Sets the TSC at which the run ends at the latest, before any vCPU runs.
    pub fn set_limit(&self, limit_tsc: u64) {
        self.limit_tsc.store(limit_tsc, Ordering::Release);
    }

    /// The TSC at which the run ends at the latest.
    pub fn limit_tsc(&self) -> u64 {
        self.limit_tsc.load(Ordering::Acquire)
    }

    /// Sets the TSC ticks that a processor may be away without being missed: many, where another hypervisor schedules it.
    pub fn set_patience(&self, ticks: u64) {
        self.patience_ticks.store(ticks, Ordering::Relaxed);
    }

    /// TSC ticks to wait for a processor: `usual` if nothing holds processors up.
    pub fn patience(&self, usual: u64) -> u64 {
        self.patience_ticks.load(Ordering::Relaxed).max(usual)
    }

    /// Lets a person end the guest by a key from now on.
    pub fn listen(&self) {
        self.listens.store(true, Ordering::Relaxed);
    }

    /// Whether a person may end the guest by a key.
    pub fn listens(&self) -> bool {
        self.listens.load(Ordering::Relaxed)
    }
}
