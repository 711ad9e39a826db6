//! The MSR permission map (APM 2 15.11). The I/O permission map (15.10) needs no code: every bit of it is 1.

use tollgate_abi::profile::{PASSED_THROUGH_MSRS, Profile};

use crate::nested::Table;

/// Pages of the MSR permission map.
pub const MSRPM_PAGES: usize = 2;
/// Pages of the I/O permission map: a bit for each port, and a few for accesses that begin at the last port.
pub const IOPM_PAGES: usize = 3;

/// The position of the two bits of `msr`, that for reads first; `None` for MSRs that always exit.
fn bit(msr: u32) -> Option<usize> {
    const VECTOR_BITS: usize = 0x800 * 8;
    let vector = match msr {
        0..=0x1fff => 0,
        0xc000_0000..=0xc000_1fff => 1,
        0xc001_0000..=0xc001_1fff => 2,
        _ => return None,
    };
    Some(vector * VECTOR_BITS + 2 * (msr as usize & 0x1fff))
}

/// Fills the map: every access exits, except for the MSRs that the profile passes through.
pub fn fill_msrpm(pages: &mut [Table; MSRPM_PAGES], profile: Profile) {
    pages.iter_mut().for_each(|page| page.0.fill(u64::MAX));
    for bit in PASSED_THROUGH_MSRS.iter().filter(|&&msr| !profile.msr_exits(msr)).filter_map(|&msr| bit(msr)) {
        pages[bit / (4096 * 8)].0[bit / 64 % 512] &= !(0b11 << (bit % 64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether an access exits, as the processor reads the map byte by byte.
    fn exits(pages: &[Table; MSRPM_PAGES], msr: u32, write: bool) -> bool {
        let (vector, low) = match msr {
            0..=0x1fff => (0, msr),
            0xc000_0000..=0xc000_1fff => (0x800, msr - 0xc000_0000),
            _ => (0x1000, msr - 0xc001_0000),
        };
        let bytes: Vec<u8> = pages.iter().flat_map(|page| &page.0).flat_map(|word| word.to_le_bytes()).collect();
        let bit = low as usize * 2 + usize::from(write);
        bytes[vector + bit / 8] >> (bit % 8) & 1 != 0
    }

    #[test]
    fn exactly_the_named_msrs_pass() {
        let mut pages = [Table::EMPTY, Table::EMPTY];
        for profile in Profile::ALL {
            fill_msrpm(&mut pages, profile);
            for msr in (0xc000_0080..0xc000_0110).chain([0, 0x1b, 0x174, 0x1fff, 0xc000_0000, 0xc001_0114, 0xc001_1fff])
            {
                let expected = profile.intercepts().all_msrs || !PASSED_THROUGH_MSRS.contains(&msr);
                assert_eq!((exits(&pages, msr, false), exits(&pages, msr, true)), (expected, expected), "{msr:#x}");
            }
        }
    }
}
