//! The local APIC: registers, priorities, self-IPIs, the timer. The same code runs by exits and by hardware; only the profile
//! differs.
#![expect(unsafe_code, reason = "sends interrupts, writes CR8")]

use tollgate_abi::apic::{ID, LVT_ERROR, LVT_MASKED, TPR};
use tollgate_abi::exit_reason::ExitReason;

use super::expect::ensure;
use super::{Outcome, Run};
use crate::books::book::book;
use crate::books::cpu;
use crate::books::intercepts::{apic_delivers, apic_shadows_priority};
use crate::books::interrupts::{SELF_VECTOR, TIMER_VECTOR, interrupts_of};
use crate::ops::apic;
use crate::ops::control_registers::{read_cr8, write_cr8};
use crate::ops::idle;
use crate::ops::time_stamp::rdtsc;

pub(super) fn registers(run: &Run) -> Outcome {
    for left in (0..run.iterations).rev() {
        let id = apic::read(ID);
        ensure!(id == cpu::number() as u64, "the APIC of vCPU {} has ID {id}", cpu::number());
        // The last one is 0, as it was.
        let priority = (left % 2) << 4;
        apic::set_priority(priority);
        let read = apic::read(TPR);
        ensure!(read == priority, "TPR is {read:#x} after a write of {priority:#x}");
    }
    Ok(())
}

pub(super) fn task_priority(run: &Run) -> Outcome {
    for left in (0..run.iterations).rev() {
        let priority = left % 2;
        // SAFETY: class 1 holds back no vector in use, and the last value is 0, as before.
        unsafe { write_cr8(priority) };
        let read = read_cr8();
        ensure!(read == priority, "CR8 is {read:#x} after a write of {priority:#x}");
    }
    Ok(())
}

/// Sends this vCPU an interrupt.
fn send_self() {
    // SAFETY: the vector has a handler that counts.
    unsafe { apic::self_ipi(SELF_VECTOR) };
}

/// Interrupts that have come since `before`.
fn came(before: u64) -> u64 {
    interrupts_of(SELF_VECTOR).wrapping_sub(before)
}

pub(super) fn self_ipi(run: &Run) -> Outcome {
    idle::enable_interrupts();
    let mut outcome = Ok(());
    for _ in 0..run.iterations {
        let before = interrupts_of(SELF_VECTOR);
        send_self();
        let came = came(before);
        if came != 1 {
            outcome = outcome.and(Err(alloc::format!("{came} interrupts came of one self-IPI")));
        }
    }
    idle::disable_interrupts();
    outcome
}

pub(super) fn held_interrupt(run: &Run) -> Outcome {
    for _ in 0..run.iterations {
        let before = interrupts_of(SELF_VECTOR);
        send_self();
        ensure!(came(before) == 0, "an interrupt came while interrupts were off");
        if !apic_delivers() {
            book(ExitReason::INTERRUPT_WINDOW);
        }
        idle::let_interrupts_in();
        ensure!(came(before) == 1, "{} interrupts came when they were let in", came(before));
    }
    Ok(())
}

pub(super) fn held_priority(run: &Run) -> Outcome {
    /// The class above the vector's class.
    const ABOVE: u64 = (SELF_VECTOR >> 4) as u64 + 1;
    idle::enable_interrupts();
    let mut outcome = Ok(());
    for _ in 0..run.iterations {
        let before = interrupts_of(SELF_VECTOR);
        // SAFETY: the priority holds back the vector that this workload sends, and is lowered again.
        unsafe { write_cr8(ABOVE) };
        send_self();
        let early = came(before);
        if apic_shadows_priority() && !apic_delivers() {
            book(ExitReason::TPR_BELOW_THRESHOLD);
        }
        // SAFETY: the lowest priority holds nothing back, as before this workload.
        unsafe { write_cr8(0) };
        let all = came(before);
        if (early, all) != (0, 1) {
            outcome = outcome.and(Err(alloc::format!("{early} interrupts came below the priority, {all} above")));
        }
    }
    idle::disable_interrupts();
    outcome
}

pub(super) fn errors(run: &Run) -> Outcome {
    /// A vector that no APIC takes, and the value of ESR after a self-IPI with it: sent and received an illegal vector.
    const ILLEGAL_VECTOR: u8 = 3;
    const ILLEGAL: u64 = 0x60;
    let entry = u32::from(SELF_VECTOR);
    for _ in 0..run.iterations {
        let before = interrupts_of(SELF_VECTOR);
        apic::set_up_errors(entry);
        idle::enable_interrupts();
        // SAFETY: the vector is never delivered; its error has a handler.
        unsafe { apic::self_ipi(ILLEGAL_VECTOR) };
        idle::disable_interrupts();
        let (raised, errors) = (came(before), apic::errors());
        apic::enable(false);
        send_self();
        let masked = apic::read(LVT_ERROR);
        apic::enable(true);
        apic::set_up_timer(TIMER_VECTOR);
        idle::let_interrupts_in();
        ensure!((raised, errors) == (1, ILLEGAL), "{raised} interrupts came of an error, and ESR reads {errors:#x}");
        ensure!(masked == (entry | LVT_MASKED).into(), "a disabled APIC's LVT error entry reads {masked:#x}");
        ensure!(came(before) == 1, "a disabled APIC took a self-IPI");
    }
    Ok(())
}

/// Ticks until the deadline: enough for the vCPU to halt first even where one tick is one instruction and several vCPUs share a
/// processor.
const DEADLINE_TICKS: u64 = 5000;

pub(super) fn timer(run: &Run) -> Outcome {
    for _ in 0..run.iterations {
        let before = interrupts_of(TIMER_VECTOR);
        let deadline = rdtsc() + DEADLINE_TICKS;
        apic::set_deadline(deadline);
        idle::hlt_until_interrupt();
        let (came, now) = (interrupts_of(TIMER_VECTOR) - before, rdtsc());
        ensure!(came == 1, "HLT was left after {came} timer interrupts, not 1");
        ensure!(now >= deadline, "the timer fired at {now}, before its deadline {deadline}");
    }
    Ok(())
}
