//! A ledger that also keeps, within a reason, the keys by which its exits differ ([`tollgate_abi::key`]), and their variants.
//!
//! Each reason has a fixed number of slots for keys. When none is free, the key that is least likely to be frequent gives
//! its slot up, and its exits move to the others, so that the parts always sum to the whole. The Space-Saving
//! rule says which key that is (Metwally, Agrawal, El Abbadi: *Efficient computation of frequent and top-k elements in
//! data streams*): a slot has a rank, each exit raises it by one, and a new key takes over the least rank. So a key that makes
//! up more than one part in [`SLOTS`] of a reason's exits always has a slot; its figures count from when it last got it.
//!
//! It costs more than the plain ledger and is a type of its own, so that the plain one pays nothing. The time that finding
//! a key takes is kept out of the exit's.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use tollgate_abi::ExitReason;
use tollgate_abi::key::{
    CR_CLTS, CR_LMSW, CR_READ, KINDS, KeyKind, PAGE_FETCH, PAGE_READ, PAGE_WRITE, PORT_IN, PORT_STRING, SLOTS,
    VARIANTS, position_of, variant,
};

use crate::exit::{Backend, CrAccess, GuestRegisters};
use crate::figures::{Kept, KeyRow, VariantRow, add};
use crate::ledger::{Account, Book, Ledger, Open};

#[derive(Debug)]
struct Slot {
    key: AtomicU64,
    rank: AtomicU64,
    /// The position of the key's variant, or [`NONE`].
    variant: AtomicUsize,
    figures: Kept,
}

impl Slot {
    const fn empty() -> Self {
        let (key, rank) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { key, rank, variant: AtomicUsize::new(NONE), figures: Kept::empty() }
    }

    /// Whether it is the slot of `key`.
    #[inline(always)]
    fn is_of(&self, key: u64) -> bool {
        self.key.load(Relaxed) == key && self.rank.load(Relaxed) > 0
    }
}

/// The keys of one reason.
#[derive(Debug)]
struct KeyTable {
    slots: [Slot; SLOTS],
    /// The slot of the last exit: the next is often one of the same key.
    last: AtomicUsize,
    others: Kept,
}

impl KeyTable {
    const fn empty() -> Self {
        Self { slots: [const { Slot::empty() }; SLOTS], last: AtomicUsize::new(0), others: Kept::empty() }
    }

    /// The place of the slot of `key`, which is of this kind. A key without one gets the slot of the least rank. The slot's rank is
    /// raised.
    #[inline(always)]
    fn place(&self, kind: KeyKind, key: u64) -> (usize, &Slot) {
        let mut place = self.last.load(Relaxed);
        if !self.slots.get(place).is_some_and(|slot| slot.is_of(key)) {
            place = self.find(kind, key);
            self.last.store(place, Relaxed);
        }
        let slot = &self.slots[place];
        add(&slot.rank, 1);
        (place, slot)
    }

    /// [`KeyTable::place`] of a key that was not the last.
    #[inline(never)]
    fn find(&self, kind: KeyKind, key: u64) -> usize {
        self.slots.iter().position(|slot| slot.is_of(key)).unwrap_or_else(|| self.make_room(kind, key))
    }

    /// The first slot of the least rank, which is 0 while one is free.
    fn make_room(&self, kind: KeyKind, key: u64) -> usize {
        let rank = |&place: &usize| self.slots[place].rank.load(Relaxed);
        let least = (0..SLOTS).min_by_key(rank).unwrap_or(0);
        let slot = &self.slots[least];
        self.others.absorb(&slot.figures);
        slot.key.store(key, Relaxed);
        slot.variant.store(variant(kind, key).unwrap_or(NONE), Relaxed);
        least
    }
}

/// No key, no variant.
const NONE: usize = usize::MAX;

/// A ledger with keys.
#[derive(Debug)]
pub struct Keyed {
    ledger: Ledger,
    tables: [KeyTable; KINDS.len()],
    variants: [Kept; VARIANTS.len()],
    /// The part of the open exit's time that finding keys took.
    excluded_tsc: AtomicU64,
    /// The rows in which the open exit is counted.
    table: AtomicUsize,
    slot: AtomicUsize,
    variant: AtomicUsize,
}

impl Default for Keyed {
    fn default() -> Self {
        Self {
            ledger: Ledger::new(),
            tables: [const { KeyTable::empty() }; KINDS.len()],
            variants: [const { Kept::empty() }; VARIANTS.len()],
            excluded_tsc: AtomicU64::new(0),
            table: AtomicUsize::new(NONE),
            slot: AtomicUsize::new(NONE),
            variant: AtomicUsize::new(NONE),
        }
    }
}

/// The key of an exit that has not been handled yet, if its reason has keys. `rax` and `rcx` are the guest's registers.
#[inline(never)]
pub fn key_of<B: Backend>(reason: ExitReason, rax: u64, rcx: u64, backend: &B) -> Option<u64> {
    let (_, kind) = KINDS[position_of(reason)?];
    Some(match kind {
        KeyKind::Leaf => rax & 0xffff_ffff,
        KeyKind::Call => rax,
        KeyKind::Msr => rcx & 0xffff_ffff,
        KeyKind::Port => {
            let access = backend.io_access();
            let (is_in, is_string) = (u64::from(access.is_in) * PORT_IN, u64::from(access.is_string) * PORT_STRING);
            u64::from(access.port) | is_in | is_string
        }
        KeyKind::ControlRegister => match backend.cr_access(&mut GuestRegisters::default()) {
            // The source operand of LMSW may need other registers; it is no part of the key.
            CrAccess::Write { cr, .. } => u64::from(cr),
            CrAccess::Read { cr, .. } => u64::from(cr) | CR_READ,
            CrAccess::Clts => CR_CLTS,
            CrAccess::Lmsw { .. } => CR_LMSW,
        },
        KeyKind::DebugRegister => {
            let access = backend.dr_access();
            u64::from(access.dr) | u64::from(access.is_read) << 4
        }
        KeyKind::Vector => backend.exit_event().map_or(0, |event| event.vector.into()),
        KeyKind::Page => {
            let fault = backend.physical_fault();
            let bit = |set: bool, bit| if set { bit } else { 0 };
            let kind = bit(fault.read, PAGE_READ) | bit(fault.write, PAGE_WRITE) | bit(fault.fetch, PAGE_FETCH);
            fault.gpa & !0xfff | kind
        }
    })
}

impl Keyed {
    /// Finds where an exit of `reason` with this key counts, and counts it.
    #[inline(never)]
    fn count(&self, reason: ExitReason, key: Option<u64>) {
        let (mut table, mut slot, mut variant) = (NONE, NONE, NONE);
        if let (Some(position), Some(key)) = (position_of(reason), key) {
            let (place, of_key) = self.tables[position].place(KINDS[position].1, key);
            add(&of_key.figures.count, 1);
            (table, slot, variant) = (position, place, of_key.variant.load(Relaxed));
            if let Some(of_variant) = self.variants.get(variant) {
                add(&of_variant.count, 1);
            }
        }
        self.table.store(table, Relaxed);
        self.slot.store(slot, Relaxed);
        self.variant.store(variant, Relaxed);
    }
}

impl Account for Keyed {
    const KEEPS: bool = true;

    #[inline(always)]
    fn expect(&self, reason: ExitReason, key: impl FnOnce() -> Option<u64>, now: impl Fn() -> u64) {
        let start = now();
        self.count(reason, key());
        self.excluded_tsc.store(now().wrapping_sub(start), Relaxed);
    }

    #[inline(always)]
    fn excluded_tsc(&self) -> u64 {
        self.excluded_tsc.load(Relaxed)
    }

    #[inline(always)]
    fn open(&self, reason: ExitReason) -> Open {
        self.ledger.open(reason)
    }

    fn close(&self, open: Open, since_tsc: u64, now: impl FnOnce() -> u64) {
        let now_tsc = now();
        let since_tsc = since_tsc.wrapping_add(self.excluded_tsc());
        let cycles = now_tsc.wrapping_sub(since_tsc);
        if let Some(table) = self.tables.get(self.table.load(Relaxed)) {
            table.slots.get(self.slot.load(Relaxed)).map_or(&table.others, |slot| &slot.figures).close(cycles);
        }
        if let Some(variant) = self.variants.get(self.variant.load(Relaxed)) {
            variant.close(cycles);
        }
        self.ledger.close(open, since_tsc, || now_tsc);
    }
}

impl Book for Keyed {
    fn keeps(&self) -> bool {
        true
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn keeps_keys(&self) -> bool {
        true
    }

    fn keys(&self, each: &mut dyn FnMut(ExitReason, &KeyRow)) {
        for (table, &(reason, kind)) in self.tables.iter().zip(&KINDS) {
            for slot in table.slots.iter().filter(|slot| slot.rank.load(Relaxed) > 0) {
                each(reason, &KeyRow { key: Some((kind, slot.key.load(Relaxed))), figures: slot.figures.read() });
            }
            if table.others.count.load(Relaxed) > 0 {
                each(reason, &KeyRow { key: None, figures: table.others.read() });
            }
        }
    }

    fn variants(&self, each: &mut dyn FnMut(&VariantRow)) {
        for (kept, &(reason, name)) in
            self.variants.iter().zip(VARIANTS).filter(|(kept, _)| kept.count.load(Relaxed) > 0)
        {
            each(&VariantRow { reason, name, figures: kept.read() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn book(keyed: &Keyed, reason: ExitReason, key: Option<u64>, cycles: u64) {
        keyed.expect(reason, || key, || 0);
        let open = keyed.open(reason);
        keyed.close(open, 10, || 10 + cycles);
    }

    fn keys(keyed: &Keyed, of: ExitReason) -> Vec<KeyRow> {
        let mut all = vec![];
        keyed.keys(&mut |reason, row| {
            if reason == of {
                all.push(*row);
            }
        });
        all
    }

    #[test]
    fn a_frequent_key_keeps_its_slot_and_rare_ones_share_the_rest() {
        let keyed = Keyed::default();
        for rare in 0..2000 {
            book(&keyed, ExitReason::RDMSR, Some(0x1_0000 + rare), 5);
            if rare % 10 == 0 {
                book(&keyed, ExitReason::RDMSR, Some(0x10), 7);
            }
        }
        let keys = keys(&keyed, ExitReason::RDMSR);
        let frequent = keys.iter().find(|row| row.key == Some((KeyKind::Msr, 0x10))).unwrap();
        assert_eq!((frequent.figures.count, frequent.figures.min, frequent.figures.max), (200, 7, 7));
        assert_eq!(keys.iter().map(|row| row.figures.count).sum::<u64>(), 2200);
        assert_eq!(keys.last().unwrap().key, None);
    }

    #[test]
    fn what_finding_a_key_takes_is_not_the_exits() {
        let keyed = Keyed::default();
        let clock = core::cell::Cell::new(100);
        let now = || clock.replace(clock.get() + 30);
        keyed.expect(ExitReason::CPUID, || Some(1), now);
        let open = keyed.open(ExitReason::CPUID);
        keyed.close(open, 90, || 200);
        assert_eq!(keyed.ledger().figures(ExitReason::CPUID).cycles, 200 - 90 - 30);
    }

    #[test]
    fn variants_have_the_exits_of_their_keys() {
        let keyed = Keyed::default();
        book(&keyed, ExitReason::IO_INSTRUCTION, Some(0x80 | PORT_IN), 40);
        book(&keyed, ExitReason::IO_INSTRUCTION, Some(0x71 | PORT_IN), 44);
        book(&keyed, ExitReason::IO_INSTRUCTION, Some(0x80), 50);
        let mut seen = vec![];
        keyed.variants(&mut |row| seen.push((row.name, row.figures.count, row.figures.min, row.figures.max)));
        assert_eq!(seen, [("IN", 2, 40, 44), ("OUT", 1, 50, 50)]);
    }

    proptest! {
        #[test]
        fn keys_sum_to_their_rows(exits in proptest::collection::vec((0usize..KINDS.len() + 1, 0u64..60, 1u64..1000), 0..400)) {
            let keyed = Keyed::default();
            for &(table, key, cycles) in &exits {
                let reason = KINDS.get(table).map_or(ExitReason::HLT, |&(reason, _)| reason);
                book(&keyed, reason, (reason != ExitReason::HLT).then_some(key), cycles);
            }
            prop_assert_eq!(keyed.ledger().check(), Ok(()));
            for &(reason, _) in &KINDS {
                let (keys, row) = (keys(&keyed, reason), keyed.ledger().figures(reason));
                prop_assert_eq!(keys.iter().map(|row| row.figures.count).sum::<u64>(), row.count);
                prop_assert_eq!(keys.iter().map(|row| row.figures.cycles).sum::<u64>(), row.cycles);
                prop_assert_eq!(keys.iter().map(|row| row.figures.max).max().unwrap_or(0), row.max);
                let slots = keys.iter().filter(|row| row.key.is_some()).count();
                prop_assert!(slots <= SLOTS && (slots == SLOTS || keys.iter().all(|row| row.key.is_some())));
            }
        }
    }
}
