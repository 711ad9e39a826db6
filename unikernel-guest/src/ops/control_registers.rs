//! MOV to and from CR0, CR3, CR4 and CR8; CLTS and LMSW (SDM 3C 26.1.3).
#![expect(unsafe_code, reason = "reads and writes control registers")]

use core::arch::asm;

use tollgate_abi::exit_reason::ExitReason;
use tollgate_abi::x86::controls::proc;
use tollgate_abi::x86::exception;
use x86_64::registers::control::{Cr0Flags, Cr4Flags};

use crate::books::book::{book, book_times};
use crate::books::intercepts::{apic_shadows_priority, book_exception, cr0_write_exits, cr4_write_exits, facts, wants};
use crate::books::recovery::{Trap, attempt};

macro_rules! control_register {
    ($name:literal, $read:ident if $read_exits:expr, $write:ident, $try_write:ident if $write_exits:expr, $refused_first:ident) => {
        #[doc = concat!("MOV from ", $name, ".")]
        pub(crate) fn $read() -> u64 {
            let value;
            book_if($read_exits);
            // SAFETY: reading a control register changes nothing.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) };
            value
        }

        #[doc = concat!("MOV to ", $name, ".")]
        ///
        /// # Safety
        /// The value suits the code that runs.
        pub(crate) unsafe fn $write(value: u64) {
            book_if($write_exits(value));
            // SAFETY: by the caller, the value suits the code that runs. Not `nomem`: it may change how memory is reached.
            unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags)) };
        }

        #[doc = concat!("MOV to ", $name, " of a value that should be refused.")]
        ///
        /// # Safety
        /// If it is not refused, the value suits the code that runs.
        pub(crate) unsafe fn $try_write(value: u64) -> Result<(), Trap> {
            if $refused_first() {
                book_exception(exception::GP);
            } else {
                book_if($write_exits(value));
            }
            // SAFETY: by the caller, a value that is not refused suits the code that runs; the exception is expected.
            unsafe { attempt!(concat!("mov ", $name, ", {value}"), value = in(reg) value) }
        }
    };
}

control_register!("cr0", read_cr0 if false, write_cr0, try_write_cr0 if |value| cr0_write_exits(read_cr0(), value), refused_first);
control_register!("cr3", read_cr3 if wants(proc::CR3_STORE_EXITING) && reads_exit(), write_cr3, try_write_cr3 if |_| wants(proc::CR3_LOAD_EXITING), never);
control_register!("cr4", read_cr4 if false, write_cr4, try_write_cr4 if |value| cr4_write_exits(read_cr4(), value), refused_first);
control_register!("cr8", read_cr8 if !apic_shadows_priority() && reads_exit(), write_cr8, try_write_cr8 if |_| !apic_shadows_priority(), never);

/// True if the #GP for a refused value comes before the exit.
fn refused_first() -> bool {
    facts().refuses_first()
}

fn never() -> bool {
    false
}

/// True if MOV from a control register exits where its exit is asked for.
pub(crate) fn reads_exit() -> bool {
    !facts().cr_reads_run
}

fn book_if(exits: bool) {
    if exits {
        book(ExitReason::CR_ACCESS);
    }
}

/// Toggles CR0.MP, `times` times.
pub(crate) fn toggle_mp_times(times: u64) {
    const MP: u64 = Cr0Flags::MONITOR_COPROCESSOR.bits();
    let cr0 = read_cr0();
    if cr0_write_exits(cr0, cr0 ^ MP) {
        book_times(ExitReason::CR_ACCESS, times);
    }
    // SAFETY: MP matters only to WAIT while TS is set, which it never is here.
    unsafe {
        asm!(
            "2:",
            "xor rax, {mp}",
            "mov cr0, rax",
            "dec {times}",
            "jnz 2b",
            inout("rax") cr0 => _,
            times = inout(reg) times => _,
            mp = const MP,
            options(nomem, nostack),
        );
    }
}

/// LMSW that sets TS, and CLTS. One block, because the compiler may use SSE anywhere, which TS forbids.
pub(crate) fn set_and_clear_ts() {
    const TS: u64 = Cr0Flags::TASK_SWITCHED.bits();
    let cr0 = read_cr0();
    let changes_exit = cr0_write_exits(cr0, cr0 ^ TS);
    book_if(changes_exit);
    book_if(changes_exit);
    // SAFETY: the other low bits stay as they are, and TS is clear again before anything could need SSE.
    unsafe { asm!("lmsw {0:x}", "clts", in(reg) cr0 | TS, options(nomem, nostack, preserves_flags)) };
}

/// The bits of CR0 and of CR4 that workloads change, as the entry point set them.
const FIRST: [u64; 2] = [Cr0Flags::MONITOR_COPROCESSOR.bits(), Cr4Flags::DEBUGGING_EXTENSIONS.bits()];

/// True if a workload left one of these bits changed.
pub(crate) fn are_changed() -> bool {
    let values = [read_cr0(), read_cr4()];
    values.iter().zip(FIRST).any(|(value, first)| value & first == 0)
}

/// Puts these bits back where they are changed. The writes may exit.
pub(crate) fn restore() {
    if are_changed() {
        // SAFETY: these are the values that all code ran with from the start.
        unsafe {
            write_cr0(read_cr0() | FIRST[0]);
            write_cr4(read_cr4() | FIRST[1]);
        }
    }
}
