//! PVH (Xen's docs/misc/pvh.pandoc, and hvm_start_info of its public headers): an ELF file whose note has the address of a 32-bit
//! entry. The kernel is entered in protected mode without paging.

use tollgate_abi::guest_image::Entry;

use crate::Request;
use crate::elf::{self, Elf};
use crate::error::Error;
use crate::information::{Block, Placed, lay};
use crate::layout::ACPI_GPA;
use crate::lowered::{About, Format, Lowered};
use crate::memory_map;

/// The name and type of the note, XEN_ELFNOTE_PHYS32_ENTRY.
const NOTE_NAME: &[u8] = b"Xen";
const NOTE_TYPE: u32 = 18;

const MAGIC: u32 = 0x336e_c578;
/// The version that has a memory map.
const VERSION: u32 = 1;

// Fields of hvm_start_info, by offset.
const START_INFO_BYTES: usize = 56;
const NR_MODULES: usize = 12;
const MODLIST_PADDR: usize = 16;
const CMDLINE_PADDR: usize = 24;
const RSDP_PADDR: usize = 32;
const MEMMAP_PADDR: usize = 40;
const MEMMAP_ENTRIES: usize = 48;

/// Whether a file has the note.
pub(crate) fn is_one(file: &[u8]) -> bool {
    elf::note(file, NOTE_NAME, NOTE_TYPE).is_some()
}

/// Lowers a kernel.
pub(crate) fn lower(request: &Request<'_>) -> Result<Lowered, Error> {
    let elf = Elf::parse(request.kernel)?;
    let entry_gpa = entry_gpa(request.kernel, &elf)?;
    let width = Some(elf.width);
    let write = |block: &mut Block, modules: &[Placed<'_>]| write(block, request, modules);
    let (segments, entry) = lay(request, elf.segments, "PVH start information", write)?;
    let about = About { width, ..About::of(Format::Pvh, entry_gpa) };
    Ok(Lowered { segments, entry: Entry { rip: entry_gpa, ..entry }, about })
}

/// The note has 4 bytes, or 8 in some files of 64 bits.
fn entry_gpa(file: &[u8], elf: &Elf) -> Result<u64, Error> {
    let refuse = |cause: String| Error::Elf(format!("has a PVH note {cause}"));
    let note = elf::note(file, NOTE_NAME, NOTE_TYPE).unwrap_or_default();
    let gpa = match note.len() {
        4 | 8 => note.iter().rev().fold(0, |gpa, &byte| gpa << 8 | u64::from(byte)),
        bytes => return Err(refuse(format!("of {bytes} bytes, and 4 or 8 were an address"))),
    };
    elf.holds(gpa).ok_or_else(|| refuse(format!("whose address, {gpa:#x}, is in none of its segments")))
}

/// Writes the start information.
fn write(block: &mut Block, request: &Request<'_>, modules: &[Placed<'_>]) {
    block.add(&[0; START_INFO_BYTES]);
    let command_line = block.add_text(request.command_line);
    let list = modules.iter().flat_map(|module| {
        let (start, bytes) = (u64::from(module.start), u64::from(module.end - module.start));
        [start, bytes, block.add_text(module.text).into(), 0]
    });
    let list: Vec<u8> = list.flat_map(u64::to_le_bytes).collect();
    let list = block.add(&list);
    let regions = memory_map::regions(request.memory_bytes);
    let map = regions.iter().flat_map(|region| [region.start, region.bytes(), region.kind.into()]);
    let map = block.add(&map.flat_map(u64::to_le_bytes).collect::<Vec<_>>());
    block.put(0, MAGIC.to_le_bytes());
    block.put(4, VERSION.to_le_bytes());
    block.put(NR_MODULES, (modules.len() as u32).to_le_bytes());
    block.put(MEMMAP_ENTRIES, (regions.len() as u32).to_le_bytes());
    let addresses = [
        (MODLIST_PADDR, if modules.is_empty() { 0 } else { list.into() }),
        (CMDLINE_PADDR, u64::from(command_line)),
        (RSDP_PADDR, ACPI_GPA),
        (MEMMAP_PADDR, map.into()),
    ];
    addresses.into_iter().for_each(|(offset, gpa)| block.put(offset, gpa.to_le_bytes()));
}
