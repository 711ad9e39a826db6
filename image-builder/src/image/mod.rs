//! The bootable image. The guest's ELF file is checked; monitor, guest and directory are laid into one ROM, the first two packed,
//! or onto a stick for a machine with UEFI.

pub mod disk;
mod guest;
mod monitor;
mod packing;
pub mod pe;
mod placed;
mod rom;
mod stick;

pub use guest::{Guest, GuestError, Piece};
pub use placed::Placed;
pub use rom::{ROM_BYTES, Rom, RomError};
pub use stick::{Stick, StickError};

use std::fs::File;
use std::io::Read;
use std::path::Path;

use tollgate_abi::command_line::Options;
use tollgate_books::failure::Failure;

/// The monitor, as this tool was built with it.
pub const MONITOR_ELF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/monitor.elf"));
/// The monitor as a UEFI application, as this tool was built with it.
pub const APPLICATION_ELF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/monitor-uefi.elf"));
/// The built-in guest, as this tool was built with it.
pub const GUEST_ELF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/unikernel-guest.elf"));

/// The longest guest file that is read, debug information included. Only its loaded part must fit the ROM.
pub(crate) const MOST_GUEST_FILE_BYTES: u64 = 256 << 20;

/// A checksum of bytes: FNV-1a.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// The mark of a guest's file, as traces have it.
pub fn guest_mark(elf: &[u8]) -> u32 {
    let hash = checksum(elf);
    (hash ^ hash >> 32) as u32
}

/// The options, with the mark of the guest if there is to be a trace.
pub(crate) fn with_mark(options: &str, elf: &[u8]) -> String {
    let is_traced = Options::parse(options).is_ok_and(|options| options.trace_exits > 0);
    if is_traced { format!("{options} guest={:#x}", guest_mark(elf)) } else { options.to_owned() }
}

/// The bytes of a guest's file.
///
/// # Errors
/// It can't be read.
pub fn guest_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let unreadable = |cause: &dyn std::fmt::Display| {
        Failure::usage(format_args!("the guest {} can't be read: {cause}", path.display()))
            .remedy("name an ELF file with --guest, or leave it out for the built-in guest")
    };
    let file = File::open(path).map_err(|error| unreadable(&error))?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err(unreadable(&"it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MOST_GUEST_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > MOST_GUEST_FILE_BYTES {
        return Err(unreadable(&format_args!("it is longer than {MOST_GUEST_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}
