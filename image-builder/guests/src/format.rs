//! The formats of kernels, recognised by content.

use crate::error::Error;
use crate::lowered::{Format, Width};
use crate::packing::Packing;
use crate::{bzimage, elf, hermit, multiboot, multiboot2, pvh};

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
        return of_elf(file);
    }
    if has(bzimage::MAGIC_OFFSET, bzimage::MAGIC) {
        return Ok(Format::BzImage);
    }
    if multiboot::is_one(file) {
        return Ok(Format::Multiboot);
    }
    if multiboot2::is_one(file) {
        return Ok(Format::Multiboot2);
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

/// The format of an ELF file. A file of several is taken as QEMU takes it; Linux is entered as Linux, though it may have the entry of
/// PVH, too. A file without any mark is taken for Linux if its addresses have 64 bits.
fn of_elf(file: &[u8]) -> Result<Format, Error> {
    let is_wide = elf::width(file)? == Width::Bits64;
    if multiboot::is_one(file) {
        Ok(Format::Multiboot)
    } else if hermit::is_one(file) {
        Ok(Format::Hermit)
    } else if pvh::is_one(file) && !(is_wide && is_linux(file)) {
        Ok(Format::Pvh)
    } else if multiboot2::is_one(file) {
        Ok(Format::Multiboot2)
    } else if is_wide {
        Ok(Format::Elf)
    } else {
        Err(Error::NoHeader)
    }
}

fn is_linux(file: &[u8]) -> bool {
    elf::linux_version(file).is_some()
}

/// Whether a file is an ELF file without a mark of any kernel.
pub(crate) fn is_unmarked_elf(file: &[u8]) -> bool {
    file.starts_with(&object::elf::ELFMAG)
        && match recognise(file) {
            Ok(format) => format == Format::Elf && !is_linux(file),
            // A person is told of a class that there is none of by whoever reads such files.
            Err(error) => matches!(error, Error::Elf(_)),
        }
}
