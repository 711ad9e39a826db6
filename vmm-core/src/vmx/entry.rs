//! The entry stub: the way into the guest and out of it (SDM 3C chapters 27, 28).
//!
//! While the guest runs, HOST_RSP points behind a [`Frame`] at the top of the monitor's own stack. An exit pushes the
//! guest's registers into the frame, takes the time stamp as soon as three registers are saved, and calls
//! [`Vcpu::exit`] on the stack below. Nothing of the monitor's is saved or restored: between two exits it has no registers to
//! keep. x87, SSE and AVX state stays in place, because the monitor's image contains no instruction that touches it.
#![expect(unsafe_code, reason = "enters the guest")]

use core::arch::naked_asm;
use core::mem::offset_of;

use super::Vmx;
use super::field::{HOST_RIP, HOST_RSP, VM_INSTRUCTION_ERROR};
use super::instructions::VmFail;
use crate::exit::GuestRegisters;
use crate::ledger::Account;
use crate::vcpu::{Flow, Opened, Vcpu};

/// Bytes of the stack on which exits are handled.
const STACK_BYTES: usize = 32 * 1024;

/// What lies at the top of that stack. HOST_RSP points at `vcpu`.
#[derive(Debug)]
#[repr(C)]
struct Frame {
    registers: GuestRegisters,
    /// The [`Vcpu`], for the handler.
    vcpu: *mut (),
    /// RSP of [`Stack::run`]'s caller, with its callee-saved registers on top.
    caller_rsp: u64,
}

const REGISTERS_END: usize = size_of::<GuestRegisters>();
const CALLER_RSP: usize = offset_of!(Frame, caller_rsp) - offset_of!(Frame, vcpu);
const _: () = assert!(offset_of!(Frame, registers) == 0 && offset_of!(Frame, vcpu) == REGISTERS_END);

/// The stack on which one vCPU's exits are handled, with the guest's registers at its top.
///
/// Its address must not change once [`Stack::new`]'s caller has run it, since HOST_RSP refers to it; `run` takes it from
/// a `&'static mut`.
#[derive(Debug)]
#[repr(C, align(16))]
pub struct Stack {
    below: [u8; STACK_BYTES],
    /// Keeps HOST_RSP - size_of(GuestRegisters), where the call happens, 16-byte aligned.
    frame: Frame,
}

const _: () = assert!(offset_of!(Stack, frame).is_multiple_of(16));

impl Stack {
    /// A stack for a guest that starts with these registers.
    pub const fn new(registers: GuestRegisters) -> Self {
        Self { below: [0; STACK_BYTES], frame: Frame { registers, vcpu: core::ptr::null_mut(), caller_rsp: 0 } }
    }

    /// Gives the guest other registers, for its next entry.
    pub fn set_registers(&mut self, registers: GuestRegisters) {
        self.frame.registers = registers;
    }

    /// Runs the guest until an exit leaves it.
    ///
    /// # Errors
    /// The entry instruction failed and the guest did not run (SDM 3C 27.1, 27.2). A failure past that point is an exit.
    pub fn run<A: Account>(&'static mut self, vcpu: &mut Vcpu<Vmx, A>) -> Result<&'static mut Self, VmFail> {
        let frame = &raw mut self.frame;
        let vmx = &mut vcpu.backend;
        let first = !vmx.launched;
        vmx.vmcs.write(HOST_RSP, frame as u64 + REGISTERS_END as u64);
        vmx.vmcs.write(HOST_RIP, exit_stub::<A> as *const () as u64);
        vmx.launched = true;
        let vcpu: *mut Vcpu<Vmx, A> = vcpu;
        // SAFETY: `self` is borrowed for ever, so the frame and the stack below it stay; the VMCS is current, by `vmcs`,
        // and complete, by `Vmx::new`; `vcpu` outlives the call, and only `on_exit` uses it until the call returns.
        let flags = unsafe {
            (*frame).vcpu = vcpu.cast();
            enter(frame, first)
        };
        // SAFETY: `enter` has returned, so `on_exit`'s borrow is over.
        let vmcs = unsafe { &(*vcpu).backend.vmcs };
        match flags {
            LEFT => Ok(self),
            flags if flags & CARRY != 0 => Err(VmFail::Invalid),
            _ => Err(VmFail::Valid(vmcs.read(VM_INSTRUCTION_ERROR))),
        }
    }
}

/// Takes the guest's registers off the frame, in the order of [`GuestRegisters`].
macro_rules! restore_guest {
    () => {
        "pop r15
        pop r14
        pop r13
        pop r12
        pop r11
        pop r10
        pop r9
        pop r8
        pop rsi
        pop rbp
        pop rbx
        pop rcx
        pop rdi
        pop rdx
        pop rax"
    };
}

/// What [`enter`] returns when the guest ran and an exit left it; otherwise RFLAGS after the failed instruction.
const LEFT: u64 = 0;
const CARRY: u64 = 1;

/// Enters the guest whose registers are in the frame.
///
/// # Safety
/// A complete VMCS is current, its HOST_RSP points at `frame.vcpu`, its HOST_RIP at [`exit_stub`], and `frame` lies at
/// the top of a stack.
#[unsafe(naked)]
unsafe extern "sysv64" fn enter(frame: *mut Frame, first: bool) -> u64 {
    naked_asm!(
        // Leave the caller's registers on the caller's stack, and that stack's pointer in the frame.
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi + {registers_end} + {caller_rsp}], rsp",
        // The guest's registers come off the frame as if an exit had just been handled.
        "mov rsp, rdi",
        "test sil, sil",
        "jz {resume}",
        restore_guest!(),
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
        restore_guest!(),
        "vmresume",
        "jmp {failed}",
        failed = sym entry_failed,
    )
}

/// VMLAUNCH or VMRESUME fell through: RSP points at `frame.vcpu`, and the flags say why. Jumped to, never called.
#[unsafe(naked)]
unsafe extern "sysv64" fn entry_failed() {
    naked_asm!(
        "mov rcx, rsp",
        "mov rsp, [rcx + {caller_rsp}]",
        "pushfq",
        "pop rax",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        caller_rsp = const CALLER_RSP,
    )
}

/// HOST_RIP: where every VM exit arrives, with the guest's registers and RSP behind the frame.
#[unsafe(naked)]
unsafe extern "sysv64" fn exit_stub<A: Account>() {
    naked_asm!(
        // Three registers saved, the time stamp, in RDI.
        "push rax",
        "push rdx",
        "push rdi",
        ".if {keeps}",
        "rdtsc",
        "shl rdx, 32",
        "lea rdi, [rdx + rax]",
        ".endif",
        "push rcx",
        "push rbx",
        "push rbp",
        "push rsi",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        // on_exit(time stamp, vcpu, registers)
        "mov rsi, [rsp + {registers_end}]",
        "mov rdx, rsp",
        "call {on_exit}",
        restore_guest!(),
        "vmresume",
        "jmp {failed}",
        keeps = const A::KEEPS as u64,
        registers_end = const REGISTERS_END,
        on_exit = sym on_exit::<A>,
        failed = sym entry_failed,
    )
}

/// The safe side of the stub. Returns to resume the guest.
///
/// # Safety
/// `registers` and `vcpu` are those that [`Stack::run`] put into the frame, and nobody else uses them now.
unsafe extern "sysv64" fn on_exit<A: Account>(exit_tsc: u64, vcpu: &mut Vcpu<Vmx, A>, registers: &mut GuestRegisters) {
    if let Err(opened) = vcpu.exit_quickly(registers, exit_tsc) {
        // SAFETY: the caller's contract, handed on.
        unsafe { on_exit_thoroughly(exit_tsc, vcpu, registers, opened) }
    }
}

/// The rest of [`on_exit`]; a function of its own, to be jumped to, so that the frequent exits need no stack frame.
///
/// # Safety
/// As for `on_exit`.
#[inline(never)]
unsafe extern "sysv64" fn on_exit_thoroughly<A: Account>(
    exit_tsc: u64,
    vcpu: &mut Vcpu<Vmx, A>,
    registers: &mut GuestRegisters,
    opened: Opened,
) {
    if vcpu.exit_thoroughly(registers, exit_tsc, opened) == Flow::Leave {
        // SAFETY: `registers` is the frame's first field, by the caller's contract; nothing here is left to be dropped.
        unsafe { leave(registers) }
    }
}

/// Abandons the stack of exits and returns [`LEFT`] from [`enter`]. Sparing the way back a test of a result is worth it.
///
/// # Safety
/// `frame` is the one that `enter` was called with, and no function between there and here has anything to drop.
#[unsafe(naked)]
unsafe extern "sysv64" fn leave(frame: *mut GuestRegisters) -> ! {
    naked_asm!(
        "mov rsp, [rdi + {registers_end} + {caller_rsp}]",
        "xor eax, eax",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        registers_end = const REGISTERS_END,
        caller_rsp = const CALLER_RSP,
    )
}
