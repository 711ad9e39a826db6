//! Tollgate's monitor: what runs in VMX root operation, and the account that it keeps.
//!
//! # The life of one exit
//!
//! 1. [`vmx::entry`]: the stub saves the guest's registers and takes a time stamp.
//! 2. [`vcpu::Vcpu::exit`]: the backend reads the exit reason; the ledger counts it.
//! 3. [`handlers::dispatch`]: one `match`; a handler sees the exit, the registers and its device, and decides an
//!    [`exit::Action`].
//! 4. The spine applies the action; the ledger books the cycles.
//! 5. The stub restores the registers and resumes.
//!
//! Everything but the hardware edge (`vmx::{instructions, entry, msr}`, [`memory`]) is safe code that runs on the host,
//! where a scripted backend drives the same spine.
#![cfg_attr(not(test), no_std)]

pub mod exit;
pub mod handlers;
pub mod keys;
pub mod ledger;
pub mod machine;
pub mod memory;
pub mod paging;
#[cfg(test)]
pub(crate) mod script;
pub mod session;
pub mod vcpu;
pub mod vmx;
