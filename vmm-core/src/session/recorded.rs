//! The records of [`crate::recorder`]: the trace while every vCPU is quiet, drops and samples at the end.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt::Write;

use tollgate_abi::ExitReason;
use tollgate_abi::exit_reason::ROWS;
use tollgate_abi::record::{MAX_LINE_BYTES, records};
use tollgate_abi::trace::Batch;

use super::{Books, Session};
use crate::ledger::Book;

/// The written part of a trace.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traced {
    records: u64,
    exits: u64,
}

/// Steps in one record of samples: a step takes eleven bytes at most, and the record has to fit its line.
const RATES_IN_A_RECORD: usize = 256;
const _: () = assert!(11 * RATES_IN_A_RECORD + 200 < MAX_LINE_BYTES);

impl<W: Write> Session<W> {
    /// Writes the exits that were recorded one by one, unless a vCPU may still be recording.
    #[inline(never)]
    pub(super) fn empty_rings(&mut self, books: &Books) {
        if self.restless.is_some() {
            return;
        }
        self.traced.resize(books.len(), Traced::default());
        for (vcpu, book) in books.iter().enumerate() {
            let Some(ring) = book.ring() else { continue };
            let mut batch = Box::new(Batch::new());
            ring.drain(|event| {
                batch.push(event);
                if batch.is_full() {
                    self.trace(vcpu, &mut batch);
                }
            });
            self.trace(vcpu, &mut batch);
        }
    }

    fn trace(&mut self, vcpu: usize, batch: &mut Batch) {
        if batch.exits == 0 {
            return;
        }
        let Traced { records, exits } = self.traced[vcpu];
        self.traced[vcpu] = Traced { records: records + 1, exits: exits + batch.exits };
        let (exits, tsc) = (batch.exits, batch.tsc);
        let record = records::Trace { vcpu: vcpu as u64, seq: records, exits, tsc, data: &*batch };
        let _ = record.write(&mut self.out);
        batch.clear();
    }

    /// Writes the rest of a trace, and the samples over time.
    #[inline(never)]
    pub(super) fn recorded(&mut self, vcpu: usize, account: &dyn Book) {
        let reasons = || (0..ROWS as u16).map(ExitReason);
        if let Some(ring) = account.ring() {
            let mut all = 0;
            for reason in reasons() {
                let (count, cycles) = ring.dropped(reason);
                if count > 0 {
                    all += count;
                    let record = records::Dropped { vcpu: vcpu as u64, reason: reason.0, count, cycles };
                    let _ = record.write(&mut self.out);
                }
            }
            let Traced { records, exits } = self.traced.get(vcpu).copied().unwrap_or_default();
            let ring = ring.capacity() as u64;
            let record = records::Traced { vcpu: vcpu as u64, seq: records, exits, dropped: all, ring };
            let _ = record.write(&mut self.out);
        }
        let Some(rates) = account.rates() else { return };
        let (step, start) = rates.steps();
        for reason in reasons() {
            let mut counts = rates.of(reason);
            let mut from = 0;
            while counts.clone().next().is_some() {
                let some: Vec<u32> = counts.by_ref().take(RATES_IN_A_RECORD).collect();
                let record = records::Rate { vcpu: vcpu as u64, reason: reason.0, start, step, from, counts: &some };
                let _ = record.write(&mut self.out);
                from += RATES_IN_A_RECORD as u64;
            }
        }
    }
}
