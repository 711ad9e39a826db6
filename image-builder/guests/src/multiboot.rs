//! Multiboot, the first version (Multiboot Specification 0.6.96, 3.1 to 3.3): a header in the first 8 KiB of a file that is an ELF
//! file, or anything else if the header has addresses. The kernel is entered in 32-bit protected mode without paging.
//!
//! The information has memory, command line, modules, memory map and the loader's name. There is no boot device, no symbol table, no
//! video mode.

use tollgate_abi::guest_image::Entry;

use crate::Request;
use crate::boot_header::{Addresses, Header, words};
use crate::elf::Elf;
use crate::error::Error;
use crate::information::{Block, Placed, lay};
use crate::lowered::{About, Format, Lowered, Segment};
use crate::memory_map;

const MAGIC: u32 = 0x1bad_b002;
/// The mark in EAX.
const LOADER_MAGIC: u64 = 0x2bad_b002;
/// The header lies in so many bytes.
const SEARCHED_BYTES: usize = 8192;
const HEADER_WORDS: usize = 3;
/// The addresses and the entry point behind it, where its flags say so.
const ADDRESS_WORDS: usize = 5;

// Bits of the header's flags. The lower half has demands.
const PAGE_ALIGNED_MODULES: u32 = 1 << 0;
const WANTS_MEMORY: u32 = 1 << 1;
const WANTS_VIDEO: u32 = 1 << 2;
const DEMANDS: u32 = 0xffff;
const HAS_ADDRESSES: u32 = 1 << 16;

// Fields of the information, by offset.
const FLAGS: usize = 0;
const MEM_LOWER: usize = 4;
const MEM_UPPER: usize = 8;
const CMDLINE: usize = 16;
const MODS_COUNT: usize = 20;
const MODS_ADDR: usize = 24;
const MMAP_LENGTH: usize = 44;
const MMAP_ADDR: usize = 48;
const BOOT_LOADER_NAME: usize = 64;
const INFORMATION_BYTES: usize = 120;

/// Bits of the information's flags: memory, command line, modules, memory map, loader's name.
const GIVEN: u32 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
/// Bytes of an entry of the memory map, without the word that has this number.
const MAP_ENTRY_BYTES: u32 = 20;

/// The loader's name.
pub(crate) const LOADER_NAME: &str = "Tollgate";

/// The header's place, and its flags.
fn header(file: &[u8]) -> Option<(Header, u32)> {
    let searched = &file[..file.len().min(SEARCHED_BYTES)];
    (0..searched.len()).step_by(size_of::<u32>()).find_map(|at| {
        let [magic, flags, checksum] = words::<HEADER_WORDS>(searched, at)?;
        let is_one = magic == MAGIC && magic.wrapping_add(flags).wrapping_add(checksum) == 0;
        is_one.then_some((Header { name: "multiboot", at }, flags))
    })
}

/// Whether a file has a header.
pub(crate) fn is_one(file: &[u8]) -> bool {
    header(file).is_some()
}

/// Lowers a kernel.
pub(crate) fn lower(request: &Request<'_>) -> Result<Lowered, Error> {
    let file = request.kernel;
    let (header, flags) = header(file).ok_or_else(|| Error::NoKernel("without a multiboot header".to_owned()))?;
    check_demands(header, flags)?;
    let (kernel, entry_gpa, width) = if flags & HAS_ADDRESSES != 0 {
        let (kernel, entry_gpa) = by_addresses(header, file)?;
        (kernel, entry_gpa, None)
    } else if file.starts_with(&object::elf::ELFMAG) {
        let elf = Elf::parse(file)?;
        let entry_gpa = elf.entry_gpa_of_any()?;
        (elf.segments, entry_gpa, Some(elf.width))
    } else {
        return Err(header.lies("has no addresses, and the file is no ELF file that would have them"));
    };
    let write = |block: &mut Block, modules: &[Placed<'_>]| write(block, request, modules);
    let (segments, entry) = lay(request, kernel, "multiboot information", write)?;
    let about = About { width, ..About::of(Format::Multiboot, entry_gpa) };
    Ok(Lowered { segments, entry: Entry { rip: entry_gpa, rax: LOADER_MAGIC, ..entry }, about })
}

fn check_demands(header: Header, flags: u32) -> Result<(), Error> {
    let unknown = flags & DEMANDS & !(PAGE_ALIGNED_MODULES | WANTS_MEMORY | WANTS_VIDEO);
    if flags & WANTS_VIDEO != 0 {
        return Err(header.demands("a video mode (bit 2 of its flags)"));
    }
    match unknown {
        0 => Ok(()),
        _ => Err(header.demands(format!(
            "what bit {} of its flags stands for, which no specification tells",
            unknown.trailing_zeros()
        ))),
    }
}

/// The kernel as the header's own addresses place it, and its entry point.
fn by_addresses(header: Header, file: &[u8]) -> Result<(Vec<Segment>, u64), Error> {
    let first = header.at + HEADER_WORDS * size_of::<u32>();
    let fields = words::<ADDRESS_WORDS>(file, first);
    let [header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr] =
        fields.ok_or_else(|| Error::truncated("multiboot header", first + ADDRESS_WORDS * size_of::<u32>(), file))?;
    let kernel = vec![header.load(file, Addresses { header_addr, load_addr, load_end_addr, bss_end_addr })?];
    let entry_gpa = header.entry_gpa(entry_addr, &kernel)?;
    Ok((kernel, entry_gpa))
}

/// Writes the information.
fn write(block: &mut Block, request: &Request<'_>, modules: &[Placed<'_>]) {
    block.add(&[0; INFORMATION_BYTES]);
    let (lower_kib, upper_kib) = memory_map::lower_and_upper_kib(request.memory_bytes);
    let map = memory_map::regions(request.memory_bytes).into_iter().flat_map(|region| {
        let (start, bytes) = (region.start.to_le_bytes(), region.bytes().to_le_bytes());
        [&MAP_ENTRY_BYTES.to_le_bytes()[..], &start, &bytes, &region.kind.to_le_bytes()].concat()
    });
    let map: Vec<u8> = map.collect();
    let list: Vec<u8> = modules
        .iter()
        .flat_map(|module| [module.start, module.end, block.add_text(module.text), 0])
        .flat_map(u32::to_le_bytes)
        .collect();
    let fields = [
        (FLAGS, GIVEN),
        (MEM_LOWER, lower_kib),
        (MEM_UPPER, upper_kib),
        (CMDLINE, block.add_text(request.command_line)),
        (MODS_COUNT, modules.len() as u32),
        (MODS_ADDR, block.add(&list)),
        (MMAP_LENGTH, map.len() as u32),
        (MMAP_ADDR, block.add(&map)),
        (BOOT_LOADER_NAME, block.add_text(LOADER_NAME)),
    ];
    fields.into_iter().for_each(|(offset, word)| block.put(offset, word.to_le_bytes()));
}
