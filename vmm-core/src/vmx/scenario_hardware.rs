//! What scenarios do to the processor itself, and undo: its local APIC, and IA32_XSS.
#![expect(unsafe_code, reason = "writes the local APIC's registers and an MSR")]

use x86_64::registers::model_specific::Msr;

/// Where the local APIC is after reset (SDM 3A 12.4.1), mapped to itself.
const LOCAL_APIC: u64 = 0xfee0_0000;
const EOI: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const ICR_LOW: u64 = 0x300;
/// Software-enabled, spurious vector 0xff.
const ENABLED: u32 = 0x1ff;
/// Fixed delivery, asserted, to self; a vector that nothing else uses.
const FIXED_TO_SELF: u32 = 0x4_4040;

const IA32_XSS: u32 = 0xda0;

fn write(register: u64, value: u32) {
    // SAFETY: the registers of this processor's APIC, uncached, which the monitor uses for nothing else; interrupts are
    // off, so that what is sent stays pending until a guest takes it.
    unsafe { core::ptr::write_volatile((LOCAL_APIC + register) as *mut u32, value) };
}

/// Makes an interrupt pending on this processor.
pub(super) fn send_interrupt_to_self() {
    write(SPURIOUS, ENABLED);
    write(ICR_LOW, FIXED_TO_SELF);
}

/// Ends the interrupt that the VM exit acknowledged.
pub(super) fn end_of_interrupt() {
    write(EOI, 0);
}

/// Writes IA32_XSS, where the XSAVES control says that there is one.
pub(super) fn write_xss(value: u64) {
    // SAFETY: a scenario about XSAVES runs only where the control is allowed, hence the MSR exists; the monitor uses no
    // supervisor state.
    unsafe { Msr::new(IA32_XSS).write(value) };
}
