//! The contracts between Tollgate's monitor, its guest and the host tool.
//!
//! Each module is one table or one format, and everything else derives from it: the names of exit reasons, the answers of leaves,
//! the writing and reading of records, the exits that workloads provoke. Nothing here touches hardware, allocates, or needs
//! `unsafe`, so the same code is tested on the host and runs in the image.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod apic;
pub mod bench;
pub mod command_line;
pub mod emulated;
pub mod ending;
pub mod exit_reason;
pub mod figures;
pub mod guest_image;
pub mod hypercall;
pub mod judgement;
pub mod key;
pub mod leaves;
pub mod machine;
pub mod marks;
pub mod packed;
pub mod peer;
pub mod profile;
pub mod quick;
pub mod record;
pub mod rom;
pub mod scenario;
pub mod stick;
pub mod svm_exit;
pub mod trace;
pub mod virtualization;
pub mod workload;
pub mod x86;

pub use exit_reason::ExitReason;

/// A text of a table that is for people alone. In an image, which has no room for it, it is empty.
pub(crate) const fn for_people(text: &'static str) -> &'static str {
    if cfg!(bare) { "" } else { text }
}
