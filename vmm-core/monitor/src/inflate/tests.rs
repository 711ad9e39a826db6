//! The decoder of the boot block, called on the host: against another reader, with fences around all that it may write.

use super::*;
use flate2::{Compression, Decompress, FlushDecompress, Status, write::DeflateEncoder};
use proptest::prelude::*;
use std::io::Write;

unsafe extern "sysv64" {
    fn inflate64(to: *mut u8, stream: *const u8, to_end: *mut u8, stream_end: *const u8, tables: *mut u8) -> u32;
}

/// Bytes before and behind a place, which nothing may write to.
const FENCE: [u8; 64] = [0x5a; 64];
/// As many before the tables. They would be taken for lengths of codes.
const NO_LENGTHS: [u8; 64] = [0; 64];
/// A byte of the place that was not written.
const UNTOUCHED: u8 = 0xa5;

/// Inflates a stream with other bytes behind it, to so many bytes; returns whether it is whole, and the place.
fn tried(stream: &[u8], behind: &[u8], bytes: usize) -> (bool, Vec<u8>) {
    let mut place = [&FENCE[..], &vec![UNTOUCHED; bytes], &FENCE[..]].concat();
    let read = [stream, behind].concat();
    let mut tables = [&NO_LENGTHS[..], &vec![0xa5; TABLES_BYTES as usize], &FENCE[..]].concat();
    let (to, scratch) = (place[FENCE.len()..].as_mut_ptr(), tables[NO_LENGTHS.len()..].as_mut_ptr());
    assert!(behind.len() >= BEHIND_BYTES as usize);
    // SAFETY: the place and the tables are as long, and `BEHIND_BYTES` are behind the stream.
    let whole = unsafe { inflate64(to, read.as_ptr(), to.add(bytes), read.as_ptr().add(stream.len()), scratch) };
    assert_eq!((&place[..FENCE.len()], &place[FENCE.len() + bytes..]), (&FENCE[..], &FENCE[..]));
    assert_eq!(
        (&tables[..NO_LENGTHS.len()], &tables[NO_LENGTHS.len() + TABLES_BYTES as usize..]),
        (&NO_LENGTHS[..], &FENCE[..])
    );
    (whole == 1, place[FENCE.len()..][..bytes].to_vec())
}

/// A stream, inflated to so many bytes, or refused.
fn inflated(stream: &[u8], bytes: usize) -> Option<Vec<u8>> {
    let (whole, place) = tried(stream, &[0xee; BEHIND_BYTES as usize], bytes);
    whole.then_some(place)
}

fn deflated(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A stream as another reader has it, if it takes all of it.
fn read_by_another(stream: &[u8], bytes: usize) -> Option<Vec<u8>> {
    let (mut reader, mut place) = (Decompress::new(false), vec![0; bytes]);
    let status = reader.decompress(stream, &mut place, FlushDecompress::Finish);
    let whole = matches!(status, Ok(Status::StreamEnd))
        && (reader.total_in(), reader.total_out()) == (stream.len() as u64, bytes as u64);
    whole.then_some(place)
}

/// A stream's bits, first bit first: numbers of so many bits.
fn bits(numbers: &[(u32, u32)]) -> Vec<u8> {
    let all = numbers.iter().flat_map(|&(number, bits)| (0..bits).map(move |bit| number >> bit & 1));
    let all: Vec<_> = all.collect();
    all.chunks(8).map(|bits| bits.iter().rev().fold(0, |byte, &bit| byte << 1 | bit as u8)).collect()
}

#[test]
fn each_kind_of_block_is_inflated() {
    let words = b"a rose is a rose is a rose";
    let stored = [&[1][..], &26u16.to_le_bytes(), &(!26u16).to_le_bytes(), words].concat();
    assert_eq!(inflated(&stored, words.len()).unwrap(), words);
    assert_eq!(deflated(words, 9)[0] >> 1 & 3, 1, "fixed codes");
    assert_eq!(inflated(&deflated(words, 9), words.len()).unwrap(), words);
    let many: Vec<u8> = (0..200_000_u32).map(|at| (at.wrapping_mul(at) >> 9) as u8 & 63).collect();
    assert_eq!(deflated(&many, 9)[0] >> 1 & 3, 2, "codes of its own");
    assert!(inflated(&deflated(&many, 9), many.len()).unwrap() == many);
    // The longest match there is, of the byte before, and one that is as far back as there is.
    let far = [&[7][..], &[0; 32767], &[7, 0, 0, 0, 0]].concat();
    assert!(inflated(&deflated(&far, 9), far.len()).unwrap() == far);
    assert_eq!(inflated(&[3, 0], 0), Some(vec![]));
}

/// Bytes that are no stream, or that do not end where they should, each by a rule of its own.
#[test]
fn each_rule_is_kept() {
    const END: (u32, u32) = (0, 7);
    // Fixed codes come last bit first: 'a' (0x61) is 0x91, the first length 0000001, distance 1 00000.
    let (a, match_of_3, back_1) = ((0x91_u32.reverse_bits() >> 24, 8), (0x40, 7), (0, 5));
    let fixed = [(1, 1), (1, 2)];
    let block = |symbols: &[(u32, u32)]| bits(&[&fixed[..], symbols, &[END]].concat());
    assert_eq!(inflated(&block(&[a, match_of_3, back_1]), 4).unwrap(), b"aaaa");
    for (stream, bytes) in [
        (vec![], 0),
        (vec![7], 0),                                       // a kind that is none
        (vec![1, 1, 0, 1, 0, 7], 1),                        // a length without its complement
        (vec![1, 2, 0, 0xfd, 0xff, 7], 2),                  // fewer bytes than it says
        (vec![1, 2, 0, 0xfd, 0xff, 7, 7], 1),               // more than there is room for
        (block(&[a, a]), 1),                                // as before, of a symbol
        (block(&[a, match_of_3, back_1]), 3),               // as before, of a match
        (block(&[a]), 2),                                   // fewer than there is room for
        (block(&[match_of_3, back_1]), 3),                  // a match of nothing
        (block(&[a, match_of_3, (1 << 4, 5)]), 4),          // a match before the beginning
        (block(&[a, (0x63, 8), back_1]), 1),                // a length that has no meaning
        (block(&[a, match_of_3, (0b01111, 5)]), 4),         // a distance that has none
        (block(&[a, match_of_3, (0b01111, 5), (0, 4)]), 5), // as before: the same bits are a byte, too
        ([&block(&[a])[..], &[0]].concat(), 1),             // bytes behind the end
        (block(&[a])[..1].to_vec(), 1),                     // an end that is missing
    ] {
        assert_eq!(inflated(&stream, bytes), None, "{stream:x?}");
    }
}

/// A block of codes of its own, of 257 symbols of bytes and lengths and some more: the length of the code of each of these symbols for
/// lengths, and then symbols of that code.
fn own_codes(more: u32, lengths: [(usize, u32); 4], rest: &[(u32, u32)]) -> Vec<u8> {
    let length = |symbol: &u8| lengths.iter().find(|row| row.0 == usize::from(*symbol)).map_or(0, |row| row.1);
    let lengths: Vec<_> = ORDER.iter().map(|symbol| (length(symbol), 3)).collect();
    bits(&[&[(1, 1), (2, 2), (more, 5), (0, 5), (15, 4)][..], &lengths, rest].concat())
}

#[test]
fn codes_that_contradict_themselves_are_refused() {
    // Of these codes 1 is 00, 16 is 01, 17 is 10, 18 is 11; bits of a code come first bit first.
    const CODES: [(usize, u32); 4] = [(1, 2), (16, 2), (17, 2), (18, 2)];
    let [one, same, none, many] = [(0, 2), (2, 2), (1, 2), (3, 2)];
    let none_of = |symbols: u32| match symbols {
        3..=10 => [none, (symbols - 3, 3)],
        _ => [many, (symbols - 11, 7)],
    };
    let body = [(0, 1), (1, 1)];
    // 'a' is the first symbol of one bit, the end the second: 97 symbols before it, 158 between them. There is one distance.
    let (before, between) = (none_of(97), [none_of(138), none_of(20)].concat());
    let lengths = [&before[..], &[one], &between, &[one]].concat();
    let check = |parts: &[&[(u32, u32)]], bytes| {
        assert_eq!(inflated(&own_codes(0, CODES, &parts.concat()), 1), bytes, "{parts:?}")
    };
    check(&[&lengths, &[one], &body], Some(b"a".to_vec()));
    // The first three as the length before, and there is none.
    check(&[&[same, (0, 2)], &none_of(94), &[one], &between, &[one, one], &body], None);
    // Three distances, where one was announced.
    check(&[&lengths, &none_of(3), &body], None);
    // A third code of one bit.
    check(&[&before, &[one, one], &none_of(138), &none_of(19), &[one, one], &[(1, 1), (0, 1)]], None);
    // No code at all for what follows, and a code that is none among the first.
    check(&[&none_of(138), &none_of(119), &[one], &body], None);
    // A match at a distance that has no code. With one of no bits the block would be whole.
    let with_two = [(1, 2), (2, 2), (17, 2), (18, 2)];
    let (two, a, end, of_3) = ((2, 2), (0, 1), (1, 2), (3, 2));
    let lengths = [&lengths[..lengths.len() - 1], &[two, two, one]].concat();
    let block = |body: &[(u32, u32)]| own_codes(1, with_two, &[&lengths, body].concat());
    assert_eq!(inflated(&block(&[a, of_3, (0, 1), end]), 4).unwrap(), b"aaaa");
    assert_eq!(inflated(&block(&[a, of_3, end]), 4), None);
    assert_eq!(inflated(&own_codes(0, [(1, 3), (16, 3), (17, 3), (18, 3)], &[(7, 3), (0, 8)]), 1), None);
}

/// The bytes behind a stream are not the caller's: at most [`BEHIND_BYTES`] of them are looked at.
#[test]
fn a_stream_that_ends_too_early_is_read_no_further() {
    let stored = [1, 0xe8, 3, 0x17, 0xfc, 7];
    assert_eq!(tried(&stored, &[0x11; 2000], 1000), (false, vec![UNTOUCHED; 1000]));
    // Each byte behind is a symbol, of fixed codes.
    let stream = bits(&[(1, 1), (1, 2), (0b1_0101_0101_0101, 13)]);
    let (whole, place) = tried(&stream, &[0x55; 2000], 1000);
    assert!(!whole && place[..2].iter().all(|&byte| byte != UNTOUCHED), "{place:x?}");
    assert!(place[stream.len() + BEHIND_BYTES as usize..].iter().all(|&byte| byte == UNTOUCHED), "{place:x?}");
}

proptest! {
    #[test]
    fn the_packers_streams_come_back(
        bytes in proptest::collection::vec(prop_oneof![Just(0u8), 0u8..4, any::<u8>()], 0..3000),
        times in 1..40usize,
        level in 0..=9u32,
    ) {
        let bytes = bytes.repeat(times);
        prop_assert!(inflated(&deflated(&bytes, level), bytes.len()) == Some(bytes));
    }

    /// A stream that another reader takes is taken, and gives the same bytes. Of those that the other refuses only
    /// codes that leave something out can be taken here.
    #[test]
    fn damage_writes_nothing_outside_and_is_read_as_by_another(
        bytes in proptest::collection::vec(prop_oneof![Just(0u8), 0u8..4, any::<u8>()], 1..600),
        level in 0..=9u32,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..3),
    ) {
        let mut stream = deflated(&bytes, level);
        for (at, byte) in &changes {
            let at = at.index(stream.len());
            stream[at] = *byte;
        }
        for bytes in [bytes.len(), bytes.len() / 2, bytes.len() + 1] {
            let (here, there) = (inflated(&stream, bytes), read_by_another(&stream, bytes));
            prop_assert!(there.is_none() || here == there);
        }
    }

    #[test]
    fn any_bytes_end(stream in proptest::collection::vec(any::<u8>(), 0..300), bytes in 0..500usize) {
        let (here, there) = (inflated(&stream, bytes), read_by_another(&stream, bytes));
        prop_assert!(there.is_none() || here == there);
    }
}
