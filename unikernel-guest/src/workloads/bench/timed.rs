//! Readings of the clock around an operation: RDTSC with LFENCE on either side.
#![expect(unsafe_code, reason = "reads the clock")]

use core::arch::asm;

/// The low half of the time.
pub(super) fn clock() -> u32 {
    let now;
    // SAFETY: it writes RAX and RDX alone. Not `nomem`: what it times stays on its side.
    unsafe { asm!("lfence", "rdtsc", "lfence", out("eax") now, out("edx") _, options(nostack)) };
    now
}

/// Times an operation. Before it, R8 to R11 can be set up, and memory; it may not touch R8 itself, and what it does not give
/// back must be among the operands.
macro_rules! timed {
    ($operation:expr $(, $($operands:tt)*)?) => {
        $crate::workloads::bench::timed::timed_between!("", $operation, "" $(, $($operands)*)?)
    };
}
pub(super) use timed;

/// Times an operation, with instructions before and after it, which are not timed.
macro_rules! timed_between {
    ($before:expr, $operation:expr, $after:expr $(, $($operands:tt)*)?) => {{
        let ticks: u32;
        // SAFETY: the clock changes RAX, RDX and R8. The operation leaves everything but its operands as it was, or at a value
        // that is as good: the row that passes it sees to that, and says how where the manual's word for it is not enough.
        unsafe {
            core::arch::asm!(
                $before,
                "lfence",
                "rdtsc",
                "mov r8d, eax",
                "lfence",
                $operation,
                "lfence",
                "rdtsc",
                "sub eax, r8d",
                $after,
                out("eax") ticks, out("edx") _, out("r8") _,
                $($($operands)*)?
            );
        }
        ticks
    }};
}
pub(super) use timed_between;

/// Times an operation that must raise an exception.
macro_rules! timed_fault {
    ($operation:literal $(, $($operands:tt)*)?) => {
        $crate::workloads::bench::timed::timed_fault_between!("", $operation, "", "" $(, $($operands)*)?)
    };
}
pub(super) use timed_fault;

/// Times an operation that must raise an exception, with instructions before it, which are not timed, right behind it, which are, and
/// after those.
macro_rules! timed_fault_between {
    ($before:literal, $operation:literal, $behind:literal, $after:literal $(, $($operands:tt)*)?) => {{
        let ticks = $crate::workloads::bench::timed::timed_between!(
            concat!($before, "\n lea r9, [rip + 3f]\n mov qword ptr gs:[{resume}], r9"),
            concat!($operation, "\n 3:\n ", $behind),
            concat!("mov qword ptr gs:[{resume}], 0\n ", $after),
            resume = const $crate::books::recovery::RESUME,
            out("r9") _,
            $($($operands)*)?
        );
        if $crate::books::recovery::outcome(0).is_err() { ticks } else { $crate::workloads::bench::FAILED }
    }};
}
pub(super) use timed_fault_between;
