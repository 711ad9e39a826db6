//! Single instructions, in loops: those that the budgets measure, and those without a family of their own.
#![expect(unsafe_code, reason = "calls hermit-abi and writes XCR0 back")]

use alloc::format;

use tollgate_abi::exit_reason::ExitReason;

use super::expect::{ensure, fault, vector};
use super::{Outcome, Run};
use crate::books::intercepts::enabled;
use crate::books::interrupts::interrupts;
use crate::ops;
use crate::ops::hypercall::{nothing_times, wake_after};
use crate::runtime::processor;

pub(super) fn cpuid(run: &Run) -> Outcome {
    let highest = ops::cpuid::cpuid_times(run.iterations);
    ensure!(
        highest == processor::highest_leaf(),
        "leaf 0 gave {highest:#x}, and at the start {:#x}",
        processor::highest_leaf()
    );
    Ok(())
}

pub(super) fn hypercall(run: &Run) -> Outcome {
    let results = nothing_times(run.iterations);
    ensure!(results == 0, "a call that does nothing returned {results:#x}");
    Ok(())
}

pub(super) fn console(run: &Run) -> Outcome {
    for line in 1..=run.iterations {
        let text = format!("line {line} of {}\n", run.iterations);
        // SAFETY: the text can be read for its length.
        let written = unsafe { hermit_abi::write(hermit_abi::STDOUT_FILENO, text.as_ptr(), text.len()) };
        ensure!(written == text.len() as isize, "write of {} bytes returned {written}", text.len());
    }
    Ok(())
}

pub(super) fn rdtsc(run: &Run) -> Outcome {
    let mut last = 0;
    for _ in 0..run.iterations {
        let now = ops::time_stamp::rdtsc();
        ensure!(now > last, "time went from {last} to {now}");
        last = now;
    }
    Ok(())
}

pub(super) fn rdtscp(run: &Run) -> Outcome {
    let exists = enabled(ExitReason::RDTSCP);
    let (mut last, mut first_aux) = (0, None);
    for _ in 0..run.iterations {
        match ops::time_stamp::rdtscp() {
            Ok((now, aux)) => {
                ensure!(now > last, "time went from {last} to {now}");
                ensure!(aux == *first_aux.get_or_insert(aux), "IA32_TSC_AUX changed to {aux:#x}");
                last = now;
            }
            Err(trap) => {
                ensure!(!exists, "RDTSCP is enabled and raised exception {}", trap.vector);
                fault("RDTSCP", Err(trap), vector::UD, 0)?;
            }
        }
    }
    Ok(())
}

/// A counter that no processor has.
const NO_COUNTER: u32 = 0x0bad_c0de;

pub(super) fn rdpmc(run: &Run) -> Outcome {
    for _ in 0..run.iterations {
        fault("RDPMC", ops::time_stamp::try_rdpmc(NO_COUNTER), vector::GP, 0)?;
    }
    Ok(())
}

pub(super) const WAKE_VECTOR: u8 = 0x20;
/// Ticks until the interrupt: enough for the vCPU to halt first even where one tick is one instruction.
const WAKE_TICKS: u64 = 1000;

pub(super) fn hlt(run: &Run) -> Outcome {
    for _ in 0..run.iterations {
        let (before, _) = interrupts();
        wake_after(WAKE_TICKS, WAKE_VECTOR).map_err(|errno| format!("no wake-up can be armed: errno {errno}"))?;
        ops::idle::hlt_until_interrupt();
        let (after, last) = interrupts();
        ensure!(after == before + 1, "HLT was left after {} interrupts, not 1", after - before);
        ensure!(last == WAKE_VECTOR.into(), "interrupt {last:#x} came, not {WAKE_VECTOR:#x}");
    }
    Ok(())
}

pub(super) fn caches(run: &Run) -> Outcome {
    let written = core::hint::black_box([0x5a5a_5a5a_u32; 16]);
    ops::caches::invd_wbinvd_times(run.iterations);
    ensure!(core::hint::black_box(written) == [0x5a5a_5a5a; 16], "INVD threw away what was written");
    Ok(())
}

pub(super) fn invlpg(run: &Run) -> Outcome {
    let here = core::hint::black_box(run.iterations);
    ops::caches::invlpg_times(core::ptr::from_ref(&here) as u64, run.iterations);
    ensure!(here == run.iterations, "memory changed under INVLPG");
    Ok(())
}

pub(super) fn pause(run: &Run) -> Outcome {
    ops::idle::pause_times(run.iterations);
    Ok(())
}

pub(super) fn xsetbv(run: &Run) -> Outcome {
    let xcr0 = processor::xcr0();
    for _ in 0..run.iterations {
        if xcr0 == 0 {
            fault("XSETBV", ops::extended_state::xsetbv_without_xsave(), vector::UD, 0)?;
        } else {
            // SAFETY: the register has this value already, since `processor` set OSXSAVE.
            unsafe { ops::extended_state::xsetbv(0, xcr0) };
        }
    }
    Ok(())
}
