//! THE table of basic exit reasons (SDM 3C appendix C), one row each, in order.
//!
//! Everything else derives from it: names in records and reports, the ledger's size, the leaves' answers "undefined" and "not
//! enabled", and the documentation (`tollgate reasons`). No other file holds an exit reason's number.

use core::fmt;

use crate::emulated::{Emulated, Places};
use crate::svm_exit;
use crate::x86::controls::Word;
use crate::x86::controls::pin::*;
use crate::x86::controls::proc::*;
use crate::x86::controls::proc2::*;
use crate::x86::controls::proc3::*;

/// The edition whose appendix C the table follows; printed with every account, because "undefined" depends on it.
pub const SDM_EDITION: &str = "2025-06";

/// Rows that a ledger keeps: every number up to the newest reason, one for numbers beyond it, and those that SVM alone has.
pub const ROWS: usize = OWN_OF_SVM as usize + svm_exit::OWN.len();

/// The row in which unknown numbers are counted.
pub const UNKNOWN_ROW: usize = NEWEST as usize + 1;

/// The exits by which the monitor itself looks at a guest that ran long: an interrupt of the processor's own APIC, and the end of
/// the VMX-preemption timer.
pub const LOOKS: [ExitReason; 2] = [ExitReason::EXTERNAL_INTERRUPT, ExitReason::PREEMPTION_TIMER];

/// Numbers from here on are not the SDM's: they stand for SVM exit codes without an Intel twin ([`svm_exit::OWN`]), in the
/// account and in records. No leaf takes them for a reason.
pub const OWN_OF_SVM: u16 = 100;
const _: () = assert!(UNKNOWN_ROW < OWN_OF_SVM as usize && ROWS <= Rows::MOST);

/// A basic exit reason: bits 15:0 of the exit-reason field (SDM 3C 25.9.1); or, from [`OWN_OF_SVM`] up, one that SVM alone has.
/// Any number is representable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct ExitReason(pub u16);

/// One thing that must hold for a reason to be possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A bit of the pin-based VM-execution controls.
    Pin(u8),
    /// A bit of the primary processor-based VM-execution controls.
    Proc(u8),
    /// A bit of the secondary processor-based VM-execution controls.
    Proc2(u8),
    /// A bit of the tertiary processor-based VM-execution controls.
    Proc3(u8),
    /// At least one bit of the exception bitmap.
    ExceptionBitmap,
    /// At least one bit of the CR0 or CR4 guest/host mask.
    CrMasks,
    /// At least one port in the I/O bitmaps, or unconditional I/O exiting without bitmaps.
    IoBitmaps,
    /// At least one MSR read in the MSR bitmaps, or no bitmaps.
    MsrReads,
    /// At least one MSR write in the MSR bitmaps, or no bitmaps.
    MsrWrites,
    /// A property of the processor that the guest can reach.
    Has(Feature),
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Need::Pin(bit) => write_control(f, Word::Pin, bit),
            Need::Proc(bit) => write_control(f, Word::Proc, bit),
            Need::Proc2(bit) => write_control(f, Word::Proc2, bit),
            Need::Proc3(bit) => write_control(f, Word::Proc3, bit),
            Need::ExceptionBitmap => write!(f, "the exception bitmap"),
            Need::CrMasks => write!(f, "the CR0 and CR4 masks"),
            Need::IoBitmaps => write!(f, "the I/O bitmaps"),
            Need::MsrReads | Need::MsrWrites => write!(f, "the MSR bitmaps"),
            Need::Has(feature) => f.write_str(feature.name()),
        }
    }
}

fn write_control(f: &mut fmt::Formatter<'_>, word: Word, bit: &u8) -> fmt::Result {
    write!(f, "the control \"{}\"", word.name(*bit).unwrap_or("?"))
}

impl Feature {
    /// The feature's name as people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Feature::Ept => "EPT",
            Feature::Vpid => "VPID",
            Feature::Xsave => "XSAVE",
            Feature::Smx => "SMX",
            Feature::DualMonitor => "the dual-monitor treatment of SMM",
            Feature::Tdx => "TDX",
            Feature::UserMsr => "URDMSR and UWRMSR",
            Feature::MsrImmediate => "the immediate forms of RDMSR and WRMSRNS",
            Feature::OtherCpu => "another CPU",
            Feature::Cet => "CET",
            Feature::Wrmsrns => "WRMSRNS",
            Feature::InitRedirection => "the #SX that an INIT can become (VM_CR.R_INIT)",
            Feature::WaitForSipi => "the wait-for-SIPI activity state",
            Feature::SupervisorState => "a state component in IA32_XSS",
            Feature::InitForgotten => {
                "an end to an INIT that has exited, which would reset it on its way back to firmware"
            }
            Feature::EarlyRsm => "an exit for RSM that comes before its #UD, as QEMU has it",
            Feature::WholeSvm => "this exit: it is QEMU's emulation",
        }
    }
}

/// Processor properties on which an unconditional exit depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Feature {
    /// EPT, hence INVEPT.
    Ept,
    /// VPID, hence INVVPID.
    Vpid,
    /// XSAVE, hence XSETBV.
    Xsave,
    /// SMX, with CR4.SMXE settable by the guest.
    Smx,
    /// Dual-monitor treatment of SMIs and SMM.
    DualMonitor,
    /// Trust Domain Extensions.
    Tdx,
    /// URDMSR and UWRMSR.
    UserMsr,
    /// The immediate forms of RDMSR and WRMSRNS.
    MsrImmediate,
    /// Another CPU, which can send this one INIT, SIPI and NMI.
    OtherCpu,
    /// CET's indirect-branch tracking, with CR4.CET settable by the guest.
    Cet,
    /// The activity state in which a guest waits for a start-up IPI.
    WaitForSipi,
    /// A state component that IA32_XSS can enable; XSAVES and XRSTORS exit for such a component.
    SupervisorState,
    /// SVM in full. QEMU's emulation leaves out exits for task switches, for INT1, INTO and alignment checks, for a #DF that
    /// another exception became, and for an INIT, which resets the processor.
    WholeSvm,
    /// WRMSRNS.
    Wrmsrns,
    /// SVM's VM_CR.R_INIT: an INIT raises #SX.
    InitRedirection,
    /// An exit for RSM outside of system-management mode, which QEMU's emulation of SVM alone has; elsewhere it is #UD.
    EarlyRsm,
    /// An INIT is forgotten with its exit, or the processor does not go back to firmware: under SVM it stays pending, and resets
    /// the processor once its global interrupt flag is set (APM 2 15.17).
    InitForgotten,
}

/// A set of ledger rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rows([u64; 2]);

impl Rows {
    /// Rows that a set can hold.
    const MOST: usize = 128;

    /// Adds the row of `reason`.
    pub const fn insert(&mut self, reason: ExitReason) {
        let row = reason.ledger_row();
        self.0[row / 64] |= 1 << (row % 64);
    }

    /// True if the row of `reason` is in the set.
    pub const fn has(self, reason: ExitReason) -> bool {
        let row = reason.ledger_row();
        self.0[row / 64] >> (row % 64) & 1 != 0
    }

    const fn union(self, other: Self) -> Self {
        Self([self.0[0] | other.0[0], self.0[1] | other.0[1]])
    }
}

/// The VM-execution controls in force, as far as they decide which exits can happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Controls {
    /// Under SVM, the reasons that its intercepts enable; nothing else here counts then.
    pub svm: Option<Rows>,
    /// Pin-based controls.
    pub pin: u32,
    /// Primary processor-based controls.
    pub proc: u32,
    /// Secondary processor-based controls; 0 unless activated.
    pub proc2: u32,
    /// Tertiary processor-based controls; 0 unless activated.
    pub proc3: u64,
    /// Exception bitmap.
    pub exception_bitmap: u32,
    /// CR0 guest/host mask.
    pub cr0_mask: u64,
    /// CR4 guest/host mask.
    pub cr4_mask: u64,
    /// Some port exits.
    pub io_exits: bool,
    /// Some MSR read exits.
    pub msr_reads_exit: bool,
    /// Some MSR write exits.
    pub msr_writes_exit: bool,
    /// Bit `Feature as u8` set: the processor has it and the guest can reach it.
    pub features: u32,
}

impl Controls {
    /// The reasons that either of two sets of controls can produce.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self {
            svm: match (self.svm, other.svm) {
                (Some(rows), Some(others)) => Some(rows.union(others)),
                (rows, None) | (None, rows) => rows,
            },
            pin: self.pin | other.pin,
            proc: self.proc | other.proc,
            proc2: self.proc2 | other.proc2,
            proc3: self.proc3 | other.proc3,
            exception_bitmap: self.exception_bitmap | other.exception_bitmap,
            cr0_mask: self.cr0_mask | other.cr0_mask,
            cr4_mask: self.cr4_mask | other.cr4_mask,
            io_exits: self.io_exits || other.io_exits,
            msr_reads_exit: self.msr_reads_exit || other.msr_reads_exit,
            msr_writes_exit: self.msr_writes_exit || other.msr_writes_exit,
            features: self.features | other.features,
        }
    }

    /// True if one need is met.
    pub const fn meet(&self, need: Need) -> bool {
        match need {
            Need::Pin(bit) => self.pin >> bit & 1 != 0,
            Need::Proc(bit) => self.proc >> bit & 1 != 0,
            Need::Proc2(bit) => self.proc2 >> bit & 1 != 0,
            Need::Proc3(bit) => self.proc3 >> bit & 1 != 0,
            Need::ExceptionBitmap => self.exception_bitmap != 0,
            Need::CrMasks => self.cr0_mask | self.cr4_mask != 0,
            Need::IoBitmaps => self.io_exits,
            Need::MsrReads => self.msr_reads_exit,
            Need::MsrWrites => self.msr_writes_exit,
            Need::Has(feature) => self.features >> feature as u8 & 1 != 0,
        }
    }

    /// True if these controls can produce an exit for `reason`. False for undefined reasons.
    pub fn enable(&self, reason: ExitReason) -> bool {
        if let Some(rows) = self.svm {
            return reason.ledger_row() != UNKNOWN_ROW && rows.has(reason);
        }
        reason.row().is_some_and(|row| match row.enabled_by {
            EnabledBy::Always => true,
            EnabledBy::AnyOf(ways) => ways.iter().any(|all| all.iter().all(|&need| self.meet(need))),
        })
    }
}

/// The controls that make a reason possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnabledBy {
    /// Nothing: VMX operation alone produces it.
    Always,
    /// Any of these sets of needs, each met in full.
    AnyOf(&'static [&'static [Need]]),
}

/// The table's answer about one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The SDM defines no such reason.
    Undefined,
    /// Defined, and the controls in force cannot produce it.
    NotEnabled,
    /// The controls in force can produce it.
    Enabled,
}

impl Status {
    /// The word in records and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::Undefined => "undefined",
            Status::NotEnabled => "not-enabled",
            Status::Enabled => "enabled",
        }
    }

    /// The inverse of [`Status::as_str`].
    pub fn parse(word: &str) -> Option<Self> {
        [Status::Undefined, Status::NotEnabled, Status::Enabled].into_iter().find(|s| s.as_str() == word)
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The basic exit reason.
    pub reason: ExitReason,
    /// The name as the SDM writes it.
    pub name: &'static str,
    /// The controls that make it possible.
    pub enabled_by: EnabledBy,
}

/// Notes on a row, for people. Kept apart, so that an image that asks for none does not hold them.
#[derive(Clone, Copy, Debug)]
pub struct Notes {
    /// The first processor generation, or specification, with it.
    pub since: &'static str,
    /// The guest's action that provokes it.
    pub provoked_by: &'static str,
    /// The platforms that can produce it under VT-x; QEMU's own emulation has none of that.
    pub places: Places,
}

impl Row {
    /// Notes on it, for people.
    pub fn notes(&self) -> &'static Notes {
        &NOTES[POSITION[self.reason.0 as usize] as usize - 1]
    }
}

macro_rules! exit_reasons {
    (@by always) => { EnabledBy::Always };
    (@by $([$($need:expr),+])|+) => { EnabledBy::AnyOf(&[$(&[$($need),+]),+]) };
    ($($number:literal $ident:ident $name:literal, $since:literal, ($($by:tt)+), $how:literal, $where:literal, $bochs:expr;)*) => {
        impl ExitReason {
            $(#[doc = concat!("Basic exit reason ", stringify!($number), ": ", $name, ".")]
            pub const $ident: Self = Self($number);)*
        }

        /// Every defined reason, in ascending order.
        pub const TABLE: &[Row] = &[$(Row {
            reason: ExitReason::$ident,
            name: $name,
            enabled_by: exit_reasons!(@by $($by)+),
        }),*];

        /// The notes on each row of [`TABLE`], in its order.
        const NOTES: &[Notes] = &[$(Notes {
            since: $since,
            provoked_by: $how,
            places: Places { needs: $where, bochs: $bochs, qemu: Emulated::Never },
        }),*];
    };
}

use Emulated::{Always, From, Never};
use Feature::*;
use Need::*;

exit_reasons! {
    0 EXCEPTION_OR_NMI "Exception or non-maskable interrupt", "VMX", ([ExceptionBitmap] | [Pin(NMI_EXITING)]), "an exception whose bit is set in the exception bitmap; an NMI", "any VT-x", Always;
    1 EXTERNAL_INTERRUPT "External interrupt", "VMX", ([Pin(EXTERNAL_INTERRUPT_EXITING)]), "a device or APIC interrupt", "any VT-x", Always;
    2 TRIPLE_FAULT "Triple fault", "VMX", (always), "an exception while #DF is delivered", "any VT-x", Always;
    3 INIT "INIT signal", "VMX", (always), "an INIT from another CPU", "any VT-x with two CPUs", Always;
    4 SIPI "Start-up IPI (SIPI)", "VMX", (always), "a SIPI while in the wait-for-SIPI state", "any VT-x with two CPUs", Always;
    5 IO_SMI "I/O system-management interrupt (SMI)", "VMX", ([Has(DualMonitor)]), "an SMI after I/O, under dual-monitor treatment", "silicon with an SMM monitor", Never;
    6 OTHER_SMI "Other SMI", "VMX", ([Has(DualMonitor)]), "any other SMI under dual-monitor treatment", "silicon with an SMM monitor", Never;
    7 INTERRUPT_WINDOW "Interrupt window", "VMX", ([Proc(INTERRUPT_WINDOW_EXITING)]), "interrupts becoming deliverable", "any VT-x", Always;
    8 NMI_WINDOW "NMI window", "VMX", ([Proc(NMI_WINDOW_EXITING)]), "NMIs becoming deliverable", "any VT-x", Always;
    9 TASK_SWITCH "Task switch", "VMX", (always), "a far JMP or CALL to a TSS, IRET with NT, a task gate", "any VT-x, 32-bit guest", Always;
    10 CPUID "CPUID", "VMX", (always), "CPUID", "any VT-x", Always;
    11 GETSEC "GETSEC", "SMX", ([Has(Smx)]), "GETSEC with CR4.SMXE set", "VT-x with SMX", Always;
    12 HLT "HLT", "VMX", ([Proc(HLT_EXITING)]), "HLT", "any VT-x", Always;
    13 INVD "INVD", "VMX", (always), "INVD", "any VT-x", Always;
    14 INVLPG "INVLPG", "VMX", ([Proc(INVLPG_EXITING)]), "INVLPG", "any VT-x", Always;
    15 RDPMC "RDPMC", "VMX", ([Proc(RDPMC_EXITING)]), "RDPMC", "any VT-x", Always;
    16 RDTSC "RDTSC", "VMX", ([Proc(RDTSC_EXITING)]), "RDTSC", "any VT-x", Always;
    17 RSM "RSM", "VMX", ([Has(DualMonitor)]), "RSM in SMM under dual-monitor treatment", "silicon with an SMM monitor", Never;
    18 VMCALL "VMCALL", "VMX", (always), "VMCALL", "any VT-x", Always;
    19 VMCLEAR "VMCLEAR", "VMX", (always), "VMCLEAR", "any VT-x", Always;
    20 VMLAUNCH "VMLAUNCH", "VMX", (always), "VMLAUNCH", "any VT-x", Always;
    21 VMPTRLD "VMPTRLD", "VMX", (always), "VMPTRLD", "any VT-x", Always;
    22 VMPTRST "VMPTRST", "VMX", (always), "VMPTRST", "any VT-x", Always;
    23 VMREAD "VMREAD", "VMX", (always), "VMREAD", "any VT-x", Always;
    24 VMRESUME "VMRESUME", "VMX", (always), "VMRESUME", "any VT-x", Always;
    25 VMWRITE "VMWRITE", "VMX", (always), "VMWRITE", "any VT-x", Always;
    26 VMXOFF "VMXOFF", "VMX", (always), "VMXOFF", "any VT-x", Always;
    27 VMXON "VMXON", "VMX", (always), "VMXON", "any VT-x", Always;
    28 CR_ACCESS "Control-register accesses", "VMX", ([CrMasks] | [Proc(CR3_LOAD_EXITING)] | [Proc(CR3_STORE_EXITING)] | [Proc(CR8_LOAD_EXITING)] | [Proc(CR8_STORE_EXITING)]), "MOV to or from CR0, CR3, CR4, CR8; CLTS; LMSW", "any VT-x", Always;
    29 MOV_DR "MOV DR", "VMX", ([Proc(MOV_DR_EXITING)]), "MOV to or from a debug register", "any VT-x", Always;
    30 IO_INSTRUCTION "I/O instruction", "VMX", ([IoBitmaps]), "IN, OUT, INS, OUTS", "any VT-x", Always;
    31 RDMSR "RDMSR", "VMX", ([MsrReads]), "RDMSR", "any VT-x", Always;
    32 WRMSR "WRMSR or WRMSRNS", "VMX", ([MsrWrites]), "WRMSR, WRMSRNS", "any VT-x", Always;
    33 ENTRY_FAILURE_GUEST_STATE "VM-entry failure due to invalid guest state", "VMX", (always), "a VM entry with invalid guest state", "any VT-x", Always;
    34 ENTRY_FAILURE_MSR_LOADING "VM-entry failure due to MSR loading", "VMX", (always), "a VM entry that loads a refused MSR value", "any VT-x", Always;
    36 MWAIT "MWAIT", "VMX", ([Proc(MWAIT_EXITING)]), "MWAIT", "any VT-x", Always;
    37 MONITOR_TRAP_FLAG "Monitor trap flag", "Penryn", ([Proc(MONITOR_TRAP_FLAG)]), "any instruction while the monitor steps it; an injected MTF", "VT-x with MTF", Always;
    39 MONITOR "MONITOR", "VMX", ([Proc(MONITOR_EXITING)]), "MONITOR", "any VT-x", Always;
    40 PAUSE "PAUSE", "VMX", ([Proc(PAUSE_EXITING)] | [Proc2(PAUSE_LOOP_EXITING)]), "PAUSE; a long PAUSE loop", "any VT-x", Always;
    41 ENTRY_FAILURE_MACHINE_CHECK "VM-entry failure due to machine-check event", "VMX", (always), "a machine check during VM entry", "silicon", Never;
    43 TPR_BELOW_THRESHOLD "TPR below threshold", "VMX", ([Proc(USE_TPR_SHADOW)]), "MOV to CR8 below the TPR threshold", "any VT-x", Always;
    44 APIC_ACCESS "APIC access", "Penryn", ([Proc2(VIRTUALIZE_APIC_ACCESSES)]), "an access to the APIC-access page", "VT-x with APIC accesses", Always;
    45 VIRTUALIZED_EOI "Virtualized EOI", "Ivy Bridge-EP", ([Proc2(VIRTUAL_INTERRUPT_DELIVERY)]), "an EOI of a vector in the EOI-exit bitmap", "VT-x with virtual-interrupt delivery", Always;
    46 GDTR_IDTR_ACCESS "Access to GDTR or IDTR", "Nehalem", ([Proc2(DESCRIPTOR_TABLE_EXITING)]), "SGDT, SIDT, LGDT, LIDT", "VT-x with descriptor-table exiting", Always;
    47 LDTR_TR_ACCESS "Access to LDTR or TR", "Nehalem", ([Proc2(DESCRIPTOR_TABLE_EXITING)]), "SLDT, STR, LLDT, LTR", "VT-x with descriptor-table exiting", Always;
    48 EPT_VIOLATION "EPT violation", "Nehalem", ([Proc2(ENABLE_EPT)]), "an access that the EPT entries do not allow", "VT-x with EPT", Always;
    49 EPT_MISCONFIGURATION "EPT misconfiguration", "Nehalem", ([Proc2(ENABLE_EPT)]), "an access through a malformed EPT entry", "VT-x with EPT", Always;
    50 INVEPT "INVEPT", "Nehalem", ([Has(Ept)]), "INVEPT", "VT-x with EPT", Always;
    51 RDTSCP "RDTSCP", "Nehalem", ([Proc(RDTSC_EXITING), Proc2(ENABLE_RDTSCP)]), "RDTSCP", "VT-x with RDTSCP", Always;
    52 PREEMPTION_TIMER "VMX-preemption timer expired", "Nehalem", ([Pin(PREEMPTION_TIMER)]), "guest time passing", "VT-x with the preemption timer", Always;
    53 INVVPID "INVVPID", "Nehalem", ([Has(Vpid)]), "INVVPID", "VT-x with VPID", Always;
    54 WBINVD "WBINVD or WBNOINVD", "Nehalem", ([Proc2(WBINVD_EXITING)]), "WBINVD, WBNOINVD", "VT-x with WBINVD exiting", Always;
    55 XSETBV "XSETBV", "Penryn", ([Has(Xsave)]), "XSETBV", "VT-x with XSAVE", Always;
    56 APIC_WRITE "APIC write", "Ivy Bridge-EP", ([Proc2(APIC_REGISTER_VIRTUALIZATION)] | [Proc2(VIRTUAL_INTERRUPT_DELIVERY)]), "a write to a virtualized APIC register", "VT-x with APIC-register virtualization", Always;
    57 RDRAND "RDRAND", "Ivy Bridge", ([Proc2(RDRAND_EXITING)]), "RDRAND", "VT-x with RDRAND exiting", Always;
    58 INVPCID "INVPCID", "Haswell", ([Proc(INVLPG_EXITING), Proc2(ENABLE_INVPCID)]), "INVPCID", "VT-x with INVPCID", Always;
    59 VMFUNC "VMFUNC", "Haswell", ([Proc2(ENABLE_VM_FUNCTIONS)]), "VMFUNC of a function that is not enabled or fails", "VT-x with VM functions", Always;
    60 ENCLS "ENCLS", "Skylake", ([Proc2(ENABLE_ENCLS_EXITING)]), "ENCLS", "silicon with SGX", Never;
    61 RDSEED "RDSEED", "Broadwell", ([Proc2(RDSEED_EXITING)]), "RDSEED", "VT-x with RDSEED exiting", Always;
    62 PML_FULL "Page-modification log full", "Broadwell", ([Proc2(ENABLE_PML)]), "the 513th first write to a page", "VT-x with PML", Always;
    63 XSAVES "XSAVES", "Skylake", ([Proc2(ENABLE_XSAVES)]), "XSAVES of a component in the XSS-exiting bitmap", "VT-x with XSAVES", Always;
    64 XRSTORS "XRSTORS", "Skylake", ([Proc2(ENABLE_XSAVES)]), "XRSTORS of a component in the XSS-exiting bitmap", "VT-x with XSAVES", Always;
    65 PCONFIG "PCONFIG", "Ice Lake", ([Proc2(ENABLE_PCONFIG)]), "PCONFIG", "silicon with MKTME", Never;
    66 SPP "SPP-related event", "Ice Lake", ([Proc2(SUB_PAGE_PERMISSIONS)]), "a write through a missing or malformed SPP entry", "VT-x with sub-page permissions", Always;
    67 UMWAIT "UMWAIT", "Tremont", ([Proc2(ENABLE_USER_WAIT), Proc(RDTSC_EXITING)]), "UMWAIT", "VT-x with WAITPKG", From((3, 0));
    68 TPAUSE "TPAUSE", "Tremont", ([Proc2(ENABLE_USER_WAIT), Proc(RDTSC_EXITING)]), "TPAUSE", "VT-x with WAITPKG", From((3, 0));
    69 LOADIWKEY "LOADIWKEY", "Tiger Lake", ([Proc3(LOADIWKEY_EXITING)]), "LOADIWKEY", "silicon with Key Locker", Never;
    70 ENCLV "ENCLV", "Ice Lake-SP", ([Proc2(ENABLE_ENCLV_EXITING)]), "ENCLV", "silicon with SGX", Never;
    72 ENQCMD_PASID "ENQCMD PASID translation failure", "Sapphire Rapids", ([Proc2(PASID_TRANSLATION)]), "ENQCMD with an untranslatable PASID", "silicon with ENQCMD", Never;
    73 ENQCMDS_PASID "ENQCMDS PASID translation failure", "Sapphire Rapids", ([Proc2(PASID_TRANSLATION)]), "ENQCMDS with an untranslatable PASID", "silicon with ENQCMD", Never;
    74 BUS_LOCK "Bus lock", "Sapphire Rapids", ([Proc2(BUS_LOCK_DETECTION)]), "a locked access that splits a cache line", "silicon with bus-lock detection", Never;
    75 INSTRUCTION_TIMEOUT "Instruction timeout", "Sapphire Rapids", ([Proc2(INSTRUCTION_TIMEOUT)]), "no instruction boundary within the notify window", "silicon with notify-window exiting", Never;
    76 SEAMCALL "SEAMCALL", "TDX", ([Has(Tdx)]), "SEAMCALL", "silicon with TDX", Never;
    77 TDCALL "TDCALL", "TDX", ([Has(Tdx)]), "TDCALL", "silicon with TDX", Never;
    78 RDMSRLIST "RDMSRLIST", "Sierra Forest", ([Proc3(ENABLE_MSR_LIST)]), "RDMSRLIST", "VT-x with MSRLIST", From((3, 1));
    79 WRMSRLIST "WRMSRLIST", "Sierra Forest", ([Proc3(ENABLE_MSR_LIST)]), "WRMSRLIST", "VT-x with MSRLIST", From((3, 1));
    80 URDMSR "URDMSR", "Clearwater Forest", ([Has(UserMsr)]), "URDMSR", "VT-x with USER_MSR", From((3, 1));
    81 UWRMSR "UWRMSR", "Clearwater Forest", ([Has(UserMsr)]), "UWRMSR", "VT-x with USER_MSR", From((3, 1));
    84 RDMSR_IMMEDIATE "RDMSR (immediate)", "2025 lists", ([Has(MsrImmediate), MsrReads]), "RDMSR with an immediate MSR address", "silicon with MSR_IMM", Never;
    85 WRMSRNS_IMMEDIATE "WRMSRNS (immediate)", "2025 lists", ([Has(MsrImmediate), MsrWrites] | [Has(Wrmsrns), MsrWrites]), "WRMSRNS with an immediate MSR address", "silicon with MSR_IMM, or WRMSRNS", From((3, 1));
}

const NEWEST: u16 = TABLE[TABLE.len() - 1].reason.0;

/// Position in [`TABLE`] plus one of each number up to the newest; 0 where undefined.
const POSITION: [u8; NEWEST as usize + 1] = {
    let mut position = [0; NEWEST as usize + 1];
    let mut i = 0;
    while i < TABLE.len() {
        assert!(i == 0 || TABLE[i - 1].reason.0 < TABLE[i].reason.0, "the table is not in ascending order");
        position[TABLE[i].reason.0 as usize] = i as u8 + 1;
        i += 1;
    }
    position
};

impl ExitReason {
    /// The table's row, or `None` for an undefined reason.
    pub fn row(self) -> Option<&'static Row> {
        match POSITION.get(self.0 as usize) {
            Some(&position) if position > 0 => Some(&TABLE[position as usize - 1]),
            _ => None,
        }
    }

    /// True if the SDM edition of the table defines this number.
    pub fn is_defined(self) -> bool {
        self.row().is_some()
    }

    /// The SDM's name, the APM's for a reason that SVM alone has, or `"undefined"`.
    pub fn name(self) -> &'static str {
        match (self.row(), self.own_of_svm()) {
            (Some(row), _) => row.name,
            (None, Some(own)) => own.name,
            (None, None) => "undefined",
        }
    }

    /// True if either extension has such a reason.
    pub fn is_named(self) -> bool {
        self.is_defined() || self.own_of_svm().is_some()
    }

    /// The place among [`LOOKS`] of a reason for which the monitor itself looks at guests.
    pub fn look(self) -> Option<usize> {
        LOOKS.iter().position(|&reason| reason == self)
    }

    /// The SVM exit code without an Intel twin that this number stands for.
    pub fn own_of_svm(self) -> Option<&'static svm_exit::Own> {
        svm_exit::OWN.get(usize::from(self.0.checked_sub(OWN_OF_SVM)?))
    }

    /// The ledger row that counts this number.
    #[inline(always)]
    pub const fn ledger_row(self) -> usize {
        if self.0 as usize <= NEWEST as usize { self.0 as usize } else { unlikely(self.row_beyond()) }
    }

    const fn row_beyond(self) -> usize {
        if self.0 >= OWN_OF_SVM && (self.0 as usize) < ROWS { self.0 as usize } else { UNKNOWN_ROW }
    }

    /// The status of this number under the controls in force, where the account may have a row of its own for it.
    pub fn row_status(self, controls: &Controls) -> Status {
        match self.own_of_svm() {
            Some(_) if controls.svm.is_none() => Status::Undefined,
            Some(_) if controls.enable(self) => Status::Enabled,
            Some(_) => Status::NotEnabled,
            None => self.status(controls),
        }
    }

    /// The status of this number under the controls in force, by the SDM, to which a reason that SVM alone has is undefined.
    pub fn status(self, controls: &Controls) -> Status {
        if !self.is_defined() {
            Status::Undefined
        } else if controls.enable(self) {
            Status::Enabled
        } else {
            Status::NotEnabled
        }
    }
}

/// A value that is rarely wanted: makes the compiler branch to it instead of computing it on the way.
#[cold]
const fn unlikely(value: usize) -> usize {
    value
}

impl fmt::Debug for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0, self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn undefined_numbers_are_those_of_the_edition() {
        let undefined: Vec<u16> = (0..=NEWEST).filter(|&n| !ExitReason(n).is_defined()).collect();
        assert_eq!(undefined, [35, 38, 42, 71, 82, 83]);
        assert_eq!(TABLE.len() + undefined.len(), 86);
        assert!((86..=u16::MAX).all(|n| !ExitReason(n).is_defined()));
    }

    #[test]
    fn every_number_has_a_ledger_row() {
        assert_eq!(ExitReason(85).ledger_row(), 85);
        assert_eq!(ExitReason(86).ledger_row(), UNKNOWN_ROW);
        assert_eq!(ExitReason(u16::MAX).ledger_row(), UNKNOWN_ROW);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = TABLE.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }

    #[test]
    fn enabled_follows_the_controls() {
        let none = Controls::default();
        assert_eq!(ExitReason::CPUID.status(&none), Status::Enabled);
        assert_eq!(ExitReason::HLT.status(&none), Status::NotEnabled);
        assert_eq!(ExitReason(35).status(&none), Status::Undefined);
        let rdtsc = Controls { proc: 1 << 12, ..none };
        assert!(rdtsc.enable(ExitReason::RDTSC) && !rdtsc.enable(ExitReason::RDTSCP));
        let rdtscp = Controls { proc2: 1 << 3, ..rdtsc };
        assert!(rdtscp.enable(ExitReason::RDTSCP));
        let ple = Controls { proc2: 1 << 10, ..none };
        assert!(ple.enable(ExitReason::PAUSE));
        let ept = Controls { features: 1 << Feature::Ept as u8, ..none };
        assert!(ept.enable(ExitReason::INVEPT) && !ept.enable(ExitReason::EPT_VIOLATION));
    }
}
