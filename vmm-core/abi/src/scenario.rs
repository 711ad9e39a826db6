//! The table of scenarios: exits that the unikernel can't provoke by itself, because they need other controls or another kind of
//! guest. Each scenario is a few instructions in a state of their own; the monitor runs them once the unikernel is done.
//!
//! Like a workload, a scenario predicts the exits that it provokes: one of its reason each time it runs. Code and state of each
//! are in `vmm-core/src/staging.rs` if both extensions have it, else in `vmm-core/src/vmx/scenario.rs` or
//! `vmm-core/src/svm/scenario.rs`, by its name.

use crate::exit_reason::{Controls, ExitReason, Feature, Need};
use crate::virtualization::Extension;
use crate::x86::controls::pin::*;
use crate::x86::controls::proc::*;
use crate::x86::controls::proc2::*;
use crate::x86::controls::proc3::*;

/// One row of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Scenario {
    /// The name on command lines and in records.
    pub name: &'static str,
    /// The reason that it provokes.
    pub reason: ExitReason,
    /// The reason that some processors give it instead: in a run, all its exits have the one or the other.
    pub or: Option<ExitReason>,
    /// The variant of the reason ([`crate::key::VARIANTS`]), if it is about one.
    pub variant: Option<&'static str>,
    /// The way in which it is provoked, in one line for people.
    pub about: &'static str,
    /// The extensions that have such an exit.
    pub under: Under,
    /// Its needs, all of which the processor must allow; control bits are allowed-1 settings, of VT-x alone.
    pub needs: &'static [Need],
}

/// The extensions that have an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "their names")]
pub enum Under {
    VtX,
    Svm,
    Both,
}

/// The times that each scenario runs unless it is timed: enough for minimum, average and maximum to mean something.
pub const RUNS: u64 = 4;

use ExitReason as R;
use Need::{Has, Pin, Proc, Proc2, Proc3};

macro_rules! scenarios {
    (@variant) => { None };
    (@or) => { None };
    (@or $or:ident) => { Some(R::$or) };
    (@variant $variant:literal) => { Some($variant) };
    ($($name:literal $under:ident $reason:ident $(or $or:ident)? $($variant:literal)?, [$($need:expr),*], $about:literal;)*) => {
        /// Every scenario, in the order in which they run.
        pub const TABLE: &[Scenario] = &[$(Scenario {
            name: $name,
            reason: R::$reason,
            or: scenarios!(@or $($or)?),
            variant: scenarios!(@variant $($variant)?),
            about: crate::for_people($about),
            under: Under::$under,
            needs: &[$($need),*],
        }),*];
    };
}

const EPT: Need = Proc2(ENABLE_EPT);
const SHADOW: Need = Proc(USE_TPR_SHADOW);

scenarios! {
    "triple-fault-exit" VtX TRIPLE_FAULT, [],
        "UD2 without an interrupt-descriptor table";
    "nmi-window" VtX NMI_WINDOW, [Pin(NMI_EXITING), Pin(VIRTUAL_NMIS), Proc(NMI_WINDOW_EXITING)],
        "a VM entry while the monitor waits for the NMI window";
    "task-switch" Both TASK_SWITCH, [Proc2(UNRESTRICTED_GUEST), Has(Feature::WholeSvm)],
        "a far JMP to a task-state segment, in 32-bit protected mode without paging";
    "getsec" VtX GETSEC, [Has(Feature::Smx)],
        "GETSEC[CAPABILITIES] with CR4.SMXE set";
    "invalid-guest-state" VtX ENTRY_FAILURE_GUEST_STATE, [],
        "a VM entry with RFLAGS[1] clear";
    "refused-msr-load" VtX ENTRY_FAILURE_MSR_LOADING, [],
        "a VM entry that is to load IA32_FS_BASE from the MSR-load area";
    "monitor-trap-flag" VtX MONITOR_TRAP_FLAG, [Proc(MONITOR_TRAP_FLAG)],
        "an injected monitor-trap-flag event";
    "tpr-threshold" VtX TPR_BELOW_THRESHOLD, [SHADOW],
        "MOV to CR8 of a priority below the TPR threshold";
    "apic-access" VtX APIC_ACCESS, [SHADOW, Proc2(VIRTUALIZE_APIC_ACCESSES)],
        "a read of the APIC-access page";
    "virtualized-eoi" VtX VIRTUALIZED_EOI, [Pin(EXTERNAL_INTERRUPT_EXITING), SHADOW, Proc2(VIRTUALIZE_APIC_ACCESSES), Proc2(APIC_REGISTER_VIRTUALIZATION), Proc2(VIRTUAL_INTERRUPT_DELIVERY)],
        "an EOI of a vector in the EOI-exit bitmap";
    "apic-write" VtX APIC_WRITE, [SHADOW, Proc2(VIRTUALIZE_APIC_ACCESSES), Proc2(APIC_REGISTER_VIRTUALIZATION)],
        "a write to the spurious-interrupt register of the APIC-access page";
    "ept-misconfiguration" VtX EPT_MISCONFIGURATION, [EPT],
        "a read through an EPT entry that allows writing alone";
    "preemption-timer" VtX PREEMPTION_TIMER, [Pin(PREEMPTION_TIMER)],
        "a loop that outlasts the VMX-preemption timer";
    "vm-function" VtX VMFUNC, [EPT, Proc2(ENABLE_VM_FUNCTIONS)],
        "VMFUNC of function 5, which does not exist";
    "page-modification-log" VtX PML_FULL, [EPT, Proc2(ENABLE_PML)],
        "a page-table access that sets a dirty flag while the log is full";
    "xsaves" VtX XSAVES, [Proc2(ENABLE_XSAVES), Has(Feature::SupervisorState)],
        "XSAVES of a component in the XSS-exiting bitmap";
    "xrstors" VtX XRSTORS, [Proc2(ENABLE_XSAVES), Has(Feature::SupervisorState)],
        "XRSTORS of a component in the XSS-exiting bitmap";
    "sub-page-permission" VtX SPP, [EPT, Proc2(SUB_PAGE_PERMISSIONS)],
        "a write to a page with sub-page permissions that has no SPP entry";
    "umwait" VtX UMWAIT, [Proc(RDTSC_EXITING), Proc2(ENABLE_USER_WAIT)],
        "UMWAIT, under RDTSC exiting";
    "tpause" VtX TPAUSE, [Proc(RDTSC_EXITING), Proc2(ENABLE_USER_WAIT)],
        "TPAUSE, under RDTSC exiting";
    "rdmsrlist" VtX RDMSRLIST, [Proc3(ENABLE_MSR_LIST)],
        "RDMSRLIST of an MSR in the MSR bitmaps";
    "wrmsrlist" VtX WRMSRLIST, [Proc3(ENABLE_MSR_LIST)],
        "WRMSRLIST of an MSR in the MSR bitmaps";
    "wrmsrns" VtX WRMSR or WRMSRNS_IMMEDIATE, [Has(Feature::Wrmsrns)],
        "WRMSRNS";
    "urdmsr" VtX URDMSR, [Has(Feature::UserMsr)],
        "URDMSR of an MSR in the MSR bitmaps";
    "uwrmsr" VtX UWRMSR, [Has(Feature::UserMsr)],
        "UWRMSR of an MSR in the MSR bitmaps";
    "rdmsr-immediate" VtX RDMSR_IMMEDIATE, [Has(Feature::MsrImmediate)],
        "RDMSR with the MSR's number in the instruction";
    "wrmsrns-immediate" VtX WRMSRNS_IMMEDIATE, [Has(Feature::MsrImmediate)],
        "WRMSRNS with the MSR's number in the instruction";
    "shutdown" Svm SVM_SHUTDOWN, [],
        "UD2 without an interrupt-descriptor table";
    "invalid-vmcb" Svm ENTRY_FAILURE_GUEST_STATE, [],
        "a VMRUN with EFER.SVME clear in the VMCB";
    "reserved-nested-bit" Svm EPT_MISCONFIGURATION, [],
        "a read through a nested page-table entry with a reserved bit set";
    "selective-cr0-write" Svm SVM_CR0_SEL_WRITE, [],
        "MOV to CR0 that changes AM";
    "pushf" Svm SVM_PUSHF, [],
        "PUSHFQ";
    "popf" Svm SVM_POPF, [],
        "POPFQ";
    "rsm" Svm SVM_RSM, [Has(Feature::EarlyRsm)],
        "RSM outside of system-management mode";
    "iret" Svm SVM_IRET, [],
        "IRETQ";
    "software-interrupt" Svm SVM_SWINT, [],
        "INT 20H";
    "icebp" Svm SVM_ICEBP, [Has(Feature::WholeSvm)],
        "INT1";
    "overflow" Both EXCEPTION_OR_NMI "#OF", [Has(Feature::WholeSvm)],
        "INTO with RFLAGS.OF set, in compatibility mode";
    "bound-range" Both EXCEPTION_OR_NMI "#BR", [],
        "BOUND of an index above its array's, in compatibility mode";
    "double-fault" Both EXCEPTION_OR_NMI "#DF", [Has(Feature::WholeSvm)],
        "UD2 without an interrupt-descriptor table, and without exits for the exceptions on the way";
    "invalid-tss" Both EXCEPTION_OR_NMI "#TS", [Proc2(UNRESTRICTED_GUEST)],
        "IRET with RFLAGS.NT set and no task to return to, in 32-bit protected mode without paging";
    "alignment-check" Both EXCEPTION_OR_NMI "#AC", [Has(Feature::WholeSvm)],
        "a misaligned read in ring 3, with CR0.AM and RFLAGS.AC set";
    "virtualization-exception" VtX EXCEPTION_OR_NMI "#VE", [EPT, Proc2(EPT_VIOLATION_VE)],
        "a read of a page without an EPT entry, under the control that turns EPT violations into exceptions";
    "control-protection" VtX EXCEPTION_OR_NMI "#CP", [Has(Feature::Cet)],
        "a JMP by register to another instruction than ENDBR64, under indirect-branch tracking";
    "non-maskable-interrupt" Both EXCEPTION_OR_NMI "NMI", [Pin(NMI_EXITING), Has(Feature::OtherCpu)],
        "an NMI from another CPU";
    "security-exception" Svm EXCEPTION_OR_NMI "#SX", [Has(Feature::OtherCpu), Has(Feature::InitRedirection)],
        "an INIT from another CPU while VM_CR.R_INIT is set";
    "start-up-ipi" VtX SIPI, [Has(Feature::OtherCpu), Has(Feature::WaitForSipi)],
        "a SIPI from another CPU in the wait-for-SIPI state";
    // Last: on Bochs 2.7 an INIT that has made its exit stays pending.
    "init-signal" Both INIT, [Has(Feature::OtherCpu), Has(Feature::WholeSvm), Has(Feature::InitForgotten)],
        "an INIT from another CPU";
}

impl Scenario {
    /// The scenario called `name`.
    pub fn by_name(name: &str) -> Option<&'static Scenario> {
        TABLE.iter().find(|scenario| scenario.name == name)
    }

    /// The reasons that its exits may have.
    pub fn reasons(&self) -> impl Iterator<Item = ExitReason> {
        [self.reason].into_iter().chain(self.or)
    }

    /// The features that the scenario needs, as [`Controls`] have them.
    pub fn features(&self) -> Controls {
        let bit = |need: &Need| if let Has(feature) = need { 1 << *feature as u8 } else { 0 };
        Controls { features: self.needs.iter().map(bit).sum(), ..Controls::default() }
    }

    /// True if another processor has to send something.
    pub fn needs_other_cpu(&self) -> bool {
        self.needs.contains(&Has(Feature::OtherCpu))
    }

    /// True if there is such an exit under this extension.
    pub fn is_under(&self, extension: Extension) -> bool {
        matches!(
            (self.under, extension),
            (Under::Both, _) | (Under::VtX, Extension::VtX) | (Under::Svm, Extension::Svm)
        )
    }

    /// The first of its needs that the allowed settings do not meet, if any.
    pub fn missing(&self, allowed: &Controls) -> Option<Need> {
        let is_asked = |need: &Need| allowed.svm.is_none() || matches!(need, Has(_));
        self.needs.iter().copied().filter(is_asked).find(|&need| !allowed.meet(need))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Bench;
    use crate::key::VARIANTS;
    use crate::workload::Workload;
    use std::vec::Vec;

    #[test]
    fn names_are_unique_and_no_workloads() {
        let mut names: Vec<_> = TABLE.iter().map(|scenario| scenario.name).collect();
        assert!(names.iter().all(|name| Workload::by_name(name).is_none() && Bench::by_name(name).is_none()));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }

    #[test]
    fn variants_are_those_of_the_table_and_each_has_one_scenario() {
        let about: Vec<_> = TABLE.iter().filter_map(|row| Some((row.reason, row.variant?))).collect();
        assert!(about.iter().all(|variant| VARIANTS.contains(variant)));
        assert!((1..about.len()).all(|at| !about[..at].contains(&about[at])));
    }

    #[test]
    fn what_is_missing_is_named() {
        let eoi = Scenario::by_name("virtualized-eoi").unwrap();
        let allowed = Controls { pin: 1, proc: 1 << 21, proc2: 0x101, ..Controls::default() };
        assert_eq!(eoi.missing(&allowed), Some(Proc2(VIRTUAL_INTERRUPT_DELIVERY)));
        assert_eq!(eoi.missing(&Controls { proc2: 0x301, ..allowed }), None);
        assert_eq!(Scenario::by_name("getsec").unwrap().missing(&allowed), Some(Has(Feature::Smx)));
        let all_but = |feature| Controls { proc2: !0, features: !(1 << feature as u8), ..allowed };
        for (name, feature) in [
            ("start-up-ipi", Feature::WaitForSipi),
            ("init-signal", Feature::InitForgotten),
            ("xsaves", Feature::SupervisorState),
            ("xrstors", Feature::SupervisorState),
        ] {
            assert_eq!(Scenario::by_name(name).unwrap().missing(&all_but(feature)), Some(Has(feature)));
        }
    }
}
