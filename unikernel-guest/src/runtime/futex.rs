//! Waiting for another vCPU: futexes, and the semaphores that are made of them.
//!
//! A thread that waits says so, and then looks for a while, in a loop that causes no exit, whether it has been woken. Only then
//! does it halt, and the thread that wakes it sends it one interprocessor interrupt, which it takes before it goes on: none is
//! left over.
#![expect(unsafe_code, reason = "defines hermit-abi symbols by name and follows callers' pointers")]

use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::{AtomicU32, AtomicUsize};

use hermit_abi::{EAGAIN, EINVAL, EOVERFLOW, ETIMEDOUT, FUTEX_RELATIVE_TIMEOUT, sem_t, timespec};

use super::errno::refused;
use super::time;
use crate::books::interrupts::{WORK_VECTOR, interrupts_of};
use crate::books::waiting::{Ended, Vcpu};
use crate::books::{cpu, semaphore, vcpus, waiting};
use crate::ops::{apic, idle};

/// The vCPU that runs this.
struct This;

impl Vcpu for This {
    fn calls(&self) -> u64 {
        interrupts_of(WORK_VECTOR)
    }

    fn give_way(&self) {
        idle::give_way();
    }

    fn halt(&self) {
        idle::hlt_until_interrupt();
    }

    fn now_ns(&self) -> u64 {
        time::now_ns()
    }
}

/// Waits until those who wait on the word are woken, or until a time at the latest.
pub(super) fn wait(word: &AtomicU32, expected: u32, deadline_ns: Option<u64>) -> Ended {
    waiting::wait(&This, &cpu::this().waiter, word, expected, deadline_ns)
}

/// Wakes up to `count` vCPUs that wait on the word; returns the number woken.
pub(super) fn wake(word: &AtomicU32, count: i32) -> i32 {
    let waiters = cpu::all().iter().take(vcpus()).map(|cpu| &cpu.waiter);
    // SAFETY: the vector has a handler, and the vCPU halts, or is about to.
    waiting::wake(waiters, word, count, |number| unsafe { apic::send(number, WORK_VECTOR) })
}

/// The deadline that a caller asked for.
///
/// # Safety
/// `limit` is null or can be read.
unsafe fn deadline(limit: *const timespec, relative: bool) -> Result<Option<u64>, i32> {
    // SAFETY: by the caller, `limit` is null or can be read.
    let Some(limit) = (unsafe { limit.as_ref() }) else { return Ok(None) };
    let Some(limit) = time::nanoseconds(limit) else { return Err(refused(EINVAL)) };
    Ok(Some(if relative { time::now_ns().saturating_add(limit) } else { limit }))
}

/// # Safety
/// `address` is null or can be read, and so is `timeout`.
#[unsafe(no_mangle)]
unsafe extern "C" fn sys_futex_wait(address: *mut u32, expected: u32, timeout: *const timespec, flags: u32) -> i32 {
    if address.is_null() || !address.is_aligned() || flags & !FUTEX_RELATIVE_TIMEOUT != 0 {
        return refused(EINVAL);
    }
    // SAFETY: by the caller, `timeout` is null or can be read.
    let deadline = match unsafe { deadline(timeout, flags & FUTEX_RELATIVE_TIMEOUT != 0) } {
        Ok(deadline) => deadline,
        Err(refusal) => return refusal,
    };
    // SAFETY: not null, so the caller says that it can be read; futexes are accessed atomically.
    match wait(unsafe { AtomicU32::from_ptr(address) }, expected, deadline) {
        Ended::Woken => 0,
        Ended::Differs => refused(EAGAIN),
        Ended::TimedOut => refused(ETIMEDOUT),
    }
}

/// # Safety
/// `address` is null or can be read.
#[unsafe(no_mangle)]
unsafe extern "C" fn sys_futex_wake(address: *mut u32, count: i32) -> i32 {
    if address.is_null() || !address.is_aligned() || count < 0 {
        return refused(EINVAL);
    }
    // SAFETY: as in `sys_futex_wait`.
    wake(unsafe { AtomicU32::from_ptr(address) }, count)
}

/// A semaphore is the counter in the caller's `sem_t`.
///
/// # Safety
/// `handle` is null or was initialized.
unsafe fn counter<'a>(handle: *mut sem_t) -> Option<&'a AtomicUsize> {
    // SAFETY: a `sem_t` is a pointer that nobody else looks into; the caller says that it is there.
    (!handle.is_null()).then(|| unsafe { AtomicUsize::from_ptr(handle.cast()) })
}

/// # Safety
/// `handle` is null or can be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn sys_sem_init(handle: *mut sem_t, shared: i32, value: u32) -> i32 {
    // SAFETY: by the caller, `handle` is null or can be written.
    match unsafe { counter(handle) } {
        Some(counter) if shared == 0 => {
            counter.store(value as usize, SeqCst);
            0
        }
        _ => refused(EINVAL),
    }
}

#[unsafe(no_mangle)]
extern "C" fn sys_sem_destroy(handle: *mut sem_t) -> i32 {
    if handle.is_null() { refused(EINVAL) } else { 0 }
}

/// # Safety
/// `handle` is null or was initialized.
#[unsafe(no_mangle)]
unsafe extern "C" fn sys_sem_post(handle: *mut sem_t) -> i32 {
    // SAFETY: by the caller, `handle` is null or was initialized.
    let Some(counter) = (unsafe { counter(handle) }) else { return refused(EINVAL) };
    if !semaphore::post(counter) {
        return refused(EOVERFLOW);
    }
    wake(semaphore::low_half(counter), 1);
    0
}

/// # Safety
/// `handle` is null or was initialized.
#[unsafe(no_mangle)]
unsafe extern "C" fn sys_sem_trywait(handle: *mut sem_t) -> i32 {
    // SAFETY: by the caller, `handle` is null or was initialized.
    let Some(counter) = (unsafe { counter(handle) }) else { return refused(EINVAL) };
    if semaphore::take(counter) { 0 } else { refused(EAGAIN) }
}

/// # Safety
/// `handle` is null or was initialized; `limit` is null or can be read.
#[unsafe(no_mangle)]
unsafe extern "C" fn sys_sem_timedwait(handle: *mut sem_t, limit: *const timespec) -> i32 {
    // SAFETY: by the caller, `handle` is null or was initialized.
    let Some(counter) = (unsafe { counter(handle) }) else { return refused(EINVAL) };
    // SAFETY: the caller says that `limit` can be read, if it is not null.
    let deadline = match unsafe { deadline(limit, false) } {
        Ok(deadline) => deadline,
        Err(refusal) => return refusal,
    };
    loop {
        // SAFETY: the same contract.
        match unsafe { sys_sem_trywait(handle) } {
            refusal if refusal == -EAGAIN => {
                if wait(semaphore::low_half(counter), 0, deadline) == Ended::TimedOut {
                    return refused(ETIMEDOUT);
                }
            }
            result => return result,
        }
    }
}
