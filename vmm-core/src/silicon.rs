//! The properties of a processor that decide what an exit costs on it besides its model: the revision of its microcode, the
//! threads that share a core, mitigations, and system-management interrupts.
//!
//! Pure: CPUID and the MSRs come in as functions, so that every processor is a test row.

use tollgate_abi::leaves::Answer;
use tollgate_abi::record::records;
use tollgate_abi::x86::cpuid::{ebx_8000_0008, ecx_8000_0001, edx_1, edx_7};
use tollgate_abi::x86::msr::{IA32_BIOS_SIGN_ID, IA32_SPEC_CTRL, MSR_SMI_COUNT};

use crate::rate::told_hz;

/// Leaf BH, sub-leaf 0: EBX is the number of threads of a core, if ECX says that this is what the sub-leaf is about (SDM 2A CPUID).
const TOPOLOGY: u32 = 0xb;
const OF_THREADS: u32 = 1;
/// Leaf 8000_001EH: EBX bits 15:8 are the threads of a core less one (APM 3 E.4.18).
const AMD_TOPOLOGY: u32 = 0x8000_001e;

/// The maker of a processor, as far as that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maker {
    Intel,
    Amd,
    Other,
}

/// The properties, as far as the processor tells them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Silicon {
    /// Revision of the microcode.
    pub microcode: Option<u64>,
    /// Threads of one core.
    pub threads: Option<u64>,
    /// IA32_SPEC_CTRL, as firmware has left it.
    pub spec_ctrl: Option<u64>,
    /// System-management interrupts since the processor started.
    pub smis: Option<u64>,
    /// Ticks of the time-stamp counter in a second, where they are time.
    pub tsc_hz: Option<u64>,
}

impl Silicon {
    /// Reads them. `msr` is `None` where the processor has no such MSR, as an emulator may. On Intel's processors IA32_BIOS_SIGN_ID has
    /// been made to tell, by a write of 0 and CPUID leaf 1 (SDM 3A 10.11.7).
    /// `is_time` says that the time-stamp counter counts time, and not the instructions of an emulator.
    pub fn read(cpuid: impl Fn(u32, u32) -> Answer, msr: impl Fn(u32) -> Option<u64>, is_time: bool) -> Self {
        let leaf = |number: u32, sub_leaf: u32| {
            let highest = cpuid(number & 0x8000_0000, 0).eax;
            if number <= highest { cpuid(number, sub_leaf) } else { Answer::ZERO }
        };
        let maker = match vendor(cpuid(0, 0)).as_flattened() {
            b"GenuineIntel" => Maker::Intel,
            b"AuthenticAMD" | b"HygonGenuine" => Maker::Amd,
            _ => Maker::Other,
        };
        let microcode = match maker {
            Maker::Intel => msr(IA32_BIOS_SIGN_ID).map(|value| value >> 32),
            // There it is called PATCH_LEVEL (APM 2 appendix A).
            Maker::Amd => msr(IA32_BIOS_SIGN_ID).map(|value| value & u64::from(u32::MAX)),
            Maker::Other => None,
        };
        let has_spec_ctrl = leaf(7, 0).edx & (edx_7::IBRS | edx_7::STIBP | edx_7::SSBD) != 0
            || leaf(0x8000_0008, 0).ebx & (ebx_8000_0008::IBRS | ebx_8000_0008::STIBP | ebx_8000_0008::SSBD) != 0;
        Self {
            microcode,
            threads: threads(leaf, maker),
            spec_ctrl: if has_spec_ctrl { msr(IA32_SPEC_CTRL) } else { None },
            // Those with EPT have it, from Nehalem on (SDM 4 table 2-15).
            smis: if maker == Maker::Intel { msr(MSR_SMI_COUNT) } else { None },
            tsc_hz: if is_time { told_hz(&cpuid) } else { None },
        }
    }

    /// As a record.
    pub fn record(&self) -> records::Processor<'static> {
        let Self { microcode, threads, spec_ctrl, smis, tsc_hz } = *self;
        records::Processor { microcode, threads, spec_ctrl, smis, tsc_hz }
    }
}

fn vendor(leaf_0: Answer) -> [[u8; 4]; 3] {
    [leaf_0.ebx, leaf_0.edx, leaf_0.ecx].map(u32::to_le_bytes)
}

fn threads(leaf: impl Fn(u32, u32) -> Answer, maker: Maker) -> Option<u64> {
    let topology = leaf(TOPOLOGY, 0);
    let told = u64::from(topology.ebx & 0xffff);
    if told > 0 && topology.ecx >> 8 & 0xff == OF_THREADS {
        return Some(told);
    }
    if leaf(0x8000_0001, 0).ecx & ecx_8000_0001::TOPOEXT != 0 {
        return Some(u64::from(leaf(AMD_TOPOLOGY, 0).ebx >> 8 & 0xff) + 1);
    }
    // Neither leaf: AMD's had no threads then; elsewhere the bit says that there may be some.
    (maker == Maker::Amd || leaf(1, 0).edx & edx_1::HTT == 0).then_some(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTEL: &[u8; 12] = b"GenuineIntel";
    const AMD: &[u8; 12] = b"AuthenticAMD";

    /// A processor: its maker, its highest leaves, answers of leaves as EAX to EDX, and its MSRs. Any other MSR must not be asked for.
    fn read(maker: &[u8; 12], highest: [u32; 2], leaves: &[(u32, [u32; 4])], msrs: &[(u32, Option<u64>)]) -> Silicon {
        let part = |at: usize| u32::from_le_bytes(maker[at..at + 4].try_into().unwrap());
        let cpuid = |leaf: u32, _: u32| match leaf {
            0 => Answer { eax: highest[0], ebx: part(0), edx: part(4), ecx: part(8) },
            0x8000_0000 => Answer { eax: highest[1], ..Answer::ZERO },
            _ => {
                assert!(leaf <= highest[usize::from(leaf >= 0x8000_0000)], "{leaf:#x} is beyond the highest");
                let found = leaves.iter().find(|(number, _)| *number == leaf);
                found.map_or(Answer::ZERO, |&(_, [eax, ebx, ecx, edx])| Answer { eax, ebx, ecx, edx })
            }
        };
        let msr = |msr: u32| msrs.iter().find(|(number, _)| *number == msr).unwrap_or_else(|| panic!("MSR {msr:#x}")).1;
        assert_eq!(Silicon::read(cpuid, msr, false).tsc_hz, None);
        Silicon::read(cpuid, msr, true)
    }

    #[test]
    fn intels_tell_microcode_in_the_upper_half_and_smis() {
        let rate = (0x15, [2, 188, 38_400_000, 0]);
        let leaves = [(7, [0, 0, 0, edx_7::IBRS | edx_7::SSBD]), (0xb, [1, 2, 1 << 8, 0]), rate];
        let msrs = [(0x8b, Some(0x0b00_0040_0000_0000)), (0x48, Some(1)), (0x34, Some(17))];
        let expected = Silicon {
            microcode: Some(0x0b00_0040),
            threads: Some(2),
            spec_ctrl: Some(1),
            smis: Some(17),
            tsc_hz: Some(3_609_600_000),
        };
        assert_eq!(read(INTEL, [0x16, 0x8000_0008], &leaves, &msrs), expected);
        let without_threads = [(7, [0; 4]), (0xb, [0, 1, 1 << 8, 0]), rate];
        let expected = Silicon { threads: Some(1), spec_ctrl: None, ..expected };
        assert_eq!(read(INTEL, [0x16, 0x8000_0008], &without_threads, &msrs), expected);
    }

    #[test]
    fn amds_tell_it_in_the_lower_half_and_count_no_smis() {
        let leaves = [
            (0x8000_0001, [0, 0, ecx_8000_0001::TOPOEXT, 0]),
            (0x8000_0008, [0, ebx_8000_0008::STIBP, 0, 0]),
            (0x8000_001e, [0, 1 << 8, 0, 0]),
        ];
        let msrs = [(0x8b, Some(0x0830_107c)), (0x48, Some(4))];
        let expected =
            Silicon { microcode: Some(0x0830_107c), threads: Some(2), spec_ctrl: Some(4), ..Silicon::default() };
        assert_eq!(read(AMD, [0x10, 0x8000_001e], &leaves, &msrs), expected);
        let expected = Silicon { threads: Some(1), spec_ctrl: None, ..expected };
        assert_eq!(read(AMD, [5, 0x8000_0007], &[(1, [0, 0, 0, edx_1::HTT])], &msrs), expected);
    }

    #[test]
    fn what_a_processor_does_not_have_is_left_out() {
        let lacking = [(0x8b, None), (0x34, None)];
        assert_eq!(read(INTEL, [5, 0x8000_0008], &[], &lacking), Silicon { threads: Some(1), ..Silicon::default() });
        // The sub-leaf is about another level than threads, here the third of leaf 1FH.
        let of_tiles = [(1, [0, 0, 0, edx_1::HTT]), (0xb, [0, 8, 3 << 8, 0])];
        assert_eq!(read(INTEL, [0x16, 0x8000_0008], &of_tiles, &lacking), Silicon::default());
        let of_many = [(1, [0, 0, 0, edx_1::HTT])];
        assert_eq!(read(INTEL, [5, 0x8000_0008], &of_many, &lacking), Silicon::default());
        assert_eq!(read(b"SomebodyElse", [5, 0x8000_0008], &of_many, &[]), Silicon::default());
    }
}
