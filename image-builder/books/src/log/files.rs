//! The files that are read as logs: named ones, and those of a directory that are named like logs.

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::{STANDARD_INPUT, Select};

/// A file to read, or the reason that a name leads to none.
pub enum Found {
    /// A file that was named as a log, and its runs that are meant.
    Named(Select),
    /// A file of a directory that is named like one.
    Listed(PathBuf),
    /// A file or directory that can't be read, and the error.
    Unreadable(PathBuf, io::Error),
}

/// The extensions of captures.
const EXTENSIONS: [&str; 4] = ["log", "txt", "cap", "out"];
/// The names that some tools give a capture.
const NAMES: [&str; 2] = ["screenlog", "typescript"];
/// The extensions of packed files, those included that this tool does not unpack: it says so.
const PACKED: [&str; 8] = ["gz", "xz", "zst", "zip", "bz2", "lz4", "7z", "rar"];

/// The files that `paths` name, as they are found. A file stands for itself. A directory stands for every file in it and below that
/// is named like a capture, packed or not, by name. A file that is named twice comes once.
pub fn find(paths: Vec<PathBuf>) -> impl Iterator<Item = Found> + Send {
    let (mut seen, several) = (Seen::default(), paths.len() > 1);
    let found = paths.into_iter().flat_map(|path| -> Box<dyn Iterator<Item = Found> + Send> {
        let is_input = path == Path::new(STANDARD_INPUT);
        if !is_input && path.is_dir() {
            Box::new(below(&path))
        } else {
            Box::new(std::iter::once(Found::Named(Select::of(&path))))
        }
    });
    found.filter(move |found| match found {
        Found::Named(select) if several => seen.is_new(&select.path, select.run),
        Found::Listed(path) if several => seen.is_new(path, None),
        _ => true,
    })
}

/// The files that were found, by device and number: a name may lead to another.
#[derive(Default)]
struct Seen(HashSet<(u64, u64, Option<u64>)>);

impl Seen {
    fn is_new(&mut self, path: &Path, run: Option<u64>) -> bool {
        // A pipe has nothing more to give; the second reading of it says so.
        let file = path.metadata().ok().filter(std::fs::Metadata::is_file);
        file.is_none_or(|file| self.0.insert((file.dev(), file.ino(), run)))
    }
}

fn below(directory: &Path) -> impl Iterator<Item = Found> + Send + use<> {
    let entries = WalkDir::new(directory).sort_by_file_name().into_iter();
    entries.filter_map(|entry| match entry {
        Ok(entry) if entry.file_type().is_file() && is_named_like_a_log(entry.path()) => {
            Some(Found::Listed(entry.into_path()))
        }
        Ok(_) => None,
        Err(error) => {
            let path = error.path().unwrap_or(Path::new("")).to_owned();
            let cause = error.into_io_error().unwrap_or_else(|| io::Error::other("a loop of directories"));
            Some(Found::Unreadable(path, cause))
        }
    })
}

/// Whether a file is named like a capture: by its extension, in front of which that of a packing and a number may stand
/// (`serial.log.1.gz`), or as some tools name theirs (`screenlog.0`).
fn is_named_like_a_log(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_ascii_lowercase();
    let mut parts: Vec<&str> = name.split('.').collect();
    let is_packed = PACKED.contains(parts.last().unwrap_or(&""));
    if is_packed {
        parts.pop();
    }
    if parts.len() > 1
        && parts.last().is_some_and(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
    {
        parts.pop();
    }
    match parts[..] {
        [only] => NAMES.contains(&only) || is_packed && name.ends_with("zip"),
        [.., last] => EXTENSIONS.contains(&last) || NAMES.contains(&last) || is_packed && name.ends_with("zip"),
        [] => false,
    }
}

/// Whether a file that is named so is called a log, so that it is worth a word if it is none.
pub(crate) fn is_called_a_log(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_ascii_lowercase();
    name.split('.').any(|part| part == EXTENSIONS[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_are_known_by_their_names() {
        for name in [
            "a.log",
            "TG000001.LOG",
            "a.log.gz",
            "a.log.1",
            "a.log.12.xz",
            "minicom.cap",
            "run.txt",
            "screenlog.0",
            "typescript",
            "logs.zip",
            "typescript.gz",
        ] {
            assert!(is_named_like_a_log(Path::new(name)), "{name}");
        }
        for name in ["log", "a.rom", "a.1", "a.gz", "a.log.html", "trace.csv", "", "1", "a.log.tar"] {
            assert!(!is_named_like_a_log(Path::new(name)), "{name}");
        }
    }
}
