//! A processor on loan from firmware: the monitor has it for one call, on a stack of its own, and it goes back as it was.
#![expect(unsafe_code, reason = "switches stacks, leaves VMX or SVM operation")]

use alloc::boxed::Box;
use core::arch::{asm, naked_asm};

use vmm_core::local_apic::Settings;
use vmm_core::vmx::instructions::VmxOperation;
use x86_64::VirtAddr;
use x86_64::registers::control::{Cr4, Cr4Flags};
use x86_64::registers::model_specific::{Efer, EferFlags, GsBase};
use x86_64::structures::idt::InterruptDescriptorTable;

use crate::state::State;

/// What a call returns that was given up.
pub(crate) const GIVEN_UP: u64 = u64::MAX;

/// Calls `work` on the stack that ends at `stack_end`, with interrupts off, and gives the processor back to firmware. Returns
/// what `work` returns, or [`GIVEN_UP`].
///
/// # Safety
/// The processor is firmware's as it came. The stack is nobody else's and ends at a multiple of 16.
pub(crate) unsafe fn lend(stack_end: u64, work: extern "sysv64" fn(u64) -> u64, argument: u64) -> u64 {
    let state = State::keep();
    let settings = Settings::keep();
    let mut caller_rsp = 0;
    // Where `give_up` finds it: VM exits load the same base again.
    GsBase::write(VirtAddr::from_ptr(&raw const caller_rsp));
    // SAFETY: the stack, by the caller's contract; `caller_rsp` lives until after the call.
    let result = unsafe { call_on(stack_end, work, argument, &raw mut caller_rsp) };
    // SAFETY: the call is over, hence with it whatever ran guests; the state is this processor's, and interrupts that were
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
    // SAFETY: the base of GS is the address of `caller_rsp`, by `lend`, which is still waiting.
    unsafe { return_to(GsBase::read().as_u64(), GIVEN_UP) }
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
/// It has not returned yet.
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
            // It can fail only under an SMM monitor that forbids it; firmware, which put that there, lives with it.
            let _ = VmxOperation::leave();
        }
        if Efer::read().contains(EferFlags::SECURE_VIRTUAL_MACHINE_ENABLE) {
            asm!("stgi", options(nostack, preserves_flags));
        }
    }
}

/// Takes what the local APIC holds of interrupts between vCPUs, which firmware would not know.
///
/// # Safety
/// Interrupts are off, and the descriptor table that CS is of stays loaded.
unsafe fn take_interrupts(settings: &Settings) {
    let table = Box::leak(Box::new(InterruptDescriptorTable::new()));
    for vector in 32..=u8::MAX {
        // SAFETY: the stub returns with everything as it was.
        unsafe { table[vector].set_handler_addr(VirtAddr::new(ignore as *const () as u64)) };
    }
    table.load();
    // There are as many requests as vectors at most.
    for _ in 0..=u8::MAX {
        settings.end_of_interrupt();
        if !settings.has_request() {
            break;
        }
        // SAFETY: what can come has a handler; firmware's timer stands still, and the interrupt controllers are masked.
        unsafe { asm!("sti", "nop", "nop", "cli", options(nostack)) };
    }
}

/// Takes an interrupt and does nothing.
#[unsafe(naked)]
unsafe extern "C" fn ignore() {
    naked_asm!("iretq")
}
