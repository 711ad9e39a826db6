//! Emulators: found, started without window or socket, bounded in time, and never left running.

pub mod bochs;
pub mod models;
pub mod ovmf;
pub mod process;
pub mod qemu;
mod session;
mod tail;

pub use session::{Ended, Limits, Session};

use std::fmt;
use std::path::PathBuf;

use crate::failure::Failure;
use process::Invocation;

/// What `platform{kind}` says in an account from Bochs.
pub(crate) const REPORTED_KIND_BOCHS: &str = "bochs";

/// Where an image can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// Bochs: emulated VT-x.
    Bochs,
    /// QEMU with KVM: nested VT-x.
    Qemu,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Platform::Bochs => "Bochs",
            Platform::Qemu => "QEMU with KVM",
        })
    }
}

impl Platform {
    /// The platform that works here, and why it was chosen.
    ///
    /// # Errors
    /// None works; the failure is that of Bochs, which can be had everywhere.
    pub fn choose() -> Result<(Self, &'static str), Failure> {
        let missing = match bochs::find() {
            Ok(_) => return Ok((Platform::Bochs, "it is installed, has VT-x in full and repeats to the byte")),
            Err(missing) => missing,
        };
        match qemu::nested_vtx() {
            Ok(()) => Ok((Platform::Qemu, "Bochs is not installed and KVM offers nested VT-x")),
            Err(_) => Err(missing),
        }
    }
}

/// An emulator, ready to start.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Which one.
    pub platform: Platform,
    /// Its name for people.
    pub name: String,
    /// Its name in accounts.
    pub kind: &'static str,
    /// How to start it.
    pub invocation: Invocation,
    /// Where it writes what the image sends.
    pub serial: PathBuf,
    /// Where it logs VM exits, if it was asked to.
    pub exit_log: Option<PathBuf>,
    /// Recognizes what it says when it can't start.
    pub explain: fn(&str) -> Option<Failure>,
}
