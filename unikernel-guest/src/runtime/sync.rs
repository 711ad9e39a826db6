//! Threads and what they wait on, for the one thread that there is.
//!
//! What it could only wait for in vain ends the guest with a message instead of hanging it. A semaphore is the counter in
//! the caller's `sem_t`.
#![expect(unsafe_code, reason = "defines hermit-abi symbols by name and follows callers' pointers")]

use core::ptr;

use hermit_abi::{
    EAGAIN, EINVAL, EOVERFLOW, ESRCH, ETIMEDOUT, FUTEX_RELATIVE_TIMEOUT, NORMAL_PRIO, Tid, sem_t, timespec,
};

use super::process::refused;
use super::time;

/// The thread's own number, as `getpid` has it.
const MAIN_THREAD: Tid = 1;

/// Waits for the end of a time limit, since no other thread can end the wait earlier.
///
/// # Safety
/// `limit` is null or can be read.
unsafe fn wait_in_vain(limit: *const timespec, relative: bool, what: &str) -> i32 {
    // SAFETY: the caller says so.
    let Some(limit) = (unsafe { limit.as_ref() }) else {
        panic!("{what} waits for ever: there is no other thread");
    };
    let Some(limit) = time::nanoseconds(limit) else { return refused(EINVAL) };
    let deadline = if relative { time::now_ns().saturating_add(limit) } else { limit };
    time::wait_until(deadline);
    refused(ETIMEDOUT)
}

/// # Safety
/// `address` is null or can be read, and so is `timeout`.
#[unsafe(no_mangle)]
unsafe extern "C" fn sys_futex_wait(address: *mut u32, expected: u32, timeout: *const timespec, flags: u32) -> i32 {
    if address.is_null() || flags & !FUTEX_RELATIVE_TIMEOUT != 0 {
        return refused(EINVAL);
    }
    // SAFETY: not null, so the caller says that it can be read.
    if unsafe { address.read_volatile() } != expected {
        return refused(EAGAIN);
    }
    // SAFETY: the caller says so.
    unsafe { wait_in_vain(timeout, flags & FUTEX_RELATIVE_TIMEOUT != 0, "futex_wait") }
}

#[unsafe(no_mangle)]
extern "C" fn sys_futex_wake(address: *mut u32, count: i32) -> i32 {
    if address.is_null() || count < 0 { refused(EINVAL) } else { 0 }
}

/// # Safety
/// `semaphore` is null or can be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn sys_sem_init(semaphore: *mut sem_t, shared: i32, value: u32) -> i32 {
    if semaphore.is_null() || shared != 0 {
        return refused(EINVAL);
    }
    // SAFETY: the caller says so.
    unsafe { semaphore.write(ptr::without_provenance(value as usize)) };
    0
}

#[unsafe(no_mangle)]
extern "C" fn sys_sem_destroy(semaphore: *mut sem_t) -> i32 {
    if semaphore.is_null() { refused(EINVAL) } else { 0 }
}

/// # Safety
/// `semaphore` is null or was initialized.
#[unsafe(no_mangle)]
unsafe extern "C" fn sys_sem_post(semaphore: *mut sem_t) -> i32 {
    // SAFETY: the caller says so.
    let Some(semaphore) = (unsafe { semaphore.as_mut() }) else { return refused(EINVAL) };
    let Some(value) = semaphore.addr().checked_add(1) else { return refused(EOVERFLOW) };
    *semaphore = ptr::without_provenance(value);
    0
}

/// # Safety
/// `semaphore` is null or was initialized.
#[unsafe(no_mangle)]
unsafe extern "C" fn sys_sem_trywait(semaphore: *mut sem_t) -> i32 {
    // SAFETY: the caller says so.
    let Some(semaphore) = (unsafe { semaphore.as_mut() }) else { return refused(EINVAL) };
    let Some(value) = semaphore.addr().checked_sub(1) else { return refused(EAGAIN) };
    *semaphore = ptr::without_provenance(value);
    0
}

/// # Safety
/// `semaphore` is null or was initialized; `deadline` is null or can be read.
#[unsafe(no_mangle)]
unsafe extern "C" fn sys_sem_timedwait(semaphore: *mut sem_t, deadline: *const timespec) -> i32 {
    // SAFETY: the same contract.
    match unsafe { sys_sem_trywait(semaphore) } {
        // SAFETY: the caller says so.
        refusal if refusal == -EAGAIN => unsafe { wait_in_vain(deadline, false, "sem_timedwait") },
        result => result,
    }
}

/// There is nobody to yield to.
#[unsafe(no_mangle)]
extern "C" fn sys_yield() {}

/// Takes effect at the next yield, which finds nobody else, so the thread goes on at once.
#[unsafe(no_mangle)]
extern "C" fn sys_block_current_task() {}

/// Like [`sys_block_current_task`].
#[unsafe(no_mangle)]
extern "C" fn sys_block_current_task_with_timeout(_milliseconds: u64) {}

/// The only thread is awake.
#[unsafe(no_mangle)]
extern "C" fn sys_wakeup_taskt(_thread: Tid) {}

#[unsafe(no_mangle)]
extern "C" fn sys_available_parallelism() -> usize {
    1
}

#[unsafe(no_mangle)]
extern "C" fn sys_get_processor_count() -> usize {
    1
}

#[unsafe(no_mangle)]
extern "C" fn sys_get_priority() -> u8 {
    NORMAL_PRIO.into()
}

/// Priorities order threads, of which there is one.
#[unsafe(no_mangle)]
extern "C" fn sys_set_priority(_thread: Tid, _priority: u8) {}

/// No thread can be started, so no other can be joined, and a thread can't wait for its own end.
#[unsafe(no_mangle)]
extern "C" fn sys_join(thread: Tid) -> i32 {
    refused(if thread == MAIN_THREAD { EINVAL } else { ESRCH })
}

#[unsafe(no_mangle)]
extern "C" fn sys_spawn(
    _id: *mut Tid,
    _start: extern "C" fn(usize),
    _argument: usize,
    _priority: u8,
    _core: isize,
) -> i32 {
    refused(EAGAIN)
}

/// The interface has no error value; this number never belongs to a thread.
#[unsafe(no_mangle)]
extern "C" fn sys_spawn2(
    _start: extern "C" fn(usize),
    _argument: usize,
    _priority: u8,
    _stack_bytes: usize,
    _core: isize,
) -> Tid {
    refused(EAGAIN) as Tid
}
