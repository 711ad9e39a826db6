//! Extended page tables (SDM 3C 29.3).

use crate::nested::{Format, NestedTables};

/// The bits of an EPT entry (SDM 3C tables 29-1 to 29-7).
#[derive(Debug)]
pub struct EptFormat;

/// Memory type write-back, as EPT numbers it.
const WRITE_BACK: u64 = 6;

impl Format for EptFormat {
    /// Read, write and execute.
    const PRESENT: u64 = 0b111;
    const PAGE: u64 = WRITE_BACK << 3;
    /// Write-back, walk length 4 (SDM 3C table 25-9).
    const POINTER: u64 = 3 << 3 | WRITE_BACK;
}

/// A hierarchy of EPT tables.
pub type Ept = NestedTables<EptFormat>;
