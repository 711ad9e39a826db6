//! The trace's coding: exits of one vCPU, packed into the text of `trace` records.
//!
//! A record's exits are a sequence of LEB128 numbers, in base64 without padding. Each exit has five: TSC ticks since the exit
//! before (for the first, since the record's `tsc`), the basic exit reason, cycles, RIP less that of the exit before (zigzag; for
//! the first, less 0), exit qualification. So each record is read by itself.

use core::fmt;

/// One exit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The time stamp taken right after the exit.
    pub tsc: u64,
    /// The number of its ledger row: the basic exit reason, or one past the newest for unknown numbers.
    pub reason: u16,
    /// TSC ticks that the exit took, as the ledger has them.
    pub cycles: u64,
    /// The guest's address.
    pub rip: u64,
    /// The exit qualification; under SVM, EXITINFO1 or what stands for it.
    pub qualification: u64,
}

/// Bytes of one number, at most.
const NUMBER_BYTES: usize = 10;
/// Bytes of one event, at most.
const EVENT_BYTES: usize = 5 * NUMBER_BYTES;
/// Bytes of a batch. As base64 and with the record's other fields they fit a line.
const BATCH_BYTES: usize = 2880;
const _: () = assert!(BATCH_BYTES / 3 * 4 + 200 < crate::record::MAX_LINE_BYTES);

/// Exits on their way into one record. It displays as the record's `data`.
#[derive(Clone, Debug)]
pub struct Batch {
    bytes: [u8; BATCH_BYTES],
    length: usize,
    /// The number of exits in the record.
    pub exits: u64,
    /// The record's `tsc`: the time stamp of its first exit.
    pub tsc: u64,
    last: Event,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// An empty batch.
    pub const fn new() -> Self {
        let last = Event { tsc: 0, reason: 0, cycles: 0, rip: 0, qualification: 0 };
        Self { bytes: [0; BATCH_BYTES], length: 0, exits: 0, tsc: 0, last }
    }

    /// True if another exit may not fit.
    pub fn is_full(&self) -> bool {
        self.length + EVENT_BYTES > BATCH_BYTES
    }

    /// Adds an exit. If the batch is full, nothing is added.
    pub fn push(&mut self, event: Event) {
        if self.is_full() {
            return;
        }
        if self.exits == 0 {
            self.tsc = event.tsc;
            self.last = Event { tsc: event.tsc, ..Event::default() };
        }
        let rip = event.rip.wrapping_sub(self.last.rip) as i64;
        let zigzag = (rip << 1 ^ rip >> 63) as u64;
        let ticks = event.tsc.wrapping_sub(self.last.tsc);
        for number in [ticks, event.reason.into(), event.cycles, zigzag, event.qualification] {
            self.number(number);
        }
        self.exits += 1;
        self.last = event;
    }

    fn number(&mut self, mut number: u64) {
        while number > 0x7f {
            self.byte(number as u8 | 0x80);
            number >>= 7;
        }
        self.byte(number as u8);
    }

    fn byte(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    /// Empties the record.
    pub fn clear(&mut self) {
        (self.length, self.exits) = (0, 0);
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.bytes[..self.length].chunks(3) {
            let mut word = [0; 4];
            word[1..=chunk.len()].copy_from_slice(chunk);
            let word = u32::from_be_bytes(word);
            let digit = |at: usize| ALPHABET[(word >> (18 - 6 * at)) as usize & 63];
            let text = [digit(0), digit(1), digit(2), digit(3)];
            f.write_str(core::str::from_utf8(&text[..=chunk.len()]).map_err(|_| fmt::Error)?)?;
        }
        Ok(())
    }
}

/// The value of a byte that is no digit.
const NONE: u8 = 0xff;
const DIGITS: [u8; 256] = {
    let (mut digits, mut at) = ([NONE; 256], 0);
    while at < ALPHABET.len() {
        digits[ALPHABET[at] as usize] = at as u8;
        at += 1;
    }
    digits
};

/// The exits of one record, from its `tsc` and `data`. Ends with an error if the data is not what [`Batch`] writes. The number of
/// exits is not checked; the record has it in `exits`.
#[derive(Clone, Debug)]
pub struct Events<'a> {
    digits: core::slice::Iter<'a, u8>,
    bits: u32,
    have: u32,
    last: Event,
    failed: bool,
}

/// The data of a record is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl<'a> Events<'a> {
    /// The exits of a record with this `tsc` and `data`.
    pub fn new(tsc: u64, data: &'a str) -> Self {
        let last = Event { tsc, ..Event::default() };
        Self { digits: data.as_bytes().iter(), bits: 0, have: 0, last, failed: false }
    }

    /// The next byte; `None` at the end.
    #[inline]
    fn byte(&mut self) -> Result<Option<u8>, Malformed> {
        while self.have < 8 {
            let Some(&digit) = self.digits.next() else {
                // The rest of the last digit is padding.
                return if self.have < 6 && self.bits & ((1 << self.have) - 1) == 0 {
                    Ok(None)
                } else {
                    Err(Malformed)
                };
            };
            let digit = DIGITS[usize::from(digit)];
            if digit == NONE {
                return Err(Malformed);
            }
            self.bits = self.bits << 6 | u32::from(digit);
            self.have += 6;
        }
        self.have -= 8;
        Ok(Some((self.bits >> self.have) as u8))
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        let first = self.byte()?.ok_or(Malformed)?;
        self.number_from(first)
    }

    #[inline]
    fn number_from(&mut self, first: u8) -> Result<u64, Malformed> {
        let (mut number, mut shift, mut byte) = (u64::from(first & 0x7f), 7, first);
        while byte & 0x80 != 0 {
            byte = self.byte()?.ok_or(Malformed)?;
            let part = u64::from(byte & 0x7f);
            if shift > 63 || part << shift >> shift != part {
                return Err(Malformed);
            }
            number |= part << shift;
            shift += 7;
        }
        Ok(number)
    }

    fn event(&mut self) -> Result<Option<Event>, Malformed> {
        let Some(first) = self.byte()? else { return Ok(None) };
        let tsc = self.last.tsc.wrapping_add(self.number_from(first)?);
        let reason = u16::try_from(self.number()?).map_err(|_| Malformed)?;
        let cycles = self.number()?;
        let zigzag = self.number()?;
        let rip = self.last.rip.wrapping_add(zigzag >> 1 ^ (zigzag & 1).wrapping_neg());
        self.last = Event { tsc, reason, cycles, rip, qualification: self.number()? };
        Ok(Some(self.last))
    }
}

impl Iterator for Events<'_> {
    type Item = Result<Event, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let event = self.event();
        self.failed = event.is_err();
        event.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::{String, ToString};
    use std::vec::Vec;

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = (any::<u64>(), any::<u16>(), any::<u64>(), any::<u64>(), any::<u64>())
            .prop_map(|(tsc, reason, cycles, rip, qualification)| Event { tsc, reason, cycles, rip, qualification });
        proptest::collection::vec(event, 0..80)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(events in events()) {
            let (mut batch, mut read) = (Batch::new(), Vec::new());
            let flush = |batch: &mut Batch, read: &mut Vec<Event>| {
                let data = batch.to_string();
                let back: Result<Vec<Event>, Malformed> = Events::new(batch.tsc, &data).collect();
                let back = back.unwrap();
                assert_eq!(back.len() as u64, batch.exits);
                read.extend(back);
                batch.clear();
            };
            for &event in &events {
                if batch.is_full() {
                    flush(&mut batch, &mut read);
                }
                batch.push(event);
            }
            flush(&mut batch, &mut read);
            prop_assert_eq!(read, events);
        }

        #[test]
        fn any_text_is_read_without_panic(text in "[A-Za-z0-9+/ =~]{0,60}") {
            let _ = Events::new(u64::MAX, &text).count();
        }
    }

    #[test]
    fn what_is_cut_off_is_malformed() {
        let mut batch = Batch::new();
        batch.push(Event { tsc: 5, reason: 10, cycles: 300, rip: 0x20_0000, qualification: 1 });
        let whole = batch.to_string();
        assert_eq!(whole, "AAqsAoCAgAIB");
        let count = |text: &str| Events::new(5, text).filter(Result::is_ok).count();
        assert_eq!(count(&whole), 1);
        for end in 1..whole.len() {
            assert!(Events::new(5, &whole[..end]).any(|event| event.is_err()), "{end}");
        }
        let tenth: String = "////////////////".into();
        assert!(Events::new(0, &tenth).any(|event| event.is_err()), "a number beyond 64 bits");
    }

    #[test]
    fn a_full_batch_fits_a_line() {
        let mut batch = Batch::new();
        while !batch.is_full() {
            batch.push(Event {
                tsc: batch.exits << 50,
                reason: 0xffff,
                cycles: u64::MAX,
                rip: batch.exits << 60,
                qualification: u64::MAX,
            });
        }
        let before = batch.exits;
        batch.push(Event::default());
        assert_eq!(batch.exits, before);
        assert!(batch.to_string().len() + 200 < crate::record::MAX_LINE_BYTES);
    }
}
