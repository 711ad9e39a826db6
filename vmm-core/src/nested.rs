//! The tables that map guest-physical to host-physical memory: the guest's memory, and nothing else.
//!
//! EPT and nested paging have the same four levels and differ in the bits of an entry ([`Format`]). Tables live in one arena
//! and refer to each other by position in it, so that building and walking them is safe code.
#![expect(unsafe_code, reason = "looks at several tables as one")]

use core::marker::PhantomData;
use core::ops::Range;

use tollgate_abi::machine::{LARGE_PAGE_BYTES, Mapping, Model};
use tollgate_abi::x86::control::ADDRESS;

use crate::memory::PAGE_BYTES;

/// Entries of a table.
const ENTRIES: usize = 512;

/// One table, or one page with other data for the processor.
#[derive(Clone, Debug)]
#[repr(C, align(4096))]
pub struct Table(pub [u64; ENTRIES]);

const _: () = assert!(size_of::<Table>() == 4096);

impl Table {
    /// A table without a present entry.
    pub const EMPTY: Self = Self([0; ENTRIES]);

    /// The entries of tables that follow each other.
    fn entries(tables: &mut [Self]) -> &mut [u64] {
        // SAFETY: a table is its entries and nothing else, by its size; the borrow is that of the tables.
        unsafe { core::slice::from_raw_parts_mut(tables.as_mut_ptr().cast(), tables.len() * ENTRIES) }
    }
}

/// The bits of an entry, besides its address and [`LARGE`].
pub trait Format {
    /// Bits of an entry that refers to a table or a page and allows everything; at least one of them says that it is present.
    const PRESENT: u64;
    /// Further bits of an entry that refers to a page: its memory type.
    const PAGE: u64;
    /// Bits of the pointer to the first table.
    const POINTER: u64;
}

const LARGE: u64 = 1 << 7;

/// The most tables that a machine's memory takes: those that would be needed without holes, and for memory that is mapped on
/// first touch, or without large pages, those of the last level.
pub fn most_tables(model: &Model, large_pages: bool) -> usize {
    let bytes = model.memory_bytes();
    let by_page = if large_pages {
        model.memory.iter().filter(|region| region.mapping == Mapping::OnFirstTouch).map(|region| region.bytes).sum()
    } else {
        bytes
    };
    let tables = |level: u32, bytes: u64| bytes.div_ceil(1 << (12 + 9 * level));
    (1 + tables(1, by_page) + tables(2, bytes) + tables(3, bytes)) as usize
}

/// A four-level hierarchy.
#[derive(Debug)]
pub struct NestedTables<F> {
    tables: &'static mut [Table],
    used: usize,
    base_hpa: u64,
    /// Guest-physical addresses that are mapped later, page by page.
    fresh: Range<u64>,
    /// The entries of these pages: their last-level tables, which follow each other.
    fresh_entries: &'static mut [u64],
    /// The difference between the address of such a page and its entry.
    fresh_offset: u64,
    format: PhantomData<F>,
}

/// The arena has no room for another table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaFull;

impl<F: Format> NestedTables<F> {
    /// An empty hierarchy in `tables`, whose first element lies at host-physical `base_hpa`.
    pub fn new(tables: &'static mut [Table], base_hpa: u64) -> Self {
        tables.fill(Table::EMPTY);
        Self { tables, used: 1, base_hpa, fresh: 0..0, fresh_entries: &mut [], fresh_offset: 0, format: PhantomData }
    }

    /// The pointer to the hierarchy, as the processor wants it.
    pub fn pointer(&self) -> u64 {
        self.base_hpa | F::POINTER
    }

    /// Maps `bytes` from `gpa` to `hpa`, all of them multiples of 4 KiB; by 2 MiB pages where allowed and aligned.
    ///
    /// # Errors
    /// There is no room for a table; pages that were mapped until then stay mapped.
    pub fn map(&mut self, mut gpa: u64, mut hpa: u64, bytes: u64, large_pages: bool) -> Result<(), ArenaFull> {
        let end = gpa + bytes;
        while gpa < end {
            let large = large_pages && (gpa | hpa).is_multiple_of(LARGE_PAGE_BYTES) && end - gpa >= LARGE_PAGE_BYTES;
            let (size, level, flags) = if large { (LARGE_PAGE_BYTES, 2, LARGE) } else { (4096, 1, 0) };
            *self.leaf(gpa, level)? = hpa | flags | F::PAGE | F::PRESENT;
            (gpa, hpa) = (gpa + size, hpa + size);
        }
        Ok(())
    }

    /// Maps the memory of a machine, which lies at `base_hpa`: the part that the guest has from the start, and the tables for the
    /// part that it gets on first touch.
    ///
    /// # Errors
    /// There are too few tables.
    pub fn map_memory(&mut self, model: &Model, base_hpa: u64, large_pages: bool) -> Result<(), ArenaFull> {
        model.memory.iter().try_for_each(|region| match region.mapping {
            Mapping::Always => self.map(region.gpa, base_hpa + region.gpa, region.bytes, large_pages),
            Mapping::OnFirstTouch => self.prepare(region.gpa, base_hpa + region.gpa, region.bytes),
        })
    }

    /// The entry of `gpa` in the table of `level`, with the tables above it.
    fn leaf(&mut self, gpa: u64, level: u32) -> Result<&mut u64, ArenaFull> {
        let mut table = 0;
        let mut above = 4;
        while above > level {
            let entry = self.tables[table].0[index(gpa, above)];
            table = if entry & F::PRESENT != 0 {
                ((entry & ADDRESS) - self.base_hpa) as usize / size_of::<Table>()
            } else {
                self.add(table, gpa, above)?
            };
            above -= 1;
        }
        Ok(&mut self.tables[table].0[index(gpa, level)])
    }

    fn add(&mut self, parent: usize, gpa: u64, level: u32) -> Result<usize, ArenaFull> {
        let table = self.used;
        if table >= self.tables.len() {
            return Err(ArenaFull);
        }
        self.used += 1;
        self.tables[parent].0[index(gpa, level)] = (self.base_hpa + (table * size_of::<Table>()) as u64) | F::PRESENT;
        Ok(table)
    }

    /// Makes the tables for the one range that [`NestedTables::map_fresh`] will map to the memory at `hpa`: multiples of 2 MiB, with
    /// nothing mapped in it yet. Its last-level tables are taken from the end of the arena.
    ///
    /// # Errors
    /// There is no room for a table.
    pub fn prepare(&mut self, gpa: u64, hpa: u64, bytes: u64) -> Result<(), ArenaFull> {
        debug_assert!((gpa | bytes).is_multiple_of(LARGE_PAGE_BYTES) && hpa.is_multiple_of(4096));
        let count = (bytes / LARGE_PAGE_BYTES) as usize;
        let Some(first) = self.tables.len().checked_sub(count).filter(|&first| first >= self.used) else {
            return Err(ArenaFull);
        };
        let (rest, fresh) = core::mem::take(&mut self.tables).split_at_mut(first);
        self.tables = rest;
        for at in 0..count {
            let table_hpa = self.base_hpa + ((first + at) * size_of::<Table>()) as u64;
            *self.leaf(gpa + at as u64 * LARGE_PAGE_BYTES, 2)? = table_hpa | F::PRESENT;
        }
        self.fresh = gpa..gpa + bytes;
        self.fresh_entries = Table::entries(fresh);
        self.fresh_offset = hpa.wrapping_sub(gpa) + F::PAGE + F::PRESENT;
        Ok(())
    }

    /// Maps the 4 KiB page of `gpa`; false if it is not in the prepared range.
    #[inline(always)]
    pub fn map_fresh(&mut self, gpa: u64) -> bool {
        let page = gpa.wrapping_sub(self.fresh.start) / PAGE_BYTES;
        let Some(entry) = self.fresh_entries.get_mut(page as usize) else { return false };
        // An address of the prepared range has no bits beyond those of an entry's.
        *entry = (gpa & !(PAGE_BYTES - 1)).wrapping_add(self.fresh_offset);
        true
    }

    /// The first address of the prepared range.
    pub fn fresh_gpa(&self) -> u64 {
        self.fresh.start
    }

    /// Writes the entry of a page in the prepared range as it is: for scenarios about odd entries. The caller invalidates.
    pub fn set_fresh_entry(&mut self, gpa: u64, entry: u64) {
        let page = gpa.wrapping_sub(self.fresh.start) / PAGE_BYTES;
        if let Some(fresh) = self.fresh_entries.get_mut(page as usize) {
            *fresh = entry;
        }
    }
}

#[inline(always)]
const fn index(gpa: u64, level: u32) -> usize {
    (gpa >> (3 + 9 * level)) as usize % ENTRIES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svm::npt::NptFormat;
    use crate::vmx::ept::EptFormat;
    use proptest::prelude::*;
    use tollgate_abi::machine::{PC, Region, UNIKERNEL};

    fn tables<F: Format>(tables: usize) -> NestedTables<F> {
        NestedTables::new(Box::leak(vec![Table::EMPTY; tables].into_boxed_slice()), 0x10_0000)
    }

    /// An entry of the arena, wherever it is kept.
    fn entry<F: Format>(ept: &NestedTables<F>, table: usize, index: usize) -> u64 {
        match table.checked_sub(ept.tables.len()) {
            None => ept.tables[table].0[index],
            Some(fresh) => ept.fresh_entries[fresh * ENTRIES + index],
        }
    }

    /// Walks as the processor does.
    fn translate<F: Format>(ept: &NestedTables<F>, gpa: u64) -> Option<u64> {
        let mut table = 0;
        for level in (1..=4).rev() {
            let entry = entry(ept, table, index(gpa, level));
            if entry & F::PRESENT == 0 {
                return None;
            }
            let offset = (1u64 << (3 + 9 * level)) - 1;
            if level == 1 || entry & LARGE != 0 {
                let all = F::PRESENT | F::PAGE;
                assert_eq!(entry & all, all);
                return Some(entry & ADDRESS & !offset | gpa & offset);
            }
            table = ((entry & ADDRESS) - ept.base_hpa) as usize / 4096;
        }
        None
    }

    #[test]
    fn the_guests_memory_is_mapped_and_nothing_else() {
        maps_and_nothing_else::<EptFormat>();
        maps_and_nothing_else::<NptFormat>();
    }

    #[test]
    fn memory_is_mapped_as_the_machines_row_says() {
        let mut tables = tables::<EptFormat>(most_tables(&UNIKERNEL, true));
        tables.map_memory(&UNIKERNEL, 0x4000_0000, true).unwrap();
        let (ram_bytes, memory_bytes) = (UNIKERNEL.ram_bytes(), UNIKERNEL.memory_bytes());
        assert_eq!(tables.fresh_gpa(), ram_bytes);
        assert_eq!(translate(&tables, ram_bytes - 1), Some(0x4000_0000 + ram_bytes - 1));
        assert_eq!((translate(&tables, ram_bytes), translate(&tables, memory_bytes)), (None, None));
        assert!(tables.map_fresh(ram_bytes) && !tables.map_fresh(memory_bytes));
        assert_eq!(translate(&tables, ram_bytes), Some(0x4000_0000 + ram_bytes));
    }

    #[test]
    fn as_many_tables_suffice_as_the_machines_row_says_and_no_fewer() {
        let memory = Region { gpa: 0, bytes: 66 << 20, mapping: Mapping::Always };
        let pc = Model { memory: vec![memory].leak(), ..PC };
        for (model, large_pages) in [(&UNIKERNEL, false), (&UNIKERNEL, true), (&pc, false), (&pc, true)] {
            let most = most_tables(model, large_pages);
            assert_eq!(tables::<NptFormat>(most).map_memory(model, 0x4000_0000, large_pages), Ok(()));
            assert_eq!(tables::<NptFormat>(most - 1).map_memory(model, 0x4000_0000, large_pages), Err(ArenaFull));
        }
    }

    fn maps_and_nothing_else<F: Format>() {
        for large in [false, true] {
            let mut ept = tables::<F>(16);
            ept.map(0, 0x40_0000, 8 << 20, large).unwrap();
            assert_eq!(translate(&ept, 0), Some(0x40_0000));
            assert_eq!(translate(&ept, (8 << 20) - 1), Some(0xbf_ffff));
            assert_eq!(translate(&ept, 8 << 20), None);
            assert_eq!(translate(&ept, 1 << 30), None);
            assert_eq!(translate(&ept, 1 << 39), None);
            assert_eq!(ept.used, if large { 3 } else { 7 });
        }
    }

    #[test]
    fn fresh_pages_come_one_by_one() {
        let mut ept = tables::<NptFormat>(8);
        ept.prepare(8 << 20, 0x1000_0000, 4 << 20).unwrap();
        assert_eq!(translate(&ept, 8 << 20), None);
        assert!(ept.map_fresh((8 << 20) + 0x1234));
        assert!(ept.map_fresh((12 << 20) - 1));
        for outside in [12 << 20, (8 << 20) - 1, 0, u64::MAX, 1 << 63 | 8 << 20] {
            assert!(!ept.map_fresh(outside), "{outside:#x}");
        }
        assert_eq!(translate(&ept, (12 << 20) - 1), Some(0x103f_ffff));
        assert_eq!(translate(&ept, (8 << 20) + 0x1fff), Some(0x1000_1fff));
        ept.set_fresh_entry(8 << 20, 0);
        assert_eq!(translate(&ept, (8 << 20) + 0x2000), None);
        assert_eq!(translate(&ept, 8 << 20), None);
    }

    #[test]
    fn a_full_arena_is_an_error() {
        assert_eq!(tables::<EptFormat>(3).map(0, 0, 4096, true), Err(ArenaFull));
        assert_eq!(tables::<EptFormat>(3).prepare(0, 0, LARGE_PAGE_BYTES), Err(ArenaFull));
    }

    proptest! {
        #[test]
        fn any_mapping_translates(gpa in 0u64..1 << 30, hpa in 0u64..1 << 40, pages in 1u64..1100, large in any::<bool>()) {
            let (gpa, hpa) = (gpa & !0xfff, hpa & !0xfff);
            let mut ept = tables::<EptFormat>(16);
            ept.map(gpa, hpa, pages * 4096, large).unwrap();
            for page in 0..pages {
                prop_assert_eq!(translate(&ept, gpa + page * 4096 + 5), Some(hpa + page * 4096 + 5));
            }
            prop_assert_eq!(translate(&ept, gpa + pages * 4096), None);
        }
    }
}
