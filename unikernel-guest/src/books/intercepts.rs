//! The operations that exit now, by the profile in force and the reasons that it enables on this processor.
//!
//! Both come from outside the workloads' windows. The profile is each vCPU's own and changes only at the guest's request. The
//! reasons that each profile enables are asked for once, at the start, through the leaf [`STATUS`](tollgate_abi::leaves::STATUS).

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tollgate_abi::exit_reason::{ExitReason, ROWS};
use tollgate_abi::profile::{Intercepts, Profile};
use tollgate_abi::virtualization::Facts;
use tollgate_abi::x86::exception;

use super::book::{book, book_times};
use super::{boot_info, cpu};

static ENABLED: [[AtomicBool; ROWS]; Profile::ALL.len()] =
    [const { [const { AtomicBool::new(false) }; ROWS] }; Profile::ALL.len()];

/// The facts of the processor, by which operations are booked here.
pub(crate) fn facts() -> Facts {
    Facts::from_word(boot_info().facts)
}

/// The profile in force.
pub(crate) fn current() -> Profile {
    Profile::from_number(cpu::this().profile.load(Relaxed).into()).unwrap_or_default()
}

fn wanted() -> Intercepts {
    current().intercepts()
}

/// Notes that a hypercall has switched the profile.
pub(crate) fn switched_to(profile: Profile) {
    let cpu = cpu::this();
    cpu.profile.store(profile as u8, Relaxed);
    cpu.takes_eoi.store(apic_delivers().into(), Relaxed);
}

/// Notes whether a profile enables a reason, as the monitor tells.
pub(crate) fn note(profile: Profile, reason: ExitReason, enabled: bool) {
    ENABLED[profile as usize][reason.ledger_row()].store(enabled, Relaxed);
}

/// True if `profile` enables `reason` on this processor.
pub(crate) fn enabled_in(profile: Profile, reason: ExitReason) -> bool {
    ENABLED[profile as usize][reason.ledger_row()].load(Relaxed)
}

/// True if `reason` is enabled now.
pub(crate) fn enabled(reason: ExitReason) -> bool {
    enabled_in(current(), reason)
}

/// True if MOV to CR0 of another value, CLTS or LMSW exits now.
pub(crate) fn cr0_write_exits(old: u64, new: u64) -> bool {
    current().cr0_write_exits(facts(), old, new)
}

/// True if MOV to CR4 exits now.
pub(crate) fn cr4_write_exits(old: u64, new: u64) -> bool {
    current().cr4_write_exits(facts(), old, new)
}

/// True if the profile sets this processor-based control.
pub(crate) fn wants(control: u8) -> bool {
    wanted().proc >> control & 1 != 0
}

/// True if the processor keeps the task priority, as CR8 and as MSR, because it has a TPR shadow.
pub(crate) fn apic_shadows_priority() -> bool {
    enabled(ExitReason::TPR_BELOW_THRESHOLD)
}

/// True if the processor itself answers reads of the local APIC's other registers.
pub(crate) fn apic_reads() -> bool {
    enabled(ExitReason::APIC_WRITE)
}

/// True if the processor delivers interrupts and takes EOIs and self-IPIs by itself.
pub(crate) fn apic_delivers() -> bool {
    enabled(ExitReason::VIRTUALIZED_EOI)
}

/// Books operations that exit exactly where `reason` is enabled.
#[inline(never)]
pub(crate) fn book_if_enabled(reason: ExitReason, times: u64) {
    let reason = facts().exits_as(reason);
    if enabled(reason) {
        book_times(reason, times);
    }
}

/// Books an exception that the guest itself raises (one that the monitor injects does not exit).
pub(crate) fn book_exception(vector: u8) {
    if wanted().exception_bitmap & !facts().exceptions_without_exit() & 1 << vector != 0 {
        book(ExitReason::EXCEPTION_OR_NMI);
    }
}

/// Books an instruction that raises #UD where its own exit is not enabled.
pub(crate) fn book_or_invalid_opcode(reason: ExitReason) {
    let reason = facts().exits_as(reason);
    if enabled(reason) { book(reason) } else { book_exception(exception::UD) }
}
