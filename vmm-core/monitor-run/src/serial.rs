//! The first serial port: records go out here, and to the firmware if that keeps them. Nothing is read.
#![expect(unsafe_code, reason = "owns the port's registers")]

use core::fmt;

use uart_16550::backend::PioBackend;
use uart_16550::spec::registers::LSR;
use uart_16550::{BaudRate, Config, Uart16550};

use crate::firmware::firmware;

/// The port's I/O base on every PC.
const COM1: u16 = 0x3f8;

/// Polls without progress after which the port counts as dead: a record lost is better than a monitor that hangs.
const PATIENCE: u32 = 10_000_000;

/// The port, or its absence.
pub(crate) struct Serial {
    uart: Option<Uart16550<PioBackend>>,
}

impl Serial {
    /// Sets the port up at 115200 baud, 8N1. Without a port, output goes nowhere.
    pub(crate) fn new() -> Self {
        // SAFETY: one processor runs, and this is its only owner of the port; after a fatal error a second owner takes over for
        // good.
        let uart = unsafe { Uart16550::new_port(COM1) }.ok();
        let config = Config { baud_rate: BaudRate::Baud115200, ..Config::DEFAULT };
        Self { uart: uart.and_then(|mut uart| uart.init(config).is_ok().then_some(uart)) }
    }

    /// Whether there is a port.
    pub(crate) fn exists(&self) -> bool {
        self.uart.is_some()
    }

    /// Waits until the last character has left the port.
    pub(crate) fn drain(&mut self) {
        if let Some(uart) = &mut self.uart {
            let _ = (0..PATIENCE).find(|_| uart.lsr().contains(LSR::TRANSMITTER_EMPTY));
        }
    }
}

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        (firmware().keep)(text);
        let Some(uart) = &mut self.uart else { return Ok(()) };
        if send_all(text.as_bytes(), PATIENCE, |rest| uart.send_bytes(rest)) {
            return Ok(());
        }
        self.uart = None;
        Err(fmt::Error)
    }
}

/// Sends all bytes in as many parts as it takes; false after so many polls in which the port took none. `send` returns the number of
/// bytes that it took.
#[inline(always)]
fn send_all(bytes: &[u8], most_polls: u32, mut send: impl FnMut(&[u8]) -> usize) -> bool {
    let (mut rest, mut patience) = (bytes, most_polls);
    while !rest.is_empty() {
        let sent = send(rest);
        rest = &rest[sent..];
        patience = if sent > 0 { most_polls } else { patience - 1 };
        if patience == 0 {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn a_slow_port_gets_all_and_a_dead_one_is_given_up() {
        const POLLS: u32 = 50;
        let (mut taken, mut looks) = (Vec::new(), 0);
        // It takes up to three bytes, each time after it has been asked in vain for long.
        let is_sent = send_all(b"verdict result=refused", POLLS, |rest| {
            looks += 1;
            let bytes = if looks % (POLLS - 1) == 0 { rest.len().min(3) } else { 0 };
            taken.extend_from_slice(&rest[..bytes]);
            bytes
        });
        assert_eq!((is_sent, &taken[..]), (true, &b"verdict result=refused"[..]));
        let mut looks = 0;
        let is_sent = send_all(b"verdict", POLLS, |_| {
            looks += 1;
            usize::from(looks == 1)
        });
        assert_eq!((is_sent, looks), (false, 1 + POLLS));
        assert!(send_all(b"", POLLS, |_| panic!("there is nothing to be sent")));
    }
}
