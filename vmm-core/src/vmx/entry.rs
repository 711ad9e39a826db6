//! The entry stub: the way into the guest and out of it (SDM 3C chapters 27, 28), on the stack that [`crate::stack`] lays out.
//!
//! HOST_RSP points behind the frame, at the vCPU's pointer.
#![expect(unsafe_code, reason = "enters the guest")]

use core::arch::naked_asm;

use super::Vmx;
use super::field::{HOST_RIP, HOST_RSP, VM_INSTRUCTION_ERROR};
use super::instructions::VmFail;
use crate::exit::GuestRegisters;
use crate::keys::Keyed;
use crate::ledger::{Account, Ledger, Unaccounted};
use crate::recorder::Recorded;
use crate::stack::{
    CALLER_RSP, Enter, Frame, LEFT, REGISTERS_END, exit_paths, leave, on_exit, on_exit_of_other_mode, restore_but_rax,
    restore_caller, save_and_handle, save_caller,
};
use crate::vcpu::Vcpu;

exit_paths!(Vmx, [exit_stub, exit_stub_of_other_mode]: Ledger, Keyed, Recorded, Unaccounted);

/// RFLAGS.CF after VMfailInvalid.
const CARRY: u64 = 1;

impl Enter for Vmx {
    type Failure = VmFail;

    fn entry_argument(&self) -> u64 {
        0
    }

    fn stub(&self) -> usize {
        usize::from(!(self.long_mode))
    }

    unsafe fn enter(vcpu: *mut Vcpu<Self>, frame: *mut Frame, path: u64) -> Result<(), VmFail> {
        // SAFETY: nobody else uses the vCPU, by the caller's contract.
        let vmx = unsafe { &mut (*vcpu).backend };
        let first = !vmx.launched;
        vmx.vmcs.write(HOST_RSP, frame as u64 + REGISTERS_END as u64);
        vmx.vmcs.write(HOST_RIP, path);
        vmx.launched = true;
        // SAFETY: the VMCS is current, by `vmcs`, and complete, by `Vmx::new`; the rest is the caller's contract.
        let flags = unsafe { enter(frame, first) };
        // SAFETY: `enter` has returned, so `on_exit`'s borrow is over.
        let vmcs = unsafe { &(*vcpu).backend.vmcs };
        match flags {
            LEFT => Ok(()),
            flags if flags & CARRY != 0 => Err(VmFail::Invalid),
            _ => Err(VmFail::Valid(vmcs.read(VM_INSTRUCTION_ERROR))),
        }
    }

    unsafe fn leave(frame: *mut GuestRegisters) -> ! {
        // SAFETY: the caller's contract.
        unsafe { leave(frame) }
    }
}

/// Enters the guest whose registers are in the frame. Returns [`LEFT`], or RFLAGS after the entry instruction that failed.
///
/// # Safety
/// A complete VMCS is current, its HOST_RSP points at `frame.vcpu`, its HOST_RIP at [`exit_stub`] or [`exit_stub_of_other_mode`],
/// and `frame` lies at the top of a stack.
#[unsafe(naked)]
unsafe extern "sysv64" fn enter(frame: *mut Frame, first: bool) -> u64 {
    naked_asm!(
        save_caller!(),
        // The guest's registers come off the frame as if an exit had just been handled.
        "mov rsp, rdi",
        "test sil, sil",
        "jz {resume}",
        restore_but_rax!(),
        "pop rax",
        "vmlaunch",
        "jmp {failed}",
        registers_end = const REGISTERS_END,
        caller_rsp = const CALLER_RSP,
        resume = sym resume,
        failed = sym entry_failed,
    )
}

/// Resumes the guest whose registers RSP points at. Jumped to, never called.
#[unsafe(naked)]
unsafe extern "sysv64" fn resume() {
    naked_asm!(
        restore_but_rax!(),
        "pop rax",
        "vmresume",
        "jmp {failed}",
        failed = sym entry_failed,
    )
}

/// The target if VMLAUNCH or VMRESUME fell through: RSP points at `frame.vcpu`, and the flags tell the reason. Jumped to, never
/// called.
#[unsafe(naked)]
unsafe extern "sysv64" fn entry_failed() {
    naked_asm!(
        "mov rcx, rsp",
        "mov rsp, [rcx + {caller_rsp}]",
        "pushfq",
        "pop rax",
        restore_caller!(),
        caller_rsp = const CALLER_RSP,
    )
}

/// The body of HOST_RIP's targets; the function that is called handles the exit.
macro_rules! exit_stub {
    ($on_exit:path) => {
        naked_asm!(
            "push rax",
            save_and_handle!(),
            restore_but_rax!(),
            "pop rax",
            "vmresume",
            "jmp {failed}",
            keeps = const A::KEEPS as u64,
            registers_end = const REGISTERS_END,
            on_exit = sym $on_exit,
            failed = sym entry_failed,
        )
    };
}

/// The target of HOST_RIP, at which every VM exit arrives, with the guest's registers and RSP behind the frame.
#[unsafe(naked)]
unsafe extern "sysv64" fn exit_stub<A: Account>() {
    exit_stub!(on_exit::<A, Vmx>)
}

/// The target of HOST_RIP while the guest is not in IA-32e mode, which the quick forms take for granted.
#[unsafe(naked)]
unsafe extern "sysv64" fn exit_stub_of_other_mode<A: Account>() {
    exit_stub!(on_exit_of_other_mode::<A, Vmx>)
}
