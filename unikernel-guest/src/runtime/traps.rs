//! Exceptions and interrupts (SDM 3A chapter 6): the IDT and the code behind its gates.
//!
//! An expected exception is noted and its instruction skipped (see `recovery`). An interrupt is counted, and if it is the local
//! APIC's, booked and ended. The assembly for this touches nothing but RFLAGS and this vCPU's place, so any code can be
//! interrupted, whatever it keeps in registers. An unexpected exception ends the guest with a message.
#![expect(unsafe_code, reason = "the IDT and its entry points")]

use core::arch::{global_asm, naked_asm};
use core::cell::UnsafeCell;
use core::mem::offset_of;

use tollgate_abi::apic::EOI;
use tollgate_abi::exit_reason::ExitReason;
use tollgate_abi::hypercall::Hypercall;
use tollgate_abi::x86::exception;
use x86_64::VirtAddr;
use x86_64::registers::control::{Cr0Flags, Cr2, Cr4Flags};
use x86_64::registers::rflags::RFlags;
use x86_64::structures::DescriptorTablePointer;

use super::process;
use super::segments::{CODE, DOUBLE_FAULT_IST, TRAP_IST};
use crate::books::cpu::{self, Cpu, FIRST_APIC_VECTOR, Recovery};
use crate::books::interrupts::{TEST_VECTOR, TIMER_VECTOR, WORK_VECTOR};
use crate::books::recovery::RESUME;
use crate::ops::descriptor_tables::lidt;

/// Vectors with an entry point: the architecture's 32, and some for interrupts.
const VECTORS: usize = 64;
/// Vectors from here on are interrupts.
const FIRST_INTERRUPT: u8 = 32;
/// Vectors whose delivery pushes an error code.
const WITH_ERROR_CODE: u64 = {
    let (mut word, mut vector) = (0, 0);
    while vector < FIRST_INTERRUPT {
        word |= (exception::has_error_code(vector) as u64) << vector;
        vector += 1;
    }
    word
};
const DOUBLE_FAULT: usize = exception::DF as usize;

/// Exit status of a guest that an unexpected exception ended.
pub(crate) const UNEXPECTED_STATUS: i32 = 102;

/// The vectors that reach this vCPU by an exit for an external interrupt, as bits above [`FIRST_APIC_VECTOR`].
const WITH_EXIT: u32 = 1 << (WORK_VECTOR - FIRST_APIC_VECTOR)
    | 1 << (TIMER_VECTOR - FIRST_APIC_VECTOR)
    | 1 << (TEST_VECTOR - FIRST_APIC_VECTOR);

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

/// The stack's contents when an exception is unexpected.
#[repr(C)]
struct Frame {
    vector: u64,
    error: u64,
    rip: u64,
}

/// The code that every stub jumps to. The stack holds vector, error code, and what the processor pushed: RIP, CS, RFLAGS, RSP, SS.
#[unsafe(naked)]
extern "C" fn trap() -> ! {
    naked_asm!(
        "cmp dword ptr [rsp], {first_interrupt}",
        "jae 2f",
        "cmp qword ptr gs:[{recovery}], 0",
        "je 3f",

        // Expected: note it, expect no other, stop single-stepping, go on after the instruction.
        "push rax",
        "mov rax, [rsp + 8]",
        "mov gs:[{recovery} + {vector}], rax",
        "mov rax, [rsp + 16]",
        "mov gs:[{recovery} + {error}], rax",
        "mov rax, [rsp + 24]",
        "mov gs:[{recovery} + {rip_field}], rax",
        "mov rax, cr2",
        "mov gs:[{recovery} + {cr2}], rax",
        "xor eax, eax",
        "xchg rax, gs:[{recovery}]",
        "mov [rsp + 24], rax",
        "mov qword ptr gs:[{recovery} + {taken}], 1",
        "and dword ptr [rsp + 40], {not_single_step}",
        "pop rax",
        "add rsp, 16",
        "iretq",

        // An interrupt: count it.
        "2:",
        "inc qword ptr gs:[{interrupts}]",
        "push rax",
        "mov rax, [rsp + 8]",
        "mov gs:[{last_interrupt}], rax",
        "sub eax, {first_apic_vector}",
        "jb 7f",
        // The local APIC's: count it by its vector, book its exits, and end it, which may exit.
        "inc qword ptr gs:[{by_vector} + rax * 8]",
        "push rcx",
        "push rdx",
        "mov ecx, {with_exit}",
        "bt ecx, eax",
        "jnc 6f",
        "inc qword ptr gs:[{booked_interrupt}]",
        "6:",
        "mov eax, 1",
        "sub rax, gs:[{takes_eoi}]",
        "add gs:[{booked_wrmsr}], rax",
        "mov ecx, {eoi}",
        "xor eax, eax",
        "xor edx, edx",
        "wrmsr",
        "pop rdx",
        "pop rcx",
        "7:",
        "pop rax",
        "add rsp, 16",
        "iretq",

        // Unexpected: `unexpected` never returns, so registers don't matter. The guest may have switched SSE off.
        "3:",
        "inc qword ptr gs:[{unexpected_count}]",
        "cmp qword ptr gs:[{unexpected_count}], 1",
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

        // A second unexpected exception, while the first is reported: end without a book.
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
        recovery = const RESUME,
        vector = const offset_of!(Recovery, vector),
        error = const offset_of!(Recovery, error),
        rip_field = const offset_of!(Recovery, rip),
        cr2 = const offset_of!(Recovery, cr2),
        taken = const offset_of!(Recovery, taken),
        not_single_step = const !(RFlags::TRAP_FLAG.bits() as i32),
        interrupts = const offset_of!(Cpu, interrupts),
        last_interrupt = const offset_of!(Cpu, last_interrupt),
        first_apic_vector = const FIRST_APIC_VECTOR,
        by_vector = const offset_of!(Cpu, by_vector),
        with_exit = const WITH_EXIT,
        booked_interrupt = const booked(ExitReason::EXTERNAL_INTERRUPT),
        booked_wrmsr = const booked(ExitReason::WRMSR),
        takes_eoi = const offset_of!(Cpu, takes_eoi),
        eoi = const EOI,
        unexpected_count = const offset_of!(Cpu, unexpected),
        sse_usable = const !(Cr0Flags::EMULATE_COPROCESSOR.bits() | Cr0Flags::TASK_SWITCHED.bits()) as i32,
        sse = const (Cr4Flags::OSFXSR.bits() | Cr4Flags::OSXMMEXCPT_ENABLE.bits()) as i32,
        unexpected = sym unexpected,
        exit = const Hypercall::Exit as u32,
        status = const UNEXPECTED_STATUS,
    )
}

/// Offset of a reason in this vCPU's tally, relative to GS base.
const fn booked(reason: ExitReason) -> usize {
    offset_of!(Cpu, tally) + 8 * reason.0 as usize
}

extern "C" fn unexpected(frame: &Frame) -> ! {
    let cr2 = Cr2::read_raw();
    process::end(
        UNEXPECTED_STATUS,
        format_args!(
            "unexpected exception {} on vCPU {} at {:#x}, error code {:#x}, CR2 {cr2:#x}",
            frame.vector,
            cpu::number(),
            frame.rip,
            frame.error
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

/// The IDT, which every vCPU has in common.
struct Idt(UnsafeCell<[Gate; VECTORS]>);

// SAFETY: written once, by vCPU 0 before there are others.
unsafe impl Sync for Idt {}

static IDT: Idt = Idt(UnsafeCell::new([Gate([0; 2]); VECTORS]));

/// The operand of LIDT.
pub(crate) fn idt_pointer() -> DescriptorTablePointer {
    DescriptorTablePointer { limit: size_of::<[Gate; VECTORS]>() as u16 - 1, base: VirtAddr::from_ptr(IDT.0.get()) }
}

/// Fills the IDT, once.
pub(crate) fn fill() {
    // SAFETY: vCPU 0 alone runs.
    for (vector, gate) in unsafe { &mut *IDT.0.get() }.iter_mut().enumerate() {
        // SAFETY: only the address of the stub is taken, of which the assembly above has one for each vector.
        let stub = unsafe { &raw const STUBS[vector] } as u64;
        *gate = Gate::new(stub, if vector == DOUBLE_FAULT { DOUBLE_FAULT_IST } else { TRAP_IST });
    }
}

/// Loads the IDT on this vCPU.
pub(crate) fn load() {
    // SAFETY: the table is a static, every gate leads to a stub, and the TSS with the stacks is loaded.
    unsafe { lidt(&idt_pointer()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use x86_64::structures::idt::InterruptDescriptorTable;

    #[test]
    fn a_gate_is_what_the_processor_reads() {
        const HANDLER: u64 = 0x1234_5678_9abc_def0;
        let mut idt = InterruptDescriptorTable::new();
        // SAFETY: nobody loads this table.
        unsafe {
            let handler = VirtAddr::new_truncate(HANDLER);
            idt[0x30].set_handler_addr(handler).set_code_selector(CODE).set_stack_index(u16::from(TRAP_IST) - 1);
        }
        // SAFETY: an entry is two words, as SDM 3A figure 6-8 has them.
        let expected = unsafe { core::mem::transmute_copy::<_, [u64; 2]>(&idt[0x30]) };
        assert_eq!(Gate::new(VirtAddr::new_truncate(HANDLER).as_u64(), TRAP_IST).0, expected);
    }
}
