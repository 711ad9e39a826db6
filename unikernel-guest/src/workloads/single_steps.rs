//! Single steps over instructions that exit. Behind each comes its #DB, which a debugger in the guest counts on, and which must
//! not reach the monitor. One row is one instruction; the same assembly runs it in ring 0 and in ring 3.
#![expect(unsafe_code, reason = "single-steps, and leaves ring 0")]

use core::arch::{asm, naked_asm};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tollgate_abi::apic::IA32_APIC_BASE;
use tollgate_abi::exit_reason::ExitReason as R;
use tollgate_abi::machine::{PAGE_BYTES, PAGE_TABLES_GPA, UNIKERNEL};
use tollgate_abi::workload::{STEPS, STEPS_OF_CPUID};
use tollgate_abi::x86::control::{CR0_MP, RFLAGS_FIXED};
use tollgate_abi::x86::msr::{IA32_LSTAR, IA32_STAR};
use x86_64::PrivilegeLevel;
use x86_64::registers::rflags::RFlags;

use super::expect::{ensure, exception, vector};
use super::{Outcome, Run};
use crate::books::book::book;
use crate::books::intercepts::{book_exception, book_if_enabled, facts};
use crate::books::recovery::{self, RESUME};
use crate::ops::control_registers::read_cr0;
use crate::ops::msr::SYSENTER_ESP;
use crate::runtime::segments::{CODE, DATA, USER_CODE, USER_DATA};

/// One instruction, and UD2 behind it, which raises the wrong exception if the step is lost. RSP points at 16 bytes of its own.
struct Row {
    code: &'static [u8],
    reason: R,
    /// The rings that it may be used in.
    rings: &'static [PrivilegeLevel],
    /// The value of RAX; the instruction may change RCX, RDX and RBX as well.
    rax: fn() -> u64,
    rcx: u32,
}

const RING_0: &[PrivilegeLevel] = &[PrivilegeLevel::Ring0];
const BOTH: &[PrivilegeLevel] = &[PrivilegeLevel::Ring0, PrivilegeLevel::Ring3];

const fn row(code: &'static [u8], reason: R, rings: &'static [PrivilegeLevel]) -> Row {
    Row { code, reason, rings, rax: || 0, rcx: 0 }
}

const fn with_rcx(rcx: u32, row: Row) -> Row {
    Row { rcx, ..row }
}

const fn with_rax(rax: fn() -> u64, row: Row) -> Row {
    Row { rax, ..row }
}

/// CR0 with MP toggled, which matters only to WAIT while TS is set: two of these leave it as it was.
fn other_cr0() -> u64 {
    read_cr0() ^ CR0_MP
}

const TABLE: &[Row] = &[
    // mov cr3, rax with the present value of CR3: drops the translations that did not let ring 3 in
    with_rax(|| PAGE_TABLES_GPA, row(&[0x0f, 0x22, 0xd8, 0x0f, 0x0b], R::CR_ACCESS, RING_0)),
    // mov rax, cr3
    row(&[0x0f, 0x20, 0xd8, 0x0f, 0x0b], R::CR_ACCESS, RING_0),
    // cpuid, and a nop: the monitor emulates cpuid without a look at RFLAGS.TF, so that its step may be over only behind the next
    // instruction
    row(&[0x0f, 0xa2, 0x90, 0x0f, 0x0b], R::CPUID, BOTH),
    // vmcall; vmmcall in its place under SVM
    row(&[0x0f, 0x01, 0xc1, 0x0f, 0x0b], R::VMCALL, RING_0),
    // in al, 0x80
    row(&[0xe4, 0x80, 0x0f, 0x0b], R::IO_INSTRUCTION, BOTH),
    // rdmsr; wrmsr of 0
    with_rcx(IA32_APIC_BASE, row(&[0x0f, 0x32, 0x0f, 0x0b], R::RDMSR, RING_0)),
    with_rcx(SYSENTER_ESP, row(&[0x0f, 0x30, 0x0f, 0x0b], R::WRMSR, RING_0)),
    // mov cr0, rax, twice
    with_rax(other_cr0, row(&[0x0f, 0x22, 0xc0, 0x0f, 0x0b], R::CR_ACCESS, RING_0)),
    with_rax(other_cr0, row(&[0x0f, 0x22, 0xc0, 0x0f, 0x0b], R::CR_ACCESS, RING_0)),
    // mov rax, dr7
    row(&[0x0f, 0x21, 0xf8, 0x0f, 0x0b], R::MOV_DR, RING_0),
    // rdtsc
    row(&[0x0f, 0x31, 0x0f, 0x0b], R::RDTSC, BOTH),
    // pause
    row(&[0xf3, 0x90, 0x0f, 0x0b], R::PAUSE, BOTH),
    // invd; wbinvd
    row(&[0x0f, 0x08, 0x0f, 0x0b], R::INVD, RING_0),
    row(&[0x0f, 0x09, 0x0f, 0x0b], R::WBINVD, RING_0),
    // invlpg [rsp]
    row(&[0x0f, 0x01, 0x3c, 0x24, 0x0f, 0x0b], R::INVLPG, RING_0),
    // sgdt [rsp]
    row(&[0x0f, 0x01, 0x04, 0x24, 0x0f, 0x0b], R::GDTR_IDTR_ACCESS, BOTH),
    // str eax
    row(&[0x0f, 0x00, 0xc8, 0x0f, 0x0b], R::LDTR_TR_ACCESS, BOTH),
];

const VMMCALL: &[u8] = &[0x0f, 0x01, 0xd9, 0x0f, 0x0b];
const UD2_BYTES: u64 = 2;

/// Single steps of one iteration, by the table.
const fn steps() -> u64 {
    let (mut steps, mut row) = (0, 0);
    while row < TABLE.len() {
        steps += TABLE[row].rings.len() as u64;
        row += 1;
    }
    steps
}
const _: () = assert!(steps() == STEPS + STEPS_OF_CPUID);

pub(super) fn single_steps(run: &Run) -> Outcome {
    let_ring_3_in();
    for _ in 0..run.iterations {
        for row in TABLE {
            for &ring in row.rings {
                step(row, ring)?;
            }
        }
    }
    Ok(())
}

/// Lets ring 3 use the guest's memory, and return by SYSCALL, whose target is an MSR of this vCPU.
fn let_ring_3_in() {
    const USER: u64 = 1 << 2;
    const LARGE_PAGE_BYTES: u64 = 2 << 20;
    let entry = |table: u64, at: u64| {
        // SAFETY: the monitor put the page tables here, mapped to themselves, and only the processor writes them besides.
        let entry = unsafe { &*((PAGE_TABLES_GPA + table * PAGE_BYTES + 8 * at) as *const AtomicU64) };
        let _ = entry.fetch_or(USER, Relaxed);
    };
    entry(0, 0);
    entry(1, 0);
    (0..UNIKERNEL.ram_bytes() / LARGE_PAGE_BYTES).for_each(|page| entry(2, page));
    let selectors = u64::from(CODE.0) << 32;
    for (msr, value) in [(IA32_STAR, selectors), (IA32_LSTAR, return_to_ring_0 as *const () as u64)] {
        book(R::WRMSR);
        // SAFETY: nothing else executes SYSCALL, and its selectors are those of the code that runs.
        unsafe {
            asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack))
        };
    }
}

fn step(row: &Row, ring: PrivilegeLevel) -> Outcome {
    let (code, reason) = (if row.reason == R::VMCALL && facts().is_svm() { VMMCALL } else { row.code }, row.reason);
    let (cs, ss) = if ring == PrivilegeLevel::Ring3 { (USER_CODE, USER_DATA) } else { (CODE, DATA) };
    let there = Entry {
        rip: code.as_ptr(),
        cs: cs.0.into(),
        // I/O is allowed in any ring.
        rflags: (RFlags::TRAP_FLAG | RFlags::IOPL_HIGH | RFlags::IOPL_LOW).bits() | RFLAGS_FIXED,
        ss: ss.0.into(),
        rax: (row.rax)(),
        rcx: row.rcx.into(),
    };
    // A step is never the second PAUSE behind an entry: the #DB of the first exits.
    let runs = match reason {
        R::CR_ACCESS => code[1] == MOV_FROM_CR && facts().cr_reads_run,
        R::PAUSE => facts().first_pause_runs,
        _ => false,
    };
    if !runs {
        book_if_enabled(reason, 1);
    }
    // Under SVM an instruction that the monitor has emulated ends in an injected #DB. Behind the NOP, and where there was no
    // exit, the #DB is the guest's own.
    if !facts().is_svm() || reason == R::CPUID || runs {
        book_exception(vector::DB);
    }
    // SAFETY: the code is one instruction of the table and UD2; an expected exception ends either.
    unsafe { enter(&there) };
    let tried = code.as_ptr() as u64;
    let what = alloc::format!("a step over {reason:?} in ring {}", ring as u8);
    let trap = exception(&what, recovery::outcome(tried), vector::DB, 0)?;
    let end = tried + code.len() as u64 - UD2_BYTES;
    let is_early = reason == R::CPUID && trap.rip == end - 1;
    ensure!(trap.rip == end || is_early, "{what} ended at {:#x}, not {end:#x}", trap.rip);
    Ok(())
}

/// The second byte of MOV from a control register.
const MOV_FROM_CR: u8 = 0x20;

/// The frame of an IRETQ, and the registers that are loaded with it.
#[repr(C)]
struct Entry {
    rip: *const u8,
    cs: u64,
    rflags: u64,
    ss: u64,
    rax: u64,
    rcx: u64,
}

/// Executes one instruction with RFLAGS.TF set; its exception comes back here, in the ring in which it was raised.
///
/// # Safety
/// The instruction raises an exception before it could do harm.
#[unsafe(naked)]
unsafe extern "sysv64" fn enter(there: &Entry) {
    naked_asm!(
        "push rbx",
        "pushfq",
        // 16 bytes for the instruction, at RSP there.
        "sub rsp, 16",
        "lea rax, [rip + 2f]",
        "mov gs:[{resume}], rax",
        "mov rax, rsp",
        "push [rdi + {ss}]",
        "push rax",
        "push [rdi + {rflags}]",
        "push [rdi + {cs}]",
        "push [rdi + {rip}]",
        "mov rax, [rdi + {rax}]",
        "mov rcx, [rdi + {rcx}]",
        "xor edx, edx",
        "iretq",

        // SYSCALL in ring 3 leads to the same place as a jump in ring 0; RSP is what it was.
        "2:",
        "mov eax, cs",
        "test al, 3",
        "jz {ring_0}",
        "syscall",
        resume = const RESUME,
        rip = const offset_of!(Entry, rip),
        cs = const offset_of!(Entry, cs),
        rflags = const offset_of!(Entry, rflags),
        ss = const offset_of!(Entry, ss),
        rax = const offset_of!(Entry, rax),
        rcx = const offset_of!(Entry, rcx),
        ring_0 = sym return_to_ring_0,
    )
}

/// The end of [`enter`].
#[unsafe(naked)]
unsafe extern "sysv64" fn return_to_ring_0() {
    naked_asm!("add rsp, 16", "popfq", "pop rbx", "ret")
}
