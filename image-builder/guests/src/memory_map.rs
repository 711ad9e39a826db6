//! The machine's memory as every boot protocol tells it: ranges with ACPI's types, which e820, multiboot and PVH share.

use crate::layout::{ACPI_GPA, KERNEL_FLOOR_GPA, LOW_END_GPA};

// Types of memory (ACPI 6.5, 15).
pub(crate) const RAM: u32 = 1;
pub(crate) const ACPI_RECLAIMABLE: u32 = 3;

/// A range of memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    /// The first address.
    pub(crate) start: u64,
    /// The first address behind it.
    pub(crate) end: u64,
    /// ACPI's type.
    pub(crate) kind: u32,
}

impl Region {
    /// The number of bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.end - self.start
    }
}

/// The ranges of a machine with so much memory, at least [`KERNEL_FLOOR_GPA`].
pub(crate) fn regions(memory_bytes: u64) -> [Region; 3] {
    [
        Region { start: 0, end: ACPI_GPA, kind: RAM },
        Region { start: ACPI_GPA, end: LOW_END_GPA, kind: ACPI_RECLAIMABLE },
        Region { start: KERNEL_FLOOR_GPA, end: memory_bytes, kind: RAM },
    ]
}

/// KiB of memory from 0 on, and of memory from 1 MiB on, as multiboot's loaders tell them.
pub(crate) fn lower_and_upper_kib(memory_bytes: u64) -> (u32, u32) {
    ((ACPI_GPA >> 10) as u32, (memory_bytes.saturating_sub(KERNEL_FLOOR_GPA) >> 10) as u32)
}
