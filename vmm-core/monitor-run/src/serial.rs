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
        let (mut rest, mut patience) = (text.as_bytes(), PATIENCE);
        while !rest.is_empty() {
            let sent = uart.send_bytes(rest);
            rest = &rest[sent..];
            patience = if sent > 0 { PATIENCE } else { patience - 1 };
            if patience == 0 {
                self.uart = None;
                return Err(fmt::Error);
            }
        }
        Ok(())
    }
}
