//! The entry stub: the way into the guest and out of it (SDM 3C chapters 27, 28), on the stack that [`crate::stack`] lays out.
//!
//! HOST_RSP points at the frame.
#![expect(unsafe_code, reason = "enters the guest")]

use core::arch::naked_asm;

use super::Vmx;
use super::field::{HOST_RIP, HOST_RSP, VM_INSTRUCTION_ERROR};
use super::instructions::VmFail;
use crate::exit::{ExitNumber, GuestState};
use crate::keys::Keyed;
use crate::ledger::{Account, Ledger, Unaccounted};
use crate::recorder::Recorded;
use crate::stack::{
    CALLER_RSP, Enter, ExitFrame, Frame, LEFT, REGISTERS, REST_FRAME, REST_ROOM, Stack, VCPU, exit_paths, leave,
    name_rests, on_exit, on_exit_without_quick_forms, restore_caller, restore_others, restore_volatile, rests,
    save_and_handle, save_caller, save_others,
};
use crate::vcpu::{Opened, Vcpu};

exit_paths!(Vmx, [exit_stub, exit_stub_without_quick_forms]: Ledger, Keyed, Recorded, Unaccounted);

/// RFLAGS.CF after VMfailInvalid.
const CARRY: u64 = 1;

impl Enter for Vmx {
    type Failure = VmFail;

    fn entry_argument(&self) -> u64 {
        0
    }

    fn stub(&self) -> usize {
        usize::from(!self.uses_quick_forms())
    }

    unsafe fn enter(vcpu: *mut Vcpu<Self>, frame: *mut Frame, path: u64) -> Result<(), VmFail> {
        // SAFETY: nobody else uses the vCPU, by the caller's contract.
        let vmx = unsafe { &mut (*vcpu).backend };
        let first = !vmx.launched;
        vmx.vmcs.write(HOST_RSP, frame as u64);
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

    unsafe fn leave(frame: *mut Frame) -> ! {
        // SAFETY: the caller's contract.
        unsafe { leave(frame) }
    }

    name_rests!();
}

/// Enters the guest whose registers are in the frame. Returns [`LEFT`], or RFLAGS after the entry instruction that failed.
///
/// # Safety
/// A complete VMCS is current, its HOST_RSP points at `frame`, its HOST_RIP at [`exit_stub`] or [`exit_stub_without_quick_forms`], and
/// `frame` lies at the top of a stack.
#[unsafe(naked)]
unsafe extern "sysv64" fn enter(frame: *mut Frame, first: bool) -> u64 {
    naked_asm!(
        save_caller!(),
        // The guest's registers come out of the frame as if an exit had just been handled.
        "mov rsp, rdi",
        "test sil, sil",
        restore_others!(),
        restore_volatile!(),
        "mov rax, [rsp + {registers}]",
        "jz 2f",
        "vmlaunch",
        "jmp {failed}",
        "2:",
        "vmresume",
        "jmp {failed}",
        registers = const REGISTERS,
        others = const REGISTERS,
        caller_rsp = const CALLER_RSP,
        failed = sym entry_failed,
    )
}

/// The target if VMLAUNCH or VMRESUME fell through: RSP points at the frame, and the flags tell the reason. Jumped to, never
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
            "mov [rsp + {registers}], rax",
            save_and_handle!(),
            restore_volatile!(),
            "mov rax, [rsp + {registers}]",
            "vmresume",
            "jmp {failed}",
            keeps = const A::KEEPS as u64,
            registers = const REGISTERS,
            vcpu = const VCPU,
            account = const Stack::<A>::ACCOUNT,
            on_exit = sym $on_exit,
            failed = sym entry_failed,
        )
    };
}

/// The target of HOST_RIP, at which every VM exit arrives, with the guest's registers, and RSP at the frame.
#[unsafe(naked)]
unsafe extern "sysv64" fn exit_stub<A: Account>() {
    exit_stub!(on_exit::<A, Vmx>)
}

/// The target of HOST_RIP where the quick forms can't be used.
#[unsafe(naked)]
unsafe extern "sysv64" fn exit_stub_without_quick_forms<A: Account>() {
    exit_stub!(on_exit_without_quick_forms::<A, Vmx>)
}

/// The body of a rest. RAX is in the frame already.
macro_rules! rest {
    ($handler:path) => {
        naked_asm!(
            "sub rsp, {room}",
            save_others!(),
            "call {handler}",
            restore_others!(),
            "add rsp, {room}",
            "ret",
            room = const REST_ROOM,
            others = const REST_FRAME + REGISTERS,
            handler = sym $handler,
        )
    };
}
rests!(Vmx, rest);
