//! The keyboard of a PC, as far as its controller has one: the 8042, or a chip that stands in for it, as in laptops. A keyboard on USB is
//! firmware's, which is not asked while a guest runs.
#![expect(unsafe_code, reason = "port I/O")]

use x86_64::instructions::port::Port;

const DATA: u16 = 0x60;
const STATUS: u16 = 0x64;
/// Status: there is a byte to be read, and it is the mouse's.
const HAS_BYTE: u8 = 1;
const OF_MOUSE: u8 = 1 << 5;
/// The status where there is no controller: a port without a device reads all ones.
const ABSENT: u8 = 0xff;
/// The codes of Esc: as the controller translates them, and as the keyboard sends them.
const ESCAPE: [u8; 2] = [0x01, 0x76];

/// Whether there is such a controller.
pub fn exists() -> bool {
    read(STATUS) != ABSENT
}

/// Takes the byte that waits, if there is one: whether Esc has been pressed.
#[cold]
#[inline(never)]
pub fn escape_was_pressed() -> bool {
    is_escape(read(STATUS), || read(DATA))
}

/// To read the byte takes it away, so that the next one comes.
fn is_escape(status: u8, take: impl FnOnce() -> u8) -> bool {
    status != ABSENT && status & HAS_BYTE != 0 && {
        let byte = take();
        status & OF_MOUSE == 0 && ESCAPE.contains(&byte)
    }
}

fn read(port: u16) -> u8 {
    // SAFETY: the two ports of the controller, which is nobody's while firmware has lent the machine; reading takes a byte at the most.
    unsafe { Port::new(port).read() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn esc_is_told_from_other_keys_the_mouse_and_no_keyboard() {
        let check = |status: u8, byte: u8, expected: (bool, bool)| {
            let mut taken = false;
            let escape = is_escape(status, || {
                taken = true;
                byte
            });
            assert_eq!((escape, taken), expected, "{status:#x} {byte:#x}");
        };
        check(0x1d, 0x01, (true, true));
        check(0x15, 0x76, (true, true));
        check(0x1d, 0x81, (false, true));
        check(0x1c, 0x01, (false, false));
        check(0x3d, 0x01, (false, true));
        check(0xff, 0x01, (false, false));
    }
}
