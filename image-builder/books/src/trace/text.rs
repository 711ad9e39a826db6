//! Forms of a trace that are text: numbers and phrases, ten million times.

use std::io::{self, Write};

use super::block::Block;
use super::pipeline::Pipeline;

/// Text in the making.
#[derive(Debug, Default)]
pub(super) struct Text(Vec<u8>);

impl Text {
    #[inline]
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    #[inline]
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    #[inline]
    pub(super) fn append(&mut self, text: &Text) -> &mut Self {
        self.bytes(&text.0)
    }

    #[inline]
    pub(super) fn number(&mut self, number: u64) -> &mut Self {
        self.text(itoa::Buffer::new().format(number))
    }

    /// Writes a number in hexadecimal, with `0x`.
    #[inline]
    pub(super) fn hex(&mut self, mut number: u64) -> &mut Self {
        let (mut digits, mut at) = (*b"0x0000000000000000", 18);
        loop {
            at -= 1;
            digits[at] = b"0123456789abcdef"[(number & 15) as usize];
            number >>= 4;
            if number == 0 {
                break;
            }
        }
        self.bytes(b"0x").bytes(&digits[at..])
    }

    /// Writes text between quotes: as it is if that needs no escapes, else as `escape` writes it.
    pub(super) fn quoted(&mut self, text: &str, escape: impl FnOnce(&str) -> String) -> &mut Self {
        if text.bytes().any(|byte| byte == b'"' || byte == b'\\' || byte.is_ascii_control()) {
            self.text(&escape(text))
        } else {
            self.text("\"").text(text).text("\"")
        }
    }
}

/// Phrases about numbers that come again and again, such as a place in the guest: each is written once, and copied then.
#[derive(Debug)]
pub(super) struct Phrases {
    known: Vec<Option<(u64, Text)>>,
}

impl Phrases {
    const BITS: u32 = 10;

    pub(super) fn new() -> Self {
        Self { known: std::iter::repeat_with(|| None).take(1 << Self::BITS).collect() }
    }

    /// The phrase about a number, which `write` writes.
    #[inline]
    pub(super) fn of(&mut self, number: u64, write: impl FnOnce(&mut Text)) -> &[u8] {
        // Knuth's multiplicative hash: places in code are multiples of small powers of two apart.
        let at = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - Self::BITS);
        let place = &mut self.known[at as usize];
        if place.as_ref().is_none_or(|known| known.0 != number) {
            let mut text = Text::default();
            write(&mut text);
            *place = Some((number, text));
        }
        place.as_ref().map_or(&[], |(_, text)| &text.0)
    }
}

/// A file of text on its way.
#[derive(Debug)]
pub(super) struct Texts<W> {
    out: W,
    pipeline: Pipeline<Text>,
    /// Room that has been written.
    spare: Vec<Text>,
}

/// Exits that are encoded at a time.
pub(super) const BLOCK_EXITS: usize = 1 << 14;

impl<W: Write> Texts<W> {
    /// A file that begins so, and whose exits are written by `encode`.
    ///
    /// # Errors
    /// It can't be written.
    pub(super) fn new(mut out: W, beginning: &str, encode: fn(&Block, &mut Text)) -> io::Result<Self> {
        out.write_all(beginning.as_bytes())?;
        let pipeline = Pipeline::new(move |block, mut text: Text| {
            text.0.clear();
            encode(block, &mut text);
            Ok(text)
        });
        Ok(Self { out, pipeline, spare: Vec::new() })
    }

    pub(super) fn push(&mut self, block: Block) -> io::Result<()> {
        let room = self.spare.pop().unwrap_or_default();
        match self.pipeline.push(block, room)? {
            Some(text) => self.write(text),
            None => Ok(()),
        }
    }

    fn write(&mut self, text: Text) -> io::Result<()> {
        self.out.write_all(&text.0)?;
        self.spare.push(text);
        Ok(())
    }

    /// Writes all blocks that came, and then this text.
    pub(super) fn write_behind(&mut self, text: &Text) -> io::Result<()> {
        while let Some(text) = self.pipeline.next()? {
            self.write(text)?;
        }
        self.out.write_all(&text.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_quotes() {
        let mut text = Text::default();
        text.number(0).text(",").number(u64::MAX).text(",").hex(0).text(",").hex(0x10).text(",").hex(u64::MAX);
        text.text(",").quoted("a\"b", |text| text.to_uppercase()).quoted("plain", |_| unreachable!());
        let expected = "0,18446744073709551615,0x0,0x10,0xffffffffffffffff,A\"B\"plain\"";
        assert_eq!(String::from_utf8(text.0).unwrap(), expected);
    }

    #[test]
    fn a_phrase_is_about_its_own_number() {
        let mut phrases = Phrases::new();
        for _ in 0..2 {
            for number in (0..5000).chain([u64::MAX]) {
                let phrase = phrases.of(number, |text| {
                    text.number(number);
                });
                assert_eq!(phrase, number.to_string().as_bytes());
            }
        }
    }
}
