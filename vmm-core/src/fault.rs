//! The end of a monitor that can't go on at one of its processors: the processor, and the reason in words. They need no heap,
//! which may be what has failed.

use core::fmt;

/// Bytes of the sentence: the longest one, about an exception with all its registers, takes some 170.
const BYTES: usize = 400;

/// The seat of the processor, and a sentence.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The seat, plus 1; 0 while there is no fault, so that an empty board is all zero.
    number: usize,
    bytes: [u8; BYTES],
    used: usize,
}

impl Fault {
    /// No fault.
    pub const fn none() -> Self {
        Self { number: 0, bytes: [0; BYTES], used: 0 }
    }

    /// Keeps the first fault. A second one is a consequence, or comes too late.
    pub(crate) fn note(&mut self, at: usize, detail: fmt::Arguments<'_>) -> bool {
        let first = self.number == 0;
        if first {
            self.number = at + 1;
            // A longer sentence is cut off.
            let _ = fmt::Write::write_fmt(self, detail);
        }
        first
    }

    /// The vCPU of the processor; `None` while there is no fault.
    pub fn vcpu(&self) -> Option<usize> {
        self.number.checked_sub(1)
    }
}

impl fmt::Write for Fault {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.used..];
        let bytes = text.floor_char_boundary(room.len());
        room[..bytes].copy_from_slice(&text.as_bytes()[..bytes]);
        self.used += bytes;
        if bytes == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.bytes[..self.used]).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fault_is_kept_and_what_is_too_long_is_cut_between_characters() {
        let mut fault = Fault::none();
        assert_eq!((fault.vcpu(), fault.to_string().as_str()), (None, ""));
        assert!(fault.note(2, format_args!("exception {} at {:#x}", 13, 0x1000)));
        assert!(!fault.note(0, format_args!("another")));
        assert_eq!((fault.vcpu(), fault.to_string().as_str()), (Some(2), "exception 13 at 0x1000"));
        let mut long = Fault::none();
        assert!(long.note(0, format_args!("x{}", "ä".repeat(BYTES))));
        assert_eq!(long.to_string(), format!("x{}", "ä".repeat((BYTES - 1) / 2)));
    }
}
