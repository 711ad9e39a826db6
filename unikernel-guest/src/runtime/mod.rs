//! The kernel: what the workloads stand on.
//!
//! | file | owns |
//! |---|---|
//! | `entry` | the way from the monitor's entry state to the application |
//! | `processor`, `segments`, `traps`, `recovery` | features and extended state, GDT and TSS, IDT, exceptions that are expected |
//! | `book`, `intercepts`, `account` | the guest's own tally, what exits now, and the monitor's account read through the leaves |
//! | `cpu`, `start_up`, `threads` | what each vCPU has for itself, how the others start, what they run |
//! | `console`, `heap`, `time`, `process`, `threads`, `futex`, `refused` | the `hermit-abi` symbols |
//! | `fresh` | memory whose first touch is an EPT violation |
//! | `waiting` | how a vCPU that waits and one that wakes it find each other |
//! | `message`, `lock` | the text in a book, what several vCPUs write |

pub(crate) mod account;
pub(crate) mod book;
mod console;
pub(crate) mod cpu;
mod entry;
pub(crate) mod fresh;
mod futex;
mod heap;
pub(crate) mod intercepts;
pub(crate) mod lock;
pub(crate) mod message;
pub(crate) mod process;
pub(crate) mod processor;
pub(crate) mod recovery;
mod refused;
pub(crate) mod segments;
mod start_up;
pub(crate) mod threads;
pub(crate) mod time;
pub(crate) mod traps;
mod waiting;

pub(crate) use entry::boot_info;
