//! A check that an initrd is whole: Linux tells of a damaged one only when it is up, and then lacks files.
//!
//! Linux takes archives one after another, the last of them packed. Those are read to their trailer, and not kept.

use std::io::{self, Read};

use crate::error::Error;
use crate::packing::Packing;
use crate::unpack;

/// The first characters of each form of cpio with headers of text.
const CPIO: &[u8] = b"0707";

/// Reads an initrd.
pub(crate) fn check(initrd: &[u8]) -> Result<(), Error> {
    if initrd.is_empty() {
        return Err(Error::EmptyInitrd);
    }
    let mut rest = initrd;
    loop {
        // Zeros pad an archive.
        rest = &rest[rest.iter().take_while(|&&byte| byte == 0).count()..];
        let at = initrd.len() - rest.len();
        let (is_cpio, packing) = (rest.starts_with(CPIO), Packing::of(rest));
        let form = packing.filter(|_| !is_cpio).map_or_else(|| "cpio".to_owned(), |packing| packing.to_string());
        let damaged = |error: io::Error| Error::DamagedInitrd { at, form, cause: error.to_string() };
        match (is_cpio, packing) {
            (true, _) => rest = to_trailer(rest).map_err(damaged)?,
            (false, Some(packing)) => {
                let end = unpack::reader(packing, rest).and_then(|reader| reader.map(to_trailer).transpose());
                return end.map(drop).map_err(damaged);
            }
            // Linux also stops here; it has the files of the archives in front.
            (false, None) if at > 0 && initrd.starts_with(CPIO) => return Ok(()),
            (false, None) => return Err(Error::NoInitrd),
        }
    }
}

/// Reads an archive to its end, and returns the reader behind it.
fn to_trailer<R: Read>(mut reader: R) -> io::Result<R> {
    loop {
        let entry = cpio::newc::Reader::new(reader)?;
        let is_trailer = entry.entry().is_trailer();
        reader = entry.finish()?;
        if is_trailer {
            return Ok(reader);
        }
    }
}
