//! A guest's ELF file: the kinds that the tool takes, and the reasons for which it refuses others.
//!
//! It takes a static x86-64 executable whose segments lie in the guest's memory (`abi::machine`). Physical addresses count: the
//! guest starts with its first 4 GiB mapped to themselves. One that runs anywhere is relocated here.

use std::borrow::Cow;

use object::LittleEndian as LE;
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use tollgate_abi::guest_image::{self, LoadError, MAX_SEGMENTS, Placing, Segment};
use tollgate_abi::machine::RELOCATED_GPA;
use tollgate_guests::{Segment as Relocated, place_program};

use super::packing::packed;

/// A guest that can be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest<'data> {
    /// Its machine, and its beginning.
    pub placing: Placing,
    /// The pieces to load, in the file's order. None if the guest is placed, which the image then leaves to others.
    pub pieces: Vec<Piece<'data>>,
}

/// A loadable segment and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece<'data> {
    /// The address in the guest's memory.
    pub gpa: u64,
    /// The segment's length in memory.
    pub memory_bytes: u64,
    /// The segment's bytes: those in the file, or relocated.
    pub bytes: Cow<'data, [u8]>,
}

/// The reason that a file is no guest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestError {
    /// The file is empty.
    #[error("the file is empty")]
    Empty,
    /// It is no ELF file.
    #[error("it is neither an ELF file nor a Linux kernel (bzImage)")]
    NotElf,
    /// The file ends before a part that its headers promise.
    #[error("it is truncated: {part} reaches to byte {end}, and the file has {bytes}")]
    Truncated {
        /// The part that is cut off.
        part: &'static str,
        /// The end of that part.
        end: u64,
        /// The end of the file.
        bytes: u64,
    },
    /// It is a 32-bit file.
    #[error("it is a 32-bit ELF file, and the guest runs in 64-bit mode")]
    NotSixtyFourBit,
    /// It is for another processor.
    #[error("it is for another machine (ELF machine {0}), not for x86-64")]
    Machine(u16),
    /// It is an object file, a library or a core dump.
    #[error("it is {0}, not a static executable")]
    Kind(&'static str),
    /// It runs anywhere, and can't be relocated.
    #[error("it {0}")]
    Relocation(String),
    /// It needs a dynamic loader.
    #[error("it wants a dynamic loader, and there is none")]
    Dynamic,
    /// Its tables contradict themselves.
    #[error("its {0} is malformed")]
    Malformed(&'static str),
    /// The monitor could not load it.
    #[error("{0}")]
    Load(LoadError),
}

impl From<LoadError> for GuestError {
    fn from(error: LoadError) -> Self {
        GuestError::Load(error)
    }
}

impl From<tollgate_guests::Error> for GuestError {
    fn from(error: tollgate_guests::Error) -> Self {
        GuestError::Relocation(match error {
            tollgate_guests::Error::Elf(cause) => cause,
            other => format!("can't be relocated: {other}"),
        })
    }
}

impl GuestError {
    /// The remedy, for a person.
    pub fn remedy(&self) -> &'static str {
        match self {
            GuestError::Empty | GuestError::NotElf => "name the linked program, not its source or a flat binary",
            GuestError::Truncated { .. } | GuestError::Malformed(_) => "copy or link the file again",
            GuestError::NotSixtyFourBit | GuestError::Machine(_) => "build it for x86_64",
            GuestError::Kind(_) | GuestError::Dynamic | GuestError::Relocation(_) => {
                "link it with -static and without an interpreter, as unikernel-guest/build.rs does, or with -static-pie"
            }
            GuestError::Load(_) => "change its link script; unikernel-guest/link.ld shows where a guest may lie",
        }
    }
}

impl<'data> Guest<'data> {
    /// Reads and checks an ELF file.
    ///
    /// # Errors
    /// The first reason that the monitor could not load it.
    pub fn parse(data: &'data [u8]) -> Result<Self, GuestError> {
        let header = check_header(data)?;
        let segments = program_headers(header, data)?;
        let is_relocated = header.e_type(LE) == elf::ET_DYN;
        let wants_loader = |kind| kind == elf::PT_INTERP || (kind == elf::PT_DYNAMIC && !is_relocated);
        if segments.iter().any(|segment| wants_loader(segment.p_type(LE))) {
            return Err(GuestError::Dynamic);
        }
        let loaded = |segment: &&ProgramHeader64<LE>| segment.p_type(LE) == elf::PT_LOAD && segment.p_memsz(LE) > 0;
        let count = segments.iter().filter(loaded).count();
        if count > MAX_SEGMENTS {
            return Err(LoadError::TooManySegments(count).into());
        }
        let pieces =
            segments.iter().filter(loaded).map(|segment| piece(segment, data)).collect::<Result<Vec<_>, _>>()?;
        let guest = if is_relocated {
            let program = place_program(data, RELOCATED_GPA)?;
            let piece = |Relocated { gpa, memory_bytes, bytes, .. }| Piece { gpa, memory_bytes, bytes: bytes.into() };
            let pieces = program.segments.into_iter().map(piece).collect();
            Self { placing: Placing::unikernel(program.entry_gpa), pieces }
        } else {
            Self { placing: Placing::unikernel(header.e_entry(LE)), pieces }
        };
        let segments: Vec<_> = guest.segments_as_they_are(0).into_iter().map(|(segment, _)| segment).collect();
        guest_image::check(&guest.placing, segments.iter().copied())?;
        Ok(guest)
    }

    /// The directory's segments for a ROM, if their bytes are packed from `image_offset` on.
    pub(super) fn packed_segments(&self, image_offset: u64) -> Vec<(Segment, Cow<'_, [u8]>)> {
        self.segments(image_offset, packed)
    }

    /// The directory's segments for a stick, if their bytes are from `image_offset` on.
    pub(super) fn segments_as_they_are(&self, image_offset: u64) -> Vec<(Segment, Cow<'_, [u8]>)> {
        self.segments(image_offset, Cow::Borrowed)
    }

    fn segments<'a>(
        &'a self,
        image_offset: u64,
        store: fn(&'a [u8]) -> Cow<'a, [u8]>,
    ) -> Vec<(Segment, Cow<'a, [u8]>)> {
        let mut at = image_offset;
        let mut place = |piece: &'a Piece<'data>| {
            let stored = store(&piece.bytes);
            let (file_bytes, packed_bytes) = (piece.bytes.len() as u64, stored.len() as u64);
            let (gpa, memory_bytes) = (piece.gpa, piece.memory_bytes);
            let segment = Segment { gpa, memory_bytes, image_offset: at, file_bytes, packed_bytes };
            at = (at + packed_bytes).next_multiple_of(16);
            (segment, stored)
        };
        self.pieces.iter().map(&mut place).collect()
    }
}

fn truncated(part: &'static str, end: u64, data: &[u8]) -> GuestError {
    GuestError::Truncated { part, end, bytes: data.len() as u64 }
}

fn check_header(data: &[u8]) -> Result<&FileHeader64<LE>, GuestError> {
    const HEADER_BYTES: u64 = size_of::<FileHeader64<LE>>() as u64;
    if data.is_empty() {
        return Err(GuestError::Empty);
    }
    if data.len() < elf::ELFMAG.len() && elf::ELFMAG.starts_with(data) {
        return Err(truncated("the header", HEADER_BYTES, data));
    }
    if !data.starts_with(&elf::ELFMAG) {
        return Err(GuestError::NotElf);
    }
    match data.get(4) {
        Some(&elf::ELFCLASS32) => return Err(GuestError::NotSixtyFourBit),
        Some(&elf::ELFCLASS64) | None => {}
        Some(_) => return Err(GuestError::Malformed("class")),
    }
    if (data.len() as u64) < HEADER_BYTES {
        return Err(truncated("the header", HEADER_BYTES, data));
    }
    if data[5] != elf::ELFDATA2LSB {
        return Err(GuestError::Machine(u16::from_be_bytes([data[18], data[19]])));
    }
    let header = FileHeader64::<LE>::parse(data).map_err(|_| GuestError::Malformed("header"))?;
    if header.e_machine(LE) != elf::EM_X86_64 {
        return Err(GuestError::Machine(header.e_machine(LE)));
    }
    match header.e_type(LE) {
        elf::ET_EXEC | elf::ET_DYN => Ok(header),
        elf::ET_REL => Err(GuestError::Kind("an object file that is not linked yet")),
        elf::ET_CORE => Err(GuestError::Kind("a core dump")),
        _ => Err(GuestError::Malformed("type")),
    }
}

fn program_headers<'data>(
    header: &'data FileHeader64<LE>,
    data: &'data [u8],
) -> Result<&'data [ProgramHeader64<LE>], GuestError> {
    let table_bytes = u64::from(header.e_phnum(LE)) * u64::from(header.e_phentsize(LE));
    let end = header.e_phoff(LE).checked_add(table_bytes).ok_or(GuestError::Malformed("program-header table"))?;
    if end > data.len() as u64 {
        return Err(truncated("the program-header table", end, data));
    }
    header.program_headers(LE, data).map_err(|_| GuestError::Malformed("program-header table"))
}

fn piece<'data>(segment: &ProgramHeader64<LE>, data: &'data [u8]) -> Result<Piece<'data>, GuestError> {
    let (offset, file_bytes) = segment.file_range(LE);
    let end = offset.checked_add(file_bytes).ok_or(GuestError::Malformed("segment"))?;
    if end > data.len() as u64 {
        return Err(truncated("a segment", end, data));
    }
    let bytes = segment.data(LE, data).map_err(|()| GuestError::Malformed("segment"))?;
    Ok(Piece { gpa: segment.p_paddr(LE), memory_bytes: segment.p_memsz(LE), bytes: bytes.into() })
}
