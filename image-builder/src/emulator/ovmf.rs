//! OVMF: the UEFI firmware that starts the stick in an emulator, as a machine's own firmware does.
//!
//! QEMU is what OVMF is made for. Bochs, which has VT-x in full, runs it with a PC's chipset of 1996 and two threads a core.

use std::fs;
use std::path::Path;

use crate::failure::Failure;

/// Names another firmware than the one that the tool has in itself.
pub const FIRMWARE_VARIABLE: &str = "TOLLGATE_OVMF";

/// OVMF, as this tool was built with it.
const FIRMWARE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/OVMF.fd"));
/// The firmware in a run's directory.
pub(super) const FILE: &str = "ovmf.fd";
/// What firmware, monitor and guest need, and some.
pub const MEMORY_MIB: u16 = 256;
/// Files of firmware for QEMU are a whole number of these, and not more than 16 MiB.
const FIRMWARE_UNIT_BYTES: usize = 64 << 10;
const MOST_FIRMWARE_BYTES: usize = 16 << 20;

/// The firmware to use.
///
/// # Errors
/// What [`FIRMWARE_VARIABLE`] names is none.
pub fn firmware() -> Result<Vec<u8>, Failure> {
    let Some(named) = std::env::var_os(FIRMWARE_VARIABLE) else { return Ok(FIRMWARE.to_vec()) };
    let path = Path::new(&named);
    let refuse = |cause: &dyn std::fmt::Display| {
        Failure::platform(format_args!("{FIRMWARE_VARIABLE} names {}, which can't be used: {cause}", path.display()))
            .remedy(format_args!(
                "unset {FIRMWARE_VARIABLE}, or name a firmware with code and variables in one file (Debian's package \
                 `ovmf` has OVMF.fd)"
            ))
    };
    if path.metadata().is_ok_and(|metadata| metadata.len() > MOST_FIRMWARE_BYTES as u64) {
        return Err(refuse(&"it is longer than 16 MiB"));
    }
    let bytes = fs::read(path).map_err(|error| refuse(&error))?;
    // The reset vector lies in its last 16 bytes.
    if bytes.is_empty() || !bytes.len().is_multiple_of(FIRMWARE_UNIT_BYTES) {
        return Err(refuse(&"it is no firmware: its length is not a whole number of 64 KiB"));
    }
    Ok(bytes)
}
