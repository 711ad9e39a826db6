//! The settings of firmware in a local APIC, kept while the monitor has it and put back afterwards. Meanwhile none of its sources
//! interrupts a guest, but for the timer, which is the monitor's.
#![expect(unsafe_code, reason = "reads and writes the MSR of the timer's deadline")]

use tollgate_abi::apic::{
    DIVIDE, IA32_TSC_DEADLINE, INITIAL_COUNT, IRR, LVT_CMCI, LVT_ERROR, LVT_LINT0, LVT_LINT1, LVT_MASKED,
    LVT_PERFORMANCE, LVT_PERIODIC, LVT_THERMAL, LVT_TIMER, LVT_TSC_DEADLINE, SVR, VERSION,
};
use tollgate_abi::x86::cpuid::edx_1;
use tollgate_abi::x86::msr::{IA32_MCG_CAP, MCG_CMCI_P};
use x86_64::registers::model_specific::Msr;

use super::LocalApic;

/// Registers that hold the requested interrupts, 32 bits each.
const REQUEST_REGISTERS: u32 = 8;

/// The entries of the local vector table besides the timer's. Each has the number of the last entry that VERSION gives on
/// processors that have it (SDM 3A 12.4.8): the first processors had no more than the first three.
const ENTRIES: [(u32, u32); 6] =
    [(LVT_ERROR, 3), (LVT_LINT0, 3), (LVT_LINT1, 3), (LVT_PERFORMANCE, 4), (LVT_THERMAL, 5), (LVT_CMCI, 6)];

/// The values of [`ENTRIES`], as far as the processor has them.
#[derive(Clone, Copy, Debug)]
struct Entries([Option<u32>; ENTRIES.len()]);

impl Entries {
    fn keep(has_cmci: bool, read: impl Fn(u32) -> u32) -> Self {
        let last = read(VERSION) >> 16 & 0xff;
        let is_there = |register, needs: u32| last >= needs && (register != LVT_CMCI || has_cmci);
        Self(ENTRIES.map(|(register, needs)| is_there(register, needs).then(|| read(register))))
    }

    /// The entries that the processor has, and their values.
    fn iter(&self) -> impl Iterator<Item = (u32, u32)> {
        ENTRIES.into_iter().zip(self.0).filter_map(|((register, _), value)| Some((register, value?)))
    }

    fn mask(&self, write: impl Fn(u32, u32)) {
        self.iter().for_each(|(register, value)| write(register, value | LVT_MASKED));
    }

    fn put_back(&self, write: impl Fn(u32, u32)) {
        self.iter().for_each(|(register, value)| write(register, value));
    }
}

/// The registers that [`LocalApic::enable`], its timer and [`Settings::mask`] change.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    apic: LocalApic,
    spurious: u32,
    lvt_timer: u32,
    entries: Entries,
    divide: u32,
    initial_count: u32,
    /// The timer's deadline, if it has one.
    deadline: Option<u64>,
}

impl Settings {
    /// The settings of this processor's APIC; `None` if [`LocalApic::enable`] would refuse it.
    pub fn keep() -> Option<Self> {
        let apic = LocalApic::find().ok()?;
        let lvt_timer = apic.read(LVT_TIMER);
        let has_deadline = lvt_timer & (LVT_PERIODIC | LVT_TSC_DEADLINE) == LVT_TSC_DEADLINE;
        Some(Self {
            apic,
            spurious: apic.read(SVR),
            lvt_timer,
            entries: Entries::keep(has_cmci(), |register| apic.read(register)),
            divide: apic.read(DIVIDE),
            initial_count: apic.read(INITIAL_COUNT),
            // SAFETY: a timer in this mode has the MSR.
            deadline: has_deadline.then(|| unsafe { Msr::new(IA32_TSC_DEADLINE).read() }),
        })
    }

    /// Masks the sources that interrupt by themselves: LINT0, LINT1, errors, performance counters, heat, corrected machine
    /// checks.
    pub fn mask(&self) {
        self.entries.mask(|register, value| self.apic.write(register, value));
    }

    /// Whether an interrupt waits to be taken.
    pub fn has_request(&self) -> bool {
        (0..REQUEST_REGISTERS).any(|register| self.apic.read(IRR + register) != 0)
    }

    /// Ends the interrupt that was taken last.
    pub fn end_of_interrupt(&self) {
        self.apic.end_of_interrupt();
    }

    /// Puts the settings back. A timer that ran begins its period anew.
    pub fn put_back(&self) {
        self.apic.write(DIVIDE, self.divide);
        self.apic.write(LVT_TIMER, self.lvt_timer);
        match self.deadline {
            // SAFETY: as in `keep`; firmware had set this very deadline.
            Some(deadline) => unsafe {
                core::arch::asm!("mfence", options(nostack, preserves_flags));
                Msr::new(IA32_TSC_DEADLINE).write(deadline);
            },
            None => self.apic.write(INITIAL_COUNT, self.initial_count),
        }
        // An APIC that is disabled by software masks every entry, and keeps them masked.
        self.entries.put_back(|register, value| self.apic.write(register, value));
        self.apic.write(SVR, self.spurious);
    }
}

/// Whether corrected machine checks can interrupt.
fn has_cmci() -> bool {
    // SAFETY: a processor with this architecture has the MSR.
    core::arch::x86_64::__cpuid(1).edx & edx_1::MCA != 0 && unsafe { Msr::new(IA32_MCG_CAP).read() } & MCG_CMCI_P != 0
}

#[cfg(test)]
mod tests {
    use core::cell::RefCell;
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_source_that_there_is_is_masked_and_comes_back_as_it_was() {
        for (last, has_cmci, masked) in [(3, true, 3), (4, true, 4), (5, true, 5), (6, false, 5), (6, true, 6)] {
            let values: BTreeMap<_, _> =
                ENTRIES.into_iter().zip(0x400..).map(|((register, _), value)| (register, value)).collect();
            let apic = RefCell::new(values.clone());
            apic.borrow_mut().insert(VERSION, last << 16 | 0x14);
            let write = |register, value| assert!(apic.borrow_mut().insert(register, value).is_some());
            let entries = Entries::keep(has_cmci, |register| apic.borrow()[&register]);
            entries.mask(write);
            let is_masked = |register: &u32| apic.borrow()[register] & LVT_MASKED != 0;
            assert_eq!(values.keys().filter(|register| is_masked(register)).count(), masked, "{last} {has_cmci}");
            entries.put_back(write);
            assert!(values.iter().all(|(register, value)| apic.borrow()[register] == *value), "{last} {has_cmci}");
        }
    }
}
