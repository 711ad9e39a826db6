//! The formats of kernels, recognised by content.

use crate::bzimage;
use crate::error::Error;
use crate::lowered::Format;
use crate::packing::Packing;

/// Marks of files that people take for a kernel: offset, bytes, and the thing's name.
const OTHERS: [(usize, &[u8], &str); 10] = [
    (0x38, b"ARM\x64", "a kernel for 64-bit ARM"),
    (0x38, b"RISCV\0", "a kernel for RISC-V"),
    (0, b"!<arch>\n", "an archive, such as a Debian package"),
    (0, b"\xed\xab\xee\xdb", "an RPM package"),
    (0, b"0707", "a cpio archive, such as an initramfs"),
    (0x8001, b"CD001", "an image of a CD"),
    (0x101, b"ustar", "a tar archive"),
    (0, b"MZ", "a UEFI program without Linux' boot header"),
    (0, b"#!", "a script"),
    (0, b"\x27\x05\x19\x56", "an image for U-Boot"),
];

/// The format of a file.
///
/// # Errors
/// The file is of another, which the error names if it is known.
pub(crate) fn recognise(file: &[u8]) -> Result<Format, Error> {
    let has = |offset: usize, mark: &[u8]| file.get(offset..).is_some_and(|rest| rest.starts_with(mark));
    if has(0, &object::elf::ELFMAG) {
        return Ok(Format::Elf);
    }
    if has(bzimage::MAGIC_OFFSET, bzimage::MAGIC) {
        return Ok(Format::BzImage);
    }
    if file.is_empty() {
        return Err(Error::NoKernel("empty".to_owned()));
    }
    // Linux built with a stub for UEFI begins with MZ, and its boot header comes later.
    if has(0, b"MZ") && file.len() < bzimage::MAGIC_OFFSET + bzimage::MAGIC.len() {
        return Err(Error::truncated("boot header", bzimage::MAGIC_OFFSET + bzimage::MAGIC.len(), file));
    }
    let other = OTHERS.iter().find(|(offset, mark, _)| has(*offset, mark)).map(|(.., name)| (*name).to_owned());
    let packed = || Packing::of(file).map(|packing| format!("data packed with {packing}"));
    Err(Error::NoKernel(other.or_else(packed).unwrap_or_else(|| "of a format that is not known here".to_owned())))
}
