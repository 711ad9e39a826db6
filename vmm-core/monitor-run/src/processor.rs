//! The processor that this runs on, as far as both extensions ask.

use alloc::boxed::Box;

use tollgate_abi::leaves::Answer;
use vmm_core::nested::Table;

const CPUID_1_ECX_XSAVE: u32 = 1 << 26;

/// CPUID, natively.
pub(crate) fn cpuid(leaf: u32, sub_leaf: u32) -> Answer {
    let result = core::arch::x86_64::__cpuid_count(leaf, sub_leaf);
    Answer { eax: result.eax, ebx: result.ebx, ecx: result.ecx, edx: result.edx }
}

/// TSC ticks in a second, as far as the processor tells.
pub(crate) fn tsc_hz() -> u64 {
    vmm_core::rate::tsc_hz(cpuid)
}

/// Whether the guest sees XSAVE.
pub(crate) fn has_xsave() -> bool {
    cpuid(1, 0).ecx & CPUID_1_ECX_XSAVE != 0
}

/// A page of the monitor's heap for the processor: virtual and physical addresses are the same.
pub(crate) fn page() -> &'static mut Table {
    Box::leak(Box::new(Table::EMPTY))
}

/// Its physical address.
pub(crate) fn physical(page: &Table) -> u64 {
    core::ptr::from_ref(page) as u64
}
