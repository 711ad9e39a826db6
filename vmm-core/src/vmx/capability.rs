//! The features of this processor's VT-x (SDM 3D appendix A), and whether the monitor can run with them.
//!
//! Pure: the MSRs come in as a function, so that every processor whose values are known is a test row.

use core::fmt;

use super::wanted::*;
use tollgate_abi::x86::controls::{Word, bits};
use tollgate_abi::x86::msr::{
    EPT_PAGE_2_MIB, IA32_ARCH_CAPABILITIES, IA32_VMX_BASIC, IA32_VMX_CR0_FIXED0, IA32_VMX_CR0_FIXED1,
    IA32_VMX_CR4_FIXED0, IA32_VMX_CR4_FIXED1, IA32_VMX_ENTRY_CTLS, IA32_VMX_EPT_VPID_CAP, IA32_VMX_EXIT_CTLS,
    IA32_VMX_MISC, IA32_VMX_PINBASED_CTLS, IA32_VMX_PROCBASED_CTLS, IA32_VMX_PROCBASED_CTLS2, IA32_VMX_PROCBASED_CTLS3,
    IA32_VMX_TRUE_ENTRY_CTLS, IA32_VMX_TRUE_EXIT_CTLS, IA32_VMX_TRUE_PINBASED_CTLS, IA32_VMX_TRUE_PROCBASED_CTLS,
    INVVPID, INVVPID_ADDRESS, INVVPID_CONTEXT,
};

const LOCKED: u64 = 1;
const VMX_OUTSIDE_SMX: u64 = 1 << 2;

const IF_PSCHANGE_MC_NO: u64 = 1 << 6;

/// Processors, by their signatures (CPUID.1:EAX), whose VMX-preemption timer does not count at the rate that IA32_VMX_MISC tells:
/// the erratum "VMX-Preemption Timer Does Not Count Down at the Rate Specified". They are listed by document and erratum of
/// Intel's specification updates; Linux knows the last one (arch/x86/kvm/vmx/vmx.c, `vmx_preemption_cpu_tfms`).
const MISCOUNTING: [u32; 9] = [
    0x206e6, // 323344 BA86: Xeon 7500, D0
    0x20652, // 323056 AAX65, 322814 AAT59, 322911 AAU65: Xeon L3406, Core of 2010, C2
    0x20655, // 322911 AAU65: the same, K0
    0x106e5, // 322373 AAO95, 322166 AAN92, 320767 AAP86: Xeon 3400, Core i7-800 and i5-700, B1
    0x106a0, // 321333 AAM126: Xeon 3500, C0
    0x106a1, // 321333 AAM126: Xeon 3500, C1
    0x106a4, // 320836 AAJ124: Core i7-900, C0
    0x106a5, // 321333 AAM126, 321324 AAK139, 320836 AAJ124: Xeon 3500 and 5500, Core i7-900, D0
    0x306a8, // Xeon E3-1220 v2
];
/// The bits that tell processors apart in a signature: bits 15:14 and 31:28 are reserved (SDM 2A, CPUID).
const SIGNATURE: u32 = 0x0fff_3fff;

/// Whether the VMX-preemption timer of the processor with this signature is known not to keep time.
pub fn miscounts(signature: u32) -> bool {
    MISCOUNTING.contains(&(signature & SIGNATURE))
}

/// IA32_VMX_BASIC bit 55: the TRUE MSRs exist.
const HAS_TRUE_CONTROLS: u64 = 1 << 55;
/// IA32_VMX_BASIC bit 54: exits for INS and OUTS tell the instruction's address size and segment.
const TELLS_STRING_IO: u64 = 1 << 54;
/// IA32_VMX_MISC bit 6: a guest can be entered in the HLT state.
const ENTERS_HLT: u64 = 1 << 6;
/// IA32_VMX_MISC bit 8: a guest can be entered in the wait-for-SIPI state.
const ENTERS_WAIT_FOR_SIPI: u64 = 1 << 8;
/// The allowed settings of a 32-bit control field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Bits that must be 1.
    pub must: u32,
    /// Bits that may be 1.
    pub may: u32,
}

impl Allowed {
    const fn from_msr(value: u64) -> Self {
        Self { must: value as u32, may: (value >> 32) as u32 }
    }

    /// The wanted bits, as far as they are allowed, and the bits that are imposed.
    pub const fn settle(self, wanted: u32) -> u32 {
        (wanted | self.must) & self.may
    }
}

/// The capability MSRs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the MSRs")]
pub struct Capabilities {
    pub revision: u32,
    pub basic: u64,
    pub pin: Allowed,
    pub proc: Allowed,
    pub proc2: Allowed,
    /// Tertiary controls that may be 1; every bit may be 0 (SDM 3D A.3.4).
    pub proc3: u64,
    pub exit: Allowed,
    pub entry: Allowed,
    pub misc: u64,
    pub ept_vpid: u64,
    pub cr0_fixed0: u64,
    pub cr0_fixed1: u64,
    pub cr4_fixed0: u64,
    pub cr4_fixed1: u64,
    pub arch_capabilities: u64,
    /// The VMX-preemption timer does not keep time: see [`miscounts`].
    pub miscounts: bool,
}

/// The state of IA32_FEATURE_CONTROL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureControl {
    /// Locked with VMX enabled.
    Ready,
    /// Not locked: to be written with this value before VMXON.
    Unlocked(u64),
}

/// The reason that this processor can't run the monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// CPUID.1:ECX.VMX is 0.
    NoVmx,
    /// IA32_FEATURE_CONTROL is locked without VMX.
    LockedOff,
    /// A control that the monitor needs can't be set.
    NoControl(&'static str),
    /// A property of EPT that the monitor needs is missing.
    NoEptFeature(&'static str),
    /// A property of VMX operation that the monitor needs is missing.
    NoProperty(&'static str),
    /// A control that the monitor does not know is always 1: the name of its field, and its bit.
    Forced(&'static str, u32),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NoVmx => write!(f, "this CPU has no VT-x (CPUID.1:ECX.VMX is 0)"),
            Refusal::LockedOff => {
                write!(f, "the firmware has locked VT-x off (IA32_FEATURE_CONTROL is locked and its VMX bit is 0)")
            }
            Refusal::NoControl(name) => write!(f, "this CPU's VT-x lacks a control that the monitor needs: {name}"),
            Refusal::NoEptFeature(name) => write!(f, "this CPU's EPT lacks a property that the monitor needs: {name}"),
            Refusal::NoProperty(name) => write!(f, "this CPU's VT-x lacks a property that the monitor needs: {name}"),
            Refusal::Forced(field, bit) => {
                write!(
                    f,
                    "this CPU's VT-x forces a control that the monitor does not know: bit {bit} of the {field} controls"
                )
            }
        }
    }
}

impl Refusal {
    /// The remedy, for a person.
    pub const fn remedy(self) -> &'static str {
        match self {
            Refusal::NoVmx => "run it on an Intel CPU, or an emulator's CPU model, with VT-x (Bochs: model=tigerlake)",
            Refusal::LockedOff => {
                "enable VT-x (Intel Virtualization Technology) in the firmware's set-up and power-cycle the machine"
            }
            Refusal::NoControl(_) | Refusal::NoEptFeature(_) | Refusal::NoProperty(_) | Refusal::Forced(..) => {
                "run it on a CPU, or an emulator's CPU model, with EPT and unconditional basics: Nehalem or later (Bochs: model=tigerlake)"
            }
        }
    }
}

/// Reads IA32_FEATURE_CONTROL's value.
///
/// # Errors
/// VT-x is locked off.
pub const fn feature_control(value: u64) -> Result<FeatureControl, Refusal> {
    match (value & LOCKED != 0, value & VMX_OUTSIDE_SMX != 0) {
        (true, true) => Ok(FeatureControl::Ready),
        (true, false) => Err(Refusal::LockedOff),
        (false, _) => Ok(FeatureControl::Unlocked(value | LOCKED | VMX_OUTSIDE_SMX)),
    }
}

impl Capabilities {
    /// Reads the MSRs: the TRUE ones if they exist, and IA32_ARCH_CAPABILITIES if CPUID.7:EDX shows it.
    pub fn read(msr: impl Fn(u32) -> u64, has_arch_capabilities: bool) -> Self {
        let basic = msr(IA32_VMX_BASIC);
        let choose =
            |plain, with_true| Allowed::from_msr(msr(if basic & HAS_TRUE_CONTROLS != 0 { with_true } else { plain }));
        let proc = choose(IA32_VMX_PROCBASED_CTLS, IA32_VMX_TRUE_PROCBASED_CTLS);
        let proc2 = if proc.may & SECONDARY != 0 {
            Allowed::from_msr(msr(IA32_VMX_PROCBASED_CTLS2))
        } else {
            Allowed::default()
        };
        let proc3 = if proc.may & TERTIARY != 0 { msr(IA32_VMX_PROCBASED_CTLS3) } else { 0 };
        // The MSR exists if EPT (bit 1) or VPID (bit 5) does.
        let ept_vpid = if proc2.may & (bits(PROC2_REQUIRED) | VPID) != 0 { msr(IA32_VMX_EPT_VPID_CAP) } else { 0 };
        Self {
            revision: basic as u32 & 0x7fff_ffff,
            basic,
            pin: choose(IA32_VMX_PINBASED_CTLS, IA32_VMX_TRUE_PINBASED_CTLS),
            proc,
            proc2,
            proc3,
            exit: choose(IA32_VMX_EXIT_CTLS, IA32_VMX_TRUE_EXIT_CTLS),
            entry: choose(IA32_VMX_ENTRY_CTLS, IA32_VMX_TRUE_ENTRY_CTLS),
            misc: msr(IA32_VMX_MISC),
            ept_vpid,
            cr0_fixed0: msr(IA32_VMX_CR0_FIXED0),
            cr0_fixed1: msr(IA32_VMX_CR0_FIXED1),
            cr4_fixed0: msr(IA32_VMX_CR4_FIXED0),
            cr4_fixed1: msr(IA32_VMX_CR4_FIXED1),
            arch_capabilities: if has_arch_capabilities { msr(IA32_ARCH_CAPABILITIES) } else { 0 },
            miscounts: false,
        }
    }

    /// Whether the monitor can run.
    ///
    /// # Errors
    /// The first control or property that is missing, or the first control that is imposed and unknown.
    pub fn check(&self) -> Result<(), Refusal> {
        for (word, allowed, required) in [
            (Word::Pin, self.pin, PIN_REQUIRED),
            (Word::Proc, self.proc, PROC_REQUIRED),
            (Word::Proc2, self.proc2, PROC2_REQUIRED),
            (Word::Exit, self.exit, EXIT_REQUIRED),
            (Word::Entry, self.entry, ENTRY_REQUIRED),
        ] {
            if let Some(&missing) = required.iter().find(|&&bit| allowed.may >> bit & 1 == 0) {
                return Err(Refusal::NoControl(word.name(missing).unwrap_or("one without a name")));
            }
        }
        for (field, allowed, known) in [
            ("pin-based", self.pin, PIN_KNOWN),
            ("primary processor-based", self.proc, PROC_KNOWN),
            ("secondary processor-based", self.proc2, PROC2_KNOWN),
            ("VM-exit", self.exit, EXIT_KNOWN),
            ("VM-entry", self.entry, ENTRY_KNOWN),
        ] {
            let unknown = allowed.must & !known;
            if unknown != 0 {
                return Err(Refusal::Forced(field, unknown.trailing_zeros()));
            }
        }
        if self.basic & TELLS_STRING_IO == 0 {
            return Err(Refusal::NoProperty("instruction information of INS and OUTS"));
        }
        if self.misc & ENTERS_HLT == 0 {
            return Err(Refusal::NoProperty("the HLT activity state"));
        }
        let properties = [
            (6, "page walks of length 4"),
            (14, "write-back paging structures"),
            (20, "INVEPT"),
            (25, "single-context INVEPT"),
        ];
        match properties.iter().find(|(bit, _)| self.ept_vpid >> bit & 1 == 0) {
            Some((_, name)) => Err(Refusal::NoEptFeature(name)),
            None => Ok(()),
        }
    }

    /// A guest can be entered in the state in which it waits for a start-up IPI.
    pub const fn has_wait_for_sipi(&self) -> bool {
        self.misc & ENTERS_WAIT_FOR_SIPI != 0
    }

    /// A guest may run in real mode.
    pub const fn has_unrestricted_guest(&self) -> bool {
        self.proc2.may & UNRESTRICTED_GUEST != 0
    }

    /// Virtual NMIs, and exits for their window, which go together. All processors with EPT have them. On others the guest's
    /// blocking by NMI is the processor's own, and an NMI that comes meanwhile waits for the next exit, whatever that is for.
    pub const fn has_virtual_nmis(&self) -> bool {
        self.pin.may & VIRTUAL_NMIS != 0 && self.proc.may & NMI_WINDOW != 0
    }

    /// EPT maps the guest's memory, all of it executable, by 2 MiB pages. This needs such pages, and a processor without one
    /// fault: a guest that changes the size of a page in its own tables without invalidating it can bring about a machine check
    /// in instruction fetches, which stops the whole machine (CVE-2018-12207). Processors without that fault say so.
    pub const fn maps_large_pages(&self) -> bool {
        self.ept_vpid & EPT_PAGE_2_MIB != 0 && self.arch_capabilities & IF_PSCHANGE_MC_NO != 0
    }

    /// VPIDs, with the INVVPID types that the monitor uses: individual-address and single-context.
    pub const fn has_vpid(&self) -> bool {
        const ALL: u64 = INVVPID | INVVPID_ADDRESS | INVVPID_CONTEXT;
        self.proc2.may & VPID != 0 && self.ept_vpid & ALL == ALL
    }

    /// A VMX-preemption timer that keeps time and can count across exits.
    pub const fn has_preemption_timer(&self) -> bool {
        !self.miscounts && self.pin.may & PREEMPTION_TIMER != 0 && self.exit.may & SAVE_PREEMPTION_TIMER != 0
    }

    /// The TSC ticks of one tick of the VMX-preemption timer, as a power of two.
    pub const fn preemption_timer_shift(&self) -> u32 {
        (self.misc & 31) as u32
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Bochs' CPU models with VT-x: PIN, PROC, PROC2, EXIT, ENTRY (high halves), EPT/VPID, CR4_FIXED1.
    type Model = (&'static str, [u32; 5], u64, u64);
    pub(crate) const MODELS: [Model; 12] = [
        ("bx_generic", [0x3f, 0xf7f9_fffe, 0x49, 0x0003_efff, 0x1fff], 0, 0x27ff),
        ("core2_penryn_t9600", [0x3f, 0xf7f9_fffe, 0x41, 0x0003_ffff, 0x3fff], 0, 0x467ff),
        ("corei5_lynnfield_750", [0x7f, 0xf7f9_fffe, 0x7f, 0x007f_ffff, 0xffff], 0xf01_0611_4141, 0x67ff),
        ("corei5_arrandale_m520", [0x7f, 0xf7f9_fffe, 0xff, 0x007f_ffff, 0xffff], 0xf01_0611_4141, 0x67ff),
        ("corei7_sandy_bridge_2600k", [0x7f, 0xf7f9_fffe, 0xff, 0x007f_ffff, 0xffff], 0xf01_0611_4141, 0x627ff),
        ("corei7_ivy_bridge_3770k", [0x7f, 0xf7f9_fffe, 0x8ff, 0x007f_ffff, 0xffff], 0xf01_0611_4141, 0x1727ff),
        ("corei7_haswell_4770", [0x7f, 0xf7f9_fffe, 0x0004_7fff, 0x007f_ffff, 0xffff], 0xf01_0633_4141, 0x1727ff),
        ("broadwell_ult", [0x7f, 0xf7f9_fffe, 0x0005_7fff, 0x007f_ffff, 0xffff], 0xf01_0633_4141, 0x3727ff),
        ("corei7_skylake_x", [0x7f, 0xf7f9_fffe, 0x0217_7fff, 0x007f_ffff, 0xffff], 0xf01_0633_4141, 0x3727ff),
        ("corei3_cnl", [0x7f, 0xf7f9_fffe, 0x0215_7cff, 0x007f_ffff, 0xffff], 0xf01_0633_4141, 0x77_2fff),
        ("corei7_icelake_u", [0x7f, 0xfff9_fffe, 0x0297_7fff, 0x007f_ffff, 0xffff], 0xf01_0633_4141, 0x77_2fff),
        ("tigerlake", [0x7f, 0xfff9_fffe, 0x0297_7fff, 0x107f_ffff, 0x0010_ffff], 0xf01_06b3_4141, 0xf7_2fff),
    ];

    pub(crate) fn model(name: &str) -> Capabilities {
        with(name, &[])
    }

    /// The model, with these MSRs besides its own or in their place.
    fn with(name: &str, others: &[(u32, u64)]) -> Capabilities {
        let (_, [pin, proc, proc2, exit, entry], ept_vpid, cr4) = *MODELS.iter().find(|model| model.0 == name).unwrap();
        let high = |value: u32, low: u64| u64::from(value) << 32 | low;
        let value = |msr| match msr {
            IA32_VMX_BASIC => 0x00d8_1000_0000_002b,
            IA32_VMX_TRUE_PINBASED_CTLS => high(pin, 0x16),
            IA32_VMX_TRUE_PROCBASED_CTLS => high(proc, 0x0400_6172),
            IA32_VMX_PROCBASED_CTLS2 => high(proc2, 0),
            IA32_VMX_TRUE_EXIT_CTLS => high(exit, 0x0003_6dfb),
            IA32_VMX_TRUE_ENTRY_CTLS => high(entry, 0x11fb),
            IA32_VMX_MISC => 0x0004_01e0,
            IA32_VMX_EPT_VPID_CAP => ept_vpid,
            IA32_VMX_CR0_FIXED0 => 0x8000_0021,
            IA32_VMX_CR0_FIXED1 => 0xffff_ffff,
            IA32_VMX_CR4_FIXED0 => 0x2000,
            IA32_VMX_CR4_FIXED1 => cr4,
            _ => panic!("read of MSR {msr:#x}"),
        };
        let other = |msr| others.iter().find(|other| other.0 == msr).map(|other| other.1);
        Capabilities::read(|msr| other(msr).unwrap_or_else(|| value(msr)), other(IA32_ARCH_CAPABILITIES).is_some())
    }

    #[test]
    fn every_model_runs_or_names_what_it_lacks() {
        for (name, ..) in &MODELS[2..] {
            assert_eq!(model(name).check(), Ok(()), "{name}");
        }
        assert_eq!(model("bx_generic").check(), Err(Refusal::NoControl("EPT")));
        assert_eq!(model("core2_penryn_t9600").check(), Err(Refusal::NoControl("EPT")));
        assert!(model("tigerlake").has_vpid());
    }

    #[test]
    fn older_processors_without_true_msrs_are_read_by_the_plain_ones() {
        let plain = Capabilities::read(
            |msr| match msr {
                IA32_VMX_BASIC => 0x1234,
                IA32_VMX_PINBASED_CTLS | IA32_VMX_PROCBASED_CTLS | IA32_VMX_EXIT_CTLS | IA32_VMX_ENTRY_CTLS => {
                    0x3f_0000_0016
                }
                IA32_VMX_MISC..=IA32_VMX_CR4_FIXED1 => 0,
                _ => panic!("read of MSR {msr:#x}"),
            },
            false,
        );
        assert_eq!((plain.pin, plain.revision, plain.proc2.may), (Allowed { must: 0x16, may: 0x3f }, 0x1234, 0));
        assert!(matches!(plain.check(), Err(Refusal::NoControl(_))));
    }

    #[test]
    fn what_the_monitor_counts_on_or_does_not_know_is_refused_by_name() {
        let check = |change: fn(&mut Capabilities), part: &str| {
            let mut capabilities = model("tigerlake");
            change(&mut capabilities);
            let refusal = capabilities.check().unwrap_err();
            assert!(std::format!("{refusal}").contains(part), "{refusal}");
        };
        check(|has| has.basic &= !TELLS_STRING_IO, "instruction information of INS and OUTS");
        check(|has| has.misc &= !ENTERS_HLT, "the HLT activity state");
        // Monitor trap flag; process posted interrupts; PEBS by guest-physical addresses; load IA32_BNDCFGS;
        // conceal VMX from processor trace.
        check(|has| has.proc.must |= 1 << 27, "bit 27 of the primary processor-based controls");
        check(|has| has.pin.must |= 1 << 7, "bit 7 of the pin-based controls");
        check(|has| has.proc2.must |= 1 << 24, "bit 24 of the secondary processor-based controls");
        check(|has| has.entry.must |= 1 << 16, "bit 16 of the VM-entry controls");
        check(|has| has.exit.must |= 1 << 24, "bit 24 of the VM-exit controls");
    }

    #[test]
    fn only_the_scenario_misses_the_wait_for_sipi_state() {
        let misc = model("tigerlake").misc;
        assert!(model("tigerlake").has_wait_for_sipi());
        let without = with("tigerlake", &[(IA32_VMX_MISC, misc & !(1 << 7 | 1 << 8))]);
        assert_eq!((without.check(), without.has_wait_for_sipi()), (Ok(()), false));
    }

    #[test]
    fn large_pages_are_for_processors_that_bear_a_change_of_their_size() {
        let maps = |name, value| with(name, &[(IA32_ARCH_CAPABILITIES, value)]).maps_large_pages();
        assert!(!model("tigerlake").maps_large_pages(), "without the MSR nothing is known");
        // Cascade Lake, and Ice Lake.
        assert!(!maps("tigerlake", 0x2b) && maps("tigerlake", 0x6b));
        assert!(!maps("core2_penryn_t9600", 0x6b), "without EPT");
    }

    #[test]
    fn a_timer_that_is_known_not_to_keep_time_is_not_used() {
        // Steppings of one model; reserved bits tell nothing.
        assert_eq!([0x106e5, 0x106e4, 0x306a8, 0x306a9, 0x806c1].map(miscounts), [true, false, true, false, false]);
        assert!(miscounts(0xf001_c6a5) && !miscounts(0x0100_06a5));
        let lynnfield = model("corei5_lynnfield_750");
        assert!(lynnfield.has_preemption_timer());
        assert!(!Capabilities { miscounts: true, ..lynnfield }.has_preemption_timer());
    }

    #[test]
    fn the_feature_control_msr_decides() {
        assert_eq!(feature_control(5), Ok(FeatureControl::Ready));
        assert_eq!(feature_control(0), Ok(FeatureControl::Unlocked(5)));
        assert_eq!(feature_control(1), Err(Refusal::LockedOff));
        assert_eq!(feature_control(3), Err(Refusal::LockedOff), "VMX inside SMX only");
    }
}
