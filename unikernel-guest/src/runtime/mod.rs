//! The kernel that the workloads run on.
//!
//! | file | owns |
//! |---|---|
//! | `entry` | the way from the monitor's entry state to the application |
//! | `processor`, `segments`, `traps` | features and extended state, GDT and TSS, IDT |
//! | `account`, `learn` | the monitor's account read through the leaves, and the reasons that each profile enables |
//! | `start_up`, `threads` | the start of the other vCPUs, and the work that they run |
//! | `console`, `heap`, `time`, `process`, `errno`, `threads`, `futex`, `refused` | the `hermit-abi` symbols |
//! | `fresh` | memory whose first touch is an EPT violation |
//! | `failure`, `message`, `lock` | the first assertion that did not hold, the text in a book, a lock for values that several vCPUs write |

pub(crate) mod account;
mod console;
mod entry;
mod errno;
pub(crate) mod failure;
pub(crate) mod fresh;
mod futex;
mod heap;
pub(crate) mod learn;
pub(crate) mod lock;
pub(crate) mod message;
mod process;
pub(crate) mod processor;
mod refused;
pub(crate) mod segments;
mod start_up;
pub(crate) mod threads;
pub(crate) mod time;
pub(crate) mod traps;
