//! Tollgate's bare-metal image: from the reset vector to the verdict.
//!
//! [`boot`] unpacks the ROM and brings the processor to Rust; [`monitor_run`] does the rest. They are two crates because they
//! are compiled differently: this one, and the exit path that is linked into it, for speed; the other for size.
#![cfg_attr(bare, no_std, no_main)]
#![cfg_attr(not(bare), allow(dead_code, unused_crate_dependencies, reason = "a host build only checks the image"))]

#[cfg(bare)]
mod boot;
#[cfg(any(bare, all(test, target_arch = "x86_64")))]
mod calls;
#[cfg(any(bare, all(test, target_arch = "x86_64")))]
mod inflate;
#[cfg(bare)]
mod unpack;

use bare_rt as _;

/// The images are built by the host tool's build script; a plain build of this package makes a program that says so.
#[cfg(not(bare))]
fn main() {
    std::eprintln!("This is Tollgate's monitor, which runs on bare metal: `cargo run --release -- run` boots it.");
}
