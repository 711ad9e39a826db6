//! The ROM: 256 KiB that end at 4 GiB, where every x86 processor starts.
//!
//! ```text
//! 0                the monitor's image, packed: a stream of DEFLATE, which the boot block unpacks
//! ...              the guest's segments, packed in the same way, one after the other
//! 256 KiB - 8 KiB  the directory page: where the two are, the run's options, sums of all bytes up to them
//! 256 KiB - 4 KiB  the monitor's boot block, with the reset vector in its last 16 bytes
//! ```

use tollgate_abi::guest_image::{self, DIRECTORY_BYTES, DIRECTORY_OFFSET, LoadError};
use tollgate_abi::packed::{PackedMonitor, SUMS_OFFSET, sums};

use super::Guest;
use super::monitor::Monitor;

pub use tollgate_abi::guest_image::ROM_BYTES;

const BOOT_BLOCK_OFFSET: usize = DIRECTORY_OFFSET + DIRECTORY_BYTES;
/// The value of a byte that is not written, as in an erased flash chip.
const ERASED: u8 = 0xff;

/// A bootable ROM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rom {
    /// The ROM's [`ROM_BYTES`] bytes.
    pub bytes: Vec<u8>,
    /// Bytes of the monitor in it, packed, boot block included.
    pub monitor_bytes: usize,
    /// Bytes of the guest in it, packed.
    pub guest_bytes: usize,
    /// Bytes that are not written.
    pub free_bytes: usize,
}

/// The reason that no ROM can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RomError {
    /// The monitor is not as its link script makes it.
    #[error("the monitor that this tool was built with is no ROM image")]
    Monitor,
    /// The monitor alone is too large.
    #[error(
        "the monitor is {excess} bytes too large for the ROM: its {unpacked} bytes take {packed} when they are packed, \
         and there is room for {DIRECTORY_OFFSET}"
    )]
    MonitorTooLarge {
        /// The bytes that are too many.
        excess: usize,
        /// Bytes of its image, as it runs.
        unpacked: usize,
        /// Bytes of its image, packed.
        packed: usize,
    },
    /// The guest is too large beside the monitor.
    #[error("it is {excess} bytes too large for the ROM: it takes {guest} bytes, and the monitor leaves {room}")]
    TooLarge {
        /// The bytes that are too many.
        excess: u64,
        /// Bytes of the guest, packed and aligned as they would lie.
        guest: u64,
        /// Bytes that are free.
        room: u64,
    },
    /// The directory refuses the guest.
    #[error("{0}")]
    Load(LoadError),
}

impl From<LoadError> for RomError {
    fn from(error: LoadError) -> Self {
        RomError::Load(error)
    }
}

impl RomError {
    /// The remedy, for a person.
    pub fn remedy(&self) -> &'static str {
        match self {
            RomError::Monitor => "build tollgate again",
            RomError::MonitorTooLarge { .. } => {
                "take something out of the monitor, or compile more of it for size (profile `bare` in Cargo.toml), and \
                 build tollgate again"
            }
            RomError::TooLarge { .. } => "strip it, optimize it for size, or move zeroes to .bss",
            RomError::Load(_) => "shorten the options, or change the guest's link script",
        }
    }
}

impl Rom {
    /// Lays out a ROM.
    ///
    /// # Errors
    /// Monitor and guest do not fit, or the directory refuses the guest.
    pub fn build(monitor_elf: &[u8], guest: &Guest<'_>, options: &str) -> Result<Self, RomError> {
        let mut bytes = vec![ERASED; ROM_BYTES];
        let monitor = Monitor::parse(monitor_elf).ok_or(RomError::Monitor)?;
        let image = monitor.packed();
        let (packed, unpacked) = (image.len(), monitor.image.len());
        if packed > DIRECTORY_OFFSET {
            return Err(RomError::MonitorTooLarge { excess: packed - DIRECTORY_OFFSET, unpacked, packed });
        }
        bytes[..packed].copy_from_slice(&image);
        bytes[BOOT_BLOCK_OFFSET..].copy_from_slice(monitor.boot_block);
        let guest_start = packed.next_multiple_of(16) as u64;
        let segments = guest.packed_segments(guest_start);
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
        let place = PackedMonitor { image_offset: 0, packed_bytes: packed as u32, unpacked_bytes: unpacked as u32 };
        guest_image::write_directory(&mut page, place, &guest.placing, &segments, options)?;
        bytes[DIRECTORY_OFFSET..BOOT_BLOCK_OFFSET].copy_from_slice(&page);
        let sums = sums(&bytes[..SUMS_OFFSET]).map(u64::to_le_bytes);
        bytes[SUMS_OFFSET..BOOT_BLOCK_OFFSET].copy_from_slice(sums.as_flattened());
        Ok(Self {
            bytes,
            monitor_bytes: packed + monitor.boot_block.len(),
            guest_bytes: (guest_end - guest_start) as usize,
            free_bytes: DIRECTORY_OFFSET - guest_end as usize,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::monitor::tests::{BOOT_BLOCK, IMAGE_ADDRESS, elf_of};
    use crate::image::packing::tests::unpacked;
    use crate::image::{GUEST_ELF, MONITOR_ELF};
    use tollgate_abi::guest_image::Directory;

    #[test]
    fn the_directory_leads_to_the_guests_bytes() {
        let guest = Guest::parse(GUEST_ELF).unwrap();
        let rom = Rom::build(MONITOR_ELF, &guest, "workloads=cpuid").unwrap();
        assert_eq!(rom.bytes.len(), ROM_BYTES);
        let page: &[u8; DIRECTORY_BYTES] = rom.bytes[DIRECTORY_OFFSET..BOOT_BLOCK_OFFSET].try_into().unwrap();
        let directory = Directory::read(page, ROM_BYTES as u64).unwrap();
        assert_eq!((directory.options, directory.placing), ("workloads=cpuid", guest.placing));
        for (segment, piece) in directory.segments().zip(&guest.pieces) {
            let packed = &rom.bytes[segment.image_offset as usize..][..segment.packed_bytes as usize];
            assert!(unpacked(packed) == *piece.bytes && segment.file_bytes == piece.bytes.len() as u64, "{segment:x?}");
        }
    }

    #[test]
    fn the_directory_leads_to_the_monitors_bytes() {
        let (guest, monitor) = (Guest::parse(GUEST_ELF).unwrap(), Monitor::parse(MONITOR_ELF).unwrap());
        let rom = Rom::build(MONITOR_ELF, &guest, "").unwrap();
        let place = PackedMonitor::read(rom.bytes[DIRECTORY_OFFSET..].first_chunk().unwrap());
        let packed = &rom.bytes[place.image_offset as usize..][..place.packed_bytes as usize];
        assert!(unpacked(packed) == monitor.image, "{place:x?}");
        assert_eq!(place.unpacked_bytes as usize, monitor.image.len());
        assert_eq!(&rom.bytes[BOOT_BLOCK_OFFSET..], monitor.boot_block);
        let padding = packed.len().next_multiple_of(16) - packed.len();
        assert_eq!(rom.monitor_bytes + padding + rom.guest_bytes + rom.free_bytes, ROM_BYTES - DIRECTORY_BYTES);
    }

    /// Bytes that do not repeat, so that packing saves nothing.
    fn incompressible() -> Vec<u8> {
        let mut random = 1u64;
        let mut next = || {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (random >> 56) as u8
        };
        (0..ROM_BYTES).map(|_| next()).collect()
    }

    #[test]
    fn a_monitor_that_is_too_large_is_told_by_how_much() {
        let guest = Guest::parse(GUEST_ELF).unwrap();
        let repeating = vec![0x90; 2 * ROM_BYTES];
        Rom::build(&elf_of(&[(IMAGE_ADDRESS, &repeating), BOOT_BLOCK]), &guest, "").unwrap();
        let error = Rom::build(&elf_of(&[(IMAGE_ADDRESS, &incompressible()), BOOT_BLOCK]), &guest, "").unwrap_err();
        let RomError::MonitorTooLarge { excess, unpacked, packed } = error else { panic!("{error}") };
        assert_eq!((excess, unpacked), (packed - DIRECTORY_OFFSET, ROM_BYTES));
        let sentence = format!("{excess} bytes too large for the ROM: its {unpacked} bytes take {packed} when");
        assert!(error.to_string().contains(&sentence) && !error.remedy().is_empty(), "{error}");
    }

    #[test]
    fn a_guest_that_is_too_large_is_told_by_how_much() {
        let bytes = incompressible();
        let mut guest = Guest::parse(GUEST_ELF).unwrap();
        guest.pieces[0].bytes = (&bytes).into();
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
