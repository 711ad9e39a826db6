//! The entry stub: the way into the guest and out of it (APM 2 15.5, 15.6), on the stack that [`crate::stack`] lays out.
//!
//! VMRUN and #VMEXIT keep RAX, RSP, RIP and RFLAGS of both sides; the other general-purpose registers are the stub's. The global
//! interrupt flag is clear from the first entry on, so that nothing arrives while an exit is handled, and it is set in pauses.
//! RFLAGS.IF is set on the stack of exits, so that VMRUN lets interrupts make exits.
#![expect(unsafe_code, reason = "enters the guest")]

use core::arch::naked_asm;
use core::convert::Infallible;

use super::Svm;
use super::vmcb::{ALL_CLEAN, CLEAN_OFFSET, RAX_OFFSET, TLB_CONTROL_OFFSET};
use crate::exit::{ExitNumber, GuestState};
use crate::keys::Keyed;
use crate::ledger::{Account, Ledger, Unaccounted};
use crate::recorder::Recorded;
use crate::stack::{
    CALLER_RSP, ENTRY_ARGUMENT, Enter, ExitFrame, Frame, REGISTERS, REST_FRAME, REST_ROOM, Stack, VCPU, exit_paths,
    name_rests, on_exit, on_exit_without_quick_forms, restore_caller, restore_others, restore_volatile, rests,
    save_and_handle, save_caller, save_others,
};
use crate::vcpu::{Opened, Vcpu};

exit_paths!(Svm, [run, run_without_quick_forms, run_clean, run_clean_without_quick_forms]: Ledger, Keyed, Recorded, Unaccounted);

/// Number of the first stub for processors with clean bits.
const CLEAN_STUBS: usize = 2;

impl Enter for Svm {
    /// VMRUN always ends in an exit, even if the state was invalid.
    type Failure = Infallible;

    fn entry_argument(&self) -> u64 {
        core::ptr::from_ref(self.vmcb) as u64
    }

    fn stub(&self) -> usize {
        usize::from(!self.uses_quick_forms()) + if self.capabilities.clean_bits { CLEAN_STUBS } else { 0 }
    }

    unsafe fn enter(vcpu: *mut Vcpu<Self>, frame: *mut Frame, path: u64) -> Result<(), Infallible> {
        // SAFETY: nobody else uses the vCPU, by the caller's contract.
        unsafe { (*vcpu).backend.about_to_enter() };
        // SAFETY: the block is complete, by `Svm::new`, and SVM is on, by its `SvmOperation`; the rest is the caller's contract.
        unsafe { enter(frame, path) };
        // SAFETY: `enter` has returned, so `on_exit`'s borrow is over.
        let Vcpu { backend, machine, .. } = unsafe { &mut *vcpu };
        // The pause that follows may last. An INIT that has ended a scenario is still pending, and would reset the processor.
        if !machine.stage.in_scenario {
            backend.operation.let_through();
        }
        Ok(())
    }

    unsafe fn leave(frame: *mut Frame) -> ! {
        // SAFETY: the caller's contract.
        unsafe { leave(frame) }
    }

    name_rests!();
}

/// Enters the guest whose registers are in the frame, by the stub at `path`. Returns when an exit leaves the guest.
///
/// # Safety
/// SVM is on; `path` is [`run`] or [`run_without_quick_forms`], and `frame` lies at the top of a stack and has the address of a complete
/// VMCB.
#[unsafe(naked)]
unsafe extern "sysv64" fn enter(frame: *mut Frame, path: u64) -> u64 {
    naked_asm!(
        save_caller!(),
        "clgi",
        "sti",
        "mov rsp, rdi",
        "mov rcx, rsi",
        // The guest's registers come out of the frame as if an exit had just been handled: RAX into the block.
        "mov rax, [rsp + {registers}]",
        "mov rdx, [rsp + {entry_argument}]",
        "mov [rdx + {guest_rax}], rax",
        restore_others!(),
        "jmp rcx",
        registers = const REGISTERS,
        others = const REGISTERS,
        entry_argument = const ENTRY_ARGUMENT,
        guest_rax = const RAX_OFFSET,
        caller_rsp = const CALLER_RSP,
    )
}

/// The loop of entries and exits; the function that is called handles an exit. On processors with clean bits, two instructions
/// come before the call.
macro_rules! run {
    ($on_exit:path) => {
        run!(@ $on_exit,)
    };
    ($on_exit:path, clean) => {
        run!(
            @ $on_exit,
            "mov dword ptr [rax + {clean_at}], {all_clean}",
            "mov byte ptr [rax + {tlb_control_at}], 0";
            clean_at = const CLEAN_OFFSET,
            all_clean = const ALL_CLEAN,
            tlb_control_at = const TLB_CONTROL_OFFSET
        )
    };
    (@ $on_exit:path, $($behind:literal),* $(; $($name:ident = const $value:expr),*)?) => {
        naked_asm!(
            // The guest's RAX is in the block, whose address VMRUN wants in RAX.
            "2:",
            restore_volatile!(),
            "mov rax, [rsp + {entry_argument}]",
            "vmrun rax",
            // RAX and RSP have their values from before VMRUN.
            $($behind,)*
            save_and_handle!(),
            "jmp 2b",
            entry_argument = const ENTRY_ARGUMENT,
            keeps = const A::KEEPS as u64,
            registers = const REGISTERS,
            vcpu = const VCPU,
            account = const Stack::<A>::ACCOUNT,
            on_exit = sym $on_exit,
            $($($name = const $value,)*)?
        )
    };
}

/// Runs the guest, with RSP at the frame, and the registers that an exit leaves in the processor there. Jumped to, never called.
#[unsafe(naked)]
unsafe extern "sysv64" fn run<A: Account>() {
    run!(on_exit::<A, Svm>)
}

/// [`run`] where the quick forms can't be used.
#[unsafe(naked)]
unsafe extern "sysv64" fn run_without_quick_forms<A: Account>() {
    run!(on_exit_without_quick_forms::<A, Svm>)
}

/// [`run`] on a processor with clean bits. After an entry the processor knows the contents of the block, and has flushed as it
/// was told. Later writes are marked by [`Vmcb::set`](super::vmcb::Vmcb::set).
#[unsafe(naked)]
unsafe extern "sysv64" fn run_clean<A: Account>() {
    run!(on_exit::<A, Svm>, clean)
}

/// [`run_clean`] where the quick forms can't be used.
#[unsafe(naked)]
unsafe extern "sysv64" fn run_clean_without_quick_forms<A: Account>() {
    run!(on_exit_without_quick_forms::<A, Svm>, clean)
}

/// Abandons the stack of exits and returns from [`enter`], with RFLAGS.IF clear as the monitor has it outside.
///
/// # Safety
/// `enter` was called with `frame`, and no function between there and here has anything to drop.
#[unsafe(naked)]
unsafe extern "sysv64" fn leave(frame: *mut Frame) -> ! {
    naked_asm!(
        "mov rsp, [rdi + {caller_rsp}]",
        "cli",
        "xor eax, eax",
        restore_caller!(),
        caller_rsp = const CALLER_RSP,
    )
}

/// The body of a rest. RAX is in the block.
macro_rules! rest {
    ($handler:path) => {
        naked_asm!(
            "sub rsp, {room}",
            save_others!(),
            "mov rax, [rsp + {entry_argument}]",
            "mov rax, [rax + {guest_rax}]",
            "mov [rsp + {others}], rax",
            "call {handler}",
            "mov rax, [rsp + {others}]",
            "mov rdx, [rsp + {entry_argument}]",
            "mov [rdx + {guest_rax}], rax",
            restore_others!(),
            "add rsp, {room}",
            "ret",
            room = const REST_ROOM,
            others = const REST_FRAME + REGISTERS,
            entry_argument = const REST_FRAME + ENTRY_ARGUMENT,
            guest_rax = const RAX_OFFSET,
            handler = sym $handler,
        )
    };
}
rests!(Svm, rest);
