//! The way in which an image ends an emulator, so that the exit status tells the verdict.
//!
//! Bochs reads port 0x8900, QEMU's `isa-debug-exit` port 0xF4; each ignores the other's. On a real machine nothing
//! listens, and the image halts.

/// The verdict that the emulator's own exit status should tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The books balance.
    Pass,
    /// The books differ, or the guest or the monitor failed.
    Fail,
    /// The platform can't run the image.
    Refused,
}

/// Bochs: byte `D` leaves with status 0 (given a debugger script that ends in `q`), the bytes `Shutdown` with status 1.
pub const BOCHS_PORT: u16 = 0x8900;
/// QEMU: `-device isa-debug-exit,iobase=0xf4,iosize=4` ends with status `value << 1 | 1`.
pub const QEMU_PORT: u16 = 0xf4;

impl Ending {
    /// The bytes for [`BOCHS_PORT`]. Bochs has two statuses, so a refusal ends like a failure.
    pub const fn bochs_bytes(self) -> &'static [u8] {
        match self {
            Ending::Pass => b"D",
            Ending::Fail | Ending::Refused => b"Shutdown",
        }
    }

    /// The value for [`QEMU_PORT`].
    pub const fn qemu_value(self) -> u32 {
        match self {
            Ending::Pass => 0x10,
            Ending::Fail => 0x11,
            Ending::Refused => 0x12,
        }
    }

    /// QEMU's exit status for this ending.
    pub const fn qemu_status(self) -> i32 {
        (self.qemu_value() << 1 | 1) as i32
    }
}
