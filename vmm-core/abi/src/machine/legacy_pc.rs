//! The PC with the devices of an ISA bus: the machine of kernels of others that know an IBM PC from before ACPI. It has what
//! [`PC`] has and, beside that, an interval timer, a pair of interrupt controllers, a keyboard controller without a keyboard, a timer
//! of ACPI's, the ports by which emulators end, and an IOAPIC with the usual inputs.

use super::pc::{CLOCK_PORT, PC, SERIAL_PORT, SERIAL_PORTS, SLEEP_CONTROL_PORT};
use super::unikernel::CONSTANT_MSRS;
use super::{Behind, ConstantMsr, Device, IoApicInputs, Model, POST_PORT, Writes};
use crate::x86::msr::PERF_CTL0;

/// The first ports of the two interrupt controllers; the first one's output is the processor's interrupt.
pub const PIC_PORTS: [u16; 2] = [0x20, 0xa0];
/// The ports at which inputs of the two are made level-triggered.
pub const PIC_LEVELS_PORT: u16 = 0x4d0;
/// The port of the interval timer's counter 0; those of 1, 2 and of the control word follow.
pub const TIMER_PORT: u16 = 0x40;
/// The port of counter 2's gate and output, and of the speaker.
pub const SPEAKER_PORT: u16 = 0x61;
/// The rate of the interval timer in Hz.
pub const TIMER_HZ: u64 = 1_193_182;
/// The interval timer's interrupt at the pair of interrupt controllers.
pub const TIMER_LINE: u8 = 0;
/// The interval timer's interrupt by ACPI's global numbers: the exception to the rule that they are those of an ISA bus.
pub const TIMER_INTERRUPT: u32 = 2;
/// The data port of the keyboard controller.
pub const KEYBOARD_PORT: u16 = 0x60;
/// The port of its commands and its status.
pub const KEYBOARD_COMMAND_PORT: u16 = 0x64;
/// The port of the fast gate A20 and the fast reset.
pub const FAST_RESET_PORT: u16 = 0x92;
/// The first port of ACPI's timer (ACPI 4.8.3.3).
pub const PM_TIMER_PORT: u16 = 0x608;
/// The rate of ACPI's timer in Hz, and the number of its bits.
pub const PM_TIMER_HZ: u64 = 3_579_545;
/// The number of bits that ACPI's timer counts.
pub const PM_TIMER_BITS: u32 = 24;
/// The first of four ports by which a guest ends with a code, as QEMU's `isa-debug-exit` has them.
pub const DEBUG_EXIT_PORT: u16 = 0xf4;
/// The port at which the bytes of [`SHUTDOWN`] switch the machine off, as under Bochs and old versions of QEMU.
pub const SHUTDOWN_PORT: u16 = 0x8900;
/// Those bytes.
pub const SHUTDOWN: [u8; 8] = *b"Shutdown";
/// The first of the ports that set the lines of the IOAPIC's inputs, for tests of interrupts (kvm-unit-tests' test device).
pub const TEST_LINES_PORT: u16 = 0x2000;
/// The first of four ports that read as they were written (kvm-unit-tests' test device).
pub const TEST_BYTES_PORT: u16 = 0xe0;

/// The exit status of a QEMU whose guest ends by [`DEBUG_EXIT_PORT`] with this code.
pub const fn qemu_status(code: u64) -> u8 {
    (code << 1 | 1) as u8
}

/// The MSRs. Kernels write IA32_MISC_ENABLE and read it back; and, on AMD's processors, clear the counters that each of these has
/// had, without a question to CPUID (APM 2 13.2.1).
const MSRS: &[ConstantMsr] = &[
    CONSTANT_MSRS[1],
    ConstantMsr { writes: Writes::Kept, ..CONSTANT_MSRS[0] },
    counter(0),
    counter(1),
    counter(2),
    counter(3),
    counter(4),
    counter(5),
    counter(6),
    counter(7),
];

/// One of the four pairs of a control and a counter, which counts nothing.
const fn counter(number: u32) -> ConstantMsr {
    ConstantMsr { msr: PERF_CTL0 + number, value: 0, writes: Writes::Ignored }
}

const fn device(behind: Behind, first_port: u16, ports: u16) -> Device {
    Device { behind, first_port, ports }
}

/// The PC with an ISA bus, but for its memory, which an image chooses.
pub const LEGACY_PC: Model = Model {
    devices: &[
        device(Behind::Byte, POST_PORT, 1),
        device(Behind::Serial, SERIAL_PORT, SERIAL_PORTS),
        device(Behind::Clock, CLOCK_PORT, 2),
        device(Behind::Power, SLEEP_CONTROL_PORT, 3),
        device(Behind::Timer, TIMER_PORT, 4),
        device(Behind::Speaker, SPEAKER_PORT, 1),
        device(Behind::FirstPic, PIC_PORTS[0], 2),
        device(Behind::SecondPic, PIC_PORTS[1], 2),
        device(Behind::PicLevels, PIC_LEVELS_PORT, 2),
        device(Behind::Keyboard, KEYBOARD_PORT, 1),
        device(Behind::KeyboardCommand, KEYBOARD_COMMAND_PORT, 1),
        device(Behind::FastReset, FAST_RESET_PORT, 1),
        device(Behind::PmTimer, PM_TIMER_PORT, 4),
        device(Behind::DebugExit, DEBUG_EXIT_PORT, 4),
        device(Behind::Shutdown, SHUTDOWN_PORT, 1),
        device(Behind::TestLines, TEST_LINES_PORT, 24),
        device(Behind::TestBytes, TEST_BYTES_PORT, 4),
    ],
    io_apic: Some(IoApicInputs { inputs: 24, first_interrupt: 0 }),
    has_isa_bus: true,
    msrs: MSRS,
    ..PC
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_qemus_exit_status() {
        assert_eq!([0, 1, 0x10, 0x1_0000_0000].map(qemu_status), [1, 3, 0x21, 1]);
    }

    #[test]
    fn it_has_the_pcs_devices_but_for_the_counter_that_stands_in_for_a_timer() {
        for device in PC.devices.iter().filter(|device| device.behind != Behind::Zero) {
            assert!(LEGACY_PC.devices.contains(device), "{device:x?}");
        }
        assert_eq!(LEGACY_PC.behind(TIMER_PORT + 2), Some((Behind::Timer, 2)));
        assert_eq!((LEGACY_PC.behind(0xcf8), LEGACY_PC.behind(0xcfc)), (None, None), "no PCI");
    }
}
