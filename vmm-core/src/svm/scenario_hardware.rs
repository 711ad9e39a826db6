//! The changes that scenarios make to the processor itself, and undo: VM_CR, by which an INIT becomes an exception. The twin of
//! [`crate::vmx::scenario_hardware`].
#![expect(unsafe_code, reason = "writes an MSR")]

use x86_64::registers::model_specific::Msr;

use tollgate_abi::x86::msr::VM_CR;

/// VM_CR.R_INIT: an INIT raises #SX (APM 2 15.21.8, 15.30.1).
const R_INIT: u64 = 1 << 1;

/// Sets VM_CR.R_INIT or clears it.
pub(super) fn redirect_init(on: bool) {
    let mut vm_cr = Msr::new(VM_CR);
    // SAFETY: a scenario about #SX runs only where the MSR could be read; the bit matters to INITs alone, and those are sent only
    // on a scenario's behalf.
    unsafe { vm_cr.write(vm_cr.read() & !R_INIT | if on { R_INIT } else { 0 }) };
}
