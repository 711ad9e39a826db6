//! The stack on which one vCPU's exits are handled, whatever the virtualization extension: the guest's registers at its top,
//! the account behind them, and the way from an extension's entry stub to the spine.
//!
//! While the guest runs, the stack pointer that an exit loads points at a [`Frame`]. The stub stores the guest's volatile registers
//! in the frame, takes the time stamp, and calls `Vcpu::exit` on the stack below. Nothing of the monitor's is saved or restored:
//! between two exits it has no registers to keep. x87, SSE and AVX state stays in place, because the monitor's image contains no
//! instruction that touches it.
//!
//! [`on_exit`] has the Windows x64 calling convention, which keeps eight registers: the guest's RBX, RBP, RSI, RDI and R12 to R15
//! stay in the processor as long as an exit is handled quickly. An exit that isn't is handed to a [`Rest`], which saves them,
//! too. For that, `on_exit` may not have them in use for itself: it jumps there. A test that decodes the image checks it.
//!
//! The vCPU's account lies right behind its frame. The exit path finds it there at a constant distance, other vCPUs through
//! [`Stack::account`].
#![expect(unsafe_code, reason = "hands the stub's pointers to the spine")]

use alloc::boxed::Box;
use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::mem::{MaybeUninit, offset_of};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::exit::{Backend, ExitNumber, GuestRegisters, VolatileRegisters};
use crate::ledger::{Account, Book};
use crate::recording::Recording;
use crate::vcpu::{Exit, Left, Vcpu};

/// Bytes of the stack on which exits are handled.
const STACK_BYTES: usize = 32 * 1024;

/// The contents of the stack's top. While the guest runs, the monitor's stack pointer points at it.
#[derive(Debug)]
#[repr(C)]
pub struct Frame {
    /// Bytes above the return address that a called function may use, by the Windows x64 calling convention.
    home: [u64; HOME_WORDS],
    registers: GuestRegisters,
    /// The [`Vcpu`], for the handler.
    vcpu: *mut (),
    /// RSP of [`Owner::run`]'s caller, with its callee-saved registers on top.
    caller_rsp: u64,
    /// The physical address that the entry instruction takes: under SVM, that of the VMCB.
    entry_argument: u64,
}

/// Quadwords of a called function's home area.
const HOME_WORDS: usize = 4;

/// The distance of the registers from the frame.
pub(crate) const REGISTERS: usize = offset_of!(Frame, registers);
/// The distance of `vcpu` from the frame.
pub(crate) const VCPU: usize = offset_of!(Frame, vcpu);
/// The distance of `caller_rsp` from the frame.
pub(crate) const CALLER_RSP: usize = offset_of!(Frame, caller_rsp);
/// The distance of `entry_argument` from the frame.
pub(crate) const ENTRY_ARGUMENT: usize = offset_of!(Frame, entry_argument);

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
    pub(crate) const ACCOUNT: usize = {
        assert!(offset_of!(Stack<A>, frame).is_multiple_of(16));
        offset_of!(Stack<A>, account) - offset_of!(Stack<A>, frame)
    };

    /// A stack whose guest starts with all registers zero.
    pub fn new(recording: &Recording) -> Self {
        let (registers, vcpu) = (GuestRegisters::default(), core::ptr::null_mut());
        Self {
            below: UnsafeCell::new([0; STACK_BYTES]),
            frame: UnsafeCell::new(Frame { home: [0; HOME_WORDS], registers, vcpu, caller_rsp: 0, entry_argument: 0 }),
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
    /// The number of the extension's stub for the guest as it is now. One stub uses the quick forms, another does not.
    fn stub(&self) -> usize;
    /// Abandons the stack of exits: returns `LEFT` from the function that entered the guest. So the way back to the guest needs
    /// no test of a result.
    ///
    /// # Safety
    /// The guest was entered with `frame`, and no function between there and here has anything to drop.
    unsafe fn leave(frame: *mut Frame) -> !;
    /// The way on for an exit that is not handled quickly.
    fn rest<A: Account>() -> Rest<A, Self>;
    /// [`Enter::rest`] for an exit that is counted for `REASON`.
    fn rest_of<A: Account, const REASON: u32>() -> RestOf<A, Self>;
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

/// An exit as a stub hands it over with [`on_exit`]'s first argument: only a stub makes one. It is the address of the account.
///
/// So the frame before any such account is the one with which [`Owner::run`] entered the guest, at the top of a whole
/// [`Stack<A>`] that this processor owns, and nobody else uses it until the guest goes on.
#[repr(transparent)]
pub struct ExitFrame<A, B> {
    account: *const A,
    of: PhantomData<fn() -> (A, B)>,
}

/// A function that saves the registers which a stub leaves in the processor, calls [`on_rest`], and restores them.
pub type Rest<A, B> = unsafe extern "win64" fn(ExitFrame<A, B>, &mut Vcpu<B>, u64, Left);

/// [`Rest`] for an exit that is counted, of a reason that the function knows.
pub type RestOf<A, B> = unsafe extern "win64" fn(ExitFrame<A, B>, &mut Vcpu<B>, u64);

impl<A: Account, B> ExitFrame<A, B> {
    #[inline(always)]
    fn frame(&self) -> *mut Frame {
        self.account.wrapping_byte_sub(Stack::<A>::ACCOUNT).cast_mut().cast()
    }

    #[inline(always)]
    fn all_parts(&mut self) -> (&A, &mut GuestRegisters) {
        // SAFETY: this is the account of a whole `Stack<A>`, with the frame before it, by the type; the account is only ever
        // borrowed shared, and the registers through `self` alone.
        unsafe { (&*self.account, &mut (*self.frame()).registers) }
    }
}

impl<A: Account, B: Enter> Exit<B> for ExitFrame<A, B> {
    type Account = A;

    #[inline(always)]
    fn quick_parts(&mut self) -> (&A, &mut VolatileRegisters) {
        let (account, registers) = self.all_parts();
        (account, registers.volatile())
    }

    #[inline(always)]
    fn parts(&mut self) -> (&A, &mut GuestRegisters) {
        self.all_parts()
    }

    #[inline(always)]
    fn resume_with_rbx(self, rbx: u64) {
        let unused = MaybeUninit::uninit();
        // SAFETY: RBX is the guest's here, since `on_exit`, which this is a part of, has no use for it.
        unsafe { return_rbx(unused, unused, unused, rbx) }
    }

    #[inline(always)]
    fn go_on(self, vcpu: &mut Vcpu<B>, exit_tsc: u64, number: ExitNumber) {
        // SAFETY: frame and vCPU are those that the stub handed over; the registers that `on_exit` has to keep are the guest's,
        // since it has no use for them.
        unsafe { B::rest::<A>()(self, vcpu, exit_tsc, Left::unopened(number)) }
    }

    #[inline(always)]
    fn go_on_opened<const REASON: u32>(self, vcpu: &mut Vcpu<B>, exit_tsc: u64) {
        // SAFETY: as for `go_on`.
        unsafe { B::rest_of::<A, REASON>()(self, vcpu, exit_tsc) }
    }

    #[inline(always)]
    fn leave(self) {
        // SAFETY: the guest was entered with this frame, by the type; the spine's steps have nothing to drop when they leave.
        unsafe { B::leave(self.frame()) }
    }
}

/// Returns with this value in RBX. It comes in the one register of arguments that nothing else needs.
///
/// # Safety
/// The caller has no use for RBX of its own, and returns to an entry stub.
#[unsafe(naked)]
unsafe extern "win64" fn return_rbx(_: MaybeUninit<u64>, _: MaybeUninit<u64>, _: MaybeUninit<u64>, rbx: u64) {
    naked_asm!("mov rbx, r9", "ret")
}

/// The safe side of a stub: one exit. Returns to resume the guest.
///
/// # Safety
/// `exit` is the account behind the frame that [`Owner::run`] filled, `vcpu` the vCPU in it, and nobody else uses these now.
pub(crate) unsafe extern "win64" fn on_exit<A: Account, B: Enter>(
    exit: ExitFrame<A, B>,
    vcpu: &mut Vcpu<B>,
    exit_tsc: u64,
) {
    vcpu.exit(exit_tsc, exit);
}

/// [`on_exit`] where the quick forms can't be used.
///
/// # Safety
/// As for [`on_exit`].
pub(crate) unsafe extern "win64" fn on_exit_without_quick_forms<A: Account, B: Enter>(
    exit: ExitFrame<A, B>,
    vcpu: &mut Vcpu<B>,
    exit_tsc: u64,
) {
    vcpu.exit_without_quick_forms(exit_tsc, exit);
}

/// The exit from where [`on_exit`] left it. Returns to resume the guest.
///
/// # Safety
/// As for [`on_exit`]; the frame has all of the guest's registers.
pub(crate) unsafe extern "win64" fn on_rest<A: Account, B: Enter>(
    exit: ExitFrame<A, B>,
    vcpu: &mut Vcpu<B>,
    exit_tsc: u64,
    left: Left,
) {
    vcpu.exit_in_full(exit_tsc, exit, left);
}

/// The result of an extension's entry function when the guest ran and an exit left it; anything else tells of a failure.
pub(crate) const LEFT: u64 = 0;

/// Stores the volatile registers but RAX and RDX in the frame that RSP points at. Its operand is `registers`.
macro_rules! save_volatile {
    () => {
        "mov [rsp + {registers} + 8], rcx
        mov [rsp + {registers} + 24], r8
        mov [rsp + {registers} + 32], r9
        mov [rsp + {registers} + 40], r10
        mov [rsp + {registers} + 48], r11"
    };
}
pub(crate) use save_volatile;

/// Loads the volatile registers but RAX from the frame that RSP points at. Its operand is `registers`.
macro_rules! restore_volatile {
    () => {
        "mov rcx, [rsp + {registers} + 8]
        mov rdx, [rsp + {registers} + 16]
        mov r8, [rsp + {registers} + 24]
        mov r9, [rsp + {registers} + 32]
        mov r10, [rsp + {registers} + 40]
        mov r11, [rsp + {registers} + 48]"
    };
}
pub(crate) use restore_volatile;

/// Loads the other registers from the frame that the given register points at. Its operand is `registers`.
macro_rules! restore_others {
    ($frame:literal) => {
        concat!(
            "mov rbx, [",
            $frame,
            " + {registers} + 64]\n",
            "mov rbp, [",
            $frame,
            " + {registers} + 72]\n",
            "mov rsi, [",
            $frame,
            " + {registers} + 80]\n",
            "mov rdi, [",
            $frame,
            " + {registers} + 88]\n",
            "mov r12, [",
            $frame,
            " + {registers} + 96]\n",
            "mov r13, [",
            $frame,
            " + {registers} + 104]\n",
            "mov r14, [",
            $frame,
            " + {registers} + 112]\n",
            "mov r15, [",
            $frame,
            " + {registers} + 120]",
        )
    };
}
pub(crate) use restore_others;

/// Stores the other registers in the frame that RCX points at. Its operand is `registers`.
macro_rules! save_others {
    () => {
        "mov [rcx + {registers} + 64], rbx
        mov [rcx + {registers} + 72], rbp
        mov [rcx + {registers} + 80], rsi
        mov [rcx + {registers} + 88], rdi
        mov [rcx + {registers} + 96], r12
        mov [rcx + {registers} + 104], r13
        mov [rcx + {registers} + 112], r14
        mov [rcx + {registers} + 120], r15"
    };
}
pub(crate) use save_others;

// The order of the registers in the code above.
const _: () = {
    assert!(offset_of!(GuestRegisters, rcx) == 8 && offset_of!(GuestRegisters, rdx) == 16);
    assert!(offset_of!(GuestRegisters, r8) == 24 && offset_of!(GuestRegisters, r11) == 48);
    assert!(offset_of!(GuestRegisters, rbx) == 64 && offset_of!(GuestRegisters, rbp) == 72);
    assert!(offset_of!(GuestRegisters, rsi) == 80 && offset_of!(GuestRegisters, rdi) == 88);
    assert!(offset_of!(GuestRegisters, r12) == 96 && offset_of!(GuestRegisters, r15) == 120);
};

/// The code of a stub once RAX is saved, as far as it is: the time stamp, the other volatile registers, and the call of the exit's
/// handler. Its operands are `keeps`, `registers`, `vcpu`, `account` and `on_exit`.
macro_rules! save_and_handle {
    () => {
        concat!(
            "mov [rsp + {registers} + 16], rdx
            .if {keeps}
            rdtsc
            shl rdx, 32
            .endif\n",
            $crate::stack::save_volatile!(),
            "\n.if {keeps}
            lea r8, [rdx + rax]
            .endif
            mov rdx, [rsp + {vcpu}]
            lea rcx, [rsp + {account}]
            call {on_exit}"
        )
    };
}
pub(crate) use save_and_handle;

/// Calls [`on_rest`] with the arguments that are in registers; RCX is the frame here and behind this code. Its operands are
/// `account` and `on_rest`.
macro_rules! call_rest {
    () => {
        "push rcx
        sub rsp, 32
        add rcx, {account}
        call {on_rest}
        add rsp, 32
        pop rcx"
    };
}
pub(crate) use call_rest;

/// The body of a [`RestOf`]: hands the reason to the [`Rest`].
macro_rules! rest_of {
    ($reason:ident, $rest:path) => {
        naked_asm!(
            "mov r9, {left}",
            "jmp {rest}",
            left = const $reason as u64 | Left::OPENED,
            rest = sym $rest,
        )
    };
}
pub(crate) use rest_of;

/// Saves the caller's registers on the caller's stack, and that stack's pointer in the frame that RDI points at. Its operand is
/// `caller_rsp`.
macro_rules! save_caller {
    () => {
        "push rbx
        push rbp
        push r12
        push r13
        push r14
        push r15
        mov [rdi + {caller_rsp}], rsp"
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
pub(crate) unsafe extern "sysv64" fn leave(frame: *mut Frame) -> ! {
    naked_asm!(
        "mov rsp, [rdi + {caller_rsp}]",
        "xor eax, eax",
        restore_caller!(),
        caller_rsp = const CALLER_RSP,
    )
}
