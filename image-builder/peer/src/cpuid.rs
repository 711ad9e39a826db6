//! The answers of CPUID: those of Tollgate's own table, built from what KVM supports instead of what the processor has.

use core::arch::x86_64::__cpuid_count;

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use tollgate_abi::leaves::{Answer, HYPERVISOR};
use tollgate_abi::machine::Model;
use tollgate_abi::x86::control::{XCR0_SSE, XCR0_X87};
use vmm_core::devices::cpuid_table::CpuidTable;

/// The leaves that depend on ECX, and the number of sub-leaves that the table has of each.
const INDEXED: [(u32, u32); 4] = [(4, 8), (7, 1), (0xb, 3), (0xd, 10)];
const EXTENDED: u32 = 0x8000_0000;
/// State components after reset, as far as a size depends on them.
const XCR0: u64 = XCR0_X87 | XCR0_SSE;

/// The answers for one vCPU of a machine.
pub(crate) fn entries(supported: &[kvm_cpuid_entry2], machine: &Model) -> Vec<kvm_cpuid_entry2> {
    let native = |leaf, sub_leaf| native(supported, leaf, sub_leaf);
    let allows_rdtscp = true;
    let table = CpuidTable::new(native, 0, 1, allows_rdtscp).with_paravirtual(machine.paravirtual_leaf);
    let highest = |leaf| leaf..=table.answer(leaf, 0, XCR0).eax;
    let paravirtual = machine.paravirtual_leaf.map(|paravirtual| [paravirtual.leaf, paravirtual.leaf + 1]);
    let leaves = highest(0).chain([HYPERVISOR]).chain(paravirtual.into_iter().flatten()).chain(highest(EXTENDED));
    let of_leaf = |leaf| {
        let indexed = INDEXED.iter().find(|row| row.0 == leaf).map(|row| row.1);
        (0..indexed.unwrap_or(1)).map(move |sub_leaf| (leaf, sub_leaf, indexed.is_some()))
    };
    let entry = |(function, index, indexed)| {
        let Answer { eax, ebx, ecx, edx } = table.answer(function, index, XCR0);
        let flags = if indexed { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 };
        kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, ..Default::default() }
    };
    leaves.flat_map(of_leaf).map(entry).collect()
}

/// A leaf as KVM supports it. Leaves without features, which KVM leaves out or cuts short, are the processor's: its highest leaf,
/// and its clocks.
fn native(supported: &[kvm_cpuid_entry2], leaf: u32, sub_leaf: u32) -> Answer {
    if matches!(leaf, 0 | 0x15 | 0x16) {
        let answer = __cpuid_count(leaf, sub_leaf);
        return Answer { eax: answer.eax, ebx: answer.ebx, ecx: answer.ecx, edx: answer.edx };
    }
    let is_it = |entry: &&kvm_cpuid_entry2| {
        entry.function == leaf && (entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX == 0 || entry.index == sub_leaf)
    };
    let answer = |entry: &kvm_cpuid_entry2| Answer { eax: entry.eax, ebx: entry.ebx, ecx: entry.ecx, edx: entry.edx };
    supported.iter().find(is_it).map_or(Answer::ZERO, answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_abi::leaves::SIGNATURE;
    use tollgate_abi::machine::PC;

    #[test]
    fn the_guest_finds_tollgates_leaves_and_what_kvm_supports() {
        let supported = |function, index, flags, eax| kvm_cpuid_entry2 {
            function,
            index,
            flags,
            eax,
            ebx: !0,
            ecx: !0,
            edx: !0,
            ..Default::default()
        };
        let kvm = [
            supported(1, 0, 0, 0x5_0654),
            supported(7, 0, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, 0),
            supported(EXTENDED, 0, 0, EXTENDED + 8),
        ];
        let entries = entries(&kvm, &PC);
        let of = |leaf: u32| entries.iter().find(|entry| entry.function == leaf).copied().unwrap();
        assert_eq!(of(1).eax, 0x5_0654);
        assert_eq!(of(1).ecx & 1 << 5, 0, "VMX is hidden");
        assert_eq!(of(HYPERVISOR).ebx.to_le_bytes(), SIGNATURE[..4]);
        assert_eq!(of(0x4000_0100).ebx.to_le_bytes(), *b"KVMK");
        assert_eq!((of(0x4000_0101).eax, of(EXTENDED).eax), (0, EXTENDED + 8));
        assert!(entries.iter().filter(|entry| entry.function == 0xd).count() <= 10);
    }
}
