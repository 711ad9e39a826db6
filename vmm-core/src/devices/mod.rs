//! The devices of the guest's machine, one file each.
//!
//! A device is state and its rules: safe code without a virtualization extension, an exit or a clock; time is handed in. Handlers
//! decode an exit and ask the device. The quick forms read at most one field of a device.

pub mod byte;
pub mod constant_msrs;
pub mod cpuid_table;
pub mod guest_apic;
pub mod loopback;
pub mod ports;
