//! What scenarios do to the processor itself, and undo: IA32_XSS.
#![expect(unsafe_code, reason = "writes an MSR")]

use x86_64::registers::model_specific::Msr;

const IA32_XSS: u32 = 0xda0;

/// Writes IA32_XSS, where the XSAVES control says that there is one.
pub(super) fn write_xss(value: u64) {
    // SAFETY: a scenario about XSAVES runs only where the control is allowed, hence the MSR exists; the monitor uses no
    // supervisor state.
    unsafe { Msr::new(IA32_XSS).write(value) };
}
