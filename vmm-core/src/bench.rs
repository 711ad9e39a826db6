//! A microbenchmark in the log, besides its books: the samples that the guest took, and the ledger's figures of its exits.

use alloc::vec::Vec;
use core::fmt::Write;

use tollgate_abi::ExitReason;
use tollgate_abi::bench::{Bench, MOST_SAMPLES};
use tollgate_abi::exit_reason::ROWS;
use tollgate_abi::record::{MOST_RUNS, records};
use tollgate_abi::workload::Workload;

use crate::calibration::{Calibration, TURNS};
use crate::ledger::Book;
use crate::memory::GuestMemory;
use crate::session::Session;

/// The guest's message at the end of a window: the address of the samples, and the cycles of all VMCALLs before this one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handed {
    pub(crate) samples_gpa: u64,
    pub(crate) call_cycles: u64,
}

/// The cycles of each reason on all vCPUs, if the workload is a microbenchmark; else empty.
pub(crate) fn cycles(workload: &Workload, books: &[&'static dyn Book]) -> Vec<u64> {
    if Bench::of(workload).is_none() {
        return Vec::new();
    }
    let of = |row: usize| books.iter().map(|book| book.ledger().cycles_of(ExitReason(row as u16))).sum();
    (0..ROWS).map(of).collect()
}

/// Writes the records of a microbenchmark's window besides its books.
pub(crate) fn write<W: Write>(
    session: &mut Session<W>,
    workload: &Workload,
    observed: &[u64; ROWS],
    [before, mut after]: [Vec<u64>; 2],
    memory: &GuestMemory,
    handed: Handed,
) {
    let call = ExitReason::VMCALL.ledger_row();
    let (Some(_), Some(cycles)) = (Bench::of(workload), after.get_mut(call)) else { return };
    *cycles = handed.call_cycles;
    for (row, (before, after)) in before.iter().zip(after).enumerate().filter(|&(row, _)| observed[row] > 0) {
        let record = records::Cost {
            workload: Some(workload.name),
            scenario: None,
            reason: row as u16,
            exits: observed[row],
            cycles: after.saturating_sub(*before),
        };
        let _ = record.write(session.out());
    }
    let word = |at: u64| memory.read_u32(handed.samples_gpa.checked_add(4 * at)?);
    let taken = if handed.samples_gpa == 0 { 0 } else { word(0).map_or(0, u64::from).min(MOST_SAMPLES) };
    session.samples(Sampled::Workload(workload.name), taken, &|number| word(1 + number));
}

/// A microbenchmark or a scenario, by its name, that has samples.
#[derive(Clone, Copy)]
pub(crate) enum Sampled {
    Workload(&'static str),
    Scenario(&'static str),
}

impl<W: Write> Session<W> {
    /// Records `taken` samples.
    #[inline(never)]
    pub(crate) fn samples(&mut self, of: Sampled, taken: u64, sample: &dyn Fn(u64) -> Option<u32>) {
        let mut next = 0;
        while next < taken {
            let (first, mut runs) = (next, Vec::<(u32, u32)>::new());
            while next < taken
                && let Some(ticks) = sample(next)
            {
                let full = runs.len() == MOST_RUNS;
                match runs.last_mut() {
                    Some((same, count)) if *same == ticks => *count += 1,
                    _ if full => break,
                    _ => runs.push((ticks, 1)),
                }
                next += 1;
            }
            if runs.is_empty() {
                break;
            }
            let (workload, scenario) = match of {
                Sampled::Workload(name) => (Some(name), None),
                Sampled::Scenario(name) => (None, Some(name)),
            };
            let _ = records::Samples { workload, scenario, first, ticks: &runs }.write(self.out());
        }
    }

    /// Records the ticks of the way through the stub and of the account.
    #[inline(never)]
    pub fn calibration(&mut self, times: &Calibration) {
        let &Calibration { empty, frame, whole, inside, .. } = times;
        let _ = records::Calibration { turns: TURNS, empty, frame, whole, inside }.write(self.out());
    }
}
