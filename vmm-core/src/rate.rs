//! The rate of the TSC, as far as the processor tells it (SDM 3B 20.7.3), for times that a person would notice.
//!
//! AMD's processors and older ones do not tell it. A usual rate then stands in: none of these times has to be exact.

use tollgate_abi::leaves::Answer;

/// Leaf 15H: EBX / EAX is the TSC's rate in terms of the core crystal clock's, which is ECX.
const TIME_STAMP_COUNTER: u32 = 0x15;
/// Leaf 16H: EAX is the base frequency in MHz.
const FREQUENCY: u32 = 0x16;
/// Ticks in a second if no leaf tells.
const USUAL_HZ: u64 = 3_000_000_000;
/// The rates that are believed. By a rate out of this range, which a wrong leaf may tell, a time would be far too short or too
/// long.
const BELIEVED_HZ: core::ops::RangeInclusive<u64> = 100_000_000..=20_000_000_000;

/// TSC ticks in a second; a usual rate if the processor does not tell.
pub fn tsc_hz(cpuid: impl Fn(u32, u32) -> Answer) -> u64 {
    told_hz(cpuid).unwrap_or(USUAL_HZ)
}

/// TSC ticks in a second, if the processor tells.
pub fn told_hz(cpuid: impl Fn(u32, u32) -> Answer) -> Option<u64> {
    // If the crystal's rate is not told, the TSC counts at the base frequency.
    let by_base = u64::from(leaf(&cpuid, FREQUENCY).eax & 0xffff) * 1_000_000;
    by_crystal(&cpuid).or(Some(by_base)).filter(|hz| BELIEVED_HZ.contains(hz))
}

/// TSC ticks in a second to the tick, if the processor tells the rate of its crystal.
pub fn by_crystal(cpuid: impl Fn(u32, u32) -> Answer) -> Option<u64> {
    let Answer { eax: crystals, ebx: ticks, ecx: crystal_hz, .. } = leaf(&cpuid, TIME_STAMP_COUNTER);
    let hz = (u64::from(crystal_hz) * u64::from(ticks)).checked_div(crystals.into());
    hz.filter(|hz| BELIEVED_HZ.contains(hz))
}

/// A basic leaf; all zero if there is no such.
fn leaf(cpuid: &impl Fn(u32, u32) -> Answer, leaf: u32) -> Answer {
    if leaf <= cpuid(0, 0).eax { cpuid(leaf, 0) } else { Answer::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processor(leaf_15: [u32; 3], base_mhz: u32, highest: u32) -> impl Fn(u32, u32) -> Answer {
        let [eax, ebx, ecx] = leaf_15;
        move |leaf, _| match leaf {
            0 => Answer { eax: highest, ..Answer::ZERO },
            TIME_STAMP_COUNTER => Answer { eax, ebx, ecx, edx: 0 },
            FREQUENCY => Answer { eax: base_mhz, ..Answer::ZERO },
            other => panic!("leaf {other:#x}"),
        }
    }

    fn hz(leaf_15: [u32; 3], base_mhz: u32, highest: u32) -> u64 {
        tsc_hz(processor(leaf_15, base_mhz, highest))
    }

    #[test]
    fn the_rate_is_what_the_processor_tells_or_a_usual_one() {
        assert_eq!(hz([2, 188, 38_400_000], 3600, 0x16), 3_609_600_000, "the crystal's");
        assert_eq!(hz([2, 250, 0], 3000, 0x16), 3_000_000_000, "the base frequency");
        assert_eq!(hz([0, 0, 0], 0, 0x16), USUAL_HZ);
        assert_eq!(hz([2, 188, 38_400_000], 2400, 0xd), USUAL_HZ, "no such leaves");
        assert_eq!(hz([1, 1, 1], 0, 0x16), USUAL_HZ, "one tick in a second is none to be believed");
    }

    #[test]
    fn only_a_crystal_tells_the_rate_to_the_tick() {
        assert_eq!(by_crystal(processor([2, 188, 38_400_000], 3600, 0x16)), Some(3_609_600_000));
        for leaf_15 in [[2, 250, 0], [0, 0, 0], [1, 1, 1]] {
            assert_eq!(by_crystal(processor(leaf_15, 3000, 0x16)), None, "{leaf_15:?}");
        }
    }
}
