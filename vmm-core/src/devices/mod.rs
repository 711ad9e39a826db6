//! The devices of the guest's machine, one file each.
//!
//! A device is state and its rules: safe code without a virtualization extension, an exit or a clock; time is handed in. Handlers
//! decode an exit and ask the device. The quick forms read at most one field of a device.

pub mod byte;
pub mod clock;
pub mod constant_msrs;
pub mod cpuid_table;
pub mod crystal;
pub mod ending_ports;
pub mod guest_apic;
pub mod interval_timer;
pub mod io_apic;
pub mod isa_bus;
pub mod keyboard_controller;
pub mod loopback;
pub mod pages;
pub mod pic;
pub mod ports;
pub mod power;
pub mod serial;
mod tails;
pub mod test_device;

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tollgate_abi::machine::legacy_pc::{TIMER_INTERRUPT, TIMER_LINE};
use tollgate_abi::machine::pc::SERIAL_INTERRUPT;
use tollgate_abi::machine::{MOST_VCPUS, Model};

/// The devices that all vCPUs share.
#[derive(Debug, Default)]
pub struct SharedDevices {
    /// The serial port.
    pub serial: serial::Serial,
    /// The clock of day.
    pub clock: clock::Clock,
    /// The IOAPIC.
    pub io_apic: io_apic::IoApic,
    /// The devices of an ISA bus.
    pub isa_bus: isa_bus::IsaBus,
    /// The time at which the interval timer is awaited, or 0.
    awaited: AtomicU64,
    /// The logical IDs of the vCPUs' APICs in xAPIC mode.
    pub logical_ids: [guest_apic::mapped::LogicalId; MOST_VCPUS],
}

impl SharedDevices {
    /// The devices of [`PC`](tollgate_abi::machine::PC) after reset.
    pub const fn new() -> Self {
        Self {
            serial: serial::Serial::new(),
            clock: clock::Clock::new(),
            io_apic: io_apic::IoApic::new(),
            isa_bus: isa_bus::IsaBus::new(),
            awaited: AtomicU64::new(0),
            logical_ids: [const { guest_apic::mapped::LogicalId::new() }; _],
        }
    }

    /// Makes them those of a machine. The time that they are handed has ticks of `tsc_hz`, where they count time. Before the guest
    /// runs.
    pub fn begin(&self, model: &Model, tsc_hz: Option<u64>) {
        if let Some(inputs) = model.io_apic {
            self.io_apic.set_inputs(inputs);
        }
        if model.has_isa_bus {
            self.isa_bus.begin(tsc_hz);
        }
    }

    /// The command for an interrupt that a device's line asks for, as long as there is one. Each is given once.
    pub fn next_interrupt(&self) -> Option<u64> {
        let input = self.io_apic.input(SERIAL_INTERRUPT);
        let rise = self.serial.takes_rise().then(|| {
            if self.isa_bus.is_there() {
                self.isa_bus.set_serial_line(false);
                self.isa_bus.set_serial_line(true);
            }
            self.io_apic.rise(input)
        });
        rise.flatten()
            .or_else(|| self.serial.is_up().then(|| self.io_apic.hold(input)).flatten())
            .or_else(|| self.isa_bus.is_there().then(|| self.next_of_isa_bus()).flatten())
    }

    /// [`SharedDevices::next_interrupt`] of the ISA bus' devices.
    fn next_of_isa_bus(&self) -> Option<u64> {
        self.isa_bus.set_serial_line(self.serial.is_up());
        let timer = self.isa_bus.takes_timer_rise().then(|| self.io_apic.rise(self.io_apic.input(TIMER_INTERRUPT)));
        let mut inputs = 0..u32::BITS as usize;
        let risen =
            || core::iter::from_fn(|| self.isa_bus.test.takes_rise()).find_map(|input| self.io_apic.rise(input));
        let up = self.isa_bus.test.up();
        timer
            .flatten()
            .or_else(risen)
            .or_else(|| inputs.find_map(|input| (up >> input & 1 != 0).then(|| self.io_apic.hold(input)).flatten()))
    }

    /// Notes for [`SharedDevices::is_armed_for_another_time`] that somebody waits for the interval timer.
    pub fn note_deadline(&self) {
        self.awaited.store(self.deadline().unwrap_or(0), Relaxed);
    }

    /// Whether the interval timer interrupts at another time than was noted last.
    pub fn is_armed_for_another_time(&self) -> bool {
        self.awaited.load(Relaxed) != self.deadline().unwrap_or(0)
    }

    /// The time at which the interval timer interrupts next, if anybody listens.
    pub fn deadline(&self) -> Option<u64> {
        let bus = &self.isa_bus;
        let listens = bus.pics.awaits(TIMER_LINE) || self.io_apic.is_open(self.io_apic.input(TIMER_INTERRUPT));
        bus.deadline().filter(|_| bus.is_there() && listens)
    }
}

/// The effect of a write to a device, besides its new state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing else.
    None,
    /// The serial port has a line for the log. Its interrupt line may have risen, too.
    Print,
    /// The serial port has text that may be waited for. Its interrupt line may have risen, too.
    Look,
    /// An interrupt line has risen, or another thing has changed by which an interrupt may come, or come at another time.
    Rise,
    /// The guest ends with a code, which the device has.
    DebugExit,
    /// The machine is switched off.
    PowerOff,
    /// The machine starts again.
    Reset,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    use tollgate_abi::apic::LEVEL;

    use self::Access::*;
    use self::guest_apic::mapped::FROM_DEVICE;

    /// An access to the serial port or to the IOAPIC, or what comes of it.
    #[derive(Clone, Copy, Debug)]
    enum Access {
        /// IN from the port at this offset gives this byte.
        In(u16, u8),
        /// OUT to the port at this offset.
        Out(u16, u8),
        /// OUT of these bytes to the first port.
        Sent(&'static [u8]),
        /// A read at this offset of the IOAPIC's page gives this value.
        Load(u32, u32),
        /// A write at this offset of the IOAPIC's page.
        Store(u32, u32),
        /// An interrupt with this vector comes to vCPU 0; behind every access without it none comes.
        Interrupt(u8),
        /// The interrupt with this vector ends.
        End(u8),
    }

    /// The accesses of Linux 6.1 (Debian's `6.1.0-57-cloud-amd64`, one vCPU) in the order in which they came, but for those that
    /// print the kernel's own messages, each of which reads, clears and restores the interrupt enable register.
    const BOOT: [&[Access]; 8] = [
        // The IOAPIC is found.
        &[
            Store(0, 0),
            Load(0x10, 0),
            Store(0, 1),
            Load(0x10, 0x20),
            Store(0, 2),
            Load(0x10, 0),
            Store(0, 1),
            Load(0x10, 0x20),
        ],
        // The console is set up.
        &[Out(1, 0), Out(3, 0x93), Out(0, 1), Out(1, 0), Out(3, 0x13), Out(2, 0), Out(4, 1), In(1, 0), Out(1, 0)],
        // "Switch to symmetric I/O mode": every input is cleared.
        &[Store(0, 0x10), Load(0x10, 0x1_0000), Store(0, 0x11), Load(0x10, 0), Store(0, 0x11), Store(0x10, 0)],
        &[Store(0, 0x10), Store(0x10, 0x1_0000)],
        // The driver tells a 16550A from its relatives.
        &[
            In(1, 0),
            Out(1, 0xf),
            In(1, 0xf),
            Out(1, 0),
            In(4, 1),
            In(3, 0x13),
            Out(3, 0xbf),
            Out(2, 0),
            Out(3, 0),
            Out(2, 1),
            In(2, 0xc1),
            Out(3, 0x13),
            Out(4, 1),
            Out(2, 1),
            Out(2, 7),
            Out(2, 0),
            Out(1, 0),
            In(1, 0),
            Out(1, 0),
            Out(4, 1),
        ],
        // User space opens the console: the input is unmasked, the driver tries the transmitter's interrupt twice before it lets
        // it out, and once behind.
        &[
            Out(2, 1),
            Out(2, 7),
            Out(2, 0),
            In(2, 1),
            In(6, 0xb0),
            Store(0, 0x11),
            Store(0x10, 0),
            Store(0, 0x10),
            Store(0x10, 0x1_8021),
            Store(0, 0x10),
            Store(0x10, 0x8021),
            Out(1, 2),
            In(2, 2),
            Out(1, 0),
            Out(1, 2),
            In(2, 2),
            Out(1, 0),
            Out(3, 3),
            Out(4, 9),
            Out(1, 2),
            Interrupt(0x21),
            In(5, 0x60),
            In(2, 2),
            Out(1, 0),
            In(2, 1),
            End(0x21),
            In(2, 1),
            In(6, 0xb0),
            Out(1, 5),
            Out(3, 0x93),
            Out(0, 1),
            Out(1, 0),
            Out(3, 0x13),
            Out(2, 1),
            Out(2, 0x81),
            Out(4, 9),
            Out(4, 0xb),
        ],
        // A line of user space: one interrupt for all of it, sixteen bytes at a time.
        &[
            Out(1, 7),
            Interrupt(0x21),
            In(2, 0xc2),
            In(5, 0x60),
            In(6, 0xb0),
            Sent(b"init: the comman"),
            In(2, 0xc2),
            In(5, 0x60),
            In(6, 0xb0),
            Sent(b"ds ended with st"),
            In(2, 0xc2),
            In(5, 0x60),
            In(6, 0xb0),
            Sent(b"atus 0"),
            Out(1, 5),
            In(2, 0xc1),
            End(0x21),
            Out(1, 7),
            Interrupt(0x21),
            In(2, 0xc2),
            In(5, 0x60),
            In(6, 0xb0),
            Sent(b"\r\n"),
            Out(1, 5),
            In(2, 0xc1),
            End(0x21),
        ],
        // The machine is switched off.
        &[
            Out(1, 5),
            Store(0, 0x10),
            Load(0x10, 0x8021),
            Store(0, 0x11),
            Load(0x10, 0),
            Store(0, 0x11),
            Store(0x10, 0),
            Store(0, 0x10),
            Store(0x10, 0x1_8021),
            Store(0, 0x10),
            Load(0x10, 0x1_8021),
            Store(0, 0x10),
            Store(0x10, 0x1_0000),
            Store(0, 0x10),
            Load(0x10, 0x1_0000),
        ],
    ];

    #[test]
    fn linux_finds_a_serial_port_whose_interrupt_comes_through_the_ioapic() {
        let devices = SharedDevices::new();
        let mut ahead = BOOT.concat().into_iter().peekable();
        while let Some(access) = ahead.next() {
            match access {
                In(at, value) => assert_eq!(devices.serial.read(at), value, "{access:x?}"),
                Out(at, value) => _ = devices.serial.write(at, value),
                Sent(bytes) => bytes.iter().for_each(|&byte| {
                    devices.serial.write(0, byte);
                }),
                Load(at, value) => assert_eq!(devices.io_apic.read(at), value, "{access:x?}"),
                Store(at, value) => _ = devices.io_apic.write(at, value),
                End(vector) => devices.io_apic.end_of_interrupt(vector),
                Interrupt(_) => continue,
            }
            let expected = match ahead.peek() {
                Some(&Interrupt(vector)) => Some(FROM_DEVICE | LEVEL | u64::from(vector)),
                _ => None,
            };
            assert_eq!((devices.next_interrupt(), devices.next_interrupt()), (expected, None), "{access:x?}");
        }
        let mut text = Vec::new();
        assert_eq!(devices.serial.take(|byte| text.push(byte)), 0);
        assert_eq!(text, b"init: the commands ended with status 0\r\n");
    }
}
