//! The ticks of a crystal, counted from time 0. The time that devices are handed is that of the processor's TSC, whose rate the
//! monitor says before the guest runs.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The rate of an emulator's TSC, whose ticks are instructions or nanoseconds.
const EMULATED_HZ: u64 = 1_000_000_000;

/// The rate of the time that devices are handed.
#[derive(Debug, Default)]
pub struct Rate {
    /// In Hz; 0 for [`EMULATED_HZ`].
    hz: AtomicU64,
}

impl Rate {
    /// An emulator's rate.
    pub const fn new() -> Self {
        Self { hz: AtomicU64::new(0) }
    }

    /// Sets the rate, of 1 MHz to 1 THz. Before the guest runs.
    pub fn set(&self, hz: u64) {
        self.hz.store(hz, Relaxed);
    }

    fn hz(&self) -> u64 {
        match self.hz.load(Relaxed) {
            0 => EMULATED_HZ,
            hz => hz,
        }
    }

    /// Ticks of a crystal of less than 4 MHz until a time.
    pub fn ticks(&self, crystal_hz: u64, time: u64) -> u64 {
        let hz = self.hz();
        (time / hz).wrapping_mul(crystal_hz).wrapping_add((time % hz).wrapping_mul(crystal_hz) / hz)
    }

    /// The first time at which the crystal has ticked so often.
    pub fn time(&self, crystal_hz: u64, ticks: u64) -> u64 {
        let hz = self.hz();
        (ticks / crystal_hz).wrapping_mul(hz).wrapping_add((ticks % crystal_hz).wrapping_mul(hz).div_ceil(crystal_hz))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_second_has_as_many_ticks_as_the_rates_say() {
        let rate = Rate::new();
        assert_eq!((rate.ticks(1_193_182, 1_000_000_000), rate.ticks(1_193_182, 500_000_000)), (1_193_182, 596_591));
        rate.set(2_400_000_000);
        assert_eq!(
            (rate.ticks(1_193_182, 2_400_000_000), rate.ticks(1_193_182, 2_399_999_999)),
            (1_193_182, 1_193_181)
        );
    }

    proptest! {
        #[test]
        fn a_tick_comes_at_its_time_and_not_before(
            mhz in 1u64..10_000_000, crystal_hz in 1u64..4_000_000, ticks in 1u64..1 << 40
        ) {
            // A few hours at the least, and no more ticks than time can tell.
            let rate = Rate::new();
            rate.set(mhz * 100_000);
            prop_assume!((ticks / crystal_hz + 1).checked_mul(mhz * 100_000).is_some());
            let time = rate.time(crystal_hz, ticks);
            prop_assert!(rate.ticks(crystal_hz, time) >= ticks);
            prop_assert!(rate.ticks(crystal_hz, time - 1) < ticks);
        }
    }
}
