//! Semaphores, blocking, and time limits: two threads that wait for each other, without an exit while both run.
#![expect(unsafe_code, reason = "calls hermit-abi")]

use alloc::string::String;
use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicI32, AtomicU64};

use hermit_abi::{EAGAIN, EOVERFLOW, ETIMEDOUT, FUTEX_RELATIVE_TIMEOUT, sem_t, timespec};

use super::expect::ensure;
use super::{Outcome, Run};
use crate::runtime::time::now_ns;

/// The vCPU of the second thread.
const OTHER: isize = 1;

/// The time limit of a thread that waits and that nobody wakes.
const LIMIT_NS: u64 = 20_000;

/// The state that the threads share.
struct Shared {
    iterations: u64,
    /// The semaphores by which each wakes the other.
    ping: Semaphore,
    pong: Semaphore,
    /// The number of times that the other has been woken.
    woken: AtomicU64,
    /// The last result other than 0 of a call of the other thread; 0 if there was none.
    refusal: AtomicI32,
}

/// A semaphore of the runtime; its methods return the results of the calls.
struct Semaphore(UnsafeCell<sem_t>);

fn semaphore(value: u32) -> Result<Semaphore, String> {
    let semaphore = Semaphore(UnsafeCell::new(ptr::null()));
    // SAFETY: it can be written.
    ends("sem_init", unsafe { hermit_abi::sem_init(semaphore.0.get(), 0, value) }, 0)?;
    Ok(semaphore)
}

impl Semaphore {
    fn post(&self) -> i32 {
        // SAFETY: initialized, by `new`.
        unsafe { hermit_abi::sem_post(self.0.get()) }
    }

    fn try_wait(&self) -> i32 {
        // SAFETY: initialized, by `new`.
        unsafe { hermit_abi::sem_trywait(self.0.get()) }
    }

    fn wait(&self, limit: Option<timespec>) -> i32 {
        // SAFETY: initialized, by `new`; a limit can be read.
        unsafe { hermit_abi::sem_timedwait(self.0.get(), limit.as_ref().map_or(ptr::null(), ptr::from_ref)) }
    }
}

/// A time of at most some seconds.
fn time(nanoseconds: u64) -> timespec {
    timespec { tv_sec: (nanoseconds / 1_000_000_000) as i64, tv_nsec: (nanoseconds % 1_000_000_000) as i32 }
}

/// Takes a ping, blocks, and gives a pong back once it is woken; again and again.
extern "C" fn answer(argument: usize) {
    // SAFETY: `run` joins this thread before it gives up what they share.
    let shared: &Shared = unsafe { &*ptr::with_exposed_provenance(argument) };
    for _ in 0..shared.iterations {
        let taken = shared.ping.wait(None);
        // SAFETY: has no preconditions.
        unsafe { hermit_abi::block_current_task() };
        let given = shared.pong.post();
        // SAFETY: has no preconditions.
        unsafe { hermit_abi::yield_now() };
        shared.woken.store(shared.woken.load(Relaxed) + 1, Release);
        for result in [taken, given, shared.pong.post()].into_iter().filter(|&result| result != 0) {
            shared.refusal.store(result, Relaxed);
        }
    }
}

pub(super) fn run(run: &Run) -> Outcome {
    limits()?;
    let (ping, pong) = (semaphore(0)?, semaphore(0)?);
    let (woken, refusal) = (AtomicU64::new(0), AtomicI32::new(0));
    let shared = Shared { iterations: run.iterations, ping, pong, woken, refusal };
    let mut other = 0;
    let argument = ptr::from_ref(&shared).expose_provenance();
    // SAFETY: `other` can be written; the thread is joined below, whatever else it finds.
    ends("spawn", unsafe { hermit_abi::spawn(&raw mut other, answer, argument, 1, OTHER) }, 0)?;
    let mut wrong = 0;
    for turn in 0..run.iterations {
        let (given, blocked) = (shared.ping.post(), shared.pong.wait(None));
        // The other thread stays blocked until it is woken.
        wrong += u64::from((given, blocked, shared.woken.load(Acquire)) != (0, 0, turn));
        // SAFETY: has no precondition.
        unsafe { hermit_abi::wakeup_task(other) };
        wrong += u64::from(shared.pong.wait(None) != 0);
    }
    // SAFETY: has no precondition.
    ends("join", unsafe { hermit_abi::join(other) }, 0)?;
    ends("a semaphore of the other thread", shared.refusal.load(Relaxed), 0)?;
    let woken = shared.woken.load(Acquire);
    ensure!(
        (wrong, woken) == (0, run.iterations),
        "of {} turns {wrong} were not in order, and the other thread was woken {woken} times",
        run.iterations
    );
    Ok(())
}

/// The cases that one thread can see alone: limits that come, values that differ, counters at an end.
fn limits() -> Outcome {
    let mut word = 7;
    let word = &raw mut word;
    // SAFETY: both can be read.
    let wait =
        |expected, limit: timespec, flags| unsafe { hermit_abi::futex_wait(word, expected, &raw const limit, flags) };
    let start_ns = now_ns();
    ends("futex_wait for a while", wait(7, time(LIMIT_NS), FUTEX_RELATIVE_TIMEOUT), -ETIMEDOUT)?;
    takes(LIMIT_NS, start_ns)?;
    ends("futex_wait until a time", wait(7, time(start_ns + 2 * LIMIT_NS), 0), -ETIMEDOUT)?;
    takes(2 * LIMIT_NS, start_ns)?;
    ends("futex_wait on another value", wait(8, time(LIMIT_NS), FUTEX_RELATIVE_TIMEOUT), -EAGAIN)?;
    // SAFETY: it can be read.
    ends("futex_wake where nobody waits", unsafe { hermit_abi::futex_wake(word, 1) }, 0)?;

    let one = semaphore(1)?;
    ends("sem_trywait of 1", one.try_wait(), 0)?;
    ends("sem_trywait of 0", one.try_wait(), -EAGAIN)?;
    let start_ns = now_ns();
    ends("sem_timedwait of 0", one.wait(Some(time(start_ns + LIMIT_NS))), -ETIMEDOUT)?;
    takes(LIMIT_NS, start_ns)?;
    ends("sem_post of the largest value", semaphore(u32::MAX)?.post(), -EOVERFLOW)?;

    let start_ns = now_ns();
    // SAFETY: has no precondition.
    unsafe { hermit_abi::block_current_task_with_timeout(1) };
    takes(1_000_000, start_ns)
}

/// Checks the result of a call.
#[inline(never)]
fn ends(what: &str, returned: i32, expected: i32) -> Outcome {
    ensure!(returned == expected, "{what} returned {returned}, not {expected}");
    Ok(())
}

/// Checks the least time that waiting takes.
#[inline(never)]
fn takes(least_ns: u64, since_ns: u64) -> Outcome {
    let elapsed_ns = now_ns() - since_ns;
    ensure!(elapsed_ns >= least_ns, "waiting ended after {elapsed_ns} ns, not {least_ns}");
    Ok(())
}
