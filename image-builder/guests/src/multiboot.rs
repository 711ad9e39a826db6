//! Multiboot, the first version (Multiboot Specification 0.6.96, 3.1 to 3.3): a header in the first 8 KiB of a file that is an ELF
//! file, or anything else if the header has addresses. The kernel is entered in 32-bit protected mode without paging.
//!
//! The information has memory, command line, modules, memory map and the loader's name. There is no boot device, no symbol table, no
//! video mode.

use crate::Request;
use crate::elf::Elf;
use crate::error::Error;
use crate::information::{Block, Placed, lay};
use crate::lowered::{About, Entry, Format, Lowered, Segment};
use crate::memory_map;

const MAGIC: u32 = 0x1bad_b002;
/// The mark in EAX.
const LOADER_MAGIC: u64 = 0x2bad_b002;
/// The header lies in so many bytes.
const SEARCHED_BYTES: usize = 8192;
const HEADER_WORDS: usize = 3;

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

/// A header: its offset, and its flags.
#[derive(Clone, Copy, Debug)]
struct Header {
    at: usize,
    flags: u32,
}

/// Words of the file from an offset on.
fn words<const N: usize>(file: &[u8], at: usize) -> Option<[u32; N]> {
    let bytes = file.get(at..at.checked_add(N * size_of::<u32>())?)?;
    let mut words =
        bytes.chunks_exact(size_of::<u32>()).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    Some(std::array::from_fn(|_| words.next().unwrap_or(0)))
}

fn header(file: &[u8]) -> Option<Header> {
    let searched = &file[..file.len().min(SEARCHED_BYTES)];
    (0..searched.len()).step_by(size_of::<u32>()).find_map(|at| {
        let [magic, flags, checksum] = words::<HEADER_WORDS>(searched, at)?;
        let is_one = magic == MAGIC && magic.wrapping_add(flags).wrapping_add(checksum) == 0;
        is_one.then_some(Header { at, flags })
    })
}

/// Whether a file has a header.
pub(crate) fn is_one(file: &[u8]) -> bool {
    header(file).is_some()
}

/// Lowers a kernel.
pub(crate) fn lower(request: &Request<'_>) -> Result<Lowered, Error> {
    let file = request.kernel;
    let header = header(file).ok_or_else(|| Error::NoKernel("without a multiboot header".to_owned()))?;
    header.check_demands()?;
    let (kernel, entry_gpa, width) = if header.flags & HAS_ADDRESSES != 0 {
        let (segment, entry_gpa) = header.by_addresses(file)?;
        (vec![segment], entry_gpa, None)
    } else if file.starts_with(&object::elf::ELFMAG) {
        let elf = Elf::parse(file)?;
        let entry_gpa = elf.entry_gpa_of_any()?;
        (elf.segments, entry_gpa, Some(elf.width))
    } else {
        return header.refuse("has no addresses, and the file is no ELF file that would have them");
    };
    let write = |block: &mut Block, modules: &[Placed<'_>]| write(block, request, modules);
    let (segments, entry) = lay(request, kernel, "multiboot information", write)?;
    let about = About { width, ..About::of(Format::Multiboot, entry_gpa) };
    Ok(Lowered { segments, entry: Entry { rip: entry_gpa, rax: LOADER_MAGIC, ..entry }, about })
}

impl Header {
    fn refuse<T>(self, cause: impl Into<String>) -> Result<T, Error> {
        Err(Error::Header { header: "multiboot", at: self.at, cause: cause.into() })
    }

    fn check_demands(self) -> Result<(), Error> {
        let unknown = self.flags & DEMANDS & !(PAGE_ALIGNED_MODULES | WANTS_MEMORY | WANTS_VIDEO);
        let demand = if self.flags & WANTS_VIDEO != 0 {
            "a video mode (bit 2 of its flags)".to_owned()
        } else if unknown != 0 {
            format!("what bit {} of its flags stands for, and no specification tells", unknown.trailing_zeros())
        } else {
            return Ok(());
        };
        Err(Error::Demand { header: "multiboot", at: self.at, demand })
    }

    /// The kernel as the header's own addresses place it, and its entry point.
    fn by_addresses(self, file: &[u8]) -> Result<(Segment, u64), Error> {
        let Some([header, load, load_end, bss_end, entry]) =
            words::<5>(file, self.at + HEADER_WORDS * size_of::<u32>())
        else {
            return Err(Error::truncated("multiboot header", self.at + 8 * size_of::<u32>(), file));
        };
        let before = header.checked_sub(load).map(|bytes| bytes as usize).filter(|&bytes| bytes <= self.at);
        let Some(before) = before else {
            return self.refuse(format!(
                "says that it lies at {header:#x} in memory that is loaded from {load:#x} on, for which the file has too few \
                 bytes in front of it"
            ));
        };
        let from = self.at - before;
        let loaded = match load_end {
            0 => &file[from..],
            _ => {
                let Some(bytes) = load_end.checked_sub(load) else {
                    return self.refuse(format!("has load_end_addr {load_end:#x} below load_addr {load:#x}"));
                };
                let end = from + bytes as usize;
                file.get(from..end).ok_or_else(|| Error::truncated("kernel", end, file))?
            }
        };
        let (gpa, loaded_end) = (u64::from(load), u64::from(load) + loaded.len() as u64);
        let end = if bss_end == 0 { loaded_end } else { bss_end.into() };
        if end < loaded_end {
            return self.refuse(format!("has bss_end_addr {end:#x} below the end of what is loaded, {loaded_end:#x}"));
        }
        if !(gpa..end).contains(&entry.into()) {
            return self.refuse(format!("has entry_addr {entry:#x} outside of the kernel, {gpa:#x} to {end:#x}"));
        }
        let segment = Segment { gpa, bytes: loaded.to_vec(), memory_bytes: end - gpa, what: "kernel" };
        Ok((segment, entry.into()))
    }
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
