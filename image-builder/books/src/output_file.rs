//! Files that the tool writes appear whole or not at all: written beside their place, then renamed into it.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempDir};

use crate::failure::Failure;

/// Writes `bytes` to `path`. On any error the previous contents are still there.
///
/// # Errors
/// The file can't be written; the sentence names it and the cause.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    Pending::create(path)?.finish(Ok(()), bytes)
}

/// Checks that a file can be begun at `path`, without doing so: for commands that have much to do before they write it.
///
/// # Errors
/// None can be created there.
pub fn can_be_written(path: &Path) -> Result<(), Failure> {
    Pending::create(path).map(drop)
}

/// A file in the making, beside its place. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct Pending {
    path: PathBuf,
    file: NamedTempFile,
}

impl Pending {
    /// Begins a file that is to be at `path`.
    ///
    /// # Errors
    /// None can be created there.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let refuse = |what| Failure::usage(format_args!("{} is {what}; name a file to write to", path.display()));
        // A rename would replace a link, a device or a pipe by a file: a link is followed, the others are refused.
        let path = match fs::metadata(path) {
            Ok(found) if found.is_dir() => return Err(refuse("a directory")),
            Ok(found) if !found.is_file() => return Err(refuse("no regular file")),
            Ok(_) => path.canonicalize().map_err(|error| cannot_write(path, &error))?,
            Err(_) => path.to_owned(),
        };
        let directory = existing_directory_of(&path)?;
        let file = tempfile::Builder::new().prefix(PREFIX).permissions(permissions(0o666)).tempfile_in(directory);
        let file = file.map_err(|error| cannot_write(&path, &error))?;
        Ok(Self { path, file })
    }

    /// Puts it in its place with `rest` at its end, unless writing failed already.
    ///
    /// # Errors
    /// It can't be written; the previous contents are still there.
    pub fn finish(mut self, written: io::Result<()>, rest: &[u8]) -> Result<(), Failure> {
        let whole = written.and_then(|()| self.file.write_all(rest)).and_then(|()| self.file.as_file().sync_all());
        let placed = whole.and_then(|()| self.file.persist(&self.path).map(drop).map_err(io::Error::from));
        placed.map_err(|error| cannot_write(&self.path, &error))
    }
}

/// A directory in the making, beside its place. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct PendingDirectory {
    path: PathBuf,
    directory: TempDir,
}

impl PendingDirectory {
    /// Begins a directory that is to be `path`.
    ///
    /// # Errors
    /// Something is there already, but for an empty directory; or nothing can be made there.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let is_free = match fs::read_dir(path) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if !is_free {
            let sentence = format_args!("{} is there already, and no empty directory", path.display());
            return Err(Failure::usage(sentence).remedy("name a directory that is not there yet"));
        }
        let above = existing_directory_of(path)?;
        let directory = tempfile::Builder::new().prefix(PREFIX).permissions(permissions(0o777)).tempdir_in(above);
        let directory = directory.map_err(|error| cannot_write(path, &error))?;
        Ok(Self { path: path.to_owned(), directory })
    }

    /// The directory as long as it is in the making.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Puts it in its place.
    ///
    /// # Errors
    /// It can't be put there.
    pub fn finish(self) -> Result<(), Failure> {
        // An empty directory gives way to another.
        fs::rename(self.directory.path(), &self.path).map_err(|error| cannot_write(&self.path, &error))?;
        // It is no longer where it would be removed.
        let _ = self.directory.keep();
        Ok(())
    }
}

impl Write for Pending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes to `path` what `fill` writes, as it comes. On any error the previous contents are still there.
///
/// # Errors
/// That of `fill`; or the file can't be written.
pub fn fill<T>(path: &Path, fill: impl FnOnce(&mut BufWriter<Pending>) -> Result<T, Failure>) -> Result<T, Failure> {
    let mut buffered = BufWriter::with_capacity(1 << 18, Pending::create(path)?);
    let filled = fill(&mut buffered)?;
    let pending = buffered.into_inner().map_err(|error| cannot_write(path, error.error()))?;
    pending.finish(Ok(()), &[]).map(|()| filled)
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

/// The directory in which `path` is to be.
fn existing_directory_of(path: &Path) -> Result<&Path, Failure> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if directory.is_dir() {
        return Ok(directory);
    }
    let sentence = format_args!("{} can't be written: there is no directory {}", path.display(), directory.display());
    Err(Failure::usage(sentence).remedy("make the directory, or name another"))
}

/// The beginning of the name of a file or directory in the making.
const PREFIX: &str = ".tollgate-";

/// The permissions that a plain `open` or `mkdir` would ask for; the user's mask applies.
fn permissions(mode: u32) -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    fs::Permissions::from_mode(mode)
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
        assert!(failure.to_string().contains("no/such/rom.bin can't be written: there is no directory"), "{failure}");
        assert!(failure.to_string().contains(&format!("{}/no/such\n", directory.path().display())), "{failure}");
        assert!(write(directory.path(), b"bytes").unwrap_err().to_string().contains("is a directory"));
    }

    #[test]
    fn a_directory_is_there_whole_or_not_at_all() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("fleet");
        let begin = || {
            let pending = PendingDirectory::create(&path).unwrap();
            fs::write(pending.path().join("file"), "bytes").unwrap();
            pending
        };
        drop(begin());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "the temporary directory stayed");
        fs::create_dir(&path).unwrap();
        begin().finish().unwrap();
        assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "bytes");
        let failure = PendingDirectory::create(&path).unwrap_err().to_string();
        assert!(failure.contains("fleet is there already, and no empty directory"), "{failure}");
        assert!(PendingDirectory::create(&path.join("file")).is_err());
        let failure = PendingDirectory::create(&place.path().join("a/b")).unwrap_err().to_string();
        assert!(failure.contains("there is no directory"), "{failure}");
    }

    #[test]
    fn a_link_is_followed_and_what_is_no_file_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        fs::write(&real, b"first").unwrap();
        std::os::unix::fs::symlink("real", &link).unwrap();
        write(&link, b"second").unwrap();
        assert_eq!(fs::read(&real).unwrap(), b"second");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let socket = directory.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let failure = can_be_written(&socket).unwrap_err();
        assert!(failure.to_string().contains("socket is no regular file"), "{failure}");
    }
}
