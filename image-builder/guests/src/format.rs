//! The formats of kernels, recognised by content, and those that people take for one.

use std::borrow::Cow;

use object::LittleEndian as LE;
use object::elf::{FileHeader32, FileHeader64};
use object::read::elf::FileHeader;

use crate::error::Error;
use crate::lowered::{Format, Width};
use crate::packing::Packing;
use crate::{bzimage, elf, hermit, multiboot, multiboot2, pvh, unpack};

/// Marks of files that people take for a kernel: offset, bytes, and the thing's name. The first that fits counts.
const OTHERS: &[(usize, &[u8], &str)] = &[
    (0x38, b"ARM\x64", "a kernel for 64-bit ARM"),
    (0x24, b"\x18\x28\x6f\x01", "a kernel for 32-bit ARM"),
    (0x38, b"RISCV\0", "a kernel for RISC-V"),
    (0, b"!<arch>\n", "an archive, such as a Debian package"),
    (0, b"\xed\xab\xee\xdb", "an RPM package"),
    (0, b"0707", "a cpio archive, such as an initramfs"),
    (0x8001, b"CD001", "an image of a CD"),
    (0x101, b"ustar", "a tar archive"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"hsqs", "a file system (SquashFS)"),
    (0x438, b"\x53\xef", "a file system (ext2 to ext4)"),
    (0, b"QFI\xfb", "an image of a disk (qcow2)"),
    (0, b"KDMV", "an image of a disk (VMDK)"),
    (0x40, b"\x7f\x10\xda\xbe", "an image of a disk (VDI)"),
    (0x200, b"EFI PART", "an image of a disk"),
    (0, b"\xd0\x0d\xfe\xed", "a device tree, or an image for U-Boot"),
    (0, b"\x27\x05\x19\x56", "an image for U-Boot"),
    (0, b"ANDROID!", "an image for Android's boot loader"),
    (0, b"\xcf\xfa\xed\xfe", "a Mach-O file, as macOS has them"),
    (0, b"\0asm", "WebAssembly"),
    (0, b"#!", "a script"),
    // The number of the format, and i386's.
    (0, b"\x07\x01\x64\0", "an a.out file without a multiboot header"),
    (0, b"\x08\x01\x64\0", "an a.out file without a multiboot header"),
    (0, b"\x0b\x01\x64\0", "an a.out file without a multiboot header"),
    (0, b"\xcc\0\x64\0", "an a.out file without a multiboot header"),
    // The first instructions of the sector that loads the others.
    (0, b"\x52\x56\xbe\x1b\x81", "a core image of GRUB, which reads a disk by a PC's firmware"),
    (0x180, b"GRUB \0", "GRUB's boot sector, which reads a disk by a PC's firmware"),
];
/// The offset of the mark of a sector that a PC's firmware starts. A file of another format may have it, too.
const BOOT_SECTOR_MARK: (usize, &[u8]) = (0x1fe, b"\x55\xaa");

/// Notes of ELF files that are entered by a protocol of their own: name, types, and the thing's name.
const NOTES: &[(&[u8], &[u32], &str)] = &[
    // The loader's name, the version, the place of the page for hypercalls.
    (b"Xen", &[8, 5, 2], "a paravirtual kernel for Xen, without an entry for PVH"),
    (b"Solo5", &[0x3154_464d, 0x3149_4241], "a unikernel for Solo5, which runs under Solo5's own monitors"),
];

/// Sections of such files.
const SECTIONS: &[(&[u8], &str)] = &[
    (b"__xen_guest", "a paravirtual kernel for Xen, without an entry for PVH"),
    (b".stivale2hdr", "a kernel for the boot protocol stivale2"),
    (b".bootloader-config", "a kernel for the boot loader of the crate `bootloader`"),
];

/// The first bytes of each request of Limine's boot protocol.
const LIMINE: &[u8] = b"\x88\x8b\x4c\xdf\x30\xdd\xb1\xc7\x7b\xf0\x94\xa1\x83\xe8\x82\x0a";

/// The offset of the place where a program for DOS tells of one for Windows or UEFI behind it, and that one's mark.
const PE_OFFSET: usize = 0x3c;
const PE: &[u8] = b"PE\0\0";

/// The contents of a file that is packed as a whole, as boot loaders take it; others stay as they are.
///
/// # Errors
/// It can't be unpacked.
pub(crate) fn unpacked(file: &[u8]) -> Result<(Cow<'_, [u8]>, Option<Packing>), Error> {
    let Some(packing) = Packing::of(file) else { return Ok((file.into(), None)) };
    let named = |what: &str| Error::NoKernel(format!("data packed with {packing}{what}"));
    match unpack::whole(packing, file) {
        Ok(Some(bytes)) => match recognise(&bytes) {
            Err(Error::NoKernel(inner)) => Err(named(&format!(", and in it {inner}"))),
            _ => Ok((bytes.into(), Some(packing))),
        },
        Ok(None) => Err(named("")),
        Err(error) => Err(named(&format!(", which can't be unpacked ({error})"))),
    }
}

/// The format of a file that is not packed as a whole.
///
/// # Errors
/// The file is of another, which the error names if it is known.
pub(crate) fn recognise(file: &[u8]) -> Result<Format, Error> {
    let has = |offset: usize, mark: &[u8]| file.get(offset..).is_some_and(|rest| rest.starts_with(mark));
    if has(0, &object::elf::ELFMAG) {
        return of_elf(file);
    }
    if has(bzimage::MAGIC_OFFSET, bzimage::MAGIC) {
        let names_none = bzimage::names_no_payload(file);
        return Ok(if names_none { Format::PlainBzImage } else { Format::BzImage });
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
    let program = || has(0, b"MZ").then(|| program(file).to_owned());
    let packed = || Packing::of(file).map(|packing| format!("data packed with {packing}"));
    let is_sector = has(BOOT_SECTOR_MARK.0, BOOT_SECTOR_MARK.1);
    let sector = || is_sector.then(|| "a boot sector or an image of a disk, which a PC's firmware starts".to_owned());
    let name = other.or_else(program).or_else(packed).or_else(sector);
    Err(Error::NoKernel(name.unwrap_or_else(|| "of a format that is not known here".to_owned())))
}

/// The name of a program that begins with MZ.
fn program(file: &[u8]) -> &'static str {
    let at = file.get(PE_OFFSET..).and_then(|rest| rest.first_chunk()).copied().map(u32::from_le_bytes);
    let is_pe = at.and_then(|at| file.get(at as usize..)).is_some_and(|rest| rest.starts_with(PE));
    if is_pe { "a program for UEFI or Windows (PE), without Linux' boot header" } else { "a program for DOS" }
}

/// The format of an ELF file. A file of several is taken as QEMU takes it; Linux is entered as Linux, though it may have the entry of
/// PVH, too. A file without any mark is taken for Linux if its addresses have 64 bits.
fn of_elf(file: &[u8]) -> Result<Format, Error> {
    let width = elf::width(file)?;
    let is_linux = || width == Width::Bits64 && is_linux(file);
    if multiboot::is_one(file) {
        Ok(Format::Multiboot)
    } else if hermit::is_one(file) {
        Ok(Format::Hermit)
    } else if pvh::is_one(file) && !is_linux() {
        Ok(Format::Pvh)
    } else if multiboot2::is_one(file) {
        Ok(Format::Multiboot2)
    } else if let Some(other) = other_elf(file, width).filter(|_| !is_linux()) {
        Err(Error::NoKernel(other.to_owned()))
    } else if width == Width::Bits64 {
        Ok(Format::Elf)
    } else {
        Err(Error::NoHeader)
    }
}

/// The name of an ELF file that is entered by a protocol that is known, and not spoken here.
fn other_elf(file: &[u8], width: Width) -> Option<&'static str> {
    let has_note = |name: &[u8], kinds: &[u32]| kinds.iter().any(|&kind| elf::note(file, name, kind).is_some());
    let by_note = NOTES.iter().find(|(name, kinds, _)| has_note(name, kinds)).map(|&(.., thing)| thing);
    let has_section = match width {
        Width::Bits32 => has_section::<FileHeader32<LE>>,
        Width::Bits64 => has_section::<FileHeader64<LE>>,
    };
    let by_section = || SECTIONS.iter().find(|(name, _)| has_section(file, name)).map(|&(_, thing)| thing);
    let by_request = || memchr::memmem::find(file, LIMINE).map(|_| "a kernel for the boot protocol of Limine");
    by_note.or_else(by_section).or_else(by_request)
}

fn has_section<H: FileHeader<Endian = LE>>(file: &[u8], name: &[u8]) -> bool {
    let sections = H::parse(file).ok().and_then(|header| header.sections(LE, file).ok());
    sections.is_some_and(|sections| sections.section_by_name(LE, name).is_some())
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
