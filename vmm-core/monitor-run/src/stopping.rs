//! How the other vCPUs are made to leave their guests when one guest is over: asked, signalled, and missed where they don't come.

use tollgate_abi::virtualization::Extension as Kind;
use vmm_core::board::Condition;
use vmm_core::host::local_apic::LocalApic;
use vmm_core::host::registers::tsc;

use crate::board::BOARD;
use crate::firmware::firmware;
use crate::processor::virtualization;

/// TSC ticks that other vCPUs have to go off line by themselves, and then to stop.
const STOP_TICKS: u64 = 1 << 26;
/// TSC ticks between two signals to one that has not stopped yet, and by how much they grow each time.
const SIGNAL_TICKS: u64 = 997;
const SIGNAL_TICKS_MORE: u64 = 13;

/// Stops other vCPUs. Again and again: an INIT in VMX root operation stays pending until the next entry (SDM 3C 24.8), but
/// Bochs drops it, and an NMI there is taken and gone.
pub(crate) fn stop(
    local_apic: &LocalApic,
    others: impl Iterator<Item = usize> + Clone,
    has_left: impl Fn(usize) -> bool,
) {
    let signal = signal();
    let (start, mut signal_ticks) = (tsc(), SIGNAL_TICKS);
    loop {
        let mut running = others.clone().filter(|&other| !has_left(other)).peekable();
        if running.peek().is_none() || tsc().wrapping_sub(start) > BOARD.patience(STOP_TICKS) {
            return;
        }
        for other in running {
            if BOARD.ask_to_stop(other) {
                signal(local_apic, BOARD.apic_id(other));
            }
        }
        let told = tsc();
        while tsc().wrapping_sub(told) < signal_ticks {
            core::hint::spin_loop();
        }
        // A constant time between signals can be a multiple of a guest's loop, and each then comes while its exit is handled.
        signal_ticks += SIGNAL_TICKS_MORE;
    }
}

/// Sees to it that no other vCPU runs any more; returns one that had to be stopped although the guest ended itself.
pub(crate) fn stop_others(vcpu: usize, local_apic: &LocalApic) -> Option<usize> {
    let is_up = |at: &usize| matches!(BOARD.condition(*at), Condition::Running | Condition::Halted);
    let first_up = || BOARD.others(vcpu).find(is_up);
    let start = tsc();
    // One that has booked its last HLT is about to execute it.
    while BOARD.first_busy(vcpu).is_some()
        && BOARD.culprit() == Some(0)
        && tsc().wrapping_sub(start) < BOARD.patience(STOP_TICKS)
    {
        core::hint::spin_loop();
    }
    let running = first_up();
    stop(local_apic, BOARD.others(vcpu), is_off_line);
    running
}

/// Whether a vCPU will not run any more.
pub(crate) fn is_off_line(at: usize) -> bool {
    matches!(BOARD.condition(at), Condition::Over | Condition::Absent)
}

/// The signal by which another processor is made to exit from its guest, whatever the guest does. Under SVM it is an NMI, which makes an
/// exit whatever RFLAGS.IF is, and waits while the processor is not in its guest. Under VT-x it is INIT (SDM 3C 26.2): Bochs 2.7
/// makes no exit for an external interrupt while IF has been 0 since the VM entry; an NMI where an INIT too many would outlast the run.
fn signal() -> fn(&LocalApic, u32) {
    let by_nmi = virtualization() == Some(Kind::Svm) || firmware().takes_back;
    if by_nmi { LocalApic::nmi } else { LocalApic::init }
}
