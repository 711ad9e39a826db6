//! The other processors: obtained from firmware's MP services before the run, and held here until the monitor wants them.
#![expect(unsafe_code, reason = "makes an event, takes stacks that the monitor gives")]

use core::ffi::c_void;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use monitor_run::processors::{ARRIVALS, STACKS, other_main};
use uefi::Event;
use uefi::boot::{self, EventType, OpenProtocolAttributes, OpenProtocolParams, Tpl};
use uefi::proto::pi::mp::MpServices;

use crate::loan::{NOBODY, apic_id, lend};

/// The order to the processors that are held.
static ORDER: AtomicU32 = AtomicU32::new(HOLD);
const HOLD: u32 = 0;
const COME: u32 = 1;
const GO: u32 = 2;

/// The most processors that firmware may number.
const MOST_PROCESSORS: usize = 256;
/// The local APIC ID of each other processor that is enabled, in firmware's order, from place 1 on. The processor of place n runs
/// vCPU n, so that runs repeat whichever comes first. Each looks up its own place here. Firmware's own answer fails to come once
/// in a while if several ask at the same time (seen with OVMF in Bochs).
static APIC_IDS: [AtomicU32; MOST_PROCESSORS] = [const { AtomicU32::new(NOBODY) }; MOST_PROCESSORS];

/// The time that firmware has to take them back.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);

/// The processors that firmware has given.
pub(crate) struct Others {
    /// Signalled when the last one has come back.
    all_back: Event,
}

impl Others {
    /// Asks firmware for every other processor. `None` if it has none to give.
    pub(crate) fn ask() -> Option<Self> {
        let handle = boot::get_handle_for_protocol::<MpServices>().ok()?;
        let params = OpenProtocolParams { handle, agent: boot::image_handle(), controller: None };
        // SAFETY: shared with its users, as such protocols are; it is never uninstalled. The event has no handler.
        let (services, all_back) = unsafe {
            let services = boot::open_protocol::<MpServices>(params, OpenProtocolAttributes::GetProtocol).ok()?;
            (services, boot::create_event(EventType::empty(), Tpl::APPLICATION, None, None).ok()?)
        };
        let all = (0..MOST_PROCESSORS).filter_map(|number| services.get_processor_info(number).ok());
        let others = all.filter(|processor| processor.is_enabled() && !processor.is_bsp());
        for (place, processor) in APIC_IDS.iter().skip(1).zip(others) {
            place.store(processor.processor_id as u32, Ordering::Relaxed);
        }
        // SAFETY: this is only a second name for the event, which outlives the request: firmware signals it.
        let to_signal = unsafe { all_back.unsafe_clone() };
        services.startup_all_aps(false, hold, null_mut(), Some(to_signal), None).ok()?;
        Some(Self { all_back })
    }

    /// Waits until firmware has all of them back; false if some do not come.
    pub(crate) fn wait(self) -> bool {
        ORDER.store(GO, Ordering::Release);
        let mut left = PATIENCE;
        loop {
            if boot::check_event(&self.all_back).unwrap_or(false) {
                return true;
            }
            let Some(rest) = left.checked_sub(LOOK) else { return false };
            left = rest;
            boot::stall(LOOK);
        }
    }
}

/// Lets the held processors come to the monitor.
pub(crate) fn come() {
    ORDER.store(COME, Ordering::Release);
}

/// The procedure to which firmware sends every other processor; firmware has it back when this returns.
extern "efiapi" fn hold(_: *mut c_void) {
    loop {
        match ORDER.load(Ordering::Acquire) {
            COME => break,
            GO => return,
            _ => core::hint::spin_loop(),
        }
    }
    ARRIVALS.fetch_add(1, Ordering::AcqRel);
    let rank = rank().unwrap_or(0);
    let stack_end = STACKS.get(rank).filter(|_| rank > 0).map_or(0, |end| end.load(Ordering::Acquire));
    if stack_end != 0 {
        // SAFETY: the processor comes from firmware; the stack is that of its rank, which nobody else has.
        unsafe { lend(stack_end, work, rank as u64) };
    }
}

/// The place of this processor among those that firmware has given, from 1 on.
fn rank() -> Option<usize> {
    let own = apic_id();
    APIC_IDS.iter().position(|id| id.load(Ordering::Relaxed) == own)
}

extern "sysv64" fn work(number: u64) -> u64 {
    other_main(number as u32);
    0
}
