//! The layout of the ROM: the boot block at its end, and the directory page below.

/// Bytes of the ROM, which ends at 4 GiB.
pub const ROM_BYTES: usize = 256 << 10;
/// Address of its first byte.
pub const ROM_BASE: u32 = ROM_BYTES.wrapping_neg() as u32;
/// Bytes of the boot block at its end.
pub const BOOT_BLOCK_BYTES: usize = 4096;
/// Address of the boot block, at which it is executed.
pub const BOOT_BLOCK_ADDRESS: u64 = ROM_BASE as u64 + (ROM_BYTES - BOOT_BLOCK_BYTES) as u64;
/// Bytes of the directory page, which lies below the boot block.
pub const DIRECTORY_BYTES: usize = 4096;
/// Offset of the directory page in the ROM.
pub const DIRECTORY_OFFSET: usize = ROM_BYTES - BOOT_BLOCK_BYTES - DIRECTORY_BYTES;
