//! The descriptor table that Linux' 64-bit boot protocol asks for: code at selector 10h, data at 18h, both flat (SDM 3A 3.4.5).

/// Execute/read, 64-bit, present, CPL 0, accessed.
const CODE: u64 = 0x00af_9b00_0000_ffff;
/// Read/write, 4 GiB, present, CPL 0, accessed.
const DATA: u64 = 0x00cf_9300_0000_ffff;

const DESCRIPTORS: [u64; 4] = [0, 0, CODE, DATA];

/// The limit for GDTR.
pub(crate) const LIMIT: u16 = size_of_val(&DESCRIPTORS) as u16 - 1;

/// The table.
pub(crate) fn bytes() -> Vec<u8> {
    DESCRIPTORS.into_iter().flat_map(u64::to_le_bytes).collect()
}
