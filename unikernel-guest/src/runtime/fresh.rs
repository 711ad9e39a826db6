//! Fresh memory: pages that nobody has touched, each of which the monitor maps on its first touch. It maps them for each
//! vCPU by itself, so every vCPU has all of them.

use core::ops::Range;
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
    let free = next_gpa.load(Relaxed).max(FIRST_GPA.load(Relaxed))..END_GPA.load(Relaxed);
    let taken = first_of(&free, pages)?;
    next_gpa.store(taken.end, Relaxed);
    Some(taken.start)
}

/// The first pages of a range, if it has so many.
fn first_of(free: &Range<u64>, pages: u64) -> Option<Range<u64>> {
    let end = free.start.checked_add(pages.checked_mul(PAGE_BYTES)?)?;
    (end <= free.end).then_some(free.start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_handed_out_until_there_are_none() {
        let mut free = 0x80_0000..0x80_0000 + 5 * PAGE_BYTES;
        let mut taken = 0;
        for (pages, end) in [(2, 2), (3, 5), (0, 5)] {
            let pages = first_of(&free, pages).unwrap();
            taken += (pages.end - pages.start) / PAGE_BYTES;
            assert_eq!((pages.start, pages.end), (free.start, 0x80_0000 + end * PAGE_BYTES));
            free.start = pages.end;
        }
        assert_eq!((taken, first_of(&free, 1)), (5, None));
        for too_many in [6, u64::MAX / PAGE_BYTES, u64::MAX] {
            assert_eq!(first_of(&(0x80_0000..0x80_5000), too_many), None, "{too_many:#x}");
        }
    }
}
