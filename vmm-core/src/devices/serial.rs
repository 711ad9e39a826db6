//! A 16550A serial port (National Semiconductor PC16550D) without an interrupt line: software polls it. Its transmitter is always
//! ready, and nothing is ever received. What is sent is the guest's console.

use super::Effect;

/// The registers, by their offset from the first port.
mod register {
    /// The transmitter's holding register, and the divisor's low byte.
    pub(super) const DATA: u16 = 0;
    /// The interrupts that are enabled, and the divisor's high byte.
    pub(super) const INTERRUPT_ENABLE: u16 = 1;
    /// The interrupt that waits, read; control of the FIFOs, written.
    pub(super) const INTERRUPT_OR_FIFO: u16 = 2;
    /// The form of a character, and [`super::DIVISOR`].
    pub(super) const LINE_CONTROL: u16 = 3;
    /// The modem's lines that software drives.
    pub(super) const MODEM_CONTROL: u16 = 4;
    /// The state of transmitter and receiver.
    pub(super) const LINE_STATUS: u16 = 5;
    /// The modem's lines that software reads.
    pub(super) const MODEM_STATUS: u16 = 6;
    /// A byte for software.
    pub(super) const SCRATCH: u16 = 7;
}

/// In the line control register: the first two registers are the divisor.
const DIVISOR: u8 = 1 << 7;
/// In the modem control register: what software drives is what it reads, and nothing is sent.
const LOOPBACK: u8 = 1 << 4;
/// In the interrupt enable register: the transmitter's holding register is empty.
const SENT: u8 = 1 << 1;
/// The interrupt register's value for that, and for none.
const SENT_WAITS: u8 = 2;
const NOTHING_WAITS: u8 = 1;
/// The interrupt register's bits that tell of FIFOs.
const FIFOS: u8 = 0xc0;
/// In the FIFO control register: FIFOs are on.
const FIFO_ENABLE: u8 = 1;
/// The line status: holding register and transmitter are empty.
const EMPTY: u8 = 0x60;
/// The modem status: carrier, data set ready, clear to send.
const CONNECTED: u8 = 0xb0;

/// The most bytes of a line that are kept until they go to the log.
const TEXT_BYTES: usize = 240;

/// The port's state, and what was sent and is not in the log yet.
#[derive(Clone, Debug)]
pub struct Serial {
    interrupts: u8,
    line: u8,
    modem: u8,
    scratch: u8,
    divisor: [u8; 2],
    has_fifos: bool,
    sent_waits: bool,
    text: [u8; TEXT_BYTES],
    used: usize,
    dropped: u64,
}

impl Default for Serial {
    fn default() -> Self {
        Self {
            interrupts: 0,
            line: 0,
            modem: 0,
            scratch: 0,
            divisor: [0; 2],
            has_fifos: false,
            sent_waits: false,
            text: [0; TEXT_BYTES],
            used: 0,
            dropped: 0,
        }
    }
}

impl Serial {
    /// A byte from the register at this offset.
    pub fn read(&mut self, at: u16) -> u8 {
        match at {
            register::DATA | register::INTERRUPT_ENABLE if self.line & DIVISOR != 0 => self.divisor[usize::from(at)],
            register::DATA => 0,
            register::INTERRUPT_ENABLE => self.interrupts,
            register::INTERRUPT_OR_FIFO => {
                let waits = core::mem::take(&mut self.sent_waits) && self.interrupts & SENT != 0;
                (if waits { SENT_WAITS } else { NOTHING_WAITS }) | if self.has_fifos { FIFOS } else { 0 }
            }
            register::LINE_CONTROL => self.line,
            register::MODEM_CONTROL => self.modem,
            register::LINE_STATUS => EMPTY,
            register::MODEM_STATUS if self.modem & LOOPBACK != 0 => {
                // DTR and RTS come back as DSR and CTS, the two outputs as RI and DCD.
                let bit = |from: u32, to: u32| (self.modem >> from & 1) << to;
                bit(0, 5) | bit(1, 4) | bit(2, 6) | bit(3, 7)
            }
            register::MODEM_STATUS => CONNECTED,
            register::SCRATCH => self.scratch,
            _ => u8::MAX,
        }
    }

    /// A byte to the register at this offset.
    pub fn write(&mut self, at: u16, value: u8) -> Effect {
        match at {
            register::DATA | register::INTERRUPT_ENABLE if self.line & DIVISOR != 0 => {
                self.divisor[usize::from(at)] = value;
            }
            register::DATA => {
                self.sent_waits = true;
                if self.modem & LOOPBACK == 0 {
                    return self.send(value);
                }
            }
            register::INTERRUPT_ENABLE => {
                self.sent_waits |= value & !self.interrupts & SENT != 0;
                self.interrupts = value & 0xf;
            }
            register::INTERRUPT_OR_FIFO => self.has_fifos = value & FIFO_ENABLE != 0,
            register::LINE_CONTROL => self.line = value,
            register::MODEM_CONTROL => self.modem = value & 0x1f,
            register::SCRATCH => self.scratch = value,
            _ => {}
        }
        Effect::None
    }

    fn send(&mut self, byte: u8) -> Effect {
        match self.text.get_mut(self.used) {
            Some(place) => {
                *place = byte;
                self.used += 1;
            }
            // Only an OUTS sends more before all is taken.
            None => self.dropped += 1,
        }
        if byte == b'\n' || self.used == TEXT_BYTES { Effect::Print } else { Effect::None }
    }

    /// Takes the text that is not in the log yet, and the number of bytes that found no room in it.
    pub fn take(&mut self) -> (&[u8], u64) {
        (&self.text[..core::mem::take(&mut self.used)], core::mem::take(&mut self.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use register::*;

    #[test]
    fn a_line_is_printed_when_it_ends_or_is_long() {
        let mut serial = Serial::default();
        for byte in *b"booting\r" {
            assert_eq!(serial.write(DATA, byte), Effect::None);
        }
        assert_eq!(serial.write(DATA, b'\n'), Effect::Print);
        assert_eq!(serial.take(), (&b"booting\r\n"[..], 0));
        assert_eq!(serial.take(), (&b""[..], 0));
        let effects: std::vec::Vec<_> = (0..TEXT_BYTES).map(|_| serial.write(DATA, b'x')).collect();
        assert_eq!(effects.iter().position(|effect| *effect == Effect::Print), Some(TEXT_BYTES - 1));
        serial.write(DATA, b'y');
        assert_eq!((serial.take().1, serial.take()), (1, (&b""[..], 0)));
    }

    /// The accesses by which Linux tells a 16550A from its relatives (`drivers/tty/serial/8250/8250_port.c`, autoconfig).
    #[test]
    fn software_that_probes_it_finds_a_16550a() {
        let mut serial = Serial::default();
        for (value, found) in [(0, 0), (0x0f, 0x0f)] {
            serial.write(INTERRUPT_ENABLE, value);
            assert_eq!(serial.read(INTERRUPT_ENABLE), found);
        }
        serial.write(MODEM_CONTROL, LOOPBACK | 0x0a);
        assert_eq!(serial.read(MODEM_STATUS) & 0xf0, 0x90, "RTS as CTS, OUT2 as DCD");
        assert_eq!((serial.write(DATA, b'\n'), serial.take().0.len()), (Effect::None, 0), "nothing is sent");
        serial.write(MODEM_CONTROL, 0xff);
        assert_eq!((serial.read(MODEM_CONTROL), serial.read(MODEM_STATUS)), (0x1f, 0xf0));
        serial.write(MODEM_CONTROL, 0);
        assert_eq!(serial.read(MODEM_STATUS), CONNECTED);
        serial.write(INTERRUPT_OR_FIFO, FIFO_ENABLE);
        assert_eq!(serial.read(INTERRUPT_OR_FIFO) >> 6, 3);
        serial.write(INTERRUPT_OR_FIFO, 0);
        assert_eq!(serial.read(INTERRUPT_OR_FIFO) >> 6, 0);
        serial.write(SCRATCH, 0x5a);
        assert_eq!((serial.read(SCRATCH), serial.read(LINE_STATUS), serial.read(DATA)), (0x5a, EMPTY, 0));
    }

    #[test]
    fn the_divisor_lies_behind_the_first_two_registers() {
        let mut serial = Serial::default();
        serial.write(LINE_CONTROL, DIVISOR | 3);
        serial.write(DATA, 1);
        serial.write(INTERRUPT_ENABLE, 2);
        assert_eq!((serial.read(DATA), serial.read(INTERRUPT_ENABLE), serial.read(LINE_CONTROL)), (1, 2, DIVISOR | 3));
        serial.write(LINE_CONTROL, 3);
        assert_eq!((serial.read(DATA), serial.read(INTERRUPT_ENABLE), serial.take().0.len()), (0, 0, 0));
    }

    #[test]
    fn who_polls_learns_once_that_the_transmitter_is_empty() {
        let mut serial = Serial::default();
        serial.write(DATA, b'a');
        assert_eq!(serial.read(INTERRUPT_OR_FIFO), NOTHING_WAITS, "not enabled");
        serial.write(INTERRUPT_ENABLE, SENT);
        assert_eq!([(); 2].map(|()| serial.read(INTERRUPT_OR_FIFO)), [SENT_WAITS, NOTHING_WAITS]);
        serial.write(INTERRUPT_ENABLE, SENT);
        assert_eq!(serial.read(INTERRUPT_OR_FIFO), NOTHING_WAITS, "it was enabled before");
        serial.write(DATA, b'b');
        assert_eq!([(); 2].map(|()| serial.read(INTERRUPT_OR_FIFO)), [SENT_WAITS, NOTHING_WAITS]);
    }
}
