//! The MSR bitmaps (SDM 3C 25.6.9). The I/O bitmaps (25.6.4) need no code: every bit of theirs is 1.

use tollgate_abi::profile::{PASSED_THROUGH_MSRS, Profile};

use super::ept::Table;

/// Where the quarters of the page are, in bits: reads of low MSRs, reads of high ones, writes of low, writes of high.
const WRITES: usize = 2048 * 8;
const HIGH: usize = 1024 * 8;

/// The bit for reads of `msr`; `None` for MSRs that always exit. That for writes is [`WRITES`] further.
fn read_bit(msr: u32) -> Option<usize> {
    match msr {
        0..=0x1fff => Some(msr as usize),
        0xc000_0000..=0xc000_1fff => Some(HIGH + (msr as usize & 0x1fff)),
        _ => None,
    }
}

/// Fills the page: every access exits, except for the MSRs that the profile passes through.
pub fn fill_msr_bitmaps(page: &mut Table, profile: Profile) {
    page.0.fill(u64::MAX);
    for &msr in PASSED_THROUGH_MSRS.iter().filter(|&&msr| !profile.msr_exits(msr)) {
        for bit in read_bit(msr).into_iter().flat_map(|bit| [bit, bit + WRITES]) {
            page.0[bit / 64] &= !(1 << (bit % 64));
        }
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
            fill_msr_bitmaps(&mut page, profile);
            for msr in (0..0x2000).chain(0xc000_0000..0xc000_2000) {
                let expected = profile == Profile::Full || !PASSED_THROUGH_MSRS.contains(&msr);
                assert_eq!((exits(&page, msr, false), exits(&page, msr, true)), (expected, expected), "{msr:#x}");
            }
        }
    }
}
