//! From a position-independent ELF file to the PE32+ file that UEFI loads (UEFI 2.10, 2.1.1; PE/COFF specification).
//!
//! Each loadable segment becomes a section at the same relative address. The relocations of a static position-independent program
//! are all of one kind: the base address plus a number. The number is stored for a base of our choice, and the address of the
//! relocation goes into the list of those that the firmware corrects when it chooses another base.

use object::LittleEndian as LE;
use object::elf;
use object::pe;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader, Rela, SectionHeader};
use object::write::pe::{NtHeaders, Writer};

/// The address that the image prefers; firmware puts it wherever there is memory.
const BASE: u64 = 0x1_4000_0000;
const SECTION_ALIGNMENT: u32 = 4096;
const FILE_ALIGNMENT: u32 = 512;
/// Data directories of the optional header.
const DATA_DIRECTORIES: usize = 16;

/// The reason that an ELF file can't be converted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeError {
    /// It is no ELF file, or a damaged one.
    #[error("the application is not a sound ELF file: {0}")]
    Elf(object::Error),
    /// It is linked to an address.
    #[error("the application is not position-independent")]
    Fixed,
    /// A segment can't become a section.
    #[error("the application's segment at {0:#x} does not start on a page of its own above the headers")]
    Segment(u64),
    /// A relocation is of another kind, or outside of the file's contents.
    #[error("the application's relocation at {offset:#x} is of type {kind}, or lies outside of its segments")]
    Relocation {
        /// The relocation's address.
        offset: u64,
        /// The relocation's type in the ELF file.
        kind: u32,
    },
    /// It is larger than the format allows.
    #[error("the application is too large for a PE file")]
    TooLarge,
}

impl From<object::Error> for PeError {
    fn from(error: object::Error) -> Self {
        PeError::Elf(error)
    }
}

/// A segment on its way to be a section.
struct Segment {
    address: u32,
    bytes: Vec<u8>,
    memory_bytes: u32,
    flags: u32,
}

impl Segment {
    fn section(&self) -> (&'static [u8; 8], u32) {
        let read = pe::IMAGE_SCN_MEM_READ;
        match (self.flags & elf::PF_X, self.flags & elf::PF_W) {
            (0, 0) => (b".rdata\0\0", pe::IMAGE_SCN_CNT_INITIALIZED_DATA | read),
            (0, _) => (b".data\0\0\0", pe::IMAGE_SCN_CNT_INITIALIZED_DATA | read | pe::IMAGE_SCN_MEM_WRITE),
            _ => (b".text\0\0\0", pe::IMAGE_SCN_CNT_CODE | read | pe::IMAGE_SCN_MEM_EXECUTE),
        }
    }
}

/// Converts the application.
///
/// # Errors
/// The file is not as its link script makes it.
pub fn from_elf(data: &[u8]) -> Result<Vec<u8>, PeError> {
    let file = ElfFile64::<LE>::parse(data)?;
    let header = file.elf_header();
    if header.e_type(LE) != elf::ET_DYN {
        return Err(PeError::Fixed);
    }
    let mut segments = segments(&file, data)?;
    let relocations = relocate(&file, data, &mut segments)?;
    let entry = u32::try_from(header.e_entry(LE)).map_err(|_| PeError::TooLarge)?;
    write(&segments, &relocations, entry)
}

fn segments(file: &ElfFile64<'_, LE>, data: &[u8]) -> Result<Vec<Segment>, PeError> {
    let mut segments: Vec<Segment> = Vec::new();
    for header in file.elf_program_headers() {
        if header.p_type(LE) != elf::PT_LOAD || header.p_memsz(LE) == 0 {
            continue;
        }
        let address = header.p_vaddr(LE);
        let bytes = header.data(LE, data).map_err(|()| PeError::Segment(address))?.to_vec();
        let free_from = segments.last().map_or(SECTION_ALIGNMENT, |last| last.address + last.memory_bytes);
        let end = address.checked_add(header.p_memsz(LE)).filter(|&end| end <= u64::from(i32::MAX as u32));
        end.ok_or(PeError::TooLarge)?;
        if !address.is_multiple_of(SECTION_ALIGNMENT.into())
            || address < free_from.into()
            || bytes.len() as u64 > header.p_memsz(LE)
        {
            return Err(PeError::Segment(address));
        }
        let (address, memory_bytes) = (address as u32, header.p_memsz(LE) as u32);
        segments.push(Segment { address, bytes, memory_bytes, flags: header.p_flags(LE) });
    }
    Ok(segments)
}

/// Applies the relocations for [`BASE`]; returns their addresses, in order.
fn relocate(file: &ElfFile64<'_, LE>, data: &[u8], segments: &mut [Segment]) -> Result<Vec<u32>, PeError> {
    let mut places = Vec::new();
    for section in file.elf_section_table().iter() {
        let Some((relocations, _)) = section.rela(LE, data)? else { continue };
        for relocation in relocations {
            let (offset, kind) = (relocation.r_offset(LE), relocation.r_type(LE, false));
            let place = segments.iter_mut().find_map(|segment| {
                let at = usize::try_from(offset.checked_sub(segment.address.into())?).ok()?;
                segment.bytes.get_mut(at..at.checked_add(8)?)
            });
            let place = place.filter(|_| kind == elf::R_X86_64_RELATIVE);
            let place = place.ok_or(PeError::Relocation { offset, kind })?;
            place.copy_from_slice(&BASE.wrapping_add(relocation.r_addend(LE) as u64).to_le_bytes());
            places.push(offset as u32);
        }
    }
    places.sort_unstable();
    Ok(places)
}

fn write(segments: &[Segment], relocations: &[u32], entry: u32) -> Result<Vec<u8>, PeError> {
    let mut out = Vec::new();
    let mut writer = Writer::new(true, SECTION_ALIGNMENT, FILE_ALIGNMENT, &mut out);
    writer.reserve_dos_header();
    writer.reserve_nt_headers(DATA_DIRECTORIES);
    relocations.iter().for_each(|&place| writer.add_reloc(place, pe::IMAGE_REL_BASED_DIR64));
    let sections = segments.len() + usize::from(!relocations.is_empty());
    writer.reserve_section_headers(u16::try_from(sections).map_err(|_| PeError::TooLarge)?);
    let mut offsets = Vec::new();
    for segment in segments {
        let (name, characteristics) = segment.section();
        writer.reserve_virtual_until(segment.address);
        let file_bytes = segment.bytes.len() as u32;
        let range = writer.reserve_section(*name, characteristics, segment.memory_bytes, file_bytes);
        if range.virtual_address != segment.address {
            return Err(PeError::Segment(segment.address.into()));
        }
        offsets.push(range.file_offset);
    }
    if !relocations.is_empty() {
        writer.reserve_reloc_section();
    }
    writer.write_empty_dos_header().map_err(|_| PeError::TooLarge)?;
    writer.write_nt_headers(headers(entry));
    writer.write_section_headers();
    for (segment, &offset) in segments.iter().zip(&offsets) {
        writer.write_section(offset, &segment.bytes);
    }
    if !relocations.is_empty() {
        writer.write_reloc_section();
    }
    drop(writer);
    Ok(out)
}

fn headers(entry: u32) -> NtHeaders {
    NtHeaders {
        machine: pe::IMAGE_FILE_MACHINE_AMD64,
        // The same program makes the same file.
        time_date_stamp: 0,
        characteristics: pe::IMAGE_FILE_EXECUTABLE_IMAGE | pe::IMAGE_FILE_LARGE_ADDRESS_AWARE,
        major_linker_version: 0,
        minor_linker_version: 0,
        address_of_entry_point: entry,
        image_base: BASE,
        major_operating_system_version: 0,
        minor_operating_system_version: 0,
        major_image_version: 0,
        minor_image_version: 0,
        major_subsystem_version: 0,
        minor_subsystem_version: 0,
        subsystem: pe::IMAGE_SUBSYSTEM_EFI_APPLICATION,
        dll_characteristics: pe::IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE | pe::IMAGE_DLLCHARACTERISTICS_NX_COMPAT,
        size_of_stack_reserve: 0,
        size_of_stack_commit: 0,
        size_of_heap_reserve: 0,
        size_of_heap_commit: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{APPLICATION_ELF, GUEST_ELF};
    use object::read::pe::PeFile64;
    use object::{Object, ObjectSection};

    #[test]
    fn the_application_keeps_its_sections_and_can_be_moved() {
        let application = from_elf(APPLICATION_ELF).unwrap();
        let (elf, pe) = (ElfFile64::<LE>::parse(APPLICATION_ELF).unwrap(), PeFile64::parse(&*application).unwrap());
        assert_eq!(pe.entry(), BASE + elf.elf_header().e_entry(LE));
        assert_eq!(pe.nt_headers().optional_header.subsystem.get(LE), pe::IMAGE_SUBSYSTEM_EFI_APPLICATION);
        let names: Vec<_> = pe.sections().map(|section| section.name().unwrap().to_owned()).collect();
        assert_eq!(names, [".text", ".rdata", ".data", ".reloc"]);
        let code = pe.section_by_name(".text").unwrap();
        let text = elf.section_by_name(".text").unwrap();
        assert_eq!(code.address(), BASE + text.address());
        assert!(code.data().unwrap().starts_with(text.data().unwrap()));
        // There are as many entries as relocations, each with an address inside the image.
        let mut blocks = pe.data_directories().relocation_blocks(&*application, &pe.section_table()).unwrap().unwrap();
        let mut places = 0;
        while let Some(block) = blocks.next().unwrap() {
            for relocation in block.filter(|relocation| relocation.typ != pe::IMAGE_REL_BASED_ABSOLUTE) {
                assert_eq!(relocation.typ, pe::IMAGE_REL_BASED_DIR64);
                let address = BASE + u64::from(relocation.virtual_address);
                let section = pe
                    .sections()
                    .find(|section| (section.address()..section.address() + section.size()).contains(&address));
                let bytes = section.unwrap().data_range(address, 8).unwrap().unwrap();
                let target = u64::from_le_bytes(bytes.try_into().unwrap());
                assert!((BASE..BASE + (1 << 30)).contains(&target), "{target:#x}");
                places += 1;
            }
        }
        assert!(places > 50, "only {places} relocations");
    }

    #[test]
    fn what_is_no_application_is_refused() {
        assert_eq!(from_elf(GUEST_ELF), Err(PeError::Fixed));
        assert!(matches!(from_elf(b"\x7fELF"), Err(PeError::Elf(_))));
        for cut in [64, 0x1000, APPLICATION_ELF.len() / 2] {
            let _ = from_elf(&APPLICATION_ELF[..cut]).unwrap_err();
        }
    }
}
