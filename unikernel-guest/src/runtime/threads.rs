//! Threads: a vCPU other than 0 runs one at a time, from its start to its end, and halts in between.
//!
//! A thread costs what [`tollgate_abi::workload::SPAWN`] says, whatever the timing. The interrupt that announces it is taken at
//! the HLT behind the thread before, and that HLT is booked before the thread counts as done, so that a vCPU that waits for the
//! thread finds the books complete.
#![expect(unsafe_code, reason = "defines hermit-abi symbols by name and calls what is started")]

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use hermit_abi::{EAGAIN, EINVAL, ENOMEM, ESRCH, NORMAL_PRIO, Tid};
use tollgate_abi::exit_reason::ExitReason;
use tollgate_abi::profile::Profile;

use super::errno::refused;
use super::failure::note_failure;
use super::{futex, time};
use crate::books::book::book;
use crate::books::cpu::{self, Cpu};
use crate::books::interrupts::{WORK_VECTOR, interrupts_of};
use crate::books::thread::{Join, Thread, Work};
use crate::books::{thread, vcpus};
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
        match this.thread.work().filter(|_| interrupts_of(WORK_VECTOR) != calls) {
            Some(work) => run(&this.thread, work),
            None => book(ExitReason::HLT),
        }
    }
}

fn run(thread: &Thread, Work { entry, argument, profile }: Work) {
    if profile != Profile::Minimal {
        hypercall::switch_profile(profile);
    }
    // SAFETY: an `Entry`, by `start`.
    let entry = unsafe { core::mem::transmute::<*mut (), Entry>(entry) };
    entry(argument);
    if profile != Profile::Minimal {
        hypercall::switch_profile(Profile::Minimal);
    }
    // Writing the registers back may exit, and the vCPU that waits may still count.
    thread.set_left_changed(control_registers::are_changed());
    // The HLT behind the thread.
    book(ExitReason::HLT);
    thread.finish();
    futex::wake(thread.state(), i32::MAX);
}

/// Starts a thread on a vCPU that was claimed.
fn start(at: usize, profile: Profile, entry: Entry, argument: usize) {
    cpu::cpu(at).thread.give(Work { entry: entry as *mut (), argument, profile });
    // SAFETY: the vector has a handler; a vCPU without a thread halts.
    unsafe { apic::send(at, WORK_VECTOR) };
}

/// Runs a function on a vCPU, under a profile; false if the vCPU is not idle. [`finish`] has to follow.
pub(crate) fn give(to: usize, profile: Profile, entry: Entry, argument: usize) -> bool {
    let is_idle = cpu::cpu(to).thread.claim();
    if is_idle {
        start(to, profile, entry, argument);
    }
    is_idle
}

/// Waits until a vCPU has run the function that it was given, without an exit however long it takes.
pub(crate) fn finish(at: usize) {
    let thread = &cpu::cpu(at).thread;
    while !thread.is_done() {
        give_way();
    }
    thread.take_back();
}

/// Puts control registers back on every vCPU where they were left changed.
pub(crate) fn restore() {
    extern "C" fn restore_here(_: usize) {
        control_registers::restore();
    }
    control_registers::restore();
    for (number, cpu) in others() {
        if cpu.thread.take_left_changed() && give(number, Profile::Minimal, restore_here, 0) {
            finish(number);
        }
    }
}

/// Takes every other vCPU off line, before the guest ends.
pub(super) fn take_others_off_line() {
    for (number, cpu) in others().filter(|(_, cpu)| cpu.is_up.load(Acquire)) {
        if !cpu.thread.claim_for_good() {
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
    match cpu::this().thread.id() {
        0 => MAIN_THREAD,
        id => id,
    }
}

/// The vCPU that runs a thread.
pub(super) fn of_tid(id: Tid) -> Option<usize> {
    match id {
        0 => None,
        MAIN_THREAD => Some(0),
        id => others().find(|(_, cpu)| cpu.thread.id() == id).map(|(number, _)| number),
    }
}

/// The number of threads that have been started.
static SPAWNED: AtomicU32 = AtomicU32::new(0);

fn spawn(entry: Entry, argument: usize, core: isize) -> Option<Tid> {
    let is_asked_for = |at: &usize| core < 0 || *at == core.unsigned_abs();
    let at = (1..vcpus()).filter(is_asked_for).find(|&at| cpu::cpu(at).thread.claim())?;
    let id = thread::number(SPAWNED.fetch_add(1, Relaxed), at);
    cpu::cpu(at).thread.set_id(id);
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
        // SAFETY: by the caller, `id` can be written.
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
        match thread.join(id) {
            Join::Joined => return 0,
            Join::Gone => return refused(ESRCH),
            Join::Wait(state) => {
                futex::wait(thread.state(), state, None);
            }
        }
    }
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
    let is_blocked = cpu::this().thread.blocked();
    while is_blocked.load(Acquire) != 0 {
        futex::wait(is_blocked, 1, None);
    }
}

/// Blocks the thread from its next yield on.
#[unsafe(no_mangle)]
extern "C" fn sys_block_current_task() {
    cpu::this().thread.set_blocked(true);
}

/// Waits here, as the time limit is this call's.
#[unsafe(no_mangle)]
extern "C" fn sys_block_current_task_with_timeout(milliseconds: u64) {
    let thread = &cpu::this().thread;
    thread.set_blocked(true);
    let deadline = time::now_ns().saturating_add(milliseconds.saturating_mul(1_000_000));
    futex::wait(thread.blocked(), 1, Some(deadline));
    thread.set_blocked(false);
}

#[unsafe(no_mangle)]
extern "C" fn sys_wakeup_taskt(thread: Tid) {
    if let Some(vcpu) = of_tid(thread) {
        let thread = &cpu::cpu(vcpu).thread;
        thread.set_blocked(false);
        futex::wake(thread.blocked(), 1);
    }
}
