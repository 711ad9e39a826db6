//! The memory functions against the plainest way to say the same, over every length and place that a string instruction could get wrong.
#![expect(unsafe_code, reason = "calls functions that take pointers")]

use bare_rt::{bcmp, memcmp, memcpy, memmove, memset, strlen};

/// More than two words and a rest.
const MOST: usize = 27;
const ROOM: usize = 64;

/// Bytes of which no two near each other are equal.
fn bytes(first: u8) -> [u8; ROOM] {
    std::array::from_fn(|at| first.wrapping_add((at * 7) as u8))
}

#[test]
fn copies_take_so_many_bytes_and_no_more() {
    let from = bytes(1);
    for length in 0..=MOST {
        for start in 0..9 {
            for target in 0..9 {
                let (mut found, mut expected) = (bytes(0x80), bytes(0x80));
                expected[target..target + length].copy_from_slice(&from[start..start + length]);
                let to = found[target..].as_mut_ptr();
                // SAFETY: both arrays have that many bytes behind these places, and are two.
                let returned = unsafe { memcpy(to, from[start..].as_ptr(), length) };
                assert_eq!((returned, found), (to, expected), "{length} bytes from {start} to {target}");
            }
        }
    }
}

#[test]
fn moves_may_overlap_in_either_direction() {
    for length in 0..=MOST {
        for start in 0..ROOM - MOST {
            for target in 0..ROOM - MOST {
                let (mut found, mut expected) = (bytes(3), bytes(3));
                expected.copy_within(start..start + length, target);
                let base = found.as_mut_ptr();
                // SAFETY: the array has that many bytes behind both places.
                let returned = unsafe { memmove(base.add(target), base.add(start), length) };
                assert_eq!(returned.addr() - base.addr(), target);
                assert_eq!(found, expected, "{length} bytes from {start} to {target}");
            }
        }
    }
}

#[test]
fn fills_take_the_low_byte() {
    for length in 0..=MOST {
        for target in 0..9 {
            for byte in [0, 0x5a, 0xff, 0x1234, -2] {
                let (mut found, mut expected) = (bytes(9), bytes(9));
                expected[target..target + length].fill(byte as u8);
                let to = found[target..].as_mut_ptr();
                // SAFETY: the array has that many bytes behind this place.
                let returned = unsafe { memset(to, byte, length) };
                assert_eq!((returned, found), (to, expected), "{length} bytes at {target} of {byte:#x}");
            }
        }
    }
}

#[test]
fn comparisons_are_of_unsigned_bytes_and_end_at_the_length() {
    let a = bytes(0);
    for length in 0..=MOST {
        for differs in 0..=MOST {
            for by in [1, 0x7f, 0x80, 0xff] {
                let mut b = a;
                b[differs] = b[differs].wrapping_add(by);
                // SAFETY: both arrays have that many bytes.
                let found = unsafe { (memcmp(a.as_ptr(), b.as_ptr(), length), bcmp(a.as_ptr(), b.as_ptr(), length)) };
                let expected = a[..length].cmp(&b[..length]) as i32;
                assert_eq!((found.0.signum(), found.1 == 0), (expected, expected == 0), "{length} {differs} {by:#x}");
            }
        }
    }
}

#[test]
fn a_string_ends_at_its_first_zero() {
    for length in 0..=MOST {
        let mut string = [0xffu8; ROOM];
        (string[length], string[length + 3]) = (0, 0);
        // SAFETY: the string ends in the array.
        assert_eq!(unsafe { strlen(string.as_ptr()) }, length);
    }
}
