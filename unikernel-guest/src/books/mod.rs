//! The ground floor: the guest's own book, and what has to be known to keep it. Nothing here executes a privileged operation.
//!
//! | file | owns |
//! |---|---|
//! | `book` | the tally of the exits that the guest provokes |
//! | `intercepts` | the operations that exit now |
//! | `cpu`, `thread`, `waiting` | what each vCPU has for itself, the work that it is given, how one that waits is found |
//! | `recovery` | exceptions that are expected |
//! | `boot_info` | what the monitor told the guest |

pub(crate) mod book;
mod boot_info;
pub(crate) mod cpu;
pub(crate) mod intercepts;
pub(crate) mod recovery;
pub(crate) mod thread;
pub(crate) mod waiting;

pub(crate) use boot_info::boot_info;
