//! One kernel's boot under two hypervisors, by the emulator's own log: exits of each reason, and the ticks from each exit to the
//! entry behind it. The log knows neither hypervisor, so that both are measured alike.
//!
//! ```text
//! log ► reader ► [`Boot`] ─┐
//! log ► reader ► [`Boot`] ─┴► [`Comparison`] ► document
//! ```

mod document;
mod figures;
mod goals;
mod reader;
mod reasons;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use document::document;
pub use figures::{Comparison, Seconds, Wall};
pub use reader::BootReader;

/// The exits of one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Exits.
    pub exits: u64,
    /// Those that an entry follows; the last of a machine has none.
    pub returned: u64,
    /// Ticks from these exits to the entries.
    pub ticks: u64,
}

impl Cost {
    fn add_exit(&mut self) {
        self.exits += 1;
    }

    fn add_ticks(&mut self, ticks: u64) {
        self.returned += 1;
        self.ticks += ticks;
    }

    /// Ticks of an exit, on average; `None` if none has returned.
    pub fn average(&self) -> Option<f64> {
        (self.returned > 0).then(|| self.ticks as f64 / self.returned as f64)
    }
}

/// The exits of a part of a boot, by row of the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stretch {
    /// The reasons that occurred.
    pub reasons: BTreeMap<u16, Cost>,
}

impl Stretch {
    /// The exits of a row; none are zeros.
    pub fn of(&self, row: u16) -> Cost {
        self.reasons.get(&row).copied().unwrap_or_default()
    }

    /// Exits of all reasons.
    pub fn exits(&self) -> u64 {
        self.reasons.values().map(|cost| cost.exits).sum()
    }

    /// The hypervisor's ticks.
    pub fn ticks(&self) -> u64 {
        self.reasons.values().map(|cost| cost.ticks).sum()
    }
}

/// A boot in two parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// From the first instruction of the kernel to the first of its user space, which marks itself.
    pub until_init: Stretch,
    /// Ticks in the guest up to there.
    pub guest_ticks: u64,
    /// From there to the end. A guest that halts makes the hypervisor wait here.
    pub from_init: Stretch,
    /// Whether there was a mark.
    pub is_marked: bool,
}
