//! A 16550A serial port (National Semiconductor PC16550D), and its interrupt as a PC has it: behind the output OUT2. Its transmitter
//! is always ready: it is empty again when it has been written to. Nothing is received but what the port sends to itself in loopback
//! mode. What is sent else is the guest's console.
//!
//! Left out: the form of a character, whose bits are kept; time, so that a character below the receiver's trigger level counts as
//! one that has waited long.

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize};

use super::Effect;
use super::tails::Tails;

/// The registers, by their offset from the first port.
mod register {
    /// The transmitter's and the receiver's holding register, and the divisor's low byte.
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
/// In the modem control register: the interrupt goes out.
const OUT2: u8 = 1 << 3;
/// In the modem control register: what software drives is what it reads, and what it sends it receives.
const LOOPBACK: u8 = 1 << 4;

/// In the interrupt enable register: something was received.
const RECEIVED: u8 = 1 << 0;
/// In the interrupt enable register: the transmitter's holding register is empty.
const SENT: u8 = 1 << 1;
/// In the interrupt enable register: the receiver lost something.
const LOST: u8 = 1 << 2;
/// In the interrupt enable register: one of the modem's lines changed.
const MODEM: u8 = 1 << 3;

/// The interrupt register's values for these, by descending priority, and for none.
const LOST_WAITS: u8 = 6;
const RECEIVED_WAITS: u8 = 4;
const RECEIVED_LONG_AGO: u8 = 0xc;
const SENT_WAITS: u8 = 2;
const MODEM_WAITS: u8 = 0;
const NOTHING_WAITS: u8 = 1;
/// The interrupt register's bits that tell of FIFOs.
const FIFOS: u8 = 0xc0;

/// In the FIFO control register: FIFOs are on.
const FIFO_ENABLE: u8 = 1;
/// In the FIFO control register: the receiver's is emptied.
const FIFO_CLEAR: u8 = 1 << 1;
/// Bytes in the receiver's FIFO from which on it interrupts, by the FIFO control register's bits 7:6.
const TRIGGERS: [u8; 4] = [1, 4, 8, 14];
/// Bytes of the receiver's FIFO.
const FIFO_BYTES: u8 = 16;

/// The line status: holding register and transmitter are empty.
const EMPTY: u8 = 0x60;
/// In the line status: a byte was received.
const READY: u8 = 1 << 0;
/// In the line status: a byte was received that found no room.
const OVERRUN: u8 = 1 << 1;
/// The modem status: carrier, data set ready, clear to send.
const CONNECTED: u8 = 0xb0;
/// In the modem status: the ring indicator, whose change shows only when it ends.
const RING: u8 = 1 << 6;

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
    /// The low half of the modem status: the lines that changed.
    modem_changes: AtomicU8,
    scratch: AtomicU8,
    divisor: [AtomicU8; 2],
    fifo: AtomicU8,
    sent_waits: AtomicBool,
    receiver: Receiver,
    /// A byte to the first register does more than go out: interrupts are enabled, the divisor is shown, or the port is looped back.
    is_busy: AtomicBool,
    /// The interrupt line is up.
    is_up: AtomicBool,
    /// It has risen since it was asked last.
    has_risen: AtomicBool,
    text: [AtomicU8; TEXT_BYTES],
    used: AtomicUsize,
    tails: Tails,
}

/// The bytes that were received.
#[derive(Debug)]
struct Receiver {
    bytes: [AtomicU8; FIFO_BYTES as usize],
    first: AtomicU8,
    /// The number of bytes, and [`OVERRUN_BIT`].
    state: AtomicU8,
}

/// In a receiver's state: a byte found no room.
const OVERRUN_BIT: u8 = 1 << 7;

impl Receiver {
    const fn new() -> Self {
        Self { bytes: [const { AtomicU8::new(0) }; _], first: AtomicU8::new(0), state: AtomicU8::new(0) }
    }

    #[inline(always)]
    fn is_as_after_reset(&self) -> bool {
        self.state.load(Relaxed) == 0
    }

    fn used(&self) -> u8 {
        self.state.load(Relaxed) & !OVERRUN_BIT
    }

    fn has_overrun(&self) -> bool {
        self.state.load(Relaxed) & OVERRUN_BIT != 0
    }

    fn takes_overrun(&self) -> bool {
        let had_overrun = self.has_overrun();
        self.state.store(self.used(), Relaxed);
        had_overrun
    }

    fn clear(&self) {
        self.state.store(self.state.load(Relaxed) & OVERRUN_BIT, Relaxed);
    }

    fn place(&self, at: u8) -> &AtomicU8 {
        &self.bytes[usize::from(at % FIFO_BYTES)]
    }

    /// Takes a byte in. With a FIFO one that finds no room is lost, without one it replaces the one before.
    fn put(&self, byte: u8, has_fifo: bool) {
        let (first, used) = (self.first.load(Relaxed), self.used());
        let room = if has_fifo { FIFO_BYTES } else { 1 };
        if used < room {
            self.place(first.wrapping_add(used)).store(byte, Relaxed);
            self.state.store(self.state.load(Relaxed) + 1, Relaxed);
            return;
        }
        if !has_fifo {
            self.place(first).store(byte, Relaxed);
        }
        self.state.store(self.state.load(Relaxed) | OVERRUN_BIT, Relaxed);
    }

    /// The byte that came first. Without one, the one that was read last.
    fn take(&self) -> u8 {
        let first = self.first.load(Relaxed);
        if self.used() == 0 {
            return self.place(first.wrapping_sub(1)).load(Relaxed);
        }
        self.first.store(first.wrapping_add(1), Relaxed);
        self.state.store(self.state.load(Relaxed) - 1, Relaxed);
        self.place(first).load(Relaxed)
    }
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
            modem_changes: AtomicU8::new(0),
            scratch: AtomicU8::new(0),
            divisor: [const { AtomicU8::new(0) }; _],
            fifo: AtomicU8::new(0),
            sent_waits: AtomicBool::new(false),
            receiver: Receiver::new(),
            is_busy: AtomicBool::new(false),
            is_up: AtomicBool::new(false),
            has_risen: AtomicBool::new(false),
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

    fn has_fifos(&self) -> bool {
        self.fifo.load(Relaxed) & FIFO_ENABLE != 0
    }

    fn is_looped_back(&self) -> bool {
        self.modem.load(Relaxed) & LOOPBACK != 0
    }

    /// A byte from the register at this offset.
    #[inline(always)]
    pub fn read(&self, at: u16) -> u8 {
        if at == register::LINE_STATUS && self.receiver.is_as_after_reset() {
            return EMPTY;
        }
        self.read_any(at)
    }

    #[cold]
    #[inline(never)]
    fn read_any(&self, at: u16) -> u8 {
        match at {
            register::DATA | register::INTERRUPT_ENABLE if self.divisor_is_shown() => {
                self.divisor[usize::from(at)].load(Relaxed)
            }
            register::DATA => self.and_settle(self.receiver.take()),
            register::INTERRUPT_ENABLE => self.interrupts.load(Relaxed),
            register::INTERRUPT_OR_FIFO => {
                let waits = self.waits();
                if waits == SENT_WAITS {
                    self.sent_waits.store(false, Relaxed);
                }
                let fifos = if self.has_fifos() { FIFOS } else { 0 };
                self.and_settle(fifos | waits)
            }
            register::LINE_CONTROL => self.line.load(Relaxed),
            register::MODEM_CONTROL => self.modem.load(Relaxed),
            register::LINE_STATUS => self.line_status(),
            register::MODEM_STATUS => {
                let changes = self.modem_changes.load(Relaxed);
                self.modem_changes.store(0, Relaxed);
                self.and_settle(self.modem_lines() | changes)
            }
            register::SCRATCH => self.scratch.load(Relaxed),
            _ => u8::MAX,
        }
    }

    /// A value that was read, which may end an interrupt.
    fn and_settle(&self, value: u8) -> u8 {
        self.settle();
        value
    }

    fn line_status(&self) -> u8 {
        let ready = if self.receiver.used() > 0 { READY } else { 0 };
        let overrun = if self.receiver.takes_overrun() { OVERRUN } else { 0 };
        self.and_settle(EMPTY | ready | overrun)
    }

    /// The high half of the modem status.
    fn modem_lines(&self) -> u8 {
        if !self.is_looped_back() {
            return CONNECTED;
        }
        // DTR and RTS come back as DSR and CTS, the two outputs as RI and DCD.
        let modem = self.modem.load(Relaxed);
        let bit = |from: u32, to: u32| (modem >> from & 1) << to;
        bit(0, 5) | bit(1, 4) | bit(2, 6) | bit(3, 7)
    }

    /// A byte to the register at this offset.
    #[inline(always)]
    pub fn write(&self, at: u16, value: u8) -> Effect {
        if at == register::DATA && !self.is_busy.load(Relaxed) {
            self.sent_waits.store(true, Relaxed);
            return self.send(value);
        }
        self.write_any(at, value)
    }

    #[cold]
    #[inline(never)]
    fn write_any(&self, at: u16, value: u8) -> Effect {
        match at {
            register::DATA | register::INTERRUPT_ENABLE if self.divisor_is_shown() => {
                self.divisor[usize::from(at)].store(value, Relaxed);
            }
            register::DATA => return self.transmit(value),
            register::INTERRUPT_ENABLE => {
                let was = self.interrupts.load(Relaxed);
                self.interrupts.store(value & (RECEIVED | SENT | LOST | MODEM), Relaxed);
                if value & !was & SENT != 0 {
                    self.sent_waits.store(true, Relaxed);
                }
            }
            register::INTERRUPT_OR_FIFO => {
                let switches = (value ^ self.fifo.load(Relaxed)) & FIFO_ENABLE != 0;
                if switches || value & FIFO_CLEAR != 0 {
                    self.receiver.clear();
                }
                self.fifo.store(if value & FIFO_ENABLE != 0 { value } else { 0 }, Relaxed);
            }
            register::LINE_CONTROL => self.line.store(value, Relaxed),
            register::MODEM_CONTROL => {
                let was = self.modem_lines();
                self.modem.store(value & 0x1f, Relaxed);
                let lines = self.modem_lines();
                let changed = (was ^ lines) & !(RING & lines);
                self.modem_changes.store(self.modem_changes.load(Relaxed) | changed >> 4, Relaxed);
            }
            register::SCRATCH => self.scratch.store(value, Relaxed),
            _ => {}
        }
        let is_busy = self.interrupts.load(Relaxed) != 0 || self.divisor_is_shown() || self.is_looped_back();
        self.is_busy.store(is_busy, Relaxed);
        self.settle()
    }

    /// A byte to the transmitter, which is empty behind it. A line that is up for that alone falls, and rises again.
    fn transmit(&self, value: u8) -> Effect {
        if self.is_up() && self.waits() == SENT_WAITS {
            self.is_up.store(false, Relaxed);
        }
        self.sent_waits.store(true, Relaxed);
        if self.is_looped_back() {
            self.receiver.put(value, self.has_fifos());
            return self.settle();
        }
        match (self.send(value), self.settle()) {
            (Effect::None, settled) => settled,
            (sent, _) => sent,
        }
    }

    #[inline(always)]
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

    /// The interrupt register's value for the interrupt that waits.
    #[inline(never)]
    fn waits(&self) -> u8 {
        let (interrupts, received) = (self.interrupts.load(Relaxed), self.receiver.used());
        let fifo = self.fifo.load(Relaxed);
        if interrupts & LOST != 0 && self.receiver.has_overrun() {
            LOST_WAITS
        } else if interrupts & RECEIVED != 0 && received > 0 {
            let is_enough = fifo & FIFO_ENABLE == 0 || received >= TRIGGERS[usize::from(fifo >> 6)];
            if is_enough { RECEIVED_WAITS } else { RECEIVED_LONG_AGO }
        } else if interrupts & SENT != 0 && self.sent_waits.load(Relaxed) {
            SENT_WAITS
        } else if interrupts & MODEM != 0 && self.modem_changes.load(Relaxed) != 0 {
            MODEM_WAITS
        } else {
            NOTHING_WAITS
        }
    }

    /// Drives the interrupt line by the state.
    #[inline(never)]
    fn settle(&self) -> Effect {
        let goes_out = self.modem.load(Relaxed) & (OUT2 | LOOPBACK) == OUT2;
        let (was_up, is_up) = (self.is_up.load(Relaxed), goes_out && self.waits() != NOTHING_WAITS);
        self.is_up.store(is_up, Relaxed);
        if was_up || !is_up {
            return Effect::None;
        }
        self.has_risen.store(true, Relaxed);
        Effect::Rise
    }

    /// Whether the interrupt line is up.
    pub fn is_up(&self) -> bool {
        self.is_up.load(Relaxed)
    }

    /// Whether the interrupt line has risen since it was asked last.
    pub fn takes_rise(&self) -> bool {
        let has_risen = self.has_risen.load(Relaxed);
        self.has_risen.store(false, Relaxed);
        has_risen
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
        assert_eq!((serial.read(MODEM_CONTROL), serial.read(MODEM_STATUS) & 0xf0), (0x1f, 0xf0));
        serial.write(MODEM_CONTROL, 0);
        assert_eq!(serial.read(MODEM_STATUS) & 0xf0, CONNECTED);
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

    /// A port whose interrupt goes out, with these enabled.
    fn interrupting(interrupts: u8) -> Serial {
        let serial = Serial::default();
        serial.write(MODEM_CONTROL, OUT2);
        serial.read(MODEM_STATUS);
        serial.write(INTERRUPT_ENABLE, interrupts);
        serial
    }

    /// Whether the line is up, and has risen since this was asked last.
    fn line(serial: &Serial) -> (bool, bool) {
        (serial.is_up(), serial.takes_rise())
    }

    #[test]
    fn an_empty_transmitter_interrupts_until_that_is_read_or_it_is_written_to() {
        let serial = interrupting(0);
        assert_eq!((serial.write(INTERRUPT_ENABLE, SENT), line(&serial)), (Effect::Rise, (true, true)));
        assert_eq!((serial.write(INTERRUPT_ENABLE, SENT | RECEIVED), line(&serial)), (Effect::None, (true, false)));
        assert_eq!((serial.read(INTERRUPT_OR_FIFO), line(&serial)), (SENT_WAITS, (false, false)));
        assert_eq!((serial.write(DATA, b'a'), line(&serial)), (Effect::Rise, (true, true)));
        assert_eq!((serial.write(DATA, b'b'), line(&serial)), (Effect::Rise, (true, true)), "down between the two");
        assert_eq!((serial.write(DATA, b'\n'), line(&serial)), (Effect::Print, (true, true)), "both");
        assert_eq!((serial.write(INTERRUPT_ENABLE, 0), line(&serial)), (Effect::None, (false, false)));
        assert_eq!(taken(&serial), (b"ab\n".to_vec(), 0));
        assert_eq!((serial.write(DATA, b'c'), line(&serial)), (Effect::None, (false, false)), "not enabled");
    }

    #[test]
    fn the_interrupt_goes_out_by_an_output_and_not_in_loopback_mode() {
        let serial = Serial::default();
        assert_eq!((serial.write(INTERRUPT_ENABLE, SENT), line(&serial)), (Effect::None, (false, false)));
        assert_eq!((serial.write(MODEM_CONTROL, OUT2), line(&serial)), (Effect::Rise, (true, true)));
        assert_eq!((serial.write(MODEM_CONTROL, OUT2 | LOOPBACK), line(&serial)), (Effect::None, (false, false)));
        assert_eq!(serial.read(INTERRUPT_OR_FIFO), SENT_WAITS, "it waits all the same");
    }

    #[test]
    fn what_it_sends_in_loopback_mode_it_receives() {
        let serial = Serial::default();
        serial.write(INTERRUPT_ENABLE, RECEIVED | LOST);
        serial.write(MODEM_CONTROL, LOOPBACK);
        let state = || (serial.read(LINE_STATUS), serial.read(INTERRUPT_OR_FIFO));
        assert_eq!(state(), (EMPTY, NOTHING_WAITS));
        serial.write(DATA, b'a');
        assert_eq!((state(), serial.read(DATA)), ((EMPTY | READY, RECEIVED_WAITS), b'a'));
        assert_eq!((state(), serial.read(DATA)), ((EMPTY, NOTHING_WAITS), b'a'), "the last one stays");
        serial.write(DATA, b'b');
        serial.write(DATA, b'c');
        assert_eq!(serial.read(INTERRUPT_OR_FIFO), LOST_WAITS);
        assert_eq!(state(), (EMPTY | READY | OVERRUN, RECEIVED_WAITS), "the status tells of it once");
        assert_eq!((serial.read(DATA), taken(&serial).0.len()), (b'c', 0), "the later one replaced the other");
    }

    #[test]
    fn a_fifo_tells_how_much_it_has() {
        let serial = Serial::default();
        serial.write(INTERRUPT_ENABLE, RECEIVED);
        serial.write(MODEM_CONTROL, LOOPBACK);
        for (trigger, bytes) in [(0, 1), (1, 4), (2, 8), (3, 14)] {
            serial.write(INTERRUPT_OR_FIFO, trigger << 6 | FIFO_CLEAR | FIFO_ENABLE);
            let waits: Vec<_> = (0..20)
                .map(|byte| {
                    serial.write(DATA, byte);
                    serial.read(INTERRUPT_OR_FIFO) & !FIFOS
                })
                .collect();
            let few = waits.iter().take_while(|&&waits| waits == RECEIVED_LONG_AGO).count();
            assert_eq!((few, waits[few..].iter().all(|&waits| waits == RECEIVED_WAITS)), (bytes - 1, true));
            assert_eq!([(); 2].map(|()| serial.read(LINE_STATUS)), [EMPTY | READY | OVERRUN, EMPTY | READY]);
            let received: Vec<_> = (0..16).map(|_| serial.read(DATA)).collect();
            assert_eq!((received, serial.read(LINE_STATUS)), ((0..16).collect(), EMPTY), "those that found room");
        }
        serial.write(DATA, b'a');
        serial.write(INTERRUPT_OR_FIFO, 0);
        assert_eq!((serial.read(LINE_STATUS), serial.read(INTERRUPT_OR_FIFO)), (EMPTY, NOTHING_WAITS), "switched off");
    }

    #[test]
    fn the_modems_lines_interrupt_when_they_change_until_they_are_read() {
        let serial = interrupting(MODEM);
        assert_eq!(line(&serial), (false, false));
        serial.write(MODEM_CONTROL, OUT2 | LOOPBACK);
        assert_eq!(serial.read(INTERRUPT_OR_FIFO), MODEM_WAITS);
        assert_eq!([(); 2].map(|()| serial.read(MODEM_STATUS)), [0x83, 0x80], "DSR and CTS are gone");
        assert_eq!(serial.read(INTERRUPT_OR_FIFO), NOTHING_WAITS);
        for (control, status) in [(4, 0x48), (0, 0x04), (1, 0x22), (3, 0x31), (0x0f, 0xf8), (0x0b, 0xb4)] {
            serial.write(MODEM_CONTROL, LOOPBACK | control);
            assert_eq!(serial.read(MODEM_STATUS), status, "{control:#x}: a ring shows when it ends");
        }
        serial.write(MODEM_CONTROL, LOOPBACK);
        assert_eq!((serial.write(MODEM_CONTROL, OUT2), line(&serial)), (Effect::Rise, (true, true)));
        assert_eq!((serial.read(MODEM_STATUS) & 0xf, line(&serial)), (0xb, (false, false)));
    }

    #[test]
    fn the_most_urgent_interrupt_is_told_first() {
        let serial = Serial::default();
        serial.write(MODEM_CONTROL, LOOPBACK);
        serial.write(INTERRUPT_ENABLE, 0xff);
        assert_eq!(serial.read(INTERRUPT_ENABLE), 0x0f);
        serial.write(DATA, 1);
        serial.write(DATA, 2);
        let next = || serial.read(INTERRUPT_OR_FIFO);
        assert_eq!((next(), next(), serial.read(LINE_STATUS)), (LOST_WAITS, LOST_WAITS, EMPTY | READY | OVERRUN));
        assert_eq!((next(), next(), serial.read(DATA)), (RECEIVED_WAITS, RECEIVED_WAITS, 2));
        assert_eq!((next(), next()), (SENT_WAITS, MODEM_WAITS), "the read of this one ends it");
        assert_eq!((serial.read(MODEM_STATUS) & 0xf, next()), (0xb, NOTHING_WAITS));
    }
}
