//! The page by which the monitor informs the guest.
#![expect(unsafe_code, reason = "the page that the monitor wrote")]

use tollgate_abi::machine::{BOOT_INFO_GPA, BOOT_INFO_MAGIC, BootInfo};

/// The page by which the monitor informed the guest.
pub(crate) fn boot_info() -> &'static BootInfo {
    // SAFETY: the monitor wrote the page before the first entry, its address is part of the contract (RDI at the entry
    // has the same), it is mapped to itself, and nobody writes it again.
    let boot = unsafe { &*(BOOT_INFO_GPA as *const BootInfo) };
    assert!(boot.magic == BOOT_INFO_MAGIC, "there is no boot information at {BOOT_INFO_GPA:#x}");
    boot
}

/// The number of vCPUs.
pub(crate) fn vcpus() -> usize {
    boot_info().vcpus as usize
}
