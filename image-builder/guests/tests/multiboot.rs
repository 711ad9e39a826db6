//! Multiboot kernels: the information that they find, the places of everything, and headers that lie.

mod checks;
mod elf;

use checks::{Memory, check_golden, check_places, check_stack, segment, shown};
use elf::{FIRST_OFFSET, Image, Loaded};
use proptest::prelude::*;
use tollgate_abi::guest_image::Mode;
use tollgate_guests::{Error, Format, Lowered, Module, Request, lower, recognise};

const MEMORY_BYTES: u64 = 32 << 20;
const GPA: u64 = 0x40_0000;
const HAS_ADDRESSES: u32 = 1 << 16;

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn header(flags: u32) -> Vec<u8> {
    words(&[0x1bad_b002, flags, 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags)])
}

/// `mov al, 42h; out F4h, al; hlt; jmp` back to it.
const CODE: &[u8] = b"\xb0\x42\xe6\xf4\xf4\xeb\xfd";

/// An ELF file of this width whose segment has the header 16 bytes in, and the entry point behind it.
fn image(is_wide: bool) -> Image {
    let mut bytes = vec![0; 16];
    bytes.extend(header(3));
    bytes.extend([0; 4]);
    bytes.extend(CODE);
    Image { entry: GPA + 0x20, ..Image::of(is_wide, GPA, bytes) }
}

/// The header with addresses, and code behind it.
fn flat(addresses: [u32; 5]) -> Vec<u8> {
    [&header(HAS_ADDRESSES)[..], &words(&addresses), CODE].concat()
}

fn request(kernel: &[u8]) -> Request<'_> {
    Request {
        kernel,
        initrd: None,
        modules: &[],
        command_line: "kernel.elf one two",
        memory_bytes: MEMORY_BYTES,
        vcpus: 1,
    }
}

/// The information as a kernel reads it, by the addresses in it: command line, and start, end and text of each module.
fn check_information(lowered: &Lowered, memory_bytes: u64) -> (String, Vec<(u64, u64, String)>) {
    let (memory, at) = (Memory(lowered), lowered.entry.rbx);
    assert_eq!((lowered.entry.mode, lowered.entry.rax, lowered.entry.cr3), (Mode::Protected, 0x2bad_b002, 0));
    let field = |offset| memory.word(at + offset);
    assert_eq!((field(0), field(4)), (0x24d, 632));
    assert_eq!(field(8), (memory_bytes - (1 << 20)) / 1024);
    assert_eq!(memory.text(field(64)), "Tollgate");
    let (bytes, first) = (field(44), field(48));
    let regions: Vec<_> = (0..bytes / 24)
        .map(|entry| first + 24 * entry)
        .map(|entry| (memory.word(entry), memory.long(entry + 4), memory.long(entry + 12), memory.word(entry + 20)))
        .collect();
    let high = (20, 0x10_0000, memory_bytes - 0x10_0000, 1);
    assert_eq!(regions, [(20, 0, 0x9_e000, 1), (20, 0x9_e000, 0x2000, 3), high]);
    let modules = (0..field(20)).map(|number| field(24) + 16 * number);
    let modules =
        modules.map(|entry| (memory.word(entry), memory.word(entry + 4), memory.text(memory.word(entry + 8))));
    (memory.text(field(16)), modules.collect())
}

#[test]
fn a_kernel_finds_its_command_line_its_modules_and_its_memory() {
    let file = image(false).bytes();
    assert_eq!(recognise(&file), Ok(Format::Multiboot));
    let modules = [
        Module { bytes: b"NR_CPUS=1\nMEMLIMIT=64\nTEST_DEVICE=0\n", text: "env" },
        Module { bytes: &[7; 5000], text: "second of two" },
    ];
    let lowered = lower(&Request { initrd: Some(b"first"), modules: &modules, ..request(&file) }).unwrap();
    check_places(&lowered, MEMORY_BYTES);
    check_stack(&lowered, 4096);
    let (line, found) = check_information(&lowered, MEMORY_BYTES);
    assert_eq!(line, "kernel.elf one two");
    let contents: Vec<_> = found
        .iter()
        .map(|(start, end, text)| {
            assert_eq!(start % 4096, 0);
            (&Memory(&lowered).from(*start)[..(end - start) as usize], text.as_str())
        })
        .collect();
    assert_eq!(contents, [(&b"first"[..], "initrd"), (modules[0].bytes, "env"), (modules[1].bytes, "second of two")]);
    assert_eq!(lowered.entry.rip, GPA + 0x20);
    check_golden("multiboot.txt", &shown(&lowered, &["kernel", "multiboot information", "RSDP"]));
}

#[test]
fn the_second_rsdp_leads_to_the_same_tables_by_both_ways() {
    let lowered = lower(&Request { vcpus: 2, ..request(&image(false).bytes()) }).unwrap();
    let (memory, at) = (Memory(&lowered), 0xf_0000);
    let sum =
        |gpa: u64, bytes: u64| memory.from(gpa)[..bytes as usize].iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    assert_eq!((&memory.from(at)[..8], sum(at, 20), sum(at, 36)), (&b"RSD PTR "[..], 0, 0));
    let (rsdt, xsdt) = (memory.word(at + 16), memory.long(at + 24));
    assert_eq!((&memory.from(rsdt)[..4], &memory.from(xsdt)[..4]), (&b"RSDT"[..], &b"XSDT"[..]));
    assert_eq!((memory.word(rsdt + 4), sum(rsdt, memory.word(rsdt + 4))), (36 + 2 * 4, 0));
    let by_32 = [0, 1].map(|row| memory.word(rsdt + 36 + 4 * row));
    assert_eq!(by_32, [0, 1].map(|row| memory.long(xsdt + 36 + 8 * row)));
    assert_eq!(by_32.map(|table| &memory.from(table)[..4]), [b"FACP", b"APIC"]);
}

#[test]
fn files_of_64_bits_and_entries_by_virtual_addresses_are_taken() {
    let wide = lower(&request(&image(true).bytes())).unwrap();
    assert_eq!(wide.about.to_string(), "a multiboot kernel in an ELF file of 64 bits, entered at 0x400020");
    let mut high = image(false);
    (high.entry, high.loaded[0].virtual_address) = (0xc000_0020, 0xc000_0000);
    assert_eq!(lower(&request(&high.bytes())).unwrap().entry.rip, GPA + 0x20);
    high.entry = GPA + 0x20;
    assert_eq!(lower(&request(&high.bytes())).unwrap().entry.rip, GPA + 0x20);
}

#[test]
fn a_header_is_looked_for_in_the_first_8_kib_at_multiples_of_4() {
    let with_header_at = |at: usize| {
        let mut image = image(false);
        image.loaded[0].bytes = vec![0; 3 * 8192];
        image.loaded[0].memory_bytes = 3 * 8192;
        let mut file = image.bytes();
        file[at..at + 12].copy_from_slice(&header(0));
        recognise(&file)
    };
    assert_eq!(with_header_at(8192 - 12), Ok(Format::Multiboot));
    for at in [8192 - 8, 8192, FIRST_OFFSET + 2] {
        assert_eq!(with_header_at(at), Err(Error::NoHeader), "{at}");
    }
    let mut file = image(false).bytes();
    file[FIRST_OFFSET + 16 + 8] ^= 1;
    assert_eq!(
        lower(&request(&file)).unwrap_err().to_string(),
        "the kernel is a 32-bit ELF file with neither a header of multiboot nor a note about PVH"
    );
}

#[test]
fn a_header_with_addresses_needs_no_format() {
    let load = 0x10_0000;
    let bytes = (12 + 20 + CODE.len()) as u32;
    let taken = |file: &[u8]| {
        let lowered = lower(&request(file)).unwrap();
        check_places(&lowered, MEMORY_BYTES);
        let kernel = segment(&lowered, "kernel").clone();
        (kernel.gpa, kernel.bytes, kernel.memory_bytes, lowered.entry.rip, lowered.about.to_string())
    };
    let file = flat([load, load, load + bytes, load + 0x5000, load + 32]);
    let about = "a multiboot kernel, entered at 0x100020".to_owned();
    assert_eq!(taken(&file), (load.into(), file.clone(), 0x5000, u64::from(load) + 32, about.clone()));
    // All of the file, and nothing behind it.
    let file = flat([load, load, 0, 0, load + 32]);
    assert_eq!(taken(&file), (load.into(), file.clone(), bytes.into(), u64::from(load) + 32, about));
    // A part in front of the header is not loaded, another is, and of that behind it only a part.
    let (front, loaded) = ([0xee; 64], [0xaa; 32]);
    let file = [&front[..], &loaded, &flat([load + 32, load, load + 32 + bytes, 0, load + 64]), &[0xbb; 100]].concat();
    let (gpa, taken, ..) = taken(&file);
    assert_eq!((gpa, &taken[..32], taken.len()), (load.into(), &loaded[..], 32 + bytes as usize));
}

fn refused(file: &[u8], sentence: &str) {
    let error = lower(&request(file)).unwrap_err();
    assert_eq!(error.to_string(), sentence);
    assert!(!error.remedy().is_empty());
}

#[test]
fn a_header_that_lies_is_told_of() {
    let load = 0x10_0000;
    let lies = |addresses, cause: &str| {
        let file = [&[0; 16], &flat(addresses)[..]].concat();
        refused(&file, &format!("the kernel's multiboot header, at byte 0x10 of its file, {cause}"));
    };
    let too_few = "in memory that is loaded from 0x100000 on, for which the file has too few bytes in front of it";
    lies([load - 4, load, 0, 0, load], &format!("says that it lies at 0xffffc {too_few}"));
    lies([load + 20, load, 0, 0, load], &format!("says that it lies at 0x100014 {too_few}"));
    lies([load, load, load - 1, 0, load], "has load_end_addr 0xfffff below load_addr 0x100000");
    lies(
        [load, load, load + 16, load + 15, load],
        "has bss_end_addr 0x10000f below the end of what is loaded, 0x100010",
    );
    for entry in [load - 1, load + 0x20] {
        let cause = format!("has the entry point {entry:#x}, where nothing of the kernel is loaded");
        lies([load, load, load + 16, load + 32, entry], &cause);
    }
    refused(
        &header(0),
        "the kernel's multiboot header, at byte 0x0 of its file, has no addresses, and the file is no ELF file that would have \
         them",
    );
    let file = flat([load, load, load + 0x1000, 0, load]);
    let truncated = |part| format!("the kernel's file is truncated: its {part}");
    refused(&file, &format!("{} reaches to byte 4096, and the file has 39", truncated("kernel")));
    refused(&file[..31], &format!("{} reaches to byte 32, and the file has 31", truncated("multiboot header")));
    let mut outside = image(false);
    outside.entry = GPA - 1;
    refused(&outside.bytes(), "the kernel's ELF file has its entry point, 0x3fffff, in none of its segments");
}

#[test]
fn what_the_machine_does_not_have_is_refused() {
    let demands = |flags, demand: &str| {
        let file = [&header(flags)[..], CODE].concat();
        let place = "the kernel's multiboot header, at byte 0x0 of its file, demands";
        refused(&file, &format!("{place} {demand}, which the machine does not have"));
    };
    demands(1 << 2, "a video mode (bit 2 of its flags)");
    demands(1 << 5 | 3, "what bit 5 of its flags stands for, which no specification tells");
    // The upper half is for a loader that knows it.
    let mut file = image(false).bytes();
    file[FIRST_OFFSET + 16..][..12].copy_from_slice(&header(1 << 17 | 3));
    assert!(lower(&request(&file)).is_ok());
}

#[test]
fn a_kernel_lies_where_it_wants_and_the_information_beside_it() {
    let at = |gpa: u64, memory_bytes: u64| {
        let mut image = image(false);
        image.loaded[0] = Loaded { gpa, virtual_address: gpa, memory_bytes, ..image.loaded[0].clone() };
        image.entry = gpa + 0x20;
        lower(&request(&image.bytes()))
    };
    let information = |lowered: &Lowered| segment(lowered, "multiboot information").gpa;
    let usual = at(GPA, 0x1000).unwrap();
    assert_eq!(information(&usual), 0x1_1000);
    let low = at(0x4000, 0x1_0000).unwrap();
    check_places(&low, MEMORY_BYTES);
    check_stack(&low, 4096);
    check_information(&low, MEMORY_BYTES);
    assert_eq!(information(&low), 0x2000);
    let hole = |gpa, memory_bytes| {
        let end: u64 = gpa + memory_bytes;
        let free = "free are 0x1000 to 0x9e000, and all from 0x100000 on";
        let expected = format!("the kernel wants memory from {gpa:#x} to {end:#x}; {free}");
        assert_eq!(at(gpa, memory_bytes).unwrap_err().to_string(), expected);
    };
    hole(0xfff, 0x1000);
    hole(0x9_d001, 0x1000);
    hole(0xb_8000, 0x1000);
    hole(0xf_f000, 0x2000);
    let room = at(0x1000, 0x9_d000).unwrap_err().to_string();
    assert_eq!(room, "the boot information has 0xe1 bytes, and the kernel leaves no room for it below 0x9e000");
    let memory = at(GPA, MEMORY_BYTES - GPA + 1).unwrap_err().to_string();
    assert_eq!(memory, "the kernel needs at least 33 MiB of memory, and the machine has 32");
    assert!(at(GPA, MEMORY_BYTES - GPA).is_ok());
    let beyond = at(GPA, 0xf000_0000).unwrap_err().to_string();
    assert!(beyond.ends_with("has a segment at 0x400000 that reaches beyond 0x7c000000, the most memory"), "{beyond}");
}

#[test]
fn modules_have_to_fit() {
    let file = image(false).bytes();
    let with =
        |modules: &[Module<'_>]| lower(&Request { modules, ..request(&file) }).map_err(|error| error.to_string());
    let large = vec![1; (MEMORY_BYTES - GPA) as usize - 4096];
    let (large, small) = (Module { bytes: &large, text: "" }, Module { bytes: b"m", text: "" });
    check_places(&with(&[large]).unwrap(), MEMORY_BYTES);
    let little = "the kernel and its modules need at least 33 MiB of memory, and the machine has 32";
    assert_eq!(with(&[large, small]).unwrap_err(), little);
    assert_eq!(with(&[small, Module { bytes: b"", text: "" }]).unwrap_err(), "module 2 is empty");
    let text = Module { text: "a\0b", ..small };
    assert_eq!(with(&[text]).unwrap_err(), "the text of module 1 has a control character at byte 1");
    let long = "t".repeat(0x1_0000);
    let many = [Module { text: &long, ..small }; 10];
    check_places(&with(&many[..9]).unwrap(), MEMORY_BYTES);
    let room = "the boot information has 0xa01d1 bytes, and the kernel leaves no room for it below 0x9e000";
    assert_eq!(with(&many).unwrap_err(), room);
    let line = "l".repeat(0x1_0000);
    let error = lower(&Request { command_line: &line, ..request(&file) }).unwrap_err();
    assert_eq!(error.to_string(), "the command line has 65536 bytes, and the kernel takes 65535");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_kernel_is_lowered_or_refused(
        kind in 0usize..3,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        addresses in prop::option::of(proptest::array::uniform5(0u32..0x200)),
        cut in prop::option::of(0usize..0x300),
        memory_bytes in prop_oneof![0u64..64 << 20, Just(MEMORY_BYTES)],
        modules in proptest::collection::vec(0usize..5000, 0..4),
    ) {
        let low = 0xf_ff00;
        let addresses = addresses.map(|all| all.map(|address| if address < 4 { 0 } else { low + address }));
        let mut file = match (kind, addresses) {
            (0, _) => image(false).bytes(),
            (1, _) => image(true).bytes(),
            (_, addresses) => flat(addresses.unwrap_or([low, low, 0, 0, low])),
        };
        for (at, value) in changes {
            let at = at.index(file.len());
            // A changed header that has no checksum is none.
            if !(file[at] == 0x1b || kind == 2 && at < 12) {
                file[at] = value;
            }
        }
        file.truncate(cut.unwrap_or(usize::MAX));
        let contents = [0x55; 5000];
        let modules: Vec<_> = modules.iter().map(|&bytes| Module { bytes: &contents[..bytes], text: "text" }).collect();
        if let Ok(lowered) = lower(&Request { modules: &modules, memory_bytes, ..request(&file) }) {
            check_places(&lowered, memory_bytes);
            if lowered.about.format == Format::Multiboot {
                check_stack(&lowered, 4096);
                let (_, found) = check_information(&lowered, memory_bytes);
                prop_assert_eq!(found.len(), modules.len());
            }
        }
    }
}
