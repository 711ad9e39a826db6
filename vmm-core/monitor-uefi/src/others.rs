//! The other processors: obtained from firmware's MP services before the run, and held here until the monitor wants them.
#![expect(unsafe_code, reason = "makes an event, takes stacks that the monitor gives")]

use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use monitor_run::processors::{ARRIVALS, STACKS, other_main};
use uefi::Event;
use uefi::boot::{self, EventType, OpenProtocolAttributes, OpenProtocolParams, Tpl};
use uefi::proto::pi::mp::{MpServices, ProcessorInformation};

use crate::loan::{NOBODY, apic_id, lend};

/// The order to the processors that are held.
static ORDER: AtomicU32 = AtomicU32::new(HOLD);
const HOLD: u32 = 0;
const COME: u32 = 1;
const GO: u32 = 2;

/// The most processors that firmware may number.
const MOST_PROCESSORS: usize = 256;
/// The local APIC ID of each other processor that is enabled, from place 1 on, in the order of [`one_thread_per_core_first`]. The
/// processor of place n runs vCPU n, so that runs repeat whichever comes first. Each looks up its own place here: firmware's own
/// answer fails to come once in a while if several ask at the same time (seen with OVMF in Bochs).
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
        let (own, others): (Vec<_>, Vec<_>) =
            all.filter(ProcessorInformation::is_enabled).partition(ProcessorInformation::is_bsp);
        let core = |processor: &ProcessorInformation| (processor.location.package, processor.location.core);
        let ids = others.iter().map(|processor| (processor.processor_id as u32, core(processor)));
        let ids = one_thread_per_core_first(own.first().map(core), ids.collect());
        for (place, id) in APIC_IDS.iter().skip(1).zip(ids) {
            place.store(id, Ordering::Relaxed);
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

/// A processor's package, and its core there. Processors that have the same core are its threads.
type Core = (u32, u32);

/// The APIC IDs of the `others`, which come in firmware's order with their cores: first one of each core but `own`, vCPU 0's, then
/// the second threads, and so on. vCPUs that share a core slow each other down.
fn one_thread_per_core_first(own: Option<Core>, others: Vec<(u32, Core)>) -> Vec<u32> {
    let cores: Vec<_> = own.into_iter().chain(others.iter().map(|&(_, core)| core)).collect();
    let of_own = cores.len() - others.len();
    let thread = |at: usize| cores[..at].iter().filter(|&&core| core == cores[at]).count();
    let mut order: Vec<_> = others.iter().zip(of_own..).map(|(&(id, _), at)| (thread(at), id)).collect();
    order.sort_by_key(|&(thread, _)| thread);
    order.into_iter().map(|(_, id)| id).collect()
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
    rank_of(apic_id(), &APIC_IDS)
}

fn rank_of(own: u32, ids: &[AtomicU32]) -> Option<usize> {
    ids.iter().position(|id| id.load(Ordering::Relaxed) == own)
}

extern "sysv64" fn work(number: u64) -> u64 {
    other_main(number as u32);
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The order of the processors behind the first, of so many cores with so many threads each, whose APIC IDs are by `id`, as is
    /// firmware's order.
    fn order(cores: u32, threads: u32, id: impl Fn(u32, u32) -> u32) -> Vec<u32> {
        let all = (0..cores).flat_map(|core| (0..threads).map(move |thread| (core, thread)));
        let mut all: Vec<_> = all.map(|(core, thread)| (id(core, thread), (0, core))).collect();
        all.sort_unstable();
        let (_, own) = all.remove(0);
        one_thread_per_core_first(Some(own), all)
    }

    #[test]
    fn one_thread_of_each_core_comes_first() {
        assert_eq!(order(4, 2, |core, thread| 2 * core + thread), [2, 4, 6, 1, 3, 5, 7], "siblings are neighbours");
        assert_eq!(order(4, 2, |core, thread| core + 4 * thread), [1, 2, 3, 4, 5, 6, 7], "siblings are far apart");
        assert_eq!(order(2, 4, |core, thread| 4 * core + thread), [4, 1, 5, 2, 6, 3, 7]);
        assert_eq!(order(3, 1, |core, _| core), [1, 2]);
        assert_eq!(order(1, 2, |_, thread| thread), [1]);
    }

    #[test]
    fn packages_have_cores_of_their_own_and_firmware_that_tells_no_place_keeps_its_order() {
        let others = [(8, (1, 0)), (1, (0, 0)), (9, (1, 0)), (10, (1, 1))];
        assert_eq!(one_thread_per_core_first(Some((0, 0)), others.to_vec()), [8, 10, 1, 9]);
        assert_eq!(one_thread_per_core_first(None, others.to_vec()), [8, 1, 10, 9]);
        let nowhere = [(3, (0, 0)), (1, (0, 0)), (2, (0, 0))];
        assert_eq!(one_thread_per_core_first(Some((0, 0)), nowhere.to_vec()), [3, 1, 2]);
        assert_eq!(one_thread_per_core_first(None, Vec::new()), []);
    }

    #[test]
    fn the_first_place_and_those_that_are_not_there_are_nobodys() {
        let ids = [NOBODY, 4, 0x102, 7, NOBODY].map(AtomicU32::new);
        assert_eq!([4, 0x102, 7, 5].map(|id| rank_of(id, &ids)), [Some(1), Some(2), Some(3), None]);
    }
}
