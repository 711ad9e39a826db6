//! Follows a file that another process is writing.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

/// The file, once it exists, and the number of bytes read so far.
#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    file: Option<File>,
    buffer: Box<[u8]>,
    /// Bytes read so far.
    pub(super) bytes: u64,
}

/// The most bytes of one read.
pub(super) const CHUNK_BYTES: usize = 64 << 10;

impl Tail {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None, buffer: vec![0; CHUNK_BYTES].into_boxed_slice(), bytes: 0 }
    }

    /// The next bytes of the file; empty if there are none, for now or for good.
    ///
    /// # Errors
    /// The file exists and can't be read.
    pub(super) fn read(&mut self) -> io::Result<&[u8]> {
        if self.file.is_none() {
            match File::open(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(&[]),
                Err(error) => return Err(error),
            }
        }
        let Some(file) = &mut self.file else { return Ok(&[]) };
        let count = file.read(&mut self.buffer)?;
        self.bytes += count as u64;
        Ok(&self.buffer[..count])
    }
}
