//! Page tables that map the first 4 GiB to themselves, in pages of 2 MiB (SDM 3A 4.5): PML4, page-directory-pointer table, four
//! page directories.

use tollgate_abi::machine::{LARGE_PAGE_BYTES, PAGE_BYTES};

const ENTRIES: u64 = 512;
const DIRECTORIES: u64 = 4;

/// Bits of an entry: present, writable.
const TABLE: u64 = 0b11;
/// Bits of an entry that maps 2 MiB: present, writable, page size.
const LARGE_PAGE: u64 = 0x83;

/// The six tables, if the first lies at `gpa`.
pub(crate) fn identity(gpa: u64) -> Vec<u8> {
    let table = |number: u64| gpa + number * PAGE_BYTES;
    let pad = |used: u64| std::iter::repeat_n(0, (ENTRIES - used) as usize);
    let top = std::iter::once(table(1) | TABLE).chain(pad(1));
    let pointers = (0..DIRECTORIES).map(|directory| table(2 + directory) | TABLE).chain(pad(DIRECTORIES));
    let pages = (0..DIRECTORIES * ENTRIES).map(|page| (page * LARGE_PAGE_BYTES) | LARGE_PAGE);
    top.chain(pointers).chain(pages).flat_map(u64::to_le_bytes).collect()
}
