//! The ends of texts that are waited for: whether the bytes that were sent last may complete one of them. The serial port asks for
//! each byte, within an exit, so that it is a few instructions without a branch; [`crate::marks`] then looks at the whole text.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A mask of up to eight last bytes of a text, and these, the last one lowest, plus 1: so an empty place is all zero.
#[derive(Debug)]
struct Tail {
    mask: AtomicU64,
    bytes_plus_1: AtomicU64,
}

/// The mask and the bytes plus 1 that nothing ends with.
const NOTHING: (u64, u64) = (0, 0);
/// Those that anything ends with.
const ANYTHING: (u64, u64) = (0, 1);

/// The last bytes that were sent, and the ends of the texts.
#[derive(Debug)]
pub(super) struct Tails {
    recent: AtomicU64,
    /// The end of a text by its [`digest`]. Where two would stand in one place, anything is taken for an end.
    tails: [Tail; 64],
}

impl Tails {
    /// The ends of no text.
    pub(super) const fn new() -> Self {
        let tails = [const { Tail { mask: AtomicU64::new(NOTHING.0), bytes_plus_1: AtomicU64::new(NOTHING.1) } }; 64];
        Self { recent: AtomicU64::new(0), tails }
    }

    /// Waits for a text, too. Before the guest runs.
    pub(super) fn wait_for(&self, text: impl Iterator<Item = u8>) {
        let (mask, bytes) = text.fold((0, 0), |(mask, bytes), byte| (mask << 8 | 0xff, bytes << 8 | u64::from(byte)));
        let end = (mask, bytes + 1);
        // In front of a single byte there may be any other.
        let has_place = |at: usize| at == digest(bytes) || mask == 0xff;
        for (_, tail) in self.tails.iter().enumerate().filter(|&(at, _)| has_place(at)) {
            let known = (tail.mask.load(Relaxed), tail.bytes_plus_1.load(Relaxed));
            let (mask, bytes_plus_1) = if known == NOTHING || known == end { end } else { ANYTHING };
            tail.mask.store(mask, Relaxed);
            tail.bytes_plus_1.store(bytes_plus_1, Relaxed);
        }
    }

    /// Takes a byte that is sent; true if it may be a text's last.
    #[inline(always)]
    pub(super) fn take(&self, byte: u8) -> bool {
        let recent = self.recent.load(Relaxed) << 8 | u64::from(byte);
        self.recent.store(recent, Relaxed);
        let tail = &self.tails[digest(recent)];
        (recent & tail.mask.load(Relaxed)).wrapping_add(1) == tail.bytes_plus_1.load(Relaxed)
    }
}

/// Six bits of the last two bytes.
#[inline(always)]
fn digest(bytes: u64) -> usize {
    ((bytes ^ bytes >> 5) & 63) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn ends(texts: &[&[u8]], sent: &[u8]) -> Vec<usize> {
        let tails = Tails::new();
        texts.iter().for_each(|text| tails.wait_for(text.iter().copied()));
        (0..sent.len()).filter(|&at| tails.take(sent[at])).collect()
    }

    #[test]
    fn the_last_eight_bytes_tell() {
        assert_eq!(ends(&[b"Memory: ", b"b"], b"abc Memory: \nbMemory: "), [1, 11, 13, 21]);
        assert_eq!(ends(&[b"Linux version"], b"Linux version, XXXXX version, reversion"), [12, 27]);
        assert_eq!(ends(&[], b"abc"), []);
        assert_eq!(ends(&[b"ab", b"ab"], b"xabb"), [2], "the same end twice");
        assert_eq!(ends(&[b"n"], b"kennen"), [2, 3, 5]);
    }

    proptest! {
        #[test]
        fn no_end_is_missed(texts in proptest::collection::vec("[ab]{1,12}", 0..5), sent in "[ab]{0,40}") {
            let texts: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
            let found = ends(&texts, sent.as_bytes());
            for at in 0..sent.len() {
                let is_end = texts.iter().any(|text| sent.as_bytes()[..=at].ends_with(text));
                prop_assert!(!is_end || found.contains(&at));
            }
        }
    }
}
