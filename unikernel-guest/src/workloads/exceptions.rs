//! Exceptions that exit and are handed back, and jumps to where nothing is.
#![expect(unsafe_code, reason = "raises exceptions")]

use tollgate_abi::exit_reason::ExitReason;
use tollgate_abi::x86::control::{FCW_AT_RESET, FCW_ZM, MXCSR_AT_RESET, MXCSR_ZM};
use x86_64::registers::control::Cr0Flags;

use super::expect::{ensure, exception, fault, vector};
use super::{Outcome, Run};
use crate::books::book::book;
use crate::books::intercepts::{book_exception, cr0_write_exits, facts};
use crate::books::recovery::{attempt, attempt_between};
use crate::ops::control_registers::read_cr0;
use crate::runtime::segments::ABSENT;

/// 1 TiB: canonical, and beyond the 4 GiB that the page tables map.
const UNMAPPED: u64 = 1 << 40;
/// Bit 47 without those above it.
const NON_CANONICAL: u64 = 1 << 47;

/// The page-fault error code of a fetch (SDM 3A 4.7): bit 4, which exists because EFER.NXE is set. A read has none.
const FETCH: u64 = 1 << 4;

pub(super) fn exceptions(run: &Run) -> Outcome {
    for _ in 0..run.iterations {
        divide_error()?;
        single_step()?;
        breakpoint()?;
        invalid_opcode()?;
        not_present()?;
        stack_fault()?;
        general_protection()?;
        page_fault()?;
        x87_error()?;
        simd_error()?;
    }
    Ok(())
}

fn divide_error() -> Outcome {
    book_exception(vector::DE);
    // SAFETY: the exception is expected; RAX and RDX are given up.
    let got = unsafe { attempt!("div {zero:e}", zero = in(reg) 0, inout("eax") 1 => _, inout("edx") 0 => _) };
    fault("DIV by 0", got, vector::DE, 0).map(drop)
}

fn single_step() -> Outcome {
    book_exception(vector::DB);
    // SAFETY: TF takes effect behind the instruction that follows POPFQ, and the trap's handler clears it.
    let got = unsafe { attempt!("pushfq\n or qword ptr [rsp], 0x100\n popfq\n nop") };
    let trap = exception("a single step", got, vector::DB, 0)?;
    // PUSHFQ, OR m64, imm32, POPFQ and NOP have 1 + 8 + 1 + 1 bytes.
    ensure!(trap.rip == trap.tried + 11, "a single step from {:#x} ended at {:#x}", trap.tried, trap.rip);
    Ok(())
}

fn breakpoint() -> Outcome {
    book_exception(vector::BP);
    // SAFETY: the exception is expected.
    let trap = exception("INT3", unsafe { attempt!("int3") }, vector::BP, 0)?;
    ensure!(trap.rip == trap.tried + 1, "INT3 at {:#x} left RIP {:#x}", trap.tried, trap.rip);
    Ok(())
}

fn invalid_opcode() -> Outcome {
    book_exception(vector::UD);
    // SAFETY: the exception is expected.
    fault("UD2", unsafe { attempt!("ud2") }, vector::UD, 0).map(drop)
}

/// An instruction that CR0.TS forbids: the bit is set and cleared in one block, because the compiler may use SSE anywhere.
fn not_available() -> Outcome {
    const TS: u64 = Cr0Flags::TASK_SWITCHED.bits();
    let cr0 = read_cr0();
    for _ in 0..2 {
        if cr0_write_exits(cr0, cr0 ^ TS) {
            book(ExitReason::CR_ACCESS);
        }
    }
    book_exception(vector::NM);
    // SAFETY: the exception is expected, and TS is clear again before anything could need x87 or SSE.
    let got = unsafe { attempt_between!("lmsw {cr0:x}", "fnop", "clts", cr0 = in(reg) cr0 | TS) };
    fault("FNOP under CR0.TS", got, vector::NM, 0).map(drop)
}

pub(super) fn device_not_available(run: &Run) -> Outcome {
    (0..run.iterations).try_for_each(|_| not_available())
}

fn not_present() -> Outcome {
    book_exception(vector::NP);
    // SAFETY: the exception is expected, and ES keeps what it has.
    let got = unsafe { attempt!("mov es, {selector:x}", selector = in(reg) u64::from(ABSENT.0)) };
    fault("MOV to ES of an absent segment", got, vector::NP, ABSENT.0.into()).map(drop)
}

fn stack_fault() -> Outcome {
    book_exception(vector::SS);
    // SAFETY: the exception is expected, and SS keeps what it has.
    let got = unsafe { attempt!("mov ss, {selector:x}", selector = in(reg) u64::from(ABSENT.0)) };
    fault("MOV to SS of an absent segment", got, vector::SS, ABSENT.0.into()).map(drop)
}

/// The operands of FLDCW and LDMXCSR. The x87 control word and one MXCSR mask all exceptions but the division by zero; the other
/// MXCSR is as at reset.
pub(super) static X87_DIVISIONS: u16 = FCW_AT_RESET & !FCW_ZM;
pub(super) static SIMD_DIVISIONS: u32 = MXCSR_AT_RESET & !MXCSR_ZM;
pub(super) static SIMD_DEFAULT: u32 = MXCSR_AT_RESET;

fn x87_error() -> Outcome {
    book_exception(vector::MF);
    // SAFETY: the exception is expected; FNINIT leaves the state that compiled code expects.
    let got = unsafe {
        attempt_between!(
            "fninit\n fldcw word ptr [{control}]\n fld1\n fldz\n fdivp st(1), st", "fwait", "fninit",
            control = in(reg) &raw const X87_DIVISIONS,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
        )
    };
    fault("FWAIT after a division by zero", got, vector::MF, 0).map(drop)
}

fn simd_error() -> Outcome {
    if !facts().raises_simd_exceptions() {
        return Ok(());
    }
    book_exception(vector::XM);
    // SAFETY: the exception is expected; MXCSR has its default value back afterwards.
    let got = unsafe {
        attempt_between!(
            "ldmxcsr [{unmasked}]", "divss {one}, {zero}", "ldmxcsr [{default}]",
            unmasked = in(reg) &raw const SIMD_DIVISIONS,
            default = in(reg) &raw const SIMD_DEFAULT,
            one = inout(xmm_reg) 1f32 => _,
            zero = in(xmm_reg) 0f32,
        )
    };
    fault("DIVSS by zero", got, vector::XM, 0).map(drop)
}

fn general_protection() -> Outcome {
    book_exception(vector::GP);
    // SAFETY: the exception is expected, and comes before anything is read.
    let got = unsafe { attempt!("mov {at}, [{at}]", at = inout(reg) NON_CANONICAL => _) };
    fault("a read of a non-canonical address", got, vector::GP, 0).map(drop)
}

fn page_fault() -> Outcome {
    book_exception(vector::PF);
    // SAFETY: the exception is expected, and comes before anything is read.
    let got = unsafe { attempt!("mov {at}, [{at}]", at = inout(reg) UNMAPPED => _) };
    let trap = fault("a read of an unmapped address", got, vector::PF, 0)?;
    ensure!(trap.cr2 == UNMAPPED, "CR2 is {:#x} after a read of {UNMAPPED:#x}", trap.cr2);
    Ok(())
}

pub(super) fn wild_jumps(run: &Run) -> Outcome {
    for _ in 0..run.iterations {
        book_exception(vector::PF);
        // SAFETY: the exception is expected, and comes before anything at the address is executed.
        let got = unsafe { attempt!("jmp {at}", at = in(reg) UNMAPPED) };
        let trap = exception("a jump to an unmapped address", got, vector::PF, FETCH)?;
        ensure!(
            (trap.rip, trap.cr2) == (UNMAPPED, UNMAPPED),
            "a jump to {UNMAPPED:#x} left RIP {:#x}, CR2 {:#x}",
            trap.rip,
            trap.cr2
        );

        book_exception(vector::GP);
        // SAFETY: the exception is expected, and comes before anything at the address is executed.
        let got = unsafe { attempt!("jmp {at}", at = in(reg) NON_CANONICAL) };
        // Intel's processors fault at the jump, AMD's behind it.
        exception("a jump to a non-canonical address", got, vector::GP, 0)?;
    }
    Ok(())
}
