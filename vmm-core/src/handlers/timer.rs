//! The timer of the guest's APIC, which the processor's own stands for.

use crate::exit::Timers;
use crate::machine::Machine;

/// Has the processor's own timer fire when the guest's has to.
#[inline(never)]
pub fn arm<B: Timers>(backend: &mut B, machine: &Machine) {
    let deadline = machine.devices.apic.deadline_tsc();
    machine.shared.board.set_timer(machine.vcpu, deadline.is_some());
    backend.arm_timer(deadline);
}
