//! Instructions by themselves: CPUID, VMCALL, ports, MSRs, XSETBV, the time-stamp counter, caches, HLT, PAUSE.
#![expect(unsafe_code, reason = "executes what it times")]

use core::arch::asm;

use tollgate_abi::apic::IA32_APIC_BASE;
use tollgate_abi::exit_reason::ExitReason as R;
use tollgate_abi::machine::{LOOPBACK_PORT, POST_PORT};
use tollgate_abi::x86::msr::{IA32_KERNEL_GS_BASE, IA32_TSC_ADJUST};

use super::super::instructions::WAKE_VECTOR;
use super::timed::{timed, timed_between};
use super::{ABSENT, FAILED};
use crate::books::book::book;
use crate::books::intercepts::{book_if_enabled, enabled, facts};
use crate::books::interrupts::interrupts;
use crate::ops::hypercall::wake_after;
use crate::ops::msr::SYSENTER_ESP;
use crate::ops::ports::note_post;
use crate::runtime::processor;

/// Bytes that a string instruction moves.
const STRING_BYTES: usize = 32;
/// A place whose translation INVLPG drops.
static HERE: u8 = 0;

pub(super) fn empty() -> u32 {
    timed!("")
}

pub(super) fn cpuid() -> u32 {
    book(R::CPUID);
    timed_between!("mov r10, rbx", "xor eax, eax\n cpuid", "mov rbx, r10", out("r10") _, out("ecx") _)
}

pub(super) fn vmcall() -> u32 {
    book(R::VMCALL);
    if facts().is_svm() { timed!("xor eax, eax\n vmmcall") } else { timed!("xor eax, eax\n vmcall") }
}

pub(super) fn inl() -> u32 {
    book(R::IO_INSTRUCTION);
    timed!("in eax, {port}", port = const POST_PORT)
}

pub(super) fn outl() -> u32 {
    book(R::IO_INSTRUCTION);
    note_post(0);
    timed!("xor eax, eax\n out {port}, eax", port = const POST_PORT)
}

pub(super) fn inb() -> u32 {
    book(R::IO_INSTRUCTION);
    timed!("in al, {port}", port = const POST_PORT)
}

pub(super) fn outb() -> u32 {
    book(R::IO_INSTRUCTION);
    note_post(0);
    timed!("xor eax, eax\n out {port}, al", port = const POST_PORT)
}

pub(super) fn outs() -> u32 {
    let bytes = [0u8; STRING_BYTES];
    book(R::IO_INSTRUCTION);
    timed!(
        "mov edx, r9d\n rep outsb", in("r9") u64::from(LOOPBACK_PORT),
        inout("rcx") STRING_BYTES => _, inout("rsi") bytes.as_ptr() => _
    )
}

pub(super) fn ins() -> u32 {
    let mut bytes = [0u8; STRING_BYTES];
    book(R::IO_INSTRUCTION);
    timed!(
        "mov edx, r9d\n rep insb", in("r9") u64::from(LOOPBACK_PORT),
        inout("rcx") STRING_BYTES => _, inout("rdi") bytes.as_mut_ptr() => _
    )
}

pub(super) fn rdmsr() -> u32 {
    book(R::RDMSR);
    timed!("rdmsr", in("ecx") IA32_APIC_BASE)
}

// The value does not matter: nobody executes SYSENTER.
pub(super) fn wrmsr() -> u32 {
    book(R::WRMSR);
    timed!("xor eax, eax\n xor edx, edx\n wrmsr", in("ecx") SYSENTER_ESP)
}

// IA32_TSC_ADJUST is 0 already.
pub(super) fn wr_tsc_adjust() -> u32 {
    book(R::WRMSR);
    timed!("xor eax, eax\n xor edx, edx\n wrmsr", in("ecx") IA32_TSC_ADJUST)
}

pub(super) fn rd_tsc_adjust() -> u32 {
    book(R::RDMSR);
    timed!("rdmsr", in("ecx") IA32_TSC_ADJUST)
}

// The value does not matter: nothing swaps GS base.
pub(super) fn wr_kernel_gs_base() -> u32 {
    book_if_enabled(R::WRMSR, 1);
    timed!("xor eax, eax\n xor edx, edx\n wrmsr", in("ecx") IA32_KERNEL_GS_BASE)
}

pub(super) fn wbinvd() -> u32 {
    book_if_enabled(R::WBINVD, 1);
    timed!("wbinvd")
}

// INVD always exits, and a monitor that would throw away dirty lines would lose its own.
pub(super) fn invd() -> u32 {
    book_if_enabled(R::INVD, 1);
    timed!("invd")
}

// The interrupt is armed, and held back until HLT.
pub(super) fn hlt() -> u32 {
    let before = interrupts().0;
    book(R::HLT);
    let armed = wake_after(0, WAKE_VECTOR).is_ok();
    let ticks = timed!("sti\n hlt\n cli");
    if armed && interrupts().0 == before + 1 { ticks } else { FAILED }
}

// XCR0 has this value already.
pub(super) fn xsetbv() -> u32 {
    let xcr0 = processor::xcr0();
    if xcr0 == 0 {
        return ABSENT;
    }
    if !facts().runs(R::XSETBV) {
        book(R::XSETBV);
    }
    timed!("xor edx, edx\n mov eax, r9d\n xsetbv", in("ecx") 0, in("r9") xcr0)
}

// The clock itself exits, and so do the two readings.
pub(super) fn rdtsc() -> u32 {
    book_if_enabled(R::RDTSC, 2);
    timed!("")
}

pub(super) fn rdtscp() -> u32 {
    if !enabled(facts().exits_as(R::RDTSCP)) {
        return ABSENT;
    }
    book_if_enabled(R::RDTSCP, 2);
    let ticks: u32;
    // SAFETY: it writes RAX, RCX and RDX alone.
    unsafe {
        asm!(
            "lfence", "rdtscp", "mov r8d, eax", "lfence", "lfence", "rdtscp", "sub eax, r8d",
            out("eax") ticks, out("edx") _, out("ecx") _, out("r8") _, options(nomem, nostack)
        );
    }
    ticks
}

pub(super) fn invlpg() -> u32 {
    book_if_enabled(R::INVLPG, 1);
    timed!("invlpg [{here}]", here = in(reg) &raw const HERE)
}

pub(super) fn pause() -> u32 {
    book_if_enabled(R::PAUSE, 1);
    if facts().first_pause_runs {
        core::hint::spin_loop();
    }
    timed!("pause")
}
