//! SVM: one vCPU's VMCB as a [`Backend`](crate::exit::Backend), the twin of [`crate::vmx`].
//!
//! One file per topic of the APM's volume 2, chapter 15: [`capability`] (15.4), [`controls`] (15.9 to 15.13), [`vmcb`] (appendix
//! B), [`instructions`] (15.5, 15.17), [`exit_information`] (15.6, appendix C), [`npt`] (15.25), [`permission_maps`] (15.10,
//! 15.11), [`guest_state`] (15.5.1), [`entry`] (the assembly stub), [`gates`] (15.21), [`entry_checks`] (15.5.1). [`scenario`]
//! stages guests of another kind, and [`probe`] runs single instructions before there is a guest. For the common code, `facts`,
//! `state`, `interrupts` and `timers` read and write the VMCB; [`crate::instruction`] tells what processors
//! without decode assists do not.

pub mod capability;
mod code_page;
pub mod controls;
pub mod entry;
pub mod entry_checks;
pub mod exit_information;
mod facts;
pub mod gates;
pub mod guest_state;
pub mod instructions;
mod interrupts;
mod nmi;
pub mod npt;
pub mod permission_maps;
pub mod probe;
pub mod scenario;
mod scenario_hardware;
mod state;
mod timers;
#[cfg(test)]
pub(crate) mod twins;
pub mod vmcb;

use core::cell::Cell;

use tollgate_abi::exit_reason::Controls;
use tollgate_abi::guest_image::{Entry, Mode};
use tollgate_abi::profile::Profile;

use self::capability::Capabilities;
use self::code_page::CodePage;
use self::controls::Intercepts;
use self::instructions::SvmOperation;
use self::nmi::Nmis;
use self::npt::Npt;
use self::permission_maps::MSRPM_PAGES;
use self::vmcb::Vmcb;
use crate::exit::{GuestRegisters, GuestState, Timers};
use crate::host::local_apic::LocalApic;
use crate::host::own_apic::OwnApic;
use crate::host::registers::{NEVER, tsc};
use crate::host::vectors::{KICK_VECTOR, TIMER_VECTOR, WATCHDOG_VECTOR};
use crate::memory::GuestMemory;
use crate::nested::Table;

/// TLB_CONTROL: flushes every translation at the next VMRUN (APM 2 15.16.1).
const FLUSH_ALL: u64 = 1;
/// TLB_CONTROL: flushes the translations of this ASID.
const FLUSH_ASID: u64 = 3;
/// Ticks between two PAUSEs beyond which the second makes no exit, if the processor has such a filter: the most that it takes.
const PAUSE_THRESHOLD: u64 = 0xffff;

/// The state of one vCPU besides its VMCB.
#[derive(Debug)]
pub struct Svm {
    vmcb: &'static Vmcb,
    operation: SvmOperation,
    capabilities: Capabilities,
    npt: Npt,
    /// The guest's memory, for the bytes of instructions that no assist tells about.
    memory: GuestMemory,
    msrpm: &'static mut [Table; MSRPM_PAGES],
    physical_bits: u32,
    /// The place of the code whose instructions are looked at.
    code_page: Cell<Option<CodePage>>,
    asid: u32,
    /// One ASID is enough, since its translations can be flushed alone.
    flushes_by_asid: bool,
    /// An entry has obeyed TLB_CONTROL.
    flushed: bool,
    /// The guest is in IA-32e mode.
    long_mode: bool,
    /// EFER.LME, if the guest has set it and has not switched paging on. Until then it has no effect, so that it is legal at
    /// VMRUN and can be left out (APM 2 15.5.1, 14.6.1). QEMU needs that: if it is set and CR4.PAE is not, an exit leaves the
    /// monitor with the guest's CR0 (seen on 7.2).
    held_back_efer: u64,
    /// VINTR is intercepted.
    window: bool,
    /// The masking of NMIs.
    nmis: Nmis,
    /// The address of the instruction whose #BP or #OF was injected last, and its length; 0 if there was none.
    software_rip: u64,
    software_bytes: u8,
    /// CR4.MCE as the monitor has it: without it a machine check while the guest runs would be a shutdown, under any intercepts
    /// (APM 2 15.12.15). The guest reads it if it is set, though CPUID does not show it.
    machine_check: u64,
    /// The HLT at which the guest halts, and the RIP behind it.
    halt: Option<Halt>,
    /// The processor's own APIC, whose timer has two users.
    own_apic: OwnApic,
    watchdog_ticks: u64,
    /// The TSC at which the watchdog's time is over, or the run's.
    watch_tsc: u64,
    /// The TSC at which the run ends at the latest.
    limit_tsc: u64,
    /// The limit, or an earlier time at which a guest's timer fires.
    bound_tsc: u64,
    guest_deadline_tsc: u64,
}

/// A HLT that the guest executes itself, without the intercept, so that it halts as a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Halt {
    rip: u64,
    bytes: u64,
    /// RIP has been left at the HLT.
    stays: bool,
}

/// The parts from which [`Svm::new`] makes a backend.
#[derive(Debug)]
#[expect(missing_docs, reason = "as in `Svm`")]
pub struct Parts {
    pub vmcb: &'static Vmcb,
    pub operation: SvmOperation,
    pub capabilities: Capabilities,
    pub npt: Npt,
    pub memory: GuestMemory,
    pub msrpm: &'static mut [Table; MSRPM_PAGES],
    /// The I/O permission map: every bit is 1.
    pub iopm: &'static [Table],
    pub physical_bits: u32,
    /// TSC ticks without an exit after which the guest is stopped; 0 for never.
    pub watchdog_ticks: u64,
    pub local_apic: LocalApic,
    /// CR4.MCE, if the monitor has it set.
    pub machine_check: u64,
    /// The number of the vCPU.
    pub vcpu: usize,
}

impl Svm {
    /// Fills the VMCB: controls, and the guest's state at its entry point.
    pub fn new(parts: Parts, entry: &Entry) -> (Self, GuestRegisters) {
        let Parts { vmcb, operation, capabilities, npt, memory, msrpm, iopm, physical_bits, .. } = parts;
        let Parts { watchdog_ticks, local_apic, vcpu, machine_check, .. } = parts;
        let physical = |page: &Table| core::ptr::from_ref(page) as u64;
        vmcb.set(vmcb::IOPM_BASE_PA, iopm.first().map_or(0, physical));
        vmcb.set(vmcb::MSRPM_BASE_PA, physical(&msrpm[0]));
        vmcb.set(vmcb::N_CR3, npt.pointer());
        vmcb.set_part(vmcb::NP_ENABLE, 1);
        vmcb.set(vmcb::TSC_OFFSET, 0);
        vmcb.set(vmcb::VIRTUAL_INTERRUPT, vmcb::V_INTR_MASKING | vmcb::V_IRQ_ANYHOW | vmcb::V_INTR_VECTOR);
        vmcb.set_part(vmcb::GUEST_ASID, 1);
        vmcb.set_part(vmcb::TLB_CONTROL, FLUSH_ALL);
        if capabilities.pause_threshold {
            vmcb.set_part(vmcb::PAUSE_FILTER_THRESHOLD, PAUSE_THRESHOLD);
        }
        match entry.mode {
            Mode::Long => guest_state::write(vmcb, entry.rip, entry.cr3),
            Mode::Protected => guest_state::write_protected_mode(vmcb, entry.rip),
        }
        vmcb.set(vmcb::RSP, entry.rsp);
        vmcb.set(vmcb::CR4, vmcb.get(vmcb::CR4) | machine_check);
        let mut svm = Self {
            vmcb,
            operation,
            capabilities,
            npt,
            memory,
            msrpm,
            physical_bits,
            code_page: Cell::new(None),
            asid: 1,
            flushes_by_asid: capabilities.clean_bits && capabilities.flush_by_asid,
            flushed: false,
            long_mode: entry.mode == Mode::Long,
            held_back_efer: 0,
            window: false,
            nmis: Nmis::default(),
            software_rip: 0,
            software_bytes: 0,
            machine_check,
            halt: None,
            own_apic: OwnApic::new(local_apic, KICK_VECTOR + vcpu as u8),
            watchdog_ticks,
            watch_tsc: NEVER,
            limit_tsc: NEVER,
            bound_tsc: NEVER,
            guest_deadline_tsc: NEVER,
        };
        svm.operation.load(vmcb);
        let _ = svm.set_profile(Profile::Minimal);
        (svm, GuestRegisters::at(entry))
    }

    /// The intercepts of a profile on this processor.
    pub fn intercepts(&self, profile: Profile) -> Intercepts {
        Intercepts::new(&self.capabilities, profile)
    }

    /// The exits that a profile's intercepts can produce.
    pub fn controls(&self, profile: Profile) -> Controls {
        self.intercepts(profile).in_force()
    }

    /// The steps before an entry that follows no exit: the time since the guest was left does not count for the watchdog.
    fn about_to_enter(&mut self) {
        // A flush is over with its entry. The stub sees to that on processors with `capabilities.clean_bits`, this code on
        // others.
        if core::mem::replace(&mut self.flushed, true) && self.vmcb.part(vmcb::TLB_CONTROL) != 0 {
            self.vmcb.set(vmcb::ASID_AND_FLUSH, self.asid.into());
        }
        self.restart_watchdog();
    }

    /// Sets the one timer to the earlier of two times.
    fn program_timer(&self) {
        let (watch_tsc, guest_tsc) = (self.watch_tsc, self.guest_deadline_tsc);
        let (vector, at_tsc) =
            if watch_tsc < guest_tsc { (WATCHDOG_VECTOR, watch_tsc) } else { (TIMER_VECTOR, guest_tsc) };
        self.own_apic.local_apic.arm_timer(vector, at_tsc);
    }

    /// Whether the watchdog is on and would have ended by `tsc`; never asked past the limit.
    fn is_past_watchdog(&self, tsc: u64) -> bool {
        tsc >= self.watch_tsc
    }

    fn set_watchdog(&mut self, on: bool) {
        if self.watchdog_ticks > 0 {
            let watchdog_tsc = if on { tsc().saturating_add(self.watchdog_ticks) } else { NEVER };
            self.watch_tsc = watchdog_tsc.min(self.bound_tsc);
            self.program_timer();
        }
    }

    /// Forgets every translation of the guest. Its ASID is flushed, if the stub ends the flush with the entry. Otherwise it gets
    /// an ASID with which no translation has been cached; if there is none left, all are flushed.
    fn new_asid(&mut self) {
        if self.flushes_by_asid {
            return self.vmcb.set(vmcb::ASID_AND_FLUSH, FLUSH_ASID << 32 | u64::from(self.asid));
        }
        self.asid += 1;
        // A flush that still waits for its entry is kept.
        let mut control = self.vmcb.get(vmcb::ASID_AND_FLUSH) & FLUSH_ALL << 32;
        if self.asid >= self.capabilities.asids {
            (self.asid, self.flushed, control) = (1, false, FLUSH_ALL << 32);
        }
        self.vmcb.set(vmcb::ASID_AND_FLUSH, control | u64::from(self.asid));
    }
}
