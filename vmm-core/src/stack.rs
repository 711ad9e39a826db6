//! The stack on which one vCPU's exits are handled, whatever the virtualization extension: the guest's registers at its top,
//! the account behind them, and the way from an extension's entry stub to the spine.
//!
//! While the guest runs, the stack pointer that an exit loads points at a [`Frame`]. The stub stores the guest's volatile registers
//! in the frame, takes the time stamp, and calls `Vcpu::exit` on the stack below. Nothing of the monitor's is saved or restored:
//! between two exits it has no registers to keep. x87, SSE and AVX state stays in place, because the monitor's image contains no
//! instruction that touches it.
//!
//! [`on_exit`] has the Windows x64 calling convention, which keeps eight registers: the guest's RBX, RBP, RSI, RDI and R12 to R15
//! stay in the processor as long as an exit is handled quickly. An exit that isn't is handed to a rest ([`rests`]), which saves
//! them, too. For that, `on_exit` may not have them in use for itself: it jumps there. A test that decodes the image checks it.
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
use crate::vcpu::{Exit, Opened, Vcpu};

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

/// The right to run guests of one extension on a [`Stack`].
#[derive(Debug)]
pub struct Owner<A: 'static, B> {
    stack: &'static Stack<A>,
    /// The addresses of the stubs, by their numbers ([`Enter::stub`]).
    stubs: &'static Stubs,
    of: PhantomData<fn(B)>,
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
    pub fn take<B>(&'static self) -> Option<Owner<A, B>>
    where
        A: ExitPath<B>,
    {
        (!self.taken.swap(true, Ordering::Acquire)).then(|| Owner { stack: self, stubs: A::stubs(), of: PhantomData })
    }
}

/// A virtualization extension that can enter its guest.
pub trait Enter: Backend + Sized + fmt::Debug + 'static {
    /// The reason that an entry instruction failed without an exit.
    type Failure: fmt::Display;
    /// The operand that the entry instruction takes besides the vCPU's own state.
    fn entry_argument(&self) -> u64;
    /// Runs the guest whose registers are in the frame until an exit leaves it. `path` is the one for the account and the guest's
    /// mode.
    ///
    /// # Safety
    /// `frame` is that of a whole [`Stack<A>`] which this processor owns, and has this vCPU in it; `path` is one of
    /// [`ExitPath::stubs`] of `A`. Nobody else uses the vCPU until the call returns.
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
    /// The rest of an exit that is not counted yet, which takes its number ([`on_rare`]).
    fn rare<A: Account>() -> RestOf<A, Self>;
    /// The rest of an exit that is counted for `REASON` ([`on_opened`]).
    fn opened<A: Account, const REASON: u32>() -> Rest<A, Self>;
    /// The rest of an exit for which only a register was lacking ([`on_registers`]).
    fn registers<A: Account>() -> Rest<A, Self>;
    /// The rest of an exit that is counted for `REASON` and decided ([`on_decided`]).
    fn decided<A: Account, const REASON: u32>() -> Rest<A, Self>;
}

/// An account with its own exit path under one extension.
///
/// `stubs` is not inlined, so that all that it names is compiled in this crate, whose profile is for speed. Inlined, it would be
/// compiled in the image that calls it, for size.
pub trait ExitPath<B>: Account {
    /// The addresses of the stubs, by their numbers ([`Enter::stub`]).
    fn stubs() -> &'static Stubs;
}

/// Addresses of stubs. An extension with fewer has some of them twice, so that no number is out of range.
pub type Stubs = [*const (); STUBS];
/// The most stubs that an extension has.
pub(crate) const STUBS: usize = 4;

macro_rules! exit_paths {
    ($backend:ty, $stubs:tt: $($account:ty),*) => {$(
        impl $crate::stack::ExitPath<$backend> for $account {
            #[inline(never)]
            fn stubs() -> &'static $crate::stack::Stubs {
                const {
                    let stubs = $crate::stack::stubs!($account, $stubs);
                    assert!(stubs.len() <= $crate::stack::STUBS, "a stub would have no number");
                    &[stubs[0], stubs[1 % stubs.len()], stubs[2 % stubs.len()], stubs[3 % stubs.len()]]
                }
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

impl<A: ExitPath<B>, B: Enter> Owner<A, B> {
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
    pub fn run(&mut self, vcpu: &mut Vcpu<B>) -> Result<(), B::Failure> {
        // The handler finds the account from the frame, so the pointer has to be one to the whole stack.
        let stack: *const Stack<A> = self.stack;
        let frame = stack.wrapping_byte_add(offset_of!(Stack<A>, frame)).cast_mut().cast::<Frame>();
        let (path, entry_argument) = (self.stubs[vcpu.backend.stub() % STUBS] as u64, vcpu.backend.entry_argument());
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

impl<A: ExitPath<B>, B: Enter> AnyOwner<B> for Owner<A, B> {
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

/// The rest of an exit: a function that saves the registers which a stub leaves in the processor, calls one of the functions
/// below, and restores them. It is jumped to, so that the frame lies right above its return address.
pub type Rest<A, B> = unsafe extern "win64" fn(ExitFrame<A, B>, &mut Vcpu<B>, u64);

/// [`Rest`] that takes the exit's number.
pub type RestOf<A, B> = unsafe extern "win64" fn(ExitFrame<A, B>, &mut Vcpu<B>, u64, ExitNumber);

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
        // SAFETY: exit and vCPU are those that the stub handed over; `on_exit` jumps here, and the registers that it has to keep
        // are the guest's, as the test of the image checks.
        unsafe { B::rare::<A>()(self, vcpu, exit_tsc, number) }
    }

    #[inline(always)]
    fn go_on_opened<const REASON: u32>(self, vcpu: &mut Vcpu<B>, exit_tsc: u64) {
        // SAFETY: as for `go_on`.
        unsafe { B::opened::<A, REASON>()(self, vcpu, exit_tsc) }
    }

    #[inline(always)]
    fn go_on_with_registers(self, vcpu: &mut Vcpu<B>, exit_tsc: u64) {
        // SAFETY: as for `go_on`.
        unsafe { B::registers::<A>()(self, vcpu, exit_tsc) }
    }

    #[inline(always)]
    fn go_on_decided<const REASON: u32>(self, vcpu: &mut Vcpu<B>, exit_tsc: u64) {
        // SAFETY: as for `go_on`.
        unsafe { B::decided::<A, REASON>()(self, vcpu, exit_tsc) }
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

/// A register of arguments that a rest leaves as it is.
type Unused = MaybeUninit<u64>;

/// An exit that is not counted yet, with all of the guest's registers in the frame. Returns to resume the guest.
///
/// The four arguments of [`on_exit`]'s convention stand where this convention has its third to sixth, so that a rest moves none.
///
/// # Safety
/// As for [`on_exit`]; the frame has all of the guest's registers, and `number` is the exit's.
pub(crate) unsafe extern "sysv64" fn on_rare<A: Account, B: Enter>(
    _: Unused,
    _: Unused,
    vcpu: &mut Vcpu<B>,
    exit: ExitFrame<A, B>,
    exit_tsc: u64,
    number: ExitNumber,
) {
    vcpu.exit_for_rare_reason(exit_tsc, exit, number);
}

/// [`on_rare`] for an exit that is counted.
///
/// # Safety
/// As for [`on_rare`], but that `opened` is the reason for which the exit is counted.
pub(crate) unsafe extern "sysv64" fn on_opened<A: Account, B: Enter>(
    _: Unused,
    _: Unused,
    vcpu: &mut Vcpu<B>,
    exit: ExitFrame<A, B>,
    exit_tsc: u64,
    opened: Opened,
) {
    vcpu.exit_opened(exit_tsc, exit, opened);
}

/// [`on_rare`] for an exit that is counted and decided.
///
/// # Safety
/// As for [`on_opened`].
pub(crate) unsafe extern "sysv64" fn on_decided<A: Account, B: Enter>(
    _: Unused,
    _: Unused,
    vcpu: &mut Vcpu<B>,
    exit: ExitFrame<A, B>,
    exit_tsc: u64,
    opened: Opened,
) {
    vcpu.exit_decided(exit_tsc, exit, opened);
}

/// [`on_rare`] for a MOV to CR0 that is counted, and for which only a register was lacking.
///
/// # Safety
/// As for [`on_rare`].
pub(crate) unsafe extern "sysv64" fn on_registers<A: Account, B: Enter>(
    _: Unused,
    _: Unused,
    vcpu: &mut Vcpu<B>,
    exit: ExitFrame<A, B>,
    exit_tsc: u64,
) {
    vcpu.exit_with_registers(exit_tsc, exit);
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

/// Loads the other registers from a frame. Its operand `others` is the distance of the frame's registers from RSP.
macro_rules! restore_others {
    () => {
        "mov rbx, [rsp + {others} + 64]
        mov rbp, [rsp + {others} + 72]
        mov rsi, [rsp + {others} + 80]
        mov rdi, [rsp + {others} + 88]
        mov r12, [rsp + {others} + 96]
        mov r13, [rsp + {others} + 104]
        mov r14, [rsp + {others} + 112]
        mov r15, [rsp + {others} + 120]"
    };
}
pub(crate) use restore_others;

/// Stores the other registers in a frame. Its operand `others` is the distance of the frame's registers from RSP.
macro_rules! save_others {
    () => {
        "mov [rsp + {others} + 64], rbx
        mov [rsp + {others} + 72], rbp
        mov [rsp + {others} + 80], rsi
        mov [rsp + {others} + 88], rdi
        mov [rsp + {others} + 96], r12
        mov [rsp + {others} + 104], r13
        mov [rsp + {others} + 112], r14
        mov [rsp + {others} + 120], r15"
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

/// Bytes of stack that a rest takes, so that RSP is a multiple of 16 at its call.
pub(crate) const REST_ROOM: usize = 8;
/// The distance of the frame from RSP in a rest: behind its room and its return address.
pub(crate) const REST_FRAME: usize = REST_ROOM + 8;

/// The ways on for exits that are not handled quickly, under one extension: functions named as [`Enter`] has them. `rest!` is the
/// extension's body of such a function, from the registers that a stub leaves in the processor to the call of the given function
/// and back.
macro_rules! rests {
    ($backend:ty, $rest:ident) => {
        /// Saves all of the guest's registers, and calls [`on_rare`]($crate::stack::on_rare).
        ///
        /// # Safety
        /// As for `on_rare`, but for the frame: it lacks the registers that a stub leaves in the processor. A function that a stub
        /// has called jumps here.
        #[unsafe(naked)]
        unsafe extern "win64" fn rare<A: Account>(
            _: ExitFrame<A, $backend>,
            _: &mut Vcpu<$backend>,
            _: u64,
            _: ExitNumber,
        ) {
            $rest!($crate::stack::on_rare::<A, $backend>)
        }

        $crate::stack::rests!(@counted $backend, $rest, opened opened_for on_opened);
        $crate::stack::rests!(@counted $backend, $rest, decided decided_for on_decided);

        /// [`rare`] that calls [`on_registers`]($crate::stack::on_registers).
        ///
        /// # Safety
        /// As for [`rare`].
        #[unsafe(naked)]
        unsafe extern "win64" fn registers<A: Account>(_: ExitFrame<A, $backend>, _: &mut Vcpu<$backend>, _: u64) {
            $rest!($crate::stack::on_registers::<A, $backend>)
        }
    };
    (@counted $backend:ty, $rest:ident, $rest_of:ident $rest_for:ident $handler:ident) => {
        #[doc = concat!("[`rare`] that calls [`", stringify!($handler), "`]($crate::stack::", stringify!($handler), ").")]
        ///
        /// # Safety
        /// As for [`rare`].
        #[unsafe(naked)]
        unsafe extern "win64" fn $rest_of<A: Account>(
            _: ExitFrame<A, $backend>,
            _: &mut Vcpu<$backend>,
            _: u64,
            _: Opened,
        ) {
            $rest!($crate::stack::$handler::<A, $backend>)
        }

        #[doc = concat!("[`", stringify!($rest_of), "`] for a reason that it knows.")]
        ///
        /// # Safety
        /// As for [`rare`].
        #[unsafe(naked)]
        unsafe extern "win64" fn $rest_for<A: Account, const REASON: u32>(
            _: ExitFrame<A, $backend>,
            _: &mut Vcpu<$backend>,
            _: u64,
        ) {
            naked_asm!("mov r9d, {reason}", "jmp {rest}", reason = const REASON, rest = sym $rest_of::<A>)
        }
    };
}
pub(crate) use rests;

/// The functions of [`Enter`] that name those of [`rests`].
macro_rules! name_rests {
    () => {
        #[inline(always)]
        fn rare<A: Account>() -> $crate::stack::RestOf<A, Self> {
            rare::<A>
        }

        #[inline(always)]
        fn opened<A: Account, const REASON: u32>() -> $crate::stack::Rest<A, Self> {
            opened_for::<A, REASON>
        }

        #[inline(always)]
        fn registers<A: Account>() -> $crate::stack::Rest<A, Self> {
            registers::<A>
        }

        #[inline(always)]
        fn decided<A: Account, const REASON: u32>() -> $crate::stack::Rest<A, Self> {
            decided_for::<A, REASON>
        }
    };
}
pub(crate) use name_rests;

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
