//! The state that each vCPU has for itself, found through GS base, and the table of all vCPUs.
//!
//! The assembly of `traps` and `recovery` reaches fields by their offsets, so that interrupts and exceptions need no
//! register for it.
#![expect(unsafe_code, reason = "GS base")]

use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use tollgate_abi::exit_reason::ROWS;
use tollgate_abi::machine::MOST_VCPUS;
use tollgate_abi::profile::Profile;
use x86_64::VirtAddr;
use x86_64::registers::model_specific::GsBase;

use super::thread::Thread;
use super::waiting::Waiter;

/// Vectors of the local APIC, from [`FIRST_APIC_VECTOR`] on, whose interrupts are counted one by one.
pub(crate) const APIC_VECTORS: usize = 16;
/// The first of these vectors.
pub(crate) const FIRST_APIC_VECTOR: u8 = 0x30;

/// An exception that is expected, and its traces: written by `attempt!`, and by the assembly in `traps` when the exception comes.
#[repr(C)]
pub(crate) struct Recovery {
    /// The address to go on at after an exception; 0 if none is expected.
    pub(crate) resume: AtomicU64,
    pub(crate) taken: AtomicU64,
    pub(crate) vector: AtomicU64,
    pub(crate) error: AtomicU64,
    pub(crate) rip: AtomicU64,
    pub(crate) cr2: AtomicU64,
}

impl Recovery {
    /// No exception is expected.
    pub(crate) const fn none() -> Self {
        Self {
            resume: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            vector: AtomicU64::new(0),
            error: AtomicU64::new(0),
            rip: AtomicU64::new(0),
            cr2: AtomicU64::new(0),
        }
    }
}

/// The state of one vCPU.
#[repr(C)]
pub(crate) struct Cpu {
    this: AtomicPtr<Cpu>,
    /// The exception that is expected, and its traces.
    pub(crate) recovery: Recovery,
    /// Interrupts so far.
    pub(crate) interrupts: AtomicU64,
    /// The vector of the last interrupt.
    pub(crate) last_interrupt: AtomicU64,
    /// Interrupts by vector of the local APIC.
    pub(crate) by_vector: [AtomicU64; APIC_VECTORS],
    /// Exceptions that nobody expected.
    pub(crate) unexpected: AtomicU64,
    /// 1 if the processor takes EOIs by itself under the profile in force, 0 if they exit.
    pub(crate) takes_eoi: AtomicU64,
    /// Exits that this vCPU provoked, by ledger row.
    pub(crate) tally: [AtomicU64; ROWS],
    /// Its number, which is its APIC's ID.
    pub(crate) number: AtomicU32,
    /// The profile in force.
    pub(crate) profile: AtomicU8,
    /// The last error of a hermit-abi call.
    pub(crate) errno: AtomicI32,
    /// The next page of fresh memory that this vCPU has not touched.
    pub(crate) next_fresh_gpa: AtomicU64,
    /// The byte that this vCPU's POST port gives back; each vCPU writes it when it comes up.
    pub(crate) last_post: AtomicU8,
    /// Its GDT and TSS, which `runtime::segments` knows.
    pub(crate) tables: AtomicPtr<()>,
    /// The vCPU has come up.
    pub(crate) is_up: AtomicBool,
    /// The vCPU has gone for good.
    pub(crate) is_off_line: AtomicBool,
    /// The word that it waits on.
    pub(crate) waiter: Waiter,
    /// The vCPU's work.
    pub(crate) thread: Thread,
}

const _: () = assert!(offset_of!(Cpu, this) == 0);

/// All zero, so that the image does not hold it.
static CPUS: [Cpu; MOST_VCPUS] = [const {
    Cpu {
        this: AtomicPtr::new(core::ptr::null_mut()),
        recovery: Recovery::none(),
        interrupts: AtomicU64::new(0),
        last_interrupt: AtomicU64::new(0),
        by_vector: [const { AtomicU64::new(0) }; APIC_VECTORS],
        unexpected: AtomicU64::new(0),
        takes_eoi: AtomicU64::new(0),
        tally: [const { AtomicU64::new(0) }; ROWS],
        number: AtomicU32::new(0),
        profile: AtomicU8::new(Profile::Minimal as u8),
        errno: AtomicI32::new(0),
        next_fresh_gpa: AtomicU64::new(0),
        last_post: AtomicU8::new(0),
        tables: AtomicPtr::new(core::ptr::null_mut()),
        is_up: AtomicBool::new(false),
        is_off_line: AtomicBool::new(false),
        waiter: Waiter::none(),
        thread: Thread::none(),
    }
}; MOST_VCPUS];

/// The vCPU with this number.
pub(crate) fn cpu(number: usize) -> &'static Cpu {
    &CPUS[number]
}

/// The places of every vCPU that there could be, by number.
pub(crate) fn all() -> &'static [Cpu] {
    &CPUS
}

/// The vCPU that runs this.
#[inline(always)]
pub(crate) fn this() -> &'static Cpu {
    let cpu: *const Cpu;
    // SAFETY: GS base points at this vCPU's entry from `take_place` on, which comes first on each; its first field is its
    // own address, and it is a static.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) cpu, options(pure, readonly, nostack, preserves_flags));
        &*cpu
    }
}

/// The number of the vCPU that runs this.
pub(crate) fn number() -> usize {
    this().number.load(Relaxed) as usize
}

/// Makes this processor vCPU `number`, before anything asks [`this`]. It is called in the minimal profile, in which IA32_GS_BASE
/// is the guest's own.
pub(crate) fn take_place(number: usize) {
    let cpu = &CPUS[number];
    cpu.this.store(core::ptr::from_ref(cpu).cast_mut(), Relaxed);
    cpu.number.store(number as u32, Relaxed);
    GsBase::write(VirtAddr::from_ptr(cpu));
}
