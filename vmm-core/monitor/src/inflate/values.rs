//! The lengths and distances of matches (RFC 1951 3.2.5), and the order of a block's first lengths, as the boot block has them.
#![expect(unsafe_code, reason = "data of the boot block")]

/// The length of a match or its distance (RFC 1951 3.2.5), by symbol: the least one, and how many bits that are added to it follow.
const fn value(least: u32, bits: u32) -> u32 {
    bits << BITS_SHIFT | least
}

pub(super) const BITS_SHIFT: u32 = 16;

/// The first of the symbols that stand for lengths, behind the bytes and the end of the block.
pub(super) const FIRST_LENGTH: u32 = 257;
const LENGTH_COUNT: usize = 31;
pub(super) const DISTANCE_COUNT: usize = 32;

/// Lengths from 3 on, four to each number of bits, eight of no bits. The last but two is 258 alone; the last two have no meaning.
const fn lengths() -> [u32; LENGTH_COUNT] {
    let mut all = [value(0, 0); LENGTH_COUNT];
    let (mut symbol, mut least) = (0, 3);
    while symbol < LENGTH_COUNT - 3 {
        let bits = if symbol < 8 { 0 } else { symbol as u32 / 4 - 1 };
        all[symbol] = value(least, bits);
        least += 1 << bits;
        symbol += 1;
    }
    all[symbol] = value(258, 0);
    all
}

/// Distances from 1 on, two to each number of bits, four of no bits. The last two have no meaning.
const fn distances() -> [u32; DISTANCE_COUNT] {
    let mut all = [value(0, 0); DISTANCE_COUNT];
    let (mut symbol, mut least) = (0, 1);
    while symbol < DISTANCE_COUNT - 2 {
        let bits = if symbol < 4 { 0 } else { symbol as u32 / 2 - 1 };
        all[symbol] = value(least, bits);
        least += 1 << bits;
        symbol += 1;
    }
    all
}

// SAFETY: the boot block's data section holds data.
#[unsafe(link_section = ".boot.rodata")]
pub(super) static LENGTHS: [u32; LENGTH_COUNT] = lengths();

// SAFETY: as for `LENGTHS`.
#[unsafe(link_section = ".boot.rodata")]
pub(super) static DISTANCES: [u32; DISTANCE_COUNT] = distances();

/// The symbols of the code for lengths of codes, in the order in which the lengths of theirs come (RFC 1951 3.2.7).
// SAFETY: as for `LENGTHS`.
#[unsafe(link_section = ".boot.rodata")]
pub(super) static ORDER: [u8; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
