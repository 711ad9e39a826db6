//! Threads: a vCPU other than 0 runs one at a time, from its start to its end, and halts in between.
//!
//! A thread costs what [`tollgate_abi::workload::SPAWN`] says, whatever the timing. The interrupt that announces it is taken at
//! the HLT behind the thread before, and that HLT is booked before the thread counts as done, so that a vCPU that waits for the
//! thread finds the books complete.
#![expect(unsafe_code, reason = "defines hermit-abi symbols by name and calls what is started")]

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use hermit_abi::{EAGAIN, EINVAL, ENOMEM, ESRCH, NORMAL_PRIO, Tid};
use tollgate_abi::exit_reason::ExitReason;
use tollgate_abi::machine::MOST_VCPUS;
use tollgate_abi::profile::Profile;

use super::errno::refused;
use super::failure::note_failure;
use super::{futex, time};
use crate::books::book::book;
use crate::books::cpu::{self, Cpu};
use crate::books::interrupts::{WORK_VECTOR, interrupts_of};
use crate::books::thread::{CLAIMED, DONE, IDLE, READY, Thread};
use crate::books::vcpus;
use crate::ops::idle::{give_way, hlt_for_ever, hlt_until_booked_interrupt, looked_for};
use crate::ops::{apic, control_registers, hypercall};

/// The function that a thread starts with.
pub(crate) type Entry = extern "C" fn(usize);

/// The main thread's number; vCPU 0 runs nothing else.
const MAIN_THREAD: Tid = 1;

/// The stack of a vCPU, hence of the threads that it runs.
pub(super) const STACK_BYTES: usize = 64 << 10;

/// The number of looks at a flag until a vCPU that does not answer is given up: fewer instructions than ticks of the usual
/// watchdog.
pub(super) const PATIENCE: u32 = 1 << 25;

/// Every vCPU but 0, and its number.
pub(super) fn others() -> impl Iterator<Item = (usize, &'static Cpu)> {
    (1..vcpus()).map(|number| (number, cpu::cpu(number)))
}

/// Halts, runs the thread that it is given, halts again. The first HLT has been booked.
pub(super) fn serve(this: &'static Cpu) -> ! {
    loop {
        let calls = interrupts_of(WORK_VECTOR);
        hlt_until_booked_interrupt();
        // An interrupt announces each thread, which must not start before the interrupt has come: it would come at another HLT.
        if interrupts_of(WORK_VECTOR) != calls && this.thread.state.load(Acquire) == READY {
            run(&this.thread);
        } else {
            book(ExitReason::HLT);
        }
    }
}

fn run(thread: &Thread) {
    let profile = Profile::from_number(thread.profile.load(Relaxed).into()).unwrap_or_default();
    if profile != Profile::Minimal {
        hypercall::switch_profile(profile);
    }
    // SAFETY: an `Entry`, by `start`.
    let entry = unsafe { core::mem::transmute::<*mut (), Entry>(thread.entry.load(Relaxed)) };
    entry(thread.argument.load(Relaxed));
    if profile != Profile::Minimal {
        hypercall::switch_profile(Profile::Minimal);
    }
    // Writing the registers back may exit, and the vCPU that waits may still count.
    thread.left_changed.store(control_registers::are_changed(), Relaxed);
    // The HLT behind the thread.
    book(ExitReason::HLT);
    thread.state.store(DONE, Release);
    futex::wake(&thread.state, i32::MAX);
}

/// Reserves a vCPU whose thread is in this state; false if it is in another.
fn claim(at: usize, state: u32) -> bool {
    cpu::cpu(at).thread.state.compare_exchange(state, CLAIMED, AcqRel, Relaxed).is_ok()
}

/// Starts a thread on a vCPU that was claimed.
fn start(at: usize, profile: Profile, entry: Entry, argument: usize) {
    let thread = &cpu::cpu(at).thread;
    thread.entry.store(entry as *mut (), Relaxed);
    thread.argument.store(argument, Relaxed);
    thread.profile.store(profile as u8, Relaxed);
    thread.is_blocked.store(0, Relaxed);
    thread.state.store(READY, Release);
    // SAFETY: the vector has a handler; a vCPU without a thread halts.
    unsafe { apic::send(at, WORK_VECTOR) };
}

/// Runs a function on a vCPU, under a profile; false if the vCPU is not idle. [`finish`] has to follow.
pub(crate) fn give(to: usize, profile: Profile, entry: Entry, argument: usize) -> bool {
    let is_idle = claim(to, IDLE);
    if is_idle {
        start(to, profile, entry, argument);
    }
    is_idle
}

/// Waits until a vCPU has run the function that it was given, without an exit however long it takes.
pub(crate) fn finish(at: usize) {
    let state = &cpu::cpu(at).thread.state;
    while state.load(Acquire) != DONE {
        give_way();
    }
    state.store(IDLE, Release);
}

/// Puts control registers back on every vCPU where they were left changed.
pub(crate) fn restore() {
    extern "C" fn restore_here(_: usize) {
        control_registers::restore();
    }
    control_registers::restore();
    for (number, cpu) in others() {
        if cpu.thread.left_changed.swap(false, Relaxed) && give(number, Profile::Minimal, restore_here, 0) {
            finish(number);
        }
    }
}

/// Takes every other vCPU off line, before the guest ends.
pub(super) fn take_others_off_line() {
    for (number, cpu) in others().filter(|(_, cpu)| cpu.is_up.load(Acquire)) {
        // A thread that has finished need not have been joined.
        if !claim(number, IDLE) && !claim(number, DONE) {
            note_failure(format_args!("vCPU {number} still runs a thread"));
            continue;
        }
        start(number, Profile::Minimal, go_off_line, 0);
        if !looked_for(PATIENCE, || cpu.is_off_line.load(Acquire)) {
            note_failure(format_args!("vCPU {number} did not go off line"));
        }
    }
}

extern "C" fn go_off_line(_: usize) {
    // Booked before the vCPU that waits sums the books.
    book(ExitReason::HLT);
    cpu::this().is_off_line.store(true, Release);
    hlt_for_ever()
}

/// The number of the thread that asks.
pub(super) fn own_tid() -> Tid {
    match cpu::this().thread.id.load(Relaxed) {
        0 => MAIN_THREAD,
        id => id,
    }
}

/// The vCPU that runs a thread.
pub(super) fn of_tid(id: Tid) -> Option<usize> {
    match id {
        0 => None,
        MAIN_THREAD => Some(0),
        id => others().find(|(_, cpu)| cpu.thread.id.load(Acquire) == id).map(|(number, _)| number),
    }
}

/// The number of threads that have been started.
static SPAWNED: AtomicU32 = AtomicU32::new(0);

fn spawn(entry: Entry, argument: usize, core: isize) -> Option<Tid> {
    let is_asked_for = |at: &usize| core < 0 || *at == core.unsigned_abs();
    let at = (1..vcpus()).filter(is_asked_for).find(|&at| claim(at, IDLE))?;
    // Never the main thread's number, nor that of a thread that has not been joined, for the first 2^28 threads.
    let id = (SPAWNED.fetch_add(1, Relaxed) + 1).wrapping_mul(MOST_VCPUS as u32) + at as u32;
    cpu::cpu(at).thread.id.store(id, Release);
    start(at, Profile::Minimal, entry, argument);
    Some(id)
}

/// Starts a thread on the vCPU `core`, or, if that is negative, on the first that is idle.
///
/// # Safety
/// `id` is null or can be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn sys_spawn(id: *mut Tid, entry: Entry, argument: usize, _priority: u8, core: isize) -> i32 {
    let Some(spawned) = spawn(entry, argument, core) else { return refused(EAGAIN) };
    if !id.is_null() {
        // SAFETY: the caller says so.
        unsafe { id.write(spawned) };
    }
    0
}

/// The interface has no error value; a refusal returns a number that never belongs to a thread. No vCPU has a larger stack.
#[unsafe(no_mangle)]
extern "C" fn sys_spawn2(entry: Entry, argument: usize, _priority: u8, stack_bytes: usize, core: isize) -> Tid {
    if stack_bytes > STACK_BYTES {
        return refused(ENOMEM) as Tid;
    }
    spawn(entry, argument, core).unwrap_or_else(|| refused(EAGAIN) as Tid)
}

/// Refuses a thread that waits for its own end, or for the main thread's, which is the guest's.
#[unsafe(no_mangle)]
extern "C" fn sys_join(id: Tid) -> i32 {
    if id == own_tid() || id == MAIN_THREAD {
        return refused(EINVAL);
    }
    let Some(at) = of_tid(id) else { return refused(ESRCH) };
    let thread = &cpu::cpu(at).thread;
    loop {
        match thread.state.load(Acquire) {
            // Another thread may have joined it meanwhile.
            _ if thread.id.load(Acquire) != id => return refused(ESRCH),
            DONE if thread.id.compare_exchange(id, 0, AcqRel, Relaxed).is_ok() => break,
            DONE => {}
            running => {
                futex::wait(&thread.state, running, None);
            }
        }
    }
    thread.state.store(IDLE, Release);
    0
}

/// Each thread has a processor of its own.
#[unsafe(no_mangle)]
extern "C" fn sys_available_parallelism() -> usize {
    vcpus()
}

#[unsafe(no_mangle)]
extern "C" fn sys_get_processor_count() -> usize {
    vcpus()
}

#[unsafe(no_mangle)]
extern "C" fn sys_get_priority() -> u8 {
    NORMAL_PRIO.into()
}

/// Does nothing: priorities order the threads of one processor, which never has two.
#[unsafe(no_mangle)]
extern "C" fn sys_set_priority(_thread: Tid, _priority: u8) {}

/// Waits here if the thread has blocked itself.
#[unsafe(no_mangle)]
extern "C" fn sys_yield() {
    let is_blocked = &cpu::this().thread.is_blocked;
    while is_blocked.load(Acquire) != 0 {
        futex::wait(is_blocked, 1, None);
    }
}

/// Blocks the thread from its next yield on.
#[unsafe(no_mangle)]
extern "C" fn sys_block_current_task() {
    cpu::this().thread.is_blocked.store(1, SeqCst);
}

/// Waits here, as the time limit is this call's.
#[unsafe(no_mangle)]
extern "C" fn sys_block_current_task_with_timeout(milliseconds: u64) {
    let is_blocked = &cpu::this().thread.is_blocked;
    is_blocked.store(1, SeqCst);
    let deadline = time::now_ns().saturating_add(milliseconds.saturating_mul(1_000_000));
    futex::wait(is_blocked, 1, Some(deadline));
    is_blocked.store(0, SeqCst);
}

#[unsafe(no_mangle)]
extern "C" fn sys_wakeup_taskt(thread: Tid) {
    if let Some(vcpu) = of_tid(thread) {
        let is_blocked = &cpu::cpu(vcpu).thread.is_blocked;
        is_blocked.store(0, SeqCst);
        futex::wake(is_blocked, 1);
    }
}
