//! The devices of the guest's machine, one file each.
//!
//! A device is state and its rules: safe code that knows no virtualization extension, no exit and no clock but the time that it is
//! handed. Handlers decode an exit and ask the device; the quick forms read a field of one at most.

pub mod constant_msrs;
pub mod cpuid_table;
pub mod local_apic;
pub mod loopback;
pub mod ports;
