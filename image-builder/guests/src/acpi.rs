//! The ACPI tables (ACPI 6.5): a hardware-reduced machine with local APICs, an IOAPIC and one UART at it, a register to sleep and one
//! to reset. A system that reads this looks for no PIC, PIT, PM timer or VGA, and drives no RTC.

use acpi_tables::Aml;
use acpi_tables::aml::{Device, EISAName, IO, Interrupt, Name, Package, ResourceTemplate, ZERO};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use tollgate_abi::machine::pc;
use tollgate_abi::x86::msr::APIC_AT_RESET;

const OEM: [u8; 6] = *b"TOLLGT";
const OEM_TABLE: [u8; 8] = *b"TOLLGATE";
const OEM_REVISION: u32 = 1;

/// Bits of the FADT's IAPC_BOOT_ARCH: no VGA, no ASPM for PCI Express, no RTC in CMOS. Clear: no legacy devices, no 8042.
const BOOT_ARCHITECTURE: u16 = 1 << 2 | 1 << 4 | 1 << 5;

/// The IOAPIC's ID, as its register has it after reset.
const IO_APIC_ID: u8 = 0;

/// Tables begin at multiples of this.
const ALIGNMENT: usize = 64;
const DSDT_HEADER_BYTES: u32 = 36;
const DSDT_REVISION: u8 = 2;

fn aml(object: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    object.to_aml_bytes(&mut bytes);
    bytes
}

/// RSDP, XSDT, DSDT, FADT and MADT, if the first lies at `gpa`.
pub(crate) fn tables(gpa: u64, vcpus: u32) -> Vec<u8> {
    // The RSDP comes first, and names a table that names the others: its bytes are written last.
    let mut bytes = vec![0; Rsdp::len()];
    let mut place = |table: &dyn Aml| {
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        let at = gpa + bytes.len() as u64;
        table.to_aml_bytes(&mut bytes);
        at
    };
    let dsdt = place(&dsdt());
    let fadt = place(&fadt(dsdt));
    let madt = place(&madt(vcpus));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = place(&xsdt);
    let rsdp = aml(&Rsdp::new(OEM, xsdt));
    bytes[..rsdp.len()].copy_from_slice(&rsdp);
    bytes
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
    let mut table = Sdt::new(*b"DSDT", DSDT_HEADER_BYTES, DSDT_REVISION, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(&aml(&power_off));
    table.append_slice(&aml(&uart));
    table
}

fn fadt(dsdt_gpa: u64) -> impl Aml {
    let byte = |port: u16| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into());
    let mut table = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt_gpa)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup);
    table.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    table.reset_reg = byte(pc::RESET_PORT);
    table.reset_value = pc::RESET_VALUE;
    table.sleep_control_reg = byte(pc::SLEEP_CONTROL_PORT);
    table.sleep_status_reg = byte(pc::SLEEP_CONTROL_PORT + 1);
    table.finalize()
}

fn madt(vcpus: u32) -> MADT {
    let mut table = MADT::new(OEM, OEM_TABLE, OEM_REVISION, LocalInterruptController::Address(APIC_AT_RESET as u32));
    for id in (0..vcpus).map(|id| id as u8) {
        table.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    table.add_structure(IoApic::new(IO_APIC_ID, pc::IO_APIC_GPA as u32, pc::IO_APIC_FIRST_INTERRUPT));
    table
}
