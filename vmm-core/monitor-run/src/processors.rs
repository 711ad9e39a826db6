//! The other processors: the first starts them, each has a stack of its own, and each runs one vCPU.
//!
//! They arrive in any order and take numbers as they come; number n runs vCPU n. A processor that is not needed halts in the boot
//! block. A processor that has no vCPU, or whose vCPU is over, serves: it sends vCPU 0's processor the signals that scenarios ask
//! for.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use tollgate_abi::machine::MOST_VCPUS;
use vmm_core::board::{Board, Condition, Signal};
use vmm_core::host::local_apic::LocalApic;
use vmm_core::host::registers::tsc;
use vmm_core::vmx::host_state::HostState;

use crate::board::{self, BOARD};
use crate::firmware::firmware;
use crate::patience::{Tsc, wait_while};
use crate::waiting::rest;
use crate::{processor, traps};

/// The number of processors that have arrived, the first included. The firmware's code counts them; in the ROM, the boot block
/// does.
pub static ARRIVALS: AtomicU32 = AtomicU32::new(1);
/// The ends of the stacks for the processors that are wanted, by their numbers. The firmware's code reads them.
pub static STACKS: [AtomicU64; MOST_VCPUS] = [const { AtomicU64::new(0) }; MOST_VCPUS];

/// Set when the run is over and the other processors are to go.
static DISMISSED: AtomicBool = AtomicBool::new(false);

/// The work of the other processors once all is set up: a [`Job`], or 0 while there is none.
static JOB: AtomicUsize = AtomicUsize::new(0);

/// The work of a processor for the rest of the run: its vCPU, until that is over.
pub(crate) type Job = fn(&Seated);

/// A processor that has come up.
pub(crate) struct Seated {
    /// The number of its vCPU.
    pub(crate) vcpu: usize,
    /// The processor's tables.
    pub(crate) host: HostState,
    /// The processor's local APIC.
    pub(crate) local_apic: LocalApic,
}

const STACK_BYTES: usize = 64 * 1024;
/// TSC ticks that processors have to come up.
const PATIENCE_TICKS: u64 = 20_000_000;
/// The least number of looks at the processors that have come up. Where QEMU counts instructions, a processor's INIT takes its
/// whole turn, which can be 100 million ticks, and each look gives each processor a turn.
const PATIENCE_LOOKS: u32 = 1000;
/// TSC ticks after which vCPU 0 has surely entered its guest; less than a scenario may take.
const SIGNAL_TICKS: u64 = 20_000;

/// This processor's own APIC, enabled.
pub(crate) fn local_apic() -> LocalApic {
    LocalApic::enable(processor::cpuid(1, 0).ecx, processor::measured_ticks())
}

/// Starts the other processors, up to `wanted` in all; returns how many there are then.
pub(crate) fn start(local_apic: &LocalApic, wanted: usize) -> usize {
    let wanted = wanted.min(MOST_VCPUS);
    for end in &STACKS[1..wanted] {
        let stack = Box::leak(Box::new([0u128; STACK_BYTES / size_of::<u128>()]));
        end.store(stack.as_ptr_range().end as u64, Ordering::Relaxed);
    }
    if wanted > 1 {
        (firmware().start_others)(local_apic);
    }
    wait_while(&BOARD, &Tsc, PATIENCE_TICKS, PATIENCE_LOOKS, || up(&BOARD, wanted) < wanted);
    // A processor that comes later finds no stack.
    STACKS.iter().for_each(|end| end.store(0, Ordering::Relaxed));
    up(&BOARD, wanted)
}

/// The number of the first `wanted` processors that are up, without a gap: each runs the vCPU of its number.
fn up(board: &Board, wanted: usize) -> usize {
    (1..wanted).take_while(|&at| board.condition(at) != Condition::Absent).count() + 1
}

/// Gives the other processors their work.
pub(crate) fn give(job: Job) {
    JOB.store(job as usize, Ordering::Release);
}

/// Waits until one of the other processors serves, if there are any; each does once its vCPU is over.
pub(crate) fn wait_for_service() {
    let are_there = board::have_come();
    wait_while(&BOARD, &Tsc, PATIENCE_TICKS, 0, || are_there && !BOARD.is_served());
}

/// Tells the other processors to go, and waits until they do; returns the number that have not. They return from [`other_main`].
pub fn dismiss() -> usize {
    DISMISSED.store(true, Ordering::Release);
    wait_while(&BOARD, &Tsc, PATIENCE_TICKS, 0, || board::left() > 0);
    board::left()
}

/// The function that the firmware's code calls on a processor that has a stack. It returns once the processor is dismissed.
pub extern "C" fn other_main(number: u32) {
    board::comes();
    live(number as usize);
    board::leaves();
}

fn live(vcpu: usize) {
    let host = traps::install();
    let local_apic = local_apic();
    BOARD.sit(vcpu, local_apic.id());
    let job = loop {
        match job() {
            Some(job) => break job,
            None if is_dismissed() => return,
            None => core::hint::spin_loop(),
        }
    };
    let seated = Seated { vcpu, host, local_apic };
    if vcpu < BOARD.vcpus() {
        job(&seated);
    }
    rest(vcpu, &local_apic, Condition::Over);
    serve(&local_apic);
}

fn is_dismissed() -> bool {
    DISMISSED.load(Ordering::Acquire)
}

#[expect(unsafe_code, reason = "a function pointer in an atomic")]
fn job() -> Option<Job> {
    let job = JOB.load(Ordering::Acquire);
    // SAFETY: the only value besides 0 is a `Job`, by `give`.
    (job != 0).then(|| unsafe { core::mem::transmute::<usize, Job>(job) })
}

fn serve(local_apic: &LocalApic) {
    BOARD.serve();
    while !is_dismissed() {
        let Some(request) = BOARD.asked() else {
            core::hint::spin_loop();
            continue;
        };
        let start = tsc();
        while BOARD.wants(request) && tsc().wrapping_sub(start) < SIGNAL_TICKS {
            core::hint::spin_loop();
        }
        if !BOARD.answers(request) {
            continue;
        }
        match request.signal {
            Signal::Init => local_apic.init(BOARD.apic_id(0)),
            Signal::Nmi => local_apic.nmi(BOARD.apic_id(0)),
            Signal::StartUp => local_apic.start_up(BOARD.apic_id(0), 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_behind_one_that_has_not_come_do_not_count() {
        let board = Box::new(Board::new());
        assert_eq!([1, 2, 16].map(|wanted| up(&board, wanted)), [1; 3], "the first is here in any case");
        [0, 1, 2, 4].into_iter().for_each(|at| board.sit(at, at as u32));
        assert_eq!([1, 2, 3, 4, 16].map(|wanted| up(&board, wanted)), [1, 2, 3, 3, 3]);
        board.sit(3, 9);
        assert_eq!(up(&board, 16), 5);
    }
}
