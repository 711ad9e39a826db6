//! The processor that this code runs on, as far as both extensions need it.

use alloc::boxed::Box;

use tollgate_abi::leaves::{Answer, HYPERVISOR};
use tollgate_abi::virtualization::{Extension, KVM};
use tollgate_abi::x86::cpuid::ecx_1;
use vmm_core::nested::Table;

use crate::firmware::firmware;

/// CPUID of the processor itself.
pub(crate) fn cpuid(leaf: u32, sub_leaf: u32) -> Answer {
    let result = core::arch::x86_64::__cpuid_count(leaf, sub_leaf);
    Answer { eax: result.eax, ebx: result.ebx, ecx: result.ecx, edx: result.edx }
}

/// The virtualization extension that CPUID shows.
pub(crate) fn virtualization() -> Option<Extension> {
    if cpuid(1, 0).ecx & ecx_1::VMX != 0 {
        Some(Extension::VtX)
    } else {
        vmm_core::svm::capability::is_offered(cpuid).then_some(Extension::Svm)
    }
}

/// TSC ticks in a second, as far as the processor tells.
pub(crate) fn tsc_hz() -> u64 {
    vmm_core::rate::tsc_hz(cpuid)
}

/// Whether time passes here as it does for a person: on silicon, by itself or under KVM. An emulator counts instructions, and
/// takes minutes for some billions of them.
pub(crate) fn is_in_real_time() -> bool {
    let is_kvm = || {
        let leaf = cpuid(HYPERVISOR, 0);
        let signature = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes);
        signature.as_flattened().starts_with(KVM.as_bytes())
    };
    let has_hypervisor = cpuid(1, 0).ecx & ecx_1::HYPERVISOR != 0;
    if has_hypervisor { is_kvm() } else { firmware().takes_back }
}

/// TSC ticks that a processor may be away without being missed: a second, if time passes as for a person; else 0, for the usual
/// patience.
pub(crate) fn patience_ticks() -> u64 {
    if is_in_real_time() { tsc_hz() } else { 0 }
}

/// TSC ticks over which the rate of another timer is measured: two milliseconds, or fewer on emulators, which are exact.
pub(crate) fn measured_ticks() -> u64 {
    const EXACT: u64 = 20_000;
    if is_in_real_time() { tsc_hz() / 500 } else { EXACT }
}

/// Whether the guest sees XSAVE.
pub(crate) fn has_xsave() -> bool {
    cpuid(1, 0).ecx & ecx_1::XSAVE != 0
}

/// A page of the monitor's heap for the processor: virtual and physical addresses are the same.
pub(crate) fn page() -> &'static mut Table {
    Box::leak(Box::new(Table::EMPTY))
}

/// The physical address of such a page.
pub(crate) fn physical(page: &Table) -> u64 {
    core::ptr::from_ref(page) as u64
}
