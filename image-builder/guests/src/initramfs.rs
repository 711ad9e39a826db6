//! An initramfs: the archive that Linux unpacks into its first file system (Linux' Documentation/driver-api/early-userspace/
//! buffer-format.rst). The same files make the same bytes: inodes count from 1, all belong to root, and the time is 0.

use std::io::{self, Write};

use cpio::newc::{Builder, ModeFileType, trailer};

/// The archive's length is a multiple of this, as `cpio` itself has it.
const BLOCK_BYTES: usize = 512;
const DIRECTORY_PERMISSIONS: u32 = 0o755;
const LINK_PERMISSIONS: u32 = 0o777;

/// A file of an initramfs. Paths have no slash in front, and a directory comes before its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File<'a> {
    /// A directory.
    Directory {
        /// Its path.
        path: &'a str,
    },
    /// A device of characters, such as the console.
    Device {
        /// Its path.
        path: &'a str,
        /// Its permissions.
        permissions: u32,
        /// Its major and minor number.
        number: (u32, u32),
    },
    /// A regular file.
    Regular {
        /// Its path.
        path: &'a str,
        /// Its permissions.
        permissions: u32,
        /// Its contents.
        bytes: &'a [u8],
    },
    /// A symbolic link.
    Link {
        /// Its path.
        path: &'a str,
        /// The path that it leads to.
        target: &'a str,
    },
}

/// Makes an archive of these files.
///
/// # Errors
/// A file has 4 GiB or more.
pub fn initramfs(files: &[File<'_>]) -> io::Result<Vec<u8>> {
    let mut archive = Vec::new();
    for (number, file) in (1..).zip(files) {
        let new = |path, kind, permissions| Builder::new(path).ino(number).mode(permissions).set_mode_file_type(kind);
        let (entry, bytes) = match *file {
            File::Directory { path } => (new(path, ModeFileType::Directory, DIRECTORY_PERMISSIONS).nlink(2), &[][..]),
            File::Device { path, permissions, number: (major, minor) } => {
                (new(path, ModeFileType::Char, permissions).rdev_major(major).rdev_minor(minor), &[][..])
            }
            File::Regular { path, permissions, bytes } => (new(path, ModeFileType::Regular, permissions), bytes),
            File::Link { path, target } => (new(path, ModeFileType::Symlink, LINK_PERMISSIONS), target.as_bytes()),
        };
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let mut entry = entry.write(archive, length);
        entry.write_all(bytes)?;
        archive = entry.finish()?;
    }
    archive = trailer(archive)?;
    archive.resize(archive.len().next_multiple_of(BLOCK_BYTES), 0);
    Ok(archive)
}
