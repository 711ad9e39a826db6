//! Exceptions that exit and are handed back to the guest.
#![expect(unsafe_code, reason = "executes what it times")]

use tollgate_abi::exit_reason::ExitReason as R;
use tollgate_abi::x86::control::CR0_TS;

use super::super::exceptions::{SIMD_DEFAULT, SIMD_DIVISIONS, X87_DIVISIONS};
use super::super::expect::vector;
use super::ABSENT;
use super::timed::{timed_fault, timed_fault_between};
use crate::books::book::book_times;
use crate::books::intercepts::{book_exception, facts};
use crate::ops::control_registers::read_cr0;
use crate::runtime::segments::ABSENT as ABSENT_SEGMENT;

pub(super) fn divide_error() -> u32 {
    book_exception(vector::DE);
    timed_fault!("xor edx, edx\n div edx")
}

// TF takes effect behind the instruction that follows POPFQ, and the trap's handler clears it.
pub(super) fn single_step() -> u32 {
    book_exception(vector::DB);
    timed_fault!("pushfq\n or qword ptr [rsp], 0x100\n popfq\n nop")
}

pub(super) fn breakpoint() -> u32 {
    book_exception(vector::BP);
    timed_fault!("int3")
}

pub(super) fn invalid_opcode() -> u32 {
    book_exception(vector::UD);
    timed_fault!("ud2")
}

// TS is clear again before anything could need SSE.
pub(super) fn device_not_available() -> u32 {
    book_times(R::CR_ACCESS, 2);
    book_exception(vector::NM);
    timed_fault_between!("", "lmsw {ts:x}\n fnop", "clts", "", ts = in(reg) read_cr0() | CR0_TS)
}

pub(super) fn segment_not_present() -> u32 {
    book_exception(vector::NP);
    timed_fault!("mov es, {absent:x}", absent = in(reg) u64::from(ABSENT_SEGMENT.0))
}

pub(super) fn stack_segment_fault() -> u32 {
    book_exception(vector::SS);
    timed_fault!("mov ss, {absent:x}", absent = in(reg) u64::from(ABSENT_SEGMENT.0))
}

// Bit 47 without those above it.
pub(super) fn general_protection() -> u32 {
    book_exception(vector::GP);
    timed_fault!("mov rax, [{at}]", at = in(reg) 1u64 << 47)
}

// 1 TiB: canonical, and beyond the memory that the page tables map.
pub(super) fn page_fault() -> u32 {
    book_exception(vector::PF);
    timed_fault!("mov rax, [{at}]", at = in(reg) 1u64 << 40)
}

// The division is pending before the clock is read, and FNINIT behind it leaves the state that compiled code expects.
pub(super) fn x87_error() -> u32 {
    book_exception(vector::MF);
    timed_fault_between!(
        "fninit\n fldcw word ptr [{control}]\n fld1\n fldz\n fdivp st(1), st", "fwait", "", "fninit",
        control = in(reg) &raw const X87_DIVISIONS,
        out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
        out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
    )
}

pub(super) fn simd_error() -> u32 {
    if !facts().raises_simd_exceptions() {
        return ABSENT;
    }
    book_exception(vector::XM);
    timed_fault_between!(
        "ldmxcsr [{unmasked}]", "divss {one}, {zero}", "", "ldmxcsr [{default}]",
        unmasked = in(reg) &raw const SIMD_DIVISIONS,
        default = in(reg) &raw const SIMD_DEFAULT,
        one = inout(xmm_reg) 1f32 => _,
        zero = in(xmm_reg) 0f32,
    )
}
