//! The IOAPIC: it turns the lines of devices into interrupts, by a table that software writes (Intel 82093AA; the EOI register is
//! that of version 20H, as in Intel's chipsets since).
//!
//! A line is no state of it: who asks for an interrupt hands the line's level in. An interrupt goes to the local APICs as
//! [`crate::handlers::ipi`] sends those of vCPUs.
//!
//! All vCPUs share it. Linux has one lock for its registers and another for the device, so that both sides of an input may be at
//! work at once. Each changes a field that the other reads, and then looks at the other's field: an interrupt may come twice, and
//! none is lost, as long as the two steps are seen in this order ([`Board::keep_order`](crate::board::Board::keep_order)).
//!
//! Left out: polarity, which reads back, as all lines are active high.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicU32};

use tollgate_abi::apic::{DELIVERY_MASK, LEVEL, LOGICAL};
use tollgate_abi::machine::IoApicInputs;
use tollgate_abi::machine::pc::IO_APIC_FIRST_INTERRUPT;

use super::guest_apic::mapped::FROM_DEVICE;

/// The registers in memory, by their offset.
mod place {
    /// The number of the register in the window.
    pub(super) const INDEX: u32 = 0x00;
    /// That register.
    pub(super) const WINDOW: u32 = 0x10;
    /// Ends the interrupts of a vector.
    pub(super) const EOI: u32 = 0x40;
}

/// The registers behind the window.
mod register {
    /// The APIC's ID.
    pub(super) const ID: u32 = 0;
    /// Its version, and the number of its last input.
    pub(super) const VERSION: u32 = 1;
    /// The table, two registers for each input.
    pub(super) const TABLE: u32 = 0x10;
}

/// The most inputs that a machine has.
const MOST_INPUTS: usize = 24;
/// The first version with an EOI register; the last input goes above it.
const VERSION_VALUE: u32 = 0x20;
const LAST_INPUT_SHIFT: u32 = 16;
/// Bits of the ID that can be written.
const ID_MASK: u32 = 0xf << 24;

/// In an entry: the input is level-triggered, as in a command.
const ENTRY_LEVEL: u32 = LEVEL as u32;
/// In an entry: the input is masked.
const MASKED: u32 = 1 << 16;
/// In an entry: an interrupt was sent and has not ended (remote IRR).
const IN_SERVICE: u32 = 1 << 14;
/// The bits of an entry that a command has, too, at the same places: vector, delivery mode, destination mode, trigger mode.
const OF_COMMAND: u32 = 0xff | (DELIVERY_MASK | LOGICAL | LEVEL) as u32;
/// The bits that can be written: those, polarity and mask.
const WRITABLE: u32 = OF_COMMAND | 1 << 13 | MASKED;
/// An entry's upper half: the destination.
const DESTINATION: u32 = 0xff << 24;

/// The IOAPIC.
#[derive(Debug, Default)]
pub struct IoApic {
    index: AtomicU32,
    id: AtomicU32,
    /// The number of its last input.
    last_input: AtomicU32,
    /// The number of inputs in front of [`IO_APIC_FIRST_INTERRUPT`].
    in_front: AtomicU32,
    table: [Entry; MOST_INPUTS],
}

/// The entry of one input.
#[derive(Debug, Default)]
struct Entry {
    /// The lower half but for [`IN_SERVICE`], with [`MASKED`] inverted: so an entry after reset is all zero, and takes no room in
    /// an image.
    low: AtomicU32,
    high: AtomicU32,
    is_in_service: AtomicBool,
}

impl Entry {
    const fn new() -> Self {
        Self { low: AtomicU32::new(0), high: AtomicU32::new(0), is_in_service: AtomicBool::new(false) }
    }

    fn low(&self) -> u32 {
        self.low.load(Relaxed) ^ MASKED
    }

    /// The command for an interrupt of this input, if it is triggered in this way, and not masked.
    fn command(&self, level: u32) -> Option<u64> {
        let low = self.low();
        let command = || u64::from(low & OF_COMMAND) | u64::from(self.high.load(Relaxed)) << 32 | FROM_DEVICE;
        (low & (MASKED | ENTRY_LEVEL) == level).then(command)
    }
}

impl IoApic {
    /// The IOAPIC of [`PC`](tollgate_abi::machine::PC) after reset: its input is masked.
    pub const fn new() -> Self {
        Self {
            index: AtomicU32::new(0),
            id: AtomicU32::new(0),
            last_input: AtomicU32::new(0),
            in_front: AtomicU32::new(0),
            table: [const { Entry::new() }; MOST_INPUTS],
        }
    }

    /// Gives it the inputs of a machine, at most as many as it can have. Before the guest runs.
    pub fn set_inputs(&self, IoApicInputs { inputs, first_interrupt }: IoApicInputs) {
        self.last_input.store(inputs.clamp(1, MOST_INPUTS as u32) - 1, Relaxed);
        self.in_front.store(IO_APIC_FIRST_INTERRUPT.saturating_sub(first_interrupt), Relaxed);
    }

    /// The input that has this global number.
    pub fn input(&self, interrupt: u32) -> usize {
        (interrupt + self.in_front.load(Relaxed)).wrapping_sub(IO_APIC_FIRST_INTERRUPT) as usize
    }

    /// A doubleword of the page.
    pub fn read(&self, offset: u32) -> u32 {
        match (offset, self.index.load(Relaxed)) {
            (place::INDEX, index) => index,
            (place::WINDOW, register::ID) => self.id.load(Relaxed),
            (place::WINDOW, register::VERSION) => VERSION_VALUE | self.last_input.load(Relaxed) << LAST_INPUT_SHIFT,
            (place::WINDOW, index) => self.entry(index).map_or(0, |(entry, is_high)| {
                let in_service = if entry.is_in_service.load(Relaxed) { IN_SERVICE } else { 0 };
                if is_high { entry.high.load(Relaxed) } else { entry.low() | in_service }
            }),
            _ => 0,
        }
    }

    /// Writes a doubleword of the page. True if a line that is up may now be an interrupt.
    pub fn write(&self, offset: u32, value: u32) -> bool {
        match (offset, self.index.load(Relaxed)) {
            (place::INDEX, _) => self.index.store(value & 0xff, Relaxed),
            (place::WINDOW, register::ID) => self.id.store(value & ID_MASK, Relaxed),
            (place::WINDOW, index) => match self.entry(index) {
                Some((entry, true)) => entry.high.store(value & DESTINATION, Relaxed),
                Some((entry, false)) => {
                    entry.low.store(value & WRITABLE ^ MASKED, Relaxed);
                    if value & ENTRY_LEVEL == 0 {
                        entry.is_in_service.store(false, Relaxed);
                    }
                    return true;
                }
                None => {}
            },
            (place::EOI, _) => {
                self.end_of_interrupt(value as u8);
                return true;
            }
            _ => {}
        }
        false
    }

    /// The entry that a register of the table is a half of, and whether it is the upper one.
    fn entry(&self, index: u32) -> Option<(&Entry, bool)> {
        let at = index.checked_sub(register::TABLE)?;
        Some((self.at(at as usize / 2)?, at % 2 != 0))
    }

    fn at(&self, input: usize) -> Option<&Entry> {
        self.table.get(..=self.last_input.load(Relaxed) as usize)?.get(input)
    }

    /// Whether an input is not masked.
    pub fn is_open(&self, input: usize) -> bool {
        self.at(input).is_some_and(|entry| entry.low() & MASKED == 0)
    }

    /// Ends the interrupts of a vector. An input whose line is still up interrupts again.
    pub fn end_of_interrupt(&self, vector: u8) {
        let ended = self.table.iter().filter(|entry| entry.low() as u8 == vector);
        ended.for_each(|entry| entry.is_in_service.store(false, Relaxed));
    }

    /// The command for the interrupt of an input whose line has risen, if that is what triggers it. While it is masked, a rise is
    /// lost.
    pub fn rise(&self, input: usize) -> Option<u64> {
        self.at(input)?.command(0)
    }

    /// The command for the interrupt of an input whose line is up, if that is what triggers it. It is given once until the interrupt
    /// ends.
    pub fn hold(&self, input: usize) -> Option<u64> {
        let entry = self.at(input)?;
        let command = entry.command(ENTRY_LEVEL).filter(|_| !entry.is_in_service.load(Relaxed))?;
        entry.is_in_service.store(true, Relaxed);
        Some(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_abi::apic::{DELIVERY_LOWEST_PRIORITY, DELIVERY_NMI};

    /// Writes a register behind the window.
    fn set(io_apic: &IoApic, register: u32, value: u32) -> bool {
        assert!(!io_apic.write(place::INDEX, register));
        io_apic.write(place::WINDOW, value)
    }

    fn get(io_apic: &IoApic, register: u32) -> u32 {
        assert!(!io_apic.write(place::INDEX, register));
        assert_eq!(io_apic.read(place::INDEX), register);
        io_apic.read(place::WINDOW)
    }

    const LOW: u32 = register::TABLE;
    const HIGH: u32 = register::TABLE + 1;

    #[test]
    fn registers_are_behind_the_window() {
        let io_apic = IoApic::new();
        let version = 0x20;
        assert_eq!((get(&io_apic, 0), get(&io_apic, 1), get(&io_apic, 2)), (0, version, 0));
        assert_eq!((get(&io_apic, LOW), get(&io_apic, HIGH)), (MASKED, 0));
        for (register, value) in [(0, 0x0f00_0000), (1, version), (2, 0), (LOW, 0x1_afff), (HIGH, 0xff00_0000)] {
            set(&io_apic, register, u32::MAX);
            assert_eq!(get(&io_apic, register), value, "{register:#x}");
        }
        let behind = LOW + 2;
        assert!(!set(&io_apic, behind, u32::MAX));
        assert_eq!((get(&io_apic, behind), get(&io_apic, 3), get(&io_apic, 0xff)), (0, 0, 0));
        for offset in [0x04, 0x14, 0x20, 0xff0] {
            assert!(!io_apic.write(offset, u32::MAX));
            assert_eq!(io_apic.read(offset), 0, "{offset:#x}");
        }
        assert_eq!(io_apic.read(place::EOI), 0);
    }

    #[test]
    fn a_machine_says_how_many_inputs_there_are() {
        let io_apic = IoApic::new();
        assert_eq!(io_apic.input(4), 0);
        io_apic.set_inputs(IoApicInputs { inputs: 24, first_interrupt: 0 });
        assert_eq!((get(&io_apic, 1), io_apic.input(4), io_apic.input(0)), (0x17_0020, 4, 0));
        let last = LOW + 2 * 23;
        assert!(set(&io_apic, last, 0x31) && !set(&io_apic, last + 2, 0x31));
        assert_eq!((io_apic.is_open(23), io_apic.is_open(22), io_apic.is_open(24)), (true, false, false));
        assert_eq!((io_apic.rise(23), io_apic.rise(24)), (Some(FROM_DEVICE | 0x31), None));
    }

    #[test]
    fn an_edge_interrupts_each_time_and_is_lost_while_masked() {
        let io_apic = IoApic::new();
        assert_eq!((io_apic.rise(0), io_apic.hold(0)), (None, None), "after reset");
        assert!(set(&io_apic, LOW, 0x31));
        assert!(!set(&io_apic, HIGH, 2 << 24));
        let command = FROM_DEVICE | 2 << 56 | 0x31;
        assert_eq!([(); 2].map(|()| io_apic.rise(0)), [Some(command); 2]);
        assert_eq!((io_apic.hold(0), get(&io_apic, LOW)), (None, 0x31), "its level is nothing");
        set(&io_apic, LOW, MASKED | 0x31);
        assert_eq!(io_apic.rise(0), None);
        assert_eq!(io_apic.rise(1), None, "no input");
        set(&io_apic, LOW, (DELIVERY_NMI | LOGICAL) as u32);
        assert_eq!(io_apic.rise(0), Some(FROM_DEVICE | 2 << 56 | DELIVERY_NMI | LOGICAL));
        set(&io_apic, LOW, 0x55 | DELIVERY_LOWEST_PRIORITY as u32);
        assert_eq!(io_apic.rise(0), Some(FROM_DEVICE | 2 << 56 | DELIVERY_LOWEST_PRIORITY | 0x55));
    }

    #[test]
    fn a_level_interrupts_again_only_behind_its_end() {
        let io_apic = IoApic::new();
        let level = ENTRY_LEVEL | 0x41;
        set(&io_apic, LOW, MASKED | level);
        assert_eq!(io_apic.hold(0), None, "it waits until the mask is gone");
        set(&io_apic, LOW, level);
        let command = FROM_DEVICE | LEVEL | 0x41;
        assert_eq!((io_apic.rise(0), io_apic.hold(0), io_apic.hold(0)), (None, Some(command), None));
        assert_eq!(get(&io_apic, LOW), level | IN_SERVICE);
        set(&io_apic, LOW, MASKED | level);
        assert_eq!(get(&io_apic, LOW), MASKED | level | IN_SERVICE, "a mask ends nothing");
        set(&io_apic, LOW, level);
        io_apic.end_of_interrupt(0x42);
        assert_eq!(io_apic.hold(0), None, "another's end");
        io_apic.end_of_interrupt(0x41);
        assert_eq!((get(&io_apic, LOW), io_apic.hold(0), io_apic.hold(0)), (level, Some(command), None));
        assert!(io_apic.write(place::EOI, 0x41));
        assert_eq!((io_apic.hold(0), io_apic.hold(0)), (Some(command), None));
        set(&io_apic, LOW, 0x41);
        assert_eq!(get(&io_apic, LOW), 0x41, "an input that becomes edge-triggered has nothing in service");
    }
}
