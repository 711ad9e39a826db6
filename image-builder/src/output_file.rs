//! Files that the tool writes appear whole or not at all: written beside their place, then renamed into it.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::failure::Failure;

/// Writes `bytes` to `path`. On any error what was there before is still there.
///
/// # Errors
/// The file can't be written; the sentence names it and the cause.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    if path.is_dir() {
        return Err(Failure::usage(format_args!("{} is a directory; name a file to write to", path.display())));
    }
    replace(path, bytes).map_err(|error| cannot_write(path, &error))
}

/// Writes to `path` what `fill` writes, as it comes. On any error what was there before is still there.
///
/// # Errors
/// That of `fill`; or the file can't be written.
pub fn fill<T>(path: &Path, fill: impl FnOnce(&mut BufWriter<&fs::File>) -> Result<T, Failure>) -> Result<T, Failure> {
    if path.is_dir() {
        return Err(Failure::usage(format_args!("{} is a directory; name a file to write to", path.display())));
    }
    let cannot = |error: io::Error| cannot_write(path, &error);
    let file = beside(path).map_err(cannot)?;
    let mut buffered = BufWriter::with_capacity(1 << 18, file.as_file());
    let filled = fill(&mut buffered)?;
    buffered.flush().map_err(cannot)?;
    drop(buffered);
    file.as_file().sync_all().map_err(cannot)?;
    file.persist(path).map_err(|error| cannot_write(path, &error.error))?;
    Ok(filled)
}

/// Creates `path` as a directory, with its parents.
///
/// # Errors
/// It can't be created.
pub fn create_directory(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).map_err(|error| cannot_write(path, &error))
}

pub(crate) fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format_args!("{} can't be written: {error}", path.display()))
        .remedy("choose a place where you may write and where there is room")
}

/// A file that is to take the place of `path`.
fn beside(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    tempfile::Builder::new().prefix(".tollgate-").permissions(permissions()).tempfile_in(directory)
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = beside(path)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// What a plain `open` would ask for; the user's mask applies.
fn permissions() -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    fs::Permissions::from_mode(0o666)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rom.bin");
        write(&path, b"first").unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "the temporary file stayed");
    }

    #[test]
    fn what_cannot_be_written_is_named_and_nothing_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let absent = directory.path().join("no/such/rom.bin");
        let failure = write(&absent, b"bytes").unwrap_err();
        assert!(failure.to_string().contains("no/such/rom.bin can't be written"), "{failure}");
        assert!(write(directory.path(), b"bytes").unwrap_err().to_string().contains("is a directory"));
    }
}
