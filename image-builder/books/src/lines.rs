//! Splits a stream of bytes into lines in bounded memory, however long a line gets.

/// Collects bytes until a line is complete. Of a line that is too long the rest is dropped, and its taker is told.
#[derive(Debug)]
pub struct Lines {
    partial: Vec<u8>,
    most_bytes: usize,
    overlong: bool,
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
        Self { partial: Vec::new(), most_bytes, overlong: false }
    }

    /// Takes the next bytes of the stream and hands out every line that they complete.
    ///
    /// # Errors
    /// The first one of `sink`.
    pub fn feed<E>(&mut self, bytes: &[u8], mut sink: impl FnMut(Line<'_>) -> Result<(), E>) -> Result<(), E> {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            self.keep(&rest[..end]);
            rest = &rest[end + 1..];
            self.hand_out(&mut sink)?;
        }
        self.keep(rest);
        Ok(())
    }

    /// Hands out the stream's last line, if that ended without a line feed.
    ///
    /// # Errors
    /// That of `sink`.
    pub fn finish<E>(&mut self, mut sink: impl FnMut(Line<'_>) -> Result<(), E>) -> Result<(), E> {
        if self.partial.is_empty() { Ok(()) } else { self.hand_out(&mut sink) }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = self.most_bytes - self.partial.len();
        self.overlong |= bytes.len() > room;
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
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

    fn split(pieces: &[&[u8]], most: usize) -> Vec<(Vec<u8>, bool)> {
        let mut lines = Lines::new(most);
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

    proptest! {
        #[test]
        fn any_cut_gives_the_same_lines(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200),
            at in 0usize..200,
        ) {
            let (left, right) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(split(&[left, right], 20), split(&[&bytes], 20));
        }
    }
}
