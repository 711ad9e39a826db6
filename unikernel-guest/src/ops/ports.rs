//! IN, OUT, INS, OUTS. In each profile every port exits.
//!
//! All of them are safe: no port of this machine reaches memory or stops the vCPU.
#![expect(unsafe_code, reason = "executes IN and OUT")]

use core::arch::asm;
use core::sync::atomic::Ordering::Relaxed;

use tollgate_abi::exit_reason::ExitReason;
use tollgate_abi::machine::POST_PORT;

use crate::books::book::{book, book_times};
use crate::books::cpu;

macro_rules! port_width {
    ($read:ident $write:ident $value:ty, $register:tt) => {
        pub(crate) fn $read(port: u16) -> $value {
            let value;
            book(ExitReason::IO_INSTRUCTION);
            // SAFETY: see the file's head.
            unsafe { asm!(concat!("in ", $register, ", dx"), in("dx") port, out($register) value, options(nomem, nostack, preserves_flags)) };
            value
        }

        pub(crate) fn $write(port: u16, value: $value) {
            book(ExitReason::IO_INSTRUCTION);
            // SAFETY: see the file's head.
            unsafe { asm!(concat!("out dx, ", $register), in("dx") port, in($register) value, options(nomem, nostack, preserves_flags)) };
        }
    };
}

port_width!(in_byte out_byte u8, "al");
port_width!(in_word out_word u16, "ax");
port_width!(in_double out_double u32, "eax");

/// Writes a POST code.
pub(crate) fn post(code: u8) {
    note_post(code);
    out_byte(POST_PORT, code);
}

/// Notes a POST code that assembly elsewhere is about to write.
pub(crate) fn note_post(code: u8) {
    cpu::this().last_post.store(code, Relaxed);
}

/// The POST code that was written last.
pub(crate) fn last_post() -> u8 {
    cpu::this().last_post.load(Relaxed)
}

/// IN from the POST port, `times` times; returns the last value.
pub(crate) fn in_post_times(times: u64) -> u8 {
    let code;
    book_times(ExitReason::IO_INSTRUCTION, times);
    // SAFETY: see the file's head.
    unsafe {
        asm!(
            "2:",
            "in al, {port}",
            "dec {times}",
            "jnz 2b",
            port = const POST_PORT,
            times = inout(reg) times => _,
            out("al") code,
            options(nomem, nostack),
        );
    }
    code
}

/// OUT to the POST port, `times` times, of codes that count down to 1.
pub(crate) fn out_post_times(times: u64) {
    book_times(ExitReason::IO_INSTRUCTION, times);
    note_post(1);
    // SAFETY: see the file's head.
    unsafe {
        asm!(
            "2:",
            "out {port}, al",
            "dec rax",
            "jnz 2b",
            port = const POST_PORT,
            inout("rax") times => _,
            options(nomem, nostack),
        );
    }
}

/// REP OUTSB. Returns the bytes that are left, and the distance that RSI went.
pub(crate) fn out_string(port: u16, bytes: &[u8]) -> (usize, usize) {
    let (mut left, mut end) = (bytes.len(), bytes.as_ptr());
    book(ExitReason::IO_INSTRUCTION);
    // SAFETY: the slice can be read. The direction flag is clear, as the ABI wants it.
    unsafe {
        asm!("rep outsb", in("dx") port, inout("rcx") left, inout("rsi") end, options(readonly, nostack, preserves_flags))
    };
    (left, end.addr().wrapping_sub(bytes.as_ptr().addr()))
}

/// REP INSB. Returns the bytes that are left, and the distance that RDI went.
pub(crate) fn in_string(port: u16, bytes: &mut [u8]) -> (usize, usize) {
    let start = bytes.as_mut_ptr();
    let (mut left, mut end) = (bytes.len(), start);
    book(ExitReason::IO_INSTRUCTION);
    // SAFETY: the slice can be written. The direction flag is clear, as the ABI wants it.
    unsafe { asm!("rep insb", in("dx") port, inout("rcx") left, inout("rdi") end, options(nostack, preserves_flags)) };
    (left, end.addr().wrapping_sub(start.addr()))
}
