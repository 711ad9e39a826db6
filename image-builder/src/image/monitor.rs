//! The monitor's ELF file: its image, which the ROM holds packed, and its boot block, which is executed in place.

use std::sync::{Mutex, PoisonError};

use object::LittleEndian as LE;
use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use tollgate_abi::guest_image::{BOOT_BLOCK_BYTES, ROM_BASE, ROM_BYTES};
use tollgate_abi::monitor_image::CALL;

use super::lz4_block;

/// The address at which the boot block is executed: at the end of the ROM.
const BOOT_BLOCK_ADDRESS: u64 = ROM_BASE as u64 + (ROM_BYTES - BOOT_BLOCK_BYTES) as u64;

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

    /// The image as one LZ4 block, with its calls translated. A process that builds thousands of ROMs packs it once.
    pub(super) fn packed(&self) -> Option<Vec<u8>> {
        static LAST: Mutex<Option<(Vec<u8>, Vec<u8>)>> = Mutex::new(None);
        let last = || LAST.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, packed)) = last().as_ref().filter(|(image, _)| image == self.image) {
            return Some(packed.clone());
        }
        let packed = lz4_block(&with_calls(self.image, translated))?;
        *last() = Some((self.image.to_vec(), packed.clone()));
        Some(packed)
    }
}

/// An image whose calls have been translated, by a function of the operand, the call's place and the image's length.
fn with_calls(image: &[u8], translated: fn(i64, i64, i64) -> i64) -> Vec<u8> {
    const OPERAND_BYTES: usize = size_of::<i32>();
    let (mut image, bytes) = (image.to_vec(), image.len() as i64);
    let mut at = 0;
    while let Some(found) = image[at..].iter().position(|&byte| byte == CALL) {
        let call = at + found;
        let Some(operand) = image[call + 1..].first_chunk_mut::<OPERAND_BYTES>() else { break };
        *operand = (translated(i32::from_le_bytes(*operand).into(), call as i64, bytes) as i32).to_le_bytes();
        at = call + 1 + OPERAND_BYTES;
    }
    image
}

/// A call's operand as it is packed: its target, where that is in the image.
fn translated(distance: i64, place: i64, bytes: i64) -> i64 {
    match distance {
        _ if (-place..bytes - place).contains(&distance) => distance + place,
        _ if (bytes - place..bytes).contains(&distance) => distance - bytes,
        _ => distance,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::image::MONITOR_ELF;
    use object::read::elf::ElfFile64;
    use object::{Object, ObjectSection};
    use proptest::prelude::*;

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
    fn the_parts_are_the_sections_and_the_block_unpacks_to_the_image() {
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
        let packed = monitor.packed().unwrap();
        assert!(packed.len() < monitor.image.len());
        assert!(unpacked(&packed, monitor.image.len()) == monitor.image);
    }

    /// The image, unpacked as the boot block does it.
    pub(in crate::image) fn unpacked(packed: &[u8], bytes: usize) -> Vec<u8> {
        with_calls(&lz4_flex::block::decompress(packed, bytes).unwrap(), |operand, place, bytes| match operand {
            _ if (0..bytes).contains(&operand) => operand - place,
            _ if (-place..0).contains(&operand) => operand + bytes,
            _ => operand,
        })
    }

    #[test]
    fn calls_are_translated_and_their_likes_come_back() {
        let image = |operands: [i32; 4]| {
            let calls = operands.map(|operand| [&[CALL][..], &operand.to_le_bytes()].concat());
            [&[0x90; 10][..], &calls.concat(), &[CALL, 1, 2, 3]].concat()
        };
        for (distances, operands) in [
            // Targets in the image, which has 34 bytes, from its first to its last.
            ([5, 0, -5, -25], [15, 15, 15, 0]),
            ([23, 18, -20, 8], [33, 33, 0, 33]),
            // Distances that are as short, with targets behind it.
            ([24, 19, 33, 9], [-10, -15, -1, -25]),
            // Others.
            ([-11, -16, 34, i32::MIN], [-11, -16, 34, i32::MIN]),
        ] {
            assert_eq!(with_calls(&image(distances), translated), image(operands), "{distances:?}");
        }
    }

    proptest! {
        #[test]
        fn every_image_is_unpacked_as_it_was(image in proptest::collection::vec(prop_oneof![Just(CALL), Just(0), Just(0xff), any::<u8>()], 1..200)) {
            let packed = lz4_block(&with_calls(&image, translated)).unwrap();
            prop_assert_eq!(unpacked(&packed, image.len()), image);
        }
    }
}
