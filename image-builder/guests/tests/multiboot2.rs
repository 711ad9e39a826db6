//! Multiboot2 kernels: the information that they find, the demands of their headers, and headers that lie.

mod checks;
mod elf;

use checks::{Memory, check_golden, check_places, check_stack, number, segment, shown};
use elf::{FIRST_OFFSET, Image};
use proptest::prelude::*;
use tollgate_abi::guest_image::Mode;
use tollgate_guests::{Error, Format, Lowered, Module, Request, lower, recognise};

const MEMORY_BYTES: u64 = 32 << 20;
const GPA: u64 = 0x40_0000;
/// The header's offset in the segment.
const HEADER_AT: usize = 16;

/// `mov al, 42h; out F4h, al; hlt; jmp` back to it.
const CODE: &[u8] = b"\xb0\x42\xe6\xf4\xf4\xeb\xfd";

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A tag: type, flags, contents.
type Tag<'a> = (u16, u16, &'a [u32]);
const END: Tag<'static> = (0, 0, &[]);

/// A header with these tags.
fn header(tags: &[Tag<'_>]) -> Vec<u8> {
    let mut all = Vec::new();
    for (kind, flags, contents) in tags {
        all.extend(words(&[u32::from(*kind) | u32::from(*flags) << 16, 8 + 4 * contents.len() as u32]));
        all.extend(words(contents));
        all.resize(all.len().next_multiple_of(8), 0);
    }
    [start(0, 16 + all.len() as u32), all].concat()
}

fn start(architecture: u32, length: u32) -> Vec<u8> {
    let sum = 0xe852_50d6_u32.wrapping_add(architecture).wrapping_add(length);
    words(&[0xe852_50d6, architecture, length, sum.wrapping_neg()])
}

/// An ELF file whose segment has a header, and code behind it, which is the entry point.
fn image(is_wide: bool, header: &[u8]) -> Image {
    let entry = GPA + HEADER_AT as u64 + header.len() as u64;
    Image { entry, ..Image::of(is_wide, GPA, [&[0; HEADER_AT], header, CODE].concat()) }
}

fn file(tags: &[Tag<'_>]) -> Vec<u8> {
    image(false, &header(&[tags, &[END]].concat())).bytes()
}

fn request(kernel: &[u8]) -> Request<'_> {
    Request { kernel, initrd: None, modules: &[], command_line: "one two", memory_bytes: MEMORY_BYTES, vcpus: 1 }
}

/// The information's tags: type and contents.
fn tags(lowered: &Lowered) -> Vec<(u64, Vec<u8>)> {
    assert_eq!((lowered.entry.mode, lowered.entry.rax, lowered.entry.cr3), (Mode::Protected, 0x36d7_6289, 0));
    let bytes = Memory(lowered).from(lowered.entry.rbx);
    assert_eq!((number(bytes, 0, 4), lowered.entry.rbx % 8), (bytes.len() as u64, 0));
    let (mut tags, mut at) = (Vec::new(), 8);
    while at < bytes.len() {
        let (kind, size) = (number(bytes, at, 4), number(bytes, at + 4, 4) as usize);
        tags.push((kind, bytes[at + 8..at + size].to_vec()));
        at = (at + size).next_multiple_of(8);
    }
    assert_eq!(tags.pop(), Some((0, Vec::new())));
    tags
}

/// The information as a kernel reads it: command line, modules by start, end and text, and the kernel's place.
fn check_information(lowered: &Lowered, memory_bytes: u64) -> (String, Vec<(u64, u64, String)>, u64) {
    let text = |bytes: &[u8]| {
        assert_eq!(bytes.last(), Some(&0));
        String::from_utf8(bytes[..bytes.len() - 1].to_vec()).unwrap()
    };
    let (mut line, mut modules, mut base, mut kinds) = (String::new(), Vec::new(), 0, Vec::new());
    for (kind, contents) in tags(lowered) {
        kinds.push(kind);
        match kind {
            1 => line = text(&contents),
            2 => assert_eq!(text(&contents), "Tollgate"),
            3 => modules.push((number(&contents, 0, 4), number(&contents, 4, 4), text(&contents[8..]))),
            4 => {
                let kib = (number(&contents, 0, 4), number(&contents, 4, 4));
                assert_eq!(kib, (632, (memory_bytes - (1 << 20)) / 1024));
            }
            6 => {
                assert_eq!((number(&contents, 0, 4), number(&contents, 4, 4)), (24, 0));
                let regions = contents[8..].chunks(24).map(|entry| [0, 8, 16].map(|at| number(entry, at, 8)));
                let high = [0x10_0000, memory_bytes - 0x10_0000, 1];
                assert_eq!(regions.collect::<Vec<_>>(), [[0, 0x9_e000, 1], [0x9_e000, 0x2000, 3], high]);
            }
            14 | 15 => {
                let end = if kind == 14 { 20 } else { 36 };
                let sum = contents[..end].iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
                assert_eq!((&contents[..8], sum, contents.len() >= end), (&b"RSD PTR "[..], 0, true));
                assert_eq!(&Memory(lowered).from(number(&contents, 16, 4))[..4], b"RSDT");
                if kind == 15 {
                    assert_eq!(&Memory(lowered).from(number(&contents, 24, 8))[..4], b"XSDT");
                }
            }
            21 => base = number(&contents, 0, 4),
            other => panic!("tag {other}"),
        }
    }
    kinds.dedup();
    assert_eq!(kinds.iter().copied().filter(|&kind| kind != 3).collect::<Vec<_>>(), [1, 2, 4, 6, 14, 15, 21]);
    (line, modules, base)
}

#[test]
fn a_kernel_finds_its_command_line_its_modules_and_its_memory() {
    // Everything that can be told, a console of any kind, modules on pages.
    let wanted = [(1, 0, &[1, 2, 3, 4, 6, 14, 15, 21][..]), (4, 0, &[2]), (6, 0, &[])];
    let file = file(&wanted);
    assert_eq!(recognise(&file), Ok(Format::Multiboot2));
    let modules = [Module { bytes: &[7; 5000], text: "second of two" }];
    let lowered = lower(&Request { initrd: Some(b"first"), modules: &modules, ..request(&file) }).unwrap();
    check_places(&lowered, MEMORY_BYTES);
    check_stack(&lowered, 4096);
    let (line, found, base) = check_information(&lowered, MEMORY_BYTES);
    assert_eq!((line.as_str(), base), ("one two", GPA));
    let contents = found.iter().map(|(start, end, text)| {
        assert_eq!(start % 4096, 0);
        (&Memory(&lowered).from(*start)[..(end - start) as usize], text.as_str())
    });
    assert_eq!(contents.collect::<Vec<_>>(), [(&b"first"[..], "initrd"), (modules[0].bytes, "second of two")]);
    check_golden("multiboot2.txt", &shown(&lowered, &["kernel", "multiboot2 information"]));
}

#[test]
fn a_header_is_looked_for_in_the_first_32_kib_at_multiples_of_8() {
    let with_header_at = |at: usize| {
        let mut image = Image::of(true, GPA, vec![0; 64 << 10]);
        image.memory_bytes_as_file();
        let mut file = image.bytes();
        let header = header(&[END]);
        file[at..at + header.len()].copy_from_slice(&header);
        recognise(&file)
    };
    for at in [FIRST_OFFSET, (32 << 10) - 24] {
        assert_eq!(with_header_at(at), Ok(Format::Multiboot2), "{at}");
    }
    // A 64-bit file without a header is taken for Linux, or is a guest of its own.
    for at in [FIRST_OFFSET + 4, (32 << 10) - 8, 32 << 10] {
        assert_eq!(with_header_at(at), Ok(Format::Elf), "{at}");
    }
    let mut file = file(&[]);
    file[FIRST_OFFSET + HEADER_AT + 12] ^= 1;
    assert_eq!(recognise(&file), Err(Error::NoHeader));
}

/// A file of no format with the header at its offset 8, loaded from its beginning to 100000h, unless `addresses` say another thing.
fn flat(addresses: [u32; 4], entry: Option<u32>) -> Vec<u8> {
    let entry = entry.map(|entry| [entry]);
    let entry: Vec<Tag<'_>> = entry.iter().map(|entry| (3, 0, &entry[..])).collect();
    [&[0; 8], &header(&[&[(2, 0, &addresses[..])], &entry[..], &[END]].concat())[..], CODE].concat()
}

#[test]
fn a_header_with_addresses_needs_no_format() {
    let load = 0x10_0000;
    for load_addr in [load, u32::MAX] {
        let file = flat([load + 8, load_addr, 0, load + 0x1000], Some(load + 0x40));
        let lowered = lower(&request(&file)).unwrap();
        check_places(&lowered, MEMORY_BYTES);
        check_information(&lowered, MEMORY_BYTES);
        let kernel = segment(&lowered, "kernel");
        assert_eq!((kernel.gpa, &kernel.bytes, kernel.memory_bytes), (load.into(), &file, 0x1000));
        assert_eq!(lowered.about.to_string(), "a multiboot2 kernel, entered at 0x100040");
    }
    lies(&flat([load + 8, load, 0, 0], None), 8, "has addresses, and no tag for the entry point");
    let nowhere = "has the entry point 0x101000, where nothing of the kernel is loaded";
    lies(&flat([load + 8, load, 0, load + 0x1000], Some(load + 0x1000)), 8, nowhere);
    let few = "says that it lies at 0x100010 in memory that is loaded from 0x100000 on, for which the file has too few bytes in \
               front of it";
    lies(&flat([load + 16, load, 0, 0], Some(load)), 8, few);
    let bare = [&[0; 8], &header(&[END])[..]].concat();
    lies(&bare, 8, "has no addresses, and the file is no ELF file that would have them");
}

#[test]
fn a_tag_for_the_entry_point_comes_before_the_one_of_the_file() {
    for is_wide in [false, true] {
        let image = Image { entry: 0, ..image(is_wide, &header(&[(3, 0, &[GPA as u32 + 4]), END])) };
        assert_eq!(lower(&request(&image.bytes())).unwrap().entry.rip, GPA + 4);
    }
}

#[test]
fn a_kernel_that_may_be_moved_is_moved_where_its_place_is_taken() {
    let at = |gpa: u64, [min, max, align]: [u32; 3]| {
        let image = image(false, &header(&[(10, 1, &[min, max, align, 0]), END]));
        let mut moved = Image { entry: image.entry - GPA + gpa, ..image };
        moved.loaded[0].gpa = gpa;
        moved.loaded[0].virtual_address = gpa;
        lower(&request(&moved.bytes()))
    };
    let place = |gpa, limits| {
        let lowered = at(gpa, limits).unwrap();
        check_places(&lowered, MEMORY_BYTES);
        let kernel = segment(&lowered, "kernel");
        let (.., base) = check_information(&lowered, MEMORY_BYTES);
        assert_eq!((base, lowered.entry.rip - kernel.gpa), (kernel.gpa, HEADER_AT as u64 + 48));
        kernel.gpa
    };
    let wide = [0x10_0000, u32::MAX, 0x1000];
    assert_eq!(place(GPA, wide), GPA);
    assert_eq!(place(0xa_0000, wide), 0x10_0000);
    assert_eq!(place(0, [0, u32::MAX, 0x40_0000]), 0x40_0000);
    assert_eq!(place(GPA, [0x50_0001, u32::MAX, 0x1000]), 0x50_1000);
    assert_eq!(place(GPA, [0x20_0000, 0x20_ffff, 0]), 0x20_0000);
    let error = at(GPA, [0, 0xf_ffff, 1]).unwrap_err().to_string();
    let cause =
        "lets the kernel, of 0x8e bytes, lie from 0x0 to 0x100000, where there is no place for it from 0x100000 on";
    assert_eq!(error, format!("the kernel's multiboot2 header, at byte 0x210 of its file, {cause}"));
}

fn lies(file: &[u8], at: usize, cause: &str) {
    let error = lower(&request(file)).unwrap_err();
    assert_eq!(error.to_string(), format!("the kernel's multiboot2 header, at byte {at:#x} of its file, {cause}"));
    assert!(!error.remedy().is_empty());
}

#[test]
fn what_the_machine_does_not_have_is_refused_unless_it_is_optional() {
    let demands = |(kind, _, contents): Tag<'_>, demand: &str| {
        let error = lower(&request(&file(&[(kind, 0, contents)]))).unwrap_err();
        let place = "the kernel's multiboot2 header, at byte 0x210 of its file, demands";
        assert_eq!(error.to_string(), format!("{place} {demand}, which the machine does not have"));
        assert!(lower(&request(&file(&[(kind, 1, contents)]))).is_ok(), "{demand}");
    };
    demands((5, 0, &[1024, 768, 32]), "a framebuffer");
    demands((4, 0, &[3]), "a console that is a screen");
    demands((99, 0, &[]), "what a tag of type 99 stands for, which no specification tells");
    for (kind, topic) in [
        (5, "the disk that the kernel was loaded from"),
        (7, "video modes"),
        (8, "a framebuffer"),
        (9, "the sections of its ELF file"),
        (10, "APM"),
        (12, "EFI"),
        (13, "SMBIOS"),
        (16, "a network"),
        (20, "EFI"),
        (77, "what type 77 stands for"),
    ] {
        demands((1, 0, &[6, kind]), &format!("information about {topic}"));
    }
    // Of a machine without EFI, these say nothing.
    assert!(lower(&request(&file(&[(7, 0, &[]), (8, 0, &[1]), (9, 0, &[1])]))).is_ok());
    let other = image(false, &[&start(4, 24)[..], &[0, 0, 0, 0, 8, 0, 0, 0]].concat()).bytes();
    let error = lower(&request(&other)).unwrap_err().to_string();
    assert!(error.contains("demands a processor of its architecture 4, which is not x86, which"), "{error}");
}

#[test]
fn a_header_that_lies_is_told_of() {
    let at = FIRST_OFFSET + HEADER_AT;
    let with = |header: &[u8], cause: &str| lies(&image(false, header).bytes(), at, cause);
    let end = [0, 0, 0, 0, 8, 0, 0, 0];
    let outside = |length: u32| {
        let cause = "with which it is not in the file's first 32768";
        with(&[&start(0, length)[..], &end].concat(), &format!("has {length} bytes by its own word, {cause}"));
    };
    outside(15);
    outside(0x4000);
    outside(u32::MAX);
    let tags = "has tags that reach beyond its end, or no last one";
    with(&start(0, 16), tags);
    with(&[&start(0, 20)[..], &end].concat(), tags);
    with(&[&start(0, 24)[..], &[6, 0, 0, 0, 8, 0, 0, 0]].concat(), tags);
    with(&[&start(0, 24)[..], &[6, 0, 0, 0, 7, 0, 0, 0]].concat(), tags);
    with(&[&start(0, 32)[..], &[6, 0, 0, 0, 17, 0, 0, 0], &end].concat(), tags);
    let short = |kind: u16, contents, bytes| {
        with(
            &header(&[(kind, 0, contents), END]),
            &format!("has a tag of type {kind} that is too short, of {bytes} bytes"),
        );
    };
    short(2, &[1, 2, 3], 20);
    short(3, &[], 8);
    short(4, &[], 8);
    short(10, &[1, 2], 16);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_kernel_is_lowered_or_refused(
        kind in 0usize..3,
        tags in proptest::collection::vec(
            (0u16..12, 0u16..2, proptest::collection::vec(prop_oneof![0u32..24, 0xf_ff00u32..0x10_0100, any::<u32>()], 0..6)), 0..4
        ),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        memory_bytes in prop_oneof![0u64..64 << 20, Just(MEMORY_BYTES)],
        modules in proptest::collection::vec(0usize..5000, 0..4),
    ) {
        let mut tags: Vec<Tag<'_>> = tags.iter().map(|(kind, flags, contents)| (*kind, *flags, &contents[..])).collect();
        let load = [0x10_0000, 0x10_0000, 0, 0];
        if kind == 2 {
            tags.extend([(2, 0, &load[..]), (3, 0, &load[..1])]);
        }
        tags.push(END);
        let header = header(&tags);
        let mut file = match kind {
            0 => image(false, &header).bytes(),
            1 => image(true, &header).bytes(),
            _ => [&header, CODE].concat(),
        };
        for (at, value) in changes {
            let at = at.index(file.len());
            file[at] = value;
        }
        let contents = [0x55; 5000];
        let modules: Vec<_> = modules.iter().map(|&bytes| Module { bytes: &contents[..bytes], text: "text" }).collect();
        if let Ok(lowered) = lower(&Request { modules: &modules, memory_bytes, ..request(&file) }) {
            check_places(&lowered, memory_bytes);
            if lowered.about.format == Format::Multiboot2 {
                check_stack(&lowered, 4096);
                let (_, found, _) = check_information(&lowered, memory_bytes);
                prop_assert_eq!(found.len(), modules.len());
            }
        }
    }
}
