//! Packing for a ROM ([`tollgate_abi::packed`]): the calls of a part are translated, and the part is deflated.
//!
//! The monitor and the built-in guest are packed with all effort when this tool is built; other guests at once.

use std::borrow::Cow;
use std::io::Write;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use tollgate_abi::packed::translate_calls;

use super::{GUEST_ELF, MONITOR_ELF};

/// A part that is packed already.
struct Ready {
    /// The file that it is in.
    elf: &'static [u8],
    /// Its offset there.
    offset: usize,
    /// The number of its bytes.
    bytes: usize,
    stream: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/packed.rs"));

/// A part of the ROM as it lies there, which is nothing if the part is.
pub(super) fn packed(part: &[u8]) -> Cow<'static, [u8]> {
    if part.is_empty() {
        return Cow::Borrowed(&[]);
    }
    let ready = READY.iter().find(|ready| ready.elf[ready.offset..][..ready.bytes] == *part);
    ready.map_or_else(|| Cow::Owned(deflated(part)), |ready| Cow::Borrowed(ready.stream))
}

fn deflated(part: &[u8]) -> Vec<u8> {
    let mut part = part.to_vec();
    translate_calls(&mut part);
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&part).and_then(|()| encoder.finish()).expect("a vector takes all that is written")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use flate2::bufread::DeflateDecoder;
    use proptest::prelude::*;
    use std::io::Read;
    use tollgate_abi::packed::restore_calls;

    /// A part, unpacked as the boot block does it.
    pub(in crate::image) fn unpacked(stream: &[u8]) -> Vec<u8> {
        let (mut part, mut rest) = (Vec::new(), stream);
        if !stream.is_empty() {
            DeflateDecoder::new(&mut rest).read_to_end(&mut part).unwrap();
        }
        assert!(rest.is_empty(), "bytes behind the stream");
        restore_calls(&mut part);
        part
    }

    #[test]
    fn monitor_and_built_in_guest_are_ready_and_shorter_than_they_would_be() {
        assert_eq!(READY.iter().filter(|ready| ready.elf == MONITOR_ELF).count(), 1);
        assert!(READY.iter().any(|ready| ready.elf == GUEST_ELF));
        for ready in READY {
            let part = &ready.elf[ready.offset..][..ready.bytes];
            assert_eq!(packed(part).as_ptr(), ready.stream.as_ptr());
            assert!(unpacked(ready.stream) == part);
            assert!(ready.stream.len() <= deflated(part).len(), "{} bytes", part.len());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn every_part_comes_back(part in proptest::collection::vec(prop_oneof![Just(0xe8u8), Just(0), 0u8..4, any::<u8>()], 0..2000)) {
            prop_assert_eq!(unpacked(&packed(&part)), part);
        }
    }
}
