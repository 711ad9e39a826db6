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

/// A stream, inflated to so many bytes, or refused.
fn inflated(stream: &[u8], bytes: usize) -> Option<Vec<u8>> {
    let mut place = [&FENCE[..], &vec![0xa5; bytes], &FENCE[..]].concat();
    let read = [stream, &[0xee; BEHIND_BYTES as usize]].concat();
    let mut tables = [vec![0xa5; TABLES_BYTES as usize], FENCE.to_vec()].concat();
    let to = place[FENCE.len()..].as_mut_ptr();
    // SAFETY: the place and the tables are as long, and `BEHIND_BYTES` are behind the stream.
    let whole =
        unsafe { inflate64(to, read.as_ptr(), to.add(bytes), read.as_ptr().add(stream.len()), tables.as_mut_ptr()) };
    assert_eq!((&place[..FENCE.len()], &place[FENCE.len() + bytes..]), (&FENCE[..], &FENCE[..]));
    assert_eq!(&tables[TABLES_BYTES as usize..], FENCE);
    match whole {
        1 => Some(place[FENCE.len()..][..bytes].to_vec()),
        _ => None,
    }
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
        (vec![7], 0),                               // a kind that is none
        (vec![1, 1, 0, 1, 0, 7], 1),                // a length without its complement
        (vec![1, 2, 0, 0xfd, 0xff, 7], 2),          // fewer bytes than it says
        (vec![1, 2, 0, 0xfd, 0xff, 7, 7], 1),       // more than there is room for
        (block(&[a, a]), 1),                        // as before, of a symbol
        (block(&[a, match_of_3, back_1]), 3),       // as before, of a match
        (block(&[a]), 2),                           // fewer than there is room for
        (block(&[match_of_3, back_1]), 3),          // a match of nothing
        (block(&[a, match_of_3, (1 << 4, 5)]), 4),  // a match before the beginning
        (block(&[a, (0x63, 8)]), 1),                // the length that has no meaning
        (block(&[a, match_of_3, (0b01111, 5)]), 4), // the distance that has none
        ([&block(&[a])[..], &[0]].concat(), 1),     // bytes behind the end
        (block(&[a])[..1].to_vec(), 1),             // an end that is missing
    ] {
        assert_eq!(inflated(&stream, bytes), None, "{stream:x?}");
    }
}

/// A block of codes of its own: the length of the code of each of these symbols for lengths, and then symbols of that code.
fn own_codes(lengths: [(usize, u32); 4], rest: &[(u32, u32)]) -> Vec<u8> {
    let length = |symbol: &u8| lengths.iter().find(|row| row.0 == usize::from(*symbol)).map_or(0, |row| row.1);
    let lengths: Vec<_> = ORDER.iter().map(|symbol| (length(symbol), 3)).collect();
    bits(&[&[(1, 1), (2, 2), (0, 5), (0, 5), (15, 4)][..], &lengths, rest].concat())
}

#[test]
fn codes_that_contradict_themselves_are_refused() {
    // Of these codes 1 is 00, 16 is 01, 17 is 10, 18 is 11; bits of a code come first bit first.
    const CODES: [(usize, u32); 4] = [(1, 2), (16, 2), (17, 2), (18, 2)];
    let [one, same, none, many] = [(0, 2), (2, 2), (1, 2), (3, 2)];
    // 'a' is the first symbol of one bit, the end the second; 97 symbols before it, 158 between them, one distance.
    let lengths = [many, (97 - 11, 7), one, many, (127, 7), many, (158 - 138 - 11, 7), one, one];
    assert_eq!(inflated(&own_codes(CODES, &[&lengths[..], &[(0, 1), (1, 1)]].concat()), 1).unwrap(), b"a");
    for (codes, rest) in [
        (CODES, vec![same, (0, 2)]), // as the length before, and there is none
        (CODES, [&[many, (127, 7)][..], &[many, (127, 7)]].concat()), // more lengths than symbols
        ([(1, 1), (16, 1), (17, 1), (18, 1)], vec![(0, 8)]), // four codes of one bit
        (CODES, vec![one, one, one, none, (0, 3), many, (127, 7), many, (99, 7), one, (0, 8)]), // as before, of bytes
        ([(1, 3), (16, 3), (17, 3), (18, 3)], vec![(7, 3), (0, 8)]), // a code that is none
    ] {
        assert_eq!(inflated(&own_codes(codes, &rest), 1), None, "{rest:?}");
    }
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
