//! The text that the guest writes, kept until no exit is open.

use alloc::boxed::Box;

use crate::marks::Marks;

/// The most bytes that [`Console`] keeps.
const CONSOLE_BYTES: usize = 48 * 1024;

/// A buffer for the text that the guest writes, printed when no exit is open.
#[derive(Debug)]
pub struct Console {
    bytes: [u8; CONSOLE_BYTES],
    used: usize,
    dropped: u64,
    /// The marks that are looked for in it.
    pub marks: Option<Box<Marks>>,
}

impl Console {
    /// An empty buffer.
    pub const fn new() -> Self {
        Self { bytes: [0; CONSOLE_BYTES], used: 0, dropped: 0, marks: None }
    }

    /// Takes `bytes` bytes that `write` puts into the room for them. Bytes that do not fit are counted as dropped.
    pub fn reserve(&mut self, bytes: usize, write: impl FnOnce(&mut [u8])) {
        let start = self.used;
        self.used = (start + bytes).min(CONSOLE_BYTES);
        self.dropped += (start + bytes - self.used) as u64;
        let room = &mut self.bytes[start..self.used];
        write(room);
        if let Some(marks) = &mut self.marks {
            room.iter().for_each(|&byte| marks.see(byte));
        }
    }

    /// Takes text, before which so many bytes were lost already.
    pub fn append(&mut self, text: &[u8], lost: u64) {
        self.reserve(text.len(), |room| room.copy_from_slice(&text[..room.len()]));
        self.dropped += lost;
    }

    /// The bytes written since the last [`Console::clear`], and the number of those that did not fit.
    pub fn contents(&self) -> (&[u8], u64) {
        (&self.bytes[..self.used], self.dropped)
    }

    /// Empties the buffer.
    pub fn clear(&mut self) {
        (self.used, self.dropped) = (0, 0);
    }
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_console_says_how_much_it_dropped() {
        let mut console = Console::new();
        console.reserve(CONSOLE_BYTES - 1, |room| room.fill(b'x'));
        console.reserve(3, |room| assert_eq!(room.len(), 1));
        assert_eq!(console.contents().1, 2);
        console.clear();
        assert_eq!(console.contents(), (&[][..], 0));
        console.append(b"text", 2);
        assert_eq!(console.contents(), (&b"text"[..], 2));
    }
}
