//! The files on a stick from which the monitor starts under UEFI, beside the application itself.
//!
//! ```text
//! EFI\BOOT\BOOTX64.EFI     the monitor
//! TOLLGATE\GUEST.BIN       a directory page (see guest_image), the guest's segments, a checksum; offsets count from its start
//! TOLLGATE\OPTIONS.TXT     the run's options, for a person to edit; without it those of the directory count
//! TG000001.LOG ...         the log of each run, under the first number that is free
//! ```

use core::fmt::{self, Write};

use crate::guest_image::DIRECTORY_BYTES;
use crate::machine::OPTIONS_BYTES;
use crate::machine::pc::MOST_MEMORY_MIB;

/// The path at which firmware looks for the application on a removable medium.
pub const APPLICATION: &str = "EFI\\BOOT\\BOOTX64.EFI";
/// The guest.
pub const GUEST: &str = "TOLLGATE\\GUEST.BIN";
/// The run's options as text.
pub const OPTIONS: &str = "TOLLGATE\\OPTIONS.TXT";

/// Bytes at the end of [`GUEST`]: XXH64 of all before them, with seed 0, little-endian.
pub const GUEST_CHECKSUM_BYTES: usize = size_of::<u64>();
/// The most bytes of [`GUEST`] that are read: segments that don't overlap take no more than the largest machine has memory, but for
/// the bytes between two, of which there are 15 at most.
pub const MOST_GUEST_BYTES: usize = ((MOST_MEMORY_MIB as usize) << 20) + 2 * DIRECTORY_BYTES;
/// The most bytes of [`OPTIONS`] that are read, comments included.
pub const MOST_OPTIONS_BYTES: usize = 16 << 10;
/// The most logs on one stick.
pub const MOST_LOGS: u32 = 999_999;

/// The name of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogName([u8; 12]);

/// The name of the log with this number.
pub fn log_name(number: u32) -> LogName {
    let mut name = *b"TG000000.LOG";
    let mut rest = number.min(MOST_LOGS);
    for digit in name[2..8].iter_mut().rev() {
        *digit += (rest % 10) as u8;
        rest /= 10;
    }
    LogName(name)
}

impl LogName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// The reason that a text is not an options text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextError {
    /// A line, counted from 1, has a byte that is not printable ASCII.
    Line(usize),
    /// The words take more than [`OPTIONS_BYTES`].
    TooLong,
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TextError::Line(number) => write!(f, "line {number} of {OPTIONS} has something other than plain text"),
            TextError::TooLong => write!(f, "{OPTIONS} has more than {OPTIONS_BYTES} bytes of options"),
        }
    }
}

/// Writes the options of a text to `out`, as one line: the words of its lines, without comments, which begin with `#`.
///
/// # Errors
/// A line that is not text, or too many words.
pub fn options_line(text: &[u8], out: &mut (impl Write + ?Sized)) -> Result<(), TextError> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut bytes = 0;
    for (number, line) in (1..).zip(text.split(|&byte| byte == b'\n')) {
        let line = line.split(|&byte| byte == b'#').next().unwrap_or_default();
        for word in line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()) {
            let word = core::str::from_utf8(word).ok().filter(|word| word.bytes().all(|byte| byte.is_ascii_graphic()));
            let word = word.ok_or(TextError::Line(number))?;
            let separator = if bytes > 0 { " " } else { "" };
            bytes += separator.len() + word.len();
            if bytes > OPTIONS_BYTES {
                return Err(TextError::TooLong);
            }
            write!(out, "{separator}{word}").map_err(|_| TextError::TooLong)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::String;

    fn line(text: &[u8]) -> Result<String, TextError> {
        let mut line = String::new();
        options_line(text, &mut line).map(|()| line)
    }

    #[test]
    fn a_persons_text_becomes_one_line() {
        let text =
            b"\xef\xbb\xbf# what to run\r\nworkloads=cpuid,memory:64\r\n\r\n  cpus=4 # all of them \xe4\r\nkeys=on";
        assert_eq!(line(text).unwrap(), "workloads=cpuid,memory:64 cpus=4 keys=on");
        assert_eq!(line(b"").unwrap(), "");
        assert_eq!(line(b"cpus=1\nleaf-map=\xff"), Err(TextError::Line(2)));
        assert_eq!(line(&[b'x'; OPTIONS_BYTES + 1]), Err(TextError::TooLong));
        assert!(line(&[b'x'; OPTIONS_BYTES]).is_ok());
    }

    #[test]
    fn logs_are_numbered() {
        assert_eq!(log_name(1).as_str(), "TG000001.LOG");
        assert_eq!(log_name(MOST_LOGS).as_str(), "TG999999.LOG");
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(line) = line(&text) {
                prop_assert!(line.len() <= OPTIONS_BYTES && line.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            }
        }
    }
}
