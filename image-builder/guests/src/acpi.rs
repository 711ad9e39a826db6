//! The ACPI tables (ACPI 6.5): a hardware-reduced machine with local APICs, an IOAPIC and one UART at it, a register to sleep and one
//! to reset. A system that reads this looks for no PIC, PIT, PM timer or VGA, and drives no RTC. Those of the machine with an ISA bus
//! name its devices besides. They are hardware-reduced as well: of ACPI's fixed hardware there is the PM timer alone, for
//! kernels that read its field whatever that flag says.

use acpi_tables::Aml;
use acpi_tables::aml::{Device, EISAName, IO, Interrupt, Name, Package, ResourceTemplate, ZERO};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use tollgate_abi::machine::{Kind, legacy_pc, pc};
use tollgate_abi::x86::msr::APIC_AT_RESET;

use crate::layout::{ACPI_GPA, FOUND_RSDP_GPA};

pub(crate) const OEM: [u8; 6] = *b"TOLLGT";
const OEM_TABLE: [u8; 8] = *b"TOLLGATE";
const OEM_REVISION: u32 = 1;

/// Bits of the FADT's IAPC_BOOT_ARCH: no VGA, no ASPM for PCI Express, no RTC in CMOS. Clear: no legacy devices, no 8042.
const BOOT_ARCHITECTURE: u16 = 1 << 2 | 1 << 4 | 1 << 5;
/// The same where there are: legacy devices, an 8042; no VGA, no ASPM.
const LEGACY_BOOT_ARCHITECTURE: u16 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 4;
/// The FADT's length of the PM timer's block: it has four ports.
const PM_TIMER_BYTES: u8 = 4;

/// The MADT's flags, and in them: there is a pair of 8259A.
const MADT_FLAGS: std::ops::Range<usize> = 40..44;
const PCAT_COMPAT: u32 = 1;
const MADT_REVISION: u8 = 1;
/// An interrupt source override: its type and length, bus 0 (ISA).
const OVERRIDE: [u8; 3] = [2, 10, 0];

/// The IOAPIC's ID, as its register has it after reset.
const IO_APIC_ID: u8 = 0;

/// The RSDT's place behind the second RSDP.
const RSDT_OFFSET: usize = 64;
const _: () = assert!(RSDP_BYTES as usize <= RSDT_OFFSET);

/// Tables begin at multiples of this.
const ALIGNMENT: usize = 64;
const HEADER_BYTES: u32 = 36;
const DSDT_REVISION: u8 = 2;
const RSDT_REVISION: u8 = 1;
/// The RSDP's revision and length, with an XSDT.
pub(crate) const RSDP_REVISION: u8 = 2;
pub(crate) const RSDP_BYTES: u32 = 36;
/// The RSDP's field with the RSDT's address, and its checksums: offset, and the end of the bytes that each is about (ACPI 6.5,
/// 5.2.5.3).
const RSDT_ADDRESS: usize = 16;
const RSDP_CHECKSUMS: [(usize, usize); 2] = [(8, 20), (32, 36)];

fn aml(object: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    object.to_aml_bytes(&mut bytes);
    bytes
}

/// RSDP, XSDT, DSDT, FADT and MADT of a machine, if the first lies at `gpa`.
pub(crate) fn tables(gpa: u64, machine: Kind, vcpus: u32) -> Vec<u8> {
    placed(gpa, machine, vcpus).bytes
}

/// The addresses of the RSDT and the XSDT of the machine with an ISA bus, where the tables lie at [`ACPI_GPA`] and [`FOUND_RSDP_GPA`].
pub(crate) fn roots(vcpus: u32) -> (u32, u64) {
    ((FOUND_RSDP_GPA + RSDT_OFFSET as u64) as u32, placed(ACPI_GPA, Kind::LegacyPc, vcpus).xsdt)
}

/// Another RSDP for [`FOUND_RSDP_GPA`], for systems that look for one: with an RSDT behind it, as those of 32 bits may know no XSDT.
/// The other tables are those of [`tables`] at [`ACPI_GPA`].
pub(crate) fn found(vcpus: u32) -> Vec<u8> {
    let (rsdt, xsdt) = roots(vcpus);
    let mut bytes = aml(&Rsdp::new(OEM, xsdt));
    bytes[RSDT_ADDRESS..][..size_of::<u32>()].copy_from_slice(&rsdt.to_le_bytes());
    for (checksum, end) in RSDP_CHECKSUMS {
        bytes[checksum] = 0;
        bytes[checksum] = bytes[..end].iter().fold(0u8, |sum, &byte| sum.wrapping_sub(byte));
    }
    bytes.resize(RSDT_OFFSET, 0);
    let mut rsdt = Sdt::new(*b"RSDT", HEADER_BYTES, RSDT_REVISION, OEM, OEM_TABLE, OEM_REVISION);
    placed(ACPI_GPA, Kind::LegacyPc, vcpus).named.iter().for_each(|&gpa| rsdt.append(gpa as u32));
    rsdt.to_aml_bytes(&mut bytes);
    bytes
}

/// The tables from the RSDP on, and the places of some.
struct Tables {
    bytes: Vec<u8>,
    xsdt: u64,
    /// The tables that the XSDT names.
    named: [u64; 2],
}

fn placed(gpa: u64, machine: Kind, vcpus: u32) -> Tables {
    // The RSDP comes first, and names a table that names the others: its bytes are written last.
    let mut bytes = vec![0; Rsdp::len()];
    let mut place = |table: &dyn Aml| {
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        let at = gpa + bytes.len() as u64;
        table.to_aml_bytes(&mut bytes);
        at
    };
    let dsdt = place(&dsdt());
    let named = [place(&fadt(dsdt, machine)), place(&madt(machine, vcpus))];
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    named.iter().for_each(|&gpa| xsdt.add_entry(gpa));
    let xsdt = place(&xsdt);
    let rsdp = aml(&Rsdp::new(OEM, xsdt));
    bytes[..rsdp.len()].copy_from_slice(&rsdp);
    Tables { bytes, xsdt, named }
}

/// Power-off, and the UART. Its interrupt is level-triggered: so it comes once for all the text that a driver has, where the line falls
/// before the driver ends the interrupt; an edge for each sixteen characters would come again behind that end, for nothing.
fn dsdt() -> Sdt {
    let off = &pc::SLEEP_TYPE_OFF;
    let power_off = Name::new("\\_S5_".into(), &Package::new(vec![off, off, &ZERO, &ZERO]));
    let ports = IO::new(pc::SERIAL_PORT, pc::SERIAL_PORT, 1, pc::SERIAL_PORTS as u8);
    let interrupt = Interrupt::new(true, false, false, false, pc::SERIAL_INTERRUPT);
    let id = Name::new("_HID".into(), &EISAName::new("PNP0501"));
    let number = Name::new("_UID".into(), &1u8);
    let resources = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports, &interrupt]));
    let uart = Device::new("\\_SB_.COM1".into(), vec![&id, &number, &resources]);
    let mut table = Sdt::new(*b"DSDT", HEADER_BYTES, DSDT_REVISION, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(&aml(&power_off));
    table.append_slice(&aml(&uart));
    table
}

fn fadt(dsdt_gpa: u64, machine: Kind) -> impl Aml {
    let byte = |port: u16| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into());
    let mut table = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt_gpa)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup);
    table.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    if machine == Kind::LegacyPc {
        table.iapc_boot_arch = LEGACY_BOOT_ARCHITECTURE.into();
        table.pm_tmr_blk = u32::from(legacy_pc::PM_TIMER_PORT).into();
        table.pm_tmr_len = PM_TIMER_BYTES;
    }
    table.reset_reg = byte(pc::RESET_PORT);
    table.reset_value = pc::RESET_VALUE;
    table.sleep_control_reg = byte(pc::SLEEP_CONTROL_PORT);
    table.sleep_status_reg = byte(pc::SLEEP_CONTROL_PORT + 1);
    table.finalize()
}

fn madt(machine: Kind, vcpus: u32) -> Sdt {
    let mut table = MADT::new(OEM, OEM_TABLE, OEM_REVISION, LocalInterruptController::Address(APIC_AT_RESET as u32));
    for id in (0..vcpus).map(|id| id as u8) {
        table.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    let inputs = machine.row().io_apic.map_or(0, |inputs| inputs.first_interrupt);
    table.add_structure(IoApic::new(IO_APIC_ID, pc::IO_APIC_GPA as u32, inputs));
    let mut bytes = aml(&table);
    if machine == Kind::LegacyPc {
        bytes[MADT_FLAGS].copy_from_slice(&PCAT_COMPAT.to_le_bytes());
        bytes.extend(OVERRIDE);
        bytes.push(legacy_pc::TIMER_LINE);
        bytes.extend(legacy_pc::TIMER_INTERRUPT.to_le_bytes());
        // Polarity and trigger as the bus has them.
        bytes.extend([0, 0]);
    }
    let mut whole = Sdt::new(*b"APIC", HEADER_BYTES, MADT_REVISION, OEM, OEM_TABLE, OEM_REVISION);
    whole.append_slice(&bytes[HEADER_BYTES as usize..]);
    whole
}
