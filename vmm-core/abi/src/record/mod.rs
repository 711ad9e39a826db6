//! The serial protocol: one record is one line of text that a person reads and a program parses.
//!
//! ```text
//! exit      vcpu=0 reason=10 name="CPUID" status=enabled count=4096 cycles=331776 min=81 max=81 ~5c1e
//! ```
//!
//! A fixed word padded to a column, then `key=value` separated by single spaces, then `~` and four hexadecimal digits: the
//! CRC-16/CCITT-FALSE of everything before the ` ~`. Numbers are decimal, or hexadecimal behind `0x`. Text stands in double
//! quotes; in it `"`, `\` and every byte outside printable ASCII are escaped (`\"`, `\\`, `\x1b`). By the checksum a reader tells
//! a record from one that was torn or that something else on the line wrote into.
//!
//! [`records`] has every kind of record and its fields, for both ends. [`Writer`] and [`parse`] are the layer below; neither
//! allocates.

pub mod form;
pub mod records;

pub use records::Kind;

use core::cell::Cell;
use core::fmt::{self, Write};

/// Version of the protocol, in the first record of every log.
pub const PROTOCOL: u64 = 1;

/// The monitor, as the one whose line a `console` record has.
pub const MONITOR: &str = "monitor";

/// The longest line that [`parse`] accepts, in bytes. Longer lines are noise.
pub const MAX_LINE_BYTES: usize = 4096;

/// Width to which the first word is padded.
const WORD_COLUMNS: usize = 9;

/// The most runs of samples in one record.
pub const MOST_RUNS: usize = 128;
// A run takes two numbers of ten digits at most, and a separator behind each.
const _: () = assert!(MOST_RUNS * 22 + 128 < MAX_LINE_BYTES);

/// CRC-16/CCITT-FALSE: polynomial 0x1021, initial value 0xffff.
#[derive(Clone, Copy)]
struct Crc(u16);

impl Crc {
    const INITIAL: Crc = Crc(0xffff);

    fn update(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            // The sum of eight steps of the division: of the polynomial's terms x^12, x^5 and 1, the first reaches back into
            // the byte by four bits. As fast as a table, without its 512 bytes in every image.
            let mut high = (self.0 >> 8) ^ u16::from(byte);
            high ^= high >> 4;
            self.0 = (self.0 << 8) ^ (high << 12) ^ (high << 5) ^ high;
        }
    }
}

/// Writes one record; the line is complete after [`Writer::finish`].
///
/// Its methods are kept out of line: records are many, and an image has to fit its ROM.
pub struct Writer<'w, W: Write + ?Sized> {
    out: &'w mut W,
    crc: Crc,
    result: fmt::Result,
}

impl<'w, W: Write + ?Sized> Writer<'w, W> {
    /// Starts a record on a new line.
    #[inline(never)]
    pub fn new(out: &'w mut W, kind: Kind) -> Self {
        let mut writer = Self { out, crc: Crc::INITIAL, result: Ok(()) };
        writer.put(format_args!("{:<WORD_COLUMNS$}", kind.word()));
        writer
    }

    /// A decimal number.
    #[must_use]
    #[inline(never)]
    pub fn number(mut self, key: &str, value: u64) -> Self {
        self.put(format_args!(" {key}={value}"));
        self
    }

    /// A hexadecimal number.
    #[must_use]
    #[inline(never)]
    pub fn hex(mut self, key: &str, value: u64) -> Self {
        self.put(format_args!(" {key}={value:#x}"));
        self
    }

    /// A bare word: no spaces, no quotes. The caller passes words from tables only.
    #[must_use]
    #[inline(never)]
    pub fn word(mut self, key: &str, value: &str) -> Self {
        self.put(format_args!(" {key}={value}"));
        self
    }

    /// Any text, quoted and escaped. Accepts anything that formats, so `format_args!` fits.
    #[must_use]
    pub fn text(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.put(format_args!(" {key}=\"{}\"", Escaped(value)));
        self
    }

    /// `bucket:count` pairs of the buckets that are not empty.
    #[must_use]
    #[inline(never)]
    pub fn histogram(mut self, key: &str, buckets: &[u64]) -> Self {
        self.put(format_args!(" {key}="));
        let mut separator = "";
        for (bucket, &count) in buckets.iter().enumerate().filter(|&(_, &count)| count > 0) {
            self.put(format_args!("{separator}{bucket}:{count}"));
            separator = ",";
        }
        self
    }

    /// Numbers with commas between them.
    #[must_use]
    #[inline(never)]
    pub fn numbers(mut self, key: &str, values: impl Iterator<Item = u64>) -> Self {
        self.put(format_args!(" {key}"));
        let mut separator = '=';
        for value in values {
            self.put(format_args!("{separator}{value}"));
            separator = ',';
        }
        self
    }

    /// `ticks:count` runs of samples, at most [`MOST_RUNS`].
    #[must_use]
    #[inline(never)]
    pub fn runs(mut self, key: &str, runs: &[(u32, u32)]) -> Self {
        self.put(format_args!(" {key}="));
        let mut separator = "";
        for (ticks, count) in runs {
            self.put(format_args!("{separator}{ticks}:{count}"));
            separator = ",";
        }
        self
    }

    /// A value that displays without spaces and quotes.
    #[must_use]
    #[inline(never)]
    pub fn packed(mut self, key: &str, value: &dyn fmt::Display) -> Self {
        self.put(format_args!(" {key}={value}"));
        self
    }

    /// Ends the line with its checksum. An error is the sink's.
    #[inline(never)]
    pub fn finish(self) -> fmt::Result {
        self.result?;
        writeln!(self.out, " ~{:04x}", self.crc.0)
    }

    #[inline(never)]
    fn put(&mut self, arguments: fmt::Arguments<'_>) {
        struct Tee<'a, W: Write + ?Sized>(&'a mut W, &'a mut Crc);
        impl<W: Write + ?Sized> Write for Tee<'_, W> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.1.update(text.as_bytes());
                self.0.write_str(text)
            }
        }
        if self.result.is_ok() {
            self.result = Tee(self.out, &mut self.crc).write_fmt(arguments);
        }
    }
}

/// Displays text with the escapes of a quoted value.
struct Escaped<T>(T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escape<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl Write for Escape<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                for byte in text.bytes() {
                    match byte {
                        b'"' | b'\\' => write!(self.0, "\\{}", byte as char)?,
                        b' '..=b'~' => self.0.write_char(byte as char)?,
                        _ => write!(self.0, "\\x{byte:02x}")?,
                    }
                }
                Ok(())
            }
        }
        write!(Escape(f), "{}", self.0)
    }
}

/// The reason that a line is not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// It does not start with a record's word: firmware messages, blank lines, other programs.
    Noise,
    /// It starts like a record, and its checksum is missing or wrong: it was torn, or written into.
    Damaged,
}

/// A parsed record: a view of its line, whose syntax and checksum have been verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The kind of the record.
    pub kind: Kind,
    fields: &'a str,
}

/// Parses one line, with or without its line ending.
///
/// # Errors
/// [`Reject::Noise`] or [`Reject::Damaged`]; a reader counts them and goes on.
pub fn parse(line: &[u8]) -> Result<Record<'_>, Reject> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let word = line.split(|&byte| byte == b' ').next().unwrap_or_default();
    let kind = *Kind::ALL.iter().find(|kind| kind.word().as_bytes() == word).ok_or(Reject::Noise)?;
    // The slice's own `is_ascii` has SSE instructions in `core`, which no image of the monitor may have.
    if line.len() > MAX_LINE_BYTES || !line.iter().all(u8::is_ascii) {
        return Err(Reject::Damaged);
    }
    let (body, digits) = line.split_at_checked(line.len().wrapping_sub(6)).ok_or(Reject::Damaged)?;
    let mut crc = Crc::INITIAL;
    crc.update(body);
    let digits = digits.strip_prefix(b" ~").and_then(|hex| core::str::from_utf8(hex).ok()).ok_or(Reject::Damaged)?;
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) || u16::from_str_radix(digits, 16) != Ok(crc.0) {
        return Err(Reject::Damaged);
    }
    let fields = core::str::from_utf8(&body[word.len()..]).map_err(|_| Reject::Damaged)?;
    Record::of(kind, fields).ok_or(Reject::Damaged)
}

/// The end of a value without quotes. Most are short; the data of a trace is searched in blocks, which a compiler compares at once.
fn bare_end(rest: &[u8]) -> usize {
    const BLOCK: usize = 32;
    let ends = |byte: &u8| matches!(byte, b' ' | b'"');
    let holds_end = |block: &&[u8; BLOCK]| block.iter().fold(false, |any, byte| any | ends(byte));
    let skipped = rest.as_chunks::<BLOCK>().0.iter().take_while(|block| !holds_end(block)).count() * BLOCK;
    rest[skipped..].iter().position(ends).map_or(rest.len(), |end| skipped + end)
}

/// Splits `key=value` off the front: key, raw value, rest without the separating space.
fn split_field(fields: &str) -> Option<(&str, &str, &str)> {
    let is_of_key = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_';
    let key_end = fields.bytes().position(|byte| !is_of_key(&byte))?;
    let (key, rest) = (&fields[..key_end], fields[key_end..].strip_prefix('=')?);
    let value_end = if let Some(text) = rest.strip_prefix('"')
        && let Some(end) = text.bytes().position(|byte| matches!(byte, b'"' | b'\\'))
        && text.as_bytes()[end] == b'"'
    {
        // Nothing is escaped in it.
        end + 2
    } else if rest.starts_with('"') {
        let mut bytes = rest.bytes().enumerate().skip(1);
        loop {
            match bytes.next()? {
                (_, b'\\') => drop(bytes.next()?),
                (end, b'"') => break end + 1,
                _ => {}
            }
        }
    } else {
        bare_end(rest.as_bytes())
    };
    let (value, rest) = rest.split_at(value_end);
    let rest = if rest.is_empty() { rest } else { rest.strip_prefix(' ')? };
    (!key.is_empty()).then_some((key, value, rest))
}

impl<'a> Record<'a> {
    /// The record of these fields, with or without blanks before them; `None` if they are malformed. Nothing tells that their
    /// checksum is right: the caller has compared it.
    pub fn of(kind: Kind, fields: &'a str) -> Option<Self> {
        let fields = fields.trim_start_matches(' ');
        let mut rest = fields;
        while !rest.is_empty() {
            rest = split_field(rest)?.2;
        }
        Some(Self { kind, fields })
    }

    /// Keys and raw values, in order.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let mut rest = self.fields;
        core::iter::from_fn(move || {
            let (key, value, after) = split_field(rest)?;
            rest = after;
            Some((key, value))
        })
    }

    /// The raw value of the first field `key`.
    pub fn raw(&self, key: &str) -> Option<&'a str> {
        self.fields().find(|&(name, _)| name == key).map(|(_, value)| value)
    }

    /// A number, decimal or hexadecimal. `None` if absent, malformed, or beyond 64 bits.
    pub fn number(&self, key: &str) -> Option<u64> {
        number(self.raw(key)?)
    }

    /// A word or quoted text. Displays without quotes and escapes.
    pub fn text(&self, key: &str) -> Option<Text<'a>> {
        self.raw(key).map(Text::of)
    }
}

fn number(raw: &str) -> Option<u64> {
    let (digits, radix) = raw.strip_prefix("0x").map_or((raw, 10), |hex| (hex, 16));
    // `from_str_radix` would take a sign, and no writer writes one.
    if digits.starts_with('+') { None } else { u64::from_str_radix(digits, radix).ok() }
}

/// The fields of a record found once, for a reader that wants several of them: in most records they come in the order in which they
/// are asked for.
#[derive(Debug)]
pub struct Index<'a> {
    record: Record<'a>,
    fields: [(&'a str, &'a str); MOST_INDEXED],
    count: usize,
    /// The place of the field that was found last.
    last: Cell<usize>,
}

/// The most fields in an index; those behind them are searched for in the line. No kind of record has as many.
const MOST_INDEXED: usize = 20;

impl<'a> Index<'a> {
    /// The fields of a record.
    pub fn of(record: &Record<'a>) -> Self {
        let (mut fields, mut count) = ([("", ""); MOST_INDEXED], 0);
        for (place, field) in fields.iter_mut().zip(record.fields()) {
            *place = field;
            count += 1;
        }
        Self { record: *record, fields, count, last: Cell::new(0) }
    }

    /// The raw value of the field `key`; no writer writes a key twice.
    pub fn raw(&self, key: &str) -> Option<&'a str> {
        let last = self.last.get();
        let is_it = |&at: &usize| self.fields.get(at).is_some_and(|&(name, _)| name == key);
        let place = [last, last + 1].into_iter().find(is_it).filter(|_| self.count < MOST_INDEXED);
        let Some(at) = place.or_else(|| (0..self.count).find(is_it)) else {
            return if self.count < MOST_INDEXED { None } else { self.record.raw(key) };
        };
        self.last.set(at);
        Some(self.fields[at].1)
    }

    /// A number, decimal or hexadecimal. `None` if absent, malformed, or beyond 64 bits.
    pub fn number(&self, key: &str) -> Option<u64> {
        number(self.raw(key)?)
    }

    /// A word or quoted text. Displays without quotes and escapes.
    pub fn text(&self, key: &str) -> Option<Text<'a>> {
        self.raw(key).map(Text::of)
    }
}

/// A text value, still escaped; [`fmt::Display`] undoes the escapes (each byte is one Latin-1 character).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    fn of(raw: &'a str) -> Self {
        Text(raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(raw))
    }

    /// The text as one string slice, if nothing in it was escaped.
    pub fn as_plain(&self) -> Option<&str> {
        (!self.0.contains('\\')).then_some(self.0)
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some((plain, escape)) = rest.split_once('\\') {
            f.write_str(plain)?;
            rest = match escape.strip_prefix('x').and_then(|hex| Some((hex.get(..2)?, hex.get(2..)?))) {
                Some((hex, after)) if u8::from_str_radix(hex, 16).is_ok() => {
                    f.write_char(u8::from_str_radix(hex, 16).unwrap_or_default() as char)?;
                    after
                }
                _ => {
                    let mut chars = escape.chars();
                    if let Some(escaped) = chars.next() {
                        f.write_char(escaped)?;
                    }
                    chars.as_str()
                }
            };
        }
        f.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::{String, ToString};
    use std::vec::Vec;

    fn sample() -> String {
        let mut line = String::new();
        Writer::new(&mut line, Kind::Exit)
            .number("reason", 10)
            .text("name", "CP\"U\\ID\u{1b}")
            .word("status", "enabled")
            .hex("rip", 0xffff_0000)
            .histogram("histogram", &[0, 3, 0, 7])
            .finish()
            .unwrap();
        line
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let line = sample();
        assert!(
            line.starts_with(
                "exit      reason=10 name=\"CP\\\"U\\\\ID\\x1b\" status=enabled rip=0xffff0000 histogram=1:3,3:7 ~"
            ),
            "{line}"
        );
        let record = parse(line.as_bytes()).unwrap();
        assert_eq!(record.kind, Kind::Exit);
        assert_eq!(record.number("reason"), Some(10));
        assert_eq!(record.text("name").unwrap().to_string(), "CP\"U\\ID\u{1b}");
        assert_eq!(record.text("status").unwrap().as_plain(), Some("enabled"));
        assert_eq!(record.number("rip"), Some(0xffff_0000));
        let buckets = <form::Histogram as form::Form>::read(&Index::of(&record), "histogram").unwrap();
        assert_eq!(buckets.iter().collect::<Vec<_>>(), [(1, 3), (3, 7)]);
        assert_eq!(record.raw("absent"), None);
        assert_eq!(record.number("status"), None);
    }

    #[test]
    fn every_kind_reads_as_it_was_written() {
        records::round_trip::every_kind();
    }

    #[test]
    fn a_field_that_must_be_there_is_named_and_others_may_lack() {
        let mut line = String::new();
        Writer::new(&mut line, Kind::Tally).number("reason", 10).word("guest", "many").finish().unwrap();
        assert_eq!(records::read::Tally::of(&parse(line.as_bytes()).unwrap()).err(), Some("guest"));
        let mut line = String::new();
        Writer::new(&mut line, Kind::Stop).word("outcome", "exited").finish().unwrap();
        let stop = records::read::Stop::of(&parse(line.as_bytes()).unwrap()).unwrap();
        assert!(stop.rip.is_none() && stop.detail.is_none());
        let mut line = String::new();
        Writer::new(&mut line, Kind::Tally).number("reason", 1 << 16).number("guest", 1).finish().unwrap();
        assert_eq!(records::read::Tally::of(&parse(line.as_bytes()).unwrap()).err(), Some("reason"));
    }

    #[test]
    fn every_torn_line_is_rejected() {
        let line = sample();
        let line = line.trim_end();
        for cut in 0..line.len() {
            assert!(parse(&line.as_bytes()[..cut]).is_err(), "accepted {:?}", &line[..cut]);
        }
        assert!(parse(line.as_bytes()).is_ok());
        assert!(parse([line, "\r\n"].concat().as_bytes()).is_ok());
    }

    #[test]
    fn noise_is_told_from_damage() {
        assert_eq!(parse(b""), Err(Reject::Noise));
        assert_eq!(parse(b"SeaBIOS (version 1.16)"), Err(Reject::Noise));
        assert_eq!(parse(b"exit"), Err(Reject::Damaged));
        assert_eq!(parse(b"exit      reason=10 ~0000"), Err(Reject::Damaged));
        assert_eq!(parse("exit      name=\u{e9} ~0000".as_bytes()), Err(Reject::Damaged));
    }

    /// The division bit by bit, as the polynomial is defined.
    fn divided(bytes: &[u8]) -> u16 {
        bytes.iter().fold(0xffff, |crc, &byte| {
            (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 })
        })
    }

    #[test]
    fn the_checksum_is_crc_16_ccitt_false() {
        let mut crc = Crc::INITIAL;
        crc.update(b"123456789");
        assert_eq!((crc.0, divided(b"123456789")), (0x29b1, 0x29b1));
    }

    proptest! {
        #[test]
        fn the_checksum_of_any_bytes_is_the_divisions(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut crc = Crc::INITIAL;
            crc.update(&bytes);
            prop_assert_eq!(crc.0, divided(&bytes));
        }

        #[test]
        fn any_bytes_parse_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_text_survives_the_line(text in "\\PC{0,60}", number in any::<u64>()) {
            let mut line = String::new();
            Writer::new(&mut line, Kind::Console).text("text", &text).number("n", number).finish().unwrap();
            let record = parse(line.as_bytes()).unwrap();
            let latin: String = text.bytes().map(|byte| byte as char).collect();
            prop_assert_eq!(record.text("text").unwrap().to_string(), latin);
            prop_assert_eq!(record.number("n"), Some(number));
        }

        #[test]
        fn one_changed_byte_is_noticed(at in 0usize..100, bit in 0u8..8) {
            let mut line = sample().trim_end().as_bytes().to_vec();
            let at = at % line.len();
            line[at] ^= 1 << bit;
            let case_of_digit = at >= line.len() - 4 && bit == 5 && line[at].is_ascii_alphabetic();
            if !case_of_digit { prop_assert!(parse(&line).is_err()); }
        }

        #[test]
        fn any_fields_with_a_right_checksum_are_read_without_panic(fields in "[ -~]{0,80}") {
            let body = std::format!("exit      {fields}");
            let mut crc = Crc::INITIAL;
            crc.update(body.as_bytes());
            let line = std::format!("{body} ~{:04x}", crc.0);
            if let Ok(record) = parse(line.as_bytes()) {
                for (key, _) in record.fields() {
                    let _ = (record.number(key), record.text(key).map(|t| t.to_string()), <form::Histogram as form::Form>::read(&Index::of(&record), key).map(|buckets| buckets.iter().count()));
                }
            }
        }
    }
}
