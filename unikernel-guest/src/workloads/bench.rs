//! The microbenchmarks: each times one operation, by RDTSC with LFENCE on either side, and keeps every sample.
//!
//! What lies between the two readings of the clock is assembly, so that it is the operation and nothing else; it is booked
//! before the first.
#![expect(unsafe_code, reason = "executes what it times")]

use alloc::vec::Vec;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tollgate_abi::apic::{IA32_APIC_BASE, SELF_IPI};
use tollgate_abi::bench::{TABLE, WARM_UP};
use tollgate_abi::exit_reason::ExitReason as R;
use tollgate_abi::machine::{LOOPBACK_PORT, POST_PORT};

use super::expect::{ensure, vector};
use super::together::{send_to, take_halted, take_running};
use super::{Outcome, Run};
use crate::ops::control_registers::{read_cr0, read_cr3, read_cr4};
use crate::ops::msr::SYSENTER_ESP;
use crate::ops::ports::note_post;
use crate::ops::{apic, idle};
use crate::runtime::book::{book, book_times};
use crate::runtime::intercepts::{book_exception, book_if_enabled, enabled, facts, learn_timing};
use crate::runtime::lock::Lock;
use crate::runtime::recovery::{self, RESUME};
use crate::runtime::threads::Entry;
use crate::runtime::traps::{SELF_VECTOR, TIMER_VECTOR, idt_pointer, interrupts_of};
use crate::runtime::{fresh, processor};

/// What a row times.
#[derive(Clone, Copy)]
pub(super) enum Timed {
    /// An operation: does it once, and returns the ticks that it took, or [`FAILED`] or [`ABSENT`].
    Once(fn() -> u32),
    /// An interprocessor interrupt to a vCPU that executes this.
    To(Entry),
}

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
        Some(Timed::Once(once)) => {
            for _ in 0..run.iterations {
                let ticks = once();
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
    ($before:literal, $operation:expr, $after:literal $(, $($operands:tt)*)?) => {{
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
    ($operation:literal $(, $($operands:tt)*)?) => {{
        let ticks = timed_between!(
            "lea r9, [rip + 3f]\n mov qword ptr gs:[{resume}], r9",
            concat!($operation, "\n 3:"),
            "mov qword ptr gs:[{resume}], 0",
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
    ("tscdeadline", Timed::Once(tscdeadline)),
    ("x2apic_self_ipi_sti_nop", Timed::Once(self_ipi_sti_nop)),
    ("x2apic_self_ipi_tpr", Timed::Once(self_ipi_tpr)),
    ("x2apic_self_ipi", Timed::Once(self_ipi)),
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
    ("mov_from_cr3", Timed::Once(mov_from_cr3)),
    ("mov_to_cr3", Timed::Once(mov_to_cr3)),
    ("mov_from_dr", Timed::Once(mov_from_dr)),
    ("lmsw_clts", Timed::Once(lmsw_clts)),
    ("xsetbv", Timed::Once(xsetbv)),
    ("rdtsc", Timed::Once(rdtsc)),
    ("rdtscp", Timed::Once(rdtscp)),
    ("invlpg", Timed::Once(invlpg)),
    ("pause", Timed::Once(pause)),
    ("sgdt", Timed::Once(sgdt)),
    ("lidt", Timed::Once(lidt)),
    ("sldt", Timed::Once(sldt)),
    ("lldt", Timed::Once(lldt)),
    ("rdpmc", Timed::Once(rdpmc)),
    ("monitor", Timed::Once(monitor)),
    ("mwait", Timed::Once(mwait)),
    ("vmread", Timed::Once(vmread)),
    ("vmrun", Timed::Once(vmrun)),
    ("divide_error", Timed::Once(divide_error)),
    ("invalid_opcode", Timed::Once(invalid_opcode)),
    ("page_fault", Timed::Once(page_fault)),
    ("ept_violation_write", Timed::Once(ept_violation_write)),
    ("ept_violation_read", Timed::Once(ept_violation_read)),
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

fn tscdeadline() -> u32 {
    const DEADLINE_TICKS: u64 = 5000;
    let before = (interrupts_of(TIMER_VECTOR), clock());
    apic::set_deadline(crate::ops::time_stamp::rdtsc() + DEADLINE_TICKS);
    idle::hlt_until_interrupt();
    let ticks = clock().wrapping_sub(before.1);
    if interrupts_of(TIMER_VECTOR) == before.0 + 1 { ticks } else { FAILED }
}

fn self_ipi_sti_nop() -> u32 {
    book(R::INTERRUPT_WINDOW);
    interrupted(|| {
        timed!(
            "xor edx, edx\n mov eax, r9d\n wrmsr\n sti\n nop\n cli",
            in("ecx") SELF_IPI, in("r9") u64::from(SELF_VECTOR)
        )
    })
}

fn self_ipi_tpr() -> u32 {
    book_times(R::CR_ACCESS, 2);
    idle::enable_interrupts();
    let ticks = interrupted(|| {
        timed!(
            "xor edx, edx\n mov cr8, r10\n mov eax, r9d\n wrmsr\n mov cr8, rdx\n nop",
            in("ecx") SELF_IPI, in("r9") u64::from(SELF_VECTOR), in("r10") u64::from(SELF_VECTOR >> 4) + 1
        )
    });
    idle::disable_interrupts();
    ticks
}

fn self_ipi() -> u32 {
    idle::enable_interrupts();
    let ticks = interrupted(|| {
        timed!(
            "xor edx, edx\n mov eax, r9d\n wrmsr\n nop",
            in("ecx") SELF_IPI, in("r9") u64::from(SELF_VECTOR)
        )
    });
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

// No selector in use refers to the LDT.
fn lldt() -> u32 {
    book_if_enabled(R::LDTR_TR_ACCESS, 1);
    timed!("lldt {null:x}", null = in(reg) 0u64)
}

fn rdpmc() -> u32 {
    book_if_enabled(R::RDPMC, 1);
    timed_fault!("rdpmc", in("ecx") 0x0bad_c0deu32)
}

fn monitor() -> u32 {
    if !enabled(R::MONITOR) {
        return ABSENT;
    }
    book(R::MONITOR);
    timed_fault!("xor eax, eax\n xor edx, edx\n monitor", in("ecx") 0)
}

fn mwait() -> u32 {
    if !enabled(R::MWAIT) {
        return ABSENT;
    }
    book(R::MWAIT);
    timed_fault!("xor eax, eax\n mwait", in("ecx") 0)
}

fn vmread() -> u32 {
    book(R::VMREAD);
    timed_fault!("vmread rax, rax")
}

fn vmrun() -> u32 {
    book(R::SVM_VMRUN);
    timed_fault!("xor eax, eax\n vmrun rax")
}

fn divide_error() -> u32 {
    book_exception(vector::DIVIDE_ERROR);
    timed_fault!("xor edx, edx\n div edx")
}

fn invalid_opcode() -> u32 {
    book_exception(vector::INVALID_OPCODE);
    timed_fault!("ud2")
}

// 1 TiB: canonical, and beyond what the page tables map.
fn page_fault() -> u32 {
    book_exception(vector::PAGE_FAULT);
    timed_fault!("mov rax, [{at}]", at = in(reg) 1u64 << 40)
}

fn ept_violation_write() -> u32 {
    fresh_page().map_or(FAILED, |page| timed!("mov [{page}], {page}", page = in(reg) page))
}

fn ept_violation_read() -> u32 {
    fresh_page().map_or(FAILED, |page| timed!("mov rax, [{page}]", page = in(reg) page))
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
