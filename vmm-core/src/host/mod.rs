//! The processor that the monitor runs on: its own local APIC, the interrupts there, and registers that no VMCS or VMCB holds.
//! Nothing here knows the guest's machine, a handler or an extension.

pub mod keyboard;
pub mod local_apic;
pub mod own_apic;
pub mod registers;
pub mod vectors;
