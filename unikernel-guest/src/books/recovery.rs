//! Recovery from an exception that is expected: [`attempt!`] tries one instruction; the trap's assembly notes the exception and
//! goes on behind it.

use core::mem::offset_of;
use core::sync::atomic::Ordering::Relaxed;

use super::cpu::{self, Cpu, Recovery};

/// The traces of an expected exception.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trap {
    /// The vector.
    pub(crate) vector: u8,
    /// The error code; 0 if the vector has none.
    pub(crate) error: u64,
    /// The RIP that was pushed.
    pub(crate) rip: u64,
    /// CR2.
    pub(crate) cr2: u64,
    /// The address of the instruction that was tried.
    pub(crate) tried: u64,
}

/// Offset of the word in which `attempt!` leaves the address to go on at, relative to GS base.
pub(crate) const RESUME: usize = offset_of!(Cpu, recovery) + offset_of!(Recovery, resume);

/// Executes one instruction that may raise an exception: `Err(Trap)` if it did. Operands as for `asm!`. An exception
/// leaves the output operands with whatever the instruction had written.
macro_rules! attempt {
    ($instruction:expr $(, $($operands:tt)*)?) => {
        $crate::books::recovery::attempt_between!("", $instruction, "" $(, $($operands)*)?)
    };
}
pub(crate) use attempt;

/// Executes one instruction that may raise an exception, between other instructions, which raise none.
macro_rules! attempt_between {
    ($before:expr, $instruction:expr, $after:expr $(, $($operands:tt)*)?) => {{
        let tried: u64;
        core::arch::asm!(
            "lea {tried}, [rip + 3f]",
            "mov qword ptr gs:[{resume}], {tried}",
            $before,
            "lea {tried}, [rip + 2f]",
            "2:",
            $instruction,
            "3:",
            $after,
            "mov qword ptr gs:[{resume}], 0",
            tried = out(reg) tried,
            resume = const $crate::books::recovery::RESUME,
            $($($operands)*)?
        );
        $crate::books::recovery::outcome(tried)
    }};
}
pub(crate) use attempt_between;

/// The result of the attempt that just ended.
pub(crate) fn outcome(tried: u64) -> Result<(), Trap> {
    let recovery = &cpu::this().recovery;
    if recovery.taken.load(Relaxed) == 0 {
        return Ok(());
    }
    recovery.taken.store(0, Relaxed);
    Err(Trap {
        vector: recovery.vector.load(Relaxed) as u8,
        error: recovery.error.load(Relaxed),
        rip: recovery.rip.load(Relaxed),
        cr2: recovery.cr2.load(Relaxed),
        tried,
    })
}
