//! The text of a log from a file, a pipe or standard input: unpacked and decoded, from one opening, so that a pipe will do. An archive
//! has one text for each file in it.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::Path;
use std::rc::Rc;

use zip::ZipArchive;

use super::error::LogError;
use super::packing::{Bounded, Packing, Sizes, TELLING_BYTES, decoded, unpacked};

/// The name that stands for standard input.
pub const STANDARD_INPUT: &str = "-";

/// Packings within one another that are unpacked.
const MOST_LAYERS: u32 = 3;
/// The most bytes of an archive that comes through a pipe: it is kept in a file meanwhile.
const MOST_SPOOLED_BYTES: u64 = 1 << 30;
/// The most bytes of an archive's list of files.
const MOST_DIRECTORY_BYTES: u64 = 4 << 20;

/// A text: the name of the file in an archive that it is of, if it is of one, and its bytes.
pub(super) type Take<'t> = dyn FnMut(Option<&str>, &mut dyn Read) -> ControlFlow<()> + 't;

/// Opens a file, and hands each text in it to `take`.
///
/// # Errors
/// It can't be opened or unpacked.
pub(super) fn texts(path: &Path, take: &mut Take<'_>) -> Result<(), LogError> {
    if path == Path::new(STANDARD_INPUT) {
        return of_stream(io::stdin().lock(), take);
    }
    let file = File::open(path).map_err(LogError::Open)?;
    let facts = file.metadata()?;
    if facts.is_dir() {
        return Err(LogError::Open(io::ErrorKind::IsADirectory.into()));
    }
    // The bytes that it has now: it may grow meanwhile. The kernel's own files have no length.
    if !facts.is_file() || facts.len() == 0 {
        return of_stream(file, take);
    }
    let (first, whole) = peeked(file)?;
    let length = facts.len();
    if Packing::of(&first) == Some(Packing::Zip) {
        let (_, mut file) = whole.into_inner();
        file.rewind()?;
        return archive(file, length, take).map(drop);
    }
    text(None, &first, Box::new(whole.take(length)), MOST_LAYERS, take).map(drop)
}

fn of_stream(stream: impl Read, take: &mut Take<'_>) -> Result<(), LogError> {
    let (first, whole) = peeked(stream)?;
    text(None, &first, Box::new(whole), MOST_LAYERS, take).map(drop)
}

/// A stream of which the first bytes have been read, with these in front again.
type Peeked<R> = io::Chain<Cursor<Vec<u8>>, R>;

/// The first bytes of a stream, and the stream with them.
fn peeked<R: Read>(mut stream: R) -> io::Result<(Vec<u8>, Peeked<R>)> {
    let mut first = Vec::with_capacity(TELLING_BYTES);
    stream.by_ref().take(TELLING_BYTES as u64).read_to_end(&mut first)?;
    Ok((first.clone(), Cursor::new(first).chain(stream)))
}

/// Hands on one text with these first bytes, or the texts that are packed in it. Readers are boxed: the decoders are compiled for one
/// kind of them.
fn text(
    name: Option<&str>,
    first: &[u8],
    whole: Box<dyn Read + '_>,
    layers: u32,
    take: &mut Take<'_>,
) -> Result<ControlFlow<()>, LogError> {
    let Some(packing) = Packing::of(first) else { return Ok(take(name, &mut decoded(first, whole))) };
    if packing == Packing::Zip && layers == MOST_LAYERS {
        let (file, length) = spooled(whole)?;
        return archive(file, length, take);
    }
    let unpacked = unpacked(packing, Box::new(BufReader::new(whole))).filter(|_| layers > 0);
    let (first, whole) = peeked(unpacked.ok_or(LogError::Packed(packing))?)?;
    text(name, &first, Box::new(whole), layers - 1, take)
}

/// Keeps an archive in a file that has no name: its list of files is at its end.
fn spooled(archive: Box<dyn Read + '_>) -> Result<(File, u64), LogError> {
    let mut file = tempfile::tempfile()?;
    let length = io::copy(&mut archive.take(MOST_SPOOLED_BYTES + 1), &mut file)?;
    if length > MOST_SPOOLED_BYTES {
        let most = MOST_SPOOLED_BYTES >> 20;
        return Err(io::Error::other(format!("an archive of more than {most} MiB is not taken from a pipe")).into());
    }
    file.rewind()?;
    Ok((file, length))
}

/// Hands on the files of an archive, in its order.
fn archive(file: File, length: u64, take: &mut Take<'_>) -> Result<ControlFlow<()>, LogError> {
    let damaged = |error: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidData, format!("as {} it is damaged: {error}", Packing::Zip))
    };
    let left = Rc::new(Cell::new(MOST_DIRECTORY_BYTES));
    let reader = Budgeted { inner: BufReader::new(file), left: Rc::clone(&left) };
    let mut archive = ZipArchive::new(reader).map_err(|error| damaged(&error))?;
    // The list is there; its files are bounded by what they unpack to.
    left.set(u64::MAX);
    let sizes = Sizes { packed: Rc::new(length.into()), unpacked: Rc::default() };
    for at in 0..archive.len() {
        let mut member = archive.by_index(at).map_err(|error| damaged(&error))?;
        if member.is_dir() {
            continue;
        }
        let name = String::from_utf8_lossy(member.name_raw()).into_owned();
        let bounded = Bounded { inner: &mut member, packing: Packing::Zip, sizes: sizes.clone() };
        let (first, whole) = peeked(bounded)?;
        if text(Some(&name), &first, Box::new(whole), MOST_LAYERS - 1, take)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// A file that may be read so far.
struct Budgeted<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Budgeted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let left = self.left.get().checked_sub(read as u64);
        self.left.set(left.ok_or_else(|| io::Error::other("its list of files is longer than any directory of logs"))?);
        Ok(read)
    }
}

impl<R: Seek> Seek for Budgeted<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}
