//! The places of everything in guest memory. Below 1 MiB lies the boot information, from there on the kernel. Linux' initrd lies at
//! the top; the modules of others lie behind the kernel, as QEMU has them.
//!
//! The monitor's own boot area, below all of it, stays free, unless a kernel wants to lie there.

use std::ops::Range;

use tollgate_abi::machine::pc::MOST_MEMORY_MIB;
use tollgate_abi::machine::{BOOT_AREA_BYTES, MOST_VCPUS, PAGE_BYTES};

use crate::Module;
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
/// Hermit's boot information, and the device tree behind it.
pub const HERMIT_INFORMATION_GPA: u64 = 0x3_0000;
/// Hermit's stack has [`HERMIT_STACK_BYTES`] from here on, as its entry adds its size; there are as many below for one that does not.
pub const HERMIT_STACK_GPA: u64 = 0x7_0000;
/// The bytes of Hermit's first stack.
pub const HERMIT_STACK_BYTES: u64 = 0x8000;
/// The place of a Hermit image that runs anywhere.
pub(crate) const HERMIT_GPA: u64 = 0x40_0000;
/// The RSDP and the tables that it leads to. Linux may use all below it, and starts the other processors there.
pub const ACPI_GPA: u64 = 0x9_e000;
/// A second RSDP, and the table that it leads to, where systems look for the mark of one: in the memory of a PC's firmware (ACPI 6.5,
/// 5.2.5.1).
pub const FOUND_RSDP_GPA: u64 = 0xf_0000;
/// The end of low memory: old video memory comes next.
pub const LOW_END_GPA: u64 = 0xa_0000;
/// The first address of memory above the old devices; a kernel lies higher.
pub const KERNEL_FLOOR_GPA: u64 = 0x10_0000;

/// The most bytes of a command line that have room at [`COMMAND_LINE_GPA`].
pub(crate) const COMMAND_LINE_ROOM_BYTES: u32 = 0xffff;
const MIB: u64 = 1 << 20;
/// The most memory of a machine.
pub(crate) const MOST_MEMORY_BYTES: u64 = MOST_MEMORY_MIB * MIB;

// A device tree is not much longer than the command line in it.
const _: () =
    assert!(HERMIT_INFORMATION_GPA + 2 * COMMAND_LINE_ROOM_BYTES as u64 <= HERMIT_STACK_GPA - HERMIT_STACK_BYTES);
const _: () = assert!(HERMIT_STACK_GPA + HERMIT_STACK_BYTES <= ACPI_GPA);
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

/// Checks that there can be such a machine.
pub(crate) fn check_machine(memory_bytes: u64, vcpus: u32) -> Result<(), Error> {
    if !(1..=MOST_VCPUS as u32).contains(&vcpus) {
        return Err(Error::Vcpus(vcpus));
    }
    if memory_bytes > MOST_MEMORY_BYTES { Err(Error::TooMuchMemory(memory_bytes / MIB)) } else { Ok(()) }
}

fn too_little(needed_bytes: u64, memory_bytes: u64, besides: Option<&'static str>) -> Error {
    Error::TooLittleMemory { needed_mib: needed_bytes.div_ceil(MIB), has_mib: memory_bytes / MIB, besides }
}

/// Checks a command line against a kernel's limit, and against the room for it.
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
    let kernel_end = kernel.end.max(kernel.start.saturating_add(setup.init_bytes));
    let initrd_bytes = initrd.map_or(0, |initrd| initrd.len() as u64);
    let free_bytes = if initrd.is_some() { PAGE_BYTES } else { 0 };
    let placed_end = memory_bytes.saturating_sub(free_bytes);
    let needed = kernel_end.checked_next_multiple_of(PAGE_BYTES).and_then(|end| end.checked_add(initrd_bytes));
    let needed = needed.unwrap_or(u64::MAX);
    if needed > placed_end {
        return Err(too_little(needed.saturating_add(free_bytes), memory_bytes, initrd.map(|_| "initrd")));
    }
    let Some(initrd) = initrd else { return Ok(None) };
    let end = setup.initrd_end.min(placed_end);
    let gpa = end.checked_sub(initrd_bytes).map(|at| at / PAGE_BYTES * PAGE_BYTES).filter(|&at| at >= kernel_end);
    let gpa = gpa.ok_or(Error::InitrdTooLarge { bytes: initrd_bytes, end, kernel_end })?;
    Ok(Some(Segment { gpa, bytes: initrd.to_vec(), memory_bytes: initrd_bytes, what: "initrd" }))
}

/// Checks that a kernel lies in memory that nobody else wants, and returns the first address behind it.
pub(crate) fn check_kernel(kernel: &[Segment], memory_bytes: u64) -> Result<u64, Error> {
    let is_free = |segment: &&Segment| {
        (segment.gpa >= PAGE_BYTES && segment.end() <= ACPI_GPA) || segment.gpa >= KERNEL_FLOOR_GPA
    };
    if let Some(segment) = kernel.iter().find(|segment| !is_free(segment)) {
        let (wanted, low) = (segment.gpa..segment.end(), PAGE_BYTES..ACPI_GPA);
        return Err(Error::Hole { wanted, low, floor: KERNEL_FLOOR_GPA });
    }
    let end = kernel.iter().map(Segment::end).max().unwrap_or(0).max(KERNEL_FLOOR_GPA);
    if end > memory_bytes { Err(too_little(end, memory_bytes, None)) } else { Ok(end) }
}

/// Places modules one behind the other, each on pages of its own.
pub(crate) fn place_modules(kernel_end: u64, modules: &[Module<'_>], memory_bytes: u64) -> Result<Vec<Segment>, Error> {
    let mut end = kernel_end;
    let place = |(module, number): (&Module<'_>, usize)| {
        if module.bytes.is_empty() {
            return Err(Error::EmptyModule(number));
        }
        if let Some(at) = module.text.bytes().position(|byte| byte.is_ascii_control()) {
            return Err(Error::ModuleText { number, at });
        }
        let segment = Segment::of(end.next_multiple_of(PAGE_BYTES), module.bytes.to_vec(), "module");
        end = segment.end();
        Ok(segment)
    };
    let placed = modules.iter().zip(1..).map(place).collect::<Result<Vec<_>, _>>()?;
    if end > memory_bytes { Err(too_little(end, memory_bytes, Some("modules"))) } else { Ok(placed) }
}

/// The first address of so many bytes below 1 MiB, behind a page for a stack, that the kernel does not have: as low as
/// [`STACK_TOP_GPA`] if that is free.
pub(crate) fn place_low(kernel: &[Segment], bytes: u64) -> Result<u64, Error> {
    let is_free = |&gpa: &u64| {
        let (start, end) = (gpa - PAGE_BYTES, gpa + bytes);
        end <= ACPI_GPA && kernel.iter().all(|segment| segment.end() <= start || segment.gpa >= end)
    };
    let others = (2 * PAGE_BYTES..ACPI_GPA).step_by(PAGE_BYTES as usize);
    std::iter::once(STACK_TOP_GPA).chain(others).find(is_free).ok_or(Error::NoLowRoom { bytes, end: ACPI_GPA })
}
