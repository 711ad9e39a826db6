//! The kernel's ELF file: its loadable segments go to their physical addresses, and its entry point is a physical address, too.

use std::ops::Range;

use object::LittleEndian as LE;
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::bzimage::first_word;
use crate::error::Error;
use crate::layout::KERNEL_FLOOR_GPA;
use crate::lowered::Segment;

/// The text before the version in each Linux kernel.
const BANNER: &[u8] = b"Linux version ";

/// A kernel that can be loaded.
#[derive(Debug)]
pub(crate) struct Elf {
    /// The address of its first instruction.
    pub(crate) entry_gpa: u64,
    /// Its pieces, by ascending addresses; none overlaps another, and there is one at least.
    pub(crate) segments: Vec<Segment>,
}

fn refuse<T>(cause: impl Into<String>) -> Result<T, Error> {
    Err(Error::Elf(cause.into()))
}

impl Elf {
    /// Reads and checks a file.
    pub(crate) fn parse(file: &[u8]) -> Result<Self, Error> {
        let header = header(file)?;
        let headers = header.program_headers(LE, file);
        let headers = headers.map_err(|_| Error::Elf("has a program-header table outside of it".to_owned()))?;
        let loaded = headers.iter().filter(|header| header.p_type(LE) == elf::PT_LOAD && header.p_memsz(LE) > 0);
        let mut segments = loaded.map(|header| segment(header, file)).collect::<Result<Vec<_>, _>>()?;
        segments.sort_by_key(|segment| segment.gpa);
        if let Some(pair) = segments.windows(2).find(|pair| pair[0].end() > pair[1].gpa) {
            return Err(Error::Overlap(pair[0].gpa, pair[1].gpa));
        }
        let entry_gpa = header.e_entry(LE);
        match segments.first() {
            None => refuse("has nothing to load"),
            Some(first) if first.gpa < KERNEL_FLOOR_GPA => Err(Error::LowMemory(first.gpa)),
            Some(_) if !segments.iter().any(|segment| (segment.gpa..segment.end()).contains(&entry_gpa)) => {
                refuse(format!("has its entry point, {entry_gpa:#x}, in none of its segments"))
            }
            Some(_) => Ok(Self { entry_gpa, segments }),
        }
    }

    /// The addresses from the first segment to the end of the last.
    pub(crate) fn range(&self) -> Range<u64> {
        let (first, last) = (self.segments.first(), self.segments.last());
        first.map_or(0, |first| first.gpa)..last.map_or(0, Segment::end)
    }

    /// The version in Linux' banner.
    pub(crate) fn linux_version(&self) -> Option<String> {
        self.segments.iter().find_map(|segment| {
            let at = segment.bytes.windows(BANNER.len()).position(|bytes| bytes == BANNER)?;
            first_word(&segment.bytes[at + BANNER.len()..])
        })
    }
}

fn header(file: &[u8]) -> Result<&FileHeader64<LE>, Error> {
    match file.get(4) {
        Some(&elf::ELFCLASS32) => return Err(Error::ThirtyTwoBit),
        Some(&elf::ELFCLASS64) | None => {}
        Some(_) => return refuse("has a class that is neither 32-bit nor 64-bit"),
    }
    let end = size_of::<FileHeader64<LE>>();
    if file.len() < end {
        return Err(Error::truncated("ELF header", end, file));
    }
    if file[5] != elf::ELFDATA2LSB {
        return refuse("is for a big-endian machine, not for x86-64");
    }
    let header = FileHeader64::<LE>::parse(file).map_err(|_| Error::Elf("has a malformed header".to_owned()))?;
    match (header.e_machine(LE), header.e_type(LE)) {
        (elf::EM_X86_64, elf::ET_EXEC) => Ok(header),
        (elf::EM_X86_64, elf::ET_DYN) => refuse("is position-independent (a library or a PIE), not a kernel"),
        (elf::EM_X86_64, elf::ET_REL) => refuse("is an object file that is not linked yet"),
        (elf::EM_X86_64, elf::ET_CORE) => refuse("is a core dump"),
        (elf::EM_X86_64, other) => refuse(format!("has an unknown type ({other})")),
        (machine, _) => refuse(format!("is for another machine (ELF machine {machine}), not for x86-64")),
    }
}

fn segment(header: &ProgramHeader64<LE>, file: &[u8]) -> Result<Segment, Error> {
    let (gpa, memory_bytes) = (header.p_paddr(LE), header.p_memsz(LE));
    let end = header.p_offset(LE).saturating_add(header.p_filesz(LE));
    let bytes =
        header.data(LE, file).map_err(|()| Error::Truncated { part: "ELF segment", end, bytes: file.len() as u64 })?;
    if bytes.len() as u64 > memory_bytes {
        return refuse(format!("has more bytes for its segment at {gpa:#x} than that has memory"));
    }
    if gpa.checked_add(memory_bytes).is_none() {
        return refuse(format!("has a segment at {gpa:#x} that reaches beyond the last address"));
    }
    Ok(Segment { gpa, bytes: bytes.to_vec(), memory_bytes, what: "kernel" })
}
