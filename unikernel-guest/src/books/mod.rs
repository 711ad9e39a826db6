//! The ground floor: the guest's own book, and the facts that are needed to keep it. Nothing here executes a privileged
//! operation.
//!
//! | file | owns |
//! |---|---|
//! | `book` | the tally of the exits that the guest provokes |
//! | `intercepts` | the operations that exit now |
//! | `cpu`, `thread`, `waiting`, `semaphore` | the state of each vCPU, the work that it is given, the words that vCPUs wait on, and counters made of those |
//! | `interrupts`, `recovery` | interrupts that were taken, exceptions that are expected |
//! | `boot_info` | the page from the monitor |

pub(crate) mod book;
mod boot_info;
pub(crate) mod cpu;
pub(crate) mod intercepts;
pub(crate) mod interrupts;
pub(crate) mod recovery;
pub(crate) mod semaphore;
pub(crate) mod thread;
pub(crate) mod waiting;

pub(crate) use boot_info::{boot_info, vcpus};
