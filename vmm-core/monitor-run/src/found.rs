//! The virtualization extension of the processor, found out once, at the start.

use tollgate_abi::ExitReason;
use tollgate_abi::virtualization::{Extension as Kind, Facts};
use vmm_core::svm::capability::Probed;

use crate::processor::virtualization;
use crate::{Refused, svm, vtx};

/// The features of the processor, by the extension that it has.
#[derive(Clone, Copy)]
pub(crate) enum Found {
    VtX(vmm_core::vmx::capability::Capabilities),
    Svm(vmm_core::svm::capability::Capabilities),
}

/// Finds the extension and its features.
pub(crate) fn find() -> Result<Found, Refused> {
    match virtualization() {
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
    /// The facts of the extension that predictions depend on.
    pub(crate) fn facts(&self) -> Facts {
        match self {
            Found::VtX(_) => Facts::default(),
            Found::Svm(capabilities) => capabilities.facts,
        }
    }

    /// Instruction and reason of each exit by which the features were found out.
    pub(crate) fn probed(&self) -> impl Iterator<Item = (&'static str, ExitReason)> {
        let probed = match self {
            Found::VtX(_) => Probed::default(),
            Found::Svm(capabilities) => capabilities.probed,
        };
        probed.exits()
    }

    /// Whether vCPUs can start in real mode, as all vCPUs but the first do.
    pub(crate) fn has_real_mode(&self) -> bool {
        match self {
            Found::VtX(capabilities) => capabilities.has_unrestricted_guest(),
            Found::Svm(_) => true,
        }
    }
}
