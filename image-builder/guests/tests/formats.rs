//! Files are recognised by content: kernels of each format, packed or not, and those that people take for one.

mod elf;
mod kernel;

use elf::Image;
use kernel::put;
use proptest::prelude::*;
use tollgate_guests::{Error, Format, is_unmarked_elf, lower, recognise};

/// A file of zeros with these bytes at an offset.
fn marked(offset: usize, mark: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 0x9000];
    put(&mut file, offset, mark);
    file
}

fn refused(file: &[u8], is: &str) {
    let error = lower(&kernel::request(file)).unwrap_err();
    let expected =
        format!("the kernel's file is {is}; a bzImage, a multiboot kernel or an ELF file of x86 can be booted");
    assert_eq!(error.to_string(), expected);
    assert!(!error.remedy().is_empty());
    assert_eq!(recognise(file), Err(error));
}

#[test]
fn other_files_are_named() {
    for (file, is) in [
        (&b""[..], "empty"),
        (b"!<arch>\ndebian-binary", "an archive, such as a Debian package"),
        (b"070701000", "a cpio archive, such as an initramfs"),
        (b"#!/bin/sh", "a script"),
        (b"\xd0\x0d\xfe\xed", "a device tree, or an image for U-Boot"),
        (b"\x0b\x01\x64\0", "an a.out file without a multiboot header"),
        (&marked(0x8001, b"CD001"), "an image of a CD"),
        (&marked(0x38, b"ARM\x64"), "a kernel for 64-bit ARM"),
        (&marked(0x24, b"\x18\x28\x6f\x01"), "a kernel for 32-bit ARM"),
        (&marked(0x1fe, b"\x55\xaa"), "a boot sector or an image of a disk, which a PC's firmware starts"),
        (&marked(0x180, b"GRUB \0"), "GRUB's boot sector, which reads a disk by a PC's firmware"),
        (&marked(0, b"\x52\x56\xbe\x1b\x81\xe8"), "a core image of GRUB, which reads a disk by a PC's firmware"),
        (&marked(0, b"MZ"), "a program for DOS"),
        (&[1; 0x400], "of a format that is not known here"),
    ] {
        refused(file, is);
    }
    let mut program = marked(0, b"MZ");
    put(&mut program, 0x3c, &[0x80]);
    put(&mut program, 0x80, b"PE\0\0");
    put(&mut program, 0x1fe, b"\x55\xaa");
    refused(&program, "a program for UEFI or Windows (PE), without Linux' boot header");
}

#[test]
fn elf_files_of_other_protocols_are_named() {
    let with_note =
        |name, kind| Image { notes: vec![(name, kind, vec![0; 4])], ..Image::of(true, 0x10_0000, vec![0; 64]) };
    let paravirtual = "a paravirtual kernel for Xen, without an entry for PVH";
    for kind in [8, 5, 2] {
        refused(&with_note("Xen", kind).bytes(), paravirtual);
    }
    refused(&Image { is_wide: false, machine: elf::EM_386, ..with_note("Xen", 5) }.bytes(), paravirtual);
    refused(&with_note("Solo5", 0x3154_464d).bytes(), "a unikernel for Solo5, which runs under Solo5's own monitors");
    let request = 0x0a82_e883_a194_f07b_c7b1_dd30_df4c_8b88_u128.to_le_bytes();
    refused(&Image::of(true, 0x10_0000, request.to_vec()).bytes(), "a kernel for the boot protocol of Limine");
    // Linux has Xen's notes, too.
    let mut linux = with_note("Xen", 5);
    linux.loaded[0].bytes.extend(b"Linux version 6.1.0 ");
    assert_eq!(recognise(&linux.bytes()), Ok(Format::Elf));
    refused(&with_section(b"__xen_guest\0"), paravirtual);
    refused(&with_section(b".stivale2hdr\0"), "a kernel for the boot protocol stivale2");
}

/// A 64-bit file with one section, of this name.
fn with_section(name: &[u8]) -> Vec<u8> {
    let mut file = Image::of(true, 0x10_0000, vec![0; 64]).bytes();
    let (names, table) = (file.len(), file.len() + 0x40);
    file.resize(table + 2 * 64, 0);
    put(&mut file, names + 1, name);
    // e_shoff, e_shentsize, e_shnum, e_shstrndx; then the names' section, of itself, and the table of strings: its type and place.
    put(&mut file, 0x28, &(table as u64).to_le_bytes());
    put(&mut file, 0x3a, &[64, 0, 2, 0, 1, 0]);
    put(&mut file, table + 64, &[1, 0, 0, 0, 3]);
    put(&mut file, table + 64 + 24, &(names as u64).to_le_bytes());
    put(&mut file, table + 64 + 32, &[0x40]);
    file
}

#[test]
fn only_elf_files_that_say_nothing_are_guests_of_their_own() {
    let plain = Image::of(true, 0x10_0000, vec![0; 64]);
    assert!(is_unmarked_elf(&plain.bytes()));
    assert!(is_unmarked_elf(b"\x7fELF") && is_unmarked_elf(b"\x7fELF\x07"));
    let noted = |name, kind| Image { notes: vec![(name, kind, vec![4; 4])], ..plain.clone() }.bytes();
    for file in [
        noted("Xen", 18),
        noted("Xen", 5),
        noted("HERMIT", 0x5a00),
        Image { is_wide: false, machine: elf::EM_386, ..plain.clone() }.bytes(),
        kernel::elf(),
        kernel::lz4_bzimage(),
        kernel::gzip(&plain.bytes()),
        b"#!".to_vec(),
    ] {
        assert!(!is_unmarked_elf(&file), "{:x?}", &file[..16.min(file.len())]);
    }
    assert!(is_unmarked_elf(&noted("Xen", 4)));
}

#[test]
fn a_packed_kernel_is_unpacked() {
    let elf = kernel::elf();
    for (packed, name) in kernel::packings(&elf).iter().zip(["gzip", "LZ4", "ZSTD", "XZ", "LZMA"]) {
        assert_eq!(recognise(packed), Ok(Format::Elf), "{name}");
        let lowered = lower(&kernel::request(packed)).unwrap();
        let expected = format!(
            "Linux 6.1.0-test: an ELF file, {} bytes unpacked from {name} on the host, entered at 0x1000043",
            elf.len()
        );
        assert_eq!(lowered.about.to_string(), expected);
        assert_eq!(lowered.segments, lower(&kernel::request(&elf)).unwrap().segments);
        let cut = recognise(&packed[..packed.len() / 2]).unwrap_err().to_string();
        assert!(cut.contains(&format!("data packed with {name}, which can't be unpacked (")), "{cut}");
    }
    refused(&kernel::gzip(b"#!/bin/sh"), "data packed with gzip, and in it a script");
    refused(&kernel::gzip(b""), "data packed with gzip, and in it empty");
    refused(b"BZh9", "data packed with bzip2");
    // A bzImage in it is unpacked once more.
    let lowered = lower(&kernel::request(&kernel::gzip(&kernel::lz4_bzimage()))).unwrap();
    assert!(lowered.about.to_string().contains("unpacked from LZ4"), "{}", lowered.about);
}

proptest! {
    #[test]
    fn any_bytes_are_recognised_or_refused(
        start in 0usize..12, bytes in proptest::collection::vec(any::<u8>(), 0..600)
    ) {
        let starts: [&[u8]; 12] = [
            b"", b"\x7fELF\x01\x01", b"\x7fELF\x02\x01", b"MZ", b"\x1f\x8b\x08", b"\x02\x21\x4c\x18", b"\x28\xb5\x2f\xfd",
            b"\xfd7zXZ\0", b"\x5d\0\0", b"BZh", b"\x02\xb0\xad\x1b\0\0\0\0\xfe\x4f\x52\xe4", b"\xd6\x50\x52\xe8\0\0\0\0",
        ];
        let file = [starts[start], &bytes].concat();
        is_unmarked_elf(&file);
        prop_assert!(!matches!(recognise(&file), Err(Error::Vcpus(_))));
        let _ = lower(&kernel::request(&file));
    }
}
