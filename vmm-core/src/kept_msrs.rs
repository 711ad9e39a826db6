//! The MSRs that firmware has to find unchanged when it gets its processor back: those that a guest or a scenario writes and no
//! VM exit puts back, and those that a VM exit loads or clears (SDM 3C 28.5).

use tollgate_abi::leaves::Answer;
use tollgate_abi::x86::cpuid::{eax_d_1, ecx_1, ecx_7, edx_7, edx_8000_0001};
use tollgate_abi::x86::msr::*;

/// The answer of CPUID for a leaf and sub-leaf.
type Cpuid = fn(u32, u32) -> Answer;

/// An MSR that is kept.
#[derive(Clone, Copy, Debug)]
pub struct KeptMsr {
    /// The MSR's number.
    pub msr: u32,
    is_there: fn(Cpuid) -> bool,
}

impl KeptMsr {
    /// Whether this processor has it, and it can change.
    pub fn is_there(&self, cpuid: Cpuid) -> bool {
        (self.is_there)(cpuid)
    }
}

const fn always(msr: u32) -> KeptMsr {
    KeptMsr { msr, is_there: |_| true }
}

/// All MSRs that are kept. The selectors of FS and GS, which set the bases, have to be put back before.
pub const KEPT: [KeptMsr; 15] = [
    always(IA32_SYSENTER_CS),
    always(IA32_SYSENTER_ESP),
    always(IA32_SYSENTER_EIP),
    always(IA32_PAT),
    always(IA32_STAR),
    always(IA32_LSTAR),
    always(IA32_CSTAR),
    always(IA32_FMASK),
    always(IA32_FS_BASE),
    always(IA32_GS_BASE),
    always(IA32_KERNEL_GS_BASE),
    // It exists with RDTSCP or RDPID.
    KeptMsr {
        msr: IA32_TSC_AUX,
        is_there: |cpuid| {
            leaf(cpuid, 0x8000_0001, 0).edx & edx_8000_0001::RDTSCP != 0 || leaf(cpuid, 7, 0).ecx & ecx_7::RDPID != 0
        },
    },
    // Every VM exit of VT-x clears it.
    KeptMsr { msr: IA32_DEBUGCTL, is_there: |cpuid| leaf(cpuid, 1, 0).ecx & ecx_1::VMX != 0 },
    // They exist with shadow stacks or indirect-branch tracking.
    KeptMsr {
        msr: IA32_S_CET,
        is_there: |cpuid| leaf(cpuid, 7, 0).ecx & ecx_7::CET_SS != 0 || leaf(cpuid, 7, 0).edx & edx_7::CET_IBT != 0,
    },
    // It exists with XSAVES.
    KeptMsr { msr: IA32_XSS, is_there: |cpuid| leaf(cpuid, 0xd, 1).eax & eax_d_1::XSAVES != 0 },
];

/// The answer of a leaf; zeros if the processor has no leaf of that number, for which CPUID would answer with another one.
fn leaf(cpuid: Cpuid, leaf: u32, sub_leaf: u32) -> Answer {
    if cpuid(leaf & 0x8000_0000, 0).eax < leaf { Answer::default() } else { cpuid(leaf, sub_leaf) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(cpuid: Cpuid) -> Vec<u32> {
        KEPT.iter().filter(|kept| kept.is_there(cpuid)).skip(11).map(|kept| kept.msr).collect()
    }

    #[test]
    fn each_msr_is_kept_where_the_processor_has_it() {
        let tiger_lake: Cpuid = |leaf, sub_leaf| match (leaf, sub_leaf) {
            (0, _) => Answer { eax: 0x1b, ..Answer::default() },
            (1, _) => Answer { ecx: 1 << 5, ..Answer::default() },
            (7, 0) => Answer { ecx: 1 << 22 | 1 << 7, edx: 1 << 20, ..Answer::default() },
            (0xd, 1) => Answer { eax: 0xf, ..Answer::default() },
            (0x8000_0000, _) => Answer { eax: 0x8000_0008, ..Answer::default() },
            (0x8000_0001, _) => Answer { edx: 1 << 27, ..Answer::default() },
            _ => Answer::default(),
        };
        assert_eq!(kept(tiger_lake), [IA32_TSC_AUX, IA32_DEBUGCTL, IA32_S_CET, IA32_XSS]);
        // The highest leaf answers for those above it, here with an APIC ID that has any bit set.
        let nehalem: Cpuid = |leaf, _| match leaf {
            0 => Answer { eax: 0xb, ..Answer::default() },
            1 => Answer { ecx: 1 << 5, ..Answer::default() },
            0x8000_0000 => Answer { eax: 0x8000_0008, ..Answer::default() },
            0x8000_0001 => Answer { edx: 1 << 27, ..Answer::default() },
            2..=7 => Answer::default(),
            _ => Answer { eax: !0, ebx: !0, ecx: !0, edx: !0 },
        };
        assert_eq!(kept(nehalem), [IA32_TSC_AUX, IA32_DEBUGCTL]);
        let first_with_svm: Cpuid = |leaf, _| Answer { eax: if leaf == 0 { 1 } else { leaf }, ..Answer::default() };
        assert_eq!(kept(first_with_svm), [0u32; 0]);
    }

    #[test]
    fn none_is_kept_twice() {
        let mut msrs = KEPT.map(|kept| kept.msr);
        msrs.sort_unstable();
        assert!(msrs.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
