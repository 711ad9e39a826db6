//! Bits of the control, flags and debug registers, of EFER and XCR0, and of a segment's access rights.

use super::bits;

// CR0 (SDM 3A 2.5).
bits! { u64:
    CR0_PE  0 "Protected mode.";
    CR0_MP  1 "WAIT heeds CR0.TS.";
    CR0_EM  2 "No x87.";
    CR0_TS  3 "The task was switched: x87 and SSE raise #NM.";
    CR0_ET  4 "An x87 of the 387's kind: always 1.";
    CR0_NE  5 "x87 errors raise #MF.";
    CR0_WP 16 "A supervisor can't write pages that are read-only.";
    CR0_AM 18 "RFLAGS.AC checks alignment.";
    CR0_NW 29 "Not write-through.";
    CR0_CD 30 "Caches off.";
    CR0_PG 31 "Paging.";
}
/// The bits of CR0 that are defined.
pub const CR0_DEFINED: u64 =
    CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG;

// CR4 (SDM 3A 2.5).
bits! { u64:
    CR4_VME         0 "Virtual-8086 mode extensions.";
    CR4_PVI         1 "Protected-mode virtual interrupts.";
    CR4_TSD         2 "RDTSC for CPL 0 alone.";
    CR4_DE          3 "DR4 and DR5 do not exist.";
    CR4_PSE         4 "Large pages with 32-bit paging.";
    CR4_PAE         5 "Physical addresses of more than 32 bits.";
    CR4_MCE         6 "Machine checks are delivered.";
    CR4_PGE         7 "Global pages.";
    CR4_PCE         8 "RDPMC at every CPL.";
    CR4_OSFXSR      9 "SSE.";
    CR4_OSXMMEXCPT 10 "SSE errors raise #XM.";
    CR4_UMIP       11 "SGDT, SIDT, SLDT, SMSW and STR for CPL 0 alone.";
    CR4_LA57       12 "Linear addresses of 57 bits.";
    CR4_VMXE       13 "VMX operation.";
    CR4_SMXE       14 "GETSEC.";
    CR4_FSGSBASE   16 "RDFSBASE and its like.";
    CR4_PCIDE      17 "Process-context identifiers.";
    CR4_OSXSAVE    18 "XSAVE and XCR0.";
    CR4_SMEP       20 "A supervisor does not fetch from user pages.";
    CR4_SMAP       21 "A supervisor does not access user pages.";
    CR4_PKE        22 "Protection keys for user pages.";
    CR4_CET        23 "Control-flow enforcement.";
}

// IA32_EFER (SDM 3A 2.2.1, APM 2 3.1.7).
bits! { u64:
    EFER_SCE    0 "SYSCALL.";
    EFER_LME    8 "IA-32e mode once there is paging.";
    EFER_LMA   10 "IA-32e mode.";
    EFER_NXE   11 "Execute-disable.";
    EFER_SVME  12 "SVM.";
    EFER_LMSLE 13 "Segment limits in 64-bit mode.";
    EFER_FFXSR 14 "A faster FXSAVE.";
    EFER_TCE   15 "INVLPG leaves upper-level entries of others.";
}
/// The bits of IA32_EFER that Intel's processors have.
pub const EFER_INTEL: u64 = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;

// RFLAGS (SDM 1 3.4.3).
bits! { u64:
    RFLAGS_CF    0 "Carry.";
    RFLAGS_FIXED 1 "Reads 1.";
    RFLAGS_PF    2 "Parity.";
    RFLAGS_AF    4 "Carry of the lower four bits.";
    RFLAGS_ZF    6 "Zero.";
    RFLAGS_SF    7 "Sign.";
    RFLAGS_TF    8 "Single step.";
    RFLAGS_IF    9 "Interrupts are taken.";
    RFLAGS_DF   10 "Strings go downwards.";
    RFLAGS_OF   11 "Overflow.";
    RFLAGS_NT   14 "The task was called by another.";
    RFLAGS_RF   16 "No instruction breakpoint at the next instruction.";
    RFLAGS_VM   17 "Virtual-8086 mode.";
    RFLAGS_AC   18 "Alignment is checked.";
    RFLAGS_VIF  19 "Virtual interrupt flag.";
    RFLAGS_VIP  20 "A virtual interrupt is pending.";
    RFLAGS_ID   21 "There is CPUID, if it can be changed.";
}
/// The lower bit of RFLAGS.IOPL, which has two.
pub const RFLAGS_IOPL_SHIFT: u32 = 12;
/// The bits of RFLAGS that are defined, with the one that reads 1.
pub const RFLAGS_DEFINED: u64 = RFLAGS_CF
    | RFLAGS_FIXED
    | RFLAGS_PF
    | RFLAGS_AF
    | RFLAGS_ZF
    | RFLAGS_SF
    | RFLAGS_TF
    | RFLAGS_IF
    | RFLAGS_DF
    | RFLAGS_OF
    | 0b11 << RFLAGS_IOPL_SHIFT
    | RFLAGS_NT
    | RFLAGS_RF
    | RFLAGS_VM
    | RFLAGS_AC
    | RFLAGS_VIF
    | RFLAGS_VIP
    | RFLAGS_ID;

// DR6 (SDM 3B 18.2.3).
bits! { u64:
    DR6_BUS_LOCK 11 "Clear after a bus lock.";
    DR6_BD       13 "An access to a debug register, under DR7.GD.";
    DR6_BS       14 "A single step.";
    DR6_BT       15 "A task switch.";
    DR6_RTM      16 "Clear after a breakpoint in a transaction.";
}
/// The breakpoints that were met: B0 to B3 of DR6.
pub const DR6_BREAKPOINTS: u64 = 0b1111;
/// DR6 after reset: the bits that read 1.
pub const DR6_AT_RESET: u64 = 0xffff_0ff0;

// DR7 (SDM 3B 18.2.4).
bits! { u64:
    DR7_FIXED 10 "Reads 1.";
    DR7_GD    13 "An access to a debug register raises #DB.";
}
/// The bits of DR7 below bit 32 that read 0.
pub const DR7_ZEROS: u64 = 0xd000;

// State components of XCR0 (SDM 1 13.1).
bits! { u64:
    XCR0_X87       0 "x87.";
    XCR0_SSE       1 "SSE.";
    XCR0_AVX       2 "AVX.";
    XCR0_OPMASK    5 "AVX-512: opmask registers.";
    XCR0_ZMM_HI256 6 "AVX-512: upper halves of ZMM0 to ZMM15.";
    XCR0_HI16_ZMM  7 "AVX-512: ZMM16 to ZMM31.";
}

/// The x87 control word after FNINIT: all exceptions masked, and results of 64 bits (SDM 1 8.1.5).
pub const FCW_AT_RESET: u16 = 0x037f;
/// The x87 control word: a division by zero is masked.
pub const FCW_ZM: u16 = 1 << 2;
/// MXCSR after reset: all exceptions masked (SDM 1 10.2.3).
pub const MXCSR_AT_RESET: u32 = 0x1f80;
/// MXCSR: a division by zero is masked.
pub const MXCSR_ZM: u32 = 1 << 9;

/// The address in an entry of a page table, and in IA32_APIC_BASE: bits 51 to 12 (SDM 3A 4.5, 12.4.4).
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

// Access rights of a segment, as a VMCS has them (SDM 3C 25.4.1).
bits! { u64:
    RIGHTS_ACCESSED     0 "Code or data: accessed.";
    RIGHTS_WRITABLE     1 "Data: writable. Code: readable.";
    RIGHTS_CODE         3 "A segment of code, where it is none of the system's.";
    RIGHTS_CODE_OR_DATA 4 "A segment of code or data, and none of the system's.";
    RIGHTS_PRESENT      7 "Present.";
    RIGHTS_LONG        13 "Code: 64-bit mode.";
    RIGHTS_DEFAULT_BIG 14 "Code: operands of 32 bits outside of 64-bit mode.";
    RIGHTS_GRANULAR    15 "The limit counts pages.";
    RIGHTS_UNUSABLE    16 "The segment is unusable.";
}
/// The type in access rights: four bits.
pub const RIGHTS_TYPE: u64 = 0b1111;
/// The lower bit of the DPL in access rights.
pub const RIGHTS_DPL_SHIFT: u32 = 5;
/// The DPL in access rights.
pub const RIGHTS_DPL: u64 = 0b11 << RIGHTS_DPL_SHIFT;

// The interruptibility state of a VMCS (SDM 3C table 25-3).
bits! { u64:
    BLOCKING_BY_STI      0 "The instruction behind STI takes no interrupt.";
    BLOCKING_BY_MOV_SS   1 "The instruction behind a load of SS takes none, either, and no single step.";
    BLOCKING_BY_SMI      2 "In system-management mode.";
    BLOCKING_BY_NMI      3 "In the handler of an NMI.";
    ENCLAVE_INTERRUPTION 4 "The exit was from an enclave.";
}
/// The bits of the interruptibility state that are defined.
pub const INTERRUPTIBILITY_DEFINED: u64 =
    BLOCKING_BY_STI | BLOCKING_BY_MOV_SS | BLOCKING_BY_SMI | BLOCKING_BY_NMI | ENCLAVE_INTERRUPTION;

// Activity states of a VMCS (SDM 3C 25.4.2); 2 is shutdown.
/// The processor executes instructions.
pub const ACTIVITY_ACTIVE: u64 = 0;
/// HLT was executed.
pub const ACTIVITY_HLT: u64 = 1;
/// The processor waits for a start-up IPI: the last of the states.
pub const ACTIVITY_WAIT_FOR_SIPI: u64 = 3;

/// An event's type where the processor tells of events or is given them: interruption information (SDM 3C 25.8.3, 25.9.2), EVENTINJ
/// and EXITINTINFO (APM 2 15.20). 0 is an external interrupt.
pub const EVENT_TYPE: u64 = 0b111 << EVENT_TYPE_SHIFT;
/// The lowest bit of an event's type.
pub const EVENT_TYPE_SHIFT: u32 = 8;
bits! { u64:
    EVENT_HAS_ERROR_CODE 11 "The event has an error code.";
    EVENT_VALID          31 "There is an event.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_defined_is_what_the_manual_shows() {
        assert_eq!((CR0_DEFINED, EFER_INTEL, RFLAGS_DEFINED), (0xe005_003f, 0xd01, 0x3f_7fd7));
        assert_eq!((INTERRUPTIBILITY_DEFINED, EVENT_TYPE, RIGHTS_DPL), (0x1f, 0x700, 0x60));
    }
}
