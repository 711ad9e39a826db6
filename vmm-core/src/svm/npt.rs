//! Nested page tables (APM 2 15.25).

use crate::nested::{Format, NestedTables};

/// The bits of a nested page-table entry: those of any long-mode page table (APM 2 5.3), for which the guest is a user.
#[derive(Debug)]
pub struct NptFormat;

impl Format for NptFormat {
    /// Present, writable, user.
    const PRESENT: u64 = 0b111;
    /// PAT entry 0: write-back, as after reset.
    const PAGE: u64 = 0;
    const POINTER: u64 = 0;
}

/// A hierarchy of nested page tables.
pub type Npt = NestedTables<NptFormat>;
