//! The segments of a guest at its entry point and after a start-up IPI: selectors, access rights in the form of a VMCS
//! (SDM 3C table 25-2), limits.

use super::control::{RIGHTS_PRESENT, RIGHTS_UNUSABLE};

macro_rules! segments {
    ($($name:ident: $type:ty = $value:expr, $about:literal;)*) => {
        $(#[doc = $about] pub const $name: $type = $value;)*
    };
}

segments! {
    CODE_SELECTOR:   u16 = 0x08,   "Selects the flat 64-bit code segment.";
    DATA_SELECTOR:   u16 = 0x10,   "Selects the flat data segment.";
    TSS_SELECTOR:    u16 = 0x18,   "Selects the TSS.";
    CODE_64:         u64 = 0xa09b, "Present, execute and read, accessed, L, G.";
    CODE_32:         u64 = 0xc09b, "Present, execute and read, accessed, D, G.";
    DATA:            u64 = 0xc093, "Present, read and write, accessed, B, G.";
    BUSY_TSS:        u64 = 0x8b,   "Present, busy 64-bit TSS.";
    REAL_MODE_CODE:  u64 = 0x9b,   "Present, execute and read, accessed.";
    REAL_MODE_DATA:  u64 = 0x93,   "Present, read and write, accessed.";
    LDT:             u64 = 0x82,   "Present, LDT.";
    FLAT_LIMIT:      u32 = u32::MAX, "The whole of four GiB.";
    TSS_64_LIMIT:    u32 = 0x67,   "A 64-bit TSS without an I/O map (SDM 3A figure 8-11).";
    REAL_MODE_LIMIT: u32 = 0xffff, "64 KiB.";
}

/// A selector's table indicator: it selects from the LDT (SDM 3A 3.4.2).
pub const SELECTOR_TI: u16 = 1 << 2;
/// A selector's requested privilege level.
pub const SELECTOR_RPL: u16 = 0b11;
/// The bits of a selector that are its descriptor's offset in the table: all but the table indicator and the RPL.
pub const SELECTOR_OFFSET: u16 = !0b111;

/// Access rights from a VMCB's packed attributes (APM 2 15.5.1), where a segment that is not present is unusable.
pub const fn rights(attributes: u64) -> u64 {
    let unusable = if attributes & RIGHTS_PRESENT == 0 { RIGHTS_UNUSABLE } else { 0 };
    attributes & 0xff | (attributes & 0xf00) << 4 | unusable
}

/// The inverse of [`rights`].
pub const fn attributes(rights: u64) -> u64 {
    if rights & RIGHTS_UNUSABLE != 0 { 0 } else { rights & 0xff | (rights >> 4) & 0xf00 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_and_attributes_are_two_forms_of_one() {
        for (packed, wide) in
            [(0xa9b, CODE_64), (0xc9b, CODE_32), (0xc93, DATA), (0x8b, BUSY_TSS), (0, RIGHTS_UNUSABLE)]
        {
            assert_eq!((rights(packed), attributes(wide)), (wide, packed));
        }
    }
}
