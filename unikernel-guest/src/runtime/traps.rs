//! Exceptions and interrupts (SDM 3A chapter 6): the IDT and where its gates lead.
//!
//! An expected exception is noted and its instruction skipped (see `recovery`); an interrupt is counted. Both are done in
//! assembly that touches nothing but RFLAGS and the statics named there, so any code can be interrupted, whatever it
//! keeps in registers. An unexpected exception ends the guest with a message.
#![expect(unsafe_code, reason = "the IDT and its entry points")]

use core::arch::{global_asm, naked_asm};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use tollgate_abi::hypercall::Hypercall;
use x86_64::VirtAddr;
use x86_64::registers::control::{Cr0Flags, Cr2, Cr4Flags};
use x86_64::registers::rflags::RFlags;
use x86_64::structures::DescriptorTablePointer;

use super::one_cpu::OneCpu;
use super::process;
use super::recovery::{RECOVERY, Recovery};
use super::segments::{CODE, DOUBLE_FAULT_IST, TRAP_IST};
use crate::ops::descriptor_tables::lidt;

/// Vectors with an entry point: the architecture's 32, and some for interrupts.
const VECTORS: usize = 48;
/// Vectors from here on are interrupts.
const FIRST_INTERRUPT: u8 = 32;
/// Vectors whose delivery pushes an error code: #DF, #TS, #NP, #SS, #GP, #PF, #AC, #CP, #VC, #SX.
const WITH_ERROR_CODE: u64 = 0x6022_7d00;
const DOUBLE_FAULT: usize = 8;

/// Exit status of a guest that an unexpected exception ended.
pub(crate) const UNEXPECTED_STATUS: i32 = 102;

static INTERRUPTS: AtomicU64 = AtomicU64::new(0);
static LAST_INTERRUPT: AtomicU64 = AtomicU64::new(0);
static UNEXPECTED: AtomicU32 = AtomicU32::new(0);

/// Interrupts so far, and the vector of the last.
pub(crate) fn interrupts() -> (u64, u64) {
    (INTERRUPTS.load(Relaxed), LAST_INTERRUPT.load(Relaxed))
}

// One entry point for each vector, 16 bytes apart: an error code where the processor pushes none, then the vector.
// `.byte 0x6a, N` is PUSH imm8, whose operand the assembler must not take for a symbol.
global_asm!(
    ".pushsection .text.trap_stubs, \"ax\"",
    ".balign 16",
    "tollgate_trap_stubs:",
    ".set tollgate_vector, 0",
    ".rept {vectors}",
    ".balign 16",
    ".if (({with_error_code} >> tollgate_vector) & 1) == 0",
    ".byte 0x6a, 0",
    ".endif",
    ".byte 0x6a, tollgate_vector",
    "jmp {trap}",
    ".set tollgate_vector, tollgate_vector + 1",
    ".endr",
    ".popsection",
    vectors = const VECTORS,
    with_error_code = const WITH_ERROR_CODE,
    trap = sym trap,
);

unsafe extern "C" {
    #[link_name = "tollgate_trap_stubs"]
    static STUBS: [[u8; 16]; VECTORS];
}

/// What the stack holds when an exception is unexpected.
#[repr(C)]
struct Frame {
    vector: u64,
    error: u64,
    rip: u64,
}

/// Where every stub goes. The stack holds vector, error code, and what the processor pushed: RIP, CS, RFLAGS, RSP, SS.
#[unsafe(naked)]
extern "C" fn trap() -> ! {
    naked_asm!(
        "cmp dword ptr [rsp], {first_interrupt}",
        "jae 2f",
        "cmp qword ptr [rip + {recovery}], 0",
        "je 3f",

        // Expected: note it, expect no other, stop single-stepping, go on after the instruction.
        "push rax",
        "mov rax, [rsp + 8]",
        "mov [rip + {recovery} + {vector}], rax",
        "mov rax, [rsp + 16]",
        "mov [rip + {recovery} + {error}], rax",
        "mov rax, [rsp + 24]",
        "mov [rip + {recovery} + {rip_field}], rax",
        "mov rax, cr2",
        "mov [rip + {recovery} + {cr2}], rax",
        "xor eax, eax",
        "xchg rax, [rip + {recovery}]",
        "mov [rsp + 24], rax",
        "mov qword ptr [rip + {recovery} + {taken}], 1",
        "and dword ptr [rsp + 40], {not_single_step}",
        "pop rax",
        "add rsp, 16",
        "iretq",

        // An interrupt: count it.
        "2:",
        "inc qword ptr [rip + {interrupts}]",
        "push rax",
        "mov rax, [rsp + 8]",
        "mov [rip + {last_interrupt}], rax",
        "pop rax",
        "add rsp, 16",
        "iretq",

        // Unexpected: never returns, so registers don't matter. The guest may have switched SSE off.
        "3:",
        "inc dword ptr [rip + {unexpected_count}]",
        "cmp dword ptr [rip + {unexpected_count}], 1",
        "jne 4f",
        "cld",
        "mov rax, cr0",
        "and eax, {sse_usable}",
        "mov cr0, rax",
        "mov rax, cr4",
        "or eax, {sse}",
        "mov cr4, rax",
        "mov rdi, rsp",
        "and rsp, -16",
        "call {unexpected}",

        // Unexpected again, while saying so: end without a book.
        "4:",
        "mov eax, {exit}",
        "mov edi, {status}",
        "xor esi, esi",
        "vmcall",
        "5:",
        "cli",
        "hlt",
        "jmp 5b",
        first_interrupt = const FIRST_INTERRUPT,
        recovery = sym RECOVERY,
        vector = const offset_of!(Recovery, vector),
        error = const offset_of!(Recovery, error),
        rip_field = const offset_of!(Recovery, rip),
        cr2 = const offset_of!(Recovery, cr2),
        taken = const offset_of!(Recovery, taken),
        not_single_step = const !(RFlags::TRAP_FLAG.bits() as i32),
        interrupts = sym INTERRUPTS,
        last_interrupt = sym LAST_INTERRUPT,
        unexpected_count = sym UNEXPECTED,
        sse_usable = const !(Cr0Flags::EMULATE_COPROCESSOR.bits() | Cr0Flags::TASK_SWITCHED.bits()) as i32,
        sse = const (Cr4Flags::OSFXSR.bits() | Cr4Flags::OSXMMEXCPT_ENABLE.bits()) as i32,
        unexpected = sym unexpected,
        exit = const Hypercall::Exit as u32,
        status = const UNEXPECTED_STATUS,
    )
}

extern "C" fn unexpected(frame: &Frame) -> ! {
    let cr2 = Cr2::read_raw();
    process::end(
        UNEXPECTED_STATUS,
        format_args!(
            "unexpected exception {} at {:#x}, error code {:#x}, CR2 {cr2:#x}",
            frame.vector, frame.rip, frame.error
        ),
    )
}

#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Gate([u64; 2]);

impl Gate {
    /// An interrupt gate of CPL 0 (SDM 3A 6.14.1).
    fn new(handler: u64, ist: u8) -> Self {
        const PRESENT_INTERRUPT_GATE: u64 = 0x8e00;
        let offsets = handler & 0xffff | (handler >> 16 & 0xffff) << 48;
        let rights = (PRESENT_INTERRUPT_GATE | u64::from(ist)) << 32;
        Self([offsets | rights | u64::from(CODE.0) << 16, handler >> 32])
    }
}

static IDT: OneCpu<[Gate; VECTORS]> = OneCpu::new([Gate([0; 2]); VECTORS]);

/// What LIDT takes.
pub(crate) fn idt_pointer() -> DescriptorTablePointer {
    DescriptorTablePointer { limit: size_of::<[Gate; VECTORS]>() as u16 - 1, base: VirtAddr::from_ptr(IDT.as_ptr()) }
}

/// Fills and loads the IDT.
pub(crate) fn load() {
    for (vector, gate) in IDT.borrow().iter_mut().enumerate() {
        // SAFETY: only the address of the stub is taken, of which the assembly above has one for each vector.
        let stub = unsafe { &raw const STUBS[vector] } as u64;
        *gate = Gate::new(stub, if vector == DOUBLE_FAULT { DOUBLE_FAULT_IST } else { TRAP_IST });
    }
    // SAFETY: the table is a static, every gate leads to a stub, and the TSS with the stacks is loaded.
    unsafe { lidt(&idt_pointer()) };
}
