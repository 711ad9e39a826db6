//! A clock of day as the MC146818 shows it, in BCD with 24 hours. It stands still, so that runs repeat: kernels read it once and
//! count on by themselves.

use core::sync::atomic::AtomicU8;
use core::sync::atomic::Ordering::Relaxed;

/// The offsets of the two ports.
const INDEX: u16 = 0;
const DATA: u16 = 1;

/// The register numbers, and the date: Thursday, 1 January 2026, midnight.
const DATE: [(u8, u8); 10] = [
    (0x00, 0x00),
    (0x02, 0x00),
    (0x04, 0x00),
    (0x06, 0x05),
    (0x07, 0x01),
    (0x08, 0x01),
    (0x09, 0x26),
    (0x32, 0x20),
    // Status A: no update is under way, 32,768 Hz; status B: 24 hours.
    (0x0a, 0x26),
    (0x0b, 0x02),
];
/// Status D: the battery is good.
const STATUS_D: (u8, u8) = (0x0d, 0x80);

/// The clock.
#[derive(Debug, Default)]
pub struct Clock {
    index: AtomicU8,
}

impl Clock {
    /// The clock after reset.
    pub const fn new() -> Self {
        Self { index: AtomicU8::new(0) }
    }

    /// A byte from the port at this offset.
    pub fn read(&self, at: u16) -> u8 {
        let registers = DATE.iter().chain(&[STATUS_D]);
        match at {
            DATA => {
                registers.copied().find(|&(number, _)| number == self.index.load(Relaxed)).map_or(0, |(_, value)| value)
            }
            _ => u8::MAX,
        }
    }

    /// A byte to the port at this offset. The date can't be set.
    pub fn write(&self, at: u16, value: u8) {
        if at == INDEX {
            // The highest bit holds back NMIs, of which the machine has none.
            self.index.store(value & 0x7f, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_the_same_whenever_it_is_read() {
        let clock = Clock::default();
        let read = |index: u8| {
            clock.write(INDEX, index);
            clock.write(DATA, 0xff);
            clock.read(DATA)
        };
        assert_eq!([0x32, 9, 8, 7, 4, 2, 0].map(read), [0x20, 0x26, 1, 1, 0, 0, 0]);
        assert_eq!((read(0x0a) >> 7, read(0x8b), read(0x0d), read(0x7e)), (0, 2, 0x80, 0), "bit 7 is no part of it");
        assert_eq!(clock.read(INDEX), 0xff);
    }
}
