//! The kernel: what the workloads stand on.
//!
//! | file | owns |
//! |---|---|
//! | `entry` | the way from the monitor's entry state to the application |
//! | `processor`, `segments`, `traps` | features and extended state, GDT and TSS, IDT |
//! | `account`, `learn` | the monitor's account read through the leaves, and what it says of each profile |
//! | `start_up`, `threads` | how the other vCPUs start, what they run |
//! | `console`, `heap`, `time`, `process`, `threads`, `futex`, `refused` | the `hermit-abi` symbols |
//! | `fresh` | memory whose first touch is an EPT violation |
//! | `message`, `lock` | the text in a book, what several vCPUs write |

pub(crate) mod account;
mod console;
mod entry;
pub(crate) mod fresh;
mod futex;
mod heap;
pub(crate) mod learn;
pub(crate) mod lock;
pub(crate) mod message;
pub(crate) mod process;
pub(crate) mod processor;
mod refused;
pub(crate) mod segments;
mod start_up;
pub(crate) mod threads;
pub(crate) mod time;
pub(crate) mod traps;
