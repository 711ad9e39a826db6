//! The work of a virtualization extension around the exit path: it says what the processor offers, makes a vCPU on it, and
//! describes itself. The two extensions are [`crate::vtx`] and [`crate::svm`].

use core::fmt;

use tollgate_abi::command_line::Options;
use tollgate_abi::exit_reason::Controls;
use tollgate_abi::profile::Profile;
use tollgate_abi::record::records;
use tollgate_abi::virtualization::Facts;
use vmm_core::board::Board;
use vmm_core::devices::cpuid_table::CpuidTable;
use vmm_core::devices::guest_apic::Page;
use vmm_core::exit::GuestRegisters;
use vmm_core::nested::Table;
use vmm_core::stack::Enter;
use vmm_core::staging::Staging;
use vmm_core::svm::permission_maps::IOPM_PAGES;

use crate::guest::Guest;
use crate::processors::Seated;

/// An extension, as the monitor sets it up.
pub(crate) trait Extension: Staging + Enter
where
    Self::Failure: fmt::Display,
{
    /// The features of the processor.
    type Capabilities: Copy + Sync + 'static;
    /// The facts of the extension that predictions depend on.
    fn facts(capabilities: &Self::Capabilities) -> Facts;
    /// Whether guests can have RDTSCP and IA32_TSC_AUX.
    fn allows_rdtscp(capabilities: &Self::Capabilities) -> bool;
    /// The CR4 bits that guests can have.
    fn cr4_allowed(capabilities: &Self::Capabilities) -> u64;
    /// Switches the extension on at this processor and lays out a vCPU's state.
    fn new(plan: &Plan<Self>, seated: &Seated, cpuid: &CpuidTable, apic: &Page) -> (Self, GuestRegisters);
    /// The exits that a profile's controls can produce.
    fn controls(&self, profile: Profile) -> Controls;
    /// The control fields of a profile, for its record.
    fn describe(&self, profile: Profile) -> records::Controls<'static>;
    /// The pages for scenarios.
    fn pages() -> Self::Pages;
    /// The controls that the processor allows, as far as scenarios need to know.
    fn allowed(&self, board: &Board) -> Controls;
}

/// The parts that every vCPU is made from.
pub(crate) struct Plan<B: Extension> {
    pub(crate) capabilities: B::Capabilities,
    pub(crate) guest: Guest,
    pub(crate) options: Options<'static>,
    /// TSC ticks of the run from the first entry on; 0 for no limit.
    pub(crate) limit_ticks: u64,
    /// The I/O permission map of SVM, whose first two pages are the I/O bitmaps of VT-x: every port exits.
    pub(crate) all_ports: &'static [Table; IOPM_PAGES],
}
