//! Guests that misbehave, so that the monitor has to stop them: each books its exit and does not return.
#![expect(unsafe_code, reason = "misbehaves")]

use core::arch::asm;

use tollgate_abi::exit_reason::ExitReason;
use tollgate_abi::machine::{PAGE_BYTES, UNIKERNEL};
use x86_64::VirtAddr;
use x86_64::registers::control::Cr0Flags;
use x86_64::structures::DescriptorTablePointer;

use super::compute::Random;
use super::{Outcome, Run};
use crate::books::book::book;
use crate::books::intercepts::{enabled, facts};
use crate::ops::descriptor_tables::lidt;
use crate::ops::idle::hlt_for_ever;
use crate::runtime::segments::CODE32;

pub(super) fn triple_fault(_: &Run) -> Outcome {
    shut_down()
}

/// An exception without an IDT: its delivery fails, so does that of #DF, and the processor shuts down.
pub(super) fn shut_down() -> ! {
    let nothing = DescriptorTablePointer { limit: 0, base: VirtAddr::zero() };
    // SAFETY: it ends in a triple fault, as it should.
    unsafe { lidt(&nothing) };
    book(if facts().is_svm() { ExitReason::SVM_SHUTDOWN } else { ExitReason::TRIPLE_FAULT });
    // SAFETY: it ends in a triple fault, as it should.
    unsafe { asm!("ud2", options(noreturn)) }
}

/// An address that the guest's page tables map, outside of its memory.
const OUTSIDE: u64 = 0x4000_0000;
const _: () = assert!(OUTSIDE >= UNIKERNEL.memory_bytes());

pub(super) fn outside_memory(_: &Run) -> Outcome {
    book(ExitReason::EPT_VIOLATION);
    // SAFETY: in assembly, so that it happens whatever Rust thinks of the address; the monitor stops the guest here.
    unsafe { asm!("mov {0}, [{0}]", inout(reg) OUTSIDE => _, options(readonly, nostack)) };
    Err("memory outside the guest's could be read".into())
}

pub(super) fn endless_loop(_: &Run) -> Outcome {
    // Without a timer of the extension's, an external interrupt ends the loop.
    let has_timer = enabled(ExitReason::PREEMPTION_TIMER);
    book(if has_timer { ExitReason::PREEMPTION_TIMER } else { ExitReason::EXTERNAL_INTERRUPT });
    // SAFETY: does nothing, for ever.
    unsafe { asm!("2:", "jmp 2b", options(noreturn, nomem, nostack)) }
}

pub(super) fn halt_for_ever(_: &Run) -> Outcome {
    book(ExitReason::HLT);
    hlt_for_ever()
}

/// Compatibility mode, then paging off (SDM 3A 10.8.5.4).
pub(super) fn left_long_mode(_: &Run) -> Outcome {
    book(ExitReason::CR_ACCESS);
    // SAFETY: the code lies below 4 GiB, the segment is in the GDT, and no memory is used on the way; the monitor stops
    // the guest at the write to CR0.
    unsafe {
        asm!(
            "push {code32}",
            "lea rax, [rip + 2f]",
            "push rax",
            "retfq",
            ".code32",
            "2:",
            "mov eax, cr0",
            "and eax, {no_paging}",
            "mov cr0, eax",
            "3:",
            "jmp 3b",
            ".code64",
            code32 = const CODE32.0,
            no_paging = const !Cr0Flags::PAGING.bits() as i32,
            options(noreturn),
        )
    }
}

/// A page of random bytes on the heap, executed where it lies.
pub(super) fn random_bytes(run: &Run) -> Outcome {
    let bytes = PAGE_BYTES as usize;
    // SAFETY: any size and alignment may be asked for.
    let page = unsafe { hermit_abi::alloc(bytes, bytes) };
    if page.is_null() {
        return Err("there is no page left".into());
    }
    let mut random = Random(run.iterations);
    for at in (0..bytes).step_by(8) {
        // SAFETY: within the page that was just allocated, aligned for a u64.
        unsafe { page.add(at).cast::<u64>().write(random.next()) };
    }
    // SAFETY: nothing is promised about the bytes; the monitor has to cope. A RET comes to UD2, an unexpected exception, like
    // most other ends.
    unsafe { asm!("lea rax, [rip + 2f]", "push rax", "jmp rcx", "2:", "ud2", in("rcx") page, options(noreturn)) }
}
