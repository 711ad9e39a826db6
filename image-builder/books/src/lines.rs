//! Splits a stream of bytes into lines in bounded memory, however long a line gets.

use memchr::{memchr, memchr2, memrchr};

/// Collects bytes until a line is complete. A line that lies within the bytes that come is handed out without a copy. Of a line that
/// is too long the rest is dropped, and its taker is told.
#[derive(Debug)]
pub struct Lines {
    partial: Vec<u8>,
    most_bytes: usize,
    overlong: bool,
    /// Whether a line that is too long is cut at a carriage return.
    cuts: bool,
}

/// One line without its line feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line that ended with a line feed, or the stream's last.
    Whole(&'a [u8]),
    /// The beginning of a line that is longer than allowed.
    Overlong(&'a [u8]),
}

impl Lines {
    /// Lines of at most `most_bytes`.
    pub fn new(most_bytes: usize) -> Self {
        Self { partial: Vec::new(), most_bytes, overlong: false, cuts: false }
    }

    /// Lines of at most `most_bytes`. A line that is longer and has carriage returns in it ends at the last of these that fits: some
    /// captures end their lines with nothing else.
    pub fn cut_at_returns(most_bytes: usize) -> Self {
        Self { cuts: true, ..Self::new(most_bytes) }
    }

    /// Takes the next bytes of the stream and hands out every line that they complete.
    ///
    /// # Errors
    /// The first one of `sink`.
    pub fn feed<E>(&mut self, bytes: &[u8], mut sink: impl FnMut(Line<'_>) -> Result<(), E>) -> Result<(), E> {
        let mut rest = bytes;
        while let Some(end) = memchr(b'\n', rest) {
            let line = &rest[..end];
            rest = &rest[end + 1..];
            if self.partial.is_empty() && !self.overlong && line.len() <= self.most_bytes {
                sink(Line::Whole(line))?;
            } else {
                self.keep(line, &mut sink)?;
                self.hand_out(&mut sink)?;
            }
        }
        self.keep(rest, &mut sink)
    }

    /// Hands out the stream's last line, if that ended without a line feed.
    ///
    /// # Errors
    /// That of `sink`.
    pub fn finish<E>(&mut self, mut sink: impl FnMut(Line<'_>) -> Result<(), E>) -> Result<(), E> {
        if self.partial.is_empty() && !self.overlong { Ok(()) } else { self.hand_out(&mut sink) }
    }

    fn keep<E>(&mut self, bytes: &[u8], sink: &mut impl FnMut(Line<'_>) -> Result<(), E>) -> Result<(), E> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.overlong && self.cuts {
                let Some(end) = memchr2(b'\r', b'\n', rest) else { return Ok(()) };
                rest = &rest[end + 1..];
                self.hand_out(sink)?;
                continue;
            }
            let room = self.most_bytes - self.partial.len();
            let (kept, more) = rest.split_at(rest.len().min(room));
            self.partial.extend_from_slice(kept);
            rest = more;
            if rest.is_empty() {
                break;
            }
            match memrchr(b'\r', &self.partial).filter(|_| self.cuts) {
                Some(end) => {
                    let result = sink(Line::Whole(&self.partial[..end]));
                    self.partial.drain(..=end);
                    result?;
                }
                None => {
                    self.overlong = true;
                    if !self.cuts {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    fn hand_out<E>(&mut self, sink: &mut impl FnMut(Line<'_>) -> Result<(), E>) -> Result<(), E> {
        let line = if self.overlong { Line::Overlong(&self.partial) } else { Line::Whole(&self.partial) };
        let result = sink(line);
        self.partial.clear();
        self.overlong = false;
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn split_by(mut lines: Lines, pieces: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let mut seen = Vec::new();
        let mut sink = |line: Line<'_>| {
            seen.push(match line {
                Line::Whole(bytes) => (bytes.to_vec(), false),
                Line::Overlong(bytes) => (bytes.to_vec(), true),
            });
            Ok::<(), Infallible>(())
        };
        for piece in pieces {
            let Ok(()) = lines.feed(piece, &mut sink);
        }
        let Ok(()) = lines.finish(&mut sink);
        seen
    }

    fn split(pieces: &[&[u8]], most: usize) -> Vec<(Vec<u8>, bool)> {
        split_by(Lines::new(most), pieces)
    }

    #[test]
    fn lines_come_out_however_the_stream_is_cut() {
        let expected = [(b"one".to_vec(), false), (b"".to_vec(), false), (b"two".to_vec(), false)];
        assert_eq!(split(&[b"one\n\ntwo"], 10), expected);
        assert_eq!(split(&[b"o", b"ne\n", b"\nt", b"wo\n"], 10), expected);
    }

    #[test]
    fn an_overlong_line_is_cut_and_the_next_is_whole() {
        assert_eq!(
            split(&[b"12345\n123456\n1"], 5),
            [(b"12345".to_vec(), false), (b"12345".to_vec(), true), (b"1".to_vec(), false)]
        );
        let mut lines = Lines::new(8);
        for _ in 0..1000 {
            let Ok(()) = lines.feed::<Infallible>(&[b'x'; 4096], |_| unreachable!());
        }
        assert!(lines.partial.capacity() <= 64, "an endless line is not kept");
    }

    #[test]
    fn a_line_that_is_too_long_ends_at_a_carriage_return() {
        let cut = |bytes: &[u8]| split_by(Lines::cut_at_returns(8), &[bytes]);
        let whole = |parts: &[&[u8]]| parts.iter().map(|part| (part.to_vec(), false)).collect::<Vec<_>>();
        assert_eq!(cut(b"one\rtwo\rthree\rfour\r"), whole(&[b"one\rtwo", b"three", b"four\r"]));
        assert_eq!(cut(b"one\rtwo\n"), whole(&[b"one\rtwo"]), "it fits");
        assert_eq!(cut(b"123456789\rone\n")[1], (b"one".to_vec(), false));
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_lines(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..200),
            at in 0usize..200,
            most in 1usize..30,
        ) {
            let (left, right) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(split(&[left, right], most), split(&[&bytes], most));
            let cut = |pieces: &[&[u8]]| split_by(Lines::cut_at_returns(most), pieces);
            prop_assert_eq!(cut(&[left, right]), cut(&[&bytes]));
        }
    }
}
