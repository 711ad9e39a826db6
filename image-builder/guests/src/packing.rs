//! The ways in which Linux packs its kernel (Linux' scripts/Makefile.lib), recognised by their marks.

use std::fmt;

/// A way of packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// DEFLATE in gzip's frame.
    Gzip,
    /// LZ4 in its legacy frame.
    Lz4,
    /// Zstandard.
    Zstd,
    /// LZMA2 in XZ' frame, with a filter for x86's jumps.
    Xz,
    /// LZMA in its first frame.
    Lzma,
    /// bzip2, which is not unpacked.
    Bzip2,
    /// LZO, which is not unpacked.
    Lzo,
}

use Packing::{Bzip2, Gzip, Lz4, Lzma, Lzo, Xz, Zstd};

/// The packings, by the bytes that they begin with.
const MARKS: [(&[u8], Packing); 7] = [
    (b"\x1f\x8b", Gzip),
    (b"\x02\x21\x4c\x18", Lz4),
    (b"\x28\xb5\x2f\xfd", Zstd),
    (b"\xfd7zXZ\0", Xz),
    (b"\x5d\0\0", Lzma),
    (b"BZh", Bzip2),
    (b"\x89LZO\0", Lzo),
];

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Gzip => "gzip",
            Lz4 => "LZ4",
            Zstd => "ZSTD",
            Xz => "XZ",
            Lzma => "LZMA",
            Bzip2 => "bzip2",
            Lzo => "LZO",
        })
    }
}

impl Packing {
    /// The packing of data that begins with its mark.
    pub fn of(packed: &[u8]) -> Option<Self> {
        MARKS.iter().find(|(mark, _)| packed.starts_with(mark)).map(|&(_, packing)| packing)
    }
}
