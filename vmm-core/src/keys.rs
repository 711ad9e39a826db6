//! A ledger that also keeps, within a reason, the keys by which its exits differ ([`tollgate_abi::key`]).
//!
//! Each reason has a fixed number of slots, given out first come; what finds none counts as others, so that the parts
//! always sum to the whole. It costs more than the plain ledger and is a type of its own, so that the plain one pays
//! nothing.

use tollgate_abi::ExitReason;
use tollgate_abi::key::{KINDS, KeyKind, PORT_IN, PORT_STRING, SLOTS};

use crate::exit::{Backend, CrAccess, GuestRegisters};
use crate::ledger::{Account, Ledger, Open};

/// The exits of one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// The key.
    pub key: u64,
    /// Exits.
    pub count: u64,
    /// TSC ticks of all of them.
    pub cycles: u64,
}

/// The keys of one reason.
#[derive(Clone, Debug, Default)]
pub struct KeyTable {
    slots: [Slot; SLOTS],
    used: usize,
    /// The exits whose keys found no slot.
    pub others: Slot,
}

/// Where the exit that is open is counted: table and slot, [`SLOTS`] standing for the others.
type Place = (usize, usize);

/// A ledger with keys.
#[derive(Clone, Debug, Default)]
pub struct Keyed {
    ledger: Ledger,
    tables: [KeyTable; KINDS.len()],
    next_key: Option<u64>,
    open: Option<Place>,
}

impl KeyTable {
    /// The keys that have slots, in the order in which they came up.
    pub fn slots(&self) -> &[Slot] {
        &self.slots[..self.used]
    }

    fn place(&mut self, key: u64) -> usize {
        if let Some(slot) = self.slots().iter().position(|slot| slot.key == key) {
            return slot;
        }
        if self.used < SLOTS {
            self.slots[self.used].key = key;
            self.used += 1;
            return self.used - 1;
        }
        SLOTS
    }

    fn at(&mut self, slot: usize) -> &mut Slot {
        self.slots.get_mut(slot).unwrap_or(&mut self.others)
    }
}

/// The key of an exit that has not been handled yet, if its reason has keys.
#[inline(never)]
pub fn key_of<B: Backend>(reason: ExitReason, registers: &GuestRegisters, backend: &B) -> Option<u64> {
    let (_, kind) = KINDS.iter().find(|(keyed, _)| *keyed == reason)?;
    Some(match kind {
        KeyKind::Leaf => registers.rax & 0xffff_ffff,
        KeyKind::Call => registers.rax,
        KeyKind::Msr => registers.rcx & 0xffff_ffff,
        KeyKind::Port => {
            let access = backend.io_access();
            let (is_in, is_string) = (u64::from(access.is_in) * PORT_IN, u64::from(access.is_string) * PORT_STRING);
            u64::from(access.port) | is_in | is_string
        }
        KeyKind::ControlRegister => match backend.cr_access() {
            CrAccess::Write { cr, .. } => u64::from(cr),
            CrAccess::Read { cr, .. } => u64::from(cr) | 1 << 4,
            CrAccess::Clts => 2 << 4,
            CrAccess::Lmsw { .. } => 3 << 4,
        },
        KeyKind::DebugRegister => {
            let access = backend.dr_access();
            u64::from(access.dr) | u64::from(access.is_read) << 4
        }
        KeyKind::Vector => backend.exit_event().map_or(0, |event| event.vector.into()),
        KeyKind::Page => backend.physical_fault().gpa & !0xfff,
    })
}

impl Account for Keyed {
    const KEEPS: bool = true;

    #[inline(always)]
    fn expect(&mut self, key: impl FnOnce() -> Option<u64>) {
        self.next_key = key();
    }

    fn open(&mut self, reason: ExitReason) -> Open {
        let table = KINDS.iter().position(|(keyed, _)| *keyed == reason);
        self.open = match (table, self.next_key.take()) {
            (Some(table), Some(key)) => {
                let slot = self.tables[table].place(key);
                self.tables[table].at(slot).count += 1;
                Some((table, slot))
            }
            _ => None,
        };
        self.ledger.open(reason)
    }

    fn close(&mut self, open: Open, since_tsc: u64, now: impl FnOnce() -> u64) {
        let now_tsc = now();
        if let Some((table, slot)) = self.open.take() {
            self.tables[table].at(slot).cycles += now_tsc.wrapping_sub(since_tsc);
        }
        self.ledger.close(open, since_tsc, || now_tsc);
    }

    fn first_entry(&mut self) {
        self.ledger.first_entry();
    }

    fn no_entry_followed(&mut self) {
        self.ledger.no_entry_followed();
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn keys(&self) -> &[KeyTable] {
        &self.tables
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_sum_to_their_rows(exits in proptest::collection::vec((0usize..KINDS.len() + 1, 0u64..40, 1u64..1000), 0..300)) {
            let mut keyed = Keyed::default();
            for &(table, key, cycles) in &exits {
                let reason = KINDS.get(table).map_or(ExitReason::HLT, |&(reason, _)| reason);
                keyed.expect(|| (reason != ExitReason::HLT).then_some(key));
                let open = keyed.open(reason);
                keyed.close(open, 10, || 10 + cycles);
            }
            prop_assert_eq!(keyed.ledger().check(), Ok(()));
            for (table, &(reason, _)) in keyed.keys().iter().zip(&KINDS) {
                let row = keyed.ledger().row(reason);
                let all = || table.slots().iter().chain([&table.others]);
                prop_assert_eq!(all().map(|slot| slot.count).sum::<u64>(), row.count);
                prop_assert_eq!(all().map(|slot| slot.cycles).sum::<u64>(), row.cycles);
                prop_assert!(table.others.count == 0 || table.slots().len() == SLOTS);
            }
        }
    }
}
