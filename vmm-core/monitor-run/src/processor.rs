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
    has_real_time(cpuid, firmware().takes_back)
}

/// Of the hypervisors that show themselves, KVM alone runs in real time. Where none does, firmware means silicon: an emulator that
/// hides, Bochs, starts the ROM.
fn has_real_time(cpuid: impl Fn(u32, u32) -> Answer, has_firmware: bool) -> bool {
    let is_kvm = || {
        let leaf = cpuid(HYPERVISOR, 0);
        let signature = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes);
        signature.as_flattened().starts_with(KVM.as_bytes())
    };
    let has_hypervisor = cpuid(1, 0).ecx & ecx_1::HYPERVISOR != 0;
    if has_hypervisor { is_kvm() } else { has_firmware }
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

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_abi::virtualization::TCG;

    #[test]
    fn time_is_a_persons_on_silicon_and_under_kvm() {
        let under = |signature: Option<&str>, has_firmware| {
            let mut bytes = [0; 12];
            signature.iter().for_each(|name| bytes[..name.len()].copy_from_slice(name.as_bytes()));
            let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            let cpuid = |leaf, _| match leaf {
                1 => Answer { ecx: if signature.is_some() { ecx_1::HYPERVISOR } else { 0 }, ..Answer::ZERO },
                HYPERVISOR => Answer { eax: HYPERVISOR, ebx: word(0), ecx: word(4), edx: word(8) },
                other => panic!("leaf {other:#x}"),
            };
            has_real_time(cpuid, has_firmware)
        };
        assert_eq!([under(None, true), under(None, false)], [true, false], "Bochs starts the ROM, a person a stick");
        assert_eq!([under(Some(KVM), true), under(Some(KVM), false)], [true; 2]);
        assert_eq!([under(Some(TCG), true), under(Some(TCG), false)], [false; 2]);
    }
}
