//! The local APIC, an x2APIC: its registers are MSRs ([`tollgate_abi::apic`]).
#![expect(unsafe_code, reason = "executes RDMSR and WRMSR")]

use core::arch::asm;

use tollgate_abi::apic::{
    CURRENT_COUNT, DELIVERY_FIXED, EOI, ESR, IA32_TSC_DEADLINE, ICR, LVT_ERROR, LVT_TIMER, LVT_TSC_DEADLINE, SELF_IPI,
    SVR, SVR_ENABLED, TPR, command,
};
use tollgate_abi::exit_reason::ExitReason;

use crate::books::book::book;
use crate::books::intercepts::{apic_delivers, apic_reads, apic_shadows_priority, current};

/// RDMSR of one of the APIC's registers.
pub(crate) fn read(register: u32) -> u64 {
    let by_processor = match register {
        TPR => apic_shadows_priority(),
        CURRENT_COUNT => false,
        _ => apic_reads(),
    };
    if !by_processor && current().msr_exits(register) {
        book(ExitReason::RDMSR);
    }
    let (low, high): (u64, u64);
    // SAFETY: reading a register changes nothing; one that does not exist raises #GP, which ends the guest.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("rax") low, out("rdx") high, options(nomem, nostack, preserves_flags));
    }
    high << 32 | low
}

/// WRMSR to one of the APIC's registers.
///
/// # Safety
/// The running code can take the interrupt that the write sends or lets through.
unsafe fn write(register: u32, value: u64) {
    let by_processor = match register {
        TPR => apic_shadows_priority(),
        EOI | SELF_IPI => apic_delivers(),
        _ => false,
    };
    if !by_processor && current().msr_exits(register) {
        book(ExitReason::WRMSR);
    }
    // SAFETY: by the caller, the running code can take an interrupt that this sends or lets through. Not `nomem`: its handler may
    // come in between.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags));
    }
}

/// Writes the task priority.
pub(crate) fn set_priority(value: u64) {
    // SAFETY: interrupts that it holds back stay pending.
    unsafe { write(TPR, value) };
}

/// Sends this vCPU an interrupt.
///
/// # Safety
/// The IDT has a handler for the vector.
pub(crate) unsafe fn self_ipi(vector: u8) {
    // SAFETY: by the caller, the vector has a handler.
    unsafe { write(SELF_IPI, vector.into()) };
}

/// Sends another vCPU an interrupt.
///
/// # Safety
/// The IDT has a handler for the vector, and the other vCPU's code can be interrupted where it is.
pub(crate) unsafe fn send(to: usize, vector: u8) {
    // SAFETY: by the caller, the vector has a handler, and the other vCPU can be interrupted.
    unsafe { start(to, DELIVERY_FIXED, vector) };
}

/// Sends another vCPU INIT, a start-up IPI, or an interrupt.
///
/// # Safety
/// The other vCPU runs nothing, and the page of the vector holds code for it; or as for [`send`].
pub(crate) unsafe fn start(to: usize, delivery: u64, vector: u8) {
    // The interrupted vCPU has to see earlier writes, and a WRMSR of these registers waits for nothing (SDM 3A 12.12.3).
    // SAFETY: the fences change nothing.
    unsafe { asm!("mfence", "lfence", options(nostack, preserves_flags)) };
    // SAFETY: by the caller, the other vCPU runs nothing, or can be interrupted.
    unsafe { write(ICR, command(to as u32, delivery, vector)) };
}

/// Enables the APIC, or disables it by software, which masks the timer.
pub(crate) fn enable(enabled: bool) {
    const SPURIOUS_VECTOR: u32 = 0xff;
    // SAFETY: masked interrupts stay masked, and a spurious interrupt comes only if another is withdrawn.
    unsafe { write(SVR, u64::from(SPURIOUS_VECTOR | if enabled { SVR_ENABLED } else { 0 })) };
}

/// Sets the LVT entry for the APIC's errors.
pub(crate) fn set_up_errors(entry: u32) {
    // SAFETY: masked, or one of the IDT's vectors.
    unsafe { write(LVT_ERROR, entry.into()) };
}

/// The errors since this was last asked.
pub(crate) fn errors() -> u64 {
    // SAFETY: it sends nothing.
    unsafe { write(ESR, 0) };
    read(ESR)
}

/// Sets the timer to interrupt with `vector` at deadlines.
pub(crate) fn set_up_timer(vector: u8) {
    // SAFETY: no deadline is set; the vector is one of the IDT's.
    unsafe { write(LVT_TIMER, u64::from(u32::from(vector) | LVT_TSC_DEADLINE)) };
}

/// Sets the timer's deadline.
pub(crate) fn set_deadline(tsc: u64) {
    // SAFETY: its interrupt has a handler.
    unsafe { write(IA32_TSC_DEADLINE, tsc) };
}
