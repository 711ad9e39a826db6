//! The exits that are recorded: every one in a ring until it is written (`run --trace`), and their number in equal steps of time
//! (`run --rate-step`).
//!
//! A full ring drops further exits and counts them by reason, so that trace and drops together are the ledger.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use tollgate_abi::ExitReason;
use tollgate_abi::exit_reason::ROWS;
use tollgate_abi::trace::Event;

use crate::figures::add;

/// The facts of an exit that show before it is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The guest's RIP.
    pub rip: u64,
    /// The exit qualification.
    pub qualification: u64,
}

/// Steps of time for which exits are counted. When they are used up, each two become one.
pub const STEPS: usize = 256;

/// The exits and rates that accounts are to record.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recording {
    /// The ring, empty for no trace.
    pub ring: &'static [Slot],
    /// TSC ticks of a step; 0 for no samples.
    pub rate_step_ticks: u64,
    /// The TSC at which the first step begins.
    pub start_tsc: u64,
    /// Whether keys are kept, too.
    pub keys: bool,
}

/// Room for one exit: TSC, RIP, qualification, cycles and reason.
pub type Slot = [AtomicU64; 4];

/// Bits of a slot's last word that hold the reason.
const REASON_BITS: u32 = 16;

/// Exits that were not recorded.
#[derive(Debug, Default)]
struct Dropped {
    count: AtomicU64,
    cycles: AtomicU64,
}

/// The exits of one vCPU that have not been written yet. Written by that vCPU; emptied while it is quiet.
#[derive(Debug)]
pub struct Ring {
    slots: &'static [Slot],
    used: AtomicU64,
    dropped: [Dropped; ROWS],
}

impl Ring {
    pub(crate) fn new(slots: &'static [Slot]) -> Self {
        Self {
            slots,
            used: AtomicU64::new(0),
            dropped: [const { Dropped { count: AtomicU64::new(0), cycles: AtomicU64::new(0) } }; ROWS],
        }
    }

    /// The most exits that it holds.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    #[inline(always)]
    pub(crate) fn push(&self, row: usize, tsc: u64, cycles: u64, witness: Witness) {
        let used = self.used.load(Relaxed);
        let Some([at, rip, qualification, rest]) = self.slots.get(used as usize) else {
            return self.count_drop(row, cycles);
        };
        at.store(tsc, Relaxed);
        rip.store(witness.rip, Relaxed);
        qualification.store(witness.qualification, Relaxed);
        rest.store(cycles << REASON_BITS | row as u64, Relaxed);
        self.used.store(used + 1, Relaxed);
    }

    #[cold]
    #[inline(never)]
    fn count_drop(&self, row: usize, cycles: u64) {
        if let Some(dropped) = self.dropped.get(row).filter(|_| !self.slots.is_empty()) {
            add(&dropped.count, 1);
            add(&dropped.cycles, cycles);
        }
    }

    /// Gives its exits to `each`, in their order, and is empty then. Only while its vCPU is quiet.
    pub fn drain(&self, mut each: impl FnMut(Event)) {
        let used = self.used.load(Relaxed) as usize;
        for [tsc, rip, qualification, rest] in self.slots.iter().take(used) {
            let rest = rest.load(Relaxed);
            each(Event {
                tsc: tsc.load(Relaxed),
                reason: rest as u16,
                cycles: rest >> REASON_BITS,
                rip: rip.load(Relaxed),
                qualification: qualification.load(Relaxed),
            });
        }
        self.used.store(0, Relaxed);
    }

    /// Exits for `reason` that found no room, and their cycles.
    pub fn dropped(&self, reason: ExitReason) -> (u64, u64) {
        let dropped = &self.dropped[reason.ledger_row()];
        (dropped.count.load(Relaxed), dropped.cycles.load(Relaxed))
    }
}

/// Exits of one vCPU by reason and step of time.
#[derive(Debug)]
pub struct Rates {
    /// The counts by row and step; empty if nothing is sampled.
    counts: Box<[AtomicU32]>,
    step_ticks: AtomicU64,
    start_tsc: u64,
}

impl Rates {
    pub(crate) fn new(step_ticks: u64, start_tsc: u64) -> Self {
        let counts = if step_ticks > 0 { ROWS * STEPS } else { 0 };
        Self {
            counts: (0..counts).map(|_| AtomicU32::new(0)).collect(),
            step_ticks: AtomicU64::new(step_ticks),
            start_tsc,
        }
    }

    #[inline(always)]
    pub(crate) fn count(&self, row: usize, tsc: u64) {
        if !self.counts.is_empty() {
            self.count_in_step(row, tsc);
        }
    }

    #[inline(never)]
    fn count_in_step(&self, row: usize, tsc: u64) {
        // Another processor's clock may be behind.
        let elapsed = tsc.saturating_sub(self.start_tsc);
        let step = loop {
            match elapsed.checked_div(self.step_ticks.load(Relaxed)) {
                Some(step) if step < STEPS as u64 => break step as usize,
                Some(_) => self.halve(),
                None => return,
            }
        };
        if let Some(count) = self.counts.get(row * STEPS + step) {
            count.store(count.load(Relaxed).saturating_add(1), Relaxed);
        }
    }

    /// Makes one step of each two.
    #[cold]
    #[inline(never)]
    fn halve(&self) {
        for row in self.counts.chunks_exact(STEPS) {
            for step in 0..STEPS {
                let of = |step: usize| row.get(step).map_or(0, |count| count.load(Relaxed));
                row[step].store(of(2 * step).saturating_add(of(2 * step + 1)), Relaxed);
            }
        }
        self.step_ticks.store(self.step_ticks.load(Relaxed).saturating_mul(2), Relaxed);
    }

    /// Whether exits are counted by time at all.
    pub(crate) fn is_sampled(&self) -> bool {
        !self.counts.is_empty()
    }

    /// TSC ticks of a step, and the TSC at which the first begins.
    pub fn steps(&self) -> (u64, u64) {
        (self.step_ticks.load(Relaxed), self.start_tsc)
    }

    /// Exits for `reason` in each step up to the last that has any.
    pub fn of(&self, reason: ExitReason) -> impl Iterator<Item = u32> + Clone {
        let row = self.counts.chunks_exact(STEPS).nth(reason.ledger_row()).unwrap_or_default();
        let counts = row.iter().map(|count| count.load(Relaxed));
        let used = counts.clone().rposition(|count| count > 0).map_or(0, |last| last + 1);
        counts.take(used)
    }
}
