//! The end of the guest, and the process that a unikernel is: `sys_exit`, `sys_abort`, `sys_getpid`, `errno`.
#![expect(unsafe_code, reason = "defines hermit-abi symbols by name")]

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use tollgate_abi::hypercall::Book;

use super::lock::Lock;
use super::message::Message;
use super::threads;
use crate::books::cpu;
use crate::ops::hypercall;

/// Exit status after a panic, as for Rust programs elsewhere.
const PANIC_STATUS: i32 = 101;
/// Exit status after `abort`: 128 + SIGABRT, as shells report it.
const ABORT_STATUS: i32 = 134;

/// The first assertion that did not hold.
static FAILURE: Lock<Message> = Lock::new(Message::EMPTY);

/// Notes that an assertion of the guest did not hold. The text of the first goes into the final book.
pub(crate) fn note_failure(what: fmt::Arguments<'_>) {
    // The text is made before the lock is taken: the code that makes it may fail, too.
    let message = Message::new(what);
    FAILURE.with(|failure| {
        if failure.is_empty() {
            *failure = message;
        }
    });
}

/// Ends the guest, for the reason `why`.
pub(crate) fn end(status: i32, why: fmt::Arguments<'_>) -> ! {
    note_failure(why);
    exit(status)
}

/// Any vCPU can end the guest; vCPU 0 takes the others off line before.
fn exit(status: i32) -> ! {
    if cpu::number() == 0 {
        threads::take_others_off_line();
    }
    let failure = FAILURE.with(|failure| *failure);
    let passed = status == 0 && failure.is_empty();
    hypercall::exit(status, Book { passed: u64::from(passed), message: failure.bytes(), ..Book::new() })
}

/// Sets `errno` and returns its negative, as the calls of hermit-abi do.
pub(crate) fn refused(errno: i32) -> i32 {
    cpu::this().errno.store(errno, Relaxed);
    -errno
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

#[unsafe(no_mangle)]
extern "C" fn sys_get_errno() -> i32 {
    cpu::this().errno.load(Relaxed)
}

#[unsafe(no_mangle)]
extern "C" fn sys_errno() -> i32 {
    cpu::this().errno.load(Relaxed)
}
