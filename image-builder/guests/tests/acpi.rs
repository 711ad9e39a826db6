//! The ACPI tables: found from the RSDP as a system finds them, their checksums right, their bytes those that were looked at.

mod checks;
mod kernel;

use checks::{check_golden, dump, number};
use tollgate_abi::machine::{MOST_VCPUS, legacy_pc, pc};
use tollgate_guests::{Request, layout, lower};

fn tables(vcpus: u32) -> Vec<u8> {
    let lowered = lower(&Request { vcpus, ..kernel::request(&kernel::elf()) }).unwrap();
    let segment = lowered.segments.into_iter().find(|segment| segment.what == "ACPI tables").unwrap();
    assert!(segment.gpa == layout::ACPI_GPA && segment.end() <= layout::LOW_END_GPA);
    segment.bytes
}

fn check_sum(bytes: &[u8]) {
    assert_eq!(bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)), 0, "{bytes:x?}");
}

/// The table at an address, whose checksum is right.
fn table<'a>(all: &'a [u8], gpa: u64, signature: &[u8]) -> &'a [u8] {
    let at = usize::try_from(gpa - layout::ACPI_GPA).unwrap();
    let table = &all[at..at + number(all, at + 4, 4) as usize];
    assert_eq!(&table[..4], signature);
    check_sum(table);
    table
}

#[test]
fn all_tables_are_found_from_the_first() {
    for vcpus in [1, 2, MOST_VCPUS as u32] {
        let all = tables(vcpus);
        assert_eq!((&all[..8], all[15]), (&b"RSD PTR "[..], 2));
        check_sum(&all[..20]);
        check_sum(&all[..36]);
        let root = table(&all, number(&all, 24, 8), b"XSDT");
        assert_eq!(root.len(), 36 + 2 * 8);
        let fadt = table(&all, number(root, 36, 8), b"FACP");
        let madt = table(&all, number(root, 44, 8), b"APIC");
        table(&all, number(fadt, 140, 8), b"DSDT");
        assert_eq!((fadt.len(), fadt[8], number(fadt, 112, 4)), (276, 6, 1 << 20 | 1 << 10));
        let register = |offset| (number(fadt, offset, 4), number(fadt, offset + 4, 8));
        // In I/O space, eight bits, by bytes.
        let at = |port: u16| (0x0100_0801, u64::from(port));
        assert_eq!((register(116), fadt[128]), (at(pc::RESET_PORT), pc::RESET_VALUE));
        assert_eq!([register(244), register(256)], [at(pc::SLEEP_CONTROL_PORT), at(pc::SLEEP_CONTROL_PORT + 1)]);
        let (apics, io_apic) = madt[44..].split_at(8 * vcpus as usize);
        assert_eq!((&io_apic[..4], io_apic.len()), (&[1, 12, 0, 0][..], 12));
        assert_eq!(
            (number(io_apic, 4, 4), number(io_apic, 8, 4)),
            (pc::IO_APIC_GPA, pc::IO_APIC_FIRST_INTERRUPT.into())
        );
        let apics: Vec<_> = apics.chunks(8).map(|apic| (apic[0], apic[1], apic[2], apic[3], apic[4])).collect();
        let expected: Vec<_> = (0..vcpus as u8).map(|id| (0, 8, id, id, 1)).collect();
        assert_eq!(apics, expected);
    }
}

#[test]
fn a_kernel_that_is_no_linux_is_told_of_the_devices_of_an_isa_bus() {
    let lowered = lower(&kernel::request(&multiboot())).unwrap();
    let all = lowered.segments.into_iter().find(|segment| segment.what == "ACPI tables").unwrap().bytes;
    let root = table(&all, number(&all, 24, 8), b"XSDT");
    let (fadt, madt) = (table(&all, number(root, 36, 8), b"FACP"), table(&all, number(root, 44, 8), b"APIC"));
    assert_eq!((number(fadt, 76, 4), fadt[91]), (u64::from(legacy_pc::PM_TIMER_PORT), 4));
    assert_eq!((number(fadt, 109, 2), number(madt, 40, 4)), (0b1_0111, 1), "8259A and 8042");
    // The IOAPIC begins at interrupt 0, and the timer's line is its input 2.
    let (io_apic, source) = madt[52..].split_at(12);
    assert_eq!((number(io_apic, 8, 4), source), (0, &[2, 10, 0, 0, 2, 0, 0, 0, 0, 0][..]));
}

/// A file that is a multiboot kernel by its header.
fn multiboot() -> Vec<u8> {
    let words =
        [0x1bad_b002u32, 1 << 16, 0u32.wrapping_sub(0x1bad_b002 + (1 << 16)), 0x20_0000, 0x20_0000, 0, 0, 0x20_0020];
    words.iter().flat_map(|word| word.to_le_bytes()).chain([0xf4; 32]).collect()
}

/// `iasl -d` of the golden file's DSDT shows the meaning.
#[test]
fn the_bytes_are_those_that_were_looked_at() {
    check_golden("acpi.txt", &dump(layout::ACPI_GPA, &tables(2)));
}
