//! The machine of Linux: memory that the image chooses, a serial port, a clock of day, and the ports by which a
//! kernel ends it. It has what an unmodified Linux needs and no more: an IOAPIC for the serial port's interrupt alone, no timer but
//! the local APIC's, no PCI.

use super::unikernel::CONSTANT_MSRS;
use super::{Behind, BehindPage, ConstantMsr, Device, DevicePage, IoApicInputs, Model, POST_PORT, Writes};
use crate::x86::msr::{APIC_AT_RESET, INTERRUPT_PENDING_MESSAGE};

/// The port of the serial port's first register, as a PC has it.
pub const SERIAL_PORT: u16 = 0x3f8;
/// The number of the serial port's ports.
pub const SERIAL_PORTS: u16 = 8;
/// The serial port's interrupt, by ACPI's global numbers: as an ISA bus has it.
pub const SERIAL_INTERRUPT: u32 = 4;

/// The address of the IOAPIC's registers.
pub const IO_APIC_GPA: u64 = 0xfec0_0000;
/// The number of the IOAPIC's inputs.
pub const IO_APIC_INPUTS: u32 = 1;
/// The global number of the IOAPIC's first input.
pub const IO_APIC_FIRST_INTERRUPT: u32 = SERIAL_INTERRUPT;
/// The input at which the serial port's line is.
pub const SERIAL_INPUT: usize = (SERIAL_INTERRUPT - IO_APIC_FIRST_INTERRUPT) as usize;
const _: () = assert!(SERIAL_INPUT < IO_APIC_INPUTS as usize);

/// The index port of the clock of day; its data port follows.
pub const CLOCK_PORT: u16 = 0x70;

/// The port of an 8254's counter 2.
const COUNTER_PORT: u16 = 0x42;

/// The port of the sleep control register (ACPI 4.8.3.7); the sleep status register follows. Its place is in the ACPI tables.
pub const SLEEP_CONTROL_PORT: u16 = 0x600;
/// The port of the reset register (ACPI 4.8.3.6).
pub const RESET_PORT: u16 = SLEEP_CONTROL_PORT + 2;
/// The value that resets the machine, written to [`RESET_PORT`].
pub const RESET_VALUE: u8 = 1;
/// The type of the sleep state S5, by which the machine is powered off.
pub const SLEEP_TYPE_OFF: u8 = 5;

/// The most memory that the machine can have, in MiB: what lies below 4 GiB in the monitor's address space, with room to spare.
pub const MOST_MEMORY_MIB: u64 = 2048 - 64;

/// The MSRs that always read the same value. Linux reads the second on processors of AMD's, to see whether firmware lets the
/// APIC's timer stop, and would report its absence.
const MSRS: &[ConstantMsr] = &[
    CONSTANT_MSRS[0],
    CONSTANT_MSRS[1],
    ConstantMsr { msr: INTERRUPT_PENDING_MESSAGE, value: 0, writes: Writes::Refused },
];

/// The PC, but for its memory, which an image chooses.
pub const PC: Model = Model {
    memory: &[],
    devices: &[
        Device { behind: Behind::Byte, first_port: POST_PORT, ports: 1 },
        Device { behind: Behind::Serial, first_port: SERIAL_PORT, ports: SERIAL_PORTS },
        Device { behind: Behind::Clock, first_port: CLOCK_PORT, ports: 2 },
        // The counter of an interval timer that is not there: Linux reads it to time a processor without CPUID leaf 15H. If it
        // read all ones, Linux would read it 100,000 times.
        Device { behind: Behind::Zero, first_port: COUNTER_PORT, ports: 1 },
        Device { behind: Behind::Power, first_port: SLEEP_CONTROL_PORT, ports: 3 },
    ],
    pages: &[
        DevicePage { behind: BehindPage::LocalApic, gpa: APIC_AT_RESET },
        DevicePage { behind: BehindPage::IoApic, gpa: IO_APIC_GPA },
    ],
    io_apic: Some(IoApicInputs { inputs: IO_APIC_INPUTS, first_interrupt: IO_APIC_FIRST_INTERRUPT }),
    has_isa_bus: false,
    msrs: MSRS,
    paravirtual_leaf: Some(super::KVM_LEAF),
};
