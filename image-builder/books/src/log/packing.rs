//! Packed bytes: known by their first bytes, unpacked as they are read, and bounded.
//!
//! A log is text, which packs well, but not without end. Bytes that unpack to far more are no log; unpacking them would take time
//! for nothing.

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use encoding_rs::{UTF_16BE, UTF_16LE};
use encoding_rs_io::DecodeReaderBytesBuilder;
use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// The number of times its packed size that a log may unpack to, beyond [`FREE_BYTES`].
pub(super) const MOST_TIMES: u64 = 500;
/// Bytes to which anything may unpack.
const FREE_BYTES: u64 = 16 << 20;
/// The most memory that unpacking may take for what was unpacked before.
const MOST_WINDOW_BYTES: u32 = 128 << 20;

/// The means by which bytes were made fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// RFC 1952.
    Gzip,
    /// The format of `xz`.
    Xz,
    /// RFC 8878.
    Zstd,
    /// An archive of files, deflated or stored.
    Zip,
    /// The format of `bzip2`.
    Bzip2,
    /// A frame of `lz4`.
    Lz4,
    /// An archive of `7z`.
    SevenZip,
    /// An archive of `rar`.
    Rar,
}

/// The first bytes of each.
const MAGIC: [(Packing, &[u8]); 9] = [
    (Packing::Gzip, b"\x1f\x8b"),
    (Packing::Xz, b"\xfd7zXZ\0"),
    (Packing::Zstd, b"\x28\xb5\x2f\xfd"),
    (Packing::Zip, b"PK\x03\x04"),
    (Packing::Zip, b"PK\x05\x06"),
    (Packing::Bzip2, b"BZh"),
    (Packing::Lz4, b"\x04\x22\x4d\x18"),
    (Packing::SevenZip, b"7z\xbc\xaf\x27\x1c"),
    (Packing::Rar, b"Rar!\x1a"),
];

/// Bytes that tell packing and encoding.
pub(super) const TELLING_BYTES: usize = 16;

impl Packing {
    /// The packing of a file with these first bytes.
    pub(super) fn of(first: &[u8]) -> Option<Self> {
        MAGIC.iter().find(|(_, magic)| first.starts_with(magic)).map(|&(packing, _)| packing)
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Packing::Gzip => "gzip",
            Packing::Xz => "xz",
            Packing::Zstd => "zstd",
            Packing::Zip => "zip",
            Packing::Bzip2 => "bzip2",
            Packing::Lz4 => "lz4",
            Packing::SevenZip => "7z",
            Packing::Rar => "rar",
        })
    }
}

/// The sizes of bytes before and after unpacking, of all parts of a file together.
#[derive(Clone, Debug, Default)]
pub(super) struct Sizes {
    pub(super) packed: Rc<Cell<u64>>,
    pub(super) unpacked: Rc<Cell<u64>>,
}

/// Bytes as they are unpacked, if this tool unpacks such bytes by themselves.
pub(super) fn unpacked<'a>(packing: Packing, packed: Box<dyn Read + 'a>) -> Option<Box<dyn Read + 'a>> {
    let sizes = Sizes::default();
    let counted = Counted { inner: packed, count: Rc::clone(&sizes.packed) };
    let inner: Box<dyn Read + 'a> = match packing {
        Packing::Gzip => Box::new(MultiGzDecoder::new(counted)),
        Packing::Xz => Box::new(XzReader::new_mem_limit(counted, true, MOST_WINDOW_BYTES >> 10)),
        Packing::Zstd => Box::new(Frames::new(counted)),
        Packing::Zip | Packing::Bzip2 | Packing::Lz4 | Packing::SevenZip | Packing::Rar => return None,
    };
    Some(Box::new(Bounded { inner, packing, sizes }))
}

/// A reader that counts.
struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.set(self.count.get() + read as u64);
        Ok(read)
    }
}

/// Unpacked bytes: as many as a log may have, and errors that name the packing.
pub(super) struct Bounded<R> {
    pub(super) inner: R,
    pub(super) packing: Packing,
    pub(super) sizes: Sizes,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let packing = self.packing;
        let damaged = |error: io::Error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            kind => io::Error::new(kind, format!("as {packing} it is damaged: {error}")),
        };
        let read = self.inner.read(buffer).map_err(damaged)?;
        let all = self.sizes.unpacked.get() + read as u64;
        self.sizes.unpacked.set(all);
        if all > FREE_BYTES.saturating_add(self.sizes.packed.get().saturating_mul(MOST_TIMES)) {
            return Err(io::Error::other(format!(
                "it unpacks to more than {MOST_TIMES} times its size as {packing}, which no log does"
            )));
        }
        Ok(read)
    }
}

/// Frames of Zstandard, one after the other, each held against its checksum, which the decoder only computes.
struct Frames<R: Read> {
    source: Option<BufReader<R>>,
    frame: Option<StreamingDecoder<BufReader<R>, FrameDecoder>>,
}

impl<R: Read> Frames<R> {
    fn new(source: R) -> Self {
        Self { source: Some(BufReader::new(source)), frame: None }
    }
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = &mut self.frame {
                let read = frame.read(buffer)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
                let (told, computed) =
                    (frame.decoder.get_checksum_from_data(), frame.decoder.get_calculated_checksum());
                if told.is_some() && told != computed {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the checksum differs"));
                }
                self.source = self.frame.take().map(StreamingDecoder::into_inner);
            }
            let Some(mut source) = self.source.take() else { return Ok(0) };
            if source.fill_buf()?.is_empty() {
                return Ok(0);
            }
            let frame = StreamingDecoder::new_with_max_window_size(source, MOST_WINDOW_BYTES.into());
            self.frame = Some(frame.map_err(io::Error::other)?);
        }
    }
}

/// Text as ASCII or UTF-8, whatever it was written in: by a byte-order mark, or, in UTF-16 without one, by the zeros of its first letters.
pub(super) fn decoded<'a>(first: &[u8], text: Box<dyn Read + 'a>) -> Box<dyn Read + 'a> {
    let zeros = |at: usize| first.iter().skip(at).step_by(2).all(|&byte| byte == 0);
    let letters = |at: usize| first.iter().skip(at).step_by(2).all(u8::is_ascii_graphic);
    let encoding = match first.get(..2) {
        Some(b"\xff\xfe" | b"\xfe\xff") => None,
        Some(_) if first.len() >= 8 && zeros(1) && letters(0) => Some(UTF_16LE),
        Some(_) if first.len() >= 8 && zeros(0) && letters(1) => Some(UTF_16BE),
        _ => return text,
    };
    Box::new(DecodeReaderBytesBuilder::new().encoding(encoding).build(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_unpack_without_end_are_refused_and_the_parts_of_an_archive_are_counted_together() {
        let sizes = Sizes { packed: Rc::new(1000.into()), unpacked: Rc::default() };
        let part = || Bounded { inner: io::repeat(0), packing: Packing::Zip, sizes: sizes.clone() };
        let first = io::copy(&mut part().take(FREE_BYTES), &mut io::sink());
        assert_eq!(first.unwrap(), FREE_BYTES);
        let error = io::copy(&mut part(), &mut io::sink()).unwrap_err().to_string();
        assert_eq!(error, "it unpacks to more than 500 times its size as zip, which no log does");
    }
}
