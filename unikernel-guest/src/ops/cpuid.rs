//! CPUID.
#![expect(unsafe_code, reason = "executes CPUID")]

use core::arch::asm;

use tollgate_abi::exit_reason::ExitReason;
use tollgate_abi::leaves::Answer;

use crate::books::book::{book, book_times};

/// RAX, RBX, RCX, RDX.
pub(crate) type Wide = [u64; 4];

/// CPUID with all 64 bits of the four registers given and returned.
#[inline]
pub(crate) fn cpuid_wide(before: Wide) -> Wide {
    let [mut rax, mut rbx, mut rcx, mut rdx] = before;
    book(ExitReason::CPUID);
    // SAFETY: CPUID only writes the four registers, and RBX, which the compiler reserves, gets its value back.
    unsafe {
        asm!(
            "xchg {rbx}, rbx",
            "cpuid",
            "xchg {rbx}, rbx",
            rbx = inout(reg) rbx,
            inout("rax") rax,
            inout("rcx") rcx,
            inout("rdx") rdx,
            options(nomem, nostack, preserves_flags),
        );
    }
    [rax, rbx, rcx, rdx]
}

/// CPUID.
#[inline]
pub(crate) fn cpuid(leaf: u32, subleaf: u32) -> Answer {
    let [eax, ebx, ecx, edx] = cpuid_wide([leaf.into(), 0, subleaf.into(), 0]).map(|register| register as u32);
    Answer { eax, ebx, ecx, edx }
}

/// CPUID leaf 0, which has no sub-leaves, `times` times; returns the last EAX.
pub(crate) fn cpuid_times(times: u64) -> u32 {
    let highest: u32;
    book_times(ExitReason::CPUID, times);
    // SAFETY: CPUID only writes the four registers, and RBX, which the compiler reserves, gets its value back.
    unsafe {
        asm!(
            "mov {rbx}, rbx",
            "2:",
            "xor eax, eax",
            "cpuid",
            "dec {times}",
            "jnz 2b",
            "mov rbx, {rbx}",
            rbx = out(reg) _,
            times = inout(reg) times => _,
            out("eax") highest,
            out("ecx") _,
            out("edx") _,
            options(nomem, nostack),
        );
    }
    highest
}
