//! Finds the records in one line, whatever stands before, between and behind them: stamps and prefixes of the tool that captured the
//! line, blanks, control characters, escape sequences. A record's checksum proves where it begins and ends.
//!
//! The leftmost beginning decides. Text that looks like a record is none within a record's own quotes, or where a checksum
//! follows that belongs to no record: such a line is damaged, and nothing in it is believed.

use crc_fast::{CrcAlgorithm, Digest};
use memchr::{memchr_iter, memchr2_iter, memrchr};
use tollgate_abi::record::{Kind, MAX_LINE_BYTES, Record};

/// CRC-16/CCITT-FALSE.
const CHECKSUM: CrcAlgorithm = CrcAlgorithm::Crc16Ibm3740;

/// The columns of a record's first word, with the blank behind it.
const WORD_BYTES: usize = 10;
/// The columns of the longest first word, with the blank behind it: a word that is longer than the columns has no padding.
const LONGEST_WORD_BYTES: usize = {
    let (mut longest, mut at) = (WORD_BYTES, 0);
    while at < Kind::ALL.len() {
        let bytes = Kind::ALL[at].word().len() + 1;
        if bytes > longest {
            longest = bytes;
        }
        at += 1;
    }
    longest
};
/// ` ~` and four digits.
const CHECK_BYTES: usize = 6;
/// The most beginnings without an end that are tried in one line.
const MOST_TRIES: usize = 16;

/// A part of a line that is about a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A record.
    Record(Record<'a>),
    /// Something that was a record, of this kind if its word can still be read.
    Damaged(Option<Kind>),
}

/// Hands out the records in a line in their order, and whether something in it is damaged. A line without any of them is noise.
/// `room` is for a copy without control characters.
///
/// # Errors
/// The first one of `sink`.
pub(super) fn pieces<E>(
    line: &[u8],
    room: &mut Vec<u8>,
    mut sink: impl FnMut(Piece<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let trimmed = trimmed(line);
    if let Some(record) = whole(trimmed) {
        return sink(Piece::Record(record));
    }
    if trimmed.iter().any(u8::is_ascii_control) {
        without_controls(trimmed, room);
        return search(room, &mut sink);
    }
    search(trimmed, &mut sink)
}

/// A line without blanks and control characters at its end.
fn trimmed(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|&byte| byte > b' ' && byte != 0x7f).map_or(0, |last| last + 1);
    &line[..end]
}

/// The record that a line is, if it is nothing else.
fn whole(line: &[u8]) -> Option<Record<'_>> {
    let kind = begins(line)?;
    let body = line.len().checked_sub(CHECK_BYTES)?;
    let found = checksum(line, body + 1)?;
    (line.len() <= MAX_LINE_BYTES && crc_fast::checksum(CHECKSUM, &line[..body]) == u64::from(found))
        .then(|| record(kind, &line[..body]))?
}

/// The record of a kind whose checksum is right.
fn record(kind: Kind, body: &[u8]) -> Option<Record<'_>> {
    let fields = std::str::from_utf8(body.get(kind.word().len()..)?).ok()?;
    // The word is ASCII.
    if !fields.is_ascii() {
        return None;
    }
    Record::of(kind, fields)
}

/// The kind of record that bytes begin with: its word, padded, and the blank behind it.
fn begins(bytes: &[u8]) -> Option<Kind> {
    let columns = bytes.first_chunk::<WORD_BYTES>()?;
    let word = match columns.iter().position(|&byte| byte == b' ') {
        Some(end) if columns[end..].iter().all(|&byte| byte == b' ') => &columns[..end],
        Some(_) => return None,
        None => bytes
            .split(|&byte| byte == b' ')
            .next()
            .filter(|word| (WORD_BYTES..LONGEST_WORD_BYTES).contains(&word.len()))?,
    };
    Kind::of_word(word)
}

/// The value of the checksum whose `~` is here.
fn checksum(line: &[u8], tilde: usize) -> Option<u16> {
    let [b' ', b'~', digits @ ..] = line.get(tilde.checked_sub(1)?..)?.first_chunk::<CHECK_BYTES>()? else {
        return None;
    };
    digits.iter().try_fold(0, |value, &digit| Some(value << 4 | char::from(digit).to_digit(16)? as u16))
}

/// Searches a line without control characters.
fn search<E>(line: &[u8], sink: &mut impl FnMut(Piece<'_>) -> Result<(), E>) -> Result<(), E> {
    // The end of the last record, and the beginning in front of which nothing more is believed.
    let (mut from, mut tries, mut broken) = (0, 0, None);
    let mut damaged = torn_at_once(line).map(Some);
    let mut found: Option<(usize, Piece<'_>)> = None;
    for start in starts(line) {
        let Some(kind) = begins(&line[start..]).filter(|_| start >= from && tries < MOST_TRIES) else { continue };
        if broken.is_some_and(|broken| is_quoted(&line[broken..start])) {
            continue;
        }
        let Some(length) = length(&line[start..]) else {
            tries += 1;
            broken = Some(start);
            damaged.get_or_insert(Some(kind));
            continue;
        };
        if let Some((end, piece)) = found.take() {
            // A checksum between two records was the end of a third.
            if has_checksum(&line[end..start]) {
                damaged.get_or_insert(None);
            } else {
                sink(piece)?;
            }
        }
        from = start + length;
        broken = None;
        found = record(kind, &line[start..from - CHECK_BYTES]).map(|record| (from, Piece::Record(record)));
        if found.is_none() {
            damaged.get_or_insert(Some(kind));
        }
    }
    if has_checksum(&line[from..]) {
        damaged.get_or_insert(None);
    } else if let Some((_, piece)) = found {
        sink(piece)?;
    }
    damaged.map_or(Ok(()), |kind| sink(Piece::Damaged(kind)))
}

/// The kind of a record that was torn in its first word or right behind it.
fn torn_at_once(line: &[u8]) -> Option<Kind> {
    if line.len() < WORD_BYTES {
        return Kind::of_word(line);
    }
    let kind = begins(line).or_else(|| Kind::of_word(line))?;
    let key = line.get(WORD_BYTES.max(kind.word().len() + 1)..).unwrap_or_default();
    key.iter().all(is_of_key).then_some(kind)
}

/// Whether a byte may be one of a field's key.
fn is_of_key(byte: &u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_'
}

/// The places in a line where a record may begin: as many bytes as a first word has before the first field, or before the
/// checksum.
fn starts(line: &[u8]) -> impl Iterator<Item = usize> + '_ {
    memchr2_iter(b'=', b'~', line).flat_map(|at| {
        let key = line[..at].iter().rev().take_while(|byte| is_of_key(byte)).count();
        let first = at - if line[at] == b'=' { key } else { 0 };
        (WORD_BYTES..=LONGEST_WORD_BYTES).rev().filter_map(move |bytes| first.checked_sub(bytes))
    })
}

/// The length of the record at the beginning of some bytes, with its checksum, if one of the checksums in them is its.
fn length(bytes: &[u8]) -> Option<usize> {
    let bytes = &bytes[..bytes.len().min(MAX_LINE_BYTES)];
    let (mut digest, mut done) = (Digest::new(CHECKSUM), 0);
    for tilde in memchr_iter(b'~', bytes) {
        let Some(expected) = checksum(bytes, tilde) else { continue };
        digest.update(&bytes[done..tilde - 1]);
        done = tilde - 1;
        if digest.finalize() == u64::from(expected) {
            return Some(tilde - 1 + CHECK_BYTES);
        }
    }
    None
}

fn has_checksum(bytes: &[u8]) -> bool {
    memrchr(b'~', bytes).is_some() && memchr_iter(b'~', bytes).any(|tilde| checksum(bytes, tilde).is_some())
}

/// Whether text ends within quotes that it has opened.
fn is_quoted(text: &[u8]) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for &byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
    quoted
}

/// Copies a line without control characters and the escape sequences of terminals (ECMA-48).
fn without_controls(line: &[u8], copy: &mut Vec<u8>) {
    const ESCAPE: u8 = 0x1b;
    copy.clear();
    let mut rest = line;
    while let Some((&byte, after)) = rest.split_first() {
        rest = match (byte, after.first()) {
            (ESCAPE, Some(b'[')) => behind(after, |byte| (0x40..=0x7e).contains(&byte), 1),
            (ESCAPE, Some(b']' | b'P' | b'^' | b'_')) => behind(after, |byte| matches!(byte, 0x07 | b'\\'), 1),
            (ESCAPE, Some(0x20..=0x2f)) => behind(after, |byte| (0x30..=0x7e).contains(&byte), 0),
            (ESCAPE, Some(_)) => &after[1..],
            _ => after,
        };
        if !byte.is_ascii_control() {
            copy.push(byte);
        }
    }
}

/// The bytes behind the first one that ends a sequence, of those from `from` on; the bytes from there on if none does.
fn behind(bytes: &[u8], ends: impl Fn(u8) -> bool, from: usize) -> &[u8] {
    let end = bytes[from..].iter().position(|&byte| ends(byte));
    &bytes[end.map_or(from, |end| from + end + 1)..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_abi::record::Writer;

    const TALLY: &str = "tally     reason=10 guest=249 ~c4af";
    const STOP: &str = "stop      outcome=exited rip=0x1010f9 reason=0x12 qualification=0x0 ~4d2d";

    /// The words of the records in a line; `?` is damage, `?exit` damage to a record of that kind.
    fn seen(line: &str) -> String {
        let mut words = Vec::new();
        let Ok(()) = pieces::<std::convert::Infallible>(line.as_bytes(), &mut Vec::new(), |piece| {
            words.push(match piece {
                Piece::Record(record) => record.kind.word().to_owned(),
                Piece::Damaged(kind) => format!("?{}", kind.map_or("", Kind::word)),
            });
            Ok(())
        });
        words.join(" ")
    }

    /// A record of every kind, with a checksum and without fields.
    #[test]
    fn every_kinds_word_is_found() {
        for kind in Kind::ALL {
            let body = format!("{:<9} turns=1", kind.word());
            let line = format!("{body} ~{:04x}", crc_fast::checksum(CHECKSUM, body.as_bytes()));
            assert_eq!(seen(&line), kind.word());
            assert_eq!(seen(&format!("12:00 {line} \r")), kind.word(), "behind a stamp");
            assert_eq!(seen(&format!("12:00 {body} ~0000")), format!("?{}", kind.word()));
        }
    }

    #[test]
    fn a_record_is_found_behind_anything_and_before_anything() {
        for before in
            ["", "[2025-03-14 09:26:53] ", "Mar 14 09:26:53 ", "host kernel: [  0.1] ", "12:", "\u{feff}", "> "]
        {
            for behind in ["", "\r", "\r\r", " \t ", "\0\0", "\u{1b}[K", "\u{1b}[K\r", " [2m", " # the last"] {
                assert_eq!(seen(&format!("{before}{TALLY}{behind}")), "tally", "{before:?} {behind:?}");
            }
        }
        assert_eq!(seen(&format!("\r\u{1b}[2K\u{1b}]0;title\u{7}{TALLY}")), "tally");
        assert_eq!(seen(&TALLY.replace("guest", "\r\u{1b}[Agu\u{1b}(Best")), "tally", "within it, too");
        assert_eq!(seen(&format!("     1\t{TALLY}")), "tally");
        assert_eq!(seen("\u{1b}"), "");
    }

    #[test]
    fn several_records_in_a_line_are_found() {
        assert_eq!(seen(&format!("{TALLY}{STOP}")), "tally stop");
        assert_eq!(seen(&format!("{TALLY}\r{STOP}\r")), "tally stop");
        assert_eq!(seen(&format!("{}{STOP}", &TALLY[..20])), "stop ?tally");
        assert_eq!(seen(&format!("{TALLY}{}", &STOP[..40])), "tally ?stop");
    }

    #[test]
    fn a_record_within_a_record_is_its_text() {
        let mut line = String::new();
        Writer::new(&mut line, Kind::Console).text("text", TALLY).finish().unwrap();
        let line = line.trim_end();
        assert_eq!(seen(line), "console");
        assert_eq!(seen(&format!("12:00 {line}")), "console");
        // Whatever is lost of it, its text is not taken for a record.
        for cut in 0..line.len() {
            let (left, right) = line.split_at(cut);
            assert!(!seen(left).contains("tally") || cut < 5, "{left}: {}", seen(left));
            if cut > 0 && right.contains(TALLY) {
                assert_eq!(seen(right), "?", "{right}");
            }
            let mut bytes = line.as_bytes().to_vec();
            bytes[cut] ^= 1;
            let damaged = String::from_utf8_lossy(&bytes).into_owned();
            assert!(!seen(&damaged).split(' ').any(|word| word == "tally"), "{damaged}: {}", seen(&damaged));
        }
    }

    #[test]
    fn damage_is_told_from_noise() {
        for noise in
            ["", "SeaBIOS (version 1.16)", "stop the press", "memory test: a=b", "exit code=1", "~12ab", "x ~12g0"]
        {
            assert_eq!(seen(noise), "", "{noise}");
        }
        assert_eq!(seen("exit"), "?exit");
        assert_eq!(seen("exit      vcpu=0 reas"), "?exit");
        assert_eq!(seen("exit      vcp"), "?exit");
        assert_eq!(seen(&TALLY.replace("249", "259")), "?tally");
        assert_eq!(seen(&format!("at noon {}", TALLY.replace("249", "259"))), "?tally");
        assert_eq!(seen(&TALLY[3..]), "?");
        assert_eq!(seen(&TALLY.replace("tally ", "tallz ")), "?");
    }

    #[test]
    fn a_line_of_beginnings_is_not_tried_for_ever() {
        let line = "exit      a= ~0000".repeat(800);
        let begun = std::time::Instant::now();
        assert_eq!(seen(&line), "?exit");
        assert!(begun.elapsed().as_secs() < 2);
    }
}
