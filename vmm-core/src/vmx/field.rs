//! VMCS fields (SDM 3D appendix B): encodings that know their width and whether they can be written.

use core::marker::PhantomData;

/// A field that VMWRITE accepts.
#[derive(Clone, Copy, Debug)]
pub enum ReadWrite {}
/// A VM-exit information field.
#[derive(Clone, Copy, Debug)]
pub enum ReadOnly {}

/// A VMCS field of `T`: u16, u32, u64, or natural width (also u64).
#[derive(Clone, Copy, Debug)]
pub struct Field<T, A = ReadWrite> {
    encoding: u32,
    _typed: PhantomData<(T, A)>,
}

impl<T, A> Field<T, A> {
    /// The encoding that VMREAD and VMWRITE take.
    #[inline(always)]
    pub const fn encoding(self) -> u32 {
        self.encoding
    }
}

/// Whether every processor with VMX and EPT has the field (SDM 3D appendix B names the control that each of the others needs).
/// Behind an exit a VMCS is current, so that an access to such a field does not fail.
#[inline(always)]
pub const fn is_everywhere(encoding: u32) -> bool {
    const WIDTH: u32 = 0b11 << 13;
    const QUADWORD: u32 = 0b01 << 13;
    const GUEST_PHYSICAL_ADDRESS: u32 = 0x2400;
    match encoding {
        // Of the 64-bit fields most depend on a control.
        _ if encoding & WIDTH == QUADWORD => encoding == GUEST_PHYSICAL_ADDRESS,
        // VPID to HLAT prefix size; guest interrupt status, PML index, UINV.
        0x0000..0x0800 | 0x0810..0x0c00 => false,
        // TPR threshold to instruction-timeout control; VMX-preemption timer.
        0x401c..0x4400 | 0x482e => false,
        // CR3-target values; S_CET, SSP, interrupt SSP table.
        0x6008..0x6400 | 0x6828..0x6c00 | 0x6c18.. => false,
        _ => true,
    }
}

impl<A> Field<u32, A> {
    /// The same field, read as 64 bits.
    pub(super) const fn extended(self) -> Field<u64, A> {
        Field { encoding: self.encoding, _typed: PhantomData }
    }
}

impl Field<u64> {
    /// A field by its encoding, read as 64 bits.
    pub(super) const fn of(encoding: u32) -> Self {
        Self { encoding, _typed: PhantomData }
    }
}

/// A type that a field can hold.
pub trait Value: Copy {
    /// Width in bits 14:13 of the encodings of such fields, as a bit set (64-bit and natural width share u64).
    const WIDTHS: u32;
    /// Truncates the value that VMREAD delivers.
    fn from_u64(value: u64) -> Self;
    /// Extends the value for VMWRITE.
    fn to_u64(self) -> u64;
}

macro_rules! values {
    ($($type:ty: $widths:literal),*) => { $(impl Value for $type {
        const WIDTHS: u32 = $widths;
        #[inline(always)]
        fn from_u64(value: u64) -> Self { value as $type }
        #[inline(always)]
        fn to_u64(self) -> u64 { u64::from(self) }
    })* };
}
values!(u16: 0b0001, u32: 0b0100, u64: 0b1010);

macro_rules! fields {
    ($($group:literal { $($name:ident $encoding:literal $type:ty $(, $access:ident)?;)* })*) => {
        $($(
            #[doc = concat!("SDM appendix B, ", $group, ".")]
            pub const $name: Field<$type $(, $access)?> = Field { encoding: $encoding, _typed: PhantomData };
            const _: () = {
                assert!(<$type as Value>::WIDTHS >> (($encoding >> 13) & 3) & 1 == 1, "width does not fit the encoding");
                assert!(fields!(@access $($access)?) == (($encoding >> 10) & 3 == 1), "access does not fit the encoding");
            };
        )*)*
    };
    (@access ReadOnly) => { true };
    (@access) => { false };
}

fields! {
    "16-bit control fields" {
        VPID                            0x0000 u16;
    }
    "16-bit guest-state fields" {
        GUEST_INTERRUPT_STATUS          0x0810 u16;
        PML_INDEX                       0x0812 u16;
        GUEST_ES_SELECTOR               0x0800 u16;
        GUEST_CS_SELECTOR               0x0802 u16;
        GUEST_SS_SELECTOR               0x0804 u16;
        GUEST_DS_SELECTOR               0x0806 u16;
        GUEST_FS_SELECTOR               0x0808 u16;
        GUEST_GS_SELECTOR               0x080a u16;
        GUEST_LDTR_SELECTOR             0x080c u16;
        GUEST_TR_SELECTOR               0x080e u16;
    }
    "16-bit host-state fields" {
        HOST_ES_SELECTOR                0x0c00 u16;
        HOST_CS_SELECTOR                0x0c02 u16;
        HOST_SS_SELECTOR                0x0c04 u16;
        HOST_DS_SELECTOR                0x0c06 u16;
        HOST_FS_SELECTOR                0x0c08 u16;
        HOST_GS_SELECTOR                0x0c0a u16;
        HOST_TR_SELECTOR                0x0c0c u16;
    }
    "64-bit control fields" {
        IO_BITMAP_A                     0x2000 u64;
        IO_BITMAP_B                     0x2002 u64;
        MSR_BITMAPS                     0x2004 u64;
        ENTRY_MSR_LOAD_ADDRESS          0x200a u64;
        PML_ADDRESS                     0x200e u64;
        TSC_OFFSET                      0x2010 u64;
        VIRTUAL_APIC_ADDRESS            0x2012 u64;
        APIC_ACCESS_ADDRESS             0x2014 u64;
        VM_FUNCTION_CONTROLS            0x2018 u64;
        EPT_POINTER                     0x201a u64;
        EOI_EXIT_BITMAP_0               0x201c u64;
        EOI_EXIT_BITMAP_1               0x201e u64;
        EOI_EXIT_BITMAP_2               0x2020 u64;
        EOI_EXIT_BITMAP_3               0x2022 u64;
        EPTP_LIST_ADDRESS               0x2024 u64;
        VIRTUALIZATION_EXCEPTION_ADDRESS 0x202a u64;
        XSS_EXITING_BITMAP              0x202c u64;
        ENCLS_EXITING_BITMAP            0x202e u64;
        SPP_TABLE_POINTER               0x2030 u64;
        PROC3_CONTROLS                  0x2034 u64;
        ENCLV_EXITING_BITMAP            0x2036 u64;
        PCONFIG_EXITING_BITMAP          0x203e u64;
    }
    "64-bit read-only data fields" {
        GUEST_PHYSICAL_ADDRESS          0x2400 u64, ReadOnly;
    }
    "64-bit guest-state fields" {
        VMCS_LINK_POINTER               0x2800 u64;
        GUEST_IA32_DEBUGCTL             0x2802 u64;
        GUEST_IA32_EFER                 0x2806 u64;
        GUEST_PDPTE_0                   0x280a u64;
        GUEST_PDPTE_1                   0x280c u64;
        GUEST_PDPTE_2                   0x280e u64;
        GUEST_PDPTE_3                   0x2810 u64;
    }
    "64-bit host-state fields" {
        HOST_IA32_EFER                  0x2c02 u64;
    }
    "32-bit control fields" {
        PIN_CONTROLS                    0x4000 u32;
        PROC_CONTROLS                   0x4002 u32;
        EXCEPTION_BITMAP                0x4004 u32;
        PAGE_FAULT_ERROR_CODE_MASK      0x4006 u32;
        PAGE_FAULT_ERROR_CODE_MATCH     0x4008 u32;
        CR3_TARGET_COUNT                0x400a u32;
        EXIT_CONTROLS                   0x400c u32;
        EXIT_MSR_STORE_COUNT            0x400e u32;
        EXIT_MSR_LOAD_COUNT             0x4010 u32;
        ENTRY_CONTROLS                  0x4012 u32;
        ENTRY_MSR_LOAD_COUNT            0x4014 u32;
        ENTRY_INTERRUPTION_INFORMATION  0x4016 u32;
        ENTRY_EXCEPTION_ERROR_CODE      0x4018 u32;
        ENTRY_INSTRUCTION_LENGTH        0x401a u32;
        TPR_THRESHOLD                   0x401c u32;
        PROC2_CONTROLS                  0x401e u32;
    }
    "32-bit read-only data fields" {
        VM_INSTRUCTION_ERROR            0x4400 u32, ReadOnly;
        EXIT_REASON                     0x4402 u32, ReadOnly;
        EXIT_INTERRUPTION_INFORMATION   0x4404 u32, ReadOnly;
        EXIT_INTERRUPTION_ERROR_CODE    0x4406 u32, ReadOnly;
        IDT_VECTORING_INFORMATION       0x4408 u32, ReadOnly;
        IDT_VECTORING_ERROR_CODE        0x440a u32, ReadOnly;
        EXIT_INSTRUCTION_LENGTH         0x440c u32, ReadOnly;
        EXIT_INSTRUCTION_INFORMATION    0x440e u32, ReadOnly;
    }
    "32-bit guest-state fields" {
        GUEST_ES_LIMIT                  0x4800 u32;
        GUEST_CS_LIMIT                  0x4802 u32;
        GUEST_SS_LIMIT                  0x4804 u32;
        GUEST_DS_LIMIT                  0x4806 u32;
        GUEST_FS_LIMIT                  0x4808 u32;
        GUEST_GS_LIMIT                  0x480a u32;
        GUEST_LDTR_LIMIT                0x480c u32;
        GUEST_TR_LIMIT                  0x480e u32;
        GUEST_GDTR_LIMIT                0x4810 u32;
        GUEST_IDTR_LIMIT                0x4812 u32;
        GUEST_ES_RIGHTS                 0x4814 u32;
        GUEST_CS_RIGHTS                 0x4816 u32;
        GUEST_SS_RIGHTS                 0x4818 u32;
        GUEST_DS_RIGHTS                 0x481a u32;
        GUEST_FS_RIGHTS                 0x481c u32;
        GUEST_GS_RIGHTS                 0x481e u32;
        GUEST_LDTR_RIGHTS               0x4820 u32;
        GUEST_TR_RIGHTS                 0x4822 u32;
        GUEST_INTERRUPTIBILITY          0x4824 u32;
        GUEST_ACTIVITY                  0x4826 u32;
        GUEST_IA32_SYSENTER_CS          0x482a u32;
        PREEMPTION_TIMER                0x482e u32;
    }
    "32-bit host-state fields" {
        HOST_IA32_SYSENTER_CS           0x4c00 u32;
    }
    "natural-width control fields" {
        CR0_MASK                        0x6000 u64;
        CR4_MASK                        0x6002 u64;
        CR0_READ_SHADOW                 0x6004 u64;
        CR4_READ_SHADOW                 0x6006 u64;
    }
    "natural-width read-only data fields" {
        EXIT_QUALIFICATION              0x6400 u64, ReadOnly;
        GUEST_LINEAR_ADDRESS            0x640a u64, ReadOnly;
    }
    "natural-width guest-state fields" {
        GUEST_CR0                       0x6800 u64;
        GUEST_CR3                       0x6802 u64;
        GUEST_CR4                       0x6804 u64;
        GUEST_ES_BASE                   0x6806 u64;
        GUEST_CS_BASE                   0x6808 u64;
        GUEST_SS_BASE                   0x680a u64;
        GUEST_DS_BASE                   0x680c u64;
        GUEST_FS_BASE                   0x680e u64;
        GUEST_GS_BASE                   0x6810 u64;
        GUEST_LDTR_BASE                 0x6812 u64;
        GUEST_TR_BASE                   0x6814 u64;
        GUEST_GDTR_BASE                 0x6816 u64;
        GUEST_IDTR_BASE                 0x6818 u64;
        GUEST_DR7                       0x681a u64;
        GUEST_RSP                       0x681c u64;
        GUEST_RIP                       0x681e u64;
        GUEST_RFLAGS                    0x6820 u64;
        GUEST_PENDING_DEBUG             0x6822 u64;
        GUEST_IA32_SYSENTER_ESP         0x6824 u64;
        GUEST_IA32_SYSENTER_EIP         0x6826 u64;
    }
    "natural-width host-state fields" {
        HOST_CR0                        0x6c00 u64;
        HOST_CR3                        0x6c02 u64;
        HOST_CR4                        0x6c04 u64;
        HOST_FS_BASE                    0x6c06 u64;
        HOST_GS_BASE                    0x6c08 u64;
        HOST_TR_BASE                    0x6c0a u64;
        HOST_GDTR_BASE                  0x6c0c u64;
        HOST_IDTR_BASE                  0x6c0e u64;
        HOST_IA32_SYSENTER_ESP          0x6c10 u64;
        HOST_IA32_SYSENTER_EIP          0x6c12 u64;
        HOST_RSP                        0x6c14 u64;
        HOST_RIP                        0x6c16 u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_depend_on_a_control_are_told_apart() {
        let everywhere = [
            EXIT_REASON.encoding(),
            EXIT_QUALIFICATION.encoding(),
            GUEST_PHYSICAL_ADDRESS.encoding(),
            GUEST_INTERRUPTIBILITY.encoding(),
            GUEST_RIP.encoding(),
            CR0_READ_SHADOW.encoding(),
            HOST_RIP.encoding(),
            ENTRY_INSTRUCTION_LENGTH.encoding(),
            GUEST_TR_SELECTOR.encoding(),
        ];
        let somewhere = [
            VPID.encoding(),
            GUEST_INTERRUPT_STATUS.encoding(),
            TPR_THRESHOLD.encoding(),
            PROC2_CONTROLS.encoding(),
            PREEMPTION_TIMER.encoding(),
            EPT_POINTER.encoding(),
            GUEST_IA32_EFER.encoding(),
            TSC_OFFSET.encoding(),
        ];
        assert!(everywhere.into_iter().all(is_everywhere));
        assert!(!somewhere.into_iter().any(is_everywhere));
    }
}
