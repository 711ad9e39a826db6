//! The place of a run's files.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tollgate_books::account::Account;
use tollgate_books::failure::Failure;
use tollgate_books::output_file;
use tollgate_books::report::{Format, Titled, render};

/// The place of a run's files: kept, or gone with the run.
pub(super) enum Place {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl Place {
    /// The directory that is asked for, or a temporary one.
    ///
    /// # Errors
    /// It can't be made.
    pub(super) fn new(out: Option<&Path>) -> Result<Self, Failure> {
        if let Some(path) = out {
            output_file::create_directory(path)?;
            let absolute = std::path::absolute(path);
            return Ok(Place::Kept(absolute.unwrap_or_else(|_| path.to_owned())));
        }
        made("name one with --out, or set TMPDIR").map(Place::Temporary)
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Place::Kept(path) => path,
            Place::Temporary(directory) => directory.path(),
        }
    }

    /// Writes an account beside the files of its run, if they are kept.
    pub(super) fn keep(&self, folder: Option<&str>, account: &Account) -> Result<(), Failure> {
        let Place::Kept(path) = self else { return Ok(()) };
        let path = folder.map_or_else(|| path.clone(), |folder| path.join(folder));
        let titled = Titled { title: String::new(), account: account.clone() };
        output_file::write(&path.join("account.json"), render(&[titled], Format::Json).as_bytes())
    }
}

/// A temporary directory.
///
/// # Errors
/// None can be made.
pub(super) fn temporary() -> Result<TempDir, Failure> {
    made("set TMPDIR")
}

fn made(remedy: &str) -> Result<TempDir, Failure> {
    tempfile::Builder::new()
        .prefix("tollgate-")
        .tempdir()
        .map_err(|error| Failure::usage(format_args!("no temporary directory can be made: {error}")).remedy(remedy))
}
