//! A named pipe, which another process takes for its log file. It is read without waiting.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::pipe::fcntl_setpipe_size;

/// The pipe's room, and the most bytes of one read.
const ROOM_BYTES: usize = 1 << 20;

/// A pipe.
#[derive(Debug)]
pub struct Pipe {
    file: File,
    buffer: Box<[u8]>,
}

impl Pipe {
    /// Makes the pipe, in place of any file of the same name, and opens it: a writer does not wait for a reader then.
    ///
    /// # Errors
    /// There can be no pipe of this name.
    pub fn new(path: PathBuf) -> io::Result<Self> {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&path)?;
        // A smaller one only makes the writer wait more often.
        let _ = fcntl_setpipe_size(&file, ROOM_BYTES);
        Ok(Self { file, buffer: vec![0; ROOM_BYTES].into_boxed_slice() })
    }

    /// Hands the bytes that are there to `take`, and returns their number.
    ///
    /// # Errors
    /// It can't be read.
    pub fn read(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<usize> {
        match self.file.read(&mut self.buffer) {
            Ok(count) => {
                take(&self.buffer[..count]);
                Ok(count)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn bytes_come_as_they_are_written_and_nobody_waits() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("log");
        std::fs::write(&path, "of an earlier run").unwrap();
        let mut pipe = Pipe::new(path.clone()).unwrap();
        let read = |pipe: &mut Pipe| {
            let mut bytes: Vec<u8> = Vec::new();
            let count = pipe.read(|part| bytes.extend(part)).unwrap();
            assert_eq!(count, bytes.len());
            bytes
        };
        assert_eq!(read(&mut pipe), b"", "before there is a writer");
        let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
        assert_eq!(read(&mut pipe), b"", "before it writes");
        writer.write_all(b"one line\n").unwrap();
        assert_eq!(read(&mut pipe), b"one line\n");
        drop(writer);
        assert_eq!(read(&mut pipe), b"", "behind its end");
    }
}
