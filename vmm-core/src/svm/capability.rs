//! The features of this processor's SVM (APM 2 15.4, APM 3 appendix E.4.9), and whether the monitor can run with them.
//!
//! Pure: CPUID and the MSR come in as functions, so that every processor whose values are known is a test row.

use core::fmt;

use tollgate_abi::ExitReason;
use tollgate_abi::leaves::Answer;
use tollgate_abi::virtualization::Facts;
use tollgate_abi::x86::control::*;
use tollgate_abi::x86::cpuid::{
    ebx_7, ebx_8000_0008, ecx_1, ecx_7, ecx_8000_0001, edx_1, edx_8000_000a, edx_8000_0001,
};
use tollgate_abi::x86::msr::VM_CR_SVMDIS;

/// The features in CPUID.8000_000A, and the instructions that the guest can execute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// ASIDs, that of the host included.
    pub asids: u32,
    /// The processor saves the RIP behind an intercepted instruction.
    pub next_rip: bool,
    /// The processor can be told which groups of fields need not be reloaded: [`CLEAN`](super::vmcb::CLEAN).
    pub clean_bits: bool,
    /// The translations of one ASID can be flushed.
    pub flush_by_asid: bool,
    /// A second PAUSE makes no exit if it comes more than a number of ticks after the first.
    pub pause_threshold: bool,
    /// EXITINFO1 tells about the operands of some instructions.
    pub decode_assists: bool,
    /// The instructions that exist.
    pub has: Instructions,
    /// CR4 bits that the processor has, among those that a guest may be offered.
    pub cr4_allowed: u64,
    /// The processor's deviations from the manual.
    pub facts: Facts,
    /// The exits by which some of these facts were found out.
    pub probed: Probed,
}

/// The number of probes ([`super::probe`]).
pub const PROBES: usize = 3;

/// The exits that probes made: the instruction, and the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probed([Option<(&'static str, ExitReason)>; PROBES]);

impl Probed {
    /// The instruction and the reason of each exit.
    pub fn exits(self) -> impl Iterator<Item = (&'static str, ExitReason)> {
        self.0.into_iter().flatten()
    }

    pub(super) fn note(&mut self, at: usize, instruction: &'static str, reason: ExitReason) {
        self.0[at] = Some((instruction, reason));
    }
}

/// Instructions that are intercepted only if they exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "their names")]
pub struct Instructions {
    pub rdtscp: bool,
    pub monitor: bool,
    pub xsetbv: bool,
    pub invpcid: bool,
    pub rdpru: bool,
}

/// The reason that this processor can't run the monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// VM_CR.SVMDIS is set.
    Disabled,
    /// No nested paging.
    NoNestedPaging,
    /// Fewer than two ASIDs.
    NoAsid,
    /// CR4.LA57 is set: nested tables are walked in the host's paging mode (APM 2 15.25.3), and the monitor's have four levels.
    FiveLevels,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Disabled => "the firmware has switched SVM off (VM_CR.SVMDIS is 1)",
            Refusal::NoNestedPaging => {
                "this CPU's SVM lacks nested paging, which the monitor needs (CPUID 8000_000A, EDX bit 0)"
            }
            Refusal::NoAsid => "this CPU's SVM has no ASID for a guest (CPUID 8000_000A, EBX)",
            Refusal::FiveLevels => {
                "the firmware has switched 5-level paging on (CR4.LA57 is 1), and the monitor's nested page tables have four levels"
            }
        })
    }
}

impl Refusal {
    /// The remedy, for a person.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Refusal::Disabled => "switch SVM on in the firmware's settings",
            Refusal::FiveLevels => "switch 5-level paging off in the firmware's settings",
            Refusal::NoNestedPaging | Refusal::NoAsid => {
                "use a CPU with nested paging, from Barcelona on (Bochs: --cpu zambezi; QEMU: -cpu max)"
            }
        }
    }
}

/// Whether CPUID shows SVM.
pub fn is_offered(cpuid: impl Fn(u32, u32) -> Answer) -> bool {
    cpuid(0x8000_0000, 0).eax >= 0x8000_000a && cpuid(0x8000_0001, 0).ecx & ecx_8000_0001::SVM != 0
}

/// A feature that CPUID shows, and the bit in CR4 that exists with it.
type Cr4Bit = (fn(&Features) -> bool, u64);
const CR4_BY_FEATURE: [Cr4Bit; 9] = [
    (|features| features.edx_1 & edx_1::VME != 0, CR4_VME),
    (|features| features.edx_1 & edx_1::VME != 0, CR4_PVI),
    (|features| features.edx_1 & edx_1::DE != 0, CR4_DE),
    (|features| features.edx_1 & edx_1::PSE != 0, CR4_PSE),
    (|features| features.edx_1 & edx_1::PGE != 0, CR4_PGE),
    (|features| features.ecx_1 & ecx_1::XSAVE != 0, CR4_OSXSAVE),
    (|features| features.ebx_7 & ebx_7::FSGSBASE != 0, CR4_FSGSBASE),
    (|features| features.ebx_7 & ebx_7::SMEP != 0, CR4_SMEP),
    (|features| features.ecx_7 & ecx_7::UMIP != 0, CR4_UMIP),
];
/// The bits that every 64-bit processor has.
const CR4_ALWAYS: u64 = CR4_TSD | CR4_PAE | CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT;

struct Features {
    ecx_1: u32,
    edx_1: u32,
    ebx_7: u32,
    ecx_7: u32,
}

impl Capabilities {
    /// Reads the features of a processor with SVM, by `cpuid(leaf, sub-leaf)`, VM_CR and the monitor's own CR4.
    ///
    /// # Errors
    /// SVM is switched off, or lacks a feature that the monitor needs.
    pub fn read(cpuid: impl Fn(u32, u32) -> Answer, vm_cr: u64, host_cr4: u64) -> Result<Self, Refusal> {
        if vm_cr & VM_CR_SVMDIS != 0 {
            return Err(Refusal::Disabled);
        }
        if host_cr4 & CR4_LA57 != 0 {
            return Err(Refusal::FiveLevels);
        }
        let svm = cpuid(0x8000_000a, 0);
        if svm.edx & edx_8000_000a::NP == 0 {
            return Err(Refusal::NoNestedPaging);
        }
        if svm.ebx < 2 {
            return Err(Refusal::NoAsid);
        }
        let (basic, extended) = (cpuid(1, 0), cpuid(0x8000_0001, 0));
        let structured = if cpuid(0, 0).eax >= 7 { cpuid(7, 0) } else { Answer::ZERO };
        let features = Features { ecx_1: basic.ecx, edx_1: basic.edx, ebx_7: structured.ebx, ecx_7: structured.ecx };
        let cr4 = CR4_BY_FEATURE.iter().filter(|(has, _)| has(&features)).fold(CR4_ALWAYS, |bits, (_, bit)| bits | bit);
        let has_sizes = cpuid(0x8000_0000, 0).eax >= 0x8000_0008;
        let rdpru = has_sizes && cpuid(0x8000_0008, 0).ebx & ebx_8000_0008::RDPRU != 0;
        let facts = Facts::of_svm(&cpuid);
        Ok(Self {
            asids: svm.ebx,
            next_rip: svm.edx & edx_8000_000a::NRIPS != 0,
            clean_bits: svm.edx & edx_8000_000a::VMCB_CLEAN != 0,
            flush_by_asid: svm.edx & edx_8000_000a::FLUSH_BY_ASID != 0,
            pause_threshold: svm.edx & edx_8000_000a::PAUSE_FILTER_THRESHOLD != 0,
            decode_assists: svm.edx & edx_8000_000a::DECODE_ASSISTS != 0,
            has: Instructions {
                rdtscp: extended.edx & edx_8000_0001::RDTSCP != 0 && !facts.is_qemu,
                monitor: basic.ecx & ecx_1::MONITOR != 0,
                xsetbv: basic.ecx & ecx_1::XSAVE != 0 && !facts.is_qemu,
                invpcid: structured.ebx & ebx_7::INVPCID != 0 && !facts.is_qemu,
                rdpru,
            },
            cr4_allowed: cr4,
            facts,
            probed: Probed::default(),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// CPUID as QEMU's `max` and Bochs' `zambezi` answer it, as far as it is read here.
    pub(crate) fn qemu(leaf: u32, _: u32) -> Answer {
        match leaf {
            0 => Answer { eax: 0xd, ..Answer::ZERO },
            1 => Answer { ecx: 1 << 31 | 1 << 26 | 1 << 3, edx: 0x0f8b_fbff, ..Answer::ZERO },
            7 => Answer { ebx: 1 << 20 | 1 << 7 | 1, ecx: 1 << 2, ..Answer::ZERO },
            0x4000_0000 => Answer { eax: 0x4000_0001, ebx: 0x5447_4354, ecx: 0x4354_4743, edx: 0x4743_5447 },
            0x8000_0000 => Answer { eax: 0x8000_000a, ..Answer::ZERO },
            0x8000_0001 => Answer { ecx: 1 << 2, edx: 1 << 27, ..Answer::ZERO },
            0x8000_000a => Answer { eax: 1, ebx: 16, ecx: 0, edx: 0x1_0001 },
            _ => Answer::ZERO,
        }
    }

    pub(crate) fn zambezi(leaf: u32, _: u32) -> Answer {
        match leaf {
            0 => Answer { eax: 0xd, ..Answer::ZERO },
            1 => Answer { ecx: 1 << 26 | 1 << 3, edx: 0x178b_fbff, ..Answer::ZERO },
            0x8000_0000 => Answer { eax: 0x8000_001e, ..Answer::ZERO },
            0x8000_0001 => Answer { ecx: 1 << 2, edx: 1 << 27, ..Answer::ZERO },
            0x8000_000a => Answer { eax: 1, ebx: 64, ecx: 0, edx: 0x4b },
            _ => Answer::ZERO,
        }
    }

    #[test]
    fn processors_say_what_they_have() {
        let of_qemu = Capabilities::read(qemu, 0, 0).unwrap();
        assert!(of_qemu.facts.is_qemu && !of_qemu.next_rip && !of_qemu.has.xsetbv && !of_qemu.has.rdtscp);
        assert_eq!((of_qemu.asids, of_qemu.cr4_allowed), (16, 0x15_0fbf));
        let of_bochs = Capabilities::read(zambezi, 0, 0).unwrap();
        assert!(
            !of_bochs.facts.is_qemu
                && of_bochs.next_rip
                && !of_bochs.decode_assists
                && of_bochs.has.xsetbv
                && of_bochs.has.rdtscp
        );
        assert_eq!(of_bochs.cr4_allowed, 0x4_07bf);
        assert!(is_offered(qemu) && is_offered(zambezi) && !is_offered(|_, _| Answer::ZERO));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(Capabilities::read(qemu, 1 << 4, 0), Err(Refusal::Disabled));
        let without = |change: fn(&mut Answer)| {
            Capabilities::read(
                |leaf, sub_leaf| {
                    let mut answer = qemu(leaf, sub_leaf);
                    if leaf == 0x8000_000a {
                        change(&mut answer);
                    }
                    answer
                },
                0,
                0,
            )
        };
        assert_eq!(without(|svm| svm.edx = 0), Err(Refusal::NoNestedPaging));
        assert_eq!(without(|svm| svm.ebx = 1), Err(Refusal::NoAsid));
        assert_eq!(Capabilities::read(qemu, 0, CR4_LA57), Err(Refusal::FiveLevels));
    }
}
