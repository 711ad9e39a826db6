//! Exceptions that exit and are handed back, and jumps to where nothing is.
#![expect(unsafe_code, reason = "raises exceptions")]

use super::expect::{ensure, exception, fault, vector};
use super::{Outcome, Run};
use crate::runtime::intercepts::book_exception;
use crate::runtime::recovery::attempt;

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
        general_protection()?;
        page_fault()?;
    }
    Ok(())
}

fn divide_error() -> Outcome {
    book_exception(vector::DIVIDE_ERROR);
    // SAFETY: the exception is expected; RAX and RDX are given up.
    let got = unsafe { attempt!("div {zero:e}", zero = in(reg) 0, inout("eax") 1 => _, inout("edx") 0 => _) };
    fault("DIV by 0", got, vector::DIVIDE_ERROR, 0).map(drop)
}

fn single_step() -> Outcome {
    book_exception(vector::DEBUG);
    // SAFETY: TF takes effect behind the instruction that follows POPFQ, and the trap's handler clears it.
    let got = unsafe { attempt!("pushfq\n or qword ptr [rsp], 0x100\n popfq\n nop") };
    let trap = exception("a single step", got, vector::DEBUG, 0)?;
    // PUSHFQ, OR m64, imm32, POPFQ and NOP have 1 + 8 + 1 + 1 bytes.
    ensure!(trap.rip == trap.tried + 11, "a single step from {:#x} ended at {:#x}", trap.tried, trap.rip);
    Ok(())
}

fn breakpoint() -> Outcome {
    book_exception(vector::BREAKPOINT);
    // SAFETY: the exception is expected.
    let trap = exception("INT3", unsafe { attempt!("int3") }, vector::BREAKPOINT, 0)?;
    ensure!(trap.rip == trap.tried + 1, "INT3 at {:#x} left RIP {:#x}", trap.tried, trap.rip);
    Ok(())
}

fn invalid_opcode() -> Outcome {
    book_exception(vector::INVALID_OPCODE);
    // SAFETY: the exception is expected.
    fault("UD2", unsafe { attempt!("ud2") }, vector::INVALID_OPCODE, 0).map(drop)
}

fn general_protection() -> Outcome {
    book_exception(vector::GENERAL_PROTECTION);
    // SAFETY: the exception is expected, and comes before anything is read.
    let got = unsafe { attempt!("mov {at}, [{at}]", at = inout(reg) NON_CANONICAL => _) };
    fault("a read of a non-canonical address", got, vector::GENERAL_PROTECTION, 0).map(drop)
}

fn page_fault() -> Outcome {
    book_exception(vector::PAGE_FAULT);
    // SAFETY: the exception is expected, and comes before anything is read.
    let got = unsafe { attempt!("mov {at}, [{at}]", at = inout(reg) UNMAPPED => _) };
    let trap = fault("a read of an unmapped address", got, vector::PAGE_FAULT, 0)?;
    ensure!(trap.cr2 == UNMAPPED, "CR2 is {:#x} after a read of {UNMAPPED:#x}", trap.cr2);
    Ok(())
}

pub(super) fn wild_jumps(run: &Run) -> Outcome {
    for _ in 0..run.iterations {
        book_exception(vector::PAGE_FAULT);
        // SAFETY: the exception is expected, and comes before anything there is executed.
        let got = unsafe { attempt!("jmp {at}", at = in(reg) UNMAPPED) };
        let trap = exception("a jump to an unmapped address", got, vector::PAGE_FAULT, FETCH)?;
        ensure!(
            (trap.rip, trap.cr2) == (UNMAPPED, UNMAPPED),
            "a jump to {UNMAPPED:#x} left RIP {:#x}, CR2 {:#x}",
            trap.rip,
            trap.cr2
        );

        book_exception(vector::GENERAL_PROTECTION);
        // SAFETY: the exception is expected, and comes before anything there is executed.
        let got = unsafe { attempt!("jmp {at}", at = in(reg) NON_CANONICAL) };
        // Intel's processors fault at the jump, AMD's behind it.
        exception("a jump to a non-canonical address", got, vector::GENERAL_PROTECTION, 0)?;
    }
    Ok(())
}
