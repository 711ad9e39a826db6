//! The stack on which one vCPU's exits are handled, whatever the virtualization extension: the guest's registers at its top,
//! the account behind them, and the way from an extension's entry stub to the spine.
//!
//! While the guest runs, the stack pointer that an exit loads points behind a [`Frame`]. The stub pushes the guest's
//! registers into the frame, takes the time stamp, and calls `Vcpu::exit` on the stack below. Nothing of the monitor's is saved
//! or restored: between two exits it has no registers to keep. x87, SSE and AVX state stays in place, because the monitor's
//! image contains no instruction that touches it.
//!
//! The vCPU's account lies right behind its frame. The exit path finds it there at a constant distance, other vCPUs through
//! [`Stack::account`].
#![expect(unsafe_code, reason = "hands the stub's pointers to the spine")]

use alloc::boxed::Box;
use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::exit::{Backend, GuestRegisters};
use crate::ledger::{Account, Book};
use crate::recording::Recording;
use crate::vcpu::{Exit, Vcpu};

/// Bytes of the stack on which exits are handled.
const STACK_BYTES: usize = 32 * 1024;

/// The contents of the stack's top. While the guest runs, the monitor's stack pointer points at `vcpu`.
#[derive(Debug)]
#[repr(C)]
pub struct Frame {
    registers: GuestRegisters,
    /// The [`Vcpu`], for the handler.
    vcpu: *mut (),
    /// RSP of [`Owner::run`]'s caller, with its callee-saved registers on top.
    caller_rsp: u64,
    /// The physical address that the entry instruction takes: under SVM, that of the VMCB.
    entry_argument: u64,
}

/// Bytes of the registers, which is the offset of `vcpu` in the frame.
pub(crate) const REGISTERS_END: usize = size_of::<GuestRegisters>();
/// The distance of `caller_rsp` from `vcpu`.
pub(crate) const CALLER_RSP: usize = offset_of!(Frame, caller_rsp) - offset_of!(Frame, vcpu);
/// The distance of `entry_argument` from `vcpu`.
pub(crate) const ENTRY_ARGUMENT: usize = offset_of!(Frame, entry_argument) - offset_of!(Frame, vcpu);
const _: () = assert!(offset_of!(Frame, registers) == 0 && offset_of!(Frame, vcpu) == REGISTERS_END);

/// A stack, a frame and an account. One processor runs on it, by the [`Owner`]; any vCPU may read the account.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Stack<A> {
    below: UnsafeCell<[u8; STACK_BYTES]>,
    /// It is aligned so that the stack pointer is a multiple of 16 at the call.
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
    /// The distance of the account from the frame.
    const ACCOUNT: usize = {
        assert!(offset_of!(Stack<A>, frame).is_multiple_of(16));
        offset_of!(Stack<A>, account) - offset_of!(Stack<A>, frame)
    };

    /// A stack whose guest starts with all registers zero.
    pub fn new(recording: &Recording) -> Self {
        let (registers, vcpu) = (GuestRegisters::default(), core::ptr::null_mut());
        Self {
            below: UnsafeCell::new([0; STACK_BYTES]),
            frame: UnsafeCell::new(Frame { registers, vcpu, caller_rsp: 0, entry_argument: 0 }),
            account: A::new(recording),
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

/// A virtualization extension that can enter its guest.
pub trait Enter: Backend + Sized + fmt::Debug {
    /// The reason that an entry instruction failed without an exit.
    type Failure: fmt::Display;
    /// The operand that the entry instruction takes besides the vCPU's own state.
    fn entry_argument(&self) -> u64;
    /// Runs the guest whose registers are in the frame until an exit leaves it. `path` is the one for the account and the guest's
    /// mode.
    ///
    /// # Safety
    /// `frame` is that of a whole [`Stack<A>`] which this processor owns, and has this vCPU in it; `path` is [`ExitPath::path`]
    /// of `A`. Nobody else uses the vCPU until the call returns.
    ///
    /// # Errors
    /// The entry instruction failed and the guest did not run. A failure past that point is an exit.
    unsafe fn enter(vcpu: *mut Vcpu<Self>, frame: *mut Frame, path: u64) -> Result<(), Self::Failure>;
    /// The number of the extension's stub for the guest as it is now. One stub takes IA-32e mode for granted, as the quick forms
    /// do; another does not.
    fn stub(&self) -> usize;
    /// Abandons the stack of exits: returns `LEFT` from the function that entered the guest. So the way back to the guest needs
    /// no test of a result.
    ///
    /// # Safety
    /// The guest was entered with `frame`, and no function between there and here has anything to drop.
    unsafe fn leave(frame: *mut GuestRegisters) -> !;
}

/// An account with its own exit path under one extension. The implementations name the path in this crate, so that it is compiled
/// for speed, whatever the image that uses it is compiled for.
pub trait ExitPath<B>: Account {
    /// The address of a stub, by its number ([`Enter::stub`]).
    fn path(stub: usize) -> u64;
}

macro_rules! exit_paths {
    ($backend:ty, $stubs:tt: $($account:ty),*) => {$(
        impl $crate::stack::ExitPath<$backend> for $account {
            fn path(stub: usize) -> u64 {
                const STUBS: &[*const ()] = &$crate::stack::stubs!($account, $stubs);
                STUBS[stub] as u64
            }
        }
    )*};
}
pub(crate) use exit_paths;

macro_rules! stubs {
    ($account:ty, [$($stub:ident),*]) => {
        [$($stub::<$account> as *const ()),*]
    };
}
pub(crate) use stubs;

impl<A: Account> Owner<A> {
    /// The account of the stack's vCPU.
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
    pub fn run<B: Enter>(&mut self, vcpu: &mut Vcpu<B>) -> Result<(), B::Failure>
    where
        A: ExitPath<B>,
    {
        // The handler finds the account from the frame, so the pointer has to be one to the whole stack.
        let stack: *const Stack<A> = self.stack;
        let frame = stack.wrapping_byte_add(offset_of!(Stack<A>, frame)).cast_mut().cast::<Frame>();
        let (path, entry_argument) = (A::path(vcpu.backend.stub()), vcpu.backend.entry_argument());
        let vcpu: *mut Vcpu<B> = vcpu;
        // SAFETY: the stack stays for ever and is this owner's, which is borrowed; `vcpu` outlives the call, and only
        // `on_exit` uses it until the call returns.
        unsafe {
            (*frame).vcpu = vcpu.cast();
            (*frame).entry_argument = entry_argument;
            B::enter(vcpu, frame, path)
        }
    }
}

/// The right to run on a stack, whatever its account is.
pub trait AnyOwner<B: Enter> {
    /// The account of the stack's vCPU.
    fn book(&self) -> &'static dyn Book;
    /// Gives the guest other registers, for its next entry.
    fn set_registers(&mut self, registers: GuestRegisters);
    /// Runs the guest until an exit leaves it.
    ///
    /// # Errors
    /// The entry instruction failed and the guest did not run.
    fn run(&mut self, vcpu: &mut Vcpu<B>) -> Result<(), B::Failure>;
}

impl<A: ExitPath<B>, B: Enter> AnyOwner<B> for Owner<A> {
    fn book(&self) -> &'static dyn Book {
        self.account()
    }

    fn set_registers(&mut self, registers: GuestRegisters) {
        Owner::set_registers(self, registers);
    }

    fn run(&mut self, vcpu: &mut Vcpu<B>) -> Result<(), B::Failure> {
        Owner::run(self, vcpu)
    }
}

/// A stack, whatever its account is.
pub trait AnyStack<B: Enter>: Sync {
    /// The account of the stack's vCPU.
    fn book(&'static self) -> &'static dyn Book;
    /// Takes the stack for this processor; `None` if another has it.
    fn take(&'static self) -> Option<Box<dyn AnyOwner<B>>>;
}

impl<A: ExitPath<B> + Sync, B: Enter> AnyStack<B> for Stack<A> {
    fn book(&'static self) -> &'static dyn Book {
        self.account()
    }

    fn take(&'static self) -> Option<Box<dyn AnyOwner<B>>> {
        Stack::take(self).map(|owner| Box::new(owner) as _)
    }
}

/// The frame of an exit, as a stub hands it over with [`on_exit`]'s last argument: only a stub makes one.
///
/// So any such frame is the one with which [`Owner::run`] entered the guest, at the top of a whole [`Stack<A>`] that this
/// processor owns, and nobody else uses it until the guest goes on.
#[repr(transparent)]
pub(crate) struct ExitFrame<A, B> {
    registers: *mut GuestRegisters,
    of: PhantomData<fn() -> (A, B)>,
}

impl<A: Account, B: Enter> Exit for ExitFrame<A, B> {
    type Account = A;

    #[inline(always)]
    fn parts(&mut self) -> (&A, &mut GuestRegisters) {
        // SAFETY: `registers` is the frame of a whole `Stack<A>`, behind which the account is, by the type; the account is only
        // ever borrowed shared, and the registers through `self` alone.
        unsafe { (&*self.registers.byte_add(Stack::<A>::ACCOUNT).cast(), &mut *self.registers) }
    }

    #[inline(always)]
    fn leave(self) {
        // SAFETY: the guest was entered with this frame, by the type; the spine's steps have nothing to drop when they leave.
        unsafe { B::leave(self.registers) }
    }
}

/// The safe side of a stub: one exit. Returns to resume the guest.
///
/// # Safety
/// `vcpu` and `exit` are those that [`Owner::run`] put into the frame, and nobody else uses them now.
pub(crate) unsafe extern "sysv64" fn on_exit<A: Account, B: Enter>(
    vcpu: &mut Vcpu<B>,
    exit_tsc: u64,
    exit: ExitFrame<A, B>,
) {
    vcpu.exit(exit_tsc, exit);
}

/// [`on_exit`] while the guest is not in IA-32e mode.
///
/// # Safety
/// As for [`on_exit`].
pub(crate) unsafe extern "sysv64" fn on_exit_of_other_mode<A: Account, B: Enter>(
    vcpu: &mut Vcpu<B>,
    exit_tsc: u64,
    exit: ExitFrame<A, B>,
) {
    vcpu.exit_of_other_mode(exit_tsc, exit);
}

/// The result of an extension's entry function when the guest ran and an exit left it; anything else tells of a failure.
pub(crate) const LEFT: u64 = 0;

/// Takes the guest's registers off the frame, in the order of [`GuestRegisters`], but for RAX, which is last.
macro_rules! restore_but_rax {
    () => {
        "pop r15
        pop r14
        pop r13
        pop r12
        pop r11
        pop r10
        pop r9
        pop r8
        pop rdi
        pop rbp
        pop rbx
        pop rcx
        pop rsi
        pop rdx"
    };
}
pub(crate) use restore_but_rax;

/// The code of a stub once RAX is saved: the other registers, two of them before the time stamp, and the call of the exit's
/// handler. Its operands are `keeps`, `registers_end` and `on_exit`.
macro_rules! save_and_handle {
    () => {
        "push rdx
        push rsi
        .if {keeps}
        rdtsc
        shl rdx, 32
        lea rsi, [rdx + rax]
        .endif
        push rcx
        push rbx
        push rbp
        push rdi
        push r8
        push r9
        push r10
        push r11
        push r12
        push r13
        push r14
        push r15
        mov rdi, [rsp + {registers_end}]
        mov rdx, rsp
        call {on_exit}"
    };
}
pub(crate) use save_and_handle;

/// Saves the caller's registers on the caller's stack, and that stack's pointer in the frame that RDI points at. Its operands are
/// `registers_end` and `caller_rsp`.
macro_rules! save_caller {
    () => {
        "push rbx
        push rbp
        push r12
        push r13
        push r14
        push r15
        mov [rdi + {registers_end} + {caller_rsp}], rsp"
    };
}
pub(crate) use save_caller;

/// The inverse of `save_caller`, once RSP is the caller's again.
macro_rules! restore_caller {
    () => {
        "pop r15
        pop r14
        pop r13
        pop r12
        pop rbp
        pop rbx
        ret"
    };
}
pub(crate) use restore_caller;

/// [`Enter::leave`] for an extension that gives up nothing but the stack.
///
/// # Safety
/// As for [`Enter::leave`].
#[unsafe(naked)]
pub(crate) unsafe extern "sysv64" fn leave(frame: *mut GuestRegisters) -> ! {
    naked_asm!(
        "mov rsp, [rdi + {registers_end} + {caller_rsp}]",
        "xor eax, eax",
        restore_caller!(),
        registers_end = const REGISTERS_END,
        caller_rsp = const CALLER_RSP,
    )
}
