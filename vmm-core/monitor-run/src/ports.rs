//! The few ports of the PC that the monitor itself uses: CMOS, the interrupt controllers, and the ports that end an emulator.
#![expect(unsafe_code, reason = "port I/O")]

use tollgate_abi::ending::{BOCHS_PORT, Ending, QEMU_PORT};
use x86_64::instructions::port::Port;

/// Reads a byte of CMOS memory.
fn cmos(index: u8) -> u64 {
    // SAFETY: the index/data pair of the real-time clock; bit 7 of the index, which would mask NMIs, stays clear.
    unsafe {
        Port::new(0x70).write(index);
        u64::from(Port::<u8>::new(0x71).read())
    }
}

/// Bytes of memory below 4 GiB, from address 0, as firmware setup stores it in CMOS on Bochs and QEMU.
pub(crate) fn memory_bytes() -> u64 {
    memory_of(cmos)
}

fn memory_of(cmos: impl Fn(u8) -> u64) -> u64 {
    let above_1m = (cmos(0x31) << 8 | cmos(0x30)) << 10;
    let above_16m = (cmos(0x35) << 8 | cmos(0x34)) << 16;
    if above_16m > 0 { (16 << 20) + above_16m } else { (1 << 20) + above_1m }
}

/// Masks both interrupt controllers: no device may interrupt the monitor, or the guest.
pub(crate) fn mask_interrupts() {
    // SAFETY: the mask registers of the two 8259s.
    unsafe {
        Port::new(0x21).write(0xffu8);
        Port::new(0xa1).write(0xffu8);
    }
}

/// The interrupts that both controllers mask.
pub fn interrupt_masks() -> [u8; 2] {
    // SAFETY: the mask registers of the two 8259s, which reading does not change.
    unsafe { [Port::new(0x21).read(), Port::new(0xa1).read()] }
}

/// Sets the interrupts that both controllers mask.
pub fn set_interrupt_masks([first, second]: [u8; 2]) {
    // SAFETY: the same registers.
    unsafe {
        Port::new(0x21).write(first);
        Port::new(0xa1).write(second);
    }
}

/// Whether there is an emulator's debug port, which reads as its own number. A port without a device reads all ones.
pub fn has_debug_port() -> bool {
    const DEBUG_PORT: u16 = 0xe9;
    // SAFETY: reading a port that no PC has.
    let value: u8 = unsafe { Port::new(DEBUG_PORT).read() };
    u16::from(value) == DEBUG_PORT
}

/// Ends the emulator with the status that stands for `ending`, if it listens.
pub fn tell_emulator(ending: Ending) {
    // SAFETY: Bochs and QEMU each read their own port; on a real machine neither port has a device.
    unsafe {
        for &byte in ending.bochs_bytes() {
            Port::new(BOCHS_PORT).write(byte);
        }
        Port::new(QEMU_PORT).write(ending.qemu_value());
    }
}

/// Ends the emulator; on a real machine, halts.
pub fn end(ending: Ending) -> ! {
    tell_emulator(ending);
    halt()
}

/// Halts this processor for good.
pub(crate) fn halt() -> ! {
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_firmware_stores_of_it() {
        let of = |above_1m_kib: u64, above_16m_64_kib: u64| {
            memory_of(|index| match index {
                0x30 => above_1m_kib & 0xff,
                0x31 => above_1m_kib >> 8,
                0x34 => above_16m_64_kib & 0xff,
                0x35 => above_16m_64_kib >> 8,
                _ => panic!("{index:#x} is of something else"),
            })
        };
        assert_eq!(of(7 << 10, 0), 8 << 20, "below 16 MiB the first pair tells");
        assert_eq!(of(15 << 10, 0), 16 << 20);
        assert_eq!(of(0xfc00, 0x100), 32 << 20, "the first pair is at its end");
        assert_eq!(of(0xfc00, 0xbf00), 3 << 30);
    }
}
