//! Interrupts that a vCPU sends itself, and those of its timer.
#![expect(unsafe_code, reason = "executes what it times")]

use tollgate_abi::apic::{ASSERT, DELIVERY_FIXED, ICR, SELF_IPI, TO_SELF};
use tollgate_abi::exit_reason::ExitReason as R;

use super::FAILED;
use super::timed::{clock, timed};
use crate::books::book::{book, book_times};
use crate::books::interrupts::{SELF_VECTOR, TIMER_VECTOR, interrupts_of};
use crate::ops::{apic, idle};

/// The register by which an interrupt is sent, and the value that is written to it.
#[derive(Clone, Copy)]
pub(in super::super) struct By {
    register: u32,
    value: u64,
}

/// The interrupt-command register, with the shorthand for the sender.
pub(super) const ICR_SELF: By = By { register: ICR, value: TO_SELF | ASSERT | DELIVERY_FIXED | SELF_VECTOR as u64 };
/// The register that an x2APIC has for self-IPIs.
pub(super) const SELF: By = By { register: SELF_IPI, value: SELF_VECTOR as u64 };

/// Times an interrupt until it has come, which on an emulator may take a while.
pub(super) fn tscdeadline_immed() -> u32 {
    let before = interrupts_of(TIMER_VECTOR);
    idle::enable_interrupts();
    let began = clock();
    apic::set_deadline(1);
    while interrupts_of(TIMER_VECTOR) == before {
        core::hint::spin_loop();
    }
    let ticks = clock().wrapping_sub(began);
    idle::disable_interrupts();
    if interrupts_of(TIMER_VECTOR) == before + 1 { ticks } else { FAILED }
}

pub(super) fn tscdeadline() -> u32 {
    const DEADLINE_TICKS: u64 = 5000;
    let before = (interrupts_of(TIMER_VECTOR), clock());
    apic::set_deadline(crate::ops::time_stamp::rdtsc() + DEADLINE_TICKS);
    idle::hlt_until_interrupt();
    let ticks = clock().wrapping_sub(before.1);
    if interrupts_of(TIMER_VECTOR) == before.0 + 1 { ticks } else { FAILED }
}

/// Times the sending of an interrupt to this vCPU, with instructions before and after it. R9 has the value, R10 a priority for
/// CR8 that is a class above the interrupt's; RDX is 0 for the write.
macro_rules! timed_to_self {
    ($by:ident, $before:literal, $after:literal) => {
        timed!(
            concat!("xor edx, edx\n", $before, "mov eax, r9d\n wrmsr\n", $after),
            in("ecx") $by.register, in("r9") $by.value, in("r10") u64::from(SELF_VECTOR >> 4) + 1
        )
    };
}

pub(super) fn sti_nop(by: By) -> u32 {
    book(R::INTERRUPT_WINDOW);
    timed_to_self!(by, "", "sti\n nop\n cli")
}

pub(super) fn sti_hlt(by: By) -> u32 {
    book(R::HLT);
    timed_to_self!(by, "", "sti\n hlt\n cli")
}

pub(super) fn tpr(by: By) -> u32 {
    book_times(R::CR_ACCESS, 2);
    idle::enable_interrupts();
    let ticks = timed_to_self!(by, "mov cr8, r10\n", "mov cr8, rdx\n nop");
    idle::disable_interrupts();
    ticks
}

pub(super) fn tpr_sti_nop(by: By) -> u32 {
    book_times(R::CR_ACCESS, 2);
    book(R::INTERRUPT_WINDOW);
    timed_to_self!(by, "mov cr8, r10\n", "mov cr8, rdx\n sti\n nop\n cli")
}

pub(super) fn tpr_sti_hlt(by: By) -> u32 {
    book_times(R::CR_ACCESS, 2);
    book(R::HLT);
    timed_to_self!(by, "mov cr8, r10\n", "mov cr8, rdx\n sti\n hlt\n cli")
}

pub(super) fn at_once(by: By) -> u32 {
    idle::enable_interrupts();
    let ticks = timed_to_self!(by, "", "nop");
    idle::disable_interrupts();
    ticks
}

/// An operation that sends this vCPU an interrupt, once, and takes it.
pub(super) fn interrupted(operation: impl FnOnce() -> u32) -> u32 {
    let before = interrupts_of(SELF_VECTOR);
    book(R::WRMSR);
    let ticks = operation();
    if interrupts_of(SELF_VECTOR) == before + 1 { ticks } else { FAILED }
}
