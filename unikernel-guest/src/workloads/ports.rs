//! IN and OUT: the POST port, the loopback port, and ports that nobody owns.

use tollgate_abi::machine::{LOOPBACK_BYTES, LOOPBACK_PORT};

use super::expect::ensure;
use super::{Outcome, Run};
use crate::ops::ports::{
    in_byte, in_double, in_post_times, in_string, in_word, last_post, out_byte, out_double, out_post_times, out_string,
    out_word,
};

pub(super) fn port_in(run: &Run) -> Outcome {
    let code = in_post_times(run.iterations);
    ensure!(code == last_post(), "the POST port gave {code:#x}, and {:#x} was written", last_post());
    Ok(())
}

pub(super) fn port_out(run: &Run) -> Outcome {
    out_post_times(run.iterations);
    Ok(())
}

const STRING_BYTES: usize = 32;
const _: () = assert!(STRING_BYTES <= LOOPBACK_BYTES);

pub(super) fn port_string(run: &Run) -> Outcome {
    for iteration in 0..run.iterations {
        let sent: [u8; STRING_BYTES] =
            core::array::from_fn(|at| (iteration as u8).wrapping_mul(7).wrapping_add(at as u8 * 5));
        let mut received = [0; STRING_BYTES];
        let out = out_string(LOOPBACK_PORT, &sent);
        ensure!(out == (0, STRING_BYTES), "REP OUTSB left (RCX, RSI) at {out:?}");
        let back = in_string(LOOPBACK_PORT, &mut received);
        ensure!(back == (0, STRING_BYTES), "REP INSB left (RCX, RDI) at {back:?}");
        if let Some(at) = (0..STRING_BYTES).find(|&at| received[at] != sent[at]) {
            return Err(alloc::format!("byte {at} came back as {:#x}, and {:#x} was sent", received[at], sent[at]));
        }
    }
    Ok(())
}

/// The ports at which real machines have the serial port, the keyboard controller, PCI configuration and the reset register; and
/// one that no machine has.
mod nobodys {
    pub(super) const SERIAL: u16 = 0x3f8;
    pub(super) const KEYBOARD: u16 = 0x64;
    pub(super) const PCI: u16 = 0xcf8;
    pub(super) const RESET: u16 = 0xcf9;
    pub(super) const NOTHING: u16 = 0x1234;
    pub(super) const HIGHEST: u16 = 0xffff;
}

/// Commands that would reset a machine if they reached its devices.
const KEYBOARD_RESET: u8 = 0xfe;
const FULL_RESET: u8 = 0x06;

pub(super) fn wild_ports(run: &Run) -> Outcome {
    use nobodys::*;
    for _ in 0..run.iterations {
        let (serial, nothing, pci, highest) = (in_byte(SERIAL), in_word(NOTHING), in_double(PCI), in_byte(HIGHEST));
        ensure!(
            (serial, nothing, pci, highest) == (u8::MAX, u16::MAX, u32::MAX, u8::MAX),
            "ports that nobody owns gave {serial:#x}, {nothing:#x}, {pci:#x}, {highest:#x}"
        );
        out_byte(KEYBOARD, KEYBOARD_RESET);
        out_byte(RESET, FULL_RESET);
        out_word(NOTHING, 0x5aa5);
        out_double(PCI, 0x8000_0000);
    }
    Ok(())
}
