//! Tollgate's built-in guest: a unikernel and its workloads.
//!
//! [`runtime`] is the kernel: it starts on the bare vCPU, provides the symbols that `hermit-abi` declares, and keeps the
//! guest's book. [`ops`] has one function for each privileged operation; each books the exit that it must cause before
//! it causes it. [`workloads`] are applications written against `hermit-abi`, plus the operations that they are about.
#![no_std]
#![no_main]

extern crate alloc;

// Links the C runtime symbols that the prebuilt `core` and `alloc` want.
use bare_rt as _;

mod ops;
mod runtime;
mod workloads;
