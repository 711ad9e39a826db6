//! An 8042 keyboard controller (IBM PC/AT technical reference, section 1, keyboard controller) without a keyboard: kernels test it,
//! and reset the machine by it. Bytes for the keyboard get no answer. The gate A20 is open always.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicU8};

use super::Effect;

/// In the status: there is a byte to be read.
const FULL: u8 = 1 << 0;
/// In the status, and in the command byte: the self-test is over.
const TESTED: u8 = 1 << 2;
/// In the status: the last byte that was written was a command.
const IS_COMMAND: u8 = 1 << 3;
/// In the status: the keyboard is not locked.
const UNLOCKED: u8 = 1 << 4;
/// In the command byte, inverted in the state: the keyboard is disabled. So is a mouse, by the next bit.
const KEYBOARD_OFF: u8 = 1 << 4;
const MOUSE_OFF: u8 = 1 << 5;
/// The command byte as firmware leaves it: a keyboard that interrupts and whose codes are translated, and no mouse.
const COMMAND_BYTE: u8 = 1 | TESTED | MOUSE_OFF | 1 << 6;

/// The commands.
mod command {
    pub(super) const READ_COMMAND_BYTE: u8 = 0x20;
    pub(super) const WRITE_COMMAND_BYTE: u8 = 0x60;
    pub(super) const MOUSE_OFF: u8 = 0xa7;
    pub(super) const MOUSE_ON: u8 = 0xa8;
    pub(super) const TEST: u8 = 0xaa;
    pub(super) const TEST_KEYBOARD: u8 = 0xab;
    pub(super) const KEYBOARD_OFF: u8 = 0xad;
    pub(super) const KEYBOARD_ON: u8 = 0xae;
    pub(super) const READ_OUTPUT: u8 = 0xd0;
    pub(super) const WRITE_OUTPUT: u8 = 0xd1;
    pub(super) const ECHO: u8 = 0xd2;
    /// Pulses the lines of the output port whose bits are clear below.
    pub(super) const PULSE: u8 = 0xf0;
}

/// In the output port: the line that resets the processor, while it is low, and the gate A20.
const NO_RESET: u8 = 1 << 0;
const A20: u8 = 1 << 1;
/// At the port of the fast reset: a rise resets the processor.
const FAST_RESET: u8 = 1 << 0;

/// The controller.
#[derive(Debug, Default)]
pub struct KeyboardController {
    /// [`COMMAND_BYTE`] is subtracted: so it is 0 after reset.
    command_byte: AtomicU8,
    /// The byte to be read.
    answer: AtomicU8,
    is_full: AtomicBool,
    was_command: AtomicBool,
    /// The command that takes the next byte of data.
    takes_data: AtomicU8,
}

impl KeyboardController {
    /// The controller as firmware leaves it.
    pub const fn new() -> Self {
        Self {
            command_byte: AtomicU8::new(0),
            answer: AtomicU8::new(0),
            is_full: AtomicBool::new(false),
            was_command: AtomicBool::new(false),
            takes_data: AtomicU8::new(0),
        }
    }

    fn command_byte(&self) -> u8 {
        self.command_byte.load(Relaxed) ^ COMMAND_BYTE
    }

    fn set_command_byte(&self, value: u8) {
        self.command_byte.store(value ^ COMMAND_BYTE, Relaxed);
    }

    fn answer(&self, value: u8) {
        self.answer.store(value, Relaxed);
        self.is_full.store(true, Relaxed);
    }

    /// The byte that it answers, or the last one again.
    pub fn read(&self) -> u8 {
        self.is_full.store(false, Relaxed);
        self.answer.load(Relaxed)
    }

    /// The status.
    pub fn status(&self) -> u8 {
        let bit = |flag: &AtomicBool, bit: u8| if flag.load(Relaxed) { bit } else { 0 };
        UNLOCKED | bit(&self.is_full, FULL) | bit(&self.was_command, IS_COMMAND) | self.command_byte() & TESTED
    }

    /// A byte of data.
    pub fn write(&self, value: u8) -> Effect {
        self.was_command.store(false, Relaxed);
        let command = self.takes_data.load(Relaxed);
        self.takes_data.store(0, Relaxed);
        match command {
            command::WRITE_COMMAND_BYTE => self.set_command_byte(value),
            command::ECHO => self.answer(value),
            command::WRITE_OUTPUT if value & NO_RESET == 0 => return Effect::Reset,
            // The keyboard, which is not there.
            _ => {}
        }
        Effect::None
    }

    /// A command.
    pub fn command(&self, command: u8) -> Effect {
        self.was_command.store(true, Relaxed);
        self.takes_data.store(0, Relaxed);
        let byte = self.command_byte();
        match command {
            command::READ_COMMAND_BYTE => self.answer(byte),
            command::WRITE_COMMAND_BYTE | command::WRITE_OUTPUT | command::ECHO => {
                self.takes_data.store(command, Relaxed)
            }
            command::MOUSE_OFF => self.set_command_byte(byte | MOUSE_OFF),
            command::MOUSE_ON => self.set_command_byte(byte & !MOUSE_OFF),
            command::TEST => {
                self.set_command_byte(byte | TESTED);
                self.answer(0x55);
            }
            command::TEST_KEYBOARD => self.answer(0),
            command::KEYBOARD_OFF => self.set_command_byte(byte | KEYBOARD_OFF),
            command::KEYBOARD_ON => self.set_command_byte(byte & !KEYBOARD_OFF),
            command::READ_OUTPUT => self.answer(NO_RESET | A20),
            command::PULSE.. if command & NO_RESET == 0 => return Effect::Reset,
            _ => {}
        }
        Effect::None
    }
}

/// The byte at the port of the fast gate and the fast reset.
pub fn read_fast() -> u8 {
    A20
}

/// A byte to that port.
pub fn write_fast(value: u8) -> Effect {
    if value & FAST_RESET != 0 { Effect::Reset } else { Effect::None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_passes_its_tests_and_has_no_keyboard() {
        let controller = KeyboardController::new();
        assert_eq!(controller.status(), 0x14);
        for (command, answer) in [(0xaa, 0x55), (0xab, 0), (0x20, 0x65), (0xd0, 3)] {
            assert_eq!((controller.command(command), controller.status()), (Effect::None, 0x1d), "{command:#x}");
            assert_eq!((controller.read(), controller.status()), (answer, 0x1c), "{command:#x}");
        }
        // The keyboard's own test, identity and lights.
        for byte in [0xff, 0xf2, 0xed] {
            assert_eq!((controller.write(byte), controller.status()), (Effect::None, 0x14), "nobody answers {byte:#x}");
        }
    }

    #[test]
    fn commands_with_a_byte_take_it() {
        let controller = KeyboardController::new();
        let with = |command, byte| (controller.command(command), controller.write(byte));
        let command_byte = || (controller.command(0x20), controller.read()).1;
        assert_eq!((with(0x60, 0x47), command_byte()), ((Effect::None, Effect::None), 0x47));
        for (command, expected) in [(0xad, 0x57), (0xa7, 0x77), (0xae, 0x67), (0xa8, 0x47)] {
            assert_eq!((controller.command(command), command_byte()), (Effect::None, expected), "{command:#x}");
        }
        assert_eq!(
            (with(0xd2, 0x1c), controller.status(), controller.read()),
            ((Effect::None, Effect::None), 0x15, 0x1c)
        );
        assert_eq!(
            (with(0xd1, 0xdd), with(0xd1, 0xdf)),
            ((Effect::None, Effect::None), (Effect::None, Effect::None)),
            "A20"
        );
        controller.command(0x60);
        controller.command(0xaa);
        assert_eq!(
            (controller.write(0), command_byte()),
            (Effect::None, 0x47),
            "a command between takes the byte's place"
        );
        with(0x60, 0);
        assert_eq!(controller.status() & TESTED, 0);
    }

    #[test]
    fn it_resets_the_machine_in_each_of_the_usual_ways() {
        let controller = KeyboardController::new();
        assert_eq!(
            (controller.command(0xfe), controller.command(0xf0), controller.command(0xff)),
            (Effect::Reset, Effect::Reset, Effect::None)
        );
        controller.command(0xd1);
        assert_eq!(controller.write(0xfe), Effect::Reset);
        assert_eq!((write_fast(2), write_fast(1), read_fast()), (Effect::None, Effect::Reset, 2));
    }
}
