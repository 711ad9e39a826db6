//! A bounded queue: bytes that are written come back in order.

use tollgate_abi::machine::LOOPBACK_BYTES;

/// The queue behind the port.
#[derive(Clone, Debug)]
pub struct Loopback {
    queue: [u8; LOOPBACK_BYTES],
    first: usize,
    queued: usize,
}

impl Default for Loopback {
    fn default() -> Self {
        Self { queue: [0; LOOPBACK_BYTES], first: 0, queued: 0 }
    }
}

impl Loopback {
    /// IN of `bytes` bytes, each the oldest one left; `0xff` if the queue is empty.
    pub fn read(&mut self, bytes: u8) -> u32 {
        (0..bytes).fold(!0, |value, i| value & !(0xff << (8 * i)) | u32::from(self.pop()) << (8 * i))
    }

    /// OUT of the low `bytes` bytes of `value`; bytes that find no room are dropped.
    pub fn write(&mut self, bytes: u8, value: u32) {
        value.to_le_bytes().iter().take(usize::from(bytes)).for_each(|&byte| self.push(byte));
    }

    fn push(&mut self, byte: u8) {
        if self.queued < LOOPBACK_BYTES {
            self.queue[(self.first + self.queued) % LOOPBACK_BYTES] = byte;
            self.queued += 1;
        }
    }

    fn pop(&mut self) -> u8 {
        if self.queued == 0 {
            return 0xff;
        }
        let byte = self.queue[self.first];
        self.first = (self.first + 1) % LOOPBACK_BYTES;
        self.queued -= 1;
        byte
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_bounded_queue() {
        let mut loopback = Loopback::default();
        loopback.write(4, 0x4433_2211);
        assert_eq!(loopback.read(2) & 0xffff, 0x2211);
        assert_eq!(loopback.read(4), 0xffff_4433);
        for byte in 0..100 {
            loopback.write(1, byte);
        }
        let read: Vec<_> = (0..65).map(|_| loopback.read(1) & 0xff).collect();
        assert!(read[..64].iter().copied().eq(0..64));
        assert_eq!(read[64], 0xff);
    }
}
