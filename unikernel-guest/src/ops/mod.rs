//! Privileged operations: one function each, which books the exit that it must cause and then causes it.
//!
//! The profile in force, and the reasons that it enables on this processor, decide whether an operation must exit; see
//! [`intercepts`](crate::books::intercepts). The budgets measure the loops named `…_times`, so these are bare assembly and book
//! all their iterations at once.

pub(crate) mod apic;
pub(crate) mod caches;
pub(crate) mod control_registers;
pub(crate) mod cpuid;
pub(crate) mod debug_registers;
pub(crate) mod descriptor_tables;
pub(crate) mod extended_state;
pub(crate) mod hypercall;
pub(crate) mod idle;
pub(crate) mod msr;
pub(crate) mod ports;
pub(crate) mod time_stamp;
