//! The entry stub: the way into the guest and out of it (SDM 3C chapters 27, 28).
//!
//! While the guest runs, HOST_RSP points behind a [`Frame`] at the top of the monitor's own stack. An exit pushes the
//! guest's registers into the frame, takes the time stamp as soon as three registers are saved, and calls
//! [`Vcpu::exit_quickly`] on the stack below, and where that leaves something [`Vcpu::exit_thoroughly`]. Nothing of the monitor's is saved or restored: between two exits it has no registers to
//! keep. x87, SSE and AVX state stays in place, because the monitor's image contains no instruction that touches it.
//!
//! The vCPU's account lies right behind its frame, where the exit path finds it at a constant distance, and other vCPUs
//! through [`Stack::account`].
#![expect(unsafe_code, reason = "enters the guest")]

use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, Ordering};

use super::Vmx;
use super::field::{HOST_RIP, HOST_RSP, VM_INSTRUCTION_ERROR};
use super::instructions::VmFail;
use crate::exit::GuestRegisters;
use crate::keys::Keyed;
use crate::ledger::{Account, Ledger, Unaccounted};
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
    /// RSP of [`Owner::run`]'s caller, with its callee-saved registers on top.
    caller_rsp: u64,
}

const REGISTERS_END: usize = size_of::<GuestRegisters>();
const CALLER_RSP: usize = offset_of!(Frame, caller_rsp) - offset_of!(Frame, vcpu);
const _: () = assert!(offset_of!(Frame, registers) == 0 && offset_of!(Frame, vcpu) == REGISTERS_END);

/// The stack on which one vCPU's exits are handled, with the guest's registers at its top and the account behind them.
///
/// One processor runs on it, by the [`Owner`]; the account is everybody's to read.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Stack<A> {
    below: UnsafeCell<[u8; STACK_BYTES]>,
    /// Keeps HOST_RSP - size_of(GuestRegisters), where the call happens, 16-byte aligned.
    frame: UnsafeCell<Frame>,
    account: A,
    taken: AtomicBool,
}

// SAFETY: stack and frame are touched through the one `Owner` only, since `take` gives it once; the account is `Sync`.
unsafe impl<A: Sync> Sync for Stack<A> {}

/// The right to run on a [`Stack`].
#[derive(Debug)]
pub struct Owner<A: 'static> {
    stack: &'static Stack<A>,
}

impl<A: Account> Stack<A> {
    /// How far behind the frame the account is.
    const ACCOUNT: usize = {
        assert!(offset_of!(Stack<A>, frame).is_multiple_of(16));
        offset_of!(Stack<A>, account) - offset_of!(Stack<A>, frame)
    };

    /// A stack whose guest starts with all registers zero.
    pub fn new() -> Self {
        let frame = Frame { registers: GuestRegisters::default(), vcpu: core::ptr::null_mut(), caller_rsp: 0 };
        Self {
            below: UnsafeCell::new([0; STACK_BYTES]),
            frame: UnsafeCell::new(frame),
            account: A::default(),
            taken: AtomicBool::new(false),
        }
    }

    /// The account of the vCPU whose exits are handled here.
    pub fn account(&self) -> &A {
        &self.account
    }

    /// Takes the stack for this processor; `None` if another has it.
    pub fn take(&'static self) -> Option<Owner<A>> {
        (!self.taken.swap(true, Ordering::Acquire)).then_some(Owner { stack: self })
    }
}

impl<A: Account> Default for Stack<A> {
    fn default() -> Self {
        Self::new()
    }
}

/// An account with its own exit path. The implementations name it in this crate, so that it is compiled for speed
/// whatever the image that uses it is compiled for.
pub trait ExitPath: Account {
    /// HOST_RIP, by whether the guest is in IA-32e mode.
    fn host_rip(long_mode: bool) -> u64;
}

macro_rules! exit_paths {
    ($($account:ty),*) => {$(
        impl ExitPath for $account {
            fn host_rip(long_mode: bool) -> u64 {
                let stub =
                    if long_mode { exit_stub::<$account> as *const () } else { exit_stub_of_other_mode::<$account> as *const () };
                stub as u64
            }
        }
    )*};
}

exit_paths!(Ledger, Keyed, Unaccounted);

impl<A: ExitPath> Owner<A> {
    /// The account.
    pub fn account(&self) -> &'static A {
        &self.stack.account
    }

    /// Gives the guest other registers, for its next entry.
    pub fn set_registers(&mut self, registers: GuestRegisters) {
        // SAFETY: the frame is this owner's, and no guest runs on it while `self` is borrowed here.
        unsafe { (*self.stack.frame.get()).registers = registers };
    }

    /// Runs the guest until an exit leaves it.
    ///
    /// # Errors
    /// The entry instruction failed and the guest did not run (SDM 3C 27.1, 27.2). A failure past that point is an exit.
    pub fn run(&mut self, vcpu: &mut Vcpu<Vmx>) -> Result<(), VmFail> {
        // The handler finds the account from the frame, so the pointer is one to the whole stack.
        let stack: *const Stack<A> = self.stack;
        let frame = stack.wrapping_byte_add(offset_of!(Stack<A>, frame)).cast_mut().cast::<Frame>();
        let vmx = &mut vcpu.backend;
        let first = !vmx.launched;
        vmx.vmcs.write(HOST_RSP, frame as u64 + REGISTERS_END as u64);
        vmx.vmcs.write(HOST_RIP, A::host_rip(vmx.long_mode));
        vmx.launched = true;
        let vcpu: *mut Vcpu<Vmx> = vcpu;
        // SAFETY: the stack stays for ever and is this owner's, which is borrowed; the VMCS is current, by `vmcs`, and
        // complete, by `Vmx::new`; `vcpu` outlives the call, and only `on_exit` uses it until the call returns.
        let flags = unsafe {
            (*frame).vcpu = vcpu.cast();
            enter(frame, first)
        };
        // SAFETY: `enter` has returned, so `on_exit`'s borrow is over.
        let vmcs = unsafe { &(*vcpu).backend.vmcs };
        match flags {
            LEFT => Ok(()),
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
/// A complete VMCS is current, its HOST_RSP points at `frame.vcpu`, its HOST_RIP at [`exit_stub`] or [`exit_stub_of_other_mode`], and `frame` lies at
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

/// The body of HOST_RIP's targets: what is called handles the exit.
macro_rules! exit_stub {
    ($on_exit:path) => {
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
            on_exit = sym $on_exit,
            failed = sym entry_failed,
        )
    };
}

/// HOST_RIP: where every VM exit arrives, with the guest's registers and RSP behind the frame.
#[unsafe(naked)]
unsafe extern "sysv64" fn exit_stub<A: Account>() {
    exit_stub!(on_exit::<A>)
}

/// HOST_RIP while the guest is not in IA-32e mode, which the quick forms take for granted.
#[unsafe(naked)]
unsafe extern "sysv64" fn exit_stub_of_other_mode<A: Account>() {
    exit_stub!(on_exit_of_other_mode::<A>)
}

/// The account that belongs to a frame.
///
/// # Safety
/// `registers` is the frame of a [`Stack<A>`], by a pointer to the whole stack.
#[inline(always)]
unsafe fn account_of<'a, A: Account>(registers: *mut GuestRegisters) -> &'a A {
    // SAFETY: by the caller's contract `registers` is the frame of a whole `Stack<A>`, behind which the account is; it is only
    // ever borrowed shared.
    unsafe { &*registers.byte_add(Stack::<A>::ACCOUNT).cast() }
}

/// The safe side of the stub. Returns to resume the guest.
///
/// # Safety
/// `registers` and `vcpu` are those that [`Owner::run`] put into the frame, and nobody else uses them now.
unsafe extern "sysv64" fn on_exit<A: Account>(exit_tsc: u64, vcpu: &mut Vcpu<Vmx>, registers: *mut GuestRegisters) {
    // SAFETY: `registers` is the frame that `Owner::run` entered with, hence of a `Stack<A>`; nobody else uses it now.
    let (account, guest) = unsafe { (account_of::<A>(registers), &mut *registers) };
    if let Err(opened) = vcpu.exit_quickly(account, guest, exit_tsc) {
        // SAFETY: likewise; `guest` is not used any more.
        unsafe { on_exit_thoroughly::<A>(exit_tsc, vcpu, registers, opened) }
    }
}

/// Likewise, without the quick forms.
///
/// # Safety
/// As for `on_exit`.
unsafe extern "sysv64" fn on_exit_of_other_mode<A: Account>(
    exit_tsc: u64,
    vcpu: &mut Vcpu<Vmx>,
    registers: *mut GuestRegisters,
) {
    // SAFETY: `registers` is the frame that `Owner::run` entered with, hence of a `Stack<A>`; nobody else uses it now.
    let (account, guest) = unsafe { (account_of::<A>(registers), &*registers) };
    let opened = vcpu.open(account, guest);
    // SAFETY: likewise; `guest` is not used any more.
    unsafe { on_exit_thoroughly::<A>(exit_tsc, vcpu, registers, opened) }
}

/// The rest of [`on_exit`]; a function of its own, to be jumped to, so that the frequent exits need no stack frame.
///
/// # Safety
/// As for `on_exit`.
#[inline(never)]
unsafe extern "sysv64" fn on_exit_thoroughly<A: Account>(
    exit_tsc: u64,
    vcpu: &mut Vcpu<Vmx>,
    registers: *mut GuestRegisters,
    opened: Opened,
) {
    // SAFETY: `registers` is the frame that `Owner::run` entered with, hence of a `Stack<A>`; nobody else uses it now.
    let (account, guest) = unsafe { (account_of::<A>(registers), &mut *registers) };
    if vcpu.exit_thoroughly(account, guest, exit_tsc, opened) == Flow::Leave {
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
