//! The VGA BIOS that Bochs wants before it starts, although nothing here draws: the smallest one that it accepts. Bochs' own is
//! in no place that all of Debian's packages share, and in some releases in none.

/// One unit in which option ROMs are counted.
pub(super) const BYTES: usize = 512;
/// The file in a run's directory.
pub(super) const FILE: &str = "vga.rom";

/// An option ROM whose initialization returns at once. The sum of its bytes is 0, which Bochs checks.
pub(super) fn build() -> [u8; BYTES] {
    let mut rom = [0; BYTES];
    // The signature, the length in units, and a far return where firmware calls it.
    rom[..4].copy_from_slice(&[0x55, 0xaa, 1, 0xcb]);
    rom[BYTES - 1] = sum(&rom).wrapping_neg();
    rom
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_bytes_sum_up_to_nothing_behind_the_signature_of_an_option_rom() {
        let rom = build();
        assert_eq!((&rom[..3], sum(&rom)), (&[0x55, 0xaa, 1][..], 0));
        assert_eq!(usize::from(rom[2]) * 512, rom.len());
    }
}
