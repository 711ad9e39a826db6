//! Tollgate's books: serial logs read, the account of a run verified and reported.
//!
//! ```text
//! log ─────────────────┐
//! audit (exit log) ────┴► account (verify) ► report, trace, bench
//! exit logs of two hypervisors ► beside
//! ```
//!
//! Nothing here starts an emulator or knows an image: a program that reads the logs of a fleet needs this crate alone. Input may
//! be missing, torn, huge or hostile: that ends in a [`failure::Failure`], never in a panic.
#![forbid(unsafe_code)]

pub mod account;
pub mod audit;
pub mod bench;
pub mod beside;
pub mod exits;
pub mod failure;
pub mod lines;
pub mod live;
pub mod log;
pub mod needs;
pub mod output_file;
pub mod report;
pub mod symbols;
pub mod terminal;
pub mod trace;
mod unpacked;
