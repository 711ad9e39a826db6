//! Fields as a writer writes them, read in one pass: in the table's order, each value in its own form. Most records are read so; whatever
//! is written differently is left to [`super::Index`], which reads the same fields with all care.

use super::{Text, bare_end, decimal, hexadecimal, quoted_end};

/// Fields, and the place from which they are yet to be read.
#[derive(Debug)]
pub struct Written<'a> {
    fields: &'a str,
    at: usize,
}

impl<'a> Written<'a> {
    /// The fields of a record, behind the blanks that end its first word.
    #[inline]
    pub fn of(fields: &'a str) -> Self {
        Self { fields: fields.trim_start_matches(' '), at: 0 }
    }

    /// Whether all of them have been read.
    #[inline]
    pub fn is_done(&self) -> bool {
        self.at == self.fields.len()
    }

    /// Whether `key=` comes next.
    #[inline(always)]
    pub fn comes(&self, key: &str) -> bool {
        let Some(rest) = self.fields.as_bytes().get(self.at..) else { return false };
        rest.len() > key.len() && &rest[..key.len()] == key.as_bytes() && rest[key.len()] == b'='
    }

    /// Steps over `key=`, if that comes next.
    #[inline(always)]
    pub fn key(&mut self, key: &str) -> bool {
        let comes = self.comes(key);
        self.at += if comes { key.len() + 1 } else { 0 };
        comes
    }

    /// A number, decimal, and the end of its field.
    #[inline(always)]
    pub fn number(&mut self) -> Option<u64> {
        let bytes = self.fields.as_bytes();
        let start = self.at;
        let mut number: u64 = 0;
        while let Some(&byte) = bytes.get(self.at)
            && byte.is_ascii_digit()
        {
            number = number.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
            self.at += 1;
        }
        let digits = &bytes[start..self.at];
        // Of more digits it may be beyond 64 bits.
        let number = if digits.len() < 20 { (!digits.is_empty()).then_some(number) } else { decimal(digits) };
        self.end(self.at)?;
        number
    }

    /// A number, hexadecimal behind `0x`, and the end of its field.
    #[inline]
    pub fn hex(&mut self) -> Option<u64> {
        hexadecimal(self.bare()?.strip_prefix("0x")?.as_bytes())
    }

    /// A value without quotes, and the end of its field.
    #[inline]
    pub fn bare(&mut self) -> Option<&'a str> {
        let start = self.at;
        let end = bare_end(self.fields.as_bytes(), start);
        self.end(end)?;
        self.fields.get(start..end)
    }

    /// A text in quotes, and the end of its field.
    #[inline]
    pub fn quoted(&mut self) -> Option<Text<'a>> {
        let start = self.at;
        if self.fields.as_bytes().get(start) != Some(&b'"') {
            return None;
        }
        let end = quoted_end(self.fields.as_bytes(), start)?;
        self.end(end)?;
        self.fields.get(start..end).map(Text::of)
    }

    /// Steps over the blank behind a value, or finds the end of all fields.
    #[inline(always)]
    fn end(&mut self, end: usize) -> Option<()> {
        self.at = match self.fields.as_bytes().get(end) {
            None => end,
            Some(b' ') => end + 1,
            Some(_) => return None,
        };
        Some(())
    }
}
