//! The guest's own book: the number of exits of each reason that it has provoked, written before each is provoked. Each vCPU
//! keeps a tally; the book is their sum.
#![expect(unsafe_code, reason = "adds to memory that GS base points at")]

use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::Ordering::Relaxed;

use tollgate_abi::exit_reason::{ExitReason, ROWS};

use super::cpu::{self, Cpu};

/// Exits by ledger row.
pub(crate) type Tally = [u64; ROWS];

/// Books one exit that the next instruction provokes.
#[inline(always)]
pub(crate) fn book(reason: ExitReason) {
    // SAFETY: as in `book_times`.
    unsafe {
        asm!(
            "inc qword ptr gs:[{tally} + {row} * 8]",
            tally = const offset_of!(Cpu, tally),
            row = in(reg) reason.ledger_row(),
            options(nostack),
        );
    }
}

/// Books the exits of a loop at once.
#[inline(always)]
pub(crate) fn book_times(reason: ExitReason, times: u64) {
    // SAFETY: GS base points at this vCPU's `Cpu`, and every reason has a row. One instruction, so that no interrupt, whose
    // handler books, comes between load and store; not a locked one, since this vCPU alone writes its tally.
    unsafe {
        asm!(
            "add qword ptr gs:[{tally} + {row} * 8], {times}",
            tally = const offset_of!(Cpu, tally),
            row = in(reg) reason.ledger_row(),
            times = in(reg) times,
            options(nostack),
        );
    }
}

/// Exits booked for `reason` since the start on one vCPU, or on all.
pub(crate) fn booked_on(reason: ExitReason, vcpu: Option<u16>) -> u64 {
    match vcpu {
        Some(vcpu) => cpu::cpu(vcpu.into()).tally[reason.ledger_row()].load(Relaxed),
        None => row(reason.ledger_row()),
    }
}

fn row(row: usize) -> u64 {
    cpu::all().iter().map(|cpu| cpu.tally[row].load(Relaxed)).fold(0, u64::wrapping_add)
}

/// Exits booked for `reason` since the start.
pub(crate) fn booked(reason: ExitReason) -> u64 {
    booked_on(reason, None)
}

/// All exits booked since the start.
pub(crate) fn total() -> u64 {
    tally().into_iter().fold(0, u64::wrapping_add)
}

/// The whole tally.
pub(crate) fn tally() -> Tally {
    core::array::from_fn(row)
}

/// The exits booked since `start` was taken.
pub(crate) fn tally_since(start: &Tally) -> Tally {
    let now = tally();
    core::array::from_fn(|row| now[row].wrapping_sub(start[row]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The one test of the tallies, which are statics.
    #[test]
    fn the_book_is_the_sum_of_the_vcpus_tallies() {
        let (cpuid, hlt) = (ExitReason::CPUID, ExitReason::HLT);
        let add = |vcpu: usize, reason: ExitReason, exits: u64| {
            cpu::cpu(vcpu).tally[reason.ledger_row()].fetch_add(exits, Relaxed);
        };
        add(0, cpuid, 3);
        add(15, cpuid, 4);
        add(2, hlt, 5);
        assert_eq!([cpuid, hlt, ExitReason::RDMSR].map(booked), [7, 5, 0]);
        assert_eq!([Some(0), Some(15), Some(1), None].map(|vcpu| booked_on(cpuid, vcpu)), [3, 4, 0, 7]);
        let start = tally();
        assert_eq!((total(), start.iter().sum::<u64>()), (12, 12));
        add(1, cpuid, 10);
        // A count that is behind where it was, as after a wrap, stays a difference.
        add(2, hlt, u64::MAX);
        let since = tally_since(&start);
        assert_eq!((since[cpuid.ledger_row()], since[hlt.ledger_row()]), (10, u64::MAX));
    }
}
