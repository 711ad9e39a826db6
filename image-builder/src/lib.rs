//! Tollgate's host tool: builds the image, boots it, audits and reports.
//!
//! ```text
//! selection ► image (guest ELF, ROM) ► emulator (start, follow, stop) ► log ─┐
//!                                                                 audit ────┴► account (verify) ► report
//! ```
//!
//! [`commands`] joins these for the command line; everything else can be used and tested by itself. Input from outside (a guest,
//! a log, an emulator) may be missing, torn, huge or hostile: that ends in a [`failure::Failure`], never in a panic.
#![forbid(unsafe_code)]

pub mod cli;
pub mod commands;
pub mod debian;
pub mod emulator;
pub mod image;
pub mod images;
pub mod interrupt;
pub mod kernel;
pub mod mark;
pub mod peer;
pub mod progress;
pub mod random;
pub mod selection;
pub mod user_space;

#[cfg(test)]
#[path = "../tests/common/golden.rs"]
mod golden;
#[cfg(test)]
#[path = "../tests/common/script.rs"]
mod script;
