//! Guest files that can't be loaded: each is refused with its cause, and none makes the tool panic.

use proptest::prelude::*;
use tollgate::image::{GUEST_ELF, Guest, GuestError, MONITOR_ELF, ROM_BYTES, Rom};
use tollgate_abi::machine::{BOOT_AREA_BYTES, RELOCATED_GPA, UNIKERNEL};

const TYPE: usize = 16;
const MACHINE: usize = 18;
const PROGRAM_HEADER_COUNT: usize = 56;
const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;

/// One program header: type, address, bytes in the file, bytes in memory.
type Header = (u32, u64, u64, u64);

/// A small ELF file whose segments all start at its beginning.
fn elf(entry: u64, headers: &[Header]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    bytes[TYPE] = 2;
    bytes[MACHINE] = 62;
    bytes[20] = 1;
    bytes[24..32].copy_from_slice(&entry.to_le_bytes());
    bytes[32] = HEADER_BYTES as u8;
    bytes[52] = HEADER_BYTES as u8;
    bytes[54] = PROGRAM_HEADER_BYTES as u8;
    bytes[PROGRAM_HEADER_COUNT] = headers.len() as u8;
    for &(kind, address, file_bytes, memory_bytes) in headers {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(7u32.to_le_bytes());
        for word in [0, address, address, file_bytes, memory_bytes, 4096] {
            bytes.extend(word.to_le_bytes());
        }
    }
    bytes.resize(bytes.len().max(4096), 0x90);
    bytes
}

const CODE: Header = (PT_LOAD, 0x10_0000, 4096, 8192);

fn check(bytes: &[u8], part: &str) {
    let error = Guest::parse(bytes).unwrap_err();
    assert!(error.to_string().contains(part), "`{error}` does not say `{part}`");
    assert!(!error.remedy().is_empty());
}

#[test]
fn a_small_guest_is_taken() {
    let bytes = elf(0x10_0000, &[CODE, (4, 0, 0, 0)]);
    let guest = Guest::parse(&bytes).unwrap();
    assert_eq!((guest.placing.entry.rip, guest.pieces.len(), guest.pieces[0].memory_bytes), (0x10_0000, 1, 8192));
    Rom::build(MONITOR_ELF, &guest, "").unwrap();
}

/// A guest that runs anywhere, whose dynamic section and one relocation are in its segment, with a word that the latter is about.
fn static_pie(kind: u8) -> Vec<u8> {
    const DYNAMIC: usize = 0x800;
    const TABLE: u64 = 0x900;
    let mut bytes = elf(0x10, &[(PT_LOAD, 0, 4096, 8192), (PT_DYNAMIC, DYNAMIC as u64, 48, 48)]);
    bytes[TYPE] = 3;
    bytes[HEADER_BYTES + PROGRAM_HEADER_BYTES + 8..][..8].copy_from_slice(&(DYNAMIC as u64).to_le_bytes());
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    bytes[DYNAMIC..][..48].copy_from_slice(&words(&[7, TABLE, 8, 24, 0, 0]));
    bytes[TABLE as usize..][..24].copy_from_slice(&words(&[0xa00, kind.into(), 0x123]));
    bytes
}

#[test]
fn a_guest_that_runs_anywhere_is_relocated() {
    let bytes = static_pie(8);
    let guest = Guest::parse(&bytes).unwrap();
    let piece = &guest.pieces[0];
    assert_eq!((guest.placing.entry.rip, piece.gpa, piece.memory_bytes), (RELOCATED_GPA + 0x10, RELOCATED_GPA, 8192));
    assert_eq!(piece.bytes[0xa00..0xa08], (RELOCATED_GPA + 0x123).to_le_bytes());
    assert_eq!(piece.bytes[..0x900], bytes[..0x900]);
    Rom::build(MONITOR_ELF, &guest, "").unwrap();
    check(&static_pie(37), "it has a relocation of type 37, which only a dynamic loader could make");
}

#[test]
fn each_defect_is_named() {
    let good = || elf(0x10_0000, &[CODE]);
    let changed = |at: usize, byte: u8| {
        let mut bytes = good();
        bytes[at] = byte;
        bytes
    };
    check(b"", "empty");
    check(b"#!/bin/sh\n", "neither an ELF file nor a Linux kernel");
    check(&changed(4, 1), "32-bit");
    check(&changed(4, 9), "class is malformed");
    check(&changed(5, 2), "another machine");
    check(&changed(MACHINE, 183), "another machine (ELF machine 183)");
    check(&changed(TYPE, 1), "not linked yet");
    check(&changed(TYPE, 4), "core dump");
    check(&changed(54, 8), "program-header table");
    check(&changed(PROGRAM_HEADER_COUNT + 1, 0xff), "truncated: the program-header table");
    check(&elf(0x10_0000, &[CODE, (PT_INTERP, 0, 16, 16)]), "dynamic loader");
    check(&elf(0, &[]), "nothing to load");
    check(&elf(0x10_0000, &[CODE; 17]), "17 segments");
    check(&elf(0x20_0000, &[CODE]), "entry point 0x200000 is in none");
    check(
        &elf(BOOT_AREA_BYTES - 4096, &[(PT_LOAD, BOOT_AREA_BYTES - 4096, 4096, 8192)]),
        "overlaps the monitor's boot area",
    );
    let last_page = UNIKERNEL.ram_bytes() - 4096;
    check(&elf(last_page, &[(PT_LOAD, last_page, 4096, 8192)]), "outside the guest's memory");
    check(&elf(u64::MAX, &[(PT_LOAD, u64::MAX - 4095, 4096, 8192)]), "outside the guest's memory");
    check(&elf(0x10_0000, &[(PT_LOAD, 0x10_0000, 4096, 100)]), "more bytes in the file");
    check(&elf(0x10_0000, &[CODE, (PT_LOAD, 0x10_1000, 0, 4096)]), "overlap");
    check(&elf(0x10_0000, &[(PT_LOAD, 0x10_0000, 1 << 20, 1 << 20)]), "truncated: a segment reaches to byte 1048576");
    check(&elf(0x10_0000, &[(PT_LOAD, 0x10_0000, u64::MAX, 8192)]), "truncated");
}

#[test]
fn a_guest_that_does_not_fit_is_told_by_how_much() {
    let mut bytes = elf(0x10_0000, &[(PT_LOAD, 0x10_0000, ROM_BYTES as u64, ROM_BYTES as u64)]);
    // The bytes are pseudo-random, since the ROM packs its guest, and a repeated byte would pack to nothing.
    let mut random = 1_u64;
    bytes.resize_with(ROM_BYTES, || {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (random >> 56) as u8
    });
    let Err(error) = Rom::build(MONITOR_ELF, &Guest::parse(&bytes).unwrap(), "") else {
        panic!("a guest as large as the ROM leaves no room for the monitor");
    };
    assert!(error.to_string().contains("bytes too large for the ROM"), "{error}");
}

#[test]
fn the_built_in_guest_is_refused_wherever_it_is_cut() {
    // The bytes have one name here, since two uses of a constant may lie at two addresses.
    let elf = GUEST_ELF;
    let guest = Guest::parse(elf).unwrap();
    let bytes_end = |bytes: &[u8]| bytes.as_ptr() as usize + bytes.len() - elf.as_ptr() as usize;
    let needed = guest.pieces.iter().map(|piece| bytes_end(&piece.bytes)).max().unwrap();
    let every = (0..needed.min(1024)).chain((1024..needed).step_by(487)).chain([needed - 1]);
    for length in every {
        match Guest::parse(&elf[..length]) {
            Err(GuestError::Empty) => assert_eq!(length, 0),
            Err(GuestError::Truncated { end, bytes, .. }) => assert!(end > bytes && bytes == length as u64),
            other => panic!("cut to {length} bytes: {other:?}"),
        }
    }
    assert_eq!(Guest::parse(&elf[..needed]), Ok(guest));
}

proptest! {
    #[test]
    fn changed_bytes_never_panic(changes in proptest::collection::vec((0usize..512, any::<u8>()), 1..20)) {
        let mut bytes = GUEST_ELF.to_vec();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if let Ok(guest) = Guest::parse(&bytes) {
            let _ = Rom::build(MONITOR_ELF, &guest, "");
        }
    }

    #[test]
    fn any_headers_never_panic(entry in any::<u64>(), headers in proptest::collection::vec(
        (prop_oneof![Just(PT_LOAD), any::<u32>()], any::<u64>(), 0u64..10_000, any::<u64>()), 0..20)) {
        if let Ok(guest) = Guest::parse(&elf(entry, &headers)) {
            let _ = Rom::build(MONITOR_ELF, &guest, "");
        }
    }

    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), magic in any::<bool>()) {
        let mut bytes = bytes;
        if magic && bytes.len() > 6 {
            bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        }
        prop_assert!(Guest::parse(&bytes).is_err());
    }
}
