//! 64-bit programs that run at any address: put at one, and relocated for it (System V ABI, AMD64 supplement 1.0, 4.4; gABI, 5, for
//! DT_RELR). A program at fixed addresses is loaded to these.
//!
//! There is no dynamic loader: a program that wants a library is refused.

use object::LittleEndian as LE;
use object::elf::{self, Dyn64, FileHeader64, ProgramHeader64, Rela64, Sym64};
use object::pod;
use object::read::elf::{FileHeader, ProgramHeader};

use crate::elf::{header, is_loaded, program_headers, refuse, segments, width};
use crate::error::Error;
use crate::layout::MOST_MEMORY_BYTES;
use crate::lowered::{Segment, Width};

/// Places that DT_RELR's bit masks are about: the bits of a word, but for the lowest.
const PLACES_OF_A_MASK: u64 = 63;
const WORD_BYTES: u64 = 8;

/// A program at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its pieces, by ascending addresses; none overlaps another, and there is one at least.
    pub segments: Vec<Segment>,
    /// The address of its first instruction, which is in one of them.
    pub entry_gpa: u64,
    /// The number that was added to its addresses: 0 for a program at fixed addresses.
    pub(crate) shift: u64,
}

/// Puts a program to its virtual addresses. To those of one that runs anywhere, `base` is added, or as little above that as its
/// alignment demands.
///
/// # Errors
/// The file is no 64-bit program, is damaged, or wants what no host can give it.
pub fn place_program(file: &[u8], base: u64) -> Result<Program, Error> {
    if width(file)? == Width::Bits32 {
        return Err(Error::ThirtyTwoBit);
    }
    let header = header::<FileHeader64<LE>>(file)?;
    let headers = program_headers(header, file)?;
    let shift = if header.e_type(LE) == elf::ET_DYN { shift(headers, base) } else { 0 };
    let mut program = Program {
        segments: segments::<FileHeader64<LE>>(headers, file, |header| header.p_vaddr(LE).wrapping_add(shift))?,
        entry_gpa: header.e_entry(LE).wrapping_add(shift),
        shift,
    };
    let holds = |segment: &Segment| (segment.gpa..segment.end()).contains(&program.entry_gpa);
    if !program.segments.iter().any(holds) {
        return refuse(format!("has its entry point, {:#x}, in none of its segments", header.e_entry(LE)));
    }
    for header in headers {
        let outside = || Error::Elf("has a dynamic section outside of it".to_owned());
        if let Some(dynamic) = header.dynamic(LE, file).map_err(|_| outside())? {
            program.relocate(&Dynamic::read(dynamic)?)?;
        }
    }
    Ok(program)
}

/// The number to add to the addresses of a program that runs anywhere: `base`, or as little above that as its alignment demands.
fn shift(headers: &[ProgramHeader64<LE>], base: u64) -> u64 {
    let alignments = headers.iter().filter(is_loaded).map(|header| header.p_align(LE));
    let alignment = alignments.filter(|align| align.is_power_of_two() && *align <= MOST_MEMORY_BYTES).max();
    base.next_multiple_of(alignment.unwrap_or(1))
}

/// The parts of a dynamic section that tell of relocations; addresses are the file's.
#[derive(Clone, Copy, Debug)]
struct Dynamic {
    /// Tables of relocations with addends: address and bytes.
    rela: [(u64, u64); 2],
    /// The table of words that are relative to the program: address and bytes.
    relr: (u64, u64),
    /// The address of the symbols.
    symbols: u64,
}

impl Dynamic {
    fn read(entries: &[Dyn64<LE>]) -> Result<Self, Error> {
        let entries = || entries.iter().take_while(|entry| entry.d_tag.get(LE) != elf::DT_NULL);
        let value = |tag: i64| entries().find(|entry| entry.d_tag.get(LE) == tag).map(|entry| entry.d_val.get(LE));
        if value(elf::DT_NEEDED).is_some() {
            return refuse("wants a library, and there is no dynamic loader");
        }
        let is_plt_rela = value(elf::DT_PLTREL).is_none_or(|kind| kind == elf::DT_RELA as u64);
        if value(elf::DT_REL).is_some() || !is_plt_rela {
            return refuse("has relocations without addends, as no 64-bit program of x86 has");
        }
        let table = |place, bytes| (value(place).unwrap_or(0), value(bytes).unwrap_or(0));
        Ok(Self {
            rela: [table(elf::DT_RELA, elf::DT_RELASZ), table(elf::DT_JMPREL, elf::DT_PLTRELSZ)],
            relr: table(elf::DT_RELR, elf::DT_RELRSZ),
            symbols: value(elf::DT_SYMTAB).unwrap_or(0),
        })
    }
}

impl Program {
    fn relocate(&mut self, dynamic: &Dynamic) -> Result<(), Error> {
        for (address, bytes) in dynamic.rela {
            let table = self.table(address, bytes)?;
            let (rows, _) = pod::slice_from_bytes::<Rela64<LE>>(&table, table.len() / size_of::<Rela64<LE>>())
                .map_err(|()| Error::Elf("has a damaged table of relocations".to_owned()))?;
            for row in rows {
                if let Some(value) = self.value(row, dynamic)? {
                    self.put(row.r_offset.get(LE), value)?;
                }
            }
        }
        let table = self.table(dynamic.relr.0, dynamic.relr.1)?;
        let mut next = 0;
        for word in table.chunks_exact(WORD_BYTES as usize) {
            let word = word.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
            // An address, or bits for the words behind the last one.
            if word & 1 == 0 {
                self.add_shift(word)?;
                next = word.wrapping_add(WORD_BYTES);
                continue;
            }
            for place in (0..PLACES_OF_A_MASK).filter(|place| word >> (place + 1) & 1 != 0) {
                self.add_shift(next.wrapping_add(place * WORD_BYTES))?;
            }
            next = next.wrapping_add(PLACES_OF_A_MASK * WORD_BYTES);
        }
        Ok(())
    }

    /// The value of a relocation; none for one that changes nothing.
    fn value(&self, row: &Rela64<LE>, dynamic: &Dynamic) -> Result<Option<u64>, Error> {
        let addend = row.r_addend.get(LE) as u64;
        Ok(match row.r_type(LE, false) {
            elf::R_X86_64_NONE => None,
            elf::R_X86_64_RELATIVE => Some(self.shift.wrapping_add(addend)),
            elf::R_X86_64_64 => Some(self.symbol(row.r_sym(LE, false), dynamic)?.wrapping_add(addend)),
            elf::R_X86_64_GLOB_DAT | elf::R_X86_64_JUMP_SLOT => Some(self.symbol(row.r_sym(LE, false), dynamic)?),
            kind => return refuse(format!("has a relocation of type {kind}, which only a dynamic loader could make")),
        })
    }

    /// The value of a symbol: its address, or 0 if nobody defines it and nobody needs it.
    fn symbol(&self, number: u32, dynamic: &Dynamic) -> Result<u64, Error> {
        const BYTES: u64 = size_of::<Sym64<LE>>() as u64;
        let address = dynamic.symbols.wrapping_add(BYTES * u64::from(number));
        let bytes = self.table(address, BYTES)?;
        let (symbol, _) = pod::from_bytes::<Sym64<LE>>(&bytes)
            .map_err(|()| Error::Elf("has a damaged table of symbols".to_owned()))?;
        match symbol.st_shndx.get(LE) {
            elf::SHN_UNDEF if symbol.st_bind() == elf::STB_WEAK || number == 0 => Ok(0),
            elf::SHN_UNDEF => {
                refuse(format!("wants its symbol {number} from a library, and there is no dynamic loader"))
            }
            elf::SHN_ABS => Ok(symbol.st_value.get(LE)),
            _ => Ok(symbol.st_value.get(LE).wrapping_add(self.shift)),
        }
    }

    /// Bytes at an address of the file.
    fn table(&self, address: u64, bytes: u64) -> Result<Vec<u8>, Error> {
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let (segment, at) = self.find(address, bytes)?;
        let segment = &self.segments[segment];
        let end = at.saturating_add(bytes as usize);
        segment.bytes.get(at..end).map(<[u8]>::to_vec).ok_or_else(|| self.outside(address, bytes))
    }

    /// Writes a word at an address of the file.
    fn put(&mut self, address: u64, value: u64) -> Result<(), Error> {
        let (segment, at) = self.find(address, WORD_BYTES)?;
        let bytes = &mut self.segments[segment].bytes;
        let end = at + WORD_BYTES as usize;
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[at..end].copy_from_slice(&value.to_le_bytes());
        Ok(())
    }

    fn add_shift(&mut self, address: u64) -> Result<(), Error> {
        let (segment, at) = self.find(address, WORD_BYTES)?;
        let word = self.segments[segment].bytes.get(at..).unwrap_or_default().iter().take(WORD_BYTES as usize);
        let word = word.rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        self.put(address, self.shift.wrapping_add(word))
    }

    /// The segment that has these bytes of memory, and their offset in it.
    fn find(&self, address: u64, bytes: u64) -> Result<(usize, usize), Error> {
        let gpa = address.wrapping_add(self.shift);
        let behind = self.segments.partition_point(|segment| segment.gpa <= gpa);
        let found = behind
            .checked_sub(1)
            .filter(|&at| gpa.checked_add(bytes).is_some_and(|end| end <= self.segments[at].end()));
        found.map(|at| (at, (gpa - self.segments[at].gpa) as usize)).ok_or_else(|| self.outside(address, bytes))
    }

    fn outside(&self, address: u64, bytes: u64) -> Error {
        Error::Elf(format!("has relocations of {bytes} bytes at {address:#x}, which is in none of its segments"))
    }
}
