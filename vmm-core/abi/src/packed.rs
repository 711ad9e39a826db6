//! The packed parts of the ROM: the monitor's image and the guest's segments, each a stream of DEFLATE (RFC 1951), which the boot
//! block unpacks.
//!
//! A call has the distance to its target as an operand, so that two calls of one function are not alike. Before a part is packed
//! each such operand becomes the target's place in the part, as in the LZX format of Microsoft's cabinets: behind each byte that is
//! the opcode [`CALL`], whether it is one or not, there is a doubleword. Its value `d` at the place `p` of a part of `n` bytes
//! becomes `d + p` from `-p` to `n - p - 1`, and `d - n` from there to `n - 1`; any other stays. The next byte that is looked at
//! follows the doubleword.
//!
//! The host tool writes a [`PackedMonitor`] into the directory page, and [`sums`] of all that is below the boot block; the boot block
//! reads them there. The text that the boot block prints where they don't hold is here, too: it has no code that could write a record.

use core::mem::offset_of;

use crate::rom::{DIRECTORY_BYTES, DIRECTORY_OFFSET};

/// Offset of a [`PackedMonitor`] in the directory page.
pub const PLACE_IN_DIRECTORY: usize = 32;

/// Offset of the [`sums`] in the ROM: at the end of the directory page. They are of all bytes before them.
pub const SUMS_OFFSET: usize = DIRECTORY_OFFSET + DIRECTORY_BYTES - size_of::<[u64; 2]>();

/// The sum of the doublewords, and the sum of what that is after each of them. Damage in one or two doublewords changes one of the
/// sums, since in a ROM neither overflows: of two that change by `a` and `-a` the nearer to the beginning counts more often.
pub fn sums(bytes: &[u8]) -> [u64; 2] {
    const _: () = assert!((SUMS_OFFSET as u64 / 4).pow(2) <= u64::MAX >> 32);
    let doublewords = bytes.chunks_exact(4).map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    doublewords.fold([0, 0], |[sum, of_sums], word| [sum + u64::from(word), of_sums + sum + u64::from(word)])
}

/// The opcode of a near call with a distance of four bytes.
pub const CALL: u8 = 0xe8;

/// Translates the calls of a part, as it is packed.
pub fn translate_calls(part: &mut [u8]) {
    change_calls(part, |distance, place, bytes| match distance {
        _ if (-place..bytes - place).contains(&distance) => distance + place,
        _ if (bytes - place..bytes).contains(&distance) => distance - bytes,
        _ => distance,
    });
}

/// Translates the calls of a part back, as the boot block does it.
pub fn restore_calls(part: &mut [u8]) {
    change_calls(part, |operand, place, bytes| match operand {
        _ if (0..bytes).contains(&operand) => operand - place,
        _ if (-place..0).contains(&operand) => operand + bytes,
        _ => operand,
    });
}

/// Changes each operand by a function of it, the call's place and the part's length.
fn change_calls(part: &mut [u8], change: fn(i64, i64, i64) -> i64) {
    const OPERAND_BYTES: usize = size_of::<i32>();
    let bytes = part.len() as i64;
    let mut at = 0;
    while let Some(found) = part[at..].iter().position(|&byte| byte == CALL) {
        let call = at + found;
        let Some(operand) = part[call + 1..].first_chunk_mut::<OPERAND_BYTES>() else { break };
        *operand = (change(i32::from_le_bytes(*operand).into(), call as i64, bytes) as i32).to_le_bytes();
        at = call + 1 + OPERAND_BYTES;
    }
}

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

/// The log of a ROM whose sums are wrong, or whose parts can't be unpacked: the first record and the last.
pub const CANNOT_UNPACK: &str = concat!(
    "\ntollgate  protocol=1 platform=rom ~4a63\n",
    "verdict   result=refused detail=\"the ROM is damaged: its bytes are not those that were written\" ",
    "remedy=\"write the image again with `tollgate image`\" ~bc3e\n"
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{self, Kind, PROTOCOL, Writer};
    use proptest::prelude::*;
    use std::string::{String, ToString};
    use std::vec::Vec;

    #[test]
    fn calls_are_translated_and_their_likes_come_back() {
        let part = |operands: [i32; 4]| {
            let calls = operands.map(|operand| [&[CALL][..], &operand.to_le_bytes()].concat());
            [&[0x90; 10][..], &calls.concat(), &[CALL, 1, 2, 3]].concat()
        };
        for (distances, operands) in [
            // Targets in the part, which has 34 bytes, from its first to its last.
            ([5, 0, -5, -25], [15, 15, 15, 0]),
            ([23, 18, -20, 8], [33, 33, 0, 33]),
            // Distances that are as short, with targets behind it.
            ([24, 19, 33, 9], [-10, -15, -1, -25]),
            // Others.
            ([-11, -16, 34, i32::MIN], [-11, -16, 34, i32::MIN]),
        ] {
            let mut translated = part(distances);
            translate_calls(&mut translated);
            assert_eq!(translated, part(operands), "{distances:?}");
        }
    }

    proptest! {
        #[test]
        fn every_part_comes_back(part in proptest::collection::vec(prop_oneof![Just(CALL), Just(0), Just(0xff), any::<u8>()], 1..200)) {
            let mut changed = part.clone();
            translate_calls(&mut changed);
            restore_calls(&mut changed);
            prop_assert_eq!(changed, part);
        }

        #[test]
        fn damage_in_two_doublewords_changes_the_sums(
            words in proptest::collection::vec(any::<u32>(), 2..200),
            (first, second) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
            (change, other) in (1..=u32::MAX, any::<u32>()),
        ) {
            let of = |words: &[u32]| sums(&words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>());
            let mut damaged = words.clone();
            let (first, second) = (first.index(words.len()), second.index(words.len()));
            damaged[first] = damaged[first].wrapping_add(change);
            damaged[second] = if second == first { damaged[second] } else { damaged[second].wrapping_sub(other) };
            prop_assert_ne!(of(&damaged), of(&words));
            damaged[second] = if second == first { damaged[second] } else { words[second].wrapping_sub(change) };
            prop_assert_ne!(of(&damaged), of(&words));
        }
    }

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
