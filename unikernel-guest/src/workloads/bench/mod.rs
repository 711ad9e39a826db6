//! The microbenchmarks: each times one operation, by RDTSC with LFENCE on either side, and keeps every sample.
//!
//! The code between the two readings of the clock is assembly, so that it is the operation and nothing else; its exits are booked
//! before the first reading. If an operation waits for a time or for another vCPU, some Rust for the waiting is in between,
//! too.

mod denied;
mod descriptor_tables;
mod exceptions;
mod instructions;
mod interrupts;
mod pages;
mod registers;
mod timed;

use alloc::vec::Vec;

use tollgate_abi::bench::{TABLE, WARM_UP};

use super::together::{send_to, take_halted, take_running};
use super::{Outcome, Run};
use crate::runtime::learn::learn_timing;
use crate::runtime::lock::Lock;
use crate::runtime::threads::Entry;

/// The operation that a row times.
#[derive(Clone, Copy)]
pub(super) enum Timed {
    /// An operation: does it once, and returns the ticks that it took, or [`FAILED`] or [`ABSENT`].
    Once(fn() -> u32),
    /// An interrupt from this vCPU to itself, by one of its APIC's registers, taken in one of several ways.
    ToSelf(fn(interrupts::By) -> u32, interrupts::By),
    /// An interprocessor interrupt to a vCPU that executes this function.
    To(Entry),
}

/// The operation did not do what it must.
const FAILED: u32 = u32::MAX;
/// The processor does not have the operation.
const ABSENT: u32 = u32::MAX - 1;

/// The number of samples, then the samples, of the window under way.
static SAMPLES: Lock<Vec<u32>> = Lock::new(Vec::new());

/// Takes the samples for the monitor; empty where there are none.
pub(super) fn take_samples() -> Vec<u32> {
    SAMPLES.with(core::mem::take)
}

/// Runs a row.
pub(super) fn sample(run: &Run) -> Outcome {
    let kept = run.iterations.saturating_sub(WARM_UP);
    let mut samples = Vec::with_capacity(1 + kept as usize);
    samples.push(0);
    let mut done = 0;
    let mut keep = |ticks| {
        done += 1;
        if done > WARM_UP {
            samples.push(ticks);
        }
    };
    match run.timed {
        Some(Timed::Once(once)) => repeat(run, keep, once)?,
        Some(Timed::ToSelf(take, by)) => repeat(run, keep, || interrupts::interrupted(|| take(by)))?,
        Some(Timed::To(target)) => send_to(target, run, |send| {
            let before = timed::clock();
            send();
            keep(timed::clock().wrapping_sub(before));
        })?,
        None => {}
    }
    samples[0] = samples.len() as u32 - 1;
    SAMPLES.with(|place| *place = samples);
    Ok(())
}

/// Does an operation for each iteration, or finds that the processor does not have it.
fn repeat(run: &Run, mut keep: impl FnMut(u32), mut once: impl FnMut() -> u32) -> Outcome {
    for _ in 0..run.iterations {
        match once() {
            FAILED => return Err("it did not end as it must".into()),
            ABSENT => break,
            ticks => keep(ticks),
        }
    }
    Ok(())
}

super::code! {
    NAMES, CODE: Timed, TABLE.len(),
    ("empty", Timed::Once(instructions::empty)),
    ("cpuid", Timed::Once(instructions::cpuid)),
    ("vmcall", Timed::Once(instructions::vmcall)),
    ("mov_from_cr8", Timed::Once(registers::mov_from_cr8)),
    ("mov_to_cr8", Timed::Once(registers::mov_to_cr8)),
    ("inl_from_kernel", Timed::Once(instructions::inl)),
    ("outl_to_kernel", Timed::Once(instructions::outl)),
    ("mov_dr", Timed::Once(registers::mov_to_dr)),
    ("tscdeadline_immed", Timed::Once(interrupts::tscdeadline_immed)),
    ("tscdeadline", Timed::Once(interrupts::tscdeadline)),
    ("self_ipi_sti_nop", Timed::ToSelf(interrupts::sti_nop, interrupts::ICR_SELF)),
    ("self_ipi_sti_hlt", Timed::ToSelf(interrupts::sti_hlt, interrupts::ICR_SELF)),
    ("self_ipi_tpr", Timed::ToSelf(interrupts::tpr, interrupts::ICR_SELF)),
    ("self_ipi_tpr_sti_nop", Timed::ToSelf(interrupts::tpr_sti_nop, interrupts::ICR_SELF)),
    ("self_ipi_tpr_sti_hlt", Timed::ToSelf(interrupts::tpr_sti_hlt, interrupts::ICR_SELF)),
    ("x2apic_self_ipi_sti_nop", Timed::ToSelf(interrupts::sti_nop, interrupts::SELF)),
    ("x2apic_self_ipi_sti_hlt", Timed::ToSelf(interrupts::sti_hlt, interrupts::SELF)),
    ("x2apic_self_ipi_tpr", Timed::ToSelf(interrupts::tpr, interrupts::SELF)),
    ("x2apic_self_ipi_tpr_sti_nop", Timed::ToSelf(interrupts::tpr_sti_nop, interrupts::SELF)),
    ("x2apic_self_ipi_tpr_sti_hlt", Timed::ToSelf(interrupts::tpr_sti_hlt, interrupts::SELF)),
    ("x2apic_self_ipi", Timed::ToSelf(interrupts::at_once, interrupts::SELF)),
    ("ipi", Timed::To(take_running)),
    ("ipi_halt", Timed::To(take_halted)),
    ("wr_kernel_gs_base", Timed::Once(instructions::wr_kernel_gs_base)),
    ("wr_tsc_adjust_msr", Timed::Once(instructions::wr_tsc_adjust)),
    ("rd_tsc_adjust_msr", Timed::Once(instructions::rd_tsc_adjust)),
    ("toggle_cr0_wp", Timed::Once(registers::toggle_cr0_wp)),
    ("toggle_cr4_pge", Timed::Once(registers::toggle_cr4_pge)),
    ("wbinvd", Timed::Once(instructions::wbinvd)),
    ("invd", Timed::Once(instructions::invd)),
    ("in", Timed::Once(instructions::inb)),
    ("out", Timed::Once(instructions::outb)),
    ("outs", Timed::Once(instructions::outs)),
    ("ins", Timed::Once(instructions::ins)),
    ("rdmsr", Timed::Once(instructions::rdmsr)),
    ("wrmsr", Timed::Once(instructions::wrmsr)),
    ("mov_to_cr0", Timed::Once(registers::mov_to_cr0)),
    ("mov_to_cr4", Timed::Once(registers::mov_to_cr4)),
    ("mov_from_cr3", Timed::Once(registers::mov_from_cr3)),
    ("mov_to_cr3", Timed::Once(registers::mov_to_cr3)),
    ("mov_from_dr", Timed::Once(registers::mov_from_dr)),
    ("lmsw_clts", Timed::Once(registers::lmsw_clts)),
    ("hlt", Timed::Once(instructions::hlt)),
    ("xsetbv", Timed::Once(instructions::xsetbv)),
    ("rdtsc", Timed::Once(instructions::rdtsc)),
    ("rdtscp", Timed::Once(instructions::rdtscp)),
    ("invlpg", Timed::Once(instructions::invlpg)),
    ("pause", Timed::Once(instructions::pause)),
    ("sgdt", Timed::Once(descriptor_tables::sgdt)),
    ("sidt", Timed::Once(descriptor_tables::sidt)),
    ("lgdt", Timed::Once(descriptor_tables::lgdt)),
    ("lidt", Timed::Once(descriptor_tables::lidt)),
    ("sldt", Timed::Once(descriptor_tables::sldt)),
    ("str", Timed::Once(descriptor_tables::str)),
    ("lldt", Timed::Once(descriptor_tables::lldt)),
    ("ltr", Timed::Once(descriptor_tables::ltr)),
    ("rdpmc", Timed::Once(denied::rdpmc)),
    ("monitor", Timed::Once(denied::monitor)),
    ("mwait", Timed::Once(denied::mwait)),
    ("rdrand", Timed::Once(denied::rdrand)),
    ("rdseed", Timed::Once(denied::rdseed)),
    ("invpcid", Timed::Once(denied::invpcid)),
    ("vmclear", Timed::Once(denied::vmclear)),
    ("vmlaunch", Timed::Once(denied::vmlaunch)),
    ("vmptrld", Timed::Once(denied::vmptrld)),
    ("vmptrst", Timed::Once(denied::vmptrst)),
    ("vmread", Timed::Once(denied::vmread)),
    ("vmresume", Timed::Once(denied::vmresume)),
    ("vmwrite", Timed::Once(denied::vmwrite)),
    ("vmxoff", Timed::Once(denied::vmxoff)),
    ("vmxon", Timed::Once(denied::vmxon)),
    ("invept", Timed::Once(denied::invept)),
    ("invvpid", Timed::Once(denied::invvpid)),
    ("vmrun", Timed::Once(denied::vmrun)),
    ("vmload", Timed::Once(denied::vmload)),
    ("vmsave", Timed::Once(denied::vmsave)),
    ("stgi", Timed::Once(denied::stgi)),
    ("clgi", Timed::Once(denied::clgi)),
    ("skinit", Timed::Once(denied::skinit)),
    ("invlpga", Timed::Once(denied::invlpga)),
    ("divide_error", Timed::Once(exceptions::divide_error)),
    ("single_step", Timed::Once(exceptions::single_step)),
    ("breakpoint", Timed::Once(exceptions::breakpoint)),
    ("invalid_opcode", Timed::Once(exceptions::invalid_opcode)),
    ("device_not_available", Timed::Once(exceptions::device_not_available)),
    ("segment_not_present", Timed::Once(exceptions::segment_not_present)),
    ("stack_segment_fault", Timed::Once(exceptions::stack_segment_fault)),
    ("general_protection", Timed::Once(exceptions::general_protection)),
    ("page_fault", Timed::Once(exceptions::page_fault)),
    ("x87_error", Timed::Once(exceptions::x87_error)),
    ("simd_error", Timed::Once(exceptions::simd_error)),
    ("ept_violation_write", Timed::Once(pages::ept_violation_write)),
    ("ept_violation_read", Timed::Once(pages::ept_violation_read)),
    ("ept_violation_fetch", Timed::Once(pages::ept_violation_fetch)),
}

/// Prepares for every row, in the minimal profile.
pub(super) fn set_up() {
    registers::set_up();
    learn_timing();
}
