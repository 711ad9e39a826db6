//! The MSR bitmaps (SDM 3C 25.6.9). The I/O bitmaps (25.6.4) need no code: every bit in them is 1.

use tollgate_abi::apic::*;
use tollgate_abi::profile::{PASSED_THROUGH_MSRS, Profile};

use crate::exit::VirtualizedApic;
use crate::nested::Table;

/// The offsets, in bits, of the quarters of the page: reads of low MSRs, reads of high ones, writes of low ones, writes of high
/// ones.
const WRITES: usize = 2048 * 8;
const HIGH: usize = 1024 * 8;

/// The bit for reads of `msr`; `None` for MSRs that always exit. The bit for writes lies [`WRITES`] further.
fn read_bit(msr: u32) -> Option<usize> {
    match msr {
        0..=0x1fff => Some(msr as usize),
        0xc000_0000..=0xc000_1fff => Some(HIGH + (msr as usize & 0x1fff)),
        _ => None,
    }
}

/// Fills the page: every access exits, except for the MSRs that the profile passes through, and for those of the local APIC
/// that the processor virtualizes.
pub fn fill_msr_bitmaps(page: &mut Table, profile: Profile, apic: VirtualizedApic) {
    page.0.fill(u64::MAX);
    let mut pass = |msr: u32, offset: usize| {
        if let Some(bit) = read_bit(msr).map(|bit| bit + offset) {
            page.0[bit / 64] &= !(1 << (bit % 64));
        }
    };
    for &msr in PASSED_THROUGH_MSRS.iter().filter(|&&msr| !profile.msr_exits(msr)) {
        [0, WRITES].into_iter().for_each(|offset| pass(msr, offset));
    }
    if apic.priority {
        [0, WRITES].into_iter().for_each(|offset| pass(TPR, offset));
    }
    if apic.registers {
        let kept = [ID, VERSION, PPR, LDR, SVR, ESR, ICR, INITIAL_COUNT, DIVIDE];
        kept.into_iter().chain(ISR..ESR).chain(LVT_TIMER..=LVT_ERROR).for_each(|msr| pass(msr, 0));
    }
    if apic.delivery {
        [EOI, SELF_IPI].into_iter().for_each(|msr| pass(msr, WRITES));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether an access exits, as the processor reads the page byte by byte.
    fn exits(page: &Table, msr: u32, write: bool) -> bool {
        let quarter = usize::from(write) * 2048 + if msr >= 0xc000_0000 { 1024 } else { 0 };
        let low = msr as usize & 0x1fff;
        let bytes: Vec<u8> = page.0.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes[quarter + low / 8] >> (low % 8) & 1 != 0
    }

    #[test]
    fn exactly_the_named_msrs_pass() {
        let mut page = Table::EMPTY;
        for profile in Profile::ALL {
            fill_msr_bitmaps(&mut page, profile, VirtualizedApic::default());
            for msr in (0..0x2000).chain(0xc000_0000..0xc000_2000) {
                let expected = profile.intercepts().all_msrs || !PASSED_THROUGH_MSRS.contains(&msr);
                assert_eq!((exits(&page, msr, false), exits(&page, msr, true)), (expected, expected), "{msr:#x}");
            }
        }
    }

    #[test]
    fn what_is_virtualized_passes_in_its_direction() {
        let mut page = Table::EMPTY;
        let apic = VirtualizedApic { priority: true, registers: true, delivery: true };
        fill_msr_bitmaps(&mut page, Profile::VirtualApic, apic);
        let both = |msr| (exits(&page, msr, false), exits(&page, msr, true));
        assert_eq!((both(TPR), both(ID), both(EOI)), ((false, false), (false, true), (true, false)));
        assert_eq!((both(SELF_IPI), both(ICR), both(CURRENT_COUNT)), ((true, false), (false, true), (true, true)));
        assert_eq!(
            (both(MSR_BASE), both(IA32_TSC_DEADLINE), both(IA32_APIC_BASE)),
            ((true, true), (true, true), (true, true))
        );
    }
}
