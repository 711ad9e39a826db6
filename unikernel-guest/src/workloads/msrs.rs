//! RDMSR and WRMSR: of registers that the guest has, and of some that it may not have.
#![expect(unsafe_code, reason = "writes MSRs")]

use tollgate_abi::apic::{APIC_BASE, BOOT_PROCESSOR, IA32_APIC_BASE};

use super::expect::{ensure, fault, vector};
use super::{Outcome, Run};
use crate::books::cpu;
use crate::books::interrupts::{TIMER_VECTOR, interrupts_of};
use crate::ops::msr::{SYSENTER_ESP, adjust_tsc, rdmsr_times, set_tsc, try_rdmsr, try_wrmsr, wrmsr_sysenter_esp_times};
use crate::ops::time_stamp::rdtsc;
use crate::ops::{apic, idle};
use tollgate_abi::x86::msr::{
    IA32_BIOS_UPDT_TRIG, IA32_PERFEVTSEL0, IA32_SMBASE, IA32_TSC_ADJUST, IA32_VMX_BASIC, IA32_VMX_EPT_VPID_CAP,
};

pub(super) fn rdmsr(run: &Run) -> Outcome {
    let (high, low) = rdmsr_times(IA32_APIC_BASE, run.iterations);
    ensure!(high >> 32 == 0 && low >> 32 == 0, "RDMSR left RDX = {high:#x}, RAX = {low:#x}");
    let expected = APIC_BASE | if cpu::number() == 0 { BOOT_PROCESSOR } else { 0 };
    ensure!(low == expected, "IA32_APIC_BASE is {low:#x}, not {expected:#x}");
    Ok(())
}

/// Upper half of the value that is written; the whole stays canonical.
const HIGH: u32 = 0x0000_1234;

pub(super) fn wrmsr(run: &Run) -> Outcome {
    wrmsr_sysenter_esp_times(HIGH, run.iterations);
    let back = rdmsr_times(SYSENTER_ESP, 1);
    ensure!(back == (HIGH.into(), 1), "IA32_SYSENTER_ESP reads (RDX, RAX) = {back:x?}");
    Ok(())
}

/// More ticks than pass between any two readings of the clock.
const AHEAD_TICKS: u64 = 1 << 40;

pub(super) fn tsc_adjust(run: &Run) -> Outcome {
    for iteration in 0..run.iterations {
        let (before, interrupts) = (rdtsc(), interrupts_of(TIMER_VECTOR));
        // The deadline is so far away that it comes only because the clock is set forward.
        apic::set_deadline(before + AHEAD_TICKS);
        // The clock is set by either MSR in turn. The TSC itself has gone on between reading and writing, so that it is set ahead
        // by less.
        let (least, most) = if iteration % 2 == 0 {
            adjust_tsc(AHEAD_TICKS);
            (AHEAD_TICKS, AHEAD_TICKS)
        } else {
            set_tsc(before + AHEAD_TICKS);
            (AHEAD_TICKS / 2, AHEAD_TICKS)
        };
        idle::hlt_until_interrupt();
        let (ahead, came) = (rdtsc().wrapping_sub(before), interrupts_of(TIMER_VECTOR) - interrupts);
        ensure!(came == 1, "the deadline that the TSC was set past came {came} times");
        let (high, low) = rdmsr_times(IA32_TSC_ADJUST, 1);
        adjust_tsc(0);
        let after = rdtsc().wrapping_sub(before);
        let adjusted = (least..=most).contains(&(high << 32 | low));
        ensure!(adjusted, "IA32_TSC_ADJUST reads (RDX, RAX) = ({high:#x}, {low:#x})");
        ensure!((1..2).contains(&(ahead / AHEAD_TICKS)), "the TSC is {ahead} ticks ahead, not {AHEAD_TICKS} and a few");
        ensure!(after < AHEAD_TICKS, "the TSC is {after} ticks on after it was set back");
    }
    Ok(())
}

/// The microcode trigger, the SMM base, a performance counter's selector, two VMX capabilities, and three numbers of no MSR: in a
/// hypervisor's range, past the bitmaps' high range, and the last of all.
const DENIED: [u32; 8] = [
    IA32_BIOS_UPDT_TRIG,
    IA32_SMBASE,
    IA32_PERFEVTSEL0,
    IA32_VMX_BASIC,
    IA32_VMX_EPT_VPID_CAP,
    0x4000_0000,
    0xc000_2fff,
    0xffff_ffff,
];

pub(super) fn wild_msrs(run: &Run) -> Outcome {
    for _ in 0..run.iterations {
        for msr in DENIED {
            let read = try_rdmsr(msr);
            // SAFETY: none of these may be reached; if one were, its value would matter to nothing that the guest does.
            let written = unsafe { try_wrmsr(msr, 0xdead_beef_0bad_f00d) };
            for (what, got) in [("RDMSR", read), ("WRMSR", written)] {
                fault(what, got, vector::GP, 0).map_err(|what| alloc::format!("MSR {msr:#x}: {what}"))?;
            }
        }
    }
    Ok(())
}
