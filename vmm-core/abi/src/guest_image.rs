//! A guest in an image: a directory page that the monitor finds, and the guest's segments.
//!
//! ```text
//! ROM:  packed monitor | guest segments ... | directory page | boot block with the reset vector
//! ```
//!
//! The host tool reads the guest's ELF file and writes this; the monitor checks it again before it copies a byte. A segment's
//! bytes are packed as one LZ4 block where that saves room. The page also has the place of the packed monitor
//! ([`crate::monitor_image`]). Numbers are little-endian.

use core::fmt;

use crate::machine::{BOOT_AREA_BYTES, MODEL, OPTIONS_BYTES};
pub use crate::rom::{BOOT_BLOCK_BYTES, DIRECTORY_BYTES, DIRECTORY_OFFSET, ROM_BASE, ROM_BYTES};

use crate::monitor_image::{PACKED_MONITOR_BYTES, PLACE_IN_DIRECTORY, PackedMonitor};

/// Marks a directory page.
pub const MAGIC: [u8; 8] = *b"TollGate";
/// Version of this format.
pub const VERSION: u32 = 3;
/// The most segments that a guest may have.
pub const MAX_SEGMENTS: usize = 16;

const HEADER_BYTES: usize = 48;
const SEGMENT_BYTES: usize = 40;

const _: () = assert!(PLACE_IN_DIRECTORY + PACKED_MONITOR_BYTES <= HEADER_BYTES);

/// A piece of guest memory to be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The guest-physical address that it goes to.
    pub gpa: u64,
    /// Its length; the part that the file does not fill is zero.
    pub memory_bytes: u64,
    /// Offset of its bytes from the start of the image.
    pub image_offset: u64,
    /// The number of its bytes in the guest's file.
    pub file_bytes: u64,
    /// The bytes that it takes in the image: fewer than in the file if they are packed.
    pub packed_bytes: u64,
}

impl Segment {
    /// True if its bytes are an LZ4 block.
    pub const fn is_packed(&self) -> bool {
        self.packed_bytes < self.file_bytes
    }
}

/// The contents of the directory page.
#[derive(Clone, Copy, Debug)]
pub struct Directory<'a> {
    /// The guest's entry point.
    pub entry_gpa: u64,
    /// The run's options; see [`crate::command_line`].
    pub options: &'a str,
    segments: &'a [u8],
}

/// The reason that a guest can't be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The page is not a directory.
    NoDirectory,
    /// The directory is of another version.
    Version(u32),
    /// Lengths in the directory exceed the page.
    Malformed,
    /// There is no segment.
    Empty,
    /// More than [`MAX_SEGMENTS`].
    TooManySegments(usize),
    /// More bytes in the file than in memory.
    FileLongerThanMemory(Segment),
    /// Outside the guest's memory.
    OutsideMemory(Segment),
    /// In the boot area, which belongs to the monitor.
    OverlapsBootArea(Segment),
    /// Two segments share memory.
    Overlap(Segment, Segment),
    /// The bytes are not in the image.
    OutsideImage(Segment),
    /// The entry point is in no segment.
    EntryOutside(u64),
    /// The options are too long or not printable ASCII.
    Options,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |segment: &Segment| (segment.gpa, segment.memory_bytes);
        match self {
            LoadError::NoDirectory => write!(f, "the image holds no guest"),
            LoadError::Version(version) => {
                write!(f, "the image's directory has version {version}; this monitor reads version {VERSION}")
            }
            LoadError::Malformed => write!(f, "the image's directory is malformed"),
            LoadError::Empty => write!(f, "the guest has nothing to load"),
            LoadError::TooManySegments(n) => {
                write!(f, "the guest has {n} segments; at most {MAX_SEGMENTS} are allowed")
            }
            LoadError::FileLongerThanMemory(segment) => {
                write!(
                    f,
                    "the guest's segment at {:#x} has more bytes in the file ({:#x}) than in memory ({:#x})",
                    segment.gpa, segment.file_bytes, segment.memory_bytes
                )
            }
            LoadError::OutsideMemory(segment) => {
                let (gpa, bytes) = range(segment);
                write!(
                    f,
                    "the guest's segment at {gpa:#x}, {bytes:#x} bytes long, lies outside the guest's memory (0 to {:#x})",
                    MODEL.ram_bytes()
                )
            }
            LoadError::OverlapsBootArea(segment) => {
                let (gpa, bytes) = range(segment);
                write!(
                    f,
                    "the guest's segment at {gpa:#x}, {bytes:#x} bytes long, overlaps the monitor's boot area (0 to {BOOT_AREA_BYTES:#x})"
                )
            }
            LoadError::Overlap(a, b) => write!(f, "the guest's segments at {:#x} and {:#x} overlap", a.gpa, b.gpa),
            LoadError::OutsideImage(segment) => {
                write!(f, "the guest's segment at {:#x} has its bytes outside the image", segment.gpa)
            }
            LoadError::EntryOutside(entry) => {
                write!(f, "the guest's entry point {entry:#x} is in none of its segments")
            }
            LoadError::Options => write!(f, "the options are longer than {OPTIONS_BYTES} bytes or not printable ASCII"),
        }
    }
}

/// Checks that segments can be loaded side by side and that the entry point is in one of them.
///
/// # Errors
/// The first rule that a segment breaks.
pub fn check(entry_gpa: u64, segments: impl Iterator<Item = Segment> + Clone) -> Result<(), LoadError> {
    let count = segments.clone().count();
    if count == 0 {
        return Err(LoadError::Empty);
    }
    if count > MAX_SEGMENTS {
        return Err(LoadError::TooManySegments(count));
    }
    for (i, segment) in segments.clone().enumerate() {
        if segment.file_bytes > segment.memory_bytes {
            return Err(LoadError::FileLongerThanMemory(segment));
        }
        let end = segment.gpa.checked_add(segment.memory_bytes).filter(|&end| end <= MODEL.ram_bytes());
        let end = end.ok_or(LoadError::OutsideMemory(segment))?;
        if segment.gpa < BOOT_AREA_BYTES {
            return Err(LoadError::OverlapsBootArea(segment));
        }
        let shares = |other: &Segment| segment.gpa < other.gpa.saturating_add(other.memory_bytes) && other.gpa < end;
        if let Some(other) = segments.clone().skip(i + 1).find(shares) {
            return Err(LoadError::Overlap(segment, other));
        }
    }
    let holds_entry =
        |segment: &Segment| entry_gpa.checked_sub(segment.gpa).is_some_and(|offset| offset < segment.memory_bytes);
    if !segments.clone().any(|segment| holds_entry(&segment)) {
        return Err(LoadError::EntryOutside(entry_gpa));
    }
    Ok(())
}

fn options_fit(options: &[u8]) -> bool {
    options.len() <= OPTIONS_BYTES && options.iter().all(|byte| (b' '..=b'~').contains(byte))
}

/// Writes a directory page.
///
/// # Errors
/// The error of [`check`], or options that do not fit.
pub fn write_directory(
    page: &mut [u8; DIRECTORY_BYTES],
    monitor: PackedMonitor,
    entry_gpa: u64,
    segments: &[Segment],
    options: &str,
) -> Result<(), LoadError> {
    check(entry_gpa, segments.iter().copied())?;
    if !options_fit(options.as_bytes()) {
        return Err(LoadError::Options);
    }
    page.fill(0);
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        page[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&MAGIC);
    put(&VERSION.to_le_bytes());
    put(&(segments.len() as u32).to_le_bytes());
    put(&entry_gpa.to_le_bytes());
    put(&(options.len() as u64).to_le_bytes());
    let mut place = [0; HEADER_BYTES - PLACE_IN_DIRECTORY];
    place[..PACKED_MONITOR_BYTES].copy_from_slice(&monitor.to_bytes());
    put(&place);
    for segment in segments {
        for word in [segment.gpa, segment.memory_bytes, segment.image_offset, segment.file_bytes, segment.packed_bytes]
        {
            put(&word.to_le_bytes());
        }
    }
    put(options.as_bytes());
    Ok(())
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

impl<'a> Directory<'a> {
    /// Reads and checks a directory page of an image of `image_bytes`.
    ///
    /// # Errors
    /// The page is not a directory, or its guest can't be loaded.
    pub fn read(page: &'a [u8; DIRECTORY_BYTES], image_bytes: u64) -> Result<Self, LoadError> {
        if page[..8] != MAGIC {
            return Err(LoadError::NoDirectory);
        }
        let version = word(&page[8..12]) as u32;
        if version != VERSION {
            return Err(LoadError::Version(version));
        }
        let count = word(&page[12..16]) as usize;
        if count > MAX_SEGMENTS {
            return Err(LoadError::TooManySegments(count));
        }
        let (segments, rest) = page[HEADER_BYTES..].split_at(count * SEGMENT_BYTES);
        let options_bytes = usize::try_from(word(&page[24..32])).map_err(|_| LoadError::Malformed)?;
        let options = rest.get(..options_bytes).filter(|bytes| options_fit(bytes)).ok_or(LoadError::Options)?;
        let options = core::str::from_utf8(options).map_err(|_| LoadError::Options)?;
        let directory = Self { entry_gpa: word(&page[16..24]), options, segments };
        check(directory.entry_gpa, directory.segments())?;
        let in_image = |segment: &Segment| {
            segment.packed_bytes <= segment.file_bytes
                && segment.image_offset.checked_add(segment.packed_bytes).is_some_and(|end| end <= image_bytes)
        };
        match directory.segments().find(|segment| !in_image(segment)) {
            Some(segment) => Err(LoadError::OutsideImage(segment)),
            None => Ok(directory),
        }
    }

    /// The guest's segments.
    pub fn segments(&self) -> impl Iterator<Item = Segment> + Clone + use<'a> {
        self.segments.chunks_exact(SEGMENT_BYTES).map(|bytes| Segment {
            gpa: word(bytes),
            memory_bytes: word(&bytes[8..]),
            image_offset: word(&bytes[16..]),
            file_bytes: word(&bytes[24..]),
            packed_bytes: word(&bytes[32..]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const CODE: Segment =
        Segment { gpa: 0x10_0000, memory_bytes: 0x2000, image_offset: 0x100, file_bytes: 0x1800, packed_bytes: 0x1000 };
    const DATA: Segment =
        Segment { gpa: 0x10_2000, memory_bytes: 0x1000, image_offset: 0x1900, file_bytes: 0, packed_bytes: 0 };

    const MONITOR: PackedMonitor = PackedMonitor { image_offset: 0, packed_bytes: 0x100, unpacked_bytes: 0x180 };

    fn page(entry: u64, segments: &[Segment], options: &str) -> Result<[u8; DIRECTORY_BYTES], LoadError> {
        let mut page = [0; DIRECTORY_BYTES];
        write_directory(&mut page, MONITOR, entry, segments, options).map(|()| page)
    }

    #[test]
    fn a_directory_reads_as_it_was_written() {
        let page = page(0x10_0010, &[CODE, DATA], "workloads=cpuid").unwrap();
        let directory = Directory::read(&page, 0x4_0000).unwrap();
        assert_eq!((directory.entry_gpa, directory.options), (0x10_0010, "workloads=cpuid"));
        assert_eq!((PackedMonitor::read(&page), page[PLACE_IN_DIRECTORY + 8]), (MONITOR, 0x80));
        assert_eq!(directory.segments().collect::<Vec<_>>(), [CODE, DATA]);
        assert_eq!(Directory::read(&page, 0x1000).unwrap_err(), LoadError::OutsideImage(CODE));
    }

    #[test]
    fn each_rule_is_named() {
        let check = |entry, segments: &[Segment], error| assert_eq!(page(entry, segments, "").unwrap_err(), error);
        check(0, &[], LoadError::Empty);
        check(CODE.gpa, &[CODE; 17], LoadError::TooManySegments(17));
        let long = Segment { file_bytes: 0x3000, ..CODE };
        check(CODE.gpa, &[long], LoadError::FileLongerThanMemory(long));
        let high = Segment { gpa: MODEL.ram_bytes() - 0x1000, ..CODE };
        check(CODE.gpa, &[CODE, high], LoadError::OutsideMemory(high));
        let wrapping = Segment { gpa: u64::MAX, ..CODE };
        check(CODE.gpa, &[wrapping], LoadError::OutsideMemory(wrapping));
        let low = Segment { gpa: 0x1000, ..CODE };
        check(CODE.gpa, &[low], LoadError::OverlapsBootArea(low));
        let inner = Segment { gpa: CODE.gpa + 0x1fff, ..DATA };
        check(CODE.gpa, &[CODE, inner], LoadError::Overlap(CODE, inner));
        check(0x20_0000, &[CODE], LoadError::EntryOutside(0x20_0000));
        assert_eq!(page(CODE.gpa, &[CODE], "\n").unwrap_err(), LoadError::Options);
    }

    proptest! {
        #[test]
        fn any_page_reads_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 200..400), keep in any::<bool>()) {
            bytes.resize(DIRECTORY_BYTES, 0);
            let mut page: [u8; DIRECTORY_BYTES] = bytes.try_into().unwrap();
            if keep {
                page[..8].copy_from_slice(&MAGIC);
                page[8..12].copy_from_slice(&VERSION.to_le_bytes());
                page[12..16].copy_from_slice(&2u32.to_le_bytes());
            }
            if let Ok(directory) = Directory::read(&page, 0x4_0000) {
                let _ = directory.segments().count();
            }
        }
    }
}
