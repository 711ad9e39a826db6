//! The files that are read as logs: named ones, and those of a directory that look like logs.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tollgate_abi::record::{self, MAX_LINE_BYTES, Reject};
use walkdir::WalkDir;

use crate::lines::{Line, Lines};

/// The most bytes that firmware writes before the first record.
const SNIFFED_BYTES: u64 = 1 << 20;

/// A file to read, or the reason that a name leads to none.
pub enum Found {
    /// A log, or a file that was named as one.
    Log(PathBuf),
    /// A file of a directory that holds no record: other files of a run, other programs' logs.
    PassedOver,
    /// A file or directory that can't be read, and the error.
    Unreadable(PathBuf, io::Error),
}

/// The logs that `paths` name, as they are found. A file stands for itself. A directory stands for every `*.log` in it and below
/// that begins like a log, by name. An empty one counts: its run said nothing.
pub fn find(paths: &[PathBuf]) -> impl Iterator<Item = Found> + '_ {
    paths.iter().flat_map(|path| -> Box<dyn Iterator<Item = Found>> {
        if path.is_dir() { Box::new(below(path)) } else { Box::new(std::iter::once(Found::Log(path.clone()))) }
    })
}

fn below(directory: &Path) -> impl Iterator<Item = Found> + use<> {
    let entries = WalkDir::new(directory).sort_by_file_name().into_iter();
    entries.filter_map(|entry| match entry {
        Ok(entry) if entry.file_type().is_file() && is_named_log(entry.path()) => Some(sniff(entry.into_path())),
        Ok(_) => None,
        Err(error) => {
            let path = error.path().unwrap_or(Path::new("")).to_owned();
            let cause = error.into_io_error().unwrap_or_else(|| io::Error::other("a loop of directories"));
            Some(Found::Unreadable(path, cause))
        }
    })
}

fn is_named_log(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("log"))
}

fn sniff(path: PathBuf) -> Found {
    match begins_like_a_log(&path) {
        Ok(true) => Found::Log(path),
        Ok(false) => Found::PassedOver,
        Err(error) => Found::Unreadable(path, error),
    }
}

/// Whether a file is empty or has something like a record near its beginning.
fn begins_like_a_log(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?.take(SNIFFED_BYTES);
    let mut lines = Lines::new(MAX_LINE_BYTES + 2);
    let (mut any, mut buffer) = (false, vec![0; 16 << 10]);
    // The first record that is found ends the search, as an error would.
    let mut look = |line: Line<'_>| match line {
        Line::Whole(line) if record::parse(line) != Err(Reject::Noise) => Err(()),
        _ => Ok(()),
    };
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(!any || lines.finish(&mut look).is_err()),
            Ok(count) => {
                any = true;
                if lines.feed(&buffer[..count], &mut look).is_err() {
                    return Ok(true);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
