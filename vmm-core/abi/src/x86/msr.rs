//! Model-specific registers (SDM 4, table 2-2; APM 2 appendix A). The registers of the local APIC are in [`crate::apic`].

use super::bits;

macro_rules! msrs {
    ($($name:ident $number:literal;)*) => {
        $(#[doc = concat!("`", stringify!($number), "`")] pub const $name: u32 = $number;)*
    };
}

msrs! {
    IA32_TIME_STAMP_COUNTER      0x10;
    IA32_APIC_BASE               0x1b;
    IA32_USER_MSR_CTL            0x1c;
    MSR_SMI_COUNT                0x34;
    IA32_FEATURE_CONTROL         0x3a;
    IA32_TSC_ADJUST              0x3b;
    IA32_SPEC_CTRL               0x48;
    IA32_BIOS_UPDT_TRIG          0x79;
    IA32_BIOS_SIGN_ID            0x8b;
    IA32_SMBASE                  0x9e;
    IA32_ARCH_CAPABILITIES       0x10a;
    IA32_SYSENTER_CS             0x174;
    IA32_SYSENTER_ESP            0x175;
    IA32_SYSENTER_EIP            0x176;
    IA32_MCG_CAP                 0x179;
    IA32_MCG_STATUS              0x17a;
    IA32_PERFEVTSEL0             0x186;
    IA32_MISC_ENABLE             0x1a0;
    IA32_DEBUGCTL                0x1d9;
    IA32_PAT                     0x277;
    IA32_MTRR_DEF_TYPE           0x2ff;
    IA32_VMX_BASIC               0x480;
    IA32_VMX_PINBASED_CTLS       0x481;
    IA32_VMX_PROCBASED_CTLS      0x482;
    IA32_VMX_EXIT_CTLS           0x483;
    IA32_VMX_ENTRY_CTLS          0x484;
    IA32_VMX_MISC                0x485;
    IA32_VMX_CR0_FIXED0          0x486;
    IA32_VMX_CR0_FIXED1          0x487;
    IA32_VMX_CR4_FIXED0          0x488;
    IA32_VMX_CR4_FIXED1          0x489;
    IA32_VMX_PROCBASED_CTLS2     0x48b;
    IA32_VMX_EPT_VPID_CAP        0x48c;
    IA32_VMX_TRUE_PINBASED_CTLS  0x48d;
    IA32_VMX_TRUE_PROCBASED_CTLS 0x48e;
    IA32_VMX_TRUE_EXIT_CTLS      0x48f;
    IA32_VMX_TRUE_ENTRY_CTLS     0x490;
    IA32_VMX_PROCBASED_CTLS3     0x492;
    IA32_S_CET                   0x6a2;
    IA32_TSC_DEADLINE            0x6e0;
    IA32_XSS                     0xda0;
    IA32_EFER                    0xc000_0080;
    IA32_STAR                    0xc000_0081;
    IA32_LSTAR                   0xc000_0082;
    IA32_CSTAR                   0xc000_0083;
    IA32_FMASK                   0xc000_0084;
    IA32_FS_BASE                 0xc000_0100;
    IA32_GS_BASE                 0xc000_0101;
    IA32_KERNEL_GS_BASE          0xc000_0102;
    IA32_TSC_AUX                 0xc000_0103;
    PERF_CTL0                    0xc001_0000;
    INTERRUPT_PENDING_MESSAGE    0xc001_0055;
    VM_CR                        0xc001_0114;
    VM_HSAVE_PA                  0xc001_0117;
}

// IA32_APIC_BASE (SDM 3A 12.4.4).
bits! { u64:
    APIC_BASE_BSP      8 "IA32_APIC_BASE.BSP: the boot processor.";
    APIC_BASE_X2APIC  10 "IA32_APIC_BASE: x2APIC mode.";
    APIC_BASE_ENABLED 11 "IA32_APIC_BASE: globally enabled.";
}
/// The address of the local APIC's registers after reset (SDM 3A 12.4.1).
pub const APIC_AT_RESET: u64 = 0xfee0_0000;

/// IA32_MTRR_DEF_TYPE.E: the MTRRs are enabled (SDM 3A 13.11.2.1).
pub const MTRR_ENABLED: u64 = 1 << 11;
/// The memory type write-back (SDM 3A table 13-2).
pub const WRITE_BACK: u64 = 6;

/// IA32_MCG_CAP.MCG_CMCI_P: corrected machine checks interrupt (SDM 3B 16.3.1.1).
pub const MCG_CMCI_P: u64 = 1 << 10;

// IA32_VMX_EPT_VPID_CAP (SDM 3D A.10).
bits! { u64:
    EPT_PAGE_2_MIB     16 "EPT: pages of 2 MiB.";
    INVVPID            32 "INVVPID.";
    INVVPID_ADDRESS    40 "INVVPID of one address.";
    INVVPID_CONTEXT    41 "INVVPID of one VPID.";
}

/// VM_CR.SVMDIS: SVM is switched off (APM 2 15.30.1).
pub const VM_CR_SVMDIS: u64 = 1 << 4;

/// IA32_MCG_STATUS: a machine check is in progress (SDM 3B 16.3.1.2).
pub const MCG_IN_PROGRESS: u8 = 1 << 2;
