//! What a virtualization extension does for the monitor around the exit path: says what the processor offers, makes a vCPU on
//! it, and describes itself. [`crate::vtx`] and [`crate::svm`] are the two; which one it is, is found out once, at the start.

use core::fmt;

use tollgate_abi::ExitReason;
use tollgate_abi::exit_reason::Controls;
use tollgate_abi::profile::Profile;
use tollgate_abi::record::records;
use tollgate_abi::virtualization::{Extension as Kind, Facts};
use vmm_core::devices::cpuid_table::CpuidTable;
use vmm_core::devices::local_apic::Page;
use vmm_core::exit::GuestRegisters;
use vmm_core::host::local_apic::LocalApic;
use vmm_core::svm::Svm;
use vmm_core::svm::probe::Probed;
use vmm_core::vmx::Vmx;

use crate::processors::Seated;
use crate::scenarios::Stage;
use crate::{Plan, Refused, processor, svm, vtx};

/// What the processor offers, by the extension that it has.
#[derive(Clone, Copy)]
pub(crate) enum Found {
    VtX(vmm_core::vmx::capability::Capabilities),
    Svm(vmm_core::svm::capability::Capabilities),
}

/// The extension that CPUID shows.
pub(crate) fn kind() -> Option<Kind> {
    if vtx::is_offered() {
        Some(Kind::VtX)
    } else {
        vmm_core::svm::capability::is_offered(processor::cpuid).then_some(Kind::Svm)
    }
}

/// By what another processor is made to exit, whatever its guest does: [`Extension::stop`] of the extension that there is.
pub(crate) fn signal() -> fn(&LocalApic, u32) {
    if kind() == Some(Kind::Svm) { Svm::stop } else { Vmx::stop }
}

/// What the processor offers.
pub(crate) fn find() -> Result<Found, Refused> {
    match kind() {
        Some(Kind::VtX) => {
            vtx::capabilities().map(Found::VtX).map_err(|refusal| Refused::new(refusal, refusal.remedy()))
        }
        Some(Kind::Svm) => {
            svm::capabilities().map(Found::Svm).map_err(|refusal| Refused::new(refusal, refusal.remedy()))
        }
        None => Err(Refused::new(
            "this CPU has neither VT-x (CPUID.1:ECX.VMX is 0) nor SVM (CPUID.8000_0001:ECX.SVM is 0)",
            "use a CPU that has one, and switch it on in the firmware's settings (Bochs: --cpu tigerlake; QEMU: -cpu max)",
        )),
    }
}

impl Found {
    /// How its extension treats what predictions depend on.
    pub(crate) fn facts(&self) -> Facts {
        match self {
            Found::VtX(_) => Facts::default(),
            Found::Svm(capabilities) => capabilities.facts,
        }
    }

    /// Instruction and reason of each exit by which some of that was found out.
    pub(crate) fn probed(&self) -> impl Iterator<Item = (&'static str, ExitReason)> {
        let probed = match self {
            Found::VtX(_) => Probed::default(),
            Found::Svm(capabilities) => capabilities.probed,
        };
        probed.exits()
    }

    /// Whether vCPUs can start in real mode, as all but the first do.
    pub(crate) fn has_real_mode(&self) -> bool {
        match self {
            Found::VtX(capabilities) => capabilities.has_unrestricted_guest(),
            Found::Svm(_) => true,
        }
    }
}

/// An extension, as the monitor sets it up.
pub(crate) trait Extension: Stage + 'static
where
    Self::Failure: fmt::Display,
{
    /// What the processor offers.
    type Capabilities: Copy + Sync + 'static;
    /// How it treats what predictions depend on.
    fn facts(capabilities: &Self::Capabilities) -> Facts;
    /// Whether guests can have RDTSCP and IA32_TSC_AUX.
    fn allows_rdtscp(capabilities: &Self::Capabilities) -> bool;
    /// CR4 bits that guests can have.
    fn cr4_allowed(capabilities: &Self::Capabilities) -> u64;
    /// Switches the extension on at this processor and lays out a vCPU's state.
    fn new(plan: &Plan<Self>, seated: &Seated, cpuid: &CpuidTable, apic: &Page) -> (Self, GuestRegisters);
    /// Which exits a profile's controls can produce.
    fn controls(&self, profile: Profile) -> Controls;
    /// Adds the control fields of a profile to a record.
    fn describe(&self, profile: Profile) -> records::Controls<'static>;
    /// Has another processor exit from its guest whatever the guest does.
    fn stop(local_apic: &LocalApic, apic_id: u32);
    /// Pages for scenarios.
    fn pages() -> Self::Pages;
}
