//! The firmware that started the monitor, and its services: memory, the guest, the other processors, the end of the machine.
//!
//! There are two firmwares. In the ROM ([`crate::rom`]) the monitor is its own firmware and has the machine for itself. Under
//! UEFI (the crate `monitor-uefi`) it uses boot services, to which it gives every processor back as it was.
#![expect(unsafe_code, reason = "takes memory, and keeps a pointer to a static in an atomic")]

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicPtr, Ordering};

use tollgate_abi::ending::Ending;
use tollgate_abi::guest_image::Directory;
use vmm_core::host::local_apic::LocalApic;
use vmm_core::recording::Slot;

use crate::{HEAP, Refused};

/// A firmware, as a table of its functions.
///
/// They are called on the first processor, but for `keep`, `end` and `leave`, which a processor that fails calls, too. From
/// [`crate::run`] on none may count on the firmware's own descriptor tables.
#[derive(Debug)]
pub struct Firmware {
    /// The firmware's name in the first record.
    pub name: &'static str,
    /// Bytes of memory that the machine has.
    pub memory_bytes: fn() -> u64,
    /// The directory of the guest that is to run, with the run's options.
    pub directory: fn() -> Result<Directory<'static>, Refused>,
    /// The bytes of the guest's segments, in which the directory's offsets count; `None` if the segments are in their places.
    pub guest_file: fn() -> Option<&'static [u8]>,
    /// Host-physical address of as much memory for the guest: a multiple of 2 MiB, mapped to itself, used by nothing else.
    pub guest_memory: fn(bytes: u64) -> Result<u64, Refused>,
    /// Memory for a trace, used by nothing else and mapped to itself, besides that of the guest. Asked for once.
    pub spare_memory: fn(guest_bytes: u64) -> &'static [Slot],
    /// The rate of the TSC in kHz, for a guest that can't find it out; `None` on an emulator whose ticks have no rate of their own.
    pub tsc_khz: fn() -> Option<u64>,
    /// Starts the other processors, each of which comes to [`crate::processors::other_main`] with a number of its own.
    pub start_others: fn(&LocalApic),
    /// Whether processors go back to the firmware. Then a vCPU is stopped by NMI: an INIT in VMX root operation stays pending
    /// until VMXOFF (SDM 3C 24.8), and would reset the processor then.
    pub takes_back: bool,
    /// Takes the text that goes to the serial port, too.
    pub keep: fn(&str),
    /// Says that the text from now on is the account and the verdict, for which a firmware that keeps text has room left. Returns
    /// the number of bytes that it could not keep.
    pub keep_end: fn() -> usize,
    /// Notes for people before the run: sentences.
    pub remarks: fn() -> Vec<String>,
    /// A sentence for the verdict, besides its own, if any.
    pub postscript: fn() -> Option<String>,
    /// Ends a run in which the calling processor can't go on.
    pub end: fn(Ending) -> !,
    /// Takes the calling processor, which can't go on, while another ends the run.
    pub leave: fn() -> !,
}

static FIRMWARE: AtomicPtr<Firmware> = AtomicPtr::new(core::ptr::null_mut());

/// Begins an image's work: notes the firmware that started it, and gives the heap.
///
/// # Safety
/// It is called once. `heap..heap + heap_bytes` is memory that nobody else touches from now on, mapped to itself, since the
/// processor is given addresses of pages in it.
pub unsafe fn start(firmware: &'static Firmware, heap: *mut u8, heap_bytes: usize) {
    FIRMWARE.store(core::ptr::from_ref(firmware).cast_mut(), Ordering::Release);
    // SAFETY: the caller's contract.
    unsafe { HEAP.lock().init(heap, heap_bytes) };
}

/// The firmware that the monitor runs on.
pub(crate) fn firmware() -> &'static Firmware {
    // SAFETY: null, or what `start` stored: a reference to a static.
    unsafe { FIRMWARE.load(Ordering::Acquire).as_ref() }.expect("an image starts with `start`")
}
