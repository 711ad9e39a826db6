//! The vCPU's features, asked once, and the extended state that follows from it (SDM 1 chapter 13).
#![expect(unsafe_code, reason = "writes CR4 and XCR0")]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use tollgate_abi::leaves::Answer;
use x86_64::registers::control::Cr4Flags;
use x86_64::registers::xcontrol::XCr0Flags;

use crate::ops::control_registers::{read_cr4, write_cr4};
use crate::ops::cpuid::cpuid;
use crate::ops::extended_state::xsetbv;

/// CPUID.1:ECX.XSAVE.
const XSAVE: u32 = 1 << 26;

static HIGHEST_LEAF: AtomicU32 = AtomicU32::new(0);
static SIGNATURE: AtomicU32 = AtomicU32::new(0);
static XCR0: AtomicU64 = AtomicU64::new(0);

/// Switches on x87, SSE and AVX state as far as the processor has them.
pub(crate) fn set_up() {
    HIGHEST_LEAF.store(cpuid(0, 0).eax, Relaxed);
    let features = cpuid(1, 0);
    SIGNATURE.store(features.eax, Relaxed);
    if features.ecx & XSAVE == 0 {
        return;
    }
    let supported = cpuid(0xd, 0);
    let supported = u64::from(supported.edx) << 32 | u64::from(supported.eax);
    let wanted = supported & (XCr0Flags::X87 | XCr0Flags::SSE | XCr0Flags::AVX).bits();
    // SAFETY: CPUID.1 offers XSAVE, which OSXSAVE announces. CPUID.0DH:EDX:EAX lists every bit that is written; x87 is always
    // among them, and AVX never comes without SSE.
    unsafe {
        write_cr4(read_cr4() | Cr4Flags::OSXSAVE.bits());
        xsetbv(0, wanted);
    }
    XCR0.store(wanted, Relaxed);
}

/// Switches on, on another vCPU, the state that `set_up` found.
pub(crate) fn set_up_other() {
    if xcr0() != 0 {
        // SAFETY: as in `set_up`, whose findings hold for every vCPU.
        unsafe {
            write_cr4(read_cr4() | Cr4Flags::OSXSAVE.bits());
            xsetbv(0, xcr0());
        }
    }
}

/// EAX of leaf 1: family, model and stepping.
pub(crate) fn signature() -> u32 {
    SIGNATURE.load(Relaxed)
}

/// The extended control register as it was set up; 0 if the processor lacks XSAVE.
pub(crate) fn xcr0() -> u64 {
    XCR0.load(Relaxed)
}

/// True if the upper halves of the YMM registers exist.
pub(crate) fn has_avx() -> bool {
    xcr0() & XCr0Flags::AVX.bits() != 0
}

/// The answer of a CPUID leaf, if the leaf exists.
pub(crate) fn leaf(number: u32) -> Option<Answer> {
    (number <= highest_leaf()).then(|| cpuid(number, 0))
}

/// EAX of leaf 0.
pub(crate) fn highest_leaf() -> u32 {
    HIGHEST_LEAF.load(Relaxed)
}
