//! The ROM: 256 KiB that end at 4 GiB, where every x86 processor starts.
//!
//! ```text
//! 0                the monitor, as it will run in RAM
//! ...              the guest's segments, one after the other
//! 256 KiB - 8 KiB  the directory page: where the guest is, and the run's options
//! 256 KiB - 4 KiB  the monitor's boot block, with the reset vector in its last 16 bytes
//! ```

use object::LittleEndian as LE;
use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use tollgate_abi::guest_image::{self, DIRECTORY_BYTES, LoadError};

use super::Guest;

/// Bytes of a ROM.
pub const ROM_BYTES: usize = 256 << 10;
const ROM_BASE: u64 = (1 << 32) - ROM_BYTES as u64;
const BOOT_BLOCK_OFFSET: usize = ROM_BYTES - 4096;
const DIRECTORY_OFFSET: usize = BOOT_BLOCK_OFFSET - DIRECTORY_BYTES;
/// What nothing was written to, as in an erased flash chip.
const ERASED: u8 = 0xff;

/// A bootable ROM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rom {
    /// Its [`ROM_BYTES`] bytes.
    pub bytes: Vec<u8>,
    /// Bytes of the monitor in it, boot block included.
    pub monitor_bytes: usize,
    /// Bytes of the guest in it, packed.
    pub guest_bytes: usize,
}

/// Why no ROM can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RomError {
    /// The monitor is not what the link script makes of it.
    #[error("the monitor that this tool was built with is no ROM image")]
    Monitor,
    /// Too much to fit.
    #[error("it is {excess} bytes too large for the ROM: it takes {guest} bytes, and the monitor leaves {room}")]
    TooLarge {
        /// Bytes too many.
        excess: u64,
        /// Bytes of the guest, packed and aligned as they would lie.
        guest: u64,
        /// Bytes that are free.
        room: u64,
    },
    /// The directory refuses it.
    #[error("{0}")]
    Load(LoadError),
}

impl From<LoadError> for RomError {
    fn from(error: LoadError) -> Self {
        RomError::Load(error)
    }
}

impl RomError {
    /// What the person can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            RomError::Monitor => "build tollgate again",
            RomError::TooLarge { .. } => "strip it, optimize it for size, or move zeroes to .bss",
            RomError::Load(_) => "shorten the options, or change the guest's link script",
        }
    }
}

impl Rom {
    /// Lays out a ROM.
    ///
    /// # Errors
    /// The guest does not fit, or the directory refuses it.
    pub fn build(monitor_elf: &[u8], guest: &Guest<'_>, options: &str) -> Result<Self, RomError> {
        let mut bytes = vec![ERASED; ROM_BYTES];
        let (image_end, monitor_bytes) = place_monitor(&mut bytes, monitor_elf).ok_or(RomError::Monitor)?;
        let guest_start = image_end.next_multiple_of(16) as u64;
        let segments = guest.segments(guest_start);
        let guest_end = segments.last().map_or(guest_start, |(last, _)| last.image_offset + last.packed_bytes);
        if guest_end > DIRECTORY_OFFSET as u64 {
            let excess = guest_end - DIRECTORY_OFFSET as u64;
            let room = DIRECTORY_OFFSET as u64 - guest_start;
            return Err(RomError::TooLarge { excess, guest: guest_end - guest_start, room });
        }
        for (segment, packed) in &segments {
            bytes[segment.image_offset as usize..][..packed.len()].copy_from_slice(packed);
        }
        let segments: Vec<_> = segments.into_iter().map(|(segment, _)| segment).collect();
        let mut page = [0; DIRECTORY_BYTES];
        guest_image::write_directory(&mut page, guest.entry_gpa, &segments, options)?;
        bytes[DIRECTORY_OFFSET..BOOT_BLOCK_OFFSET].copy_from_slice(&page);
        Ok(Self { bytes, monitor_bytes, guest_bytes: (guest_end - guest_start) as usize })
    }
}

/// Copies the monitor's segments to their physical addresses; where its image ends, and how many bytes it has in all.
fn place_monitor(rom: &mut [u8], monitor_elf: &[u8]) -> Option<(usize, usize)> {
    let header = FileHeader64::<LE>::parse(monitor_elf).ok()?;
    let (mut image_end, mut total) = (0, 0);
    for segment in header.program_headers(LE, monitor_elf).ok()? {
        if segment.p_type(LE) != elf::PT_LOAD || segment.p_filesz(LE) == 0 {
            continue;
        }
        let data = segment.data(LE, monitor_elf).ok()?;
        let start = usize::try_from(segment.p_paddr(LE).checked_sub(ROM_BASE)?).ok()?;
        let end = start.checked_add(data.len())?;
        rom.get_mut(start..end)?.copy_from_slice(data);
        total += data.len();
        match start {
            BOOT_BLOCK_OFFSET.. => {}
            _ if end <= DIRECTORY_OFFSET => image_end = image_end.max(end),
            _ => return None,
        }
    }
    (image_end > 0).then_some((image_end, total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{GUEST_ELF, MONITOR_ELF};
    use tollgate_abi::guest_image::Directory;

    #[test]
    fn the_directory_leads_to_the_guests_bytes() {
        let guest = Guest::parse(GUEST_ELF).unwrap();
        let rom = Rom::build(MONITOR_ELF, &guest, "workloads=cpuid").unwrap();
        assert_eq!(rom.bytes.len(), ROM_BYTES);
        let page: &[u8; DIRECTORY_BYTES] = rom.bytes[DIRECTORY_OFFSET..BOOT_BLOCK_OFFSET].try_into().unwrap();
        let directory = Directory::read(page, ROM_BYTES as u64).unwrap();
        assert_eq!((directory.options, directory.entry_gpa), ("workloads=cpuid", guest.entry_gpa));
        for (segment, piece) in directory.segments().zip(&guest.pieces) {
            let packed = &rom.bytes[segment.image_offset as usize..][..segment.packed_bytes as usize];
            let unpacked = lz4_flex::block::decompress(packed, segment.file_bytes as usize);
            assert_eq!(if segment.is_packed() { unpacked.unwrap() } else { packed.to_vec() }, piece.bytes);
        }
    }

    #[test]
    fn a_guest_that_is_too_large_is_told_by_how_much() {
        // Nothing repeats, so nothing is saved by packing.
        let mut random = 1u64;
        let mut next = || {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (random >> 56) as u8
        };
        let bytes: Vec<u8> = (0..ROM_BYTES).map(|_| next()).collect();
        let mut guest = Guest::parse(GUEST_ELF).unwrap();
        guest.pieces[0].bytes = &bytes;
        let error = Rom::build(MONITOR_ELF, &guest, "").unwrap_err();
        assert!(matches!(error, RomError::TooLarge { excess, .. } if excess >= 8192), "{error}");
        assert!(error.to_string().contains("bytes too large for the ROM"), "{error}");
    }

    #[test]
    fn a_monitor_that_is_not_one_is_refused() {
        let guest = Guest::parse(GUEST_ELF).unwrap();
        assert_eq!(Rom::build(GUEST_ELF, &guest, ""), Err(RomError::Monitor));
        assert_eq!(Rom::build(b"", &guest, ""), Err(RomError::Monitor));
    }
}
