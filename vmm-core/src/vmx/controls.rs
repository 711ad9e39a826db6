//! The VM-execution, VM-exit and VM-entry controls (SDM 3C 25.6 to 25.8): those that the monitor needs and those that a profile
//! adds, as far as this processor allows them.

use tollgate_abi::exit_reason::{Controls, Feature};
use tollgate_abi::profile::{
    APIC_PROC2, APIC_REGISTERS, CR8_EXITING, INTERRUPT_DELIVERY, Profile, TPR_SHADOW, X2APIC_MODE,
};
use tollgate_abi::x86::control::CR4_MCE;
use tollgate_abi::x86::controls::bits;

use super::capability::Capabilities;
use super::wanted::*;
use crate::exit::VirtualizedApic;

/// The CR4 bits that are set while a guest runs, whatever it wrote: those that VMX operation demands, and the monitor's own MCE.
/// A machine check with that bit clear shuts the processor down, guest or not (SDM 3A 6.15, interrupt 18); with it set the check
/// makes an exit. The guest sees neither: masks and shadow have the value that it wrote, and MCE is not offered.
pub const fn cr4_forced(capabilities: &Capabilities, host_cr4: u64) -> u64 {
    capabilities.cr4_fixed0 | host_cr4 & CR4_MCE
}

/// The control fields of one profile on one processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the fields")]
pub struct ControlFields {
    pub pin: u32,
    pub proc: u32,
    pub proc2: u32,
    pub exit: u32,
    pub entry: u32,
    pub exception_bitmap: u32,
    pub cr0_mask: u64,
    pub cr4_mask: u64,
}

impl ControlFields {
    /// Settles a profile's wishes with what the processor allows.
    pub fn new(capabilities: &Capabilities, profile: Profile, timed: bool, unrestricted: bool) -> Self {
        let mut wanted = profile.intercepts();
        let vpid = if capabilities.has_vpid() { VPID } else { 0 };
        // The processor's own TPR is never the guest's: if there is no shadow of it, or none that MSRs see, CR8 exits.
        if capabilities.proc.may & TPR_SHADOW == 0 || capabilities.proc2.may & X2APIC_MODE == 0 {
            wanted.proc = wanted.proc & !TPR_SHADOW | CR8_EXITING;
            wanted.proc2 &= !APIC_PROC2;
        }
        if unrestricted {
            wanted.proc2 |= UNRESTRICTED_GUEST;
        }
        Self {
            pin: capabilities.pin.settle(
                bits(PIN_REQUIRED)
                    | if timed { PREEMPTION_TIMER } else { 0 }
                    | if capabilities.has_virtual_nmis() { VIRTUAL_NMIS } else { 0 },
            ),
            proc: capabilities.proc.settle(bits(PROC_REQUIRED) | wanted.proc),
            proc2: capabilities.proc2.settle(bits(PROC2_REQUIRED) | wanted.proc2 | RDTSCP | vpid),
            exit: capabilities.exit.settle(bits(EXIT_REQUIRED) | if timed { SAVE_PREEMPTION_TIMER } else { 0 }),
            entry: capabilities.entry.settle(bits(ENTRY_REQUIRED)),
            exception_bitmap: wanted.exception_bitmap,
            cr0_mask: wanted.cr0_mask,
            cr4_mask: wanted.cr4_mask,
        }
    }

    /// The parts of the guest's local APIC that these controls leave to the processor.
    pub const fn virtualized_apic(&self) -> VirtualizedApic {
        let priority = self.proc & TPR_SHADOW != 0;
        VirtualizedApic {
            priority,
            registers: priority && self.proc2 & APIC_REGISTERS != 0,
            delivery: priority && self.proc2 & INTERRUPT_DELIVERY != 0,
        }
    }

    /// The exits that these controls make possible. The monitor asks for a window for interrupts or NMIs when it needs one.
    pub fn in_force(&self, capabilities: &Capabilities, has_xsave: bool) -> Controls {
        let feature = |present: bool, feature: Feature| u32::from(present) << feature as u8;
        Controls {
            svm: None,
            pin: self.pin,
            proc: self.proc | INTERRUPT_WINDOW | if self.pin & VIRTUAL_NMIS != 0 { NMI_WINDOW } else { 0 },
            proc2: self.proc2,
            proc3: 0,
            exception_bitmap: self.exception_bitmap,
            cr0_mask: self.cr0_mask,
            cr4_mask: self.cr4_mask,
            io_exits: true,
            msr_reads_exit: true,
            msr_writes_exit: true,
            features: feature(true, Feature::Ept)
                | feature(capabilities.proc2.may & VPID != 0, Feature::Vpid)
                | feature(has_xsave, Feature::Xsave),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::vector;
    use crate::vmx::capability::tests::{MODELS, model};
    use tollgate_abi::ExitReason;
    use tollgate_abi::profile::CR4_OFFERED;

    #[test]
    fn what_is_required_is_in_force_and_nothing_is_forbidden() {
        for (name, ..) in MODELS {
            let capabilities = model(name);
            for profile in Profile::ALL.into_iter().filter(|_| capabilities.check().is_ok()) {
                let fields = ControlFields::new(&capabilities, profile, true, false);
                for (field, allowed, required) in [
                    (fields.pin, capabilities.pin, PIN_REQUIRED),
                    (fields.proc, capabilities.proc, PROC_REQUIRED),
                    (fields.proc2, capabilities.proc2, PROC2_REQUIRED),
                    (fields.exit, capabilities.exit, EXIT_REQUIRED),
                    (fields.entry, capabilities.entry, ENTRY_REQUIRED),
                ] {
                    assert_eq!(field & bits(required), bits(required), "{name}");
                    assert_eq!((field & !allowed.may, allowed.must & !field), (0, 0), "{name}");
                }
            }
        }
    }

    #[test]
    fn a_guest_runs_with_the_monitors_mce_and_has_no_say_in_it() {
        let capabilities = model("tigerlake");
        assert_eq!(cr4_forced(&capabilities, 1 << 18 | CR4_MCE | 1 << 5), 1 << 13 | CR4_MCE, "VMXE and MCE");
        assert_eq!(cr4_forced(&capabilities, 1 << 5), 1 << 13);
        assert_eq!(CR4_OFFERED & CR4_MCE, 0);
        for profile in Profile::ALL {
            let fields = ControlFields::new(&capabilities, profile, true, false);
            assert_ne!(fields.cr4_mask & CR4_MCE, 0, "{profile:?}");
            assert_ne!(fields.exception_bitmap >> vector::MC & 1, 0, "{profile:?}");
        }
    }

    #[test]
    fn profiles_enable_what_the_processor_has() {
        let enabled = |name, profile, reason| {
            let capabilities = model(name);
            ControlFields::new(&capabilities, profile, false, false).in_force(&capabilities, true).enable(reason)
        };
        assert!(!enabled("tigerlake", Profile::Minimal, ExitReason::RDTSC));
        assert!(enabled("tigerlake", Profile::Full, ExitReason::RDTSC));
        assert!(enabled("tigerlake", Profile::Minimal, ExitReason::HLT));
        assert!(enabled("tigerlake", Profile::Minimal, ExitReason::RDSEED));
        assert!(!enabled("corei5_lynnfield_750", Profile::Full, ExitReason::RDSEED));
        assert!(!enabled("tigerlake", Profile::Full, ExitReason::PREEMPTION_TIMER));
        assert!(!enabled("tigerlake", Profile::Full, ExitReason::MONITOR_TRAP_FLAG));
        assert!(enabled("corei5_lynnfield_750", Profile::Minimal, ExitReason::NMI_WINDOW));
        assert!(enabled("tigerlake", Profile::VirtualApic, ExitReason::VIRTUALIZED_EOI));
        assert!(enabled("corei3_cnl", Profile::VirtualApic, ExitReason::TPR_BELOW_THRESHOLD));
        assert!(!enabled("corei3_cnl", Profile::VirtualApic, ExitReason::VIRTUALIZED_EOI));
    }

    #[test]
    fn the_processors_own_tpr_is_never_the_guests() {
        let mut capabilities = model("tigerlake");
        let fields = |capabilities| ControlFields::new(&capabilities, Profile::VirtualApic, false, false);
        assert_eq!(fields(capabilities).proc & CR8_EXITING, 0);
        capabilities.proc2.may &= !X2APIC_MODE;
        assert_eq!(fields(capabilities).proc & (CR8_EXITING | TPR_SHADOW), CR8_EXITING);
        assert_eq!(fields(capabilities).virtualized_apic(), VirtualizedApic::default());
    }
}
