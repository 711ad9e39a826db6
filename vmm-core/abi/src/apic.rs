//! The guest's local APIC: an x2APIC (SDM 3A 12.12), enabled by software from the start on vCPU 0. Each register is an MSR.

use crate::x86::msr::{APIC_AT_RESET, APIC_BASE_ENABLED, APIC_BASE_X2APIC};
pub use crate::x86::msr::{APIC_BASE_BSP as BOOT_PROCESSOR, IA32_APIC_BASE, IA32_TSC_DEADLINE};

/// The value that the guest reads from IA32_APIC_BASE: at its usual address, enabled, in x2APIC mode. The boot processor has
/// [`BOOT_PROCESSOR`], too. The mode can be changed only where the machine's row has the registers in memory, too.
pub const APIC_BASE: u64 = APIC_AT_RESET | APIC_BASE_ENABLED | APIC_BASE_X2APIC;

/// The MSR of the register at offset 0 of a memory-mapped APIC; a register at offset `n` has [`MSR_BASE`]` + n / 16`.
pub const MSR_BASE: u32 = 0x800;
/// The last MSR of the x2APIC's range.
pub const MSR_LAST: u32 = 0x8ff;

macro_rules! registers {
    ($($name:ident $msr:literal $about:literal;)*) => {
        $(#[doc = $about] pub const $name: u32 = $msr;)*
    };
}

registers! {
    ID              0x802 "Local APIC ID: the number of the vCPU. Read-only.";
    VERSION         0x803 "Version. Read-only.";
    TPR             0x808 "Task priority; CR8 is its bits 7:4.";
    PPR             0x80a "Processor priority. Read-only.";
    EOI             0x80b "End of interrupt: write 0.";
    LDR             0x80d "Logical destination: derived from the ID. Read-only.";
    FORMAT          0x80e "Destination format, in xAPIC mode alone.";
    SVR             0x80f "Spurious-interrupt vector; [`SVR_ENABLED`].";
    ISR             0x810 "In service, 256 bits in eight registers. Read-only.";
    TMR             0x818 "Trigger mode, 256 bits in eight registers: set if level-triggered. Read-only.";
    IRR             0x820 "Requested, 256 bits in eight registers. Read-only.";
    ESR             0x828 "Error status: a read gives the errors before the last write, which has to be of 0.";
    LVT_CMCI        0x82f "Local vector table: corrected machine checks.";
    ICR             0x830 "Interrupt command; a write sends an interrupt.";
    ICR_HIGH        0x831 "Interrupt command, its upper half: in xAPIC mode alone.";
    LVT_TIMER       0x832 "Local vector table: timer.";
    LVT_THERMAL     0x833 "Local vector table: thermal sensor.";
    LVT_PERFORMANCE 0x834 "Local vector table: performance counters.";
    LVT_LINT0       0x835 "Local vector table: LINT0.";
    LVT_LINT1       0x836 "Local vector table: LINT1.";
    LVT_ERROR       0x837 "Local vector table: errors.";
    INITIAL_COUNT   0x838 "Timer: initial count.";
    CURRENT_COUNT   0x839 "Timer: current count. Read-only.";
    DIVIDE          0x83e "Timer: divide configuration.";
    SELF_IPI        0x83f "Self-IPI: a write of a vector sends it to this vCPU. Write-only.";
}

/// SVR: the APIC is enabled by software.
pub const SVR_ENABLED: u32 = 1 << 8;

/// Lowest vector that an APIC accepts; those below are errors (SDM 3A 12.5.3).
pub const LOWEST_VECTOR: u8 = 16;

/// LVT: the entry is masked.
pub const LVT_MASKED: u32 = 1 << 16;
/// LVT timer, mode in bits 18:17: periodic.
pub const LVT_PERIODIC: u32 = 1 << 17;
/// LVT timer, mode in bits 18:17: TSC deadline.
pub const LVT_TSC_DEADLINE: u32 = 2 << 17;

/// ICR, delivery mode in bits 10:8.
pub const DELIVERY_FIXED: u64 = 0;
/// ICR, delivery mode: lowest priority.
pub const DELIVERY_LOWEST_PRIORITY: u64 = 1 << 8;
/// ICR, delivery mode: NMI.
pub const DELIVERY_NMI: u64 = 4 << 8;
/// ICR, delivery mode: INIT.
pub const DELIVERY_INIT: u64 = 5 << 8;
/// ICR, delivery mode: start-up. The vector is the page at which a vCPU that waits for it starts in real mode.
pub const DELIVERY_START_UP: u64 = 6 << 8;
/// LVT, delivery mode: an interrupt controller outside has the vector (ExtINT).
pub const DELIVERY_EXTERNAL: u64 = 7 << 8;
/// Bits of the delivery mode.
pub const DELIVERY_MASK: u64 = 7 << 8;
/// ICR bit 11: the destination is logical.
pub const LOGICAL: u64 = 1 << 11;
/// ICR bit 14: assert.
pub const ASSERT: u64 = 1 << 14;
/// ICR bit 15: level-triggered. An INIT with this and without [`ASSERT`] is a de-assertion, which does nothing.
pub const LEVEL: u64 = 1 << 15;
/// ICR, destination shorthand in bits 19:18: self.
pub const TO_SELF: u64 = 1 << 18;
/// ICR, destination shorthand: all, including self.
pub const TO_ALL: u64 = 2 << 18;
/// ICR, destination shorthand: all but self.
pub const TO_OTHERS: u64 = 3 << 18;
/// Bits of the destination shorthand.
pub const SHORTHAND_MASK: u64 = 3 << 18;

/// The ICR value that sends to one vCPU.
pub const fn command(to: u32, delivery: u64, vector: u8) -> u64 {
    (to as u64) << 32 | ASSERT | delivery | vector as u64
}
