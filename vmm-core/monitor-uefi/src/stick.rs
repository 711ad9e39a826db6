//! The files on the stick, which is the volume that the application was loaded from: guest and options are read from it, the log
//! is written to it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use tollgate_abi::stick::{GUEST, LogName, MOST_GUEST_BYTES, MOST_LOGS, MOST_OPTIONS_BYTES, OPTIONS, log_name};
use uefi::proto::media::file::{Directory, File, FileAttribute, FileInfo, FileMode, RegularFile};
use uefi::{CString16, Status, boot};

/// The open volume.
pub(crate) struct Stick {
    root: Directory,
}

/// The reason that the stick can't be used for something: a sentence without its end.
pub(crate) struct Trouble(Status);

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Status::VOLUME_FULL | Status::OUT_OF_RESOURCES => "the stick is full",
            Status::WRITE_PROTECTED | Status::ACCESS_DENIED => "the stick is write-protected",
            Status::NO_MEDIA | Status::MEDIA_CHANGED => "the stick was taken out",
            Status::DEVICE_ERROR => "the stick does not answer (device error)",
            Status::VOLUME_CORRUPTED => "the stick's file system is damaged",
            Status::NOT_FOUND => "it is not on the stick",
            Status::UNSUPPORTED => "the application was not loaded from a volume with files",
            Status::BAD_BUFFER_SIZE => "it is too long",
            other => return write!(f, "the firmware says {other}"),
        })
    }
}

impl From<uefi::Error> for Trouble {
    fn from(error: uefi::Error) -> Self {
        Self(error.status())
    }
}

impl Stick {
    /// The volume that this application was loaded from.
    pub(crate) fn open() -> Result<Self, Trouble> {
        Ok(Self { root: boot::get_image_file_system(boot::image_handle())?.open_volume()? })
    }

    /// The guest with its directory page.
    pub(crate) fn guest(&mut self) -> Result<Contents, Trouble> {
        self.contents(GUEST, MOST_GUEST_BYTES)
    }

    /// The text with a person's options; `None` if there is none.
    pub(crate) fn options(&mut self) -> Result<Option<Vec<u8>>, Trouble> {
        match self.read(OPTIONS, MOST_OPTIONS_BYTES) {
            Err(Trouble(Status::NOT_FOUND)) => Ok(None),
            read => read.map(Some),
        }
    }

    fn read(&mut self, path: &str, most: usize) -> Result<Vec<u8>, Trouble> {
        let contents = self.contents(path, most)?;
        let mut bytes = alloc::vec![0; contents.bytes];
        let read = contents.read(&mut bytes)?.len();
        bytes.truncate(read);
        Ok(bytes)
    }

    fn contents(&mut self, path: &str, most: usize) -> Result<Contents, Trouble> {
        let mut file = self.file(path, FileMode::Read)?;
        let bytes = file.get_boxed_info::<FileInfo>()?.file_size();
        let bytes = usize::try_from(bytes).ok().filter(|&bytes| bytes <= most);
        Ok(Contents { file, bytes: bytes.ok_or(Trouble(Status::BAD_BUFFER_SIZE))? })
    }

    fn file(&mut self, path: &str, mode: FileMode) -> Result<RegularFile, Trouble> {
        let path = CString16::try_from(path).map_err(|_| Trouble(Status::INVALID_PARAMETER))?;
        let handle = self.root.open(&path, mode, FileAttribute::empty())?;
        handle.into_regular_file().ok_or(Trouble(Status::NOT_FOUND))
    }

    /// Begins a log under the first name that no earlier one has. Until the log is finished, it says that it is not. An error of
    /// writing comes up now, before the run.
    pub(crate) fn begin_log(&mut self) -> Result<LogFile, Trouble> {
        let name = first_free(|name| self.file(name, FileMode::Read).map(drop))?;
        let name = name.as_str();
        let mut log = LogFile { file: self.file(name, FileMode::CreateReadWrite)?, name: String::from(name) };
        if let Err(trouble) = log.write(format!("{name}: this run has not come to its end.\n").as_bytes()) {
            let _ = log.file.delete();
            return Err(trouble);
        }
        Ok(log)
    }
}

/// A file that is about to be read.
pub(crate) struct Contents {
    file: RegularFile,
    /// The file's length.
    pub(crate) bytes: usize,
}

impl Contents {
    /// Reads as much as there is room for, and returns what was read.
    pub(crate) fn read(mut self, room: &mut [u8]) -> Result<&[u8], Trouble> {
        let read = self.file.read(room)?;
        Ok(&room[..read])
    }
}

/// The first name of a log that `look` does not find.
fn first_free(mut look: impl FnMut(&str) -> Result<(), Trouble>) -> Result<LogName, Trouble> {
    for name in (1..=MOST_LOGS).map(log_name) {
        match look(name.as_str()) {
            Err(Trouble(Status::NOT_FOUND)) => return Ok(name),
            found => found?,
        }
    }
    Err(Trouble(Status::VOLUME_FULL))
}

/// A log on the stick.
pub(crate) struct LogFile {
    file: RegularFile,
    pub(crate) name: String,
}

impl LogFile {
    /// Replaces the file's contents by longer ones.
    pub(crate) fn write(&mut self, contents: &[u8]) -> Result<(), Trouble> {
        self.file.set_position(0)?;
        self.file.write(contents).map_err(|error| Trouble(error.status()))?;
        Ok(self.file.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    fn first(look: impl FnMut(&str) -> Result<(), Trouble>) -> Result<String, String> {
        first_free(look).map(|name| name.as_str().to_string()).map_err(|trouble| trouble.to_string())
    }

    #[test]
    fn a_log_has_the_first_name_that_none_has() {
        let taken = |most: usize| {
            let mut looks = 0;
            move |name: &str| {
                looks += 1;
                assert_eq!(name, log_name(looks as u32).as_str());
                if looks > most { Err(Trouble(Status::NOT_FOUND)) } else { Ok(()) }
            }
        };
        assert_eq!(first(taken(0)).as_deref(), Ok("TG000001.LOG"));
        assert_eq!(first(taken(41)).as_deref(), Ok("TG000042.LOG"));
        assert_eq!(first(|_| Ok(())), Err("the stick is full".to_string()));
        assert_eq!(first(|_| Err(Trouble(Status::DEVICE_ERROR))), Err(Trouble(Status::DEVICE_ERROR).to_string()));
    }
}
