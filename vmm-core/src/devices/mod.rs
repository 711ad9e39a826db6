//! The devices of the guest's machine, one file each.
//!
//! A device is state and its rules: safe code without a virtualization extension, an exit or a clock; time is handed in. Handlers
//! decode an exit and ask the device. The quick forms read at most one field of a device.

pub mod byte;
pub mod clock;
pub mod constant_msrs;
pub mod cpuid_table;
pub mod guest_apic;
pub mod loopback;
pub mod pages;
pub mod ports;
pub mod power;
pub mod serial;
mod tails;

use tollgate_abi::machine::MOST_VCPUS;

/// The devices that all vCPUs share.
#[derive(Debug, Default)]
pub struct SharedDevices {
    /// The serial port.
    pub serial: serial::Serial,
    /// The clock of day.
    pub clock: clock::Clock,
    /// The logical IDs of the vCPUs' APICs in xAPIC mode.
    pub logical_ids: [guest_apic::mapped::LogicalId; MOST_VCPUS],
}

impl SharedDevices {
    /// The devices after reset.
    pub const fn new() -> Self {
        Self {
            serial: serial::Serial::new(),
            clock: clock::Clock::new(),
            logical_ids: [const { guest_apic::mapped::LogicalId::new() }; _],
        }
    }
}

/// The effect of a write to a device, besides its new state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing else.
    None,
    /// The serial port has a line for the log.
    Print,
    /// The serial port has text that may be waited for.
    Look,
    /// The machine is switched off.
    PowerOff,
    /// The machine starts again.
    Reset,
}
