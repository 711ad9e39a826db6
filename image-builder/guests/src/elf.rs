//! A kernel's ELF file, of 32 or 64 bits: its loadable segments go to their physical addresses.

use std::ops::Range;

use object::LittleEndian as LE;
use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::bzimage::first_word;
use crate::error::Error;
use crate::layout::MOST_MEMORY_BYTES;
use crate::lowered::{Segment, Width};

/// The text before the version in each Linux kernel.
const BANNER: &[u8] = b"Linux version ";
/// Offset of the byte that tells the width of addresses, and of the one that tells the order of bytes.
const CLASS: usize = 4;
const DATA: usize = 5;

/// A kernel that can be loaded.
#[derive(Debug)]
pub(crate) struct Elf {
    /// The width of its addresses.
    pub(crate) width: Width,
    /// The address of its first instruction, as the header has it: virtual or physical, as it pleases the kernel's makers.
    pub(crate) entry: u64,
    /// Its pieces, by ascending addresses; none overlaps another, and there is one at least.
    pub(crate) segments: Vec<Segment>,
    /// The virtual addresses of each piece, and the physical address of the first.
    virtual_places: Vec<(Range<u64>, u64)>,
}

/// A segment as the file has it.
struct Piece<'a> {
    gpa: u64,
    memory_bytes: u64,
    bytes: &'a [u8],
}

/// The error that a file can't be loaded.
pub(crate) fn refuse<T>(cause: impl Into<String>) -> Result<T, Error> {
    Err(Error::Elf(cause.into()))
}

/// The width of a file's addresses.
pub(crate) fn width(file: &[u8]) -> Result<Width, Error> {
    match file.get(CLASS) {
        Some(&elf::ELFCLASS32) => Ok(Width::Bits32),
        Some(&elf::ELFCLASS64) | None => Ok(Width::Bits64),
        Some(_) => refuse("has a class that is neither 32-bit nor 64-bit"),
    }
}

/// The contents of a file's note of this name and type. A file that is damaged has none; whoever loads it says so.
pub(crate) fn note<'a>(file: &'a [u8], name: &[u8], kind: u32) -> Option<&'a [u8]> {
    match width(file).ok()? {
        Width::Bits32 => note_in::<FileHeader32<LE>>(file, name, kind),
        Width::Bits64 => note_in::<FileHeader64<LE>>(file, name, kind),
    }
}

fn note_in<'a, H: FileHeader<Endian = LE>>(file: &'a [u8], name: &[u8], kind: u32) -> Option<&'a [u8]> {
    let headers = H::parse(file).ok()?.program_headers(LE, file).ok()?;
    let mut notes = headers.iter().filter_map(|header| header.notes(LE, file).ok().flatten());
    notes.find_map(|mut notes| {
        std::iter::from_fn(|| notes.next().ok().flatten())
            .find(|note| note.name() == name && note.n_type(LE) == kind)
            .map(|note| note.desc())
    })
}

/// The version in Linux' banner.
pub(crate) fn linux_version(bytes: &[u8]) -> Option<String> {
    let at = memchr::memmem::find(bytes, BANNER)?;
    first_word(&bytes[at + BANNER.len()..])
}

impl Elf {
    /// Reads and checks a file whose segments go to their physical addresses.
    pub(crate) fn parse(file: &[u8]) -> Result<Self, Error> {
        match width(file)? {
            Width::Bits32 => Self::read(fixed::<FileHeader32<LE>>(file)?, file, Width::Bits32),
            Width::Bits64 => Self::read(fixed::<FileHeader64<LE>>(file)?, file, Width::Bits64),
        }
    }

    fn read<H: FileHeader<Endian = LE>>(header: &H, file: &[u8], width: Width) -> Result<Self, Error> {
        let headers = program_headers(header, file)?;
        let loaded = || headers.iter().filter(is_loaded);
        let gpa = |header: &H::ProgramHeader| header.p_paddr(LE).into();
        let segments = segments::<H>(headers, file, gpa)?;
        let virtual_places = loaded().map(|header| {
            let (first, bytes): (u64, u64) = (header.p_vaddr(LE).into(), header.p_memsz(LE).into());
            (first..first.saturating_add(bytes), header.p_paddr(LE).into())
        });
        let virtual_places = virtual_places.collect();
        Ok(Self { width, entry: header.e_entry(LE).into(), segments, virtual_places })
    }

    /// The entry point of a kernel whose header has its physical address.
    pub(crate) fn entry_gpa(&self) -> Result<u64, Error> {
        self.holds(self.entry).ok_or_else(|| self.entry_outside())
    }

    /// The entry point of a kernel whose header may have its virtual address: loaders of multiboot take it for one.
    pub(crate) fn entry_gpa_of_any(&self) -> Result<u64, Error> {
        let place = self.virtual_places.iter().find(|(range, _)| range.contains(&self.entry));
        let physical = place.map(|(range, gpa)| self.entry - range.start + gpa);
        physical.or_else(|| self.holds(self.entry)).ok_or_else(|| self.entry_outside())
    }

    fn entry_outside(&self) -> Error {
        Error::Elf(format!("has its entry point, {:#x}, in none of its segments", self.entry))
    }

    /// An address, if it lies in a segment.
    pub(crate) fn holds(&self, gpa: u64) -> Option<u64> {
        self.segments.iter().any(|segment| (segment.gpa..segment.end()).contains(&gpa)).then_some(gpa)
    }

    /// The version in Linux' banner.
    pub(crate) fn linux_version(&self) -> Option<String> {
        self.segments.iter().find_map(|segment| linux_version(&segment.bytes))
    }
}

/// The header of a file for x86, if it is not damaged.
pub(crate) fn header<H: FileHeader<Endian = LE>>(file: &[u8]) -> Result<&H, Error> {
    let end = size_of::<H>();
    if file.len() < end {
        return Err(Error::truncated("ELF header", end, file));
    }
    if file[DATA] != elf::ELFDATA2LSB {
        return refuse("is for a big-endian machine, not for x86");
    }
    let header = H::parse(file).map_err(|_| Error::Elf("has a malformed header".to_owned()))?;
    let machine = header.e_machine(LE);
    if machine != elf::EM_X86_64 && (machine != elf::EM_386 || header.is_type_64()) {
        return refuse(format!("is for another machine (ELF machine {machine}), not for x86"));
    }
    match header.e_type(LE) {
        elf::ET_EXEC | elf::ET_DYN => Ok(header),
        elf::ET_REL => refuse("is an object file that is not linked yet"),
        elf::ET_CORE => refuse("is a core dump"),
        other => refuse(format!("has an unknown type ({other})")),
    }
}

/// The header of a file that is linked to fixed addresses.
fn fixed<H: FileHeader<Endian = LE>>(file: &[u8]) -> Result<&H, Error> {
    let header = header::<H>(file)?;
    match header.e_type(LE) {
        elf::ET_DYN => refuse("is position-independent (a library or a PIE), not a kernel"),
        _ => Ok(header),
    }
}

/// The table of program headers.
pub(crate) fn program_headers<'a, H: FileHeader<Endian = LE>>(
    header: &H,
    file: &'a [u8],
) -> Result<&'a [H::ProgramHeader], Error> {
    let headers = header.program_headers(LE, file);
    headers.map_err(|_| Error::Elf("has a program-header table outside of it".to_owned()))
}

/// Whether a program header is that of a segment that is loaded.
pub(crate) fn is_loaded<P: ProgramHeader<Endian = LE>>(header: &&P) -> bool {
    header.p_type(LE) == elf::PT_LOAD && header.p_memsz(LE).into() > 0
}

/// The segments that are loaded, each at the address that `gpa` tells, by ascending addresses: at least one, and none overlaps another.
pub(crate) fn segments<H: FileHeader<Endian = LE>>(
    headers: &[H::ProgramHeader],
    file: &[u8],
    gpa: impl Fn(&H::ProgramHeader) -> u64,
) -> Result<Vec<Segment>, Error> {
    let loaded = headers.iter().filter(is_loaded);
    let mut pieces = loaded.map(|header| piece::<H>(header, file, gpa(header))).collect::<Result<Vec<_>, _>>()?;
    pieces.sort_by_key(|piece| piece.gpa);
    if let Some(pair) = pieces.windows(2).find(|pair| pair[0].gpa + pair[0].memory_bytes > pair[1].gpa) {
        return Err(Error::Overlap(pair[0].gpa, pair[1].gpa));
    }
    if pieces.is_empty() {
        return refuse("has nothing to load");
    }
    // Only now are bytes copied: each has its own place in memory, so there are no more than memory has.
    let segment = |piece: Piece<'_>| {
        let Piece { gpa, memory_bytes, bytes } = piece;
        Segment { gpa, bytes: bytes.to_vec(), memory_bytes, what: "kernel" }
    };
    Ok(pieces.into_iter().map(segment).collect())
}

fn piece<'a, H: FileHeader<Endian = LE>>(
    header: &H::ProgramHeader,
    file: &'a [u8],
    gpa: u64,
) -> Result<Piece<'a>, Error> {
    let memory_bytes: u64 = header.p_memsz(LE).into();
    let end = header.p_offset(LE).into().saturating_add(header.p_filesz(LE).into());
    let bytes =
        header.data(LE, file).map_err(|()| Error::Truncated { part: "ELF segment", end, bytes: file.len() as u64 })?;
    if bytes.len() as u64 > memory_bytes {
        return refuse(format!("has more bytes for its segment at {gpa:#x} than that has memory"));
    }
    if gpa.checked_add(memory_bytes).is_none_or(|end| end > MOST_MEMORY_BYTES) {
        return refuse(format!(
            "has a segment at {gpa:#x} that reaches beyond {MOST_MEMORY_BYTES:#x}, the most memory"
        ));
    }
    Ok(Piece { gpa, memory_bytes, bytes })
}
