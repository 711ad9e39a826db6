//! The monitor in the ROM: its image as one LZ4 block, which the boot block unpacks.
//!
//! A call has the distance to its target as an operand, so that two calls of one function are not alike. Before the image is packed
//! each such operand becomes the target's place in the image, as in the LZX format of Microsoft's cabinets: behind each byte that is
//! the opcode [`CALL`], whether it is one or not, there is a doubleword. Its value `d` at the place `p` of an image of `n` bytes
//! becomes `d + p` from `-p` to `n - p - 1`, and `d - n` from there to `n - 1`; any other stays. The next byte that is looked at
//! follows the doubleword.
//!
//! The host tool writes a [`PackedMonitor`] into the directory page; the boot block reads it there. The text that the boot block
//! prints where that fails is here, too: it has no code that could write a record.

use core::mem::offset_of;

use crate::rom::{DIRECTORY_BYTES, DIRECTORY_OFFSET, ROM_BASE};

/// Offset of a [`PackedMonitor`] in the directory page.
pub(crate) const PLACE_IN_DIRECTORY: usize = 32;

/// Address of the [`PackedMonitor`] in the memory of a machine that starts from the ROM.
pub const PACKED_MONITOR_AT: u32 = ROM_BASE + (DIRECTORY_OFFSET + PLACE_IN_DIRECTORY) as u32;

/// The opcode of a near call with a distance of four bytes.
pub const CALL: u8 = 0xe8;

/// The place of the packed image. Little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PackedMonitor {
    /// Offset of the packed bytes from the start of the ROM.
    pub image_offset: u32,
    /// The number of packed bytes.
    pub packed_bytes: u32,
    /// The number of unpacked bytes.
    pub unpacked_bytes: u32,
}

/// Bytes of a [`PackedMonitor`].
pub(crate) const PACKED_MONITOR_BYTES: usize = size_of::<PackedMonitor>();

const _: () = assert!(PACKED_MONITOR_BYTES == 12);

impl PackedMonitor {
    /// The entry of a directory page, as the boot block reads it.
    pub fn read(page: &[u8; DIRECTORY_BYTES]) -> Self {
        let word = |place: usize| {
            let at = PLACE_IN_DIRECTORY + place;
            u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
        };
        Self {
            image_offset: word(offset_of!(Self, image_offset)),
            packed_bytes: word(offset_of!(Self, packed_bytes)),
            unpacked_bytes: word(offset_of!(Self, unpacked_bytes)),
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; PACKED_MONITOR_BYTES] {
        let mut bytes = [0; PACKED_MONITOR_BYTES];
        let words = [self.image_offset, self.packed_bytes, self.unpacked_bytes];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// The log of a ROM whose monitor can't be unpacked: the first record and the last.
pub const CANNOT_UNPACK: &str = concat!(
    "\ntollgate  protocol=1 platform=rom ~4a63\n",
    "verdict   result=refused detail=\"the monitor in the ROM can't be unpacked: the ROM is damaged\" ",
    "remedy=\"write the image again with `tollgate image`\" ~4366\n"
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{self, Kind, PROTOCOL, Writer};
    use std::string::{String, ToString};

    #[test]
    fn what_the_boot_block_says_is_what_a_writer_would_write() {
        let text = |key: &str| {
            let verdict = CANNOT_UNPACK.lines().last().map(|line| line.rsplit_once(" ~").map_or(line, |parts| parts.0));
            let (_, value) = verdict.unwrap().split_once(&std::format!("{key}=\"")).unwrap();
            value.split('"').next().unwrap().to_string()
        };
        let mut log = String::from("\n");
        Writer::new(&mut log, Kind::Tollgate).number("protocol", PROTOCOL).word("platform", "rom").finish().unwrap();
        let verdict = Writer::new(&mut log, Kind::Verdict).word("result", "refused").text("detail", text("detail"));
        verdict.text("remedy", text("remedy")).finish().unwrap();
        assert_eq!(CANNOT_UNPACK, log);
        assert!(log.lines().skip(1).all(|line| record::parse(line.as_bytes()).is_ok()));
    }
}
