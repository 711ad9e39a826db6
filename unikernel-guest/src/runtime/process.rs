//! The end of the guest, and the process that a unikernel is: `sys_exit`, `sys_abort`, `sys_getpid`, `errno`.
#![expect(unsafe_code, reason = "defines hermit-abi symbols by name")]

use core::fmt;

use tollgate_abi::hypercall::Book;

use super::{failure, threads};
use crate::books::cpu;
use crate::ops::hypercall;

/// Exit status after a panic, as for Rust programs elsewhere.
const PANIC_STATUS: i32 = 101;
/// Exit status after `abort`: 128 + SIGABRT, as shells report it.
const ABORT_STATUS: i32 = 134;

/// Ends the guest, for the reason `why`.
pub(crate) fn end(status: i32, why: fmt::Arguments<'_>) -> ! {
    failure::note_failure(why);
    exit(status)
}

/// Any vCPU can end the guest; vCPU 0 takes the others off line before.
fn exit(status: i32) -> ! {
    if cpu::number() == 0 {
        threads::take_others_off_line();
    }
    let failure = failure::first();
    let passed = status == 0 && failure.is_empty();
    hypercall::exit(status, Book { passed: u64::from(passed), message: failure.bytes(), ..Book::new() })
}

#[cfg(bare)]
#[panic_handler]
fn panic(panic: &core::panic::PanicInfo<'_>) -> ! {
    match panic.location() {
        Some(at) => end(PANIC_STATUS, format_args!("{}:{}: {}", at.file(), at.line(), panic.message())),
        None => end(PANIC_STATUS, format_args!("{}", panic.message())),
    }
}

#[unsafe(no_mangle)]
extern "C" fn sys_exit(status: i32) -> ! {
    exit(status)
}

#[unsafe(no_mangle)]
extern "C" fn sys_abort() -> ! {
    end(ABORT_STATUS, format_args!("aborted"))
}

/// The number of the calling thread, which stands for hermit-abi's process.
#[unsafe(no_mangle)]
extern "C" fn sys_getpid() -> i32 {
    threads::own_tid() as i32
}
