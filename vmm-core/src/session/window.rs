//! A window around a workload: the count of each book at its beginning and at its end, compared with the prediction.

use alloc::vec::Vec;
use core::fmt::Write;

use tollgate_abi::ExitReason;
use tollgate_abi::exit_reason::{LOOKS, ROWS};
use tollgate_abi::hypercall::Book as GuestBook;
use tollgate_abi::judgement::Judgement;
use tollgate_abi::key::{KINDS, Key};
use tollgate_abi::profile::Profile;
use tollgate_abi::record::records;
use tollgate_abi::virtualization::Facts;
use tollgate_abi::workload::{KeyPrediction, Outcome, Workload};

use super::{Books, Session, any, counts, keeps, looks, pause_anywhere, print, read_book};
use crate::bench::{self, Handed};
use crate::exit::{Backend, Pause};
use crate::machine::Machine;
use crate::vcpu::Vcpu;

/// A workload under way.
#[derive(Debug)]
pub(super) struct Window {
    workload: &'static Workload,
    iterations: u64,
    before: [u64; ROWS],
    looks_before: [u64; LOOKS.len()],
    /// The cycles of each reason, for a microbenchmark; else empty.
    cycles_before: Vec<u64>,
    /// The exits of each key that the workload predicts, in the workload's order.
    keys_before: Vec<u64>,
    /// System-management interrupts before it, where they are counted, and at its end those in it.
    smis: Option<u64>,
    start_tsc: u64,
}

/// A window that has closed: the counts within it, by every book.
struct Closed {
    /// The ledgers' exits, all vCPUs'.
    observed: [u64; ROWS],
    /// The exits among these that were the monitor's own looks, by their place in [`LOOKS`].
    looks: [u64; LOOKS.len()],
    keys: Vec<KeyBooks>,
    /// The book that the guest handed over.
    book: Option<GuestBook>,
    /// The TSC at its end.
    tsc: u64,
    /// Whether ledgers are kept.
    keeps: bool,
}

impl<W: Write> Session<W> {
    /// Performs the guest's request between two stretches of vCPU 0's execution; `Some` if the guest is over then.
    // The way back to the guest is in a workload's time, and takes the same steps in each loop that this is part of.
    #[inline(always)]
    pub fn pause<B: Backend>(&mut self, vcpu: &mut Vcpu<B>, books: &Books, pause: Pause) -> Option<Outcome> {
        match pause {
            Pause::Begin { number, iterations } => {
                let workload = Workload::by_number(number).expect("the number was checked when it was asked for");
                self.begin(vcpu, books, workload, iterations);
            }
            Pause::End { book_gpa, samples_gpa, tsc, call_cycles } => {
                self.end(vcpu, books, book_gpa, Handed { samples_gpa, call_cycles }, tsc);
            }
            Pause::Print => {
                let over = print(&vcpu.machine);
                self.print_console(vcpu.machine.shared.board);
                if over.is_some() {
                    return over;
                }
            }
            elsewhere => return pause_anywhere(vcpu, elsewhere),
        }
        // The work between exits takes time, but none of it is an exit of the guest's.
        vcpu.watch_anew();
        // If this vCPU was asked to stop meanwhile, the signal for that may have come and gone.
        let board = vcpu.machine.shared.board;
        let is_over = board.culprit().is_some() || board.is_to_stop(vcpu.machine.vcpu);
        is_over.then_some(Outcome::StoppedByAnother)
    }

    #[inline(never)]
    fn begin<B: Backend>(&mut self, vcpu: &mut Vcpu<B>, books: &Books, workload: &'static Workload, iterations: u64) {
        self.restless = self.restless.or(wait_until_quiet(vcpu).err());
        self.print_console(vcpu.machine.shared.board);
        self.empty_rings(books);
        let record = records::Begin { workload: workload.name, profile: Some(workload.profile.name()), iterations };
        let _ = record.write(&mut self.out);
        vcpu.set_profile(workload.profile);
        let keys_before = key_counts(workload, books);
        let (before, looks_before, cycles_before) = (counts(books), looks(books), bench::cycles(workload, books));
        let smis = self.smis_in_run();
        let start_tsc = vcpu.backend.tsc();
        self.window =
            Some(Window { workload, iterations, before, looks_before, cycles_before, keys_before, smis, start_tsc });
    }

    #[inline(never)]
    fn end<B: Backend>(&mut self, vcpu: &mut Vcpu<B>, books: &Books, book_gpa: u64, handed: Handed, tsc: u64) {
        let Some(mut window) = self.window.take() else { return };
        window.smis = self.smis_in_run().zip(window.smis).map(|(after, before)| after - before);
        self.restless = self.restless.or(wait_until_quiet(vcpu).err());
        let mut observed = counts(books);
        for (after, before) in observed.iter_mut().zip(window.before) {
            *after -= before;
        }
        // The call that ends the window is not part of it.
        let ending_call = &mut observed[ExitReason::VMCALL.ledger_row()];
        *ending_call = ending_call.saturating_sub(1);
        self.print_console(vcpu.machine.shared.board);
        self.empty_rings(books);
        let mut looks = looks(books);
        looks.iter_mut().zip(window.looks_before).for_each(|(after, before)| *after -= before);
        let closed = Closed {
            observed,
            looks,
            keys: compare_keys(&window, books, vcpu.machine.config.facts),
            book: read_book(&vcpu.machine, book_gpa),
            tsc,
            keeps: keeps(books),
        };
        self.compare(&window, &closed, &vcpu.machine);
        let cycles = [core::mem::take(&mut window.cycles_before), bench::cycles(window.workload, books)];
        bench::write(self, window.workload, &closed.observed, cycles, &vcpu.machine.memory, handed);
        vcpu.set_profile(Profile::Minimal);
    }

    #[inline(never)]
    fn compare(&mut self, window: &Window, closed: &Closed, machine: &Machine) {
        let &Closed { ref observed, looks, ref keys, ref book, tsc, keeps } = closed;
        let Window { workload, iterations, start_tsc, smis, .. } = *window;
        let (vcpus, controls) = (machine.shared.ledgers.len() as u64, &machine.config.controls);
        let predicted = |row: usize| {
            workload.predict(ExitReason(row as u16), iterations, vcpus, machine.config.facts, |reason| {
                controls.enable(reason)
            })
        };
        let guest = |row: usize| book.as_ref().map_or(0, |book| book.tally[row]);
        let looks = |row: usize| ExitReason(row as u16).look().map_or(0, |at| looks[at]);
        let agrees = |row: usize| [predicted(row), guest(row)] == [observed[row].wrapping_sub(looks(row)); 2];
        let (verdict, message) = match book {
            None => (Judgement::Failed, "the guest handed over no book"),
            Some(book) if book.passed == 0 => (Judgement::Failed, book.message()),
            Some(_) if !keeps => (Judgement::Unaccounted, ""),
            Some(_) if (0..ROWS).all(agrees) && keys.iter().all(KeyBooks::agree) => (Judgement::Balanced, ""),
            Some(_) => (Judgement::Differs, ""),
        };
        if matches!(verdict, Judgement::Failed | Judgement::Differs) {
            self.differing = self.differing.or(Some(workload));
        }
        let record = records::Result {
            workload: workload.name,
            iterations,
            verdict: verdict.word(),
            exits: observed.iter().sum(),
            cycles: tsc.wrapping_sub(start_tsc),
            smis,
            message: if message.is_empty() { None } else { Some(&message) },
        };
        let _ = record.write(&mut self.out);
        for row in (0..ROWS).filter(|&row| keeps && predicted(row) | guest(row) | observed[row] != 0) {
            let record = records::Count {
                workload: workload.name,
                reason: row as u16,
                predicted: Some(predicted(row)),
                guest: Some(guest(row)),
                observed: observed[row],
                looks: any(looks(row)),
            };
            let _ = record.write(&mut self.out);
        }
        for &KeyBooks { key, predicted, observed } in keys {
            let Some((_, kind)) = KINDS.iter().find(|(reason, _)| *reason == key.reason) else { continue };
            let (reason, name) = (key.reason.0, &Key(*kind, key.key));
            let record = records::KeyCount { workload: workload.name, reason, key: key.key, name, predicted, observed };
            let _ = record.write(&mut self.out);
        }
    }
}

/// The exits of all vCPUs by each key that a workload predicts.
fn key_counts(workload: &Workload, books: &Books) -> Vec<u64> {
    let mut sums: Vec<_> = workload.keys().map(|_| 0).collect();
    for book in books {
        book.keys(&mut |reason, row| {
            for (sum, predicted) in sums.iter_mut().zip(workload.keys()) {
                if reason == predicted.reason && row.key.is_some_and(|(_, key)| key == predicted.key) {
                    *sum += row.figures.count;
                }
            }
        });
    }
    sums
}

/// One key's prediction and count in a window.
struct KeyBooks {
    key: &'static KeyPrediction,
    predicted: u64,
    observed: u64,
}

impl KeyBooks {
    fn agree(&self) -> bool {
        self.predicted == self.observed
    }
}

/// Compares the keys that a workload predicts, if keys are kept.
#[inline(never)]
fn compare_keys(window: &Window, books: &Books, facts: Facts) -> Vec<KeyBooks> {
    let Window { workload, iterations, .. } = *window;
    if !books.iter().any(|book| book.keeps_keys()) {
        return Vec::new();
    }
    let found = key_counts(workload, books);
    let keys = workload.keys().zip(window.keys_before.iter().zip(found));
    keys.map(|(key, (&before, after))| KeyBooks {
        key,
        predicted: key.predict(workload.on, iterations, books.len() as u64, facts),
        // A key that lost its slot meanwhile counts from the time when it got it back.
        observed: after.saturating_sub(before),
    })
    .collect()
}

/// TSC ticks that the other vCPUs have to become quiet at the edge of a window.
const QUIET_TICKS: u64 = 1 << 27;

/// Waits until no other vCPU runs, so that the ledgers stand still. The error is the first that does not stop.
fn wait_until_quiet<B: Backend>(vcpu: &Vcpu<B>) -> Result<(), usize> {
    let (board, this) = (vcpu.machine.shared.board, vcpu.machine.vcpu);
    let start = vcpu.backend.tsc();
    loop {
        match board.first_busy(this) {
            None => return Ok(()),
            Some(busy)
                if board.culprit().is_some()
                    || vcpu.backend.tsc().wrapping_sub(start) > board.patience(QUIET_TICKS) =>
            {
                return Err(busy);
            }
            Some(_) => core::hint::spin_loop(),
        }
    }
}
