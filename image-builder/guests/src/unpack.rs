//! Unpacking, by the crates of each packing.
//!
//! A kernel's last four packed bytes are its unpacked size. gzip has them as its own; with the others, they come behind the stream.

use std::io::{self, Read};

use lzma_rust2::{LzmaReader, XzReader};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use crate::error::Error;
use crate::packing::Packing::{self, Bzip2, Gzip, Lz4, Lzma, Lzo, Xz, Zstd};

const SIZE_BYTES: usize = 4;
/// The largest window of Zstandard that is unpacked: four times that of its highest level.
const MOST_WINDOW_BYTES: u64 = 512 << 20;
/// The most bytes that are unpacked from a whole file.
const MOST_UNPACKED_BYTES: u64 = 256 << 20;
/// KiB that unpacking LZMA may take.
const MOST_LZMA_KIB: u32 = 1 << 20;

/// A reader of the unpacked bytes of a stream, if there is a crate for its packing.
pub(crate) fn reader(packing: Packing, stream: &[u8]) -> io::Result<Option<Box<dyn Read + '_>>> {
    Ok(Some(match packing {
        Gzip => Box::new(flate2::read::GzDecoder::new(stream)),
        Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(stream)),
        Zstd => {
            let reader = StreamingDecoder::new_with_max_window_size(stream, MOST_WINDOW_BYTES);
            Box::new(Checked(reader.map_err(io::Error::other)?))
        }
        Xz => Box::new(XzReader::new_mem_limit(stream, false, MOST_LZMA_KIB)),
        Lzma => Box::new(LzmaReader::new_mem_limit(stream, MOST_LZMA_KIB, None)?),
        Bzip2 | Lzo => return Ok(None),
    }))
}

/// Unpacks a whole file; `None` if there is no crate for its packing.
pub(crate) fn whole(packing: Packing, file: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let Some(reader) = reader(packing, file)? else { return Ok(None) };
    let mut unpacked = Vec::new();
    let bytes = reader.take(MOST_UNPACKED_BYTES + 1).read_to_end(&mut unpacked)? as u64;
    if bytes > MOST_UNPACKED_BYTES {
        return Err(io::Error::other(format!("more than {MOST_UNPACKED_BYTES} bytes are in it")));
    }
    Ok(Some(unpacked))
}

/// Unpacks a kernel's payload.
pub(crate) fn unpack(packing: Packing, payload: &[u8]) -> Result<Vec<u8>, Error> {
    let damaged = |error: io::Error| Error::Damaged { packing, cause: error.to_string() };
    let (stream, size) =
        payload.split_last_chunk::<SIZE_BYTES>().ok_or_else(|| damaged(io::ErrorKind::UnexpectedEof.into()))?;
    let expected = u64::from(u32::from_le_bytes(*size));
    let reader = reader(packing, if packing == Gzip { payload } else { stream }).map_err(damaged)?;
    let mut unpacked = Vec::new();
    // A byte too many shows that there are more than the size says.
    let mut reader = reader.ok_or(Error::UnsupportedPacking(packing))?.take(expected + 1);
    let found = reader.read_to_end(&mut unpacked).map_err(damaged)? as u64;
    if found == expected { Ok(unpacked) } else { Err(Error::UnpackedSize { packing, found, expected }) }
}

/// A reader of Zstandard that compares the checksum at the end; the decoder only computes it.
struct Checked<'a>(StreamingDecoder<&'a [u8], FrameDecoder>);

impl Read for Checked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buffer)?;
        let (told, computed) = (self.0.decoder.get_checksum_from_data(), self.0.decoder.get_calculated_checksum());
        let ends = read == 0 && !buffer.is_empty();
        if ends && told.is_some() && told != computed {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the checksum differs"));
        }
        Ok(read)
    }
}
