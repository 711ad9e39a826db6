//! VM-execution, VM-exit and VM-entry controls by the SDM's names (SDM 3C 25.6 to 25.8): the number of each control's bit.

/// The words that controls are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Pin-based VM-execution controls.
    Pin,
    /// Primary processor-based VM-execution controls.
    Proc,
    /// Secondary processor-based VM-execution controls.
    Proc2,
    /// Tertiary processor-based VM-execution controls.
    Proc3,
    /// Primary VM-exit controls.
    Exit,
    /// VM-entry controls.
    Entry,
}

impl Word {
    /// The controls of this word that have names: bit, and the SDM's name.
    fn names(self) -> &'static [(u8, &'static str)] {
        match self {
            Word::Pin => pin::NAMES,
            Word::Proc => proc::NAMES,
            Word::Proc2 => proc2::NAMES,
            Word::Proc3 => proc3::NAMES,
            Word::Exit => exit::NAMES,
            Word::Entry => entry::NAMES,
        }
    }

    /// The SDM's name of a control of this word; `None` for a bit that has none.
    pub fn name(self, bit: u8) -> Option<&'static str> {
        self.names().iter().find(|(number, _)| *number == bit).map(|(_, name)| *name)
    }
}

/// The word in which just these bits are set.
pub const fn bits(list: &[u8]) -> u32 {
    let (mut word, mut at) = (0, 0);
    while at < list.len() {
        word |= 1 << list[at];
        at += 1;
    }
    word
}

macro_rules! controls {
    ($($word:ident $about:literal { $($name:ident $bit:literal $sdm:literal;)* })*) => {$(
        #[doc = $about]
        pub mod $word {
            $(#[doc = concat!($sdm, ".")] pub const $name: u8 = $bit;)*
            pub(super) const NAMES: &[(u8, &str)] = &[$(($bit, $sdm)),*];
        }
    )*};
}

controls! {
    pin "Pin-based VM-execution controls (SDM 3C table 25-5)." {
        EXTERNAL_INTERRUPT_EXITING 0 "external-interrupt exiting";
        NMI_EXITING                3 "NMI exiting";
        VIRTUAL_NMIS               5 "virtual NMIs";
        PREEMPTION_TIMER           6 "activate VMX-preemption timer";
        POSTED_INTERRUPTS          7 "process posted interrupts";
    }
    proc "Primary processor-based VM-execution controls (SDM 3C table 25-6)." {
        INTERRUPT_WINDOW_EXITING     2 "interrupt-window exiting";
        USE_TSC_OFFSETTING           3 "use TSC offsetting";
        HLT_EXITING                  7 "HLT exiting";
        INVLPG_EXITING               9 "INVLPG exiting";
        MWAIT_EXITING               10 "MWAIT exiting";
        RDPMC_EXITING               11 "RDPMC exiting";
        RDTSC_EXITING               12 "RDTSC exiting";
        CR3_LOAD_EXITING            15 "CR3-load exiting";
        CR3_STORE_EXITING           16 "CR3-store exiting";
        ACTIVATE_TERTIARY_CONTROLS  17 "activate tertiary controls";
        CR8_LOAD_EXITING            19 "CR8-load exiting";
        CR8_STORE_EXITING           20 "CR8-store exiting";
        USE_TPR_SHADOW              21 "use TPR shadow";
        NMI_WINDOW_EXITING          22 "NMI-window exiting";
        MOV_DR_EXITING              23 "MOV-DR exiting";
        UNCONDITIONAL_IO_EXITING    24 "unconditional I/O exiting";
        USE_IO_BITMAPS              25 "use I/O bitmaps";
        MONITOR_TRAP_FLAG           27 "monitor trap flag";
        USE_MSR_BITMAPS             28 "use MSR bitmaps";
        MONITOR_EXITING             29 "MONITOR exiting";
        PAUSE_EXITING               30 "PAUSE exiting";
        ACTIVATE_SECONDARY_CONTROLS 31 "activate secondary controls";
    }
    proc2 "Secondary processor-based VM-execution controls (SDM 3C table 25-7)." {
        VIRTUALIZE_APIC_ACCESSES      0 "virtualize APIC accesses";
        ENABLE_EPT                    1 "EPT";
        DESCRIPTOR_TABLE_EXITING      2 "descriptor-table exiting";
        ENABLE_RDTSCP                 3 "RDTSCP";
        VIRTUALIZE_X2APIC_MODE        4 "virtualize x2APIC mode";
        ENABLE_VPID                   5 "VPID";
        WBINVD_EXITING                6 "WBINVD exiting";
        UNRESTRICTED_GUEST            7 "unrestricted guest";
        APIC_REGISTER_VIRTUALIZATION  8 "APIC-register virtualization";
        VIRTUAL_INTERRUPT_DELIVERY    9 "virtual-interrupt delivery";
        PAUSE_LOOP_EXITING           10 "PAUSE-loop exiting";
        RDRAND_EXITING               11 "RDRAND exiting";
        ENABLE_INVPCID               12 "INVPCID";
        ENABLE_VM_FUNCTIONS          13 "VM functions";
        VMCS_SHADOWING               14 "VMCS shadowing";
        ENABLE_ENCLS_EXITING         15 "ENCLS exiting";
        RDSEED_EXITING               16 "RDSEED exiting";
        ENABLE_PML                   17 "PML";
        EPT_VIOLATION_VE             18 "EPT-violation #VE";
        ENABLE_XSAVES                20 "XSAVES/XRSTORS";
        PASID_TRANSLATION            21 "PASID translation";
        MODE_BASED_EXECUTE           22 "mode-based execute control for EPT";
        SUB_PAGE_PERMISSIONS         23 "sub-page write permissions for EPT";
        USE_TSC_SCALING              25 "use TSC scaling";
        ENABLE_USER_WAIT             26 "enable user wait and pause";
        ENABLE_PCONFIG               27 "PCONFIG";
        ENABLE_ENCLV_EXITING         28 "ENCLV exiting";
        BUS_LOCK_DETECTION           30 "VMM bus-lock detection";
        INSTRUCTION_TIMEOUT          31 "instruction timeout";
    }
    proc3 "Tertiary processor-based VM-execution controls (SDM 3C table 25-8)." {
        LOADIWKEY_EXITING 0 "LOADIWKEY exiting";
        ENABLE_MSR_LIST   6 "MSR-list instructions";
    }
    exit "Primary VM-exit controls (SDM 3C table 25-13)." {
        SAVE_DEBUG_CONTROLS         2 "save debug controls";
        HOST_ADDRESS_SPACE_SIZE     9 "host address-space size";
        ACKNOWLEDGE_INTERRUPT      15 "acknowledge interrupt on exit";
        SAVE_IA32_EFER             20 "save IA32_EFER";
        LOAD_IA32_EFER             21 "load IA32_EFER on exit";
        SAVE_PREEMPTION_TIMER      22 "save VMX-preemption timer value";
    }
    entry "VM-entry controls (SDM 3C table 25-15)." {
        LOAD_DEBUG_CONTROLS  2 "load debug controls";
        IA_32E_MODE_GUEST    9 "IA-32e mode guest";
        LOAD_IA32_EFER      15 "load IA32_EFER on entry";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_has_one_name() {
        for word in [Word::Pin, Word::Proc, Word::Proc2, Word::Proc3, Word::Exit, Word::Entry] {
            let named = (0..64).filter(|&bit| word.name(bit).is_some()).count();
            assert_eq!(named, word.names().len(), "{word:?}");
        }
        assert_eq!(Word::Proc.name(proc::HLT_EXITING), Some("HLT exiting"));
        assert_eq!(bits(&[pin::EXTERNAL_INTERRUPT_EXITING, pin::NMI_EXITING]), 0b1001);
    }
}
