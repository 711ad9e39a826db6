//! The processor that the monitor runs on: its own local APIC, and registers that no VMCS or VMCB holds.

pub mod keyboard;
pub mod local_apic;
pub mod own_apic;
pub mod registers;
