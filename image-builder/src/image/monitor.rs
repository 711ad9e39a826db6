//! The monitor's ELF file: its image, which the ROM holds packed, and its boot block, which is executed in place.

use std::borrow::Cow;

use object::LittleEndian as LE;
use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use tollgate_abi::rom::{BOOT_BLOCK_ADDRESS, BOOT_BLOCK_BYTES};

use super::packing::packed;

/// The monitor as the link script lays it out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Monitor<'data> {
    /// `.text`, `.rodata` and `.data`, as they are in RAM.
    pub(super) image: &'data [u8],
    /// [`BOOT_BLOCK_BYTES`] bytes, as they are in the ROM.
    pub(super) boot_block: &'data [u8],
}

impl<'data> Monitor<'data> {
    /// Finds both parts; `None` if the file does not consist of them.
    pub(super) fn parse(data: &'data [u8]) -> Option<Self> {
        let header = FileHeader64::<LE>::parse(data).ok()?;
        let (mut image, mut boot_block) = (None, None);
        for segment in header.program_headers(LE, data).ok()? {
            if segment.p_type(LE) != elf::PT_LOAD || segment.p_filesz(LE) == 0 {
                continue;
            }
            let part = if segment.p_paddr(LE) == BOOT_BLOCK_ADDRESS { &mut boot_block } else { &mut image };
            if part.replace(segment.data(LE, data).ok()?).is_some() {
                return None;
            }
        }
        let boot_block = boot_block.filter(|bytes| bytes.len() == BOOT_BLOCK_BYTES)?;
        Some(Self { image: image?, boot_block })
    }

    /// The image as it lies in the ROM.
    pub(super) fn packed(&self) -> Cow<'static, [u8]> {
        packed(self.image)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::image::MONITOR_ELF;
    use crate::image::packing::tests::unpacked;
    use object::read::elf::ElfFile64;
    use object::{Object, ObjectSection};

    /// An ELF file of these segments alone: physical address and bytes of each.
    pub(in crate::image) fn elf_of(segments: &[(u64, &[u8])]) -> Vec<u8> {
        const HEADER_BYTES: usize = size_of::<FileHeader64<LE>>();
        const ENTRY_BYTES: usize = size_of::<elf::ProgramHeader64<LE>>();
        let mut file = vec![0; HEADER_BYTES];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        file[32] = HEADER_BYTES as u8; // e_phoff
        file[54] = ENTRY_BYTES as u8; // e_phentsize
        file[56] = segments.len() as u8; // e_phnum
        let mut at = HEADER_BYTES + segments.len() * ENTRY_BYTES;
        for (address, bytes) in segments {
            file.extend(elf::PT_LOAD.to_le_bytes());
            file.extend(7u32.to_le_bytes());
            let length = bytes.len() as u64;
            for word in [at as u64, *address, *address, length, length, 16] {
                file.extend(word.to_le_bytes());
            }
            at += bytes.len();
        }
        segments.iter().for_each(|(_, bytes)| file.extend(*bytes));
        file
    }

    pub(in crate::image) const IMAGE_ADDRESS: u64 = 1 << 20;
    pub(in crate::image) const BOOT_BLOCK: (u64, &[u8]) = (BOOT_BLOCK_ADDRESS, &[0xf4; BOOT_BLOCK_BYTES]);

    #[test]
    fn a_monitor_is_one_image_and_a_whole_boot_block() {
        let image: (u64, &[u8]) = (IMAGE_ADDRESS, b"image");
        let is_one = |segments: &[(u64, &[u8])]| Monitor::parse(&elf_of(segments)).is_some();
        assert!(is_one(&[image, BOOT_BLOCK]) && is_one(&[BOOT_BLOCK, (0, b""), image]));
        assert!(!is_one(&[image]) && !is_one(&[BOOT_BLOCK]) && !is_one(&[image, image, BOOT_BLOCK]));
        assert!(!is_one(&[image, (BOOT_BLOCK.0, &BOOT_BLOCK.1[1..])]) && !is_one(&[image, BOOT_BLOCK, BOOT_BLOCK]));
    }

    #[test]
    fn the_parts_are_the_sections_and_the_stream_unpacks_to_the_image() {
        let monitor = Monitor::parse(MONITOR_ELF).unwrap();
        let file = ElfFile64::<LE>::parse(MONITOR_ELF).unwrap();
        let section = |name: &str| file.section_by_name(name).unwrap();
        let start = section(".text").address();
        for name in [".text", ".rodata", ".data"] {
            let section = section(name);
            let at = (section.address() - start) as usize;
            assert_eq!(&monitor.image[at..][..section.size() as usize], section.data().unwrap(), "{name}");
        }
        assert!(monitor.boot_block.starts_with(section(".boot").data().unwrap()));
        assert!(monitor.boot_block.ends_with(section(".reset").data().unwrap()));
        let packed = monitor.packed();
        assert!(packed.len() < monitor.image.len());
        assert!(unpacked(&packed) == monitor.image);
    }
}
