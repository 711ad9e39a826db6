//! The microbenchmarks: each times one operation, by RDTSC with LFENCE on either side, and keeps every sample.
//!
//! What lies between the two readings of the clock is assembly, so that it is the operation and nothing else; it is booked
//! before the first.
#![expect(unsafe_code, reason = "executes what it times")]

use alloc::vec::Vec;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tollgate_abi::apic::{ASSERT, DELIVERY_FIXED, IA32_APIC_BASE, ICR, SELF_IPI, TO_SELF};
use tollgate_abi::bench::{TABLE, WARM_UP};
use tollgate_abi::exit_reason::ExitReason as R;
use tollgate_abi::machine::{LOOPBACK_PORT, PAGE_BYTES, POST_PORT};

use super::exceptions::{SIMD_DEFAULT, SIMD_DIVISIONS, X87_DIVISIONS};
use super::expect::{ensure, vector};
use super::instructions::WAKE_VECTOR;
use super::memory::RET;
use super::together::{send_to, take_halted, take_running};
use super::{Outcome, Run};
use crate::ops::control_registers::{read_cr0, read_cr3, read_cr4};
use crate::ops::hypercall::wake_after;
use crate::ops::msr::SYSENTER_ESP;
use crate::ops::ports::note_post;
use crate::ops::{apic, idle};
use crate::runtime::book::{book, book_times};
use crate::runtime::intercepts::{book_exception, book_if_enabled, enabled, facts, learn_timing};
use crate::runtime::lock::Lock;
use crate::runtime::recovery::{self, RESUME};
use crate::runtime::segments::{ABSENT as ABSENT_SEGMENT, TASK, gdt_pointer, release_task};
use crate::runtime::threads::Entry;
use crate::runtime::traps::{SELF_VECTOR, TIMER_VECTOR, idt_pointer, interrupts, interrupts_of};
use crate::runtime::{fresh, processor};

/// What a row times.
#[derive(Clone, Copy)]
pub(super) enum Timed {
    /// An operation: does it once, and returns the ticks that it took, or [`FAILED`] or [`ABSENT`].
    Once(fn() -> u32),
    /// An interrupt from this vCPU to itself, by one of its APIC's registers, taken in one of several ways.
    ToSelf(fn(By) -> u32, By),
    /// An interprocessor interrupt to a vCPU that executes this.
    To(Entry),
}

/// The register by which an interrupt is sent, and what is written to it.
#[derive(Clone, Copy)]
pub(super) struct By {
    register: u32,
    value: u64,
}

/// The interrupt-command register, with the shorthand for the sender.
const ICR_SELF: By = By { register: ICR, value: TO_SELF | ASSERT | DELIVERY_FIXED | SELF_VECTOR as u64 };
/// The register that an x2APIC has for it.
const SELF: By = By { register: SELF_IPI, value: SELF_VECTOR as u64 };

/// The operation did not do what it must.
const FAILED: u32 = u32::MAX;
/// The processor does not have the operation.
const ABSENT: u32 = u32::MAX - 1;

/// Their number, then the samples, of the window under way.
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
        Some(timed @ (Timed::Once(_) | Timed::ToSelf(..))) => {
            for _ in 0..run.iterations {
                let ticks = match timed {
                    Timed::Once(once) => once(),
                    Timed::ToSelf(take, by) => interrupted(|| take(by)),
                    Timed::To(_) => FAILED,
                };
                ensure!(ticks != FAILED, "it did not end as it must");
                if ticks == ABSENT {
                    return Ok(());
                }
                keep(ticks);
            }
        }
        Some(Timed::To(target)) => send_to(target, run, |send| {
            let before = clock();
            send();
            keep(clock().wrapping_sub(before));
        })?,
        None => {}
    }
    samples[0] = samples.len() as u32 - 1;
    SAMPLES.with(|place| *place = samples);
    Ok(())
}

/// The low half of the time.
fn clock() -> u32 {
    let now;
    // SAFETY: it writes RAX and RDX alone. Not `nomem`: what it times stays on its side.
    unsafe { asm!("lfence", "rdtsc", "lfence", out("eax") now, out("edx") _, options(nostack)) };
    now
}

/// Times an operation. Before it, R8 to R11 can be set up, and memory; it may not touch R8 itself, and what it does not give
/// back must be among the operands.
macro_rules! timed {
    ($operation:expr $(, $($operands:tt)*)?) => { timed_between!("", $operation, "" $(, $($operands)*)?) };
}

/// Likewise, with instructions before and after, which are not timed.
macro_rules! timed_between {
    ($before:expr, $operation:expr, $after:expr $(, $($operands:tt)*)?) => {{
        let ticks: u32;
        // SAFETY: the operation is what each row's comment, or the manual, says of it; the clock changes RAX, RDX and R8.
        unsafe {
            asm!(
                $before,
                "lfence",
                "rdtsc",
                "mov r8d, eax",
                "lfence",
                $operation,
                "lfence",
                "rdtsc",
                "sub eax, r8d",
                $after,
                out("eax") ticks, out("edx") _, out("r8") _,
                $($($operands)*)?
            );
        }
        ticks
    }};
}

/// Times an operation that must raise an exception.
macro_rules! timed_fault {
    ($operation:literal $(, $($operands:tt)*)?) => { timed_fault_between!("", $operation, "", "" $(, $($operands)*)?) };
}

/// Likewise, with instructions before it, which are not timed, right behind it, which are, and after those.
macro_rules! timed_fault_between {
    ($before:literal, $operation:literal, $behind:literal, $after:literal $(, $($operands:tt)*)?) => {{
        let ticks = timed_between!(
            concat!($before, "\n lea r9, [rip + 3f]\n mov qword ptr gs:[{resume}], r9"),
            concat!($operation, "\n 3:\n ", $behind),
            concat!("mov qword ptr gs:[{resume}], 0\n ", $after),
            resume = const RESUME,
            out("r9") _,
            $($($operands)*)?
        );
        if recovery::outcome(0).is_err() { ticks } else { FAILED }
    }};
}

super::code! {
    NAMES, CODE: Timed, TABLE.len(),
    ("empty", Timed::Once(empty)),
    ("cpuid", Timed::Once(cpuid)),
    ("vmcall", Timed::Once(vmcall)),
    ("mov_from_cr8", Timed::Once(mov_from_cr8)),
    ("mov_to_cr8", Timed::Once(mov_to_cr8)),
    ("inl_from_kernel", Timed::Once(inl)),
    ("outl_to_kernel", Timed::Once(outl)),
    ("mov_dr", Timed::Once(mov_to_dr)),
    ("tscdeadline_immed", Timed::Once(tscdeadline_immed)),
    ("tscdeadline", Timed::Once(tscdeadline)),
    ("self_ipi_sti_nop", Timed::ToSelf(sti_nop, ICR_SELF)),
    ("self_ipi_sti_hlt", Timed::ToSelf(sti_hlt, ICR_SELF)),
    ("self_ipi_tpr", Timed::ToSelf(tpr, ICR_SELF)),
    ("self_ipi_tpr_sti_nop", Timed::ToSelf(tpr_sti_nop, ICR_SELF)),
    ("self_ipi_tpr_sti_hlt", Timed::ToSelf(tpr_sti_hlt, ICR_SELF)),
    ("x2apic_self_ipi_sti_nop", Timed::ToSelf(sti_nop, SELF)),
    ("x2apic_self_ipi_sti_hlt", Timed::ToSelf(sti_hlt, SELF)),
    ("x2apic_self_ipi_tpr", Timed::ToSelf(tpr, SELF)),
    ("x2apic_self_ipi_tpr_sti_nop", Timed::ToSelf(tpr_sti_nop, SELF)),
    ("x2apic_self_ipi_tpr_sti_hlt", Timed::ToSelf(tpr_sti_hlt, SELF)),
    ("x2apic_self_ipi", Timed::ToSelf(at_once, SELF)),
    ("ipi", Timed::To(take_running)),
    ("ipi_halt", Timed::To(take_halted)),
    ("wr_kernel_gs_base", Timed::Once(wr_kernel_gs_base)),
    ("wr_tsc_adjust_msr", Timed::Once(wr_tsc_adjust)),
    ("rd_tsc_adjust_msr", Timed::Once(rd_tsc_adjust)),
    ("toggle_cr0_wp", Timed::Once(toggle_cr0_wp)),
    ("toggle_cr4_pge", Timed::Once(toggle_cr4_pge)),
    ("wbinvd", Timed::Once(wbinvd)),
    ("invd", Timed::Once(invd)),
    ("in", Timed::Once(inb)),
    ("out", Timed::Once(outb)),
    ("outs", Timed::Once(outs)),
    ("ins", Timed::Once(ins)),
    ("rdmsr", Timed::Once(rdmsr)),
    ("wrmsr", Timed::Once(wrmsr)),
    ("mov_to_cr0", Timed::Once(mov_to_cr0)),
    ("mov_to_cr4", Timed::Once(mov_to_cr4)),
    ("mov_from_cr3", Timed::Once(mov_from_cr3)),
    ("mov_to_cr3", Timed::Once(mov_to_cr3)),
    ("mov_from_dr", Timed::Once(mov_from_dr)),
    ("lmsw_clts", Timed::Once(lmsw_clts)),
    ("hlt", Timed::Once(hlt)),
    ("xsetbv", Timed::Once(xsetbv)),
    ("rdtsc", Timed::Once(rdtsc)),
    ("rdtscp", Timed::Once(rdtscp)),
    ("invlpg", Timed::Once(invlpg)),
    ("pause", Timed::Once(pause)),
    ("sgdt", Timed::Once(sgdt)),
    ("sidt", Timed::Once(sidt)),
    ("lgdt", Timed::Once(lgdt)),
    ("lidt", Timed::Once(lidt)),
    ("sldt", Timed::Once(sldt)),
    ("str", Timed::Once(str)),
    ("lldt", Timed::Once(lldt)),
    ("ltr", Timed::Once(ltr)),
    ("rdpmc", Timed::Once(rdpmc)),
    ("monitor", Timed::Once(monitor)),
    ("mwait", Timed::Once(mwait)),
    ("rdrand", Timed::Once(rdrand)),
    ("rdseed", Timed::Once(rdseed)),
    ("invpcid", Timed::Once(invpcid)),
    ("vmclear", Timed::Once(vmclear)),
    ("vmlaunch", Timed::Once(vmlaunch)),
    ("vmptrld", Timed::Once(vmptrld)),
    ("vmptrst", Timed::Once(vmptrst)),
    ("vmread", Timed::Once(vmread)),
    ("vmresume", Timed::Once(vmresume)),
    ("vmwrite", Timed::Once(vmwrite)),
    ("vmxoff", Timed::Once(vmxoff)),
    ("vmxon", Timed::Once(vmxon)),
    ("invept", Timed::Once(invept)),
    ("invvpid", Timed::Once(invvpid)),
    ("vmrun", Timed::Once(vmrun)),
    ("vmload", Timed::Once(vmload)),
    ("vmsave", Timed::Once(vmsave)),
    ("stgi", Timed::Once(stgi)),
    ("clgi", Timed::Once(clgi)),
    ("skinit", Timed::Once(skinit)),
    ("invlpga", Timed::Once(invlpga)),
    ("divide_error", Timed::Once(divide_error)),
    ("single_step", Timed::Once(single_step)),
    ("breakpoint", Timed::Once(breakpoint)),
    ("invalid_opcode", Timed::Once(invalid_opcode)),
    ("device_not_available", Timed::Once(device_not_available)),
    ("segment_not_present", Timed::Once(segment_not_present)),
    ("stack_segment_fault", Timed::Once(stack_segment_fault)),
    ("general_protection", Timed::Once(general_protection)),
    ("page_fault", Timed::Once(page_fault)),
    ("x87_error", Timed::Once(x87_error)),
    ("simd_error", Timed::Once(simd_error)),
    ("ept_violation_write", Timed::Once(ept_violation_write)),
    ("ept_violation_read", Timed::Once(ept_violation_read)),
    ("ept_violation_fetch", Timed::Once(ept_violation_fetch)),
}

fn empty() -> u32 {
    timed!("")
}

fn cpuid() -> u32 {
    book(R::CPUID);
    timed_between!("mov r10, rbx", "xor eax, eax\n cpuid", "mov rbx, r10", out("r10") _, out("ecx") _)
}

fn vmcall() -> u32 {
    book(R::VMCALL);
    if facts().is_svm() { timed!("xor eax, eax\n vmmcall") } else { timed!("xor eax, eax\n vmcall") }
}

fn mov_from_cr8() -> u32 {
    book(R::CR_ACCESS);
    timed!("mov rax, cr8")
}

// Nothing is held back.
fn mov_to_cr8() -> u32 {
    book(R::CR_ACCESS);
    timed!("mov cr8, {zero}", zero = in(reg) 0u64)
}

fn inl() -> u32 {
    book(R::IO_INSTRUCTION);
    timed!("in eax, {port}", port = const POST_PORT)
}

fn outl() -> u32 {
    book(R::IO_INSTRUCTION);
    note_post(0);
    timed!("xor eax, eax\n out {port}, eax", port = const POST_PORT)
}

// No breakpoint: what it has.
fn mov_to_dr() -> u32 {
    book_if_enabled(R::MOV_DR, 1);
    timed!("mov dr7, {quiet}", quiet = in(reg) 0x400u64)
}

/// Until its interrupt has come, which on an emulator may take a while.
fn tscdeadline_immed() -> u32 {
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

fn tscdeadline() -> u32 {
    const DEADLINE_TICKS: u64 = 5000;
    let before = (interrupts_of(TIMER_VECTOR), clock());
    apic::set_deadline(crate::ops::time_stamp::rdtsc() + DEADLINE_TICKS);
    idle::hlt_until_interrupt();
    let ticks = clock().wrapping_sub(before.1);
    if interrupts_of(TIMER_VECTOR) == before.0 + 1 { ticks } else { FAILED }
}

/// Times the sending of an interrupt to itself, with what comes before and after that. R9 has the value, R10 a class above the
/// interrupt's for CR8, RDX nothing when it is written.
macro_rules! timed_to_self {
    ($by:ident, $before:literal, $after:literal) => {
        timed!(
            concat!("xor edx, edx\n", $before, "mov eax, r9d\n wrmsr\n", $after),
            in("ecx") $by.register, in("r9") $by.value, in("r10") u64::from(SELF_VECTOR >> 4) + 1
        )
    };
}

fn sti_nop(by: By) -> u32 {
    book(R::INTERRUPT_WINDOW);
    timed_to_self!(by, "", "sti\n nop\n cli")
}

fn sti_hlt(by: By) -> u32 {
    book(R::HLT);
    timed_to_self!(by, "", "sti\n hlt\n cli")
}

fn tpr(by: By) -> u32 {
    book_times(R::CR_ACCESS, 2);
    idle::enable_interrupts();
    let ticks = timed_to_self!(by, "mov cr8, r10\n", "mov cr8, rdx\n nop");
    idle::disable_interrupts();
    ticks
}

fn tpr_sti_nop(by: By) -> u32 {
    book_times(R::CR_ACCESS, 2);
    book(R::INTERRUPT_WINDOW);
    timed_to_self!(by, "mov cr8, r10\n", "mov cr8, rdx\n sti\n nop\n cli")
}

fn tpr_sti_hlt(by: By) -> u32 {
    book_times(R::CR_ACCESS, 2);
    book(R::HLT);
    timed_to_self!(by, "mov cr8, r10\n", "mov cr8, rdx\n sti\n hlt\n cli")
}

fn at_once(by: By) -> u32 {
    idle::enable_interrupts();
    let ticks = timed_to_self!(by, "", "nop");
    idle::disable_interrupts();
    ticks
}

// Nothing swaps GS base.
fn wr_kernel_gs_base() -> u32 {
    book_if_enabled(R::WRMSR, 1);
    timed!("xor eax, eax\n xor edx, edx\n wrmsr", in("ecx") 0xc000_0102u32)
}

fn wr_tsc_adjust() -> u32 {
    book(R::WRMSR);
    timed_fault!("xor eax, eax\n xor edx, edx\n wrmsr", in("ecx") TSC_ADJUST)
}

fn rd_tsc_adjust() -> u32 {
    book(R::RDMSR);
    timed_fault!("rdmsr", in("ecx") TSC_ADJUST)
}

// Every page is writable, and the value is as it was afterwards.
fn toggle_cr0_wp() -> u32 {
    let cr0 = read_cr0();
    book_times(R::CR_ACCESS, 2);
    timed!("mov cr0, {other}\n mov cr0, {cr0}", other = in(reg) cr0 ^ 1 << 16, cr0 = in(reg) cr0)
}

// Global pages are not used.
fn toggle_cr4_pge() -> u32 {
    let cr4 = read_cr4();
    book_times(R::CR_ACCESS, 2);
    timed!("mov cr4, {other}\n mov cr4, {cr4}", other = in(reg) cr4 ^ 1 << 7, cr4 = in(reg) cr4)
}

fn wbinvd() -> u32 {
    book_if_enabled(R::WBINVD, 1);
    timed!("wbinvd")
}

// It always exits, and a monitor that would throw away dirty lines would lose its own.
fn invd() -> u32 {
    book_if_enabled(R::INVD, 1);
    timed!("invd")
}

fn inb() -> u32 {
    book(R::IO_INSTRUCTION);
    timed!("in al, {port}", port = const POST_PORT)
}

fn outb() -> u32 {
    book(R::IO_INSTRUCTION);
    note_post(0);
    timed!("xor eax, eax\n out {port}, al", port = const POST_PORT)
}

fn outs() -> u32 {
    let bytes = [0u8; STRING_BYTES];
    book(R::IO_INSTRUCTION);
    timed!(
        "mov edx, r9d\n rep outsb", in("r9") u64::from(LOOPBACK_PORT),
        inout("rcx") STRING_BYTES => _, inout("rsi") bytes.as_ptr() => _
    )
}

fn ins() -> u32 {
    let mut bytes = [0u8; STRING_BYTES];
    book(R::IO_INSTRUCTION);
    timed!(
        "mov edx, r9d\n rep insb", in("r9") u64::from(LOOPBACK_PORT),
        inout("rcx") STRING_BYTES => _, inout("rdi") bytes.as_mut_ptr() => _
    )
}

fn rdmsr() -> u32 {
    book(R::RDMSR);
    timed!("rdmsr", in("ecx") IA32_APIC_BASE)
}

// Nobody executes SYSENTER.
fn wrmsr() -> u32 {
    book(R::WRMSR);
    timed!("xor eax, eax\n xor edx, edx\n wrmsr", in("ecx") SYSENTER_ESP)
}

// MP matters only to WAIT while TS is set.
fn mov_to_cr0() -> u32 {
    book(R::CR_ACCESS);
    timed!("mov cr0, {other}", other = in(reg) read_cr0() ^ 2)
}

// DE matters only to MOVs of DR4 and DR5, of which there are none.
fn mov_to_cr4() -> u32 {
    book(R::CR_ACCESS);
    timed!("mov cr4, {other}", other = in(reg) read_cr4() ^ 8)
}

fn mov_from_cr3() -> u32 {
    book(R::CR_ACCESS);
    timed!("mov rax, cr3")
}

// The value that it has.
fn mov_to_cr3() -> u32 {
    book(R::CR_ACCESS);
    timed!("mov cr3, {cr3}", cr3 = in(reg) CR3.load(Relaxed))
}

fn mov_from_dr() -> u32 {
    book_if_enabled(R::MOV_DR, 1);
    timed!("mov rax, dr7")
}

// TS is clear again before anything could need SSE.
fn lmsw_clts() -> u32 {
    book_times(R::CR_ACCESS, 2);
    timed!("lmsw {ts:x}\n clts", ts = in(reg) read_cr0() | 8)
}

// The interrupt is armed, and held back until HLT.
fn hlt() -> u32 {
    let before = interrupts().0;
    book(R::HLT);
    let armed = wake_after(0, WAKE_VECTOR).is_ok();
    let ticks = timed!("sti\n hlt\n cli");
    if armed && interrupts().0 == before + 1 { ticks } else { FAILED }
}

// The value that it has.
fn xsetbv() -> u32 {
    let xcr0 = processor::xcr0();
    if xcr0 == 0 {
        return ABSENT;
    }
    if !facts().runs(R::XSETBV) {
        book(R::XSETBV);
    }
    timed!("xor edx, edx\n mov eax, r9d\n xsetbv", in("ecx") 0, in("r9") xcr0)
}

// The clock exits, and so do the two readings of it.
fn rdtsc() -> u32 {
    book_if_enabled(R::RDTSC, 2);
    timed!("")
}

fn rdtscp() -> u32 {
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

fn invlpg() -> u32 {
    book_if_enabled(R::INVLPG, 1);
    timed!("invlpg [{here}]", here = in(reg) &raw const HERE)
}

fn pause() -> u32 {
    book_if_enabled(R::PAUSE, 1);
    timed!("pause")
}

fn sgdt() -> u32 {
    let mut table = [0u16; 5];
    book_if_enabled(R::GDTR_IDTR_ACCESS, 1);
    timed!("sgdt [{table}]", table = in(reg) table.as_mut_ptr())
}

fn sidt() -> u32 {
    let mut table = [0u16; 5];
    book_if_enabled(R::GDTR_IDTR_ACCESS, 1);
    timed!("sidt [{table}]", table = in(reg) table.as_mut_ptr())
}

// The table that it has.
fn lgdt() -> u32 {
    let table = gdt_pointer();
    book_if_enabled(R::GDTR_IDTR_ACCESS, 1);
    timed!("lgdt [{table}]", table = in(reg) &raw const table)
}

// The table that it has.
fn lidt() -> u32 {
    let table = idt_pointer();
    book_if_enabled(R::GDTR_IDTR_ACCESS, 1);
    timed!("lidt [{table}]", table = in(reg) &raw const table)
}

fn sldt() -> u32 {
    book_if_enabled(R::LDTR_TR_ACCESS, 1);
    timed!("sldt rax")
}

fn str() -> u32 {
    book_if_enabled(R::LDTR_TR_ACCESS, 1);
    timed!("str rax")
}

// No selector in use refers to the LDT.
fn lldt() -> u32 {
    book_if_enabled(R::LDTR_TR_ACCESS, 1);
    timed!("lldt {null:x}", null = in(reg) 0u64)
}

// The task-state segment that it has, which is marked available before.
fn ltr() -> u32 {
    release_task();
    book_if_enabled(R::LDTR_TR_ACCESS, 1);
    timed!("ltr {task:x}", task = in(reg) u64::from(TASK.0))
}

fn rdpmc() -> u32 {
    book_if_enabled(R::RDPMC, 1);
    timed_fault!("rdpmc", in("ecx") 0x0bad_c0deu32)
}

/// Instructions that the guest may not use: their exit ends in #UD. Where they have no exit, they are absent.
macro_rules! denied {
    ($($name:ident $reason:ident $instruction:literal $([$($operands:tt)*])?;)*) => {$(
        fn $name() -> u32 {
            if !enabled(R::$reason) {
                return ABSENT;
            }
            book(R::$reason);
            timed_fault!($instruction $(, $($operands)*)?)
        }
    )*};
}

denied! {
    monitor MONITOR "xor eax, eax\n xor edx, edx\n monitor" [in("ecx") 0];
    mwait MWAIT "xor eax, eax\n mwait" [in("ecx") 0];
    rdrand RDRAND "rdrand rax";
    rdseed RDSEED "rdseed rax";
    invpcid INVPCID "xor eax, eax\n invpcid rax, [{at}]" [at = in(reg) OPERAND.as_ptr()];
    vmclear VMCLEAR "vmclear [{at}]" [at = in(reg) OPERAND.as_ptr()];
    vmlaunch VMLAUNCH "vmlaunch";
    vmptrld VMPTRLD "vmptrld [{at}]" [at = in(reg) OPERAND.as_ptr()];
    vmptrst VMPTRST "vmptrst [{at}]" [at = in(reg) OPERAND.as_ptr()];
    vmread VMREAD "vmread rax, rax";
    vmresume VMRESUME "vmresume";
    vmwrite VMWRITE "vmwrite rax, rax";
    vmxoff VMXOFF "vmxoff";
    vmxon VMXON "vmxon [{at}]" [at = in(reg) OPERAND.as_ptr()];
    invept INVEPT "invept rax, [{at}]" [at = in(reg) OPERAND.as_ptr()];
    invvpid INVVPID "invvpid rax, [{at}]" [at = in(reg) OPERAND.as_ptr()];
    vmrun SVM_VMRUN "xor eax, eax\n vmrun rax";
    vmload SVM_VMLOAD "xor eax, eax\n vmload rax";
    vmsave SVM_VMSAVE "xor eax, eax\n vmsave rax";
    stgi SVM_STGI "stgi";
    clgi SVM_CLGI "clgi";
    skinit SVM_SKINIT "xor eax, eax\n skinit eax";
    invlpga SVM_INVLPGA "xor eax, eax\n invlpga rax, ecx" [in("ecx") 0];
}

/// What they would read.
static OPERAND: [u64; 2] = [0; 2];

fn divide_error() -> u32 {
    book_exception(vector::DIVIDE_ERROR);
    timed_fault!("xor edx, edx\n div edx")
}

// TF takes effect behind the instruction that follows POPFQ, and the trap's handler clears it.
fn single_step() -> u32 {
    book_exception(vector::DEBUG);
    timed_fault!("pushfq\n or qword ptr [rsp], 0x100\n popfq\n nop")
}

fn breakpoint() -> u32 {
    book_exception(vector::BREAKPOINT);
    timed_fault!("int3")
}

fn invalid_opcode() -> u32 {
    book_exception(vector::INVALID_OPCODE);
    timed_fault!("ud2")
}

// TS is clear again before anything could need SSE.
fn device_not_available() -> u32 {
    book_times(R::CR_ACCESS, 2);
    book_exception(vector::NOT_AVAILABLE);
    timed_fault_between!("", "lmsw {ts:x}\n fnop", "clts", "", ts = in(reg) read_cr0() | 8)
}

fn segment_not_present() -> u32 {
    book_exception(vector::NOT_PRESENT);
    timed_fault!("mov es, {absent:x}", absent = in(reg) u64::from(ABSENT_SEGMENT.0))
}

fn stack_segment_fault() -> u32 {
    book_exception(vector::STACK_FAULT);
    timed_fault!("mov ss, {absent:x}", absent = in(reg) u64::from(ABSENT_SEGMENT.0))
}

// Bit 47 without those above it.
fn general_protection() -> u32 {
    book_exception(vector::GENERAL_PROTECTION);
    timed_fault!("mov rax, [{at}]", at = in(reg) 1u64 << 47)
}

// 1 TiB: canonical, and beyond what the page tables map.
fn page_fault() -> u32 {
    book_exception(vector::PAGE_FAULT);
    timed_fault!("mov rax, [{at}]", at = in(reg) 1u64 << 40)
}

// The division is pending before the clock is read, and FNINIT behind it leaves the state that compiled code expects.
fn x87_error() -> u32 {
    book_exception(vector::X87_ERROR);
    timed_fault_between!(
        "fninit\n fldcw word ptr [{control}]\n fld1\n fldz\n fdivp st(1), st", "fwait", "", "fninit",
        control = in(reg) &raw const X87_DIVISIONS,
        out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
        out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
    )
}

fn simd_error() -> u32 {
    if !facts().raises_simd_exceptions() {
        return ABSENT;
    }
    book_exception(vector::SIMD_ERROR);
    timed_fault_between!(
        "ldmxcsr [{unmasked}]", "divss {one}, {zero}", "", "ldmxcsr [{default}]",
        unmasked = in(reg) &raw const SIMD_DIVISIONS,
        default = in(reg) &raw const SIMD_DEFAULT,
        one = inout(xmm_reg) 1f32 => _,
        zero = in(xmm_reg) 0f32,
    )
}

fn ept_violation_write() -> u32 {
    fresh_page().map_or(FAILED, |page| timed!("mov [{page}], {page}", page = in(reg) page))
}

fn ept_violation_read() -> u32 {
    fresh_page().map_or(FAILED, |page| timed!("mov rax, [{page}]", page = in(reg) page))
}

/// The first fetch, from the last two bytes of a page that run into the RET of the next.
fn ept_violation_fetch() -> u32 {
    let Some(fetched) = fresh::take(2) else { return FAILED };
    book_times(R::EPT_VIOLATION, 2);
    let sum = 1u64;
    // SAFETY: the pages were handed out to nobody else; a page of zeroes is of `add [rax], al`, two bytes long, with RAX
    // pointing at `sum`.
    unsafe {
        ((fetched + PAGE_BYTES) as *mut u8).write_volatile(RET);
    }
    timed!("mov rax, r9\n call {code}", code = in(reg) fetched + PAGE_BYTES - 2, in("r9") &raw const sum)
}

/// CR3, which is to be read where that does not exit.
static CR3: AtomicU64 = AtomicU64::new(0);

/// Prepares for every row, in the minimal profile.
pub(super) fn set_up() {
    CR3.store(read_cr3(), Relaxed);
    learn_timing();
}

/// IA32_TSC_ADJUST.
const TSC_ADJUST: u32 = 0x3b;
/// Bytes of a string instruction.
const STRING_BYTES: usize = 32;
/// A place that INVLPG can be of.
static HERE: u8 = 0;

/// A page that nobody has touched, whose first touch is booked.
fn fresh_page() -> Option<u64> {
    book(R::EPT_VIOLATION);
    fresh::take(1)
}

/// What sends this vCPU an interrupt, once, and takes it.
fn interrupted(operation: impl FnOnce() -> u32) -> u32 {
    let before = interrupts_of(SELF_VECTOR);
    book(R::WRMSR);
    let ticks = operation();
    if interrupts_of(SELF_VECTOR) == before + 1 { ticks } else { FAILED }
}
