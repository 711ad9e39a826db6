//! A program that runs anywhere, made byte by byte: code, a dynamic section, relocations of every kind, symbols, and words for them.
#![allow(dead_code, reason = "each test binary uses a part of this module")]

use crate::elf::Image;

/// The types of program headers.
pub(crate) const PT_DYNAMIC: u8 = 2;
pub(crate) const PT_TLS: u8 = 7;

/// The parts' offsets, which are their addresses in the file, too. The words reach behind the bytes that are in the file.
pub(crate) const ENTRY: u64 = 0x10;
pub(crate) const DYNAMIC: usize = 0x100;
pub(crate) const RELA: usize = 0x200;
pub(crate) const RELR: usize = 0x300;
pub(crate) const SYMBOLS: usize = 0x340;
pub(crate) const WORDS: usize = 0x400;
pub(crate) const FILE_BYTES: usize = 0x480;
pub(crate) const MEMORY_BYTES: u64 = 0x1000;

pub(crate) const DT_RELA: u64 = 7;
pub(crate) const R_64: u32 = 1;
pub(crate) const R_GLOB_DAT: u32 = 6;
pub(crate) const R_RELATIVE: u32 = 8;

/// A relocation: place, type, symbol, addend.
pub(crate) type Relocation = (u64, u32, u32, i64);

/// The relocations of [`image`]: relative, by a symbol, a pointer to one, a weak one that is not there, one behind the file's bytes.
pub(crate) const RELOCATIONS: [Relocation; 5] = [
    (WORDS as u64, R_RELATIVE, 0, 0x123),
    (WORDS as u64 + 8, R_64, 1, -8),
    (WORDS as u64 + 16, R_GLOB_DAT, 1, 0),
    (WORDS as u64 + 24, R_GLOB_DAT, 2, 0),
    (MEMORY_BYTES - 8, R_RELATIVE, 0, 0x20),
];

fn put(bytes: &mut [u8], at: usize, words: &[u64]) {
    for (word, place) in words.iter().zip(bytes[at..].chunks_exact_mut(8)) {
        place.copy_from_slice(&word.to_le_bytes());
    }
}

/// A program with these entries in its dynamic section, besides, and these relocations.
pub(crate) fn image(entries: &[[u64; 2]], relocations: &[Relocation]) -> Image {
    let mut bytes = vec![0x90; FILE_BYTES];
    bytes[DYNAMIC..].fill(0);
    let usual =
        [[DT_RELA, RELA as u64], [8, 24 * relocations.len() as u64], [6, SYMBOLS as u64], [36, RELR as u64], [35, 24]];
    let dynamic = [&usual[..], entries, &[[0, 0]]].concat().concat();
    put(&mut bytes, DYNAMIC, &dynamic);
    for (row, &(place, kind, symbol, addend)) in relocations.iter().enumerate() {
        let info = u64::from(symbol) << 32 | u64::from(kind);
        put(&mut bytes, RELA + 24 * row, &[place, info, addend as u64]);
    }
    // A word, the first and the third behind it, and the first behind the 63 that the mask is about.
    put(&mut bytes, RELR, &[WORDS as u64 + 0x40, 0b1011, 0b11]);
    put(&mut bytes, WORDS + 0x40, &[1, 2, 3, 4]);
    // Symbols have name, information, section; address; size. The first is none, the second weak and undefined elsewhere.
    put(&mut bytes, SYMBOLS + 24, &[0x0001_0010_0000_0000, 0x50, 8]);
    put(&mut bytes, SYMBOLS + 48, &[0x0000_0020_0000_0000, 0, 0]);
    put(&mut bytes, SYMBOLS + 72, &[0x0000_0010_0000_0000, 0, 0]);
    let mut image = Image { kind: 3, entry: ENTRY, ..Image::of(true, 0, bytes) };
    image.loaded[0].memory_bytes = MEMORY_BYTES;
    image.parts.push((PT_DYNAMIC, DYNAMIC, 8 * dynamic.len() as u64, 8 * dynamic.len() as u64));
    image
}
