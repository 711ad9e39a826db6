//! The other processors: asked of firmware's MP services before the run, held here until the monitor wants them.
#![expect(unsafe_code, reason = "makes an event, takes stacks that the monitor gives")]

use core::ffi::c_void;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use core::time::Duration;

use monitor_run::processors::{ARRIVALS, STACKS, other_main};
use uefi::Event;
use uefi::boot::{self, EventType, OpenProtocolAttributes, OpenProtocolParams, Tpl};
use uefi::proto::pi::mp::MpServices;

use crate::loan::lend;

/// What those that are held are to do.
static ORDER: AtomicU32 = AtomicU32::new(HOLD);
const HOLD: u32 = 0;
const COME: u32 = 1;
const GO: u32 = 2;

/// Processors that firmware may number.
const MOST_PROCESSORS: usize = 256;
/// For each number of firmware's the place among the others that are enabled, from 1 on; 0 for the first processor. vCPU n
/// runs on the one of place n, so that runs repeat whoever comes first.
static RANKS: [AtomicU32; MOST_PROCESSORS] = [const { AtomicU32::new(0) }; MOST_PROCESSORS];
/// The MP services, which tell each processor its number.
static SERVICES: AtomicPtr<MpServices> = AtomicPtr::new(null_mut());

/// How long firmware has to take them back.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);

/// Processors that firmware has given.
pub(crate) struct Others {
    /// Signalled when the last has come back.
    all_back: Event,
}

impl Others {
    /// Asks firmware for every other processor. `None` if there is none to be had.
    pub(crate) fn ask() -> Option<Self> {
        let handle = boot::get_handle_for_protocol::<MpServices>().ok()?;
        let params = OpenProtocolParams { handle, agent: boot::image_handle(), controller: None };
        // SAFETY: shared with its users, as such protocols are; it is never uninstalled. The event has no handler.
        let (services, all_back) = unsafe {
            let services = boot::open_protocol::<MpServices>(params, OpenProtocolAttributes::GetProtocol).ok()?;
            (services, boot::create_event(EventType::empty(), Tpl::APPLICATION, None, None).ok()?)
        };
        let others = (0..).take(MOST_PROCESSORS).filter(|&number| {
            services.get_processor_info(number).is_ok_and(|processor| processor.is_enabled() && !processor.is_bsp())
        });
        for (rank, number) in (1..).zip(others) {
            RANKS[number].store(rank, Ordering::Relaxed);
        }
        SERVICES.store((&raw const *services).cast_mut(), Ordering::Release);
        // SAFETY: only a second name for the event, which outlives the request: firmware signals it.
        let to_signal = unsafe { all_back.unsafe_clone() };
        services.startup_all_aps(false, hold, null_mut(), Some(to_signal), None).ok()?;
        Some(Self { all_back })
    }

    /// Waits until firmware has them all back; false if some do not come.
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

/// Lets those that are held come to the monitor.
pub(crate) fn come() {
    ORDER.store(COME, Ordering::Release);
}

/// Where firmware sends every other processor; it has it back when this returns.
extern "efiapi" fn hold(_: *mut c_void) {
    loop {
        match ORDER.load(Ordering::Acquire) {
            COME => break,
            GO => return,
            _ => core::hint::spin_loop(),
        }
    }
    ARRIVALS.fetch_add(1, Ordering::AcqRel);
    let rank = rank().unwrap_or(0) as usize;
    let stack_end = STACKS.get(rank).filter(|_| rank > 0).map_or(0, |end| end.load(Ordering::Acquire));
    if stack_end != 0 {
        // SAFETY: the processor comes from firmware; the stack is that of its rank, which nobody else has.
        unsafe { lend(stack_end, work, rank as u64) };
    }
}

/// The place of this processor among those that firmware has given, from 1 on.
fn rank() -> Option<u32> {
    // SAFETY: a protocol that is never uninstalled, stored before any processor was asked for.
    let services = unsafe { SERVICES.load(Ordering::Acquire).as_ref() }?;
    Some(RANKS.get(services.who_am_i().ok()?)?.load(Ordering::Relaxed))
}

extern "sysv64" fn work(number: u64) -> u64 {
    other_main(number as u32);
    0
}
