//! The interrupts of the local APIC: their vectors, and how many of each a vCPU has taken. The assembly of `runtime::traps` counts.

use core::sync::atomic::Ordering::Relaxed;

use super::cpu::{self, FIRST_APIC_VECTOR};

/// The vector by which another vCPU announces work to this one, or wakes it.
pub(crate) const WORK_VECTOR: u8 = 0x30;
/// The vector of the local APIC's timer.
pub(crate) const TIMER_VECTOR: u8 = 0x31;
/// The vector that a vCPU sends itself.
pub(crate) const SELF_VECTOR: u8 = 0x32;
/// The vector that workloads send another vCPU.
pub(crate) const TEST_VECTOR: u8 = 0x33;

/// Interrupts of this vCPU so far, and the vector of the last one.
pub(crate) fn interrupts() -> (u64, u64) {
    let cpu = cpu::this();
    (cpu.interrupts.load(Relaxed), cpu.last_interrupt.load(Relaxed))
}

/// Interrupts of this vCPU with one vector of the local APIC.
pub(crate) fn interrupts_of(vector: u8) -> u64 {
    cpu::this().by_vector[usize::from(vector - FIRST_APIC_VECTOR)].load(Relaxed)
}
