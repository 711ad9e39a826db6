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
mod written;

pub use records::Kind;
use records::read;
pub use written::Written;

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
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The kind of the record.
    pub kind: Kind,
    fields: &'a str,
    found: Found<'a>,
}

/// Two records are the same if their lines are.
impl PartialEq for Record<'_> {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, self.fields) == (other.kind, other.fields)
    }
}

impl Eq for Record<'_> {}

/// The fields, as the syntax was verified by them: the kinds of which a log has most are read meanwhile.
#[derive(Clone, Copy, Debug)]
enum Found<'a> {
    Exit(read::Exit<'a>),
    Key(read::Key<'a>),
    Places(Places),
}

/// The places of the first fields.
#[derive(Clone, Copy, Debug)]
struct Places {
    places: [Place; MOST_PLACES],
    /// The number of fields that have a place.
    placed: usize,
}

/// The place of a field in the text of all. It begins behind the blank that ends the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    equals: u16,
    end: u16,
}

/// The most fields that have a place; those behind them are searched for in the line. The kinds that come often have fewer.
const MOST_PLACES: usize = 12;

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

/// Bytes of a field's key.
const OF_KEY: u8 = 1;
/// Bytes that end a value without quotes.
const ENDS: u8 = 2;
/// Bytes that end a stretch of a quoted value.
const ENDS_QUOTED: u8 = 4;

/// The meaning of each byte in fields.
const MEANING: [u8; 256] = {
    let mut meaning = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        meaning[byte] = match byte as u8 {
            b'a'..=b'z' | b'0'..=b'9' | b'_' => OF_KEY,
            b' ' => ENDS,
            b'"' => ENDS | ENDS_QUOTED,
            b'\\' => ENDS_QUOTED,
            _ => 0,
        };
        byte += 1;
    }
    meaning
};

#[inline(always)]
fn means(byte: u8, what: u8) -> bool {
    MEANING[usize::from(byte)] & what != 0
}

/// The end of a value without quotes that begins here. Most are short; the data of a trace is searched in blocks, which a compiler
/// compares at once.
#[inline]
fn bare_end(bytes: &[u8], start: usize) -> usize {
    const SHORT: usize = 20;
    const BLOCK: usize = 32;
    let rest = bytes.get(start..).unwrap_or_default();
    let (short, long) = rest.split_at(rest.len().min(SHORT));
    if let Some(end) = short.iter().position(|&byte| means(byte, ENDS)) {
        return start + end;
    }
    let holds_end = |block: &&[u8; BLOCK]| block.iter().fold(false, |any, byte| any | matches!(byte, b' ' | b'"'));
    let skipped = long.as_chunks::<BLOCK>().0.iter().take_while(|block| !holds_end(block)).count() * BLOCK;
    let end = long[skipped..].iter().position(|&byte| means(byte, ENDS)).map_or(long.len(), |end| skipped + end);
    start + short.len() + end
}

/// The end of a quoted value whose first quote is here, behind the last one.
#[inline]
fn quoted_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        at += bytes.get(at..)?.iter().position(|&byte| means(byte, ENDS_QUOTED))?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// The place of the field that begins here: a key, `=` and a value, at whose end the text ends or a blank follows.
#[inline]
fn field_at(bytes: &[u8], start: usize) -> Option<Place> {
    let equals = start + bytes.get(start..)?.iter().position(|&byte| !means(byte, OF_KEY))?;
    if equals == start || bytes[equals] != b'=' {
        return None;
    }
    let value = equals + 1;
    let end = if bytes.get(value) == Some(&b'"') { quoted_end(bytes, value)? } else { bare_end(bytes, value) };
    if bytes.get(end).is_some_and(|&byte| byte != b' ') {
        return None;
    }
    Some(Place { equals: equals.try_into().ok()?, end: end.try_into().ok()? })
}

impl Places {
    /// The places of fields whose syntax is right.
    fn of(fields: &str) -> Option<Self> {
        let (mut places, mut placed, mut start) = ([Place::default(); MOST_PLACES], 0, 0);
        while start < fields.len() {
            let place = field_at(fields.as_bytes(), start)?;
            if let Some(free) = places.get_mut(placed) {
                *free = place;
                placed += 1;
            }
            start = usize::from(place.end) + 1;
        }
        Some(Self { places, placed })
    }
}

impl<'a> Record<'a> {
    /// The record of these fields, with or without blanks before them; `None` if they are malformed, or longer than a line. Nothing
    /// tells that their checksum is right: the caller has compared it.
    pub fn of(kind: Kind, fields: &'a str) -> Option<Self> {
        let fields = fields.trim_start_matches(' ');
        let at_once = match kind {
            Kind::Exit => read::Exit::written(fields).map(Found::Exit),
            Kind::Key => read::Key::written(fields).map(Found::Key),
            _ => None,
        };
        let found = at_once.or_else(|| Places::of(fields).map(Found::Places))?;
        Some(Self { kind, fields, found })
    }

    /// The fields of a record that is a ledger's row.
    ///
    /// # Errors
    /// As [`read::Exit::of`].
    pub fn exit(&self) -> Result<read::Exit<'a>, &'static str> {
        if let Found::Exit(exit) = self.found { Ok(exit) } else { read::Exit::of(self) }
    }

    /// The fields of a record that is one key of such a row.
    ///
    /// # Errors
    /// As [`read::Key::of`].
    pub fn key(&self) -> Result<read::Key<'a>, &'static str> {
        if let Found::Key(key) = self.found { Ok(key) } else { read::Key::of(self) }
    }

    /// Keys and raw values, in order.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let (fields, mut start) = (self.fields, 0);
        core::iter::from_fn(move || {
            let place = field_at(fields.as_bytes(), start)?;
            let (equals, end) = (usize::from(place.equals), usize::from(place.end));
            let field = (fields.get(start..equals)?, fields.get(equals + 1..end)?);
            start = end + 1;
            Some(field)
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

/// A number, decimal or hexadecimal. The standard library's readers would take a sign, which no writer writes.
#[inline]
fn number(raw: &str) -> Option<u64> {
    match raw.as_bytes() {
        [b'0', b'x', digits @ ..] => hexadecimal(digits),
        digits => decimal(digits),
    }
}

#[inline]
fn decimal(digits: &[u8]) -> Option<u64> {
    /// Digits that can't be beyond 64 bits.
    const SAFE: usize = 19;
    let (safe, rest) = digits.split_at(digits.len().min(SAFE));
    let mut number = 0;
    for &digit in safe {
        number = 10 * number + u64::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    for &digit in rest {
        let value = digit.is_ascii_digit().then(|| digit - b'0')?;
        number = number.checked_mul(10)?.checked_add(value.into())?;
    }
    (!digits.is_empty()).then_some(number)
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    let mut number: u64 = 0;
    for &digit in digits {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            b'A'..=b'F' => digit - b'A' + 10,
            _ => return None,
        };
        if number >> 60 != 0 {
            return None;
        }
        number = number << 4 | u64::from(value);
    }
    (!digits.is_empty()).then_some(number)
}

/// A reader of several fields of one record: in most records they come in the order in which they are asked for.
#[derive(Debug)]
pub struct Index<'r, 'a> {
    record: &'r Record<'a>,
    places: &'r [Place],
    /// The number of the field that was found last.
    last: Cell<usize>,
}

impl<'r, 'a> Index<'r, 'a> {
    /// The fields of a record.
    #[inline]
    pub fn of(record: &'r Record<'a>) -> Self {
        let places =
            if let Found::Places(Places { places, placed }) = &record.found { &places[..*placed] } else { &[] };
        Self { record, places, last: Cell::new(0) }
    }

    /// The raw value of the first field `key`; no writer writes a key twice. The key is known where this is inlined, which makes it
    /// quick.
    #[inline(always)]
    pub fn raw(&self, key: &str) -> Option<&'a str> {
        let last = self.last.get();
        if self.has(last, key) {
            return self.value(last);
        }
        if self.has(last + 1, key) {
            return self.value(last + 1);
        }
        self.search(key)
    }

    /// Whether the field with this number has this key.
    #[inline(always)]
    fn has(&self, at: usize, key: &str) -> bool {
        let Some(equals) = self.places.get(at).map(|place| usize::from(place.equals)) else { return false };
        let start = if at == 0 { 0 } else { usize::from(self.places[at - 1].end) + 1 };
        let fields = self.record.fields.as_bytes();
        equals - start == key.len() && fields.get(start..start + key.len()) == Some(key.as_bytes())
    }

    #[inline(always)]
    fn value(&self, at: usize) -> Option<&'a str> {
        self.last.set(at);
        let place = self.places.get(at)?;
        self.record.fields.get(usize::from(place.equals) + 1..usize::from(place.end))
    }

    #[inline(never)]
    fn search(&self, key: &str) -> Option<&'a str> {
        match (0..self.places.len()).find(|&at| self.has(at, key)) {
            Some(at) => self.value(at),
            None if (1..MOST_PLACES).contains(&self.places.len()) => None,
            None => self.record.raw(key),
        }
    }

    /// A number, decimal or hexadecimal. `None` if absent, malformed, or beyond 64 bits.
    #[inline(always)]
    pub fn number(&self, key: &str) -> Option<u64> {
        number(self.raw(key)?)
    }

    /// A word or quoted text. Displays without quotes and escapes.
    #[inline(always)]
    pub fn text(&self, key: &str) -> Option<Text<'a>> {
        self.raw(key).map(Text::of)
    }
}

/// A text value, still escaped; [`fmt::Display`] undoes the escapes (each byte is one Latin-1 character).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    #[inline]
    fn of(raw: &'a str) -> Self {
        Text(raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(raw))
    }

    /// The text as one string slice, if nothing in it was escaped.
    #[inline]
    pub fn as_plain(&self) -> Option<&'a str> {
        (!self.0.bytes().any(|byte| byte == b'\\')).then_some(self.0)
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

    /// Fields of a ledger's row, in the order of the table or nearly so, in forms that a writer uses and others.
    fn fields() -> impl Strategy<Value = String> {
        let numbers = ["0", "7", "007", "0x1f", "+5", "18446744073709551615", "18446744073709551616", "1 ", "", "x"];
        let number = || proptest::sample::select(numbers.to_vec());
        let texts = ["\"CPUID\"", "\"a \\\" b\"", "\"\"", "bare", "\"torn"];
        let words = ["enabled", "\"quoted\"", "", "two words"];
        let lists = ["", "6:1,7:2", "64:1", "6"];
        let (text, word) = (proptest::sample::select(texts.to_vec()), proptest::sample::select(words.to_vec()));
        let list = proptest::option::of(proptest::sample::select(lists.to_vec()));
        let all = (proptest::collection::vec(number(), 6), text, word, list, proptest::option::of(number()));
        (all, 0usize..30, 0usize..30).prop_map(|((numbers, text, word, list, looks), left, right)| {
            let mut fields = std::vec![
                std::format!("vcpu={}", numbers[0]),
                std::format!("reason={}", numbers[1]),
                std::format!("name={text}"),
                std::format!("status={word}"),
            ];
            let more = ["count", "cycles", "min", "max"];
            fields.extend(more.iter().zip(&numbers[2..]).map(|(key, number)| std::format!("{key}={number}")));
            fields.extend(list.map(|list| std::format!("histogram={list}")));
            fields.extend(looks.map(|looks| std::format!("looks={looks}")));
            if left < fields.len() && right < fields.len() {
                fields.swap(left, right);
            }
            fields.join(" ")
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn fields_that_are_read_at_once_are_those_that_are_read_with_care(fields in fields()) {
            let places = Places::of(&fields);
            let careful = places.map(|places| Record { kind: Kind::Exit, fields: &fields, found: Found::Places(places) });
            let careful = careful.map(|record| read::Exit::of(&record).map(|read| std::format!("{read:?}")));
            let record = Record::of(Kind::Exit, &fields);
            let either = record.map(|record| record.exit().map(|read| std::format!("{read:?}")));
            prop_assert_eq!(either, careful);
        }
    }

    #[test]
    fn fields_as_they_are_written_are_read_at_once() {
        let row = "vcpu=0 reason=10 name=\"CPUID\" status=enabled count=4096 cycles=331776 min=81 max=81";
        for (more, is_written) in [("", true), (" histogram=6:4096", true), (" looks=1 histogram=6:1", false)] {
            let record = Record::of(Kind::Exit, &[row, more].concat()).is_some();
            assert_eq!((read::Exit::written(&[row, more].concat()).is_some(), record), (is_written, true), "{more}");
        }
        let key = "vcpu=0 reason=10 key=0x0 name=\"leaf 0x0\" count=5 cycles=350";
        assert!(read::Key::written(key).is_some());
        assert!(read::Key::written(&key.replace("0x0 ", "0 ")).is_none());
        let record = Record::of(Kind::Key, "vcpu=0 reason=10 key=0 name=\"leaf\" count=5 cycles=350").unwrap();
        assert_eq!(record.key().unwrap().key, Some(0));
        assert_eq!(record.raw("cycles"), Some("350"));
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
