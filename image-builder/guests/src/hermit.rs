//! Hermit's images: kernel and application in one 64-bit ELF file, with a note about the version of the entry. Its boot information is
//! that of the crate `hermit-entry` 0.10 (`RawBootInfo`, `repr(C)`), and a device tree has memory, command line, RSDP and initrd, as
//! Hermit's own loader writes it for Linux' boot parameters, which are here, too.
//!
//! The crate itself reads images that nobody forged, and gives its structure's bytes only to `unsafe` code: both is done here.

use object::LittleEndian as LE;
use object::elf::{self as format, FileHeader64};
use object::read::elf::ProgramHeader;
use tollgate_abi::guest_image::{Entry, Mode};
use tollgate_abi::machine::pc::SERIAL_PORT;
use vm_fdt::{FdtWriter, FdtWriterResult};

use crate::boot_params::{self, BootParams};
use crate::elf;
use crate::error::Error;
use crate::layout::{self, ACPI_GPA, COMMAND_LINE_GPA, FOUND_RSDP_GPA};
use crate::lowered::{About, Format, Lowered, Segment, Width};
use crate::pie::{Program, place_program};
use crate::{Request, acpi, memory_map, page_tables};

/// The note about the entry: its name, its type, and the version in its first byte.
const ENTRY_NOTE: (&[u8], u32) = (b"HERMIT", 0x5a00);
const ENTRY_VERSION: u8 = 4;
/// The note about the system: its name, its type, and Hermit's number in its first word.
const SYSTEM_NOTE: (&[u8], u32) = (b"GNU", 1);
const SYSTEM: u32 = 6;

// Fields of RawBootInfo, by offset.
const BOOT_INFO_BYTES: usize = 128;
const PHYS_ADDR_START: usize = 0;
const PHYS_ADDR_END: usize = 8;
const SERIAL_PORT_BASE: usize = 16;
const DEVICE_TREE: usize = 24;
const KERNEL_IMAGE_ADDR_START: usize = 32;
const KERNEL_IMAGE_ADDR_END: usize = 40;
const TLS_INFO: usize = 48;
const PLATFORM: usize = 80;
const COMMAND_LINE_DATA: usize = 88;
const COMMAND_LINE_LEN: usize = 96;
const BOOT_PARAMS_ADDR: usize = 104;

/// The number of the platform with Linux' boot parameters.
const LINUX_BOOT_PARAMS: u64 = 2;
/// The platform's name in the device tree.
const COMPATIBLE: &str = "hermit,linux";

/// Whether a file has the note about the entry.
pub(crate) fn is_one(file: &[u8]) -> bool {
    elf::note(file, ENTRY_NOTE.0, ENTRY_NOTE.1).is_some()
}

/// Lowers an image.
pub(crate) fn lower(request: &Request<'_>) -> Result<Lowered, Error> {
    let file = request.kernel;
    let spoken = elf::note(file, ENTRY_NOTE.0, ENTRY_NOTE.1).and_then(|note| note.first());
    if spoken != Some(&ENTRY_VERSION) {
        let spoken = spoken.map_or_else(|| "no version".to_owned(), |version| format!("version {version}"));
        return elf::refuse(format!("speaks {spoken} of Hermit's entry, and version {ENTRY_VERSION} is spoken here"));
    }
    layout::check_command_line(request.command_line, layout::COMMAND_LINE_ROOM_BYTES)?;
    let program = place_program(file, layout::HERMIT_GPA)?;
    let kernel_end = layout::check_kernel(&program.segments, request.memory_bytes)?;
    if let Some(first) = program.segments.first().filter(|first| first.gpa < layout::KERNEL_FLOOR_GPA) {
        return Err(Error::LowMemory(first.gpa));
    }
    let initrd = layout::place_modules(kernel_end, &request.all_modules(), request.memory_bytes)?.pop();
    let tree = device_tree(request, initrd.as_ref()).map_err(|error| Error::DeviceTree(error.to_string()))?;
    let information = [information(request, &program)?, tree].concat();
    let boot_params = BootParams {
        setup_header: &boot_params::setup_of_elf().header,
        initrd: initrd.as_ref(),
        memory_bytes: request.memory_bytes,
    };
    let about =
        About { version: version(file), width: Some(Width::Bits64), ..About::of(Format::Hermit, program.entry_gpa) };
    let mut segments = vec![
        Segment::of(layout::BOOT_PARAMS_GPA, boot_params.page(), "boot_params"),
        Segment::of(layout::PAGE_TABLES_GPA, page_tables::identity(layout::PAGE_TABLES_GPA), "page tables"),
        Segment::of(COMMAND_LINE_GPA, [request.command_line.as_bytes(), &[0]].concat(), "command line"),
        Segment::of(layout::HERMIT_INFORMATION_GPA, information, "Hermit's boot information"),
        Segment::of(ACPI_GPA, acpi::tables(ACPI_GPA, Format::Hermit.machine(), request.vcpus), "ACPI tables"),
        Segment::of(FOUND_RSDP_GPA, acpi::found(request.vcpus), "RSDP"),
    ];
    segments.extend(program.segments);
    segments.extend(initrd);
    let entry = Entry {
        mode: Mode::Long,
        rip: program.entry_gpa,
        rsp: layout::HERMIT_STACK_GPA,
        rdi: layout::HERMIT_INFORMATION_GPA,
        cr3: layout::PAGE_TABLES_GPA,
        ..Entry::default()
    };
    Ok(Lowered { segments, entry, about })
}

/// Hermit's version, if the file has a note about it.
fn version(file: &[u8]) -> Option<String> {
    let note = elf::note(file, SYSTEM_NOTE.0, SYSTEM_NOTE.1)?;
    let word = |at: usize| note.get(at..)?.first_chunk().copied().map(u32::from_le_bytes);
    let (major, minor, patch) = (word(4)?, word(8)?, word(12)?);
    (word(0)? == SYSTEM).then(|| format!("{major}.{minor}.{patch}"))
}

/// RawBootInfo.
fn information(request: &Request<'_>, program: &Program) -> Result<Vec<u8>, Error> {
    let header = elf::header::<FileHeader64<LE>>(request.kernel)?;
    let headers = elf::program_headers(header, request.kernel)?;
    let tls = headers.iter().find(|header| header.p_type(LE) == format::PT_TLS).map_or([0; 4], |header| {
        let start = header.p_vaddr(LE).wrapping_add(program.shift);
        [start, header.p_filesz(LE), header.p_memsz(LE), header.p_align(LE)]
    });
    let (first, last) = (program.segments.first(), program.segments.last());
    let mut bytes = vec![0; BOOT_INFO_BYTES];
    let mut put = |offset: usize, word: u64| bytes[offset..][..size_of::<u64>()].copy_from_slice(&word.to_le_bytes());
    put(PHYS_ADDR_START, layout::KERNEL_FLOOR_GPA);
    put(PHYS_ADDR_END, request.memory_bytes);
    put(SERIAL_PORT_BASE, SERIAL_PORT.into());
    put(DEVICE_TREE, layout::HERMIT_INFORMATION_GPA + BOOT_INFO_BYTES as u64);
    put(KERNEL_IMAGE_ADDR_START, first.map_or(0, |first| first.gpa));
    put(KERNEL_IMAGE_ADDR_END, last.map_or(0, Segment::end));
    tls.into_iter().enumerate().for_each(|(at, word)| put(TLS_INFO + at * size_of::<u64>(), word));
    put(PLATFORM, LINUX_BOOT_PARAMS);
    put(COMMAND_LINE_DATA, COMMAND_LINE_GPA);
    put(COMMAND_LINE_LEN, request.command_line.len() as u64);
    put(BOOT_PARAMS_ADDR, layout::BOOT_PARAMS_GPA);
    Ok(bytes)
}

fn device_tree(request: &Request<'_>, initrd: Option<&Segment>) -> FdtWriterResult<Vec<u8>> {
    let mut tree = FdtWriter::new()?;
    let root = tree.begin_node("")?;
    tree.property_string("compatible", COMPATIBLE)?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    let regions = memory_map::regions(request.memory_bytes);
    for region in regions.iter().filter(|region| region.kind == memory_map::RAM) {
        let memory = tree.begin_node(&format!("memory@{:x}", region.start))?;
        tree.property_string("device_type", "memory")?;
        tree.property_array_u64("reg", &[region.start, region.bytes()])?;
        tree.end_node(memory)?;
    }
    let rsdp = tree.begin_node(&format!("hermit,rsdp@{ACPI_GPA:x}"))?;
    tree.property_array_u64("reg", &[ACPI_GPA, 1])?;
    tree.end_node(rsdp)?;
    let chosen = tree.begin_node("chosen")?;
    tree.property_string("bootargs", request.command_line)?;
    if let Some(initrd) = initrd {
        tree.property_u64("linux,initrd-start", initrd.gpa)?;
        tree.property_u64("linux,initrd-end", initrd.end())?;
    }
    tree.end_node(chosen)?;
    tree.end_node(root)?;
    tree.finish()
}
