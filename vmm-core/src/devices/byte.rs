//! A byte that reads as it was written last: the port of POST codes.

/// The byte behind the port.
#[derive(Clone, Copy, Debug)]
pub struct Byte {
    /// Four bytes as they are read from the port: the byte, and ones above.
    read: [u8; 4],
}

impl Default for Byte {
    /// After reset all bits are set.
    fn default() -> Self {
        Self { read: [0xff; 4] }
    }
}

impl Byte {
    /// IN: the byte, and ones above, since a wider access reaches ports without a device.
    #[inline(always)]
    pub fn read(&self) -> u32 {
        u32::from_le_bytes(self.read)
    }

    /// OUT: the low byte of `value`.
    #[inline(always)]
    pub fn write(&mut self, value: u32) {
        self.read[0] = value as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_low_byte_is_kept_and_ones_are_above() {
        let mut byte = Byte::default();
        assert_eq!(byte.read(), !0, "after reset");
        byte.write(0x1142);
        assert_eq!(byte.read(), 0xffff_ff42);
        byte.write(0x0100);
        assert_eq!(byte.read(), 0xffff_ff00);
    }
}
