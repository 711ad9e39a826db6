//! Readings of the clock around an operation: RDTSC with LFENCE on either side.
#![expect(unsafe_code, reason = "reads the clock")]

use core::arch::asm;

/// The low half of the time stamp.
pub(super) fn clock() -> u32 {
    let now;
    // SAFETY: it writes RAX and RDX alone. Not `nomem`: the timed operation must stay on its side.
    unsafe { asm!("lfence", "rdtsc", "lfence", out("eax") now, out("edx") _, options(nostack)) };
    now
}

/// Times an operation. R8 to R11 and memory may be set up before it. It must not touch R8, and every other register that it
/// changes must be among the operands.
macro_rules! timed {
    ($operation:expr $(, $($operands:tt)*)?) => {
        $crate::workloads::bench::timed::timed_between!("", $operation, "" $(, $($operands)*)?)
    };
}
pub(super) use timed;

/// Times an operation between other instructions, which are not timed.
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

/// Times an operation that must raise an exception. The first instructions, before it, are not timed; the second, right behind
/// it, are; the third, after those, are not.
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
