//! From the entry state that [`machine::BootInfo`](tollgate_abi::machine::BootInfo) describes to the application.
//!
//! The application's entry point is `runtime_entry`, as for every program written against `hermit-abi`.
#![expect(unsafe_code, reason = "the entry point, and the page that the monitor wrote")]

use core::arch::naked_asm;
use core::cell::UnsafeCell;

use tollgate_abi::exit_reason::ExitReason;
use x86_64::registers::control::{Cr0Flags, Cr4Flags};

use super::{fresh, heap, learn, processor, segments, start_up, time, traps};
use crate::books::book::book_times;
use crate::books::interrupts::TIMER_VECTOR;
use crate::books::{boot_info, cpu, intercepts};
use crate::ops::apic;

const STACK_BYTES: usize = 64 << 10;

#[repr(align(16))]
struct Stack(#[expect(dead_code, reason = "only the assembly refers to it")] UnsafeCell<[u8; STACK_BYTES]>);

// SAFETY: only vCPU 0's stack pointer ever refers to it.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack(UnsafeCell::new([0; STACK_BYTES]));

unsafe extern "C" {
    fn runtime_entry(argc: i32, argv: *const *const u8, env: *const *const u8) -> !;
}

/// The entry point. SSE is switched on here because any compiled code may use it. Under VT-x the bits that this changes belong to
/// the guest in the minimal profile, so nothing exits.
#[unsafe(naked)]
#[cfg_attr(bare, unsafe(no_mangle))]
#[unsafe(link_section = ".text.boot")]
extern "C" fn _start() -> ! {
    naked_asm!(
        "cld",
        "lea rsp, [rip + {stack} + {stack_bytes}]",
        "mov rax, cr0",
        "and eax, {not_emulated}",
        "or eax, {monitored}",
        "mov cr0, rax",
        "mov rax, cr4",
        "or eax, {sse}",
        "mov cr4, rax",
        "xor ebp, ebp",
        "call {start}",
        "ud2",
        stack = sym STACK,
        stack_bytes = const STACK_BYTES,
        not_emulated = const !(Cr0Flags::EMULATE_COPROCESSOR.bits() | Cr0Flags::TASK_SWITCHED.bits()) as u32,
        monitored = const Cr0Flags::MONITOR_COPROCESSOR.bits() as u32,
        sse = const (Cr4Flags::OSFXSR.bits() | Cr4Flags::OSXMMEXCPT_ENABLE.bits() | Cr4Flags::DEBUGGING_EXTENSIONS.bits()) as u32,
        start = sym start,
    )
}

extern "C" fn start() -> ! {
    cpu::take_place(0);
    if intercepts::facts().is_svm() {
        // CR0 and CR4 were written on the way here.
        book_times(ExitReason::CR_ACCESS, 2);
    }
    segments::load(&segments::FIRST);
    traps::fill();
    traps::load();
    let boot = boot_info();
    heap::set_up(boot.ram_bytes);
    fresh::set_up(boot.fresh_gpa, boot.fresh_bytes);
    processor::set_up();
    time::set_up();
    apic::set_up_timer(TIMER_VECTOR);
    // The others start before the many exits of `learn`, during which the last of them comes to its HLT.
    start_up::start_others();
    learn::learn();
    // SAFETY: the application's entry point, called once, on a stack of its own with all of the kernel set up.
    unsafe { runtime_entry(0, core::ptr::null(), core::ptr::null()) }
}
