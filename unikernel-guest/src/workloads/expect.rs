//! Assertions of workloads: conditions, and exceptions that must come.

use alloc::format;
use alloc::string::String;

use crate::books::recovery::Trap;

/// Returns from the workload with the formatted text unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(alloc::format!($($text)+));
        }
    };
}
pub(super) use ensure;

pub(super) use tollgate_abi::x86::exception as vector;

/// Checks that the attempt ended in this exception.
pub(super) fn exception(what: &str, got: Result<(), Trap>, vector: u8, error: u64) -> Result<Trap, String> {
    match got {
        Ok(()) => Err(format!("{what} raised no exception, not even {vector}")),
        Err(trap) if (trap.vector, trap.error) == (vector, error) => Ok(trap),
        Err(trap) => {
            Err(format!("{what} raised exception {} ({:#x}), not {vector} ({error:#x})", trap.vector, trap.error))
        }
    }
}

/// Checks that the attempt ended in this fault: an exception with the instruction's own address as its RIP.
pub(super) fn fault(what: &str, got: Result<(), Trap>, vector: u8, error: u64) -> Result<Trap, String> {
    let trap = exception(what, got, vector, error)?;
    if trap.rip == trap.tried { Ok(trap) } else { Err(format!("{what} at {:#x} left RIP {:#x}", trap.tried, trap.rip)) }
}
