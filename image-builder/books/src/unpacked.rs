//! The exits of `trace` records, unpacked. Ten million of them are unpacked in a moment, twice: when a log is read, and once more when
//! they are written in another form.

use base64::Engine;
use base64::engine::Simd;
use base64::engine::general_purpose::NO_PAD;
use tollgate_abi::trace::{Event, Malformed};

/// Unpacks records one after the other.
#[derive(Debug)]
pub(crate) struct Unpacker {
    engine: Simd,
    /// Room for the bytes of one record.
    bytes: Vec<u8>,
}

impl Default for Unpacker {
    fn default() -> Self {
        Self { engine: Simd::standard(NO_PAD), bytes: Vec::new() }
    }
}

impl Unpacker {
    /// The exits of a record with this `tsc` and `data`, as [`tollgate_abi::trace::Events`] has them.
    ///
    /// # Errors
    /// The data is no base64.
    pub(crate) fn unpack(&mut self, tsc: u64, data: &[u8]) -> Result<Unpacked<'_>, Malformed> {
        let room = base64::decoded_len_estimate(data.len());
        if self.bytes.len() < room {
            self.bytes.resize(room, 0);
        }
        let length = self.engine.decode_slice(data, &mut self.bytes).map_err(|_| Malformed)?;
        Ok(Unpacked { last: Event { tsc, ..Event::default() }, bytes: &self.bytes[..length] })
    }
}

/// The exits of one record. Ends behind an error.
#[derive(Debug)]
pub(crate) struct Unpacked<'a> {
    /// The exit in front of the next.
    last: Event,
    bytes: &'a [u8],
}

impl Unpacked<'_> {
    #[inline(always)]
    fn byte(&mut self) -> Result<u8, Malformed> {
        let (&byte, rest) = self.bytes.split_first().ok_or(Malformed)?;
        self.bytes = rest;
        Ok(byte)
    }

    /// The next number. Most have one byte or two.
    #[inline(always)]
    fn number(&mut self) -> Result<u64, Malformed> {
        match *self.bytes {
            [first, ref rest @ ..] if first < 0x80 => {
                self.bytes = rest;
                Ok(first.into())
            }
            [first, second, ref rest @ ..] if second < 0x80 => {
                self.bytes = rest;
                Ok(u64::from(first & 0x7f) | u64::from(second) << 7)
            }
            _ => self.longer(),
        }
    }

    #[inline]
    fn longer(&mut self) -> Result<u64, Malformed> {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift > 56 && (shift > 63 || part << shift >> shift != part) {
                return Err(Malformed);
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
            shift += 7;
        }
    }

    #[inline(always)]
    fn event(&mut self) -> Result<Event, Malformed> {
        let tsc = self.last.tsc.wrapping_add(self.number()?);
        let reason = u16::try_from(self.number()?).map_err(|_| Malformed)?;
        let cycles = self.number()?;
        let zigzag = self.number()?;
        let rip = self.last.rip.wrapping_add(zigzag >> 1 ^ (zigzag & 1).wrapping_neg());
        self.last = Event { tsc, reason, cycles, rip, qualification: self.number()? };
        Ok(self.last)
    }
}

impl Iterator for Unpacked<'_> {
    type Item = Result<Event, Malformed>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let event = self.event();
        if event.is_err() {
            self.bytes = &[];
        }
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tollgate_abi::trace::{Batch, Events};

    /// Both readers' words for some data.
    fn both(tsc: u64, data: &str) -> [Result<Vec<Event>, Malformed>; 2] {
        let mut unpacker = Unpacker::default();
        [unpacker.unpack(tsc, data.as_bytes()).and_then(Iterator::collect), Events::new(tsc, data).collect()]
    }

    proptest! {
        #[test]
        fn exits_are_those_that_the_contract_has(
            events in proptest::collection::vec((any::<u64>(), any::<u16>(), any::<u64>(), any::<u64>(), any::<u64>()), 0..50),
            cut in 0usize..4000,
        ) {
            let mut batch = Batch::new();
            for (tsc, reason, cycles, rip, qualification) in events {
                batch.push(Event { tsc, reason, cycles, rip, qualification });
            }
            let data = batch.to_string();
            let [ours, contract] = both(batch.tsc, &data);
            prop_assert_eq!(ours.as_ref().map(Vec::len), Ok(batch.exits as usize));
            prop_assert_eq!(ours, contract);
            let [ours, contract] = both(batch.tsc, &data[..cut.min(data.len())]);
            prop_assert_eq!(ours, contract);
        }

        #[test]
        fn damage_is_found_as_the_contract_finds_it(text in "[A-Za-z0-9+/]{0,40}[A-Za-z0-9+/ =~]{0,3}") {
            let [ours, contract] = both(u64::MAX, &text);
            prop_assert_eq!(ours, contract);
        }
    }

    #[test]
    fn numbers_beyond_64_bits_and_reasons_beyond_16_are_malformed() {
        for text in ["////////////////", "gIAEAAAAAA", "gICAgICAgICAAgAAAAA", "gICAgICAgICAAQAAAAA"] {
            let [ours, contract] = both(0, text);
            assert_eq!(ours, contract, "{text}");
        }
        assert_eq!(both(0, "gICAgICAgICAAgAAAAA")[0], Err(Malformed));
        assert!(both(0, "gICAgICAgICAAQAAAAA")[0].is_ok(), "2^63");
    }
}
