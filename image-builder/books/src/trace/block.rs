//! Traced exits on their way into a file: blocks of records, which any thread can unpack, each by itself.

use std::sync::Arc;

use tollgate_abi::trace::Event;

use crate::symbols::Symbols;
use crate::unpacked::{Unpacked, Unpacker};

/// Some records of a log, in their order.
#[derive(Debug, Default)]
pub(super) struct Block {
    records: Vec<Packed>,
    /// The text of all records' exits, one behind the other.
    data: Vec<u8>,
    /// Exits in all records.
    pub(super) exits: usize,
    pub(super) symbols: Arc<Symbols>,
}

/// A record whose exits are packed.
#[derive(Clone, Copy, Debug)]
struct Packed {
    vcpu: u64,
    is_first: bool,
    tsc: u64,
    end: usize,
}

/// The exits of one record.
#[derive(Debug)]
pub(super) struct Exits<'a> {
    pub(super) vcpu: u64,
    /// Whether the vCPU has none in front of these.
    pub(super) is_first: bool,
    events: Unpacked<'a>,
}

impl Block {
    /// Takes a record with so many exits; `data` is checked.
    pub(super) fn add(&mut self, vcpu: u64, is_first: bool, tsc: u64, exits: u64, data: &str) {
        self.data.extend_from_slice(data.as_bytes());
        self.records.push(Packed { vcpu, is_first, tsc, end: self.data.len() });
        self.exits = self.exits.saturating_add(usize::try_from(exits).unwrap_or(usize::MAX));
    }

    /// Unpacks the records one by one.
    pub(super) fn unpack(&self, mut each: impl FnMut(Exits<'_>)) {
        let (mut unpacker, mut start) = (Unpacker::default(), 0);
        for &Packed { vcpu, is_first, tsc, end } in &self.records {
            // The reader has unpacked the record already: it is well-formed.
            if let Ok(events) = unpacker.unpack(tsc, &self.data[start..end]) {
                each(Exits { vcpu, is_first, events });
            }
            start = end;
        }
    }
}

impl Iterator for Exits<'_> {
    type Item = Event;

    #[inline]
    fn next(&mut self) -> Option<Event> {
        self.events.next()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tollgate_abi::trace::{Batch, Events};

    proptest! {
        #[test]
        fn exits_are_those_that_the_reader_finds(
            events in proptest::collection::vec((any::<u64>(), any::<u16>(), any::<u64>(), any::<u64>(), any::<u64>()), 0..90),
        ) {
            let (mut block, mut batch, mut expected) = (Block::default(), Batch::new(), Vec::new());
            let mut write = |batch: &mut Batch| {
                let data = batch.to_string();
                expected.extend(Events::new(batch.tsc, &data).map(Result::unwrap));
                block.add(7, true, batch.tsc, batch.exits, &data);
                batch.clear();
            };
            for (tsc, reason, cycles, rip, qualification) in events {
                if batch.is_full() {
                    write(&mut batch);
                }
                batch.push(Event { tsc, reason, cycles, rip, qualification });
            }
            write(&mut batch);
            let mut found = Vec::new();
            block.unpack(|exits| found.extend(exits));
            prop_assert_eq!((block.exits, found), (expected.len(), expected));
        }
    }
}
