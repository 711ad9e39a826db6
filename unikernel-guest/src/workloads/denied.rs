//! Instructions that the guest may not use: those that CPUID hides from it, and those of VMX.
#![expect(unsafe_code, reason = "executes what must raise #UD")]

use tollgate_abi::exit_reason::ExitReason;

use super::expect::{fault, vector};
use super::{Outcome, Run};
use crate::runtime::intercepts::book_or_invalid_opcode;
use crate::runtime::recovery::attempt;

/// Executes an instruction that must raise #UD, by its own exit or without.
macro_rules! denied {
    ($name:literal, $reason:ident, $instruction:literal $(, $($operands:tt)*)?) => {
        book_or_invalid_opcode(ExitReason::$reason);
        // SAFETY: the exception is expected; were the instruction executed, its operands are memory of this function and
        // registers that it gives up.
        let got = unsafe { attempt!($instruction $(, $($operands)*)?) };
        fault($name, got, vector::INVALID_OPCODE, 0)?;
    };
}

pub(super) fn hidden_instructions(run: &Run) -> Outcome {
    let descriptor = [0u64; 2];
    for _ in 0..run.iterations {
        denied!("MONITOR", MONITOR, "monitor", in("rax") &raw const descriptor, in("ecx") 0, in("edx") 0);
        denied!("MWAIT", MWAIT, "mwait", in("eax") 0, in("ecx") 0);
        denied!("RDRAND", RDRAND, "rdrand {value}", value = out(reg) _);
        denied!("RDSEED", RDSEED, "rdseed {value}", value = out(reg) _);
        denied!("INVPCID", INVPCID, "invpcid {kind}, [{at}]", kind = in(reg) 0u64, at = in(reg) &raw const descriptor);
    }
    Ok(())
}

pub(super) fn vmx_instructions(run: &Run) -> Outcome {
    let mut pointer = [0u64; 2];
    let at = &raw mut pointer;
    for _ in 0..run.iterations {
        denied!("VMCLEAR", VMCLEAR, "vmclear [{at}]", at = in(reg) at);
        denied!("VMLAUNCH", VMLAUNCH, "vmlaunch");
        denied!("VMPTRLD", VMPTRLD, "vmptrld [{at}]", at = in(reg) at);
        denied!("VMPTRST", VMPTRST, "vmptrst [{at}]", at = in(reg) at);
        denied!("VMREAD", VMREAD, "vmread {value}, {field}", value = out(reg) _, field = in(reg) 0u64);
        denied!("VMRESUME", VMRESUME, "vmresume");
        denied!("VMWRITE", VMWRITE, "vmwrite {field}, [{at}]", field = in(reg) 0u64, at = in(reg) at);
        denied!("VMXOFF", VMXOFF, "vmxoff");
        denied!("VMXON", VMXON, "vmxon [{at}]", at = in(reg) at);
        denied!("INVEPT", INVEPT, "invept {kind}, [{at}]", kind = in(reg) 1u64, at = in(reg) at);
        denied!("INVVPID", INVVPID, "invvpid {kind}, [{at}]", kind = in(reg) 1u64, at = in(reg) at);
    }
    Ok(())
}
