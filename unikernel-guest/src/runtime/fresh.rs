//! Fresh memory: pages that nobody has touched, each of which the monitor maps on its first touch. It maps them for each
//! vCPU by itself, so every vCPU has all of them.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tollgate_abi::machine::PAGE_BYTES;

use crate::books::cpu;

static FIRST_GPA: AtomicU64 = AtomicU64::new(0);
static END_GPA: AtomicU64 = AtomicU64::new(0);

/// Takes over the range that the monitor offers.
pub(crate) fn set_up(gpa: u64, bytes: u64) {
    FIRST_GPA.store(gpa, Relaxed);
    END_GPA.store(gpa + bytes, Relaxed);
}

/// Hands out the next `pages`, each only once on each vCPU. `None` if there are not so many left.
pub(crate) fn take(pages: u64) -> Option<u64> {
    let next_gpa = &cpu::this().next_fresh_gpa;
    let first = next_gpa.load(Relaxed).max(FIRST_GPA.load(Relaxed));
    let next = first.checked_add(pages.checked_mul(PAGE_BYTES)?)?;
    (next <= END_GPA.load(Relaxed)).then(|| {
        next_gpa.store(next, Relaxed);
        first
    })
}
