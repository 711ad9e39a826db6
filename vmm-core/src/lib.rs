//! Tollgate's monitor: the code that runs in VMX root operation, and the account that it keeps.
//!
//! # The life of one exit
//!
//! 1. [`vmx::entry`]: the stub saves the guest's registers, takes a time stamp, and calls `Vcpu::exit` ([`vcpu`]).
//! 2. The backend reads the exit reason, and the ledger counts it. An exit that is frequent and plain is emulated at once. Every
//!    other exit goes on to the next steps of the spine, and to
//! 3. [`handlers::dispatch`]: one `match`; a handler sees the exit, the registers and its device, and decides an
//!    [`exit::Action`].
//! 4. The spine applies the action; the ledger books the cycles.
//! 5. The stub restores the registers and resumes.
//!
//! Several vCPUs each live these lives by themselves. They share the [`board`], and only an exit that is about another vCPU
//! touches it.
//!
//! The rest is safe code that runs on the host, where a scripted backend drives the same spine.
//!
//! Unsafe: `calibration`, `exit::registers`, `host::keyboard`, `host::local_apic`, `host::local_apic::settings`,
//! `host::registers`, `ledger`, `memory`, `nested`, `stack`, `svm::entry`, `svm::gates`, `svm::instructions`, `svm::probe`,
//! `svm::scenario_hardware`, `vmx::entry`, `vmx::instructions`, `vmx::scenario_hardware`; and of tests `svm::twins`,
//! `vmx::scripted`.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

#[cfg(test)]
mod accesses;
mod bench;
pub mod board;
pub mod calibration;
pub mod console;
pub mod devices;
pub mod ended;
pub mod exit;
pub mod fault;
pub mod figures;
pub mod handlers;
pub mod host;
pub mod instruction;
pub mod kept_msrs;
pub mod keys;
pub mod ledger;
pub mod log_room;
pub mod machine;
pub mod marks;
pub mod memory;
pub mod nested;
pub mod paging;
pub mod rate;
pub mod recorder;
pub mod recording;
#[cfg(test)]
pub(crate) mod script;
pub mod session;
pub mod silicon;
pub mod stack;
pub mod staging;
pub mod svm;
pub mod vcpu;
pub mod vmx;
