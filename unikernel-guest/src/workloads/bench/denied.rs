//! Operations that the guest may not do: the exit ends in an exception.
#![expect(unsafe_code, reason = "executes what it times")]

use tollgate_abi::exit_reason::ExitReason as R;

use super::ABSENT;
use super::timed::timed_fault;
use crate::books::book::book;
use crate::books::intercepts::{book_if_enabled, enabled};

pub(super) fn rdpmc() -> u32 {
    book_if_enabled(R::RDPMC, 1);
    timed_fault!("rdpmc", in("ecx") 0x0bad_c0deu32)
}

/// Instructions that the guest may not use: their exit ends in #UD. Instructions without an exit are absent.
macro_rules! denied {
    ($($name:ident $reason:ident $instruction:literal $([$($operands:tt)*])?;)*) => {$(
        pub(super) fn $name() -> u32 {
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

/// The operand that these instructions would read.
static OPERAND: [u64; 2] = [0; 2];
