//! OVMF: the UEFI firmware that starts the stick in an emulator, as a machine's own firmware does.
//!
//! OVMF is made for QEMU. Bochs, which has VT-x in full, runs it with a PC's chipset of 1996 and two threads a core.

use std::fs;
use std::path::{Path, PathBuf};

use tollgate_books::failure::Failure;

use super::Installed;
use super::family::Family;
use super::versions::Behaviour;

/// The variable that names another firmware than the system's and the tool's own.
pub const FIRMWARE_VARIABLE: &str = "TOLLGATE_OVMF";

/// OVMF, as this tool was built with it.
const FIRMWARE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/OVMF.fd"));
/// The firmware in a run's directory.
pub(super) const FILE: &str = "ovmf.fd";
/// The memory in MiB that firmware, monitor and guest need, and some more.
pub const MEMORY_MIB: u16 = 256;
/// The unit of the size of firmware files for QEMU, which have 16 MiB at the most.
const FIRMWARE_UNIT_BYTES: usize = 64 << 10;
const MOST_FIRMWARE_BYTES: u64 = 16 << 20;

/// The most bytes of firmware for the versions of Bochs that want it small.
const SMALL_FIRMWARE_BYTES: u64 = 2 << 20;

/// The files in which distributions have OVMF with code and variables in one. If these were two files, the emulators would have
/// to be given both.
const SYSTEMS: [&str; 4] = [
    "/usr/share/ovmf/OVMF.fd",
    "/usr/share/qemu/OVMF.fd",
    "/usr/share/edk2/x64/OVMF.4m.fd",
    "/usr/share/edk2-ovmf/x64/OVMF.fd",
];

/// Firmware, and its source.
#[derive(Clone, Debug)]
pub struct Firmware {
    /// The firmware's bytes.
    pub bytes: Vec<u8>,
    /// Its file; `None` for the tool's own.
    pub file: Option<PathBuf>,
}

impl Firmware {
    /// A note on it in a run on this emulator.
    pub fn note(&self, emulator: &Installed) -> String {
        match &self.file {
            Some(file) => format!("firmware: {}", file.display()),
            None if emulator.has(Behaviour::OwnFirmwareHangs) => format!(
                "firmware: the OVMF in this tool, which {} is known not to get through; remedy: apt-get install ovmf, or name \
                 an OVMF.fd with {FIRMWARE_VARIABLE}",
                emulator.title
            ),
            None => "firmware: the OVMF in this tool".to_owned(),
        }
    }
}

/// The firmware for an emulator: the one that is named, else the system's, else the tool's own.
///
/// # Errors
/// The file that [`FIRMWARE_VARIABLE`] names is no firmware, or too large for the emulator.
pub fn firmware(emulator: &Installed) -> Result<Firmware, Failure> {
    let most_bytes = if emulator.family == Family::Bochs && !emulator.has(Behaviour::LargeFirmware) {
        SMALL_FIRMWARE_BYTES
    } else {
        MOST_FIRMWARE_BYTES
    };
    if let Some(named) = std::env::var_os(FIRMWARE_VARIABLE) {
        let path = PathBuf::from(named);
        return match read(&path, most_bytes) {
            Ok(bytes) => Ok(Firmware { bytes, file: Some(path) }),
            Err(cause) => Err(Failure::platform(format_args!(
                "{FIRMWARE_VARIABLE} names {}, which can't be used: {cause}",
                path.display()
            ))
            .remedy(format_args!(
                "unset {FIRMWARE_VARIABLE}, or name a firmware with code and variables in one file (Debian's package \
                 `ovmf` has OVMF.fd)"
            ))),
        };
    }
    let systems = SYSTEMS.iter().map(PathBuf::from);
    let found =
        systems.into_iter().find_map(|path| Some(Firmware { bytes: read(&path, most_bytes).ok()?, file: Some(path) }));
    Ok(found.unwrap_or_else(|| Firmware { bytes: FIRMWARE.to_vec(), file: None }))
}

/// A firmware of at most so many bytes, or the reason that the file is none.
fn read(path: &Path, most_bytes: u64) -> Result<Vec<u8>, String> {
    let metadata = path.metadata().map_err(|error| error.to_string())?;
    if metadata.len() > most_bytes {
        return Err(format!("it is longer than {} MiB, the most that the emulator takes", most_bytes >> 20));
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    // The reset vector lies in the last 16 bytes.
    if bytes.is_empty() || !bytes.len().is_multiple_of(FIRMWARE_UNIT_BYTES) {
        return Err("it is no firmware: its length is not a whole number of 64 KiB".to_owned());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::Version;

    #[test]
    fn firmware_has_a_length_that_the_emulator_takes() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("OVMF.fd");
        fs::write(&path, vec![0; 4 << 20]).unwrap();
        assert!(read(&path, SMALL_FIRMWARE_BYTES).unwrap_err().contains("longer than 2 MiB"));
        assert_eq!(read(&path, MOST_FIRMWARE_BYTES).unwrap().len(), 4 << 20);
        fs::write(&path, [0; 100]).unwrap();
        assert!(read(&path, MOST_FIRMWARE_BYTES).unwrap_err().contains("no firmware"));
    }

    #[test]
    fn a_firmware_that_is_known_to_hang_is_told_with_a_remedy() {
        let note = |version: (u16, u16), file: Option<&str>| {
            let emulator = Installed::for_tests(Family::Bochs, Some(Version::new(version.0, version.1)));
            Firmware { bytes: Vec::new(), file: file.map(PathBuf::from) }.note(&emulator)
        };
        assert_eq!(note((2, 7), None), "firmware: the OVMF in this tool");
        assert!(note((3, 1), None).contains("remedy: apt-get install ovmf"));
        assert_eq!(note((3, 1), Some("/a/OVMF.fd")), "firmware: /a/OVMF.fd");
    }
}
