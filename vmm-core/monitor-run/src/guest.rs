//! Finds the guest in the ROM and lays it out in its memory.
#![expect(unsafe_code, reason = "takes the ROM and the guest's region as memory")]

use tollgate_abi::guest_image::{DIRECTORY_BYTES, DIRECTORY_OFFSET, Directory, LoadError, ROM_BASE, ROM_BYTES};
use tollgate_abi::machine::*;
use tollgate_abi::virtualization::Facts;
use vmm_core::memory::{BadAddress, GuestMemory};

/// Where guest-physical 0 is: above the monitor and its heap, and a multiple of 2 MiB for large pages.
const GUEST_HPA: u64 = 8 << 20;

/// Bytes of memory that the machine must have.
pub(crate) const NEEDED_BYTES: u64 = GUEST_HPA + GUEST_BYTES;

/// The ROM, which ends at 4 GiB.
pub(crate) fn rom() -> &'static [u8; ROM_BYTES] {
    // SAFETY: the reset vector was fetched from there; ROM is mapped by the boot block and never changes.
    unsafe { &*(ROM_BASE as usize as *const [u8; ROM_BYTES]) }
}

/// The directory page of the ROM.
pub(crate) fn directory() -> Result<Directory<'static>, LoadError> {
    let page: Option<&[u8; DIRECTORY_BYTES]> = rom()[DIRECTORY_OFFSET..].first_chunk();
    Directory::read(page.ok_or(LoadError::NoDirectory)?, ROM_BYTES as u64)
}

/// Takes the guest's memory, zeroed, and loads the guest: segments, page tables, boot information.
///
/// The caller has checked that the machine has [`NEEDED_BYTES`].
pub(crate) fn load(directory: &Directory<'_>, vcpus: usize, facts: Facts) -> Result<GuestMemory, BadAddress> {
    // SAFETY: the region lies in RAM, by the caller's check, and above everything that the monitor uses (link.ld, heap).
    let mut memory = unsafe { GuestMemory::new(GUEST_HPA as *mut u8, GUEST_BYTES) };
    memory.zero(0, GUEST_BYTES)?;
    for segment in directory.segments() {
        let stored = &rom()[segment.image_offset as usize..][..segment.packed_bytes as usize];
        if segment.is_packed() {
            let unpacked = lz4_flex::block::decompress(stored, segment.file_bytes as usize);
            memory.write(segment.gpa, &unpacked.map_err(|_| BadAddress(segment.gpa))?)?;
        } else {
            memory.write(segment.gpa, stored)?;
        }
    }
    page_tables(&mut memory)?;
    boot_info(&mut memory, directory.options, vcpus, facts)?;
    Ok(memory)
}

/// 4 GiB, mapped to itself by 2 MiB pages.
fn page_tables(memory: &mut GuestMemory) -> Result<(), BadAddress> {
    const TABLE: u64 = 0b11;
    const LARGE_PAGE: u64 = 0b1000_0011;
    let (pml4, pdpt, directories) = (PAGE_TABLES_GPA, PAGE_TABLES_GPA + PAGE_BYTES, PAGE_TABLES_GPA + 2 * PAGE_BYTES);
    memory.write_u64(pml4, pdpt | TABLE)?;
    for gib in 0..4 {
        memory.write_u64(pdpt + 8 * gib, (directories + gib * PAGE_BYTES) | TABLE)?;
    }
    (0..4 * 512).try_for_each(|page| memory.write_u64(directories + 8 * page, page << 21 | LARGE_PAGE))
}

fn boot_info(memory: &mut GuestMemory, options: &str, vcpus: usize, facts: Facts) -> Result<(), BadAddress> {
    let words =
        [BOOT_INFO_MAGIC, RAM_BYTES, RAM_BYTES, FRESH_BYTES, vcpus as u64, facts.to_word(), options.len() as u64];
    for (gpa, word) in (BOOT_INFO_GPA..).step_by(8).zip(words) {
        memory.write_u64(gpa, word)?;
    }
    memory.write(BOOT_INFO_GPA + 8 * words.len() as u64, options.as_bytes())
}
