//! The places of everything in guest memory. Below 1 MiB lies the boot information, from there on the kernel, at the top the
//! initrd.
//!
//! The monitor's own boot area, below all of it, stays free.

use std::ops::Range;

use tollgate_abi::machine::pc::MOST_MEMORY_MIB;
use tollgate_abi::machine::{BOOT_AREA_BYTES, MOST_VCPUS, PAGE_BYTES};

use crate::error::Error;
use crate::lowered::Segment;

/// The end of a page for a stack.
pub const STACK_TOP_GPA: u64 = 0x1_1000;
/// The page of `boot_params`.
pub const BOOT_PARAMS_GPA: u64 = 0x1_1000;
/// The page tables, six pages.
pub const PAGE_TABLES_GPA: u64 = 0x1_3000;
/// The command line, with a NUL behind it.
pub const COMMAND_LINE_GPA: u64 = 0x2_0000;
/// The RSDP and the tables that it leads to. Linux may use all below it, and starts the other processors there.
pub const ACPI_GPA: u64 = 0x9_e000;
/// The end of low memory: old video memory comes next.
pub const LOW_END_GPA: u64 = 0xa_0000;
/// The first address of memory above the old devices; a kernel lies higher.
pub const KERNEL_FLOOR_GPA: u64 = 0x10_0000;

/// The most bytes of a command line that have room at [`COMMAND_LINE_GPA`].
const COMMAND_LINE_ROOM_BYTES: u32 = 0xffff;
const MIB: u64 = 1 << 20;

const _: () = assert!(BOOT_AREA_BYTES <= STACK_TOP_GPA - PAGE_BYTES);

/// The setup header that goes into `boot_params`, and the kernel's limits.
#[derive(Debug)]
pub(crate) struct Setup {
    /// The header, from offset 1F1h.
    pub(crate) header: Vec<u8>,
    /// The most bytes of a command line, without its NUL.
    pub(crate) command_line_bytes: u32,
    /// The first address that is too high for the initrd.
    pub(crate) initrd_end: u64,
    /// Bytes that the kernel wants for itself from its first address on; its segments may say more.
    pub(crate) init_bytes: u64,
}

pub(crate) fn check_vcpus(vcpus: u32) -> Result<(), Error> {
    if (1..=MOST_VCPUS as u32).contains(&vcpus) { Ok(()) } else { Err(Error::Vcpus(vcpus)) }
}

pub(crate) fn check_command_line(line: &str, most: u32) -> Result<(), Error> {
    let most = most.min(COMMAND_LINE_ROOM_BYTES);
    if line.len() > most as usize {
        return Err(Error::CommandLineTooLong { bytes: line.len(), most });
    }
    match line.bytes().position(|byte| byte.is_ascii_control()) {
        Some(at) => Err(Error::CommandLineControl(at)),
        None => Ok(()),
    }
}

/// Places the initrd as high as it may lie, and checks that all fits. Behind it a page stays free, for a mark.
pub(crate) fn place_initrd(
    kernel: &Range<u64>,
    setup: &Setup,
    initrd: Option<&[u8]>,
    memory_bytes: u64,
) -> Result<Option<Segment>, Error> {
    if memory_bytes > MOST_MEMORY_MIB * MIB {
        return Err(Error::TooMuchMemory(memory_bytes / MIB));
    }
    let kernel_end = kernel.end.max(kernel.start.saturating_add(setup.init_bytes));
    let initrd_bytes = initrd.map_or(0, |initrd| initrd.len() as u64);
    let free_bytes = if initrd.is_some() { PAGE_BYTES } else { 0 };
    let placed_end = memory_bytes.saturating_sub(free_bytes);
    let needed = kernel_end.checked_next_multiple_of(PAGE_BYTES).and_then(|end| end.checked_add(initrd_bytes));
    let needed = needed.unwrap_or(u64::MAX);
    if needed > placed_end {
        let (needed_mib, has_mib) = (needed.saturating_add(free_bytes).div_ceil(MIB), memory_bytes / MIB);
        return Err(Error::TooLittleMemory { needed_mib, has_mib, with_initrd: initrd.is_some() });
    }
    let Some(initrd) = initrd else { return Ok(None) };
    let end = setup.initrd_end.min(placed_end);
    let gpa = end.checked_sub(initrd_bytes).map(|at| at / PAGE_BYTES * PAGE_BYTES).filter(|&at| at >= kernel_end);
    let gpa = gpa.ok_or(Error::InitrdTooLarge { bytes: initrd_bytes, end, kernel_end })?;
    Ok(Some(Segment { gpa, bytes: initrd.to_vec(), memory_bytes: initrd_bytes, what: "initrd" }))
}
