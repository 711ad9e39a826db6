//! Kernels are lowered to the memory and the state that Linux' 64-bit boot protocol asks for.

mod checks;
mod kernel;

use checks::{check_places, number, segment};
use kernel::{DATA, DATA_GPA, DATA_MEMORY_BYTES, ENTRY_GPA, TEXT_GPA};
use kernel::{bzimage, elf, lz4_bzimage, payloads, put, request, text};
use proptest::prelude::*;
use tollgate_abi::guest_image::Mode;
use tollgate_guests::{Error, Request, layout, lower};

#[test]
fn every_packing_unpacks_to_the_same_kernel() {
    for (packing, payload) in payloads() {
        let image = bzimage(&payload);
        let lowered = lower(&request(&image)).unwrap_or_else(|error| panic!("{packing}: {error}"));
        check_places(&lowered, 64 << 20);
        let kernel: Vec<_> = lowered.segments.iter().filter(|segment| segment.what == "kernel").collect();
        assert_eq!((kernel[0].gpa, &kernel[0].bytes), (TEXT_GPA, &text()), "{packing}");
        assert_eq!((kernel[1].gpa, kernel[1].memory_bytes), (DATA_GPA, DATA_MEMORY_BYTES));
        assert_eq!(kernel[1].bytes, DATA);
        assert_eq!(lowered.entry.rip, ENTRY_GPA);
        let about = lowered.about.to_string();
        let expected = format!(
            "Linux 6.1.0-header: a bzImage of boot protocol 2.15, {} bytes unpacked from {packing} on the host, \
             entered at 0x1000043",
            elf().len()
        );
        assert_eq!(about, expected);
    }
}

#[test]
fn an_elf_file_is_lowered_with_a_setup_header_of_our_own() {
    let file = elf();
    let lowered = lower(&request(&file)).unwrap();
    check_places(&lowered, 64 << 20);
    assert_eq!(lowered.about.to_string(), "Linux 6.1.0-test: an ELF file, entered at 0x1000043");
    let page = &segment(&lowered, "boot_params").bytes;
    assert_eq!((&page[0x202..0x206], number(page, 0x206, 2), number(page, 0x1fe, 2)), (&b"HdrS"[..], 0x20f, 0xaa55));
}

#[test]
fn the_zero_page_tells_of_everything() {
    let image = lz4_bzimage();
    let initrd = kernel::archive();
    let lowered = lower(&Request { initrd: Some(&initrd), ..request(&image) }).unwrap();
    check_places(&lowered, 64 << 20);
    let page = &segment(&lowered, "boot_params").bytes;
    assert_eq!(page.len(), 4096);
    // The header comes from the file, as far as its jump says, with the loader's fields written.
    assert_eq!(number(page, 0x206, 2), 0x20f);
    assert_eq!(number(page, 0x260, 4), u64::from(kernel::INIT_BYTES));
    assert_eq!((page[0x210], page[0x211] & 1), (0xff, 1));
    let placed = segment(&lowered, "initrd");
    assert_eq!((number(page, 0x218, 4), number(page, 0x21c, 4)), (placed.gpa, initrd.len() as u64));
    // The last page stays free for a mark behind it.
    assert_eq!((placed.gpa % 4096, placed.end().next_multiple_of(4096)), (0, (64 << 20) - 4096));
    let line = segment(&lowered, "command line");
    assert_eq!((number(page, 0x228, 4), &line.bytes[..]), (line.gpa, &b"console=ttyS0\0"[..]));
    assert_eq!(number(page, 0x70, 8), segment(&lowered, "ACPI tables").gpa);
    let memory: Vec<_> = (0..page[0x1e8] as usize)
        .map(|at| {
            (number(page, 0x2d0 + 20 * at, 8), number(page, 0x2d8 + 20 * at, 8), number(page, 0x2e0 + 20 * at, 4))
        })
        .collect();
    assert_eq!(memory, [(0, 0x9_e000, 1), (0x9_e000, 0x2000, 3), (0x10_0000, (64 << 20) - 0x10_0000, 1)]);
    assert_eq!((lowered.entry.rsi, lowered.entry.rsp), (layout::BOOT_PARAMS_GPA, layout::STACK_TOP_GPA));
}

#[test]
fn a_setup_header_ends_with_its_room() {
    let mut image = lz4_bzimage();
    put(&mut image, 0x201, &[0xff]);
    put(&mut image, 0x26c, &[0x5a; 0x64]);
    let lowered = lower(&request(&image)).unwrap();
    let page = &segment(&lowered, "boot_params").bytes;
    assert_eq!(page[0x28e..0x292], [0x5a, 0x5a, 0, 0]);
}

#[test]
fn the_page_tables_map_four_gib_to_themselves() {
    let lowered = lower(&request(&elf())).unwrap();
    let tables = segment(&lowered, "page tables");
    let entry = |table: u64, index: u64| number(&tables.bytes, (table - tables.gpa + 8 * index) as usize, 8);
    for address in [0, 0x1f_ffff, 0x20_0000, 0x3fff_ffff, 0x4000_0000, 0xfee0_0000, 0xffff_ffff_u64] {
        let pointers = entry(lowered.entry.cr3, 0);
        let directory = entry(pointers & !0xfff, address >> 30);
        let page = entry(directory & !0xfff, address >> 21 & 0x1ff);
        assert_eq!([pointers & 0xfff, directory & 0xfff, page & 0xfff], [3, 3, 0x83], "{address:#x}");
        assert_eq!(page & !0xfff, address & !0x1f_ffff, "{address:#x}");
    }
    assert_eq!((entry(lowered.entry.cr3, 1), tables.memory_bytes), (0, 6 * 4096));
}

/// The kernel in one file, changed, is refused with this sentence.
fn refused(file: &[u8], sentence: &str) {
    let error = lower(&request(file)).unwrap_err();
    assert_eq!(error.to_string(), sentence);
    assert!(!error.remedy().is_empty());
}

#[test]
fn a_bzimage_that_is_cut_off_tells_the_field() {
    let image = lz4_bzimage();
    let fields = [
        (0x208, "version"),
        (0x210, "kernel_version"),
        (0x230, "initrd_addr_max"),
        (0x238, "xloadflags"),
        (0x23c, "cmdline_size"),
        (0x24c, "payload_offset"),
        (0x250, "payload_length"),
        (0x260, "pref_address"),
        (0x264, "init_size"),
        (0x26c, "setup header"),
        (image.len(), "packed kernel"),
    ];
    let mut from = 0x206;
    for (end, part) in fields {
        for bytes in [from, end - 1] {
            let expected = Error::Truncated { part, end: end as u64, bytes: bytes as u64 };
            assert_eq!(lower(&request(&image[..bytes])).unwrap_err(), expected);
        }
        from = end;
    }
    let short = &image[..0x1fe];
    refused(
        &[b"MZ", &short[2..]].concat(),
        "the kernel's file is truncated: its boot header reaches to byte 518, and the file has 510",
    );
}

#[test]
fn a_bzimage_that_can_not_be_entered_says_why() {
    let changed = |offset, value: &[u8]| {
        let mut image = lz4_bzimage();
        put(&mut image, offset, value);
        image
    };
    refused(
        &changed(0x206, &[11, 2]),
        "the kernel speaks boot protocol 2.11, and 2.12 (Linux 3.8) is the first with a 64-bit entry",
    );
    let wide = {
        let mut elf = elf();
        put(&mut elf, 4, &[1]);
        elf
    };
    refused(&bzimage(&kernel::gzip(&wide)), "the kernel is a 32-bit one, and the guest is entered in 64-bit mode");
    refused(
        &bzimage(b"nothing that is packed"),
        "the bzImage's packed kernel begins with the mark of no packing that is known here",
    );
    for (mark, name) in [(&b"BZh9........"[..], "bzip2"), (b"\x89LZO\0.......", "LZO")] {
        refused(&bzimage(mark), &format!("the kernel is packed with {name}, which is not unpacked here"));
    }
}

#[test]
fn a_bzimage_without_a_packed_kernel_is_entered_as_it_is() {
    const LOAD_GPA: u64 = 0x10_0000;
    let code: Vec<u8> = (0..0x300u32).map(|at| at as u8).collect();
    let image = |flags: u8, length: u32, name: &[u8]| {
        let mut image = bzimage(&code);
        put(&mut image, 0x236, &[flags, 0]);
        put(&mut image, 0x24c, &length.to_le_bytes());
        put(&mut image, 0x258, &LOAD_GPA.to_le_bytes());
        put(&mut image, 0x300, name);
        image
    };
    let bytes = |image: &[u8]| image[kernel::SETUP_BYTES..].to_vec();
    // As memtest86+ is: nothing packed, and an entry of 64 bits.
    let file = image(9, 0, b"Memtest86+ v6\0");
    let lowered = lower(&request(&file)).unwrap();
    check_places(&lowered, 64 << 20);
    let (entry, kernel) = (lowered.entry, segment(&lowered, "kernel"));
    assert_eq!((entry.mode, entry.rip, entry.rsi), (Mode::Long, LOAD_GPA + 0x200, layout::BOOT_PARAMS_GPA));
    assert_eq!((kernel.gpa, &kernel.bytes), (LOAD_GPA, &bytes(&file)));
    assert_eq!(
        lowered.about.to_string(),
        "Memtest86+: a bzImage with nothing packed of boot protocol 2.15, entered at 0x100200"
    );
    assert_eq!(segment(&lowered, "RSDP").gpa, layout::FOUND_RSDP_GPA);
    // As 32-bit Linux is: it unpacks itself.
    let file = image(0, code.len() as u32, b"6.1.0-686\0");
    let lowered = lower(&request(&file)).unwrap();
    check_places(&lowered, 64 << 20);
    assert_eq!((lowered.entry.mode, lowered.entry.rip), (Mode::Protected, LOAD_GPA));
    assert_eq!(lowered.entry.rsi, layout::BOOT_PARAMS_GPA);
    assert_eq!(lowered.about.to_string(), "Linux 6.1.0-686: a bzImage of boot protocol 2.15, entered at 0x100000");
    // The memory that the header asks for counts.
    let small = lower(&Request { memory_bytes: 4 << 20, ..request(&file) }).unwrap_err().to_string();
    assert_eq!(small, "the kernel needs at least 5 MiB of memory, and the machine has 4");
    let mut far = file;
    put(&mut far, 0x258, &u64::MAX.to_le_bytes());
    let place =
        "the bzImage wants to lie at 0xffffffffffffffff (pref_address), which is beyond the most memory of a machine";
    refused(&far, place);
    put(&mut far, 0x258, &0x9_0000u64.to_le_bytes());
    refused(&far, "the kernel wants memory at 0x90000; all below 0x100000 belongs to the boot information");
    let file = image(9, 0, b"");
    let cut = lower(&request(&file[..kernel::SETUP_BYTES + 0x200])).unwrap_err().to_string();
    assert_eq!(cut, "the kernel's file is truncated: its kernel reaches to byte 2049, and the file has 2048");
}

#[test]
fn a_damaged_payload_is_noticed() {
    let damaged = |name: &str, payload: &[u8]| {
        let error = lower(&request(&bzimage(payload))).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. } | Error::UnpackedSize { .. }), "{name}: {error}");
    };
    for (name, payload) in payloads() {
        damaged(name, &payload[..payload.len() / 2]);
        damaged(name, &payload[..6]);
        let mut other_size = payload.clone();
        other_size[payload.len() - 4] ^= 1;
        damaged(name, &other_size);
        // LZ4's legacy frame and LZMA's first have no checksum.
        if name != "LZ4" && name != "LZMA" {
            let mut flipped = payload;
            let middle = flipped.len() / 2;
            flipped[middle] ^= 0x10;
            damaged(name, &flipped);
        }
    }
    refused(
        &bzimage(&[kernel::zstd(&elf()), vec![0; 4]].concat()),
        "the packed kernel is damaged: 1 bytes are unpacked from ZSTD, and its end says 0",
    );
}

#[test]
fn an_elf_file_that_can_not_be_loaded_says_why() {
    let changed = |offset, value: &[u8]| {
        let mut file = elf();
        put(&mut file, offset, value);
        file
    };
    let sentence = |what| format!("the kernel's ELF file {what}");
    let thirty_two = "the kernel is a 32-bit ELF file with neither a header of multiboot nor a note about PVH";
    refused(&changed(4, &[1]), thirty_two);
    refused(&elf()[..0x30], "the kernel's file is truncated: its ELF header reaches to byte 64, and the file has 48");
    refused(&changed(5, &[2]), &sentence("is for a big-endian machine, not for x86"));
    refused(&changed(18, &[183]), &sentence("is for another machine (ELF machine 183), not for x86"));
    refused(&changed(16, &[3]), &sentence("is position-independent (a library or a PIE), not a kernel"));
    refused(&changed(16, &[1]), &sentence("is an object file that is not linked yet"));
    refused(&changed(56, &[0xff, 0xff]), &sentence("has a program-header table outside of it"));
    refused(&changed(24, &[0; 8]), &sentence("has its entry point, 0x0, in none of its segments"));
    let (data, text) = (64, 64 + 56);
    let mut nothing = changed(data, &[4]);
    put(&mut nothing, text, &[4]);
    refused(&nothing, &sentence("has nothing to load"));
    refused(
        &changed(text + 24, &0x8_0000u64.to_le_bytes()),
        "the kernel wants memory at 0x80000; all below 0x100000 belongs to the boot information",
    );
    refused(
        &changed(data + 24, &(TEXT_GPA + 0x2fff).to_le_bytes()),
        "the kernel's segments at 0x1000000 and 0x1002fff overlap",
    );
    refused(
        &changed(data + 40, &8u64.to_le_bytes()),
        &sentence("has more bytes for its segment at 0x1200000 than that has memory"),
    );
    refused(
        &changed(data + 40, &u64::MAX.to_le_bytes()),
        &sentence("has a segment at 0x1200000 that reaches beyond 0x7c000000, the most memory"),
    );
    let file = elf();
    let bytes = file.len() - 1;
    let expected = Error::Truncated { part: "ELF segment", end: file.len() as u64, bytes: bytes as u64 };
    assert_eq!(lower(&request(&file[..bytes])).unwrap_err(), expected);
}

#[test]
fn the_machine_has_to_have_room() {
    let image = lz4_bzimage();
    let initrd = kernel::archive();
    let with = |change: &dyn Fn(&mut Request<'_>)| {
        let mut request = Request { initrd: Some(&initrd), ..request(&image) };
        change(&mut request);
        lower(&request).map_err(|error| error.to_string())
    };
    // The header asks for 4 MiB from 16 MiB on, the initrd takes a page more, and one stays free.
    assert_eq!(
        with(&|request| request.memory_bytes = 20 << 20).unwrap_err(),
        "the kernel and its initrd need at least 21 MiB of memory, and the machine has 20"
    );
    assert_eq!(
        with(&|request| (request.memory_bytes, request.initrd) = ((20 << 20) - 1, None)).unwrap_err(),
        "the kernel needs at least 20 MiB of memory, and the machine has 19"
    );
    assert!(with(&|request| (request.memory_bytes, request.initrd) = (20 << 20, None)).is_ok());
    let tight = with(&|request| request.memory_bytes = (20 << 20) + 8192).unwrap();
    assert_eq!(segment(&tight, "initrd").gpa, 20 << 20);
    assert_eq!(
        with(&|request| request.memory_bytes = 1985 << 20).unwrap_err(),
        "a machine of 1985 MiB of memory is too large; 1984 MiB is the most"
    );
    for vcpus in [0, 17] {
        let expected = format!("a machine of {vcpus} vCPUs can't be made; 1 to 16 can");
        assert_eq!(with(&|request| request.vcpus = vcpus).unwrap_err(), expected);
    }
    check_places(&with(&|request| request.vcpus = 16).unwrap(), 64 << 20);
}

#[test]
fn the_kernels_own_limits_hold() {
    let mut image = lz4_bzimage();
    let initrd = kernel::archive();
    let longest = "a".repeat(kernel::COMMAND_LINE_BYTES);
    assert!(lower(&Request { command_line: &longest, ..request(&image) }).is_ok());
    let error = |request: &Request<'_>| lower(request).unwrap_err().to_string();
    assert_eq!(
        error(&Request { command_line: &(longest + "a"), ..request(&image) }),
        "the command line has 61 bytes, and the kernel takes 60"
    );
    assert_eq!(
        error(&Request { command_line: "quiet\0", ..request(&image) }),
        "the command line has a control character at byte 5"
    );
    put(&mut image, 0x22c, &0x17f_ffffu32.to_le_bytes());
    let lowered = lower(&Request { initrd: Some(&initrd), ..request(&image) }).unwrap();
    assert_eq!(segment(&lowered, "initrd").end().next_multiple_of(4096), 0x180_0000);
    put(&mut image, 0x22c, &0x140_0000u32.to_le_bytes());
    assert_eq!(
        error(&Request { initrd: Some(&initrd), ..request(&image) }),
        format!(
            "the initrd has {} bytes, and the kernel takes one below 0x1400001 only, of which 0x1400000 are its own",
            initrd.len()
        )
    );
}

#[test]
fn an_initrd_is_read_before_it_is_taken() {
    let image = lz4_bzimage();
    let lowered = |initrd: &[u8]| lower(&Request { initrd: Some(initrd), ..request(&image) });
    let archive = kernel::archive();
    for packed in &kernel::packings(&archive) {
        assert!(lowered(packed).is_ok());
        assert!(lowered(&[&archive[..], packed].concat()).is_ok(), "archives one after another");
        let error = lowered(&packed[..packed.len() / 2]).unwrap_err();
        assert!(matches!(error, Error::DamagedInitrd { at: 0, .. }), "{error}");
        let error = lowered(&[&archive[..], &packed[..packed.len() / 2]].concat()).unwrap_err();
        assert!(matches!(error, Error::DamagedInitrd { at, .. } if at == archive.len()), "{error}");
    }
    assert!(lowered(b"BZh9 is read by Linux alone").is_ok());
    assert!(lowered(&[&archive[..], b"a configuration"].concat()).is_ok());
    let refused = |initrd: &[u8], sentence: &str| assert_eq!(lowered(initrd).unwrap_err().to_string(), sentence);
    refused(b"", "the initrd is empty");
    refused(&[0; 512], "the initrd is no archive of cpio, packed or not");
    refused(b"\x7fELF", "the initrd is no archive of cpio, packed or not");
    let damaged = "the initrd is damaged: the archive at byte";
    refused(&archive[..120], &format!("{damaged} 0 can't be read as cpio: failed to fill whole buffer"));
    let second = [&archive[..], &archive[..200]].concat();
    refused(&second, &format!("{damaged} {} can't be read as cpio: failed to fill whole buffer", archive.len()));
    refused(b"070707 of an old form", &format!("{damaged} 0 can't be read as cpio: Invalid magic number"));
}

proptest! {
    #[test]
    fn any_initrd_is_taken_or_refused(at in any::<prop::sample::Index>(), value in any::<u8>(), packing in 0usize..6) {
        let archive = kernel::archive();
        let mut initrd = kernel::packings(&archive).get(packing).cloned().unwrap_or(archive);
        let at = at.index(initrd.len());
        initrd[at] = value;
        let _ = lower(&Request { initrd: Some(&initrd), ..request(&elf()) });
    }

    #[test]
    fn any_header_is_lowered_or_refused(
        changes in proptest::collection::vec((0usize..0x300, any::<u8>()), 1..6),
        is_elf in any::<bool>(),
        memory_bytes in 0u64..1 << 32,
        cut in prop::option::of(0usize..0x1000),
    ) {
        let mut file = if is_elf { elf() } else { lz4_bzimage() };
        for (at, value) in changes {
            file[at] = value;
        }
        file.truncate(cut.unwrap_or(usize::MAX));
        let initrd = kernel::archive();
        if let Ok(lowered) = lower(&Request { initrd: Some(&initrd), memory_bytes, ..request(&file) }) {
            check_places(&lowered, memory_bytes);
        }
    }

    #[test]
    fn any_payload_is_unpacked_or_refused(which in 0usize..5, at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut payload = payloads()[which].1.clone();
        let at = at.index(payload.len() - 4);
        payload[at] = value;
        if let Ok(lowered) = lower(&request(&bzimage(&payload))) {
            check_places(&lowered, 64 << 20);
        }
    }
}
