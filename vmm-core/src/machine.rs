//! The machine around the guest's processor: memory, ports, a wake-up timer, and CPUID.

use tollgate_abi::ExitReason;
use tollgate_abi::apic::{APIC_BASE, BOOT_PROCESSOR};
use tollgate_abi::exit_reason::Controls;
use tollgate_abi::leaves::LeafMap;
use tollgate_abi::machine::Model;
use tollgate_abi::virtualization::Facts;
use tollgate_abi::x86::msr::APIC_BASE_X2APIC;

use crate::board::Board;
use crate::devices::SharedDevices;
use crate::devices::constant_msrs::ConstantMsrs;
use crate::devices::cpuid_table::CpuidTable;
use crate::devices::guest_apic::GuestApic;
use crate::devices::pages::Pages;
use crate::devices::ports::Ports;
use crate::ended::GuestExit;
use crate::host::registers::NEVER;
use crate::ledger::Ledger;
use crate::memory::GuestMemory;

/// The machine of a guest, as one vCPU sees it. The parts that all vCPUs share are behind references; the rest is each vCPU's own,
/// so that no two write one cache line on the way from an exit to the next entry.
#[derive(Debug)]
pub struct Machine {
    /// The number of this vCPU.
    pub vcpu: usize,
    /// The devices that this vCPU has to itself.
    pub devices: Devices,
    /// The guest's memory, which is the same for all.
    pub memory: GuestMemory,
    /// The settings that the processor and the run's options decide.
    pub config: Configuration,
    /// The vCPU's activity, and the events that it waits for.
    pub activity: Activity,
    /// The bounds of its execution.
    pub bounds: Bounds,
    /// The state that the vCPUs share.
    pub shared: Shared,
    /// The stage that the run has reached.
    pub stage: Stage,
    /// The part of the skipped idle time that this vCPU's clock has been moved on by: a part of the guest's TSC offset that
    /// IA32_TSC_ADJUST does not show.
    pub skipped_ticks: u64,
}

/// The devices of one vCPU.
#[derive(Debug)]
pub struct Devices {
    /// The answers of CPUID.
    pub cpuid: CpuidTable,
    /// The devices behind ports.
    pub ports: Ports,
    /// The devices behind pages.
    pub pages: Pages,
    /// The MSRs that read the same value always.
    pub msrs: ConstantMsrs,
    /// The guest's local APIC.
    pub apic: GuestApic,
}

/// The settings of a run. All but [`Configuration::controls`] stay as they are when it starts.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The place of the course leaves.
    pub leaf_map: LeafMap,
    /// Facts of the processor that predictions depend on.
    pub facts: Facts,
    /// The controls in force, which say what is enabled.
    pub controls: Controls,
    /// The controls of every profile together, which say what the run as a whole could have produced.
    pub enabled_in_any_profile: Controls,
    /// CR4 bits that the guest may set.
    pub cr4_allowed: u64,
    /// The guest may leave IA-32e mode again, and use any paging or none. Otherwise it is stopped, since a processor may not be able
    /// to follow.
    pub any_mode: bool,
}

/// The activity of a vCPU.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// The vCPU has halted until an interrupt.
    pub halted: bool,
    /// The interrupt that HLT waits for.
    pub wake: Option<Wake>,
    /// The events that wait beside those of the APIC.
    pub beside_apic: BesideApic,
    /// INIT has come, and the vCPU is about to wait.
    pub init_pending: bool,
}

/// The events that wait beside those of a vCPU's APIC. They are one byte, so that the delivery of the APIC's asks one question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BesideApic(u8);

impl BesideApic {
    const NMI: u8 = 1 << 0;
    const PIC: u8 = 1 << 1;
    const ISA_BUS: u8 = 1 << 2;

    /// Whether nothing waits.
    #[inline(always)]
    pub fn is_nothing(self) -> bool {
        self.0 == 0
    }

    /// Whether an NMI waits that another vCPU sent and that could not be delivered yet.
    #[inline(always)]
    pub fn has_nmi(self) -> bool {
        self.0 & Self::NMI != 0
    }

    /// Says whether an NMI waits.
    #[inline(always)]
    pub fn set_nmi(&mut self, waits: bool) {
        self.set(Self::NMI, waits);
    }

    /// Whether the ISA bus' interrupt controllers have an interrupt.
    pub fn has_pic(self) -> bool {
        self.0 & Self::PIC != 0
    }

    /// Says whether the ISA bus' interrupt controllers have an interrupt.
    pub fn set_pic(&mut self, waits: bool) {
        self.set(Self::PIC, waits);
    }

    /// Whether the ISA bus has to be looked at, since another vCPU has changed something there.
    pub fn has_isa_bus(self) -> bool {
        self.0 & Self::ISA_BUS != 0
    }

    /// Says whether the ISA bus has to be looked at.
    #[inline(always)]
    pub fn set_isa_bus(&mut self, waits: bool) {
        self.set(Self::ISA_BUS, waits);
    }

    #[inline(always)]
    fn set(&mut self, bit: u8, value: bool) {
        self.0 = self.0 & !bit | if value { bit } else { 0 };
    }
}

/// The bounds of a vCPU's execution.
#[derive(Debug)]
pub struct Bounds {
    /// The TSC from which on any exit ends the guest: that of the run's limit, [`NEVER`], or 0 in a scenario. 0, too, while the
    /// vCPU halts in idle time that may be skipped, so that its next exit comes to the same place.
    pub limit_tsc: u64,
    /// The limit behind such idle time.
    awake_limit_tsc: Option<u64>,
    /// The TSC at which the last pause began.
    pub pause_tsc: u64,
    /// Exits that the guest caused before the watchdog was started last, where that is an interrupt.
    own_exits: u64,
    /// Exits of all other vCPUs before the watchdog was started last.
    others_exits: u64,
}

impl Bounds {
    /// Has the next exit, of any reason, end idle time.
    pub fn fall_idle(&mut self) {
        let limit_tsc = core::mem::take(&mut self.limit_tsc);
        self.awake_limit_tsc.get_or_insert(limit_tsc);
    }

    /// Whether idle time ends by this exit; the limit is the run's from then on.
    pub fn wakes_from_idle(&mut self) -> bool {
        let limit_tsc = self.awake_limit_tsc.take();
        self.limit_tsc = limit_tsc.unwrap_or(self.limit_tsc);
        limit_tsc.is_some()
    }
}

/// The state that the vCPUs share.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    /// The messages and conditions of the vCPUs.
    pub board: &'static Board,
    /// The account of every vCPU, for the leaves.
    pub ledgers: &'static [&'static Ledger],
    /// The devices that all vCPUs share.
    pub devices: &'static SharedDevices,
}

/// The stage of a run.
#[derive(Debug, Default)]
pub struct Stage {
    /// Between the beginning and the end of a workload.
    pub window_open: bool,
    /// A scenario runs: any exit that the quick forms don't decide ends it.
    pub in_scenario: bool,
    /// The way in which the guest ended itself.
    pub exit: Option<GuestExit>,
}

/// The parts that a machine is made from, besides its row.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields of a machine")]
pub struct Parts {
    pub vcpu: usize,
    pub cpuid: CpuidTable,
    pub apic: GuestApic,
    pub memory: GuestMemory,
    pub config: Configuration,
    pub shared: Shared,
}

impl Machine {
    /// The machine of one row, as a vCPU finds it before it has run.
    pub fn new(model: &'static Model, parts: Parts) -> Self {
        let Parts { vcpu, cpuid, apic, memory, config, shared } = parts;
        // Firmware of a PC with an ISA bus leaves the APIC in the mode in which it starts.
        let mode = if model.has_isa_bus { APIC_BASE & !APIC_BASE_X2APIC } else { APIC_BASE };
        let apic_base = mode | if vcpu == 0 { BOOT_PROCESSOR } else { 0 };
        Self {
            vcpu,
            devices: Devices {
                cpuid,
                ports: Ports::new(model, shared.devices),
                pages: Pages::new(model),
                msrs: ConstantMsrs::new(model, apic_base),
                apic,
            },
            memory,
            config,
            activity: Activity::default(),
            bounds: Bounds { limit_tsc: NEVER, awake_limit_tsc: None, pause_tsc: 0, own_exits: 0, others_exits: 0 },
            shared,
            stage: Stage::default(),
            skipped_ticks: 0,
        }
    }

    /// Whether the guest's processor has XSAVE.
    pub fn has_xsave(&self) -> bool {
        self.devices.cpuid.has_xsave()
    }

    /// The effect of a start-up IPI: no event waits any more, CPUID shows CR4 as INIT leaves it. Returns the processor's signature.
    pub fn start_up(&mut self) -> u32 {
        self.activity = Activity::default();
        self.devices.cpuid.set_osxsave(false);
        self.devices.cpuid.answer(1, 0, 0).eax
    }

    /// Exits of this vCPU so far, without the monitor's own looks, and of the others.
    fn exits(&self) -> (u64, u64) {
        self.shared.ledgers.iter().enumerate().fold((0, 0), |(own, others), (at, ledger)| {
            let exits = ledger.exits().wrapping_sub(ledger.looks());
            if at == self.vcpu { (exits, others) } else { (own, others + exits) }
        })
    }

    /// Says that the exit that is being handled, for this reason, is a look of the monitor's own, and none that the guest caused.
    pub fn looks(&self, reason: ExitReason) {
        if let Some(ledger) = self.shared.ledgers.get(self.vcpu) {
            ledger.is_look(reason);
        }
    }

    /// The machine's time at a TSC of the processor's: with the idle time that was skipped, and whatever the guest has written to its
    /// TSC.
    pub fn time(&self, tsc: u64) -> u64 {
        tsc.wrapping_add(self.skipped_ticks)
    }

    /// The TSC at which the ISA bus' timer interrupts this vCPU next, if it does.
    #[cold]
    #[inline(never)]
    pub fn bus_deadline_tsc(&self) -> Option<u64> {
        let deadline = self.shared.devices.deadline().filter(|_| self.vcpu == 0)?;
        Some(deadline.saturating_sub(self.skipped_ticks))
    }

    /// Whether the run has lasted as long as its options allow, at a TSC.
    #[inline(always)]
    pub fn is_past_limit(&self, tsc: u64) -> bool {
        tsc >= self.bounds.limit_tsc
    }

    /// From now on the vCPU runs scenarios, each of which has a bound of its own.
    pub fn begin_scenarios(&mut self) {
        (self.stage.in_scenario, self.bounds.limit_tsc) = (true, 0);
    }

    /// Notes how many exits there are, when the watchdog is started.
    pub fn note_exits(&mut self) {
        (self.bounds.own_exits, self.bounds.others_exits) = self.exits();
    }

    /// Whether the guest caused exits since [`Machine::note_exits`], that of the watchdog apart, which is counted and has not been
    /// called a look yet. A vCPU may wait for others without an exit: where processors take turns, for long.
    pub fn exited_meanwhile(&self) -> bool {
        let (own, others) = self.exits();
        // Each of the others may be at a look of its own that is not called one yet.
        let looking = self.shared.ledgers.len().saturating_sub(1) as u64;
        own.wrapping_sub(self.bounds.own_exits) > 1 || others.wrapping_sub(self.bounds.others_exits) > looking
    }
}

/// An armed interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wake {
    /// The TSC at which the interrupt is due.
    pub deadline_tsc: u64,
    /// The interrupt's vector.
    pub vector: u8,
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;

    use super::*;
    use crate::ledger::Account;

    #[test]
    fn a_vcpu_that_waits_lives_as_long_as_others_exit() {
        let exit = |ledger: &Ledger| {
            let open = ledger.open(ExitReason::EXTERNAL_INTERRUPT);
            ledger.close(open, 0, || 5);
        };
        let ledgers: [&'static Ledger; 3] = [(); 3].map(|()| &*Box::leak(Box::new(Ledger::new())));
        let mut waiting = crate::script::machine_with(Box::leak(Box::new(ledgers)));
        waiting.note_exits();
        // The watchdog's interrupt, which all three have at once.
        ledgers.iter().for_each(|ledger| exit(ledger));
        assert!(!waiting.exited_meanwhile());
        ledgers.iter().for_each(|ledger| ledger.is_look(ExitReason::EXTERNAL_INTERRUPT));
        waiting.note_exits();
        exit(ledgers[0]);
        assert!(!waiting.exited_meanwhile(), "its own alone");
        (0..3).for_each(|_| exit(ledgers[2]));
        assert!(waiting.exited_meanwhile());
    }
}
