//! PVH kernels: the start information that they find, and notes that lie.

mod checks;
mod elf;
mod kernel;

use checks::{Memory, check_golden, check_places, check_stack, shown};
use elf::Image;
use proptest::prelude::*;
use tollgate_abi::guest_image::Mode;
use tollgate_guests::{Format, Lowered, Module, Request, layout, lower, recognise};

const MEMORY_BYTES: u64 = 32 << 20;
const GPA: u64 = 0x10_0000;
const ENTRY: u64 = GPA + 8;

/// `mov al, 42h; out F4h, al; hlt; jmp` back to it, 8 bytes in.
const CODE: &[u8] = b"\0\0\0\0\0\0\0\0\xb0\x42\xe6\xf4\xf4\xeb\xfd";

fn image(is_wide: bool) -> Image {
    let note = ("Xen", 18, (ENTRY as u32).to_le_bytes().to_vec());
    let other = ("Xen", 6, b"other\0".to_vec());
    // The header's own entry point is not the one of PVH.
    let image = Image::of(is_wide, GPA, CODE.to_vec());
    Image { notes: vec![("GNU", 18, vec![0; 4]), other, note], ..image }
}

fn request(kernel: &[u8]) -> Request<'_> {
    Request { kernel, initrd: None, modules: &[], command_line: "one two", memory_bytes: MEMORY_BYTES, vcpus: 1 }
}

/// The start information as a kernel reads it: command line, and address, bytes and text of each module.
fn check_information(lowered: &Lowered, memory_bytes: u64) -> (String, Vec<(u64, u64, String)>) {
    let (memory, at) = (Memory(lowered), lowered.entry.rbx);
    assert_eq!((lowered.entry.mode, lowered.entry.rax, lowered.entry.cr3), (Mode::Protected, 0, 0));
    assert_eq!((memory.word(at), memory.word(at + 4), memory.word(at + 8)), (0x336e_c578, 1, 0));
    let (list, map) = (memory.long(at + 16), memory.long(at + 40));
    assert_eq!((memory.long(at + 32), memory.word(at + 48)), (layout::ACPI_GPA, 3));
    assert_eq!(&memory.from(layout::ACPI_GPA)[..8], b"RSD PTR ");
    let regions = [0, 24, 48].map(|entry| [0, 8, 16].map(|offset| memory.long(map + entry + offset)));
    assert_eq!(regions, [[0, 0x9_e000, 1], [0x9_e000, 0x2000, 3], [0x10_0000, memory_bytes - 0x10_0000, 1]]);
    let modules = (0..memory.word(at + 12)).map(|number| list + 32 * number);
    let modules =
        modules.map(|entry| (memory.long(entry), memory.long(entry + 8), memory.text(memory.long(entry + 16))));
    (memory.text(memory.long(at + 24)), modules.collect())
}

#[test]
fn a_kernel_finds_its_command_line_its_modules_and_its_memory() {
    for is_wide in [false, true] {
        let file = image(is_wide).bytes();
        assert_eq!(recognise(&file), Ok(Format::Pvh));
        let modules = [Module { bytes: b"the second", text: "of two" }];
        let lowered = lower(&Request { initrd: Some(b"first"), modules: &modules, ..request(&file) }).unwrap();
        check_places(&lowered, MEMORY_BYTES);
        check_stack(&lowered, 4096);
        let (line, found) = check_information(&lowered, MEMORY_BYTES);
        assert_eq!((line.as_str(), found.len(), lowered.entry.rip), ("one two", 2, ENTRY));
        let contents =
            found.iter().map(|(gpa, bytes, text)| (&Memory(&lowered).from(*gpa)[..*bytes as usize], &text[..]));
        assert_eq!(contents.collect::<Vec<_>>(), [(&b"first"[..], "initrd"), (b"the second", "of two")]);
        let name = if is_wide { "pvh-64.txt" } else { "pvh-32.txt" };
        check_golden(name, &shown(&lowered, &["kernel", "PVH start information"]));
    }
}

#[test]
fn a_note_may_have_8_bytes_and_has_to_lead_into_the_kernel() {
    let with = |note: &[u8]| {
        let mut image = image(true);
        image.notes[2].2 = note.to_vec();
        lower(&request(&image.bytes())).map(|lowered| lowered.entry.rip).map_err(|error| error.to_string())
    };
    assert_eq!(with(&ENTRY.to_le_bytes()), Ok(ENTRY));
    let sentence = |cause: &str| Err(format!("the kernel's ELF file has a PVH note {cause}"));
    assert_eq!(with(&[1; 5]), sentence("of 5 bytes, and 4 or 8 were an address"));
    assert_eq!(with(&[]), sentence("of 0 bytes, and 4 or 8 were an address"));
    assert_eq!(with(&[0, 0, 0, 1]), sentence("whose address, 0x1000000, is in none of its segments"));
}

#[test]
fn linux_is_entered_as_linux() {
    let mut linux = image(true);
    linux.loaded[0].bytes.extend(b"Linux version 6.1.0-test (builder@host) #1");
    linux.loaded[0].memory_bytes = 0x1000;
    let lowered = lower(&request(&linux.bytes())).unwrap();
    assert_eq!((lowered.about.format, lowered.entry.mode), (Format::Elf, Mode::Long));
    assert_eq!((lowered.entry.rip, lowered.entry.rsi), (GPA, layout::BOOT_PARAMS_GPA));
}

#[test]
fn linux_takes_no_modules() {
    let modules = [Module { bytes: b"module", text: "" }];
    let error = |file: &[u8]| lower(&Request { modules: &modules, ..request(file) }).unwrap_err().to_string();
    assert_eq!(error(&kernel::elf()), "the kernel's file is an ELF file, which is given no modules");
    assert_eq!(error(&kernel::lz4_bzimage()), "the kernel's file is a bzImage, which is given no modules");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_kernel_is_lowered_or_refused(
        is_wide in any::<bool>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        cut in prop::option::of(0usize..0x300),
        memory_bytes in prop_oneof![0u64..64 << 20, Just(MEMORY_BYTES)],
    ) {
        let mut file = image(is_wide).bytes();
        for (at, value) in changes {
            let at = at.index(file.len());
            file[at] = value;
        }
        file.truncate(cut.unwrap_or(usize::MAX));
        let modules = [Module { bytes: b"module", text: "" }];
        let lowered = lower(&Request { modules: &modules, memory_bytes, ..request(&file) });
        if let Ok(lowered) = lowered.or_else(|_| lower(&Request { memory_bytes, ..request(&file) })) {
            check_places(&lowered, memory_bytes);
            if lowered.about.format == Format::Pvh {
                check_stack(&lowered, 4096);
                check_information(&lowered, memory_bytes);
            }
        }
    }
}
