//! VMCALL, or VMMCALL under SVM: the guest's requests to the monitor.
#![expect(unsafe_code, reason = "executes VMCALL and VMMCALL")]

use core::arch::asm;

use tollgate_abi::exit_reason::ExitReason;
use tollgate_abi::hypercall::{Book, Hypercall, PROFILE_ONLY};
use tollgate_abi::profile::Profile;
use tollgate_abi::workload::Workload;

use super::idle::hlt_for_ever;
use crate::books::book::{Tally, book, book_times, tally};
use crate::books::intercepts::{facts, switched_to};

/// One VMCALL; a negative errno in RAX becomes `Err`.
fn vmcall(call: Hypercall, rdi: u64, rsi: u64) -> Result<u64, i32> {
    let result: u64;
    book(ExitReason::VMCALL);
    macro_rules! call {
        ($instruction:literal) => {
            // SAFETY: the monitor reads the memory that a call names, changes RAX alone, and resumes behind the instruction. Not
            // `nomem`: the memory that it reads must have been written.
            unsafe {
                asm!($instruction, inlateout("rax") call as u64 => result, in("rdi") rdi, in("rsi") rsi, options(nostack, preserves_flags));
            }
        };
    }
    if facts().is_svm() {
        call!("vmmcall");
    } else {
        call!("vmcall");
    }
    match i64::try_from(result) {
        Ok(_) => Ok(result),
        Err(_) => Err((result as i64).wrapping_neg() as i32),
    }
}

/// The call that does nothing, `times` times; returns the results combined by OR.
pub(crate) fn nothing_times(times: u64) -> u64 {
    const { assert!(Hypercall::Nothing as u64 == 0) };
    let results: u64;
    book_times(ExitReason::VMCALL, times);
    macro_rules! calls {
        ($instruction:literal) => {
            // SAFETY: the call changes RAX alone.
            unsafe {
                asm!(
                    "xor {results:e}, {results:e}",
                    "2:",
                    "xor eax, eax",
                    $instruction,
                    "or {results}, rax",
                    "dec {times}",
                    "jnz 2b",
                    times = inout(reg) times => _,
                    results = out(reg) results,
                    out("rax") _,
                    options(nomem, nostack),
                );
            }
        };
    }
    if facts().is_svm() {
        calls!("vmmcall");
    } else {
        calls!("vmcall");
    }
    results
}

/// Writes to the log; returns the number of bytes.
pub(crate) fn console(text: &[u8]) -> Result<u64, i32> {
    vmcall(Hypercall::Console, text.as_ptr() as u64, text.len() as u64)
}

/// Starts a workload's window and switches to its profile.
pub(crate) fn begin(workload: &Workload, iterations: u64) -> Result<(), i32> {
    vmcall(Hypercall::Begin, workload.number() as u64, iterations)?;
    switched_to(workload.profile);
    Ok(())
}

/// Ends the window and returns to the minimal profile. Hands over the window's book, and a microbenchmark's samples.
pub(crate) fn end(window: &Book, samples: &[u32]) -> Result<(), i32> {
    let samples = if samples.is_empty() { 0 } else { samples.as_ptr() as u64 };
    vmcall(Hypercall::End, core::ptr::from_ref(window) as u64, samples)?;
    switched_to(Profile::Minimal);
    Ok(())
}

/// Switches the profile without a window.
pub(crate) fn switch_profile(profile: Profile) {
    let refusal = vmcall(Hypercall::Begin, PROFILE_ONLY, profile as u64);
    assert!(refusal.is_ok(), "the monitor does not switch the profile: {refusal:?}");
    switched_to(profile);
}

/// Arms one interrupt.
pub(crate) fn wake_after(ticks: u64, vector: u8) -> Result<(), i32> {
    vmcall(Hypercall::WakeAfter, ticks, vector.into()).map(|_| ())
}

/// Ends the guest. The book gets the whole tally, this call included.
pub(crate) fn exit(status: i32, mut book_of_guest: Book) -> ! {
    let mut whole: Tally = tally();
    whole[ExitReason::VMCALL.ledger_row()] += 1;
    book_of_guest.tally = whole;
    let _ = vmcall(Hypercall::Exit, status as u64, core::ptr::from_ref(&book_of_guest) as u64);
    hlt_for_ever()
}
