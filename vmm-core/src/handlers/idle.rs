//! The clock and the timer of a vCPU whose idle time may be skipped
//! ([`Board::skip_idle_time`](crate::board::Board::skip_idle_time)).

use crate::exit::{Backend, GuestState, State};
use crate::handlers::{isa_bus, timer};
use crate::machine::Machine;

/// Says until when a vCPU that is about to halt sleeps, and has its next exit come by the way of last ones.
pub fn fall_asleep(machine: &mut Machine) {
    let deadlines = [machine.devices.apic.deadline_tsc(), machine.bus_deadline_tsc()];
    machine.shared.board.set_deadline(machine.vcpu, deadlines.into_iter().flatten().min());
    machine.bounds.fall_idle();
}

/// Moves the clock on to the first timer, if this is the last vCPU that came to rest. The vCPU whose timer comes first has it fire
/// by the processor's, as it would have later. The others with a timer are interrupted, since their processors' timers are set for
/// the time before the skip.
pub fn skip<B: Backend>(backend: &mut B, machine: &mut Machine) {
    let (vcpu, board) = (machine.vcpu, machine.shared.board);
    if !board.skip_idle_time(backend.tsc()) {
        return;
    }
    for other in board.others(vcpu).filter(|&other| board.waits_for_timer(other)) {
        backend.kick(board.apic_id(other));
    }
    board.add_skipped(vcpu, catch_up(backend, machine));
    if machine.shared.devices.isa_bus.is_there() {
        backend.set_bound(machine.bus_deadline_tsc());
    }
    backend.arm_timer(machine.devices.apic.deadline_tsc());
}

/// Moves this vCPU's clock on by what was skipped since it was looked at last, and returns these ticks.
pub fn catch_up<B: GuestState>(backend: &mut B, machine: &mut Machine) -> u64 {
    let skipped = machine.shared.board.skipped_ticks();
    let ticks = skipped.wrapping_sub(core::mem::replace(&mut machine.skipped_ticks, skipped));
    if ticks > 0 {
        backend.set(State::TscOffset, backend.get(State::TscOffset).wrapping_add(ticks));
        machine.devices.apic.skip(ticks);
    }
    ticks
}

/// [`catch_up`] at an exit of a vCPU that had halted. Its timer fires if it is due behind a skip, and is set anew otherwise. True
/// if the exit came for a skip that is none of this vCPU's business.
pub fn wake_up<B: Backend>(backend: &mut B, machine: &mut Machine) -> bool {
    let moved = catch_up(backend, machine);
    machine.shared.board.add_skipped(machine.vcpu, moved);
    if moved == 0 {
        return false;
    }
    let fired = isa_bus::fired(backend, machine) | machine.devices.apic.timer_fired(backend.tsc());
    timer::arm(backend, machine);
    !fired
}
