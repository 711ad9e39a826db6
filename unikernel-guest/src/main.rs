//! Tollgate's built-in guest: a unikernel and its workloads.
//!
//! Four floors, none of which reaches up. [`books`] is the guest's own book and the facts that are needed to keep it. [`ops`] has
//! one function for each privileged operation; it books the exit that it must cause before it causes it. [`runtime`] is the
//! kernel: it starts on the bare vCPU and provides the symbols that `hermit-abi` declares. [`workloads`] are applications written
//! against `hermit-abi`, plus the operations that they are about.
#![cfg_attr(bare, no_std, no_main)]
#![cfg_attr(not(bare), allow(dead_code, reason = "a host build only checks the image"))]

extern crate alloc;

// Links the C runtime symbols that the prebuilt `core` and `alloc` want.
use bare_rt as _;

mod books;
mod ops;
mod runtime;
mod workloads;

/// The images are built by the host tool's build script; a plain build of this package makes a program that says so.
#[cfg(not(bare))]
fn main() {
    std::eprintln!("This is Tollgate's guest, which runs on its monitor: `cargo run --release -- run` boots both.");
}
