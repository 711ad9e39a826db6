//! Lays the guest out in its memory, from the image in which it lies.
#![expect(unsafe_code, reason = "takes the guest's region as memory")]

use tollgate_abi::guest_image::Directory;
use tollgate_abi::machine::*;
use tollgate_abi::virtualization::Facts;
use vmm_core::memory::{BadAddress, GuestMemory};

/// The machine that the guest sees.
pub(crate) const MODEL: &Model = &UNIKERNEL;

/// Takes the guest's memory, zeroed, and loads the guest: segments, page tables, boot information.
///
/// `image` is what the directory's offsets count in; its length was checked when the directory was read.
///
/// # Safety
/// `guest_hpa` is what the firmware gave as the guest's memory, and this is called once.
pub(crate) unsafe fn load(
    directory: &Directory<'_>,
    image: &[u8],
    guest_hpa: u64,
    vcpus: usize,
    facts: Facts,
) -> Result<GuestMemory, BadAddress> {
    // SAFETY: the caller's contract: `GUEST_BYTES` from there are memory, mapped to itself, and nobody else's.
    let mut memory = unsafe { GuestMemory::new(guest_hpa as *mut u8, GUEST_BYTES) };
    memory.zero(0, GUEST_BYTES)?;
    for segment in directory.segments() {
        let stored = &image[segment.image_offset as usize..][..segment.packed_bytes as usize];
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
