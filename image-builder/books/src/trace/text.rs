//! Numbers as text, ten million times: into a buffer that is written when it is full.

use std::io::{self, Write};

/// Bytes after which a buffer is written.
const FULL_BYTES: usize = 1 << 16;

/// Text on its way to a file.
pub(super) struct Text<W> {
    out: W,
    buffer: Vec<u8>,
}

impl<W: Write> Text<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, buffer: Vec::with_capacity(2 * FULL_BYTES) }
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.buffer.extend_from_slice(text.as_bytes());
        self
    }

    pub(super) fn number(&mut self, number: u64) -> &mut Self {
        self.text(itoa::Buffer::new().format(number))
    }

    /// Writes a number in hexadecimal, with `0x`.
    pub(super) fn hex(&mut self, number: u64) -> &mut Self {
        self.text("0x");
        let digits = (number | 1).ilog2() / 4;
        for digit in (0..=digits).rev() {
            self.buffer.push(b"0123456789abcdef"[(number >> (4 * digit)) as usize & 15]);
        }
        self
    }

    /// Writes text between quotes: as it is if that needs no escapes, else as `escape` writes it.
    pub(super) fn quoted(&mut self, text: &str, escape: impl FnOnce(&str) -> String) -> &mut Self {
        if text.bytes().any(|byte| byte == b'"' || byte == b'\\' || byte.is_ascii_control()) {
            self.text(&escape(text))
        } else {
            self.text("\"").text(text).text("\"")
        }
    }

    /// Ends a line.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        if self.buffer.len() < FULL_BYTES { Ok(()) } else { self.flush() }
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_quotes() {
        let mut text = Text::new(Vec::new());
        text.number(0).text(",").number(u64::MAX).text(",").hex(0).text(",").hex(0x10).text(",").hex(u64::MAX);
        text.text(",").quoted("a\"b", |text| text.to_uppercase()).quoted("plain", |_| unreachable!());
        text.flush().unwrap();
        let expected = "0,18446744073709551615,0x0,0x10,0xffffffffffffffff,A\"B\"plain\"";
        assert_eq!(String::from_utf8(text.out).unwrap(), expected);
    }
}
