//! Hermit images: the boot information that they find, with the structure's size from Hermit's own crate.

mod checks;
mod elf;
mod program;

use checks::{Memory, check_golden, check_places, check_stack, number, segment, shown};
use elf::Image;
use hermit_entry::boot_info::RawBootInfo;
use program::{ENTRY, MEMORY_BYTES as PROGRAM_BYTES, PT_TLS, RELOCATIONS, WORDS};
use proptest::prelude::*;
use tollgate_abi::guest_image::Mode;
use tollgate_guests::{Format, Lowered, Module, Request, layout, lower, recognise};

const MEMORY_BYTES: u64 = 32 << 20;
const BASE: u64 = 0x40_0000;

/// An image that runs anywhere, with notes about this version of the entry, and Hermit's own.
fn image(version: &[u8]) -> Image {
    let mut image = program::image(&[], &RELOCATIONS);
    image.parts.push((PT_TLS, WORDS, 0x10, 0x30));
    let system = [6u32, 0, 11, 3].map(u32::to_le_bytes).concat();
    image.notes = vec![("GNU", 1, system), ("HERMIT", 0x5a00, version.to_vec()), ("UHYVEIF", 0x5b00, vec![0, 0, 0, 1])];
    image
}

fn request(kernel: &[u8]) -> Request<'_> {
    Request { kernel, initrd: None, modules: &[], command_line: "-- one two", memory_bytes: MEMORY_BYTES, vcpus: 1 }
}

/// RawBootInfo as a kernel reads it: the image's range, TLS, and the device tree's address.
fn check_information(lowered: &Lowered, memory_bytes: u64) -> ([u64; 2], [u64; 4], u64) {
    let (memory, entry) = (Memory(lowered), lowered.entry);
    let state = (entry.mode, entry.rdi, entry.rsi, entry.rsp, entry.cr3);
    let (information, stack) = (layout::HERMIT_INFORMATION_GPA, layout::HERMIT_STACK_GPA);
    assert_eq!(state, (Mode::Long, information, 0, stack, layout::PAGE_TABLES_GPA));
    let word = |at| memory.long(entry.rdi + at);
    assert_eq!([0, 8, 16].map(word), [0x10_0000, memory_bytes, 0x3f8]);
    // The platform with Linux' boot parameters.
    assert_eq!((word(80), word(104)), (2, layout::BOOT_PARAMS_GPA));
    assert_eq!(memory.text(word(88)).len() as u64, word(96));
    assert_eq!(number(memory.from(word(104)), 0x228, 4), word(88));
    assert_eq!(number(memory.from(word(104)), 0x1e8, 1), 3);
    // The entry adds the stack's size to RSP.
    check_stack(
        &Lowered { entry: tollgate_abi::guest_image::Entry { rsp: entry.rsp + 0x8000, ..entry }, ..lowered.clone() },
        0x1_0000,
    );
    assert_eq!(memory.from(word(24))[..4], 0xd00d_feed_u32.to_be_bytes());
    ([32, 40].map(word), [48, 56, 64, 72].map(word), word(24))
}

#[test]
fn an_image_finds_its_boot_information() {
    let file = image(&[4]).bytes();
    assert_eq!(recognise(&file), Ok(Format::Hermit));
    let lowered = lower(&Request { initrd: Some(b"any file"), ..request(&file) }).unwrap();
    check_places(&lowered, MEMORY_BYTES);
    let (range, tls, tree) = check_information(&lowered, MEMORY_BYTES);
    assert_eq!((lowered.entry.rip, range), (BASE + ENTRY, [BASE, BASE + PROGRAM_BYTES]));
    assert_eq!(tls, [BASE + WORDS as u64, 0x10, 0x30, 4]);
    assert_eq!(number(&segment(&lowered, "kernel").bytes, WORDS, 8), BASE + 0x123);
    assert_eq!((tree - lowered.entry.rdi) as usize, size_of::<RawBootInfo>());
    assert_eq!(segment(&lowered, "module").bytes, b"any file");
    let about = "Hermit 0.11.3: a Hermit image in an ELF file of 64 bits, entered at 0x400010";
    assert_eq!(lowered.about.to_string(), about);
    // `dtc -I dtb` shows the meaning of the device tree.
    check_golden("hermit.txt", &shown(&lowered, &["Hermit's boot information"]));
}

#[test]
fn an_image_at_fixed_addresses_lies_there() {
    let mut fixed = Image { kind: 2, ..image(&[4]) };
    fixed.parts.remove(0);
    fixed.entry += BASE;
    (fixed.loaded[0].virtual_address, fixed.loaded[0].gpa) = (BASE, BASE);
    let lowered = lower(&request(&fixed.bytes())).unwrap();
    let (range, tls, _) = check_information(&lowered, MEMORY_BYTES);
    assert_eq!((range, tls[0]), ([BASE, BASE + PROGRAM_BYTES], BASE + WORDS as u64));
    fixed.parts.clear();
    fixed.notes.remove(0);
    let lowered = lower(&request(&fixed.bytes())).unwrap();
    assert_eq!(check_information(&lowered, MEMORY_BYTES).1, [0; 4]);
    assert_eq!(lowered.about.to_string(), "a Hermit image in an ELF file of 64 bits, entered at 0x400010");
}

#[test]
fn an_image_that_can_not_be_entered_says_why() {
    let error = |image: &Image| lower(&request(&image.bytes())).unwrap_err().to_string();
    let spoken = |version: &str| {
        format!("the kernel's ELF file speaks {version} of Hermit's entry, and version 4 is spoken here")
    };
    assert_eq!(error(&image(&[3])), spoken("version 3"));
    assert_eq!(error(&image(&[])), spoken("no version"));
    let mut low = Image { kind: 2, ..image(&[4]) };
    low.parts.clear();
    (low.loaded[0].virtual_address, low.entry) = (0x2000, 0x2000 + ENTRY);
    let expected = "the kernel wants memory at 0x2000; all below 0x100000 belongs to the boot information";
    assert_eq!(error(&low), expected);
    let file = image(&[4]).bytes();
    let small = Request { memory_bytes: BASE, ..request(&file) };
    let expected = "the kernel needs at least 5 MiB of memory, and the machine has 4";
    assert_eq!(lower(&small).unwrap_err().to_string(), expected);
    let modules = [Module { bytes: b"module", text: "" }];
    let error = lower(&Request { modules: &modules, ..request(&file) }).unwrap_err();
    let expected =
        ("the kernel's file is a Hermit image, which is given no modules", "give Hermit one file by --initrd");
    assert_eq!((error.to_string().as_str(), error.remedy()), expected);
    let longest = "l".repeat(0xffff);
    check_places(&lower(&Request { command_line: &longest, ..request(&file) }).unwrap(), MEMORY_BYTES);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_image_is_lowered_or_refused(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(0usize..0x700),
        memory_bytes in prop_oneof![0u64..64 << 20, Just(MEMORY_BYTES)],
    ) {
        let mut file = image(&[4]).bytes();
        for (at, value) in changes {
            let at = at.index(file.len());
            file[at] = value;
        }
        file.truncate(cut.unwrap_or(usize::MAX));
        if let Ok(lowered) = lower(&Request { memory_bytes, initrd: Some(&kernel_initrd()), ..request(&file) }) {
            check_places(&lowered, memory_bytes);
            if lowered.about.format == Format::Hermit {
                check_information(&lowered, memory_bytes);
            }
        }
    }
}

/// An initrd that Linux would take, too.
fn kernel_initrd() -> Vec<u8> {
    tollgate_guests::initramfs(&[]).unwrap()
}
