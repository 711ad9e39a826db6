//! The ROM as the monitor's firmware: the machine is bare, the boot block has unpacked the guest, and the emulator's ports end the run.
#![expect(unsafe_code, reason = "takes the ROM as memory")]

use alloc::vec::Vec;

use tollgate_abi::guest_image::{DIRECTORY_BYTES, DIRECTORY_OFFSET, Directory, PLACED_HPA, ROM_BASE, ROM_BYTES};
use vmm_core::host::local_apic::LocalApic;
use vmm_core::recording::Slot;

use crate::firmware::{self, Firmware};
use crate::{Refused, ports};

/// The last end that memory can have: below 4 GiB devices and the ROM come.
const MAPPED_BYTES: u64 = 2 << 30;

/// The ROM as firmware; its boot block starts the other processors, by `start_others`.
pub const fn firmware(start_others: fn(&LocalApic)) -> Firmware {
    Firmware {
        name: "rom",
        memory_bytes: ports::memory_bytes,
        directory,
        guest_file: || None,
        guest_memory,
        spare_memory,
        tsc_khz: || None,
        start_others,
        takes_back: false,
        keep: |_| (),
        keep_end: || 0,
        remarks: Vec::new,
        postscript: || None,
        end: ports::end,
        leave: ports::halt,
    }
}

/// The image's work, from the boot block to the end: on the boot stack, with the first 4 GiB mapped and interrupts off. The heap
/// reaches from the end of the image to the guest's memory.
///
/// # Safety
/// It is called once. Nothing else uses the RAM from `image_end` to the guest's, which is mapped to itself.
pub unsafe fn run(rom: &'static Firmware, image_end: *mut u8) -> ! {
    // SAFETY: the caller's contract.
    unsafe { firmware::start(rom, image_end, PLACED_HPA as usize - image_end.addr()) };
    ports::end(crate::run())
}

/// The directory page of the ROM, which ends at 4 GiB.
fn directory() -> Result<Directory<'static>, Refused> {
    // SAFETY: the reset vector was fetched from the ROM; the boot block maps it, and it never changes.
    let page = unsafe { &*((ROM_BASE as usize + DIRECTORY_OFFSET) as *const [u8; DIRECTORY_BYTES]) };
    Directory::read(page, ROM_BYTES as u64)
        .map_err(|error| Refused::new(error, "write the image again with `tollgate image`"))
}

/// The memory above the guest's.
fn spare_memory(guest_bytes: u64) -> &'static [Slot] {
    let start = PLACED_HPA + guest_bytes;
    let bytes = spare_bytes(ports::memory_bytes(), start);
    // SAFETY: memory of the machine that nothing else uses, mapped to itself by the boot block; a slot may have any value.
    unsafe { core::slice::from_raw_parts(start as usize as *const Slot, bytes as usize / size_of::<Slot>()) }
}

const fn spare_bytes(memory_bytes: u64, start: u64) -> u64 {
    let end = if memory_bytes < MAPPED_BYTES { memory_bytes } else { MAPPED_BYTES };
    end.saturating_sub(start)
}

fn guest_memory(bytes: u64) -> Result<u64, Refused> {
    guest_memory_of(ports::memory_bytes(), bytes)
}

fn guest_memory_of(memory_bytes: u64, guest_bytes: u64) -> Result<u64, Refused> {
    let needed = PLACED_HPA + guest_bytes;
    if memory_bytes < needed {
        let (has, needs) = (memory_bytes >> 20, needed >> 20);
        let detail = format_args!("the machine has {has} MiB of memory; the monitor and its guest need {needs} MiB");
        return Err(Refused::new(detail, "give the machine more memory"));
    }
    Ok(PLACED_HPA)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_with_too_little_memory_is_refused_and_what_is_left_is_for_a_trace() {
        const GUEST: u64 = 16 << 20;
        const NEEDED: u64 = PLACED_HPA + GUEST;
        assert_eq!(guest_memory_of(NEEDED, GUEST).ok(), Some(PLACED_HPA));
        let refused = guest_memory_of(NEEDED - 1, GUEST).unwrap_err();
        let (has, needs) = ((NEEDED >> 20) - 1, NEEDED >> 20);
        assert!(refused.detail.contains(&std::format!("has {has} MiB")), "{refused:?}");
        assert!(refused.detail.contains(&std::format!("need {needs} MiB")), "{refused:?}");
        let spare = [0, NEEDED, NEEDED + 4096, MAPPED_BYTES, 4 << 30].map(|bytes| spare_bytes(bytes, NEEDED));
        assert_eq!(spare, [0, 0, 4096, MAPPED_BYTES - NEEDED, MAPPED_BYTES - NEEDED]);
    }
}
