//! The cost of an exit besides its handler: the way through the entry stub, and the account. Both are timed in root operation by
//! executing the same instructions many times. The transitions themselves are left out; only the hardware knows their cost.
#![expect(unsafe_code, reason = "executes the stub's instructions without an exit")]

use core::arch::naked_asm;

use tollgate_abi::ExitReason;

use crate::exit::GuestRegisters;
use crate::host::registers::tsc;
use crate::ledger::{Account, Ledger};
use crate::stack::{REGISTERS, restore_volatile, save_and_handle};

/// TSC ticks of [`TURNS`] turns of each loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calibration {
    /// Ticks of the loop itself.
    pub empty: u64,
    /// Ticks of the loop with the guest's registers saved and restored around a call that does nothing.
    pub frame: u64,
    /// Ticks of the loop with the same around an exit that is stamped, opened and closed.
    pub whole: u64,
    /// The part of these ticks that the account counts as the exits' cycles.
    pub inside: u64,
}

/// The number of turns of each loop.
pub const TURNS: u64 = 1000;

impl Calibration {
    /// Takes the times, with a ledger that is not used for anything else.
    pub fn measure(scratch: &Ledger) -> Self {
        let timed = |turns: unsafe extern "sysv64" fn(u64, &Ledger)| {
            // The second measurement finds its instructions in the caches, as exits in a loop do.
            let mut ticks = 0;
            for _ in 0..2 {
                let before = tsc();
                // SAFETY: the turns leave all but the ledger as it was.
                unsafe { turns(TURNS, scratch) };
                ticks = tsc().wrapping_sub(before);
            }
            ticks
        };
        let (empty, frame) = (timed(empty_turns), timed(frame_turns));
        // The ledger has the first measurement of the two, as well.
        let whole = timed(whole_turns);
        Self { empty, frame, whole, inside: scratch.cycles_of(ExitReason::CPUID) / 2 }
    }
}

/// # Safety
/// None needed: it only counts to 0.
#[unsafe(naked)]
unsafe extern "sysv64" fn empty_turns(turns: u64, scratch: &Ledger) {
    naked_asm!("2:", "dec rdi", "jnz 2b", "ret")
}

/// The distance of the ledger's address from the place that stands for a frame.
const LEDGER: usize = REGISTERS + size_of::<GuestRegisters>();

/// Bytes from there to the return address, so that the stack is aligned as in a stub.
const TAKEN: usize = LEDGER + 8;
const _: () = assert!(TAKEN % 16 == 8);

/// The work of an exit stub on each turn. The ledger's address is where a stub has the vCPU's.
macro_rules! turns {
    ($keeps:expr, $on_exit:path) => {
        naked_asm!(
            "sub rsp, {taken}",
            "mov [rsp + {vcpu}], rsi",
            "2:",
            "mov [rsp + {registers}], rax",
            save_and_handle!(),
            restore_volatile!(),
            "mov rax, [rsp + {registers}]",
            "dec rdi",
            "jnz 2b",
            "add rsp, {taken}",
            "ret",
            taken = const TAKEN,
            keeps = const $keeps,
            registers = const REGISTERS,
            vcpu = const LEDGER,
            account = const 0,
            on_exit = sym $on_exit,
        )
    };
}

/// # Safety
/// None needed: it restores what it saves.
#[unsafe(naked)]
unsafe extern "sysv64" fn frame_turns(turns: u64, scratch: &Ledger) {
    turns!(0, nothing)
}

/// # Safety
/// None needed: it restores what it saves.
#[unsafe(naked)]
unsafe extern "sysv64" fn whole_turns(turns: u64, scratch: &Ledger) {
    turns!(1, account)
}

/// Handles nothing.
#[unsafe(naked)]
unsafe extern "win64" fn nothing() {
    naked_asm!("ret")
}

/// Accounts for an exit.
extern "win64" fn account(_: u64, scratch: &Ledger, exit_tsc: u64) {
    const CPUID: usize = ExitReason::CPUID.0 as usize;
    let _counted = scratch.open(ExitReason::CPUID);
    scratch.close_row::<CPUID>(exit_tsc, tsc);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_turn_is_timed_and_accounted() {
        let scratch = Ledger::new();
        let times = Calibration::measure(&scratch);
        assert_eq!(scratch.count(ExitReason::CPUID), 2 * TURNS);
        assert!(0 < times.empty && 0 < times.frame && 0 < times.inside && times.inside < scratch.cycles());
        assert!(times.frame < times.whole, "{times:?}");
    }
}
