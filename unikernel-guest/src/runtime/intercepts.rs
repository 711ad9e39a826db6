//! Which operations exit now: the profile in force, and what this processor enables of it.
//!
//! Both come from outside the workloads' windows. The profile changes only at the guest's own request, and what each
//! profile enables is asked once, at the start, through the leaf [`STATUS`](tollgate_abi::leaves::STATUS).

use core::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

use tollgate_abi::exit_reason::{ExitReason, ROWS, TABLE};
use tollgate_abi::profile::{Intercepts, Profile};

use super::account;
use super::book::{book, book_times};
use crate::ops::hypercall;

static CURRENT: AtomicU8 = AtomicU8::new(Profile::Minimal as u8);
static ENABLED: [[AtomicBool; ROWS]; 2] = [const { [const { AtomicBool::new(false) }; ROWS] }; 2];

/// Bits of the primary processor-based controls (SDM 3C 25.6.2).
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Proc {
    Cr3Load = 15,
    Cr3Store = 16,
    Cr8Load = 19,
    Cr8Store = 20,
}

/// The vector of #UD.
pub(crate) const INVALID_OPCODE: u8 = 6;

/// The profile in force.
pub(crate) fn current() -> Profile {
    if CURRENT.load(Relaxed) == Profile::Full as u8 { Profile::Full } else { Profile::Minimal }
}

fn wanted() -> Intercepts {
    current().intercepts()
}

/// Notes that a hypercall has switched the profile.
pub(crate) fn switched_to(profile: Profile) {
    CURRENT.store(profile as u8, Relaxed);
}

/// Asks, in each profile, which reasons it enables on this processor.
pub(crate) fn learn() {
    ask(Profile::Minimal);
    hypercall::switch_profile(Profile::Full);
    ask(Profile::Full);
    hypercall::switch_profile(Profile::Minimal);
}

/// Asks which reasons are enabled now, with `profile` in force.
fn ask(profile: Profile) {
    for row in TABLE {
        ENABLED[profile as usize][row.reason.ledger_row()].store(account::is_enabled(row.reason), Relaxed);
    }
}

/// Whether `profile` enables `reason` on this processor.
pub(crate) fn enabled_in(profile: Profile, reason: ExitReason) -> bool {
    ENABLED[profile as usize][reason.ledger_row()].load(Relaxed)
}

/// Whether `reason` is enabled now.
pub(crate) fn enabled(reason: ExitReason) -> bool {
    enabled_in(current(), reason)
}

/// Whether the profile sets this processor-based control.
pub(crate) fn wants(control: Proc) -> bool {
    wanted().proc >> control as u8 & 1 != 0
}

/// Books operations that exit exactly where `reason` is enabled.
#[inline(always)]
pub(crate) fn book_if_enabled(reason: ExitReason, times: u64) {
    if enabled(reason) {
        book_times(reason, times);
    }
}

/// Books an exception that the guest itself raises (one that the monitor injects does not exit).
pub(crate) fn book_exception(vector: u8) {
    if wanted().exception_bitmap >> vector & 1 != 0 {
        book(ExitReason::EXCEPTION_OR_NMI);
    }
}

/// Books an instruction that raises #UD by itself where its own exit is not enabled.
pub(crate) fn book_or_invalid_opcode(reason: ExitReason) {
    if enabled(reason) { book(reason) } else { book_exception(INVALID_OPCODE) }
}
