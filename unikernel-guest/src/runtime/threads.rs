//! The other vCPUs, and the threads that they run: one at a time each, from its start to its end.
//!
//! vCPU 0 starts the others as an operating system does: INIT, start-up IPI, and a way from real mode to 64-bit mode. Each
//! then halts until it is given work. A piece of work costs what [`tollgate_abi::workload::SPAWN`] says, whatever the
//! timing: the interrupt that announces it is taken by the HLT that follows the piece before, and that HLT is booked before
//! the piece counts as done, so that whoever waits for it finds the books complete.
#![expect(unsafe_code, reason = "starts processors, defines hermit-abi symbols by name")]
#![expect(clippy::missing_spin_loop, reason = "PAUSE may exit, and would not be predicted")]

use core::arch::global_asm;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicUsize};

use hermit_abi::{EAGAIN, EINVAL, ESRCH, NORMAL_PRIO, Tid};
use tollgate_abi::apic::{DELIVERY_INIT, DELIVERY_START_UP};
use tollgate_abi::exit_reason::ExitReason;
use tollgate_abi::machine::START_UP_GPA;
use tollgate_abi::profile::Profile;
use x86_64::registers::control::{Cr0Flags, Cr3, Cr4Flags};
use x86_64::registers::model_specific::EferFlags;

use super::book::{book, book_times};
use super::cpu::{self, Cpu};
use super::process::{self, refused};
use super::segments::{self, Tables};
use super::traps::{self, TIMER_VECTOR, WORK_VECTOR};
use super::{boot_info, futex, processor};
use crate::ops::idle::{hlt_for_ever, hlt_until_booked_interrupt};
use crate::ops::{apic, control_registers, hypercall};

/// What a thread starts with.
pub(crate) type Entry = extern "C" fn(usize);

/// What one vCPU runs.
pub(crate) struct Thread {
    state: AtomicU32,
    entry: AtomicPtr<()>,
    argument: AtomicUsize,
    profile: AtomicU8,
    /// It was started by `sys_spawn`, and is to be joined.
    is_joinable: AtomicBool,
    /// `sys_block_current_task` has been called.
    pub(super) is_blocked: AtomicU32,
}

impl Thread {
    pub(crate) const fn idle() -> Self {
        Self {
            state: AtomicU32::new(IDLE),
            entry: AtomicPtr::new(core::ptr::null_mut()),
            argument: AtomicUsize::new(0),
            profile: AtomicU8::new(0),
            is_joinable: AtomicBool::new(false),
            is_blocked: AtomicU32::new(0),
        }
    }
}

/// States of a thread: none, being made, to be run, finished.
const IDLE: u32 = 0;
const CLAIMED: u32 = 1;
const READY: u32 = 2;
const DONE: u32 = 3;

/// Stack of a vCPU other than 0.
const STACK_BYTES: usize = 64 << 10;
/// Looks at a flag until a vCPU that does not come up is given up.
const PATIENCE: u64 = 1 << 27;

// Real mode at START_UP_GPA; straight to IA-32e mode (SDM 3A 10.8.5). The monitor's vCPU starts here with CS base at the page.
global_asm!(
    r#"
    .pushsection .rodata.start_up, "a"
    .code16
    .balign 16
tollgate_start_up:
    cli
    cld
    xor eax, eax
    mov ds, ax
    mov bx, offset tollgate_at_gdt_pointer
    lgdtd [bx]
    mov eax, {cr4}
    mov cr4, eax
    mov bx, offset tollgate_at_cr3
    mov eax, [bx]
    mov cr3, eax
    mov ecx, 0xC0000080             # EFER
    rdmsr
    or eax, {efer}
    wrmsr
    mov eax, {cr0}
    mov cr0, eax
    .byte 0x66, 0xEA                # ljmpl $8, $long
    .long {page} + tollgate_long - tollgate_start_up
    .word 8
    .code64
tollgate_long:
    xor eax, eax
    mov ds, ax
    mov es, ax
    mov ss, ax
    lea rbx, [rip + tollgate_words]
    mov rsp, [rbx + 8]
    mov rdi, [rbx + 16]
    xor ebp, ebp
    call [rbx + 24]
    ud2
    .balign 8
tollgate_gdt:
    .quad 0
    .quad 0x00AF9B000000FFFF        # 08: 64-bit code
tollgate_gdt_pointer:
    .word tollgate_gdt_pointer - tollgate_gdt - 1
    .long {page} + tollgate_gdt - tollgate_start_up
    .balign 8
tollgate_words:                     # CR3, stack, number, entry: filled in for each vCPU
    .quad 0, 0, 0, 0
tollgate_start_up_end:
    .set tollgate_at_gdt_pointer, {page} + tollgate_gdt_pointer - tollgate_start_up
    .set tollgate_at_cr3, {page} + tollgate_words - tollgate_start_up
    .popsection
"#,
    page = const START_UP_GPA,
    cr4 = const (Cr4Flags::PHYSICAL_ADDRESS_EXTENSION.bits() | Cr4Flags::OSFXSR.bits() | Cr4Flags::OSXMMEXCPT_ENABLE.bits()
        | Cr4Flags::DEBUGGING_EXTENSIONS.bits()) as u32,
    efer = const (EferFlags::SYSTEM_CALL_EXTENSIONS.bits() | EferFlags::LONG_MODE_ENABLE.bits()
        | EferFlags::NO_EXECUTE_ENABLE.bits()) as u32,
    cr0 = const (Cr0Flags::PROTECTED_MODE_ENABLE.bits() | Cr0Flags::MONITOR_COPROCESSOR.bits()
        | Cr0Flags::EXTENSION_TYPE.bits() | Cr0Flags::NUMERIC_ERROR.bits() | Cr0Flags::WRITE_PROTECT.bits()
        | Cr0Flags::PAGING.bits()) as u32,
);

unsafe extern "C" {
    #[link_name = "tollgate_start_up"]
    static START_UP: [u8; 0];
    #[link_name = "tollgate_words"]
    static START_UP_WORDS: [u8; 0];
    #[link_name = "tollgate_start_up_end"]
    static START_UP_END: [u8; 0];
}

/// How many vCPUs there are.
pub(crate) fn vcpus() -> usize {
    boot_info().vcpus as usize
}

fn others() -> impl Iterator<Item = (usize, &'static Cpu)> {
    (1..vcpus()).map(|number| (number, cpu::cpu(number)))
}

fn allocate<T>() -> *mut T {
    // SAFETY: any size and alignment may be asked for.
    let block = unsafe { hermit_abi::alloc_zeroed(size_of::<T>(), align_of::<T>()) }.cast::<T>();
    assert!(!block.is_null(), "there is no memory for another vCPU");
    block
}

#[repr(align(16))]
struct Stack(#[expect(dead_code, reason = "only the stack pointer refers to it")] [u8; STACK_BYTES]);

/// Starts the other vCPUs, one after the other, and waits for each.
pub(crate) fn start_others() {
    if vcpus() < 2 {
        return;
    }
    // SAFETY: the linker placed the two one behind the other.
    let bytes = unsafe { (&raw const START_UP_END).byte_offset_from(&raw const START_UP) } as usize;
    // SAFETY: the page is for this, by the contract of the machine, mapped to itself, and large enough.
    unsafe { core::ptr::copy_nonoverlapping((&raw const START_UP).cast::<u8>(), START_UP_GPA as *mut u8, bytes) };
    // SAFETY: as above.
    let words = unsafe { (&raw const START_UP_WORDS).byte_offset_from(&raw const START_UP) } as u64 + START_UP_GPA;
    for (number, cpu) in others() {
        let stack = allocate::<Stack>();
        let (frame, _) = Cr3::read_raw();
        let values = [
            frame.start_address().as_u64(),
            stack as u64 + STACK_BYTES as u64,
            number as u64,
            other_vcpu as *const () as u64,
        ];
        // SAFETY: within the copy made above; the vCPU before has read its own already.
        unsafe { (words as *mut [u64; 4]).write_volatile(values) };
        // SAFETY: it waits for this, and the page holds code for it.
        unsafe {
            apic::start(number, DELIVERY_INIT, 0);
            apic::start(number, DELIVERY_START_UP, (START_UP_GPA >> 12) as u8);
        }
        if !(0..PATIENCE).any(|_| cpu.is_up.load(Acquire)) {
            process::end(1, format_args!("vCPU {number} did not come up"));
        }
    }
}

/// Where another vCPU comes from real mode.
extern "C" fn other_vcpu(number: usize) -> ! {
    cpu::take_place(number);
    // On the way here it wrote CR4 and CR0, and read and wrote EFER.
    book_times(ExitReason::CR_ACCESS, 2);
    book(ExitReason::RDMSR);
    book(ExitReason::WRMSR);
    // SAFETY: allocated zeroed, written once, and never freed.
    let tables: &'static Tables = unsafe {
        let tables = allocate::<Tables>();
        tables.write(Tables::new());
        &*tables
    };
    segments::load(tables);
    traps::load();
    processor::set_up_other();
    apic::set_up_timer(TIMER_VECTOR);
    let this = cpu::this();
    book(ExitReason::HLT);
    this.is_up.store(true, Release);
    loop {
        hlt_until_booked_interrupt();
        match this.thread.state.load(Acquire) {
            READY => run(this),
            // Woken for nothing.
            _ => book(ExitReason::HLT),
        }
    }
}

/// Runs what this vCPU was given.
fn run(this: &'static Cpu) {
    let thread = &this.thread;
    let profile = Profile::from_number(thread.profile.load(Relaxed).into()).unwrap_or_default();
    if profile != Profile::Minimal {
        hypercall::switch_profile(profile);
    }
    // SAFETY: an `Entry`, by `give`.
    let entry = unsafe { core::mem::transmute::<*mut (), Entry>(thread.entry.load(Relaxed)) };
    entry(thread.argument.load(Relaxed));
    if profile != Profile::Minimal {
        hypercall::switch_profile(Profile::Minimal);
    }
    control_registers::restore();
    book(ExitReason::HLT);
    thread.state.store(DONE, Release);
    futex::wake(&thread.state, i32::MAX);
}

/// Gives work to a vCPU that has none; false if it has.
pub(crate) fn give(to: usize, profile: Profile, entry: Entry, argument: usize) -> bool {
    let thread = &cpu::cpu(to).thread;
    if thread.state.compare_exchange(IDLE, CLAIMED, AcqRel, Relaxed).is_err() {
        return false;
    }
    thread.entry.store(entry as *mut (), Relaxed);
    thread.argument.store(argument, Relaxed);
    thread.profile.store(profile as u8, Relaxed);
    thread.is_joinable.store(false, Relaxed);
    thread.state.store(READY, Release);
    // SAFETY: the vector has a handler; a vCPU without work halts.
    unsafe { apic::send(to, WORK_VECTOR) };
    true
}

/// Waits until a vCPU has done its work.
pub(crate) fn finish(at: usize) {
    let state = &cpu::cpu(at).thread.state;
    loop {
        match state.load(Acquire) {
            DONE => break,
            busy => futex::wait(state, busy),
        }
    }
    state.store(IDLE, Release);
}

/// Takes every other vCPU off line, before the guest ends well.
pub(crate) fn take_others_off_line() {
    for (number, cpu) in others().filter(|(_, cpu)| cpu.is_up.load(Acquire)) {
        if give(number, Profile::Minimal, go_off_line, 0) {
            while !cpu.is_off_line.load(Acquire) {}
        }
    }
}

extern "C" fn go_off_line(_: usize) {
    // Before the one who waits sums the books.
    book(ExitReason::HLT);
    cpu::this().is_off_line.store(true, Release);
    hlt_for_ever()
}

/// vCPU n runs thread n + 1: vCPU 0 the main thread, 1 like the process.
fn tid(vcpu: usize) -> Tid {
    vcpu as Tid + 1
}

/// A vCPU from its thread's number.
pub(super) fn of_tid(thread: Tid) -> Option<usize> {
    (thread as usize).checked_sub(1).filter(|&vcpu| vcpu < vcpus())
}

fn spawn(start: Entry, argument: usize, core: isize) -> Option<usize> {
    let on_core = |&vcpu: &usize| core < 0 || vcpu == core as usize;
    let vcpu = (1..vcpus()).filter(on_core).find(|&vcpu| give(vcpu, Profile::Minimal, start, argument))?;
    cpu::cpu(vcpu).thread.is_joinable.store(true, Relaxed);
    Some(vcpu)
}

/// # Safety
/// `id` is null or can be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn sys_spawn(id: *mut Tid, start: Entry, argument: usize, _priority: u8, core: isize) -> i32 {
    let Some(vcpu) = spawn(start, argument, core) else { return refused(EAGAIN) };
    if !id.is_null() {
        // SAFETY: the caller says so.
        unsafe { id.write(tid(vcpu)) };
    }
    0
}

/// The interface has no error value; the number of a refusal never belongs to a thread.
#[unsafe(no_mangle)]
extern "C" fn sys_spawn2(start: Entry, argument: usize, _priority: u8, _stack_bytes: usize, core: isize) -> Tid {
    spawn(start, argument, core).map_or_else(|| refused(EAGAIN) as Tid, tid)
}

#[unsafe(no_mangle)]
extern "C" fn sys_join(thread: Tid) -> i32 {
    let Some(vcpu) = of_tid(thread) else { return refused(ESRCH) };
    if vcpu == cpu::number() {
        return refused(EINVAL);
    }
    if !cpu::cpu(vcpu).thread.is_joinable.swap(false, AcqRel) {
        return refused(ESRCH);
    }
    finish(vcpu);
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

/// Priorities order threads on one processor, where there is one.
#[unsafe(no_mangle)]
extern "C" fn sys_set_priority(_thread: Tid, _priority: u8) {}
