//! Several vCPUs at once: interprocessor interrupts, the leaves under load, threads.
#![expect(unsafe_code, reason = "sends interrupts, shares words between vCPUs, calls hermit-abi")]

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicU32, AtomicU64};

use tollgate_abi::exit_reason::ExitReason;

use super::expect::ensure;
use super::stopping::shut_down;
use super::{Outcome, Run};
use crate::books::book::booked_on;
use crate::books::intercepts::current;
use crate::books::interrupts::{TEST_VECTOR, interrupts_of};
use crate::books::{cpu, vcpus};
use crate::ops::cpuid::cpuid_times;
use crate::ops::{apic, idle};
use crate::runtime::account;
use crate::runtime::threads;

/// The vCPU that interrupts are sent to.
const TARGET: usize = 1;

/// The words by which sender and target tell each other.
struct Exchange {
    iterations: u64,
    /// The target takes interrupts.
    is_ready: AtomicU32,
    /// The number of interrupts that it has taken.
    taken: AtomicU64,
}

/// Runs `target` on another vCPU and sends it interrupts by `send`, each when the one before has been taken. `send` is given a
/// function that sends one and waits.
pub(super) fn send_to(target: threads::Entry, run: &Run, mut send: impl FnMut(&dyn Fn())) -> Outcome {
    let exchange = Exchange { iterations: run.iterations, is_ready: AtomicU32::new(0), taken: AtomicU64::new(0) };
    let given = threads::give(TARGET, current(), target, core::ptr::from_ref(&exchange).expose_provenance());
    ensure!(given, "vCPU {TARGET} is busy");
    while exchange.is_ready.load(Acquire) == 0 {
        idle::give_way();
    }
    for sent in 1..=run.iterations {
        send(&|| {
            // SAFETY: the vector has a handler that counts.
            unsafe { apic::send(TARGET, TEST_VECTOR) };
            while exchange.taken.load(Acquire) < sent {
                idle::give_way();
            }
        });
    }
    threads::finish(TARGET);
    let taken = exchange.taken.load(Acquire);
    ensure!(taken == run.iterations, "{taken} interrupts were taken of {} that were sent", run.iterations);
    Ok(())
}

fn exchange<'a>(argument: usize) -> &'a Exchange {
    // SAFETY: `send_to` waits for this vCPU before it gives the exchange up.
    unsafe { &*core::ptr::with_exposed_provenance(argument) }
}

pub(super) extern "C" fn take_halted(argument: usize) {
    let exchange = exchange(argument);
    let before = interrupts_of(TEST_VECTOR);
    exchange.is_ready.store(1, Release);
    for _ in 0..exchange.iterations {
        idle::hlt_until_interrupt();
        exchange.taken.store(interrupts_of(TEST_VECTOR) - before, Release);
    }
}

pub(super) extern "C" fn take_running(argument: usize) {
    let exchange = exchange(argument);
    let before = interrupts_of(TEST_VECTOR);
    idle::enable_interrupts();
    exchange.is_ready.store(1, Release);
    loop {
        let taken = interrupts_of(TEST_VECTOR) - before;
        exchange.taken.store(taken, Release);
        if taken == exchange.iterations {
            break;
        }
        idle::give_way();
    }
    idle::disable_interrupts();
}

pub(super) fn ipi_halted(run: &Run) -> Outcome {
    send_to(take_halted, run, |send| send())
}

pub(super) fn ipi_running(run: &Run) -> Outcome {
    send_to(take_running, run, |send| send())
}

/// Asks the leaves while other vCPUs exit: each answer is bounded by the answers before and after.
pub(super) fn race(run: &Run) -> Outcome {
    let vcpu = Some(cpu::number() as u16);
    let own = || (account::exits_on(ExitReason::CPUID, vcpu), booked_on(ExitReason::CPUID, vcpu));
    let all = || account::exits(ExitReason::CPUID);
    let mut last_total = None;
    for _ in 0..run.iterations {
        let before = run.account.total_exits();
        let ((own_first, booked_first), all_first) = (own(), all());
        let ((own_then, booked_then), all_then) = (own(), all());
        let after = run.account.total_exits();
        if !run.account.kept {
            continue;
        }
        ensure!(
            (own_first, own_then) == (booked_first, booked_then),
            "this vCPU has {own_first}, then {own_then} CPUID exits, and booked {booked_first}, then {booked_then}"
        );
        ensure!(
            own_first < all_first,
            "a part, {own_first}, exceeds the whole, {all_first}, that was asked afterwards"
        );
        ensure!(own_then < all_then, "a part, {own_then}, exceeds the whole, {all_then}, that was asked afterwards");
        ensure!(all_first + 2 <= all_then, "all CPUID exits went from {all_first} to {all_then} over two queries");
        // The totals are the low halves of their numbers.
        let later = after.wrapping_sub(before);
        ensure!((5..1 << 31).contains(&later), "the total went from {before} to {after} over five queries");
        let later = last_total.map_or(1, |last| before.wrapping_sub(last));
        ensure!((1..1 << 31).contains(&later), "the total went to {before} from {last_total:?}");
        last_total = Some(after);
    }
    Ok(())
}

/// A lock that waits by futex, and what it protects.
struct Counter {
    state: AtomicU32,
    /// Changed by load and store, so that a lock that lets two in loses some.
    count: AtomicU64,
}

/// States of the lock: free, taken, taken and perhaps waited for.
const FREE: u32 = 0;
const TAKEN: u32 = 1;
const WAITED_FOR: u32 = 2;

const ADDITIONS: u64 = 1000;

extern "C" fn count_up(argument: usize) {
    // SAFETY: `threads` joins every thread before it gives the counter up.
    let counter: &Counter = unsafe { &*core::ptr::with_exposed_provenance(argument) };
    for _ in 0..ADDITIONS {
        counter.lock();
        counter.count.store(counter.count.load(Relaxed) + 1, Relaxed);
        counter.unlock();
    }
}

impl Counter {
    fn lock(&self) {
        let mut was = self.state.compare_exchange(FREE, TAKEN, SeqCst, SeqCst).unwrap_or_else(|was| was);
        while was != FREE {
            was = self.state.swap(WAITED_FOR, SeqCst);
            if was != FREE {
                // SAFETY: the word is an atomic, and there is no time limit.
                unsafe { hermit_abi::futex_wait(self.state.as_ptr(), WAITED_FOR, core::ptr::null(), 0) };
            }
        }
    }

    fn unlock(&self) {
        if self.state.swap(FREE, SeqCst) == WAITED_FOR {
            // SAFETY: the word is an atomic.
            unsafe { hermit_abi::futex_wake(self.state.as_ptr(), 1) };
        }
    }
}

pub(super) fn spawned(run: &Run) -> Outcome {
    let counter = Counter { state: AtomicU32::new(FREE), count: AtomicU64::new(0) };
    for _ in 0..run.iterations {
        let mut started = alloc::vec::Vec::new();
        for core in 1..vcpus() {
            let mut id = 0;
            let argument = core::ptr::from_ref(&counter).expose_provenance();
            // SAFETY: `id` can be written; the thread is joined below.
            let result = unsafe { hermit_abi::spawn(&raw mut id, count_up, argument, 1, core as isize) };
            ensure!(result == 0, "spawn on vCPU {core} returned {result}");
            started.push(id);
        }
        for id in started {
            // SAFETY: has no precondition.
            let result = unsafe { hermit_abi::join(id) };
            ensure!(result == 0, "join of thread {id} returned {result}");
        }
    }
    let expected = run.iterations * (vcpus() as u64 - 1) * ADDITIONS;
    let count = counter.count.load(Acquire);
    ensure!(count == expected, "the threads counted to {count}, not {expected}");
    Ok(())
}

extern "C" fn fault(_: usize) {
    shut_down()
}

extern "C" fn exit_for_ever(_: usize) {
    loop {
        cpuid_times(1);
    }
}

/// While vCPU 1 ends the guest, vCPU 0 waits without an exit, and further vCPUs do nothing but exit.
pub(super) fn triple_fault_elsewhere(_: &Run) -> Outcome {
    for other in TARGET + 1..vcpus() {
        ensure!(threads::give(other, current(), exit_for_ever, 0), "vCPU {other} is busy");
    }
    ensure!(threads::give(TARGET, current(), fault, 0), "vCPU {TARGET} is busy");
    threads::finish(TARGET);
    Err("a vCPU went on after a triple fault".into())
}
