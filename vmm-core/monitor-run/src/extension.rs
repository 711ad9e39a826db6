//! The work of a virtualization extension around the exit path: says what the processor offers, makes a vCPU on
//! it, and describes itself. [`crate::vtx`] and [`crate::svm`] are the two.

use core::fmt;

use tollgate_abi::exit_reason::Controls;
use tollgate_abi::profile::Profile;
use tollgate_abi::record::records;
use tollgate_abi::virtualization::Facts;
use vmm_core::devices::cpuid_table::CpuidTable;
use vmm_core::devices::local_apic::Page;
use vmm_core::exit::GuestRegisters;

use crate::Plan;
use crate::processors::Seated;
use crate::scenarios::Stage;

/// An extension, as the monitor sets it up.
pub(crate) trait Extension: Stage + 'static
where
    Self::Failure: fmt::Display,
{
    /// The features of the processor.
    type Capabilities: Copy + Sync + 'static;
    /// Facts of the extension that predictions depend on.
    fn facts(capabilities: &Self::Capabilities) -> Facts;
    /// Whether guests can have RDTSCP and IA32_TSC_AUX.
    fn allows_rdtscp(capabilities: &Self::Capabilities) -> bool;
    /// CR4 bits that guests can have.
    fn cr4_allowed(capabilities: &Self::Capabilities) -> u64;
    /// Switches the extension on at this processor and lays out a vCPU's state.
    fn new(plan: &Plan<Self>, seated: &Seated, cpuid: &CpuidTable, apic: &Page) -> (Self, GuestRegisters);
    /// The exits that a profile's controls can produce.
    fn controls(&self, profile: Profile) -> Controls;
    /// The control fields of a profile, for its record.
    fn describe(&self, profile: Profile) -> records::Controls<'static>;
    /// Pages for scenarios.
    fn pages() -> Self::Pages;
}
