//! The answers of CPUID: a table, built once from the processor's own answers and the features that the monitor can offer.

use tollgate_abi::leaves::{Answer, HYPERVISOR, SIGNATURE};
use tollgate_abi::machine::ParavirtualLeaf;
use tollgate_abi::x86::control::{XCR0_AVX, XCR0_HI16_ZMM, XCR0_OPMASK, XCR0_SSE, XCR0_X87, XCR0_ZMM_HI256};
use tollgate_abi::x86::cpuid::{eax_6, eax_d_1, ebx_7, ecx_1, ecx_7, ecx_8000_0001, edx_1, edx_7, edx_8000_0001};

/// Basic leaves that the table holds.
const BASIC: usize = 32;
/// Extended leaves that the table holds, from 0x8000_0000.
const EXTENDED: usize = 9;
/// Sub-leaves of leaf 4 that the table holds; the hardware ends the list with a null type.
const CACHES: usize = 8;
/// Sub-leaves of leaf 0xD that the table holds: one per state component up to PKRU.
const COMPONENTS: usize = 10;

/// State components that the guest may enable.
pub const XCR0_OFFERED: u64 = XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_OPMASK | XCR0_ZMM_HI256 | XCR0_HI16_ZMM;

/// Leaf 1, ECX: the bits that are offered. The local APIC is the monitor's, and offered whether the processor has one or not.
const OFFERED_1_ECX: u32 = ecx_1::SSE3
    | ecx_1::PCLMULQDQ
    | ecx_1::SSSE3
    | ecx_1::FMA
    | ecx_1::CMPXCHG16B
    | ecx_1::SSE4_1
    | ecx_1::SSE4_2
    | ecx_1::MOVBE
    | ecx_1::POPCNT
    | ecx_1::AES
    | ecx_1::XSAVE
    | ecx_1::AVX
    | ecx_1::F16C;
/// Leaf 1, EDX: the bits that are offered. MCE, MTRR, MCA and PAT are left out: the guest does not have their MSRs.
const OFFERED_1_EDX: u32 = edx_1::FPU
    | edx_1::VME
    | edx_1::DE
    | edx_1::PSE
    | edx_1::TSC
    | edx_1::MSR
    | edx_1::PAE
    | edx_1::CX8
    | edx_1::SEP
    | edx_1::PGE
    | edx_1::CMOV
    | edx_1::PSE_36
    | edx_1::CLFSH
    | edx_1::MMX
    | edx_1::FXSR
    | edx_1::SSE
    | edx_1::SSE2
    | edx_1::SS;
/// Leaf 7, EBX: the bits that are offered.
const OFFERED_7_EBX: u32 = ebx_7::FSGSBASE
    | ebx_7::BMI1
    | ebx_7::AVX2
    | ebx_7::FDP_EXCEPTIONS_ONLY
    | ebx_7::SMEP
    | ebx_7::BMI2
    | ebx_7::ERMS
    | ebx_7::NO_FCS_FDS
    | ebx_7::AVX512F
    | ebx_7::AVX512DQ
    | ebx_7::ADX
    | ebx_7::AVX512_IFMA
    | ebx_7::CLFLUSHOPT
    | ebx_7::CLWB
    | ebx_7::AVX512CD
    | ebx_7::SHA
    | ebx_7::AVX512BW
    | ebx_7::AVX512VL;
/// Leaf 7, ECX: the bits that are offered.
const OFFERED_7_ECX: u32 = ecx_7::AVX512_VBMI
    | ecx_7::UMIP
    | ecx_7::AVX512_VBMI2
    | ecx_7::GFNI
    | ecx_7::VAES
    | ecx_7::VPCLMULQDQ
    | ecx_7::AVX512_VNNI
    | ecx_7::AVX512_BITALG
    | ecx_7::AVX512_VPOPCNTDQ
    | ecx_7::RDPID;
/// Leaf 7, EDX: the bits that are offered.
const OFFERED_7_EDX: u32 = edx_7::FAST_SHORT_REP_MOV | edx_7::AVX512_VP2INTERSECT;
/// Leaf 0xD sub-leaf 1, EAX: the bits that are offered.
const OFFERED_D1_EAX: u32 = eax_d_1::XSAVEOPT | eax_d_1::XGETBV_1;
/// Leaf 0x8000_0001, ECX: the bits that are offered.
const OFFERED_EXTENDED_ECX: u32 = ecx_8000_0001::LAHF
    | ecx_8000_0001::LZCNT
    | ecx_8000_0001::SSE4A
    | ecx_8000_0001::MISALIGNED_SSE
    | ecx_8000_0001::PREFETCHW
    | ecx_8000_0001::XOP
    | ecx_8000_0001::FMA4
    | ecx_8000_0001::TBM;
/// Leaf 0x8000_0001, EDX: the bits that are offered. AMD's copies of leaf 1 are left out.
const OFFERED_EXTENDED_EDX: u32 = edx_8000_0001::SYSCALL
    | edx_8000_0001::NX
    | edx_8000_0001::PAGE_1_GIB
    | edx_8000_0001::RDTSCP
    | edx_8000_0001::LONG_MODE;
/// The local APIC's features in leaf 1.
const APIC_1_ECX: u32 = ecx_1::X2APIC | ecx_1::TSC_DEADLINE;

/// Leaves whose answer depends on ECX or on guest state.
const NOT_PLAIN: u64 = 1 << 4 | 1 << 7 | 1 << 0xb | 1 << 0xd;
/// Leaves about features that the guest does not get: serial number, MONITOR, power, DCA, PMU, and the resource and trace leaves.
const EMPTY: u64 =
    1 << 3 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 0xa | 1 << 0xf | 1 << 0x10 | 1 << 0x12 | 1 << 0x14 | !((1 << 0x17) - 1);

/// The answers of CPUID.
#[derive(Clone, Debug)]
pub struct CpuidTable {
    /// Basic leaf n is answered by `basic[n]` whatever ECX is.
    plain: [bool; BASIC],
    basic: [Answer; BASIC],
    extended: [Answer; EXTENDED],
    caches: [Answer; CACHES],
    components: [Answer; COMPONENTS],
    max_basic: u32,
    max_extended: u32,
    apic_id: u32,
    vcpus: u32,
    paravirtual: Option<ParavirtualLeaf>,
}

impl CpuidTable {
    /// Builds the table from `native(leaf, sub-leaf)`. `apic_id` is the vCPU's, of `vcpus`; RDTSCP and RDPID need a control.
    pub fn new(native: impl Fn(u32, u32) -> Answer, apic_id: u32, vcpus: u32, allows_rdtscp: bool) -> Self {
        let max_basic = native(0, 0).eax.min(0x16);
        let max_extended = native(0x8000_0000, 0).eax.clamp(0x8000_0000, 0x8000_0000 + EXTENDED as u32 - 1);
        let mut table = Self {
            plain: core::array::from_fn(|leaf| NOT_PLAIN >> leaf & 1 == 0),
            basic: [Answer::ZERO; BASIC],
            extended: [Answer::ZERO; EXTENDED],
            caches: [Answer::ZERO; CACHES],
            components: [Answer::ZERO; COMPONENTS],
            max_basic,
            max_extended,
            apic_id,
            vcpus,
            paravirtual: None,
        };
        for leaf in (0..=max_basic).filter(|leaf| EMPTY >> leaf & 1 == 0) {
            table.basic[leaf as usize] = native(leaf, 0);
        }
        for leaf in 0x8000_0000..=max_extended {
            table.extended[(leaf & 0xff) as usize] = native(leaf, 0);
        }
        for (sub_leaf, answer) in table.caches.iter_mut().enumerate().filter(|_| max_basic >= 4) {
            // One logical processor shares each cache; each vCPU is a core.
            *answer = native(4, sub_leaf as u32);
            answer.eax &= 0x3fff;
            if answer.eax & 0x1f != 0 {
                answer.eax |= (vcpus.next_power_of_two() - 1) << 26;
            }
        }
        for (component, answer) in table.components.iter_mut().enumerate().filter(|_| max_basic >= 0xd) {
            if component < 2 || XCR0_OFFERED >> component & 1 != 0 {
                *answer = native(0xd, component as u32);
            }
        }
        table.restrict(allows_rdtscp);
        // An overlong leaf number is answered like the highest basic leaf (SDM 2A, CPUID).
        let overlong = table.basic[max_basic as usize];
        table.basic[max_basic as usize + 1..].fill(overlong);
        table
    }

    /// The same table with an interface that kernels know, of the machine's row.
    pub fn with_paravirtual(self, paravirtual: Option<ParavirtualLeaf>) -> Self {
        Self { paravirtual, ..self }
    }

    fn restrict(&mut self, allows_rdtscp: bool) {
        self.basic[0].eax = self.max_basic;
        let features = &mut self.basic[1];
        features.ebx = features.ebx & 0xff00 | self.vcpus.next_power_of_two() << 16 | self.apic_id << 24;
        features.ecx = features.ecx & OFFERED_1_ECX | ecx_1::HYPERVISOR | APIC_1_ECX;
        features.edx = features.edx & OFFERED_1_EDX | edx_1::APIC | if self.vcpus > 1 { edx_1::HTT } else { 0 };
        let structured = &mut self.basic[7];
        *structured = Answer {
            eax: 0,
            ebx: structured.ebx & OFFERED_7_EBX | ebx_7::TSC_ADJUST,
            ecx: structured.ecx & OFFERED_7_ECX,
            edx: structured.edx & OFFERED_7_EDX,
        };
        self.basic[6] = Answer { eax: eax_6::ARAT, ..Answer::ZERO };
        self.extended[1].ecx &= OFFERED_EXTENDED_ECX;
        self.extended[1].edx &= OFFERED_EXTENDED_EDX;
        self.basic[0xb] = Answer::ZERO;
        self.basic[0x15] = clocks(self.basic[0x15]);
        self.components[0].eax &= XCR0_OFFERED as u32;
        self.components[0].edx = 0;
        self.components[1] = Answer { eax: self.components[1].eax & OFFERED_D1_EAX, ..Answer::ZERO };
        self.components[0].ecx = self.save_area_bytes(u64::from(self.components[0].eax));
        self.extended[0].eax = self.max_extended;
        if !allows_rdtscp {
            self.extended[1].edx &= !edx_8000_0001::RDTSCP;
            self.basic[7].ecx &= !ecx_7::RDPID;
        }
        // 48 bits of linear address: LA57 is hidden. No WBNOINVD or other extras of this leaf.
        let sizes = &mut self.extended[8];
        *sizes = Answer { eax: sizes.eax & 0xff | 48 << 8, ..Answer::ZERO };
    }

    /// Bytes of the XSAVE area, standard format, for these components.
    fn save_area_bytes(&self, xcr0: u64) -> u32 {
        let end = |(component, answer): (usize, &Answer)| {
            if component >= 2 && xcr0 >> component & 1 != 0 { answer.ebx + answer.eax } else { 576 }
        };
        self.components.iter().enumerate().map(end).max().unwrap_or(576)
    }

    /// Whether the guest sees XSAVE.
    pub fn has_xsave(&self) -> bool {
        self.basic[1].ecx & ecx_1::XSAVE != 0
    }

    /// The state components that XSETBV may enable.
    pub fn xcr0_allowed(&self) -> u64 {
        u64::from(self.components[0].eax)
    }

    /// Whether the guest sees RDTSCP, and with it IA32_TSC_AUX.
    pub fn has_rdtscp(&self) -> bool {
        self.extended[1].edx & edx_8000_0001::RDTSCP != 0
    }

    /// Whether the guest sees NX, and with it EFER.NXE.
    pub fn has_no_execute(&self) -> bool {
        self.extended[1].edx & edx_8000_0001::NX != 0
    }

    /// Width of a physical address in bits; 36 if the processor does not tell (SDM 3A 4.1.4).
    pub fn physical_address_bits(&self) -> u32 {
        match self.extended[8].eax & 0xff {
            0 => 36,
            bits => bits.min(52),
        }
    }

    /// Mirrors CR4.OSXSAVE (SDM 2A, CPUID.1:ECX.OSXSAVE).
    pub fn set_osxsave(&mut self, enabled: bool) {
        self.basic[1].ecx = self.basic[1].ecx & !ecx_1::OSXSAVE | if enabled { ecx_1::OSXSAVE } else { 0 };
    }

    /// Mirrors IA32_APIC_BASE, where the guest can switch its APIC off (SDM 3A 12.4.3).
    pub fn set_apic(&mut self, enabled: bool) {
        self.basic[1].edx = self.basic[1].edx & !edx_1::APIC | if enabled { edx_1::APIC } else { 0 };
    }

    /// The vendor and brand strings, for the first record.
    pub fn vendor(&self) -> [u8; 12] {
        let Answer { ebx, ecx, edx, .. } = self.basic[0];
        let mut bytes = [0; 12];
        for (into, register) in bytes.chunks_exact_mut(4).zip([ebx, edx, ecx]) {
            into.copy_from_slice(&register.to_le_bytes());
        }
        bytes
    }

    /// Leaf 0xB: a level of one thread each, and one of the cores, which are the vCPUs.
    fn topology(&self, sub_leaf: u32) -> Answer {
        let level = |shift, processors, kind: u32| Answer {
            eax: shift,
            ebx: processors,
            ecx: kind << 8 | sub_leaf & 0xff,
            edx: self.apic_id,
        };
        match sub_leaf {
            0 => level(0, 1, 1),
            1 => level(self.vcpus.next_power_of_two().trailing_zeros(), self.vcpus, 2),
            _ => level(0, 0, 0),
        }
    }

    /// A basic leaf that has one answer, whatever ECX and the guest's state are.
    #[inline(always)]
    pub fn plain(&self, leaf: u32) -> Option<&Answer> {
        match (self.basic.get(leaf as usize), self.plain.get(leaf as usize)) {
            (Some(answer), Some(true)) => Some(answer),
            _ => None,
        }
    }

    /// Any leaf that is not one of the account's.
    pub fn answer(&self, leaf: u32, sub_leaf: u32, xcr0: u64) -> Answer {
        match leaf {
            4 => self.caches.get(sub_leaf as usize).copied().unwrap_or(Answer::ZERO),
            7 => {
                if sub_leaf == 0 {
                    self.basic[7]
                } else {
                    Answer::ZERO
                }
            }
            0xb => self.topology(sub_leaf),
            0xd if self.max_basic >= 0xd => {
                let mut answer = self.components.get(sub_leaf as usize).copied().unwrap_or(Answer::ZERO);
                if sub_leaf == 0 {
                    answer.ebx = self.save_area_bytes(xcr0);
                }
                answer
            }
            HYPERVISOR => signed(HYPERVISOR, SIGNATURE),
            0x4000_0001..=0x4fff_ffff => match self.paravirtual {
                // The next leaf, of features, is empty.
                Some(paravirtual) if paravirtual.leaf == leaf => signed(leaf + 1, &paravirtual.signature),
                _ => Answer::ZERO,
            },
            0x8000_0000.. if leaf <= self.max_extended => self.extended[(leaf & 0xff) as usize],
            // AMD's processors answer with zeros beyond the highest extended leaf.
            0x8000_0000.. if &self.vendor() == b"AuthenticAMD" => Answer::ZERO,
            _ => self.basic[(leaf as usize).min(BASIC - 1)],
        }
    }
}

/// The first leaf of a hypervisor's: the highest one, and the signature.
fn signed(highest: u32, signature: &[u8; 12]) -> Answer {
    let word = |at: usize| u32::from_le_bytes([signature[at], signature[at + 1], signature[at + 2], signature[at + 3]]);
    Answer { eax: highest, ebx: word(0), ecx: word(4), edx: word(8) }
}

/// Leaf 15H: the frequency of the time-stamp counter, by way of a crystal's. The guest's APIC timer counts the TSC's ticks, and
/// by the manual it counts the crystal's (SDM 3A 12.5.4): so the two have the same frequency.
fn clocks(native: Answer) -> Answer {
    let Answer { eax: divisor, ebx: factor, ecx: crystal_hz, .. } = native;
    if divisor == 0 || factor == 0 {
        return Answer::ZERO;
    }
    let tsc_hz = u64::from(crystal_hz) * u64::from(factor) / u64::from(divisor);
    Answer { eax: 1, ebx: 1, ecx: u32::try_from(tsc_hz).unwrap_or(0), edx: 0 }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use tollgate_abi::machine::KVM_LEAF;

    /// A processor with every feature: all feature bits set, AVX behind the legacy area.
    pub(crate) fn everything(leaf: u32, sub_leaf: u32) -> Answer {
        match (leaf, sub_leaf) {
            (0, _) => Answer { eax: 0x20, ebx: 0x756e_6547, ecx: 0x6c65_746e, edx: 0x4965_6e69 },
            (0x8000_0008, _) => Answer { eax: 0x3927, ebx: !0, ..Answer::ZERO },
            (0x8000_0000, _) => Answer { eax: 0x8000_0008, ..Answer::ZERO },
            (0x15, _) => Answer { eax: 2, ebx: 250, ecx: 24_000_000, ..Answer::ZERO },
            (0xd, 2) => Answer { eax: 256, ebx: 576, ..Answer::ZERO },
            (0xd, 5..) => Answer { eax: 64, ebx: 1000 + 64 * sub_leaf, ..Answer::ZERO },
            _ => Answer { eax: !0, ebx: !0, ecx: !0, edx: !0 },
        }
    }

    #[test]
    fn what_the_guest_may_not_have_is_hidden() {
        let table = CpuidTable::new(everything, 3, 4, true);
        let features = table.answer(1, 0, 0);
        assert_eq!(features.ecx & (ecx_1::VMX | ecx_1::MONITOR | ecx_1::RDRAND | ecx_1::OSXSAVE), 0);
        assert_ne!(features.ecx & ecx_1::HYPERVISOR, 0);
        assert_eq!((features.ebx >> 24, features.ebx >> 16 & 0xff, features.edx & edx_1::HTT), (3, 4, edx_1::HTT));
        assert_eq!(table.answer(0xb, 1, 0), Answer { eax: 2, ebx: 4, ecx: 0x201, edx: 3 });
        assert_eq!(features.edx & (edx_1::MCE | edx_1::MTRR | edx_1::PAT | edx_1::PSN), 0);
        assert_eq!(features.edx & (1 << 10 | 1 << 30), 0, "reserved bits");
        assert_eq!((table.answer(3, 0, 0), table.answer(6, 0, 0).eax), (Answer::ZERO, eax_6::ARAT));
        let structured = table.answer(7, 0, 0);
        assert_eq!(
            (structured.ebx & (ebx_7::INVPCID | ebx_7::RDSEED), structured.ecx & ecx_7::LA57),
            (0, 0),
            "INVPCID, RDSEED, LA57"
        );
        assert_eq!(table.answer(7, 1, 0), Answer::ZERO);
        assert_eq!(table.answer(0xd, 1, 0).eax & eax_d_1::XSAVES, 0);
        assert_eq!(table.answer(0xa, 0, 0), Answer::ZERO);
        assert_eq!(table.answer(0x8000_0008, 0, 0), Answer { eax: 0x3027, ..Answer::ZERO });
        assert_eq!((table.physical_address_bits(), table.has_rdtscp()), (39, true));
        let without = CpuidTable::new(everything, 3, 4, false);
        assert_eq!((without.has_rdtscp(), without.answer(7, 0, 0).ecx & ecx_7::RDPID), (false, 0));
    }

    #[test]
    fn the_apic_timer_counts_what_is_called_the_crystal() {
        let table = CpuidTable::new(everything, 0, 1, true);
        let expected = |ecx| Answer { eax: 1, ebx: 1, ecx, edx: 0 };
        assert_eq!(table.answer(0x15, 0, 0), expected(3_000_000_000));
        assert_eq!(clocks(Answer { eax: 2, ebx: 250, ..Answer::ZERO }), expected(0), "a crystal that is not told");
        let fast = Answer { eax: 1, ebx: 200, ecx: 25_000_000, edx: 0 };
        assert_eq!(clocks(fast), expected(0), "more than 32 bits can tell");
        assert_eq!(clocks(Answer { ecx: 1, ..Answer::ZERO }), Answer::ZERO, "no ratio");
        let deprecations = ebx_7::FDP_EXCEPTIONS_ONLY | ebx_7::NO_FCS_FDS;
        assert_eq!(table.answer(7, 0, 0).ebx & deprecations, deprecations, "what does not exist is not hidden");
    }

    #[test]
    fn osxsave_and_the_save_area_follow_the_guest() {
        let mut table = CpuidTable::new(everything, 0, 1, true);
        table.set_osxsave(true);
        assert_ne!(table.answer(1, 0, 0).ecx & ecx_1::OSXSAVE, 0);
        assert_eq!(table.answer(0xd, 0, 0b11).ebx, 576);
        assert_eq!(table.answer(0xd, 0, 0b111).ebx, 576 + 256);
        assert_eq!(table.answer(0xd, 99, 0b111), Answer::ZERO);
    }

    #[test]
    fn ranges_end_as_the_manual_says() {
        let table = CpuidTable::new(everything, 0, 1, true);
        assert_eq!(table.answer(0, 0, 0).eax, 0x16);
        assert_eq!(table.answer(0x17, 0, 0), table.answer(0x16, 0, 0));
        assert_eq!(table.answer(0x3fff_ffff, 0, 0), table.answer(0x16, 0, 0));
        assert_eq!(table.answer(0x8000_0009, 0, 0), table.answer(0x16, 0, 0));
        assert_eq!(table.answer(0x8000_0000, 0, 0).eax, 0x8000_0008);
        assert_eq!(table.answer(0x4000_0001, 0, 0), Answer::ZERO);
        let signature = table.answer(HYPERVISOR, 0, 0);
        assert_eq!(signature.ebx.to_le_bytes(), *b"Toll");
        assert_eq!(table.answer(KVM_LEAF.leaf, 0, 0), Answer::ZERO, "of another machine");
        let table = table.with_paravirtual(Some(KVM_LEAF));
        let kvm = table.answer(KVM_LEAF.leaf, 0, 0);
        assert_eq!((kvm.eax, kvm.ebx.to_le_bytes(), kvm.edx), (KVM_LEAF.leaf + 1, *b"KVMK", 0x4d));
        assert_eq!(table.answer(KVM_LEAF.leaf + 1, 0, 0), Answer::ZERO, "no features");
        assert_eq!(table.vendor(), *b"GenuineIntel");
    }

    #[test]
    fn leaves_that_depend_on_more_are_not_plain() {
        let table = CpuidTable::new(everything, 0, 1, true);
        assert_eq!(table.plain(0).map(|answer| (answer.eax, answer.ebx)), Some((0x16, 0x756e_6547)));
        for leaf in [4, 7, 0xb, 0xd, 32, 0x4fff_ffff, 0x8000_0000] {
            assert_eq!(table.plain(leaf), None, "{leaf:#x}");
        }
    }

    #[test]
    fn an_amd_processor_shows_nothing_that_the_guest_does_not_get() {
        // Leaves as on Bochs' ryzen: SVM, MONITORX and TOPOEXT among the features.
        let native = |leaf: u32, _: u32| match leaf {
            0 => Answer { eax: 0xd, ebx: 0x6874_7541, ecx: 0x444d_4163, edx: 0x6974_6e65 },
            0x8000_0000 => Answer { eax: 0x8000_001f, ..Answer::ZERO },
            0x8000_0001 => Answer { eax: 0x0080_0f11, ecx: 0x35c2_33ff, edx: 0x2fd3_fbff, ..Answer::ZERO },
            0x8000_001e => Answer { eax: 5, ..Answer::ZERO },
            _ => Answer { eax: 7, ..Answer::ZERO },
        };
        let table = CpuidTable::new(native, 0, 1, true);
        let features = table.answer(0x8000_0001, 0, 1);
        assert_eq!(
            (features.ecx, features.edx),
            (0x35c2_33ff & 0x0021_09e1, 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29)
        );
        for leaf in [0x8000_000a, 0x8000_001e, 0xffff_ffff] {
            assert_eq!(table.answer(leaf, 0, 1), Answer::ZERO, "{leaf:#x}");
        }
    }
}
