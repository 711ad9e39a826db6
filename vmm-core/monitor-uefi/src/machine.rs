//! The machine as firmware shows it: its memory, its timer, its settings, and the hypervisor beneath, if there is one.
#![expect(unsafe_code, reason = "calls firmware by its tables")]

use alloc::format;
use alloc::string::String;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::time::Duration;

use monitor_run::ports;
use tollgate_abi::leaves::Answer;
use tollgate_abi::virtualization::TCG;
use tollgate_abi::x86::cpuid::ecx_1;
use uefi::boot::{self, AllocateType, MemoryType, OpenProtocolAttributes, OpenProtocolParams, ScopedProtocol};
use uefi::mem::memory_map::MemoryMap;
use uefi::proto::unsafe_protocol;
use uefi::runtime::{self, VariableVendor};
use uefi::{Status, cstr16};
use vmm_core::host::registers::tsc;
use vmm_core::rate;

const PAGE_BYTES: usize = 4096;

/// Memory from firmware, until the next start of the machine: contiguous, mapped to itself, aligned to a page.
pub(crate) fn pages(bytes: usize) -> Option<*mut u8> {
    let pages = bytes.div_ceil(PAGE_BYTES);
    boot::allocate_pages(AllocateType::AnyPages, MemoryType::LOADER_DATA, pages).ok().map(|memory| memory.as_ptr())
}

/// The same memory as room to read into.
pub(crate) fn room(bytes: usize) -> Option<&'static mut [u8]> {
    // SAFETY: memory that firmware gave for this alone; any bytes are as good as others.
    pages(bytes).map(|memory| unsafe { core::slice::from_raw_parts_mut(memory, bytes) })
}

/// Gives back what [`pages`] or [`room`] gave.
///
/// # Safety
/// Nobody uses it any more.
pub(crate) unsafe fn free(memory: *mut u8, bytes: usize) {
    if let Some(memory) = core::ptr::NonNull::new(memory) {
        // SAFETY: the caller's contract. A failure leaves the memory to the next operating system's loader.
        let _ = unsafe { boot::free_pages(memory, bytes.div_ceil(PAGE_BYTES)) };
    }
}

/// Bytes of memory that the machine has, and those of its largest free piece.
pub(crate) fn memory() -> (u64, u64) {
    let Ok(map) = boot::memory_map(MemoryType::LOADER_DATA) else { return (0, 0) };
    total_and_largest(map.entries().map(|entry| (entry.ty, entry.page_count)))
}

/// Bytes in all and of the largest piece that is free, by the types of the pieces and their pages (UEFI 2.10, 7.2.3).
fn total_and_largest(pieces: impl Iterator<Item = (MemoryType, u64)> + Clone) -> (u64, u64) {
    let is_memory = |kind| {
        !matches!(kind, MemoryType::RESERVED | MemoryType::UNUSABLE | MemoryType::MMIO | MemoryType::MMIO_PORT_SPACE)
    };
    let bytes = |pages: u64| pages * PAGE_BYTES as u64;
    let total = pieces.clone().filter(|&(kind, _)| is_memory(kind)).map(|(_, pages)| bytes(pages)).sum();
    let free = pieces.filter(|&(kind, _)| kind == MemoryType::CONVENTIONAL);
    (total, free.map(|(_, pages)| bytes(pages)).max().unwrap_or(0))
}

/// Whether Secure Boot is on.
pub(crate) fn secure_boot() -> bool {
    let mut value = [0];
    runtime::get_variable(cstr16!("SecureBoot"), &VariableVendor::GLOBAL_VARIABLE, &mut value).is_ok() && value == [1]
}

/// The signature of the hypervisor beneath, if this machine is its guest.
pub(crate) fn hypervisor() -> Option<String> {
    if __cpuid(1).ecx & ecx_1::HYPERVISOR == 0 {
        return None;
    }
    let leaf = __cpuid(0x4000_0000);
    Some(signature([leaf.ebx, leaf.ecx, leaf.edx]))
}

fn signature(registers: [u32; 3]) -> String {
    let bytes = registers.map(u32::to_le_bytes);
    String::from_utf8_lossy(bytes.as_flattened()).trim_matches(['\0', ' ']).into()
}

/// A note for people on another hypervisor.
pub(crate) fn nested() -> Option<String> {
    hypervisor().map(|name| {
        format!("another hypervisor is active ({name}): cycles contain its work and are not those of silicon alone")
    })
}

/// Time over which the TSC is measured, and the number of measurements.
const MEASURED: Duration = Duration::from_millis(20);
const MEASUREMENTS: u32 = 4;

/// The rate of the TSC in kHz, and a note on its source for people. `None` on an emulator whose ticks are instructions.
pub(crate) fn tsc_khz() -> Option<(u64, String)> {
    if ports::has_debug_port() || hypervisor().is_some_and(|name| name == TCG) {
        return None;
    }
    let cpuid = |leaf, sub_leaf| {
        let answer = __cpuid_count(leaf, sub_leaf);
        Answer { eax: answer.eax, ebx: answer.ebx, ecx: answer.ecx, edx: answer.edx }
    };
    let (hz, source) = match rate::by_crystal(cpuid) {
        Some(hz) => (hz, "the processor"),
        None => (measured_hz(tsc, || boot::stall(MEASURED)), "the firmware's clock"),
    };
    let khz = (hz + 500) / 1000;
    Some((khz, format!("the TSC counts {khz} kHz, by {source}, and the guest is told so")))
}

/// Ticks in a second by a wait of [`MEASURED`]: the least of some, since a wait takes longer if something comes between.
fn measured_hz(now: impl Fn() -> u64, wait: impl Fn()) -> u64 {
    let ticks = (0..MEASUREMENTS).map(|_| {
        let start = now();
        wait();
        now() - start
    });
    ticks.min().unwrap_or(0) * 1000 / MEASURED.as_millis() as u64
}

/// The timer architectural protocol (UEFI PI 1.8, volume 2, 12.4), which makes firmware's ticks.
#[repr(C)]
#[unsafe_protocol("26baccb3-6f42-11d4-bce7-0080c73c8881")]
struct TimerArch {
    register_handler: *const (),
    set_timer_period: unsafe extern "efiapi" fn(this: *const Self, period_100ns: u64) -> Status,
    get_timer_period: unsafe extern "efiapi" fn(this: *const Self, period_100ns: *mut u64) -> Status,
    generate_soft_interrupt: *const (),
}

/// Firmware's timer, stopped.
pub(crate) struct StoppedTimer {
    timer: ScopedProtocol<TimerArch>,
    period_100ns: u64,
}

impl StoppedTimer {
    /// Stops the timer, so that no tick comes while a guest runs. `None` where firmware has no such timer.
    pub(crate) fn stop() -> Option<Self> {
        let handle = boot::get_handle_for_protocol::<TimerArch>().ok()?;
        let params = OpenProtocolParams { handle, agent: boot::image_handle(), controller: None };
        // SAFETY: shared with its users, as such protocols are; it is never uninstalled.
        let timer = unsafe { boot::open_protocol::<TimerArch>(params, OpenProtocolAttributes::GetProtocol) }.ok()?;
        let mut period_100ns = 0;
        // SAFETY: the protocol's own functions, called as its specification says.
        let stopped = unsafe {
            (timer.get_timer_period)(&raw const *timer, &raw mut period_100ns).is_success()
                && (timer.set_timer_period)(&raw const *timer, 0).is_success()
        };
        stopped.then_some(Self { timer, period_100ns })
    }

    /// Lets the timer go on.
    pub(crate) fn go_on(self) {
        // SAFETY: as in `stop`, with the period that it had.
        let _ = unsafe { (self.timer.set_timer_period)(&raw const *self.timer, self.period_100ns) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;
    use tollgate_abi::virtualization::KVM;

    #[test]
    fn memory_is_what_is_no_device_and_the_largest_piece_is_one_that_is_free() {
        const PAGES_OF_A_MIB: u64 = 256;
        let map = [
            (MemoryType::CONVENTIONAL, 2),
            (MemoryType::RESERVED, 1000),
            (MemoryType::BOOT_SERVICES_CODE, 300),
            (MemoryType::LOADER_DATA, 200),
            (MemoryType::CONVENTIONAL, 100),
            (MemoryType::ACPI_RECLAIM, 1),
            (MemoryType::MMIO, 4000),
            (MemoryType::MMIO_PORT_SPACE, 1),
            (MemoryType::UNUSABLE, 9),
        ];
        let found = total_and_largest(map.into_iter().map(|(kind, mib)| (kind, mib * PAGES_OF_A_MIB)));
        assert_eq!(found, (603 << 20, 100 << 20));
        assert_eq!(total_and_largest([].into_iter()), (0, 0));
    }

    #[test]
    fn the_shortest_wait_tells_the_rate() {
        let (time, waits) = (Cell::new(7), Cell::new(0));
        let wait = || {
            waits.set(waits.get() + 1);
            time.set(time.get() + if waits.get() == 3 { 42_000_000 } else { 50_000_000 + waits.get() });
        };
        assert_eq!(measured_hz(|| time.get(), wait), 2_100_000_000);
        assert_eq!(waits.get(), u64::from(MEASUREMENTS));
    }

    #[test]
    fn a_hypervisors_signature_is_twelve_bytes_at_most() {
        let word = |text: &str, at: usize| {
            let byte = |at: usize| text.as_bytes().get(at).copied().unwrap_or(0);
            u32::from_le_bytes([byte(at), byte(at + 1), byte(at + 2), byte(at + 3)])
        };
        for name in [KVM, TCG, "VMwareVMware", "x"] {
            assert_eq!(signature([word(name, 0), word(name, 4), word(name, 8)]), name.trim_matches('\0'));
        }
    }
}
