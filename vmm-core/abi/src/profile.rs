//! Intercept profiles: the VM exits that a workload wants, beyond those that can't be avoided.
//!
//! The monitor turns a profile into controls, masked by what the processor allows. From the same rows the guest derives which of
//! its own operations must exit.

use crate::virtualization::Facts;
use crate::x86::control::*;
use crate::x86::controls::bits;
use crate::x86::controls::proc::*;
use crate::x86::controls::proc2::*;
use crate::x86::exception;
use crate::x86::msr::{IA32_FS_BASE, IA32_GS_BASE, IA32_KERNEL_GS_BASE};

/// A named set of intercepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Profile {
    /// The intercepts that VMX operation imposes, and those that the monitor's safety and repeatability need.
    #[default]
    Minimal,
    /// Every instruction and exception that this processor lets us intercept.
    Full,
    /// The minimal one, with the local APIC virtualized by the processor as far as it can: TPR shadow, x2APIC mode,
    /// APIC-register virtualization, virtual-interrupt delivery.
    VirtualApic,
    /// The full one, without exits for RDTSC and RDTSCP, so that a guest can time its own operations.
    Timing,
}

/// Controls that a profile wants where the processor allows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intercepts {
    /// Primary processor-based controls.
    pub proc: u32,
    /// Secondary processor-based controls.
    pub proc2: u32,
    /// Exception bitmap.
    pub exception_bitmap: u32,
    /// CR0 guest/host mask.
    pub cr0_mask: u64,
    /// CR4 guest/host mask.
    pub cr4_mask: u64,
    /// Every MSR access exits, the passed-through ones too.
    pub all_msrs: bool,
}

/// CR0 bits that control long mode, the FPU's error reporting (which VMX fixes) and the caches.
const CR0_GUARDED: u64 = CR0_PE | CR0_NE | CR0_NW | CR0_CD | CR0_PG;

/// The CR4 bits that a guest may set, as far as the processor has them. Any other bit, new ones included, is of a feature that
/// CPUID does not show.
pub const CR4_OFFERED: u64 = CR4_VME
    | CR4_PVI
    | CR4_TSD
    | CR4_DE
    | CR4_PSE
    | CR4_PAE
    | CR4_PGE
    | CR4_PCE
    | CR4_OSFXSR
    | CR4_OSXMMEXCPT
    | CR4_UMIP
    | CR4_FSGSBASE
    | CR4_OSXSAVE
    | CR4_SMEP;
/// CR4 bits that are not offered, PAE (leaving long mode), and OSXSAVE (mirrored by CPUID).
const CR4_GUARDED: u64 = !CR4_OFFERED | CR4_PAE | CR4_OSXSAVE;

/// Primary controls for HLT, since a halted guest must give the processor back; for MWAIT and MONITOR, for the same reason, and
/// because they are hidden; for RDPMC, whose counters are hidden; for CR8, since the processor's own TPR is not the guest's.
const MINIMAL_PROC: u32 = bits(&[HLT_EXITING, MWAIT_EXITING, RDPMC_EXITING, MONITOR_EXITING]) | CR8_EXITING;
/// Secondary controls for RDRAND and RDSEED, whose values do not repeat and which are hidden; for ENCLS, PCONFIG and ENCLV, which
/// are hidden.
const MINIMAL_PROC2: u32 =
    bits(&[RDRAND_EXITING, ENABLE_ENCLS_EXITING, RDSEED_EXITING, ENABLE_PCONFIG, ENABLE_ENCLV_EXITING]);
/// #DB and #AC, whose delivery a guest can make endless; #MC, which is not the guest's.
const MINIMAL_EXCEPTIONS: u32 = bits(&[exception::DB, exception::AC, exception::MC]);

const MINIMAL: Intercepts = Intercepts {
    proc: MINIMAL_PROC,
    proc2: MINIMAL_PROC2,
    exception_bitmap: MINIMAL_EXCEPTIONS,
    cr0_mask: CR0_GUARDED,
    cr4_mask: CR4_GUARDED,
    all_msrs: false,
};

const FULL: Intercepts = Intercepts {
    proc: MINIMAL_PROC
        | bits(&[INVLPG_EXITING, RDTSC_EXITING, CR3_LOAD_EXITING, CR3_STORE_EXITING, MOV_DR_EXITING, PAUSE_EXITING]),
    // No VM function is enabled.
    proc2: MINIMAL_PROC2 | bits(&[DESCRIPTOR_TABLE_EXITING, WBINVD_EXITING, ENABLE_INVPCID, ENABLE_VM_FUNCTIONS]),
    exception_bitmap: u32::MAX,
    cr0_mask: u64::MAX,
    cr4_mask: u64::MAX,
    all_msrs: true,
};

/// RDTSC exiting covers RDTSCP, too.
const TIMING: Intercepts = Intercepts { proc: FULL.proc & !bits(&[RDTSC_EXITING]), ..FULL };

/// Primary controls: CR8 load and store exiting, which a TPR shadow replaces.
pub const CR8_EXITING: u32 = bits(&[CR8_LOAD_EXITING, CR8_STORE_EXITING]);
/// Primary control: TPR shadow. Without it none of [`APIC_PROC2`] is allowed.
pub const TPR_SHADOW: u32 = bits(&[USE_TPR_SHADOW]);
/// Secondary control: virtualize x2APIC mode, without which the TPR shadow is left out, too.
pub const X2APIC_MODE: u32 = bits(&[VIRTUALIZE_X2APIC_MODE]);
/// Secondary control: APIC-register virtualization.
pub const APIC_REGISTERS: u32 = bits(&[APIC_REGISTER_VIRTUALIZATION]);
/// Secondary control: virtual-interrupt delivery.
pub const INTERRUPT_DELIVERY: u32 = bits(&[VIRTUAL_INTERRUPT_DELIVERY]);
/// Secondary controls of the local APIC.
pub const APIC_PROC2: u32 = X2APIC_MODE | APIC_REGISTERS | INTERRUPT_DELIVERY;

const VIRTUAL_APIC: Intercepts =
    Intercepts { proc: MINIMAL_PROC & !CR8_EXITING | TPR_SHADOW, proc2: MINIMAL_PROC2 | APIC_PROC2, ..MINIMAL };

/// MSRs that the guest reaches directly unless the profile intercepts all.
pub const PASSED_THROUGH_MSRS: &[u32] = &[IA32_FS_BASE, IA32_GS_BASE, IA32_KERNEL_GS_BASE];

impl Profile {
    /// Every profile.
    pub const ALL: [Profile; 4] = [Profile::Minimal, Profile::Full, Profile::VirtualApic, Profile::Timing];

    /// The profile's name.
    pub const fn name(self) -> &'static str {
        match self {
            Profile::Minimal => "minimal",
            Profile::Full => "full",
            Profile::VirtualApic => "virtual-apic",
            Profile::Timing => "timing",
        }
    }

    /// The profile with this number, as hypercalls have it.
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|&profile| profile as u64 == number)
    }

    /// The inverse of [`Profile::name`].
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }

    /// The intercepts that the profile wants.
    pub const fn intercepts(self) -> Intercepts {
        match self {
            Profile::Minimal => MINIMAL,
            Profile::Full => FULL,
            Profile::VirtualApic => VIRTUAL_APIC,
            Profile::Timing => TIMING,
        }
    }

    /// True if MOV to CR0 exits: under VT-x, if it changes a guarded bit from what the guest reads (SDM 3C 26.1.3).
    pub const fn cr0_write_exits(self, facts: Facts, old: u64, new: u64) -> bool {
        facts.control_register_write_exits(old, new, self.intercepts().cr0_mask)
    }

    /// True if MOV to CR4 exits.
    pub const fn cr4_write_exits(self, facts: Facts, old: u64, new: u64) -> bool {
        facts.control_register_write_exits(old, new, self.intercepts().cr4_mask)
    }

    /// True if RDMSR and WRMSR of `msr` exit.
    pub fn msr_exits(self, msr: u32) -> bool {
        self.intercepts().all_msrs || !PASSED_THROUGH_MSRS.contains(&msr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VT_X: Facts = Facts::from_word(0);
    const SVM: Facts = Facts::from_word(1);

    #[test]
    fn full_contains_minimal() {
        let (minimal, full) = (Profile::Minimal.intercepts(), Profile::Full.intercepts());
        assert_eq!(minimal.proc & !full.proc, 0);
        assert_eq!(minimal.proc2 & !full.proc2, 0);
        assert_eq!(minimal.cr0_mask & !full.cr0_mask, 0);
        assert_eq!(minimal.cr4_mask & !full.cr4_mask, 0);
    }

    #[test]
    fn control_register_writes_exit_by_mask() {
        const MP: u64 = 2;
        assert!(Profile::Full.cr0_write_exits(VT_X, 0x8000_0031, 0x8000_0031 | MP));
        assert!(!Profile::Minimal.cr0_write_exits(VT_X, 0x8000_0031, 0x8000_0031 | MP));
        assert!(!Profile::Full.cr0_write_exits(VT_X, 0x8000_0031, 0x8000_0031));
        assert!(Profile::Minimal.cr4_write_exits(VT_X, 0x20, 0x20 | 1 << 18));
        assert!([12, 13, 14, 17, 19, 21, 22, 23, 63].iter().all(|bit| Profile::Minimal.cr4_write_exits(
            VT_X,
            0x20,
            0x20 | 1 << bit
        )));
        assert!(!Profile::Minimal.cr4_write_exits(VT_X, 0x20, 0x20 | 3 << 9));
        assert!(Profile::Minimal.cr0_write_exits(SVM, 0x31, 0x31), "there is no mask");
        assert!(Profile::Full.msr_exits(0xc000_0100) && !Profile::Minimal.msr_exits(0xc000_0100));
        assert!(Profile::Minimal.msr_exits(0x1b));
    }
}
