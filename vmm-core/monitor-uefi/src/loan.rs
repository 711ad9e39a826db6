//! A processor on loan from firmware: the monitor has it for one call, on a stack of its own, and it goes back as it was.
#![expect(unsafe_code, reason = "switches stacks, leaves VMX or SVM operation")]

use alloc::boxed::Box;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use tollgate_abi::apic::LOWEST_VECTOR;
use tollgate_abi::machine::MOST_VCPUS;
use tollgate_abi::x86::exception::MC;
use tollgate_abi::x86::msr::{IA32_MCG_STATUS, MCG_IN_PROGRESS};

use vmm_core::host::local_apic::Settings;
use vmm_core::svm::gates;
use vmm_core::vmx::instructions::VmxOperation;
use x86_64::VirtAddr;
use x86_64::registers::control::{Cr4, Cr4Flags};
use x86_64::registers::model_specific::{Efer, EferFlags};
use x86_64::structures::idt::InterruptDescriptorTable;

use crate::state::State;

/// The result of a call that was given up.
pub(crate) const GIVEN_UP: u64 = u64::MAX;

/// Calls `work` on the stack that ends at `stack_end`, with interrupts off, and gives the processor back to firmware. Returns
/// what `work` returns, or [`GIVEN_UP`].
///
/// # Safety
/// The processor is in the state that firmware gave it. Nobody else uses the stack, which ends at a multiple of 16.
pub(crate) unsafe fn lend(stack_end: u64, work: extern "sysv64" fn(u64) -> u64, argument: u64) -> u64 {
    let state = State::keep();
    let settings = Settings::keep();
    if let Some(settings) = &settings {
        settings.mask();
    }
    let (mut caller_rsp, apic_id) = (0, apic_id());
    // `give_up` finds the pointer in this table: a guest leaves no register that could hold it.
    note_caller(&CALLERS, apic_id, &raw const caller_rsp as u64);
    // SAFETY: the stack, by the caller's contract; `caller_rsp` lives until after the call.
    let result = unsafe { call_on(stack_end, work, argument, &raw mut caller_rsp) };
    // SAFETY: the call is over, and with it everything that ran guests; the state is this processor's, and interrupts that were
    // meant for the monitor have been taken.
    unsafe {
        leave_operation();
        if let Some(settings) = settings {
            take_interrupts(&settings);
            settings.put_back();
        }
        state.put_back();
    }
    result
}

/// Gives up the call that [`lend`] made on this processor, whatever it was doing.
///
/// # Safety
/// This runs in such a call, and nothing that it holds is needed any more.
pub(crate) unsafe fn give_up() -> ! {
    match caller_of(&CALLERS, apic_id()) {
        0 => loop {
            // There are as many places as processors that are lent, and each took one.
            x86_64::instructions::hlt();
        },
        // SAFETY: the address of `caller_rsp` on this processor, by `lend`, which is still waiting.
        caller_rsp => unsafe { return_to(caller_rsp, GIVEN_UP) },
    }
}

/// The stack pointer at a call of [`lend`], by the APIC ID of the processor.
struct Caller {
    apic_id: AtomicU32,
    caller_rsp: AtomicU64,
}

/// An APIC ID that no processor has: it addresses all.
pub(crate) const NOBODY: u32 = u32::MAX;
static CALLERS: [Caller; MOST_VCPUS] =
    [const { Caller { apic_id: AtomicU32::new(NOBODY), caller_rsp: AtomicU64::new(0) } }; MOST_VCPUS];

/// Takes a free place, and notes the address of the stack pointer of this processor's caller.
fn note_caller(callers: &[Caller], apic_id: u32, caller_rsp: u64) {
    let is_free =
        |place: &&Caller| place.apic_id.compare_exchange(NOBODY, apic_id, Ordering::AcqRel, Ordering::Acquire).is_ok();
    if let Some(place) = callers.iter().find(is_free) {
        place.caller_rsp.store(caller_rsp, Ordering::Release);
    }
}

/// The place of the stack pointer of a processor's caller; 0 if it has none.
fn caller_of(callers: &[Caller], apic_id: u32) -> u64 {
    let caller = callers.iter().find(|place| place.apic_id.load(Ordering::Acquire) == apic_id);
    caller.map_or(0, |place| place.caller_rsp.load(Ordering::Acquire))
}

/// This processor's APIC ID: all bits of it, if CPUID has leaf 0xb (SDM 2A, CPUID).
pub(crate) fn apic_id() -> u32 {
    let topology = if __cpuid(0).eax >= 0xb { __cpuid_count(0xb, 0) } else { __cpuid(0) };
    if __cpuid(0).eax >= 0xb && topology.ebx != 0 { topology.edx } else { __cpuid(1).ebx >> 24 }
}

/// # Safety
/// As for [`lend`]; `caller_rsp` is valid until the return.
#[unsafe(naked)]
unsafe extern "sysv64" fn call_on(
    stack_end: u64,
    work: extern "sysv64" fn(u64) -> u64,
    argument: u64,
    caller_rsp: *mut u64,
) -> u64 {
    naked_asm!(
        "push rbx
        push rbp
        push r12
        push r13
        push r14
        push r15
        mov [rcx], rsp
        mov rbx, rcx
        mov rsp, rdi
        mov rdi, rdx
        call rsi
        mov rdi, rbx
        mov rsi, rax
        jmp {return_to}",
        return_to = sym return_to,
    )
}

/// Returns `result` from the [`call_on`] that stored its stack pointer at `caller_rsp`.
///
/// # Safety
/// That call has not returned yet.
#[unsafe(naked)]
unsafe extern "sysv64" fn return_to(caller_rsp: u64, result: u64) -> ! {
    naked_asm!(
        "mov rsp, [rdi]
        mov rax, rsi
        cld
        pop r15
        pop r14
        pop r13
        pop r12
        pop rbp
        pop rbx
        ret"
    )
}

/// Leaves VMX or SVM operation, if the processor is in one.
///
/// # Safety
/// No guest is entered from now on.
unsafe fn leave_operation() {
    // SAFETY: the monitor sets CR4.VMXE right before VMXON and clears it where that fails; firmware leaves it clear. With
    // EFER.SVME set STGI exists, and maskable interrupts stay off, as RFLAGS.IF is 0.
    unsafe {
        if Cr4::read().contains(Cr4Flags::VIRTUAL_MACHINE_EXTENSIONS) {
            // VMXOFF can fail only under an SMM monitor that forbids it; firmware, which installed that, lives with it.
            let _ = VmxOperation::leave();
        }
        if Efer::read().contains(EferFlags::SECURE_VIRTUAL_MACHINE_ENABLE) {
            asm!("stgi", options(nostack, preserves_flags));
        }
    }
}

/// Takes the NMIs and the interrupts between vCPUs that are still pending at the processor, and that firmware would not know.
///
/// # Safety
/// Interrupts are off, and the descriptor table that has CS's segment stays loaded.
unsafe fn take_interrupts(settings: &Settings) {
    let table = Box::leak(Box::new(InterruptDescriptorTable::new()));
    let [handler, machine_check] = [ignore as *const (), machine_check as *const ()].map(VirtAddr::from_ptr);
    // SAFETY: the stub returns with everything as it was.
    unsafe { table.non_maskable_interrupt.set_handler_addr(handler) };
    // The vectors of exceptions from 10h on have a handler as well, as interrupts may have them; nothing below raises an
    // exception.
    for vector in LOWEST_VECTOR..=u8::MAX {
        let handler = if vector == MC { machine_check } else { handler };
        // SAFETY: the stub returns with everything as it was.
        unsafe { gates::entries(table)[usize::from(vector)].set_handler_addr(handler) };
    }
    table.load();
    // SAFETY: IRETQ goes on right behind itself. An exit for an NMI leaves NMIs blocked until an IRET (SDM 3C 28.5.5); a pending
    // NMI is taken here.
    unsafe {
        asm!("mov {stack}, rsp", "xor {other:e}, {other:e}", "mov {other:x}, ss", "push {other}", "push {stack}", "pushfq",
            "xor {other:e}, {other:e}", "mov {other:x}, cs", "push {other}", "lea {other}, [rip + 2f]", "push {other}", "iretq",
            "2:", stack = out(reg) _, other = out(reg) _);
    }
    // At most one interrupt per vector can be requested.
    for _ in 0..=u8::MAX {
        settings.end_of_interrupt();
        if !settings.has_request() {
            break;
        }
        // SAFETY: every interrupt that can come has a handler; firmware's timer stands still, and the interrupt controllers are
        // masked.
        unsafe { asm!("sti", "nop", "nop", "cli", options(nostack)) };
    }
}

/// Takes an interrupt and does nothing.
#[unsafe(naked)]
unsafe extern "C" fn ignore() {
    naked_asm!("iretq")
}

/// Takes an interrupt with the vector of a machine check. A machine check finds no further handler here, and the processor shuts
/// down, as it does without any handler.
#[unsafe(naked)]
unsafe extern "C" fn machine_check() {
    naked_asm!(
        "push rax
        push rcx
        push rdx
        mov ecx, {mcg_status}
        rdmsr
        test al, {in_progress}
        pop rdx
        pop rcx
        pop rax
        jnz 2f
        iretq
        2:
        ud2",
        mcg_status = const IA32_MCG_STATUS,
        in_progress = const MCG_IN_PROGRESS,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    /// The address of the stack pointer of the test's call.
    static CALLER_RSP: AtomicU64 = AtomicU64::new(0);

    fn called(work: extern "sysv64" fn(u64) -> u64, argument: u64) -> u64 {
        let mut stack = vec![0u128; 1 << 14];
        let mut caller_rsp = 0;
        let here = (&raw mut caller_rsp).addr() as u64;
        CALLER_RSP.store(here, Ordering::Relaxed);
        // SAFETY: the stack is the vector, which ends at a multiple of 16 and lives until after the call; so does `caller_rsp`.
        let result = unsafe { call_on(stack.as_mut_ptr_range().end as u64, work, argument, &raw mut caller_rsp) };
        assert!(caller_rsp.abs_diff(here) < 1 << 16, "it was called from this stack");
        result
    }

    extern "sysv64" fn own_stack(argument: u64) -> u64 {
        let here = 0u8;
        // Another stack than the caller's.
        assert!((&raw const here as u64).abs_diff(CALLER_RSP.load(Ordering::Relaxed)) > 1 << 12);
        argument + 1
    }

    extern "sysv64" fn gives_up(depth: u64) -> u64 {
        if depth > 0 {
            return gives_up(depth - 1) + 1;
        }
        // SAFETY: `called` waits for this, and nothing on this stack is needed.
        unsafe { return_to(CALLER_RSP.load(Ordering::Relaxed), GIVEN_UP) }
    }

    #[test]
    fn a_call_on_another_stack_returns_or_is_given_up_from_anywhere() {
        assert_eq!([called(own_stack, 41), called(gives_up, 20), called(own_stack, 1)], [42, GIVEN_UP, 2]);
    }

    #[test]
    fn each_processor_finds_its_own_caller() {
        let callers: [Caller; 3] =
            [const { Caller { apic_id: AtomicU32::new(NOBODY), caller_rsp: AtomicU64::new(0) } }; 3];
        assert_eq!(caller_of(&callers, 6), 0);
        for (apic_id, caller_rsp) in [(0, 0x1000), (6, 0x2000), (0x100, 0x3000), (9, 0x4000)] {
            note_caller(&callers, apic_id, caller_rsp);
        }
        assert_eq!([0, 6, 0x100, 9].map(|apic_id| caller_of(&callers, apic_id)), [0x1000, 0x2000, 0x3000, 0]);
    }
}
