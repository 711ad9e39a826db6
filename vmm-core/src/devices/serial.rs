//! A 16550A serial port (National Semiconductor PC16550D) without an interrupt line: software polls it. Its transmitter is always
//! ready, and nothing is ever received. What is sent is the guest's console.

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize};

use super::Effect;
use super::tails::Tails;

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

/// Bytes of a line from which on it goes to the log in pieces.
const LINE_BYTES: usize = 240;
/// The most bytes that wait for the log: more than one OUTS sends.
const TEXT_BYTES: usize = 4096 + LINE_BYTES;

/// The port's state, and what was sent and is not in the log yet. All vCPUs share it. A guest's driver has a lock for it, so that
/// no instruction here has to be a locked one; the bytes of a guest without a lock may be lost or come twice.
#[derive(Debug)]
pub struct Serial {
    interrupts: AtomicU8,
    line: AtomicU8,
    modem: AtomicU8,
    scratch: AtomicU8,
    divisor: [AtomicU8; 2],
    has_fifos: AtomicBool,
    sent_waits: AtomicBool,
    text: [AtomicU8; TEXT_BYTES],
    used: AtomicUsize,
    tails: Tails,
}

impl Default for Serial {
    fn default() -> Self {
        Self::new()
    }
}

impl Serial {
    /// The port after reset.
    pub const fn new() -> Self {
        Self {
            interrupts: AtomicU8::new(0),
            line: AtomicU8::new(0),
            modem: AtomicU8::new(0),
            scratch: AtomicU8::new(0),
            divisor: [const { AtomicU8::new(0) }; _],
            has_fifos: AtomicBool::new(false),
            sent_waits: AtomicBool::new(false),
            text: [const { AtomicU8::new(0) }; _],
            used: AtomicUsize::new(0),
            tails: Tails::new(),
        }
    }

    /// Has the effect of a byte tell whether it may be the last of this text. Before the guest runs.
    pub fn wait_for(&self, text: impl Iterator<Item = u8>) {
        self.tails.wait_for(text);
    }

    fn divisor_is_shown(&self) -> bool {
        self.line.load(Relaxed) & DIVISOR != 0
    }

    /// A byte from the register at this offset.
    pub fn read(&self, at: u16) -> u8 {
        match at {
            register::DATA | register::INTERRUPT_ENABLE if self.divisor_is_shown() => {
                self.divisor[usize::from(at)].load(Relaxed)
            }
            register::DATA => 0,
            register::INTERRUPT_ENABLE => self.interrupts.load(Relaxed),
            register::INTERRUPT_OR_FIFO => {
                let waits = self.sent_waits.load(Relaxed) && self.interrupts.load(Relaxed) & SENT != 0;
                self.sent_waits.store(false, Relaxed);
                let fifos = if self.has_fifos.load(Relaxed) { FIFOS } else { 0 };
                fifos | if waits { SENT_WAITS } else { NOTHING_WAITS }
            }
            register::LINE_CONTROL => self.line.load(Relaxed),
            register::MODEM_CONTROL => self.modem.load(Relaxed),
            register::LINE_STATUS => EMPTY,
            register::MODEM_STATUS => match self.modem.load(Relaxed) {
                modem if modem & LOOPBACK != 0 => {
                    // DTR and RTS come back as DSR and CTS, the two outputs as RI and DCD.
                    let bit = |from: u32, to: u32| (modem >> from & 1) << to;
                    bit(0, 5) | bit(1, 4) | bit(2, 6) | bit(3, 7)
                }
                _ => CONNECTED,
            },
            register::SCRATCH => self.scratch.load(Relaxed),
            _ => u8::MAX,
        }
    }

    /// A byte to the register at this offset.
    pub fn write(&self, at: u16, value: u8) -> Effect {
        match at {
            register::DATA | register::INTERRUPT_ENABLE if self.divisor_is_shown() => {
                self.divisor[usize::from(at)].store(value, Relaxed);
            }
            register::DATA => {
                self.sent_waits.store(true, Relaxed);
                if self.modem.load(Relaxed) & LOOPBACK == 0 {
                    return self.send(value);
                }
            }
            register::INTERRUPT_ENABLE => {
                let was = self.interrupts.load(Relaxed);
                self.interrupts.store(value & 0xf, Relaxed);
                if value & !was & SENT != 0 {
                    self.sent_waits.store(true, Relaxed);
                }
            }
            register::INTERRUPT_OR_FIFO => self.has_fifos.store(value & FIFO_ENABLE != 0, Relaxed),
            register::LINE_CONTROL => self.line.store(value, Relaxed),
            register::MODEM_CONTROL => self.modem.store(value & 0x1f, Relaxed),
            register::SCRATCH => self.scratch.store(value, Relaxed),
            _ => {}
        }
        Effect::None
    }

    fn send(&self, byte: u8) -> Effect {
        let at = self.used.load(Acquire);
        if let Some(place) = self.text.get(at) {
            place.store(byte, Relaxed);
        }
        self.used.store(at + 1, Release);
        let may_be_waited_for = self.tails.take(byte);
        if byte == b'\n' || at + 1 >= LINE_BYTES {
            Effect::Print
        } else if may_be_waited_for {
            Effect::Look
        } else {
            Effect::None
        }
    }

    /// Takes the text that is not in the log yet, byte by byte, and returns the number of bytes that found no room in it.
    pub fn take(&self, mut each: impl FnMut(u8)) -> u64 {
        let sent = self.used.swap(0, AcqRel);
        self.text.iter().take(sent).for_each(|byte| each(byte.load(Relaxed)));
        sent.saturating_sub(TEXT_BYTES) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use register::*;
    use std::vec::Vec;

    /// The text that waits, and the number of bytes that were lost.
    fn taken(serial: &Serial) -> (Vec<u8>, u64) {
        let mut text = Vec::new();
        let lost = serial.take(|byte| text.push(byte));
        (text, lost)
    }

    #[test]
    fn a_line_is_printed_when_it_ends_or_is_long() {
        let serial = Serial::default();
        for byte in *b"booting\r" {
            assert_eq!(serial.write(DATA, byte), Effect::None);
        }
        assert_eq!(serial.write(DATA, b'\n'), Effect::Print);
        assert_eq!(taken(&serial), (b"booting\r\n".to_vec(), 0));
        assert_eq!(taken(&serial), (Vec::new(), 0));
        let effects: Vec<_> = (0..LINE_BYTES).map(|_| serial.write(DATA, b'x')).collect();
        assert_eq!(effects.iter().position(|effect| *effect == Effect::Print), Some(LINE_BYTES - 1));
        assert_eq!(taken(&serial).0.len(), LINE_BYTES);
        let last = (0..TEXT_BYTES + 3).map(|_| serial.write(DATA, b'y')).last();
        assert_eq!(last, Some(Effect::Print));
        assert_eq!(taken(&serial), (std::vec![b'y'; TEXT_BYTES], 3));
    }

    #[test]
    fn a_text_that_is_waited_for_need_not_be_a_line() {
        let serial = Serial::default();
        serial.wait_for(b"login: ".iter().copied());
        let effects: Vec<_> = b"a login: \n".iter().map(|&byte| serial.write(DATA, byte)).collect();
        assert!(effects[..8].iter().all(|effect| *effect == Effect::None));
        assert_eq!(effects[8..], [Effect::Look, Effect::Print]);
    }

    #[test]
    fn vcpus_that_send_under_a_lock_lose_nothing() {
        let (serial, lock) = (Serial::default(), std::sync::Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for number in b'0'..b'4' {
                let (serial, lock) = (&serial, &lock);
                scope.spawn(move || {
                    for _ in 0..500 {
                        let mut log = lock.lock().unwrap();
                        for byte in [number, number, b'\n'] {
                            if serial.write(DATA, byte) == Effect::Print {
                                assert_eq!(serial.take(|byte| log.push(byte)), 0);
                            }
                        }
                    }
                });
            }
        });
        let log = lock.into_inner().unwrap();
        assert_eq!(log.len(), 4 * 500 * 3);
        assert!(log.chunks(3).all(|line| line[0] == line[1] && line[2] == b'\n'));
    }

    /// The accesses by which Linux tells a 16550A from its relatives (`drivers/tty/serial/8250/8250_port.c`, autoconfig).
    #[test]
    fn software_that_probes_it_finds_a_16550a() {
        let serial = Serial::default();
        for (value, found) in [(0, 0), (0x0f, 0x0f)] {
            serial.write(INTERRUPT_ENABLE, value);
            assert_eq!(serial.read(INTERRUPT_ENABLE), found);
        }
        serial.write(MODEM_CONTROL, LOOPBACK | 0x0a);
        assert_eq!(serial.read(MODEM_STATUS) & 0xf0, 0x90, "RTS as CTS, OUT2 as DCD");
        assert_eq!((serial.write(DATA, b'\n'), taken(&serial).0.len()), (Effect::None, 0), "nothing is sent");
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
        let serial = Serial::default();
        serial.write(LINE_CONTROL, DIVISOR | 3);
        serial.write(DATA, 1);
        serial.write(INTERRUPT_ENABLE, 2);
        assert_eq!((serial.read(DATA), serial.read(INTERRUPT_ENABLE), serial.read(LINE_CONTROL)), (1, 2, DIVISOR | 3));
        serial.write(LINE_CONTROL, 3);
        assert_eq!((serial.read(DATA), serial.read(INTERRUPT_ENABLE), taken(&serial).0.len()), (0, 0, 0));
    }

    #[test]
    fn who_polls_learns_once_that_the_transmitter_is_empty() {
        let serial = Serial::default();
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
