//! A kernel's `System.map`, as the command line names it.

use std::path::Path;

use tollgate_books::failure::Failure;
use tollgate_books::symbols::Symbols;

/// The most bytes of such a file; a distribution's has some ten million.
const MOST_BYTES: u64 = 256 << 20;

/// Reads the functions of a kernel.
///
/// # Errors
/// The file can't be read, or is none.
pub(super) fn read(path: &Path) -> Result<Symbols, Failure> {
    let refused = |what: &dyn std::fmt::Display| {
        Failure::usage(format_args!("{} can't be the kernel's System.map: {what}", path.display())).remedy(
            "name the one of the kernel's build; Debian's in /boot is a stub, and the package linux-image-VERSION-dbg has the whole",
        )
    };
    let bytes = std::fs::metadata(path).map_err(|error| refused(&error))?.len();
    if bytes > MOST_BYTES {
        return Err(refused(&format_args!("it has {bytes} bytes")));
    }
    let text = std::fs::read(path).map_err(|error| refused(&error))?;
    Symbols::of_map(&text).map_err(|error| refused(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_none_is_refused_with_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("map");
        let sentence = || read(&path).unwrap_err().to_string();
        assert!(sentence().contains("No such file"), "{}", sentence());
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        assert!(sentence().contains("line 1 is not an address") && sentence().contains("-dbg"), "{}", sentence());
        std::fs::write(&path, "ffffffff81000000 T _text\n").unwrap();
        assert_eq!(read(&path).unwrap().place(0xffff_ffff_8100_0000).as_deref(), Some("_text+0x0/0x1"));
    }
}
