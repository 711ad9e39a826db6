//! A stick for a machine with UEFI: the disk image with the monitor as an application, and the guest and the options as files.

use std::io;

use tollgate_abi::guest_image::{self, DIRECTORY_BYTES, LoadError};
use tollgate_abi::packed::PackedMonitor;
use tollgate_abi::stick::{APPLICATION, GUEST, GUEST_CHECKSUM_BYTES, OPTIONS};
use twox_hash::XxHash64;

use super::{Guest, disk, pe};

/// A bootable disk image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stick {
    /// The stick's bytes.
    pub bytes: Vec<u8>,
    /// The number of the monitor's bytes among them.
    pub monitor_bytes: usize,
    /// Bytes of the guest in it.
    pub guest_bytes: usize,
}

/// The reason that no stick can be made.
#[derive(Debug, thiserror::Error)]
pub enum StickError {
    /// The monitor is not as its link script makes it.
    #[error("{0}")]
    Application(#[from] pe::PeError),
    /// The directory refuses the guest.
    #[error("{0}")]
    Load(LoadError),
    /// The files do not fit the partition.
    #[error("the disk image can't be made: {0}")]
    Disk(#[from] io::Error),
}

impl From<LoadError> for StickError {
    fn from(error: LoadError) -> Self {
        StickError::Load(error)
    }
}

impl StickError {
    /// The remedy, for a person.
    pub fn remedy(&self) -> &'static str {
        match self {
            StickError::Application(_) | StickError::Disk(_) => "build tollgate again",
            StickError::Load(_) => "shorten the options, or change the guest's link script",
        }
    }
}

impl Stick {
    /// Lays out a stick.
    ///
    /// # Errors
    /// The guest does not fit, or the directory refuses it.
    pub fn build(application_elf: &[u8], guest: &Guest<'_>, options: &str) -> Result<Self, StickError> {
        let application = pe::from_elf(application_elf)?;
        let file = guest_file(guest, options)?;
        let text = options_text(options);
        let bytes = disk::build(&[(APPLICATION, &application), (GUEST, &file), (OPTIONS, text.as_bytes())])?;
        Ok(Self {
            bytes,
            monitor_bytes: application.len(),
            guest_bytes: file.len() - DIRECTORY_BYTES - GUEST_CHECKSUM_BYTES,
        })
    }
}

/// The monitor is a file of its own.
const APART: PackedMonitor = PackedMonitor { image_offset: 0, packed_bytes: 0, unpacked_bytes: 0 };

/// The directory page, the segments behind it, and the checksum of all.
fn guest_file(guest: &Guest<'_>, options: &str) -> Result<Vec<u8>, StickError> {
    let segments = guest.segments_as_they_are(DIRECTORY_BYTES as u64);
    let mut file = vec![0; DIRECTORY_BYTES];
    for (segment, bytes) in &segments {
        file.resize(segment.image_offset as usize, 0);
        file.extend_from_slice(bytes);
    }
    let segments: Vec<_> = segments.into_iter().map(|(segment, _)| segment).collect();
    let mut page = [0; DIRECTORY_BYTES];
    guest_image::write_directory(&mut page, APART, &guest.placing, &segments, options)?;
    file[..DIRECTORY_BYTES].copy_from_slice(&page);
    file.extend(XxHash64::oneshot(0, &file).to_le_bytes());
    Ok(file)
}

/// The options with a word on each line, and remarks for a person who edits them.
fn options_text(options: &str) -> String {
    let mut text = String::from(
        "# Tollgate's options, one or more to a line; what stands behind # is not read.\r\n\
         # `tollgate workloads` lists the workloads. cpus=1 to 16. keys=on tells the exits of a reason apart.\r\n\
         # watchdog= is in ticks of the time-stamp counter; 0 is for ever.\r\n",
    );
    for word in options.split_ascii_whitespace() {
        text += word;
        text += "\r\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{APPLICATION_ELF, GUEST_ELF, Placed};
    use tollgate_abi::guest_image::{Directory, Entry};
    use tollgate_abi::machine::Kind;
    use tollgate_abi::stick::options_line;

    #[test]
    fn the_files_on_a_stick_are_what_the_monitor_reads() {
        let guest = Guest::parse(GUEST_ELF).unwrap();
        let options = "leaf-map=autumn2021 workloads=cpuid cpus=2";
        let mut stick = Stick::build(APPLICATION_ELF, &guest, options).unwrap();
        let file = disk::read(&mut stick.bytes, GUEST).unwrap();
        let directory = Directory::read(file.first_chunk().unwrap(), file.len() as u64).unwrap();
        assert_eq!((directory.options, directory.placing), (options, guest.placing));
        for (segment, piece) in directory.segments().zip(&guest.pieces) {
            assert_eq!((segment.file_bytes, segment.packed_bytes), ([piece.bytes.len() as u64; 2]).into());
            assert!(file[segment.image_offset as usize..].starts_with(&piece.bytes), "{segment:x?}");
        }
        let mut line = String::new();
        options_line(&disk::read(&mut stick.bytes, OPTIONS).unwrap(), &mut line).unwrap();
        assert_eq!(line, options, "the text says what the directory says");
        assert!(disk::read(&mut stick.bytes, APPLICATION).unwrap().starts_with(b"MZ"));
    }

    #[test]
    fn a_kernel_on_a_stick_is_its_pieces_and_a_checksum() {
        let entry = Entry { rip: 0x20_0000, ..Entry::default() };
        let code: Vec<u8> = (0..3u32 << 20).map(|at| (at >> 7) as u8 ^ at as u8 & 3).collect();
        let placed =
            Placed::new(vec![(0x1000, vec![7; 5000]), (0x20_0000, code.clone())], 5 << 20, entry, Kind::Pc, 64 << 20);
        let mut stick = Stick::build(APPLICATION_ELF, &placed.loaded(), "book=none").unwrap();
        let file = disk::read(&mut stick.bytes, GUEST).unwrap();
        let (bytes, checksum) = file.split_last_chunk().unwrap();
        assert_eq!(XxHash64::oneshot(0, bytes), u64::from_le_bytes(*checksum));
        assert_eq!(stick.guest_bytes + DIRECTORY_BYTES + GUEST_CHECKSUM_BYTES, file.len());
        let directory = Directory::read(file.first_chunk().unwrap(), file.len() as u64).unwrap();
        assert_eq!((directory.placing.placed_bytes, directory.placing.entry), (0, entry));
        let segments: Vec<_> = directory.segments().collect();
        assert_eq!(segments.iter().map(|segment| segment.gpa).collect::<Vec<_>>(), [0x1000, 0x20_0000], "no marks");
        for (segment, bytes) in segments.iter().zip([&vec![7; 5000], &code]) {
            assert!(file[segment.image_offset as usize..].starts_with(bytes), "{segment:x?}");
        }
        let outside = Placed::new(vec![(0x1000, vec![7; 5000])], 5 << 20, entry, Kind::Pc, 64 << 20);
        let error = Stick::build(APPLICATION_ELF, &outside.loaded(), "").unwrap_err();
        assert!(error.to_string().contains("entry point 0x200000") && !error.remedy().is_empty(), "{error}");
    }
}
