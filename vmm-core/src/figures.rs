//! Figures of an account: stored by the one processor that they are about, read by any.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tollgate_abi::ExitReason;
use tollgate_abi::figures::Figures;
use tollgate_abi::key::KeyKind;

/// Adds to a figure that only this processor writes.
#[inline(always)]
pub(crate) fn add(figure: &AtomicU64, amount: u64) {
    figure.store(figure.load(Relaxed).wrapping_add(amount), Relaxed);
}

/// Replaces a figure that only this processor writes, without a locked instruction, and returns the one before.
fn replace(figure: &AtomicU64, value: u64) -> u64 {
    let old = figure.load(Relaxed);
    figure.store(value, Relaxed);
    old
}

/// The figures of exits of one kind, as a vCPU keeps them.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Kept {
    pub(crate) count: AtomicU64,
    pub(crate) cycles: AtomicU64,
    /// TSC ticks of the shortest exit; `u64::MAX` while none was closed.
    pub(crate) min: AtomicU64,
    pub(crate) max: AtomicU64,
}

impl Kept {
    /// The figures of no exit.
    pub(crate) const fn empty() -> Self {
        Self {
            count: AtomicU64::new(0),
            cycles: AtomicU64::new(0),
            min: AtomicU64::new(u64::MAX),
            max: AtomicU64::new(0),
        }
    }

    /// Books the ticks of an exit that has been counted.
    pub(crate) fn close(&self, cycles: u64) {
        add(&self.cycles, cycles);
        self.min.store(self.min.load(Relaxed).min(cycles), Relaxed);
        self.max.store(self.max.load(Relaxed).max(cycles), Relaxed);
    }

    /// Adds the figures of `other`, and empties those.
    pub(crate) fn absorb(&self, other: &Kept) {
        add(&self.count, replace(&other.count, 0));
        add(&self.cycles, replace(&other.cycles, 0));
        self.min.store(self.min.load(Relaxed).min(replace(&other.min, u64::MAX)), Relaxed);
        self.max.store(self.max.load(Relaxed).max(replace(&other.max, 0)), Relaxed);
    }

    /// The figures at this moment.
    pub(crate) fn read(&self) -> Figures {
        let min = self.min.load(Relaxed);
        Figures {
            count: self.count.load(Relaxed),
            cycles: self.cycles.load(Relaxed),
            min: if min == u64::MAX { 0 } else { min },
            max: self.max.load(Relaxed),
        }
    }
}

/// The exits of one key, or of the keys that have no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// The key and its kind; `None` for the others.
    pub key: Option<(KeyKind, u64)>,
    /// The key's exits.
    pub figures: Figures,
}

/// The exits of one variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VariantRow {
    /// The reason.
    pub reason: ExitReason,
    /// The variant's name.
    pub name: &'static str,
    /// The variant's exits.
    pub figures: Figures,
}
