//! The test device of kvm-unit-tests: the lines of the IOAPIC's inputs, each behind a port, and four bytes.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU8, AtomicU32};

use super::Effect;

/// The device.
#[derive(Debug, Default)]
pub struct TestDevice {
    /// A bit for each line: up, and risen since it was asked last.
    up: AtomicU32,
    risen: AtomicU32,
    bytes: [AtomicU8; 4],
}

impl TestDevice {
    /// The device after reset.
    pub const fn new() -> Self {
        Self { up: AtomicU32::new(0), risen: AtomicU32::new(0), bytes: [const { AtomicU8::new(0) }; 4] }
    }

    /// Sets the line of an input.
    pub fn set_line(&self, input: u16, is_up: bool) -> Effect {
        let (bit, up) = (1 << (input & 31), self.up.load(Relaxed));
        if !is_up {
            self.up.store(up & !bit, Relaxed);
            return Effect::None;
        }
        self.up.store(up | bit, Relaxed);
        self.risen.store(self.risen.load(Relaxed) | bit & !up, Relaxed);
        Effect::Rise
    }

    /// The lines that are up.
    pub fn up(&self) -> u32 {
        self.up.load(Relaxed)
    }

    /// The first line that has risen, as long as there is one. Each rise is told once.
    pub fn takes_rise(&self) -> Option<usize> {
        let risen = self.risen.load(Relaxed);
        self.risen.store(risen & risen.wrapping_sub(1), Relaxed);
        (risen != 0).then(|| risen.trailing_zeros() as usize)
    }

    /// The byte at an offset and those behind it.
    pub fn read(&self, at: u16) -> u32 {
        let bytes = self.bytes.each_ref().map(|byte| byte.load(Relaxed));
        u32::from_le_bytes(bytes) >> (8 * at) | !(u32::MAX >> (8 * at))
    }

    /// Writes so many bytes from an offset on.
    pub fn write(&self, at: u16, bytes: u8, value: u32) {
        let places = self.bytes.iter().skip(at.into()).take(bytes.into());
        places.zip(value.to_le_bytes()).for_each(|(place, byte)| place.store(byte, Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_rises_once() {
        let device = TestDevice::new();
        assert_eq!(
            (device.set_line(14, true), device.set_line(23, true), device.up()),
            (Effect::Rise, Effect::Rise, 1 << 14 | 1 << 23)
        );
        assert_eq!([(); 3].map(|()| device.takes_rise()), [Some(14), Some(23), None]);
        device.set_line(14, true);
        assert_eq!(device.takes_rise(), None, "it is up already");
        assert_eq!((device.set_line(14, false), device.up()), (Effect::None, 1 << 23));
        device.set_line(14, true);
        assert_eq!(device.takes_rise(), Some(14));
    }

    /// As kvm-unit-tests' emulator test reads and writes them, in pieces of 1, 2 and 4 bytes.
    #[test]
    fn bytes_read_as_they_were_written_together_or_apart() {
        let device = TestDevice::new();
        device.write(0, 4, 0x4433_2211);
        assert_eq!((device.read(0), device.read(2) & 0xffff, device.read(3) & 0xff), (0x4433_2211, 0x4433, 0x44));
        device.write(1, 1, 0xff);
        device.write(2, 4, 0x8877_6655);
        assert_eq!((device.read(0), device.read(3)), (0x6655_ff11, 0xffff_ff66), "behind them there is nothing");
    }
}
