//! Instructions that the guest may not use: those that CPUID hides from it, and those of VMX and SVM.
#![expect(unsafe_code, reason = "executes what must raise #UD")]

use tollgate_abi::exit_reason::ExitReason;

use super::expect::{ensure, fault, vector};
use super::{Outcome, Run};
use crate::books::cpu;
use crate::books::intercepts::{book_or_invalid_opcode, enabled, facts};
use crate::books::recovery::attempt;
use crate::runtime::account;

/// Executes an instruction that must raise #UD, with an exit of its own or without.
macro_rules! denied {
    ($name:literal, $reason:ident, $instruction:literal $(, $($operands:tt)*)?) => {
        if !runs(ExitReason::$reason) {
            book_or_invalid_opcode(ExitReason::$reason);
        }
        // SAFETY: the exception is expected; were the instruction executed, its operands are memory of this function and
        // registers that it gives up.
        let got = unsafe { attempt!($instruction $(, $($operands)*)?) };
        if runs(ExitReason::$reason) {
            ensure!(got.is_ok(), "{} is not intercepted, and did not execute", $name);
        } else {
            fault($name, got, vector::UD, 0)?;
        }
    };
}

/// True if nothing keeps an instruction from the guest although it is hidden.
fn runs(hidden: ExitReason) -> bool {
    !enabled(hidden) && facts().runs(hidden)
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

pub(super) fn svm_instructions(run: &Run) -> Outcome {
    let here = Some(cpu::number() as u16);
    let before = account::exits_on(ExitReason::SVM_VMRUN, here);
    for _ in 0..run.iterations {
        denied!("VMRUN", SVM_VMRUN, "vmrun rax", in("rax") 0);
        denied!("VMLOAD", SVM_VMLOAD, "vmload rax", in("rax") 0);
        denied!("VMSAVE", SVM_VMSAVE, "vmsave rax", in("rax") 0);
        denied!("STGI", SVM_STGI, "stgi");
        denied!("CLGI", SVM_CLGI, "clgi");
        denied!("SKINIT", SVM_SKINIT, "skinit eax", in("eax") 0);
        denied!("INVLPGA", SVM_INVLPGA, "invlpga rax, ecx", in("rax") 0, in("ecx") 0);
    }
    let counted = account::exits_on(ExitReason::SVM_VMRUN, here) - before;
    let expected = if run.account.kept && facts().is_svm() { run.iterations } else { 0 };
    ensure!(counted == expected, "the leaf counts {counted} exits for VMRUN on this vCPU, not {expected}");
    Ok(())
}
