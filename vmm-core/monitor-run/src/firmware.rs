//! The firmware that started the monitor, and the services that the monitor asks of it: memory, the image, the other processors, an end.
//!
//! There are two. In the ROM ([`crate::rom`]) the monitor is its own firmware and has the machine for itself. Under UEFI (the
//! crate `monitor-uefi`) it is a guest of boot services, to which it gives every processor back as it was.
#![expect(unsafe_code, reason = "takes memory, and keeps a pointer to a static in an atomic")]

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicPtr, Ordering};

use tollgate_abi::ending::Ending;
use tollgate_abi::guest_image::Directory;
use vmm_core::host::local_apic::LocalApic;
use vmm_core::recording::Slot;

use crate::{HEAP, Refused};

/// A firmware, as a table of what it does.
///
/// All of it is called on the first processor, but for `keep`, `end` and `leave`, which a processor that fails calls too. From
/// [`crate::run`] on none may count on the firmware's own descriptor tables.
#[derive(Debug)]
pub struct Firmware {
    /// Its name in the first record.
    pub name: &'static str,
    /// Bytes of memory that the machine has.
    pub memory_bytes: fn() -> u64,
    /// The directory of the guest that is to run, with the run's options.
    pub directory: fn() -> Result<Directory<'static>, Refused>,
    /// The bytes in which the directory's offsets count.
    pub image: fn() -> &'static [u8],
    /// Host-physical address of the guest's memory (`GUEST_BYTES`): a multiple of 2 MiB, mapped to itself, nobody else's.
    pub guest_memory: fn() -> Result<u64, Refused>,
    /// Memory that nobody else uses and that is mapped to itself, for a trace. Asked for once.
    pub spare_memory: fn() -> &'static [Slot],
    /// Starts the other processors, each of which comes to [`crate::processors::other_main`] with a number of its own.
    pub start_others: fn(&LocalApic),
    /// Whether processors go back to it. Then a vCPU is stopped by NMI: an INIT that comes in VMX root operation stays pending
    /// until VMXOFF (SDM 3C 24.8), which resets the processor then.
    pub takes_back: bool,
    /// Takes what is sent to the serial port, too.
    pub keep: fn(&str),
    /// Says that what is sent from now on is the account and the verdict, which have room where it keeps them. Returns how many bytes
    /// it could not keep.
    pub keep_end: fn() -> usize,
    /// Notes for people before the run: sentences.
    pub remarks: fn() -> Vec<String>,
    /// The sentence that the verdict is to say besides, if any.
    pub postscript: fn() -> Option<String>,
    /// Ends a run in which the processor that calls it can't go on.
    pub end: fn(Ending) -> !,
    /// Takes the processor that calls it, which can't go on. The run's end is another's.
    pub leave: fn() -> !,
}

static FIRMWARE: AtomicPtr<Firmware> = AtomicPtr::new(core::ptr::null_mut());

/// The first thing that an image does: says by what it was started, and gives the heap.
///
/// # Safety
/// It is called once. `heap..heap + heap_bytes` is memory that nobody else touches from now on, mapped to itself, since the
/// processor is given addresses of pages in it.
pub unsafe fn start(firmware: &'static Firmware, heap: *mut u8, heap_bytes: usize) {
    FIRMWARE.store(core::ptr::from_ref(firmware).cast_mut(), Ordering::Release);
    // SAFETY: the caller's contract.
    unsafe { HEAP.lock().init(heap, heap_bytes) };
}

/// The firmware.
pub(crate) fn firmware() -> &'static Firmware {
    // SAFETY: null, or what `start` stored: a reference to a static.
    unsafe { FIRMWARE.load(Ordering::Acquire).as_ref() }.expect("an image starts with `start`")
}
