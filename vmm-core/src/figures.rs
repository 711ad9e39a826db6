//! Figures of an account: stored by the one processor that they are about, read by any.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tollgate_abi::ExitReason;
use tollgate_abi::key::KeyKind;

/// Adds to a figure that only this processor writes.
#[inline(always)]
pub(crate) fn add(figure: &AtomicU64, amount: u64) {
    figure.store(figure.load(Relaxed).wrapping_add(amount), Relaxed);
}

/// The exits of a part of a reason at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartFigures {
    /// Exits.
    pub count: u64,
    /// TSC ticks of all of them.
    pub cycles: u64,
    /// Of the shortest; 0 if none was closed.
    pub min: u64,
    /// Of the longest.
    pub max: u64,
}

/// The exits of one key, or of the keys that have no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyFigures {
    /// The key and what it is; `None` for the others.
    pub key: Option<(KeyKind, u64)>,
    /// Its exits.
    pub part: PartFigures,
}

/// The exits of one variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VariantFigures {
    /// The reason.
    pub reason: ExitReason,
    /// The variant's name.
    pub name: &'static str,
    /// Its exits.
    pub part: PartFigures,
}
