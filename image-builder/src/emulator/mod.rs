//! Emulators: found, started without window or socket, bounded in time, and never left running.

pub mod bochs;
pub mod kvm;
pub mod models;
pub mod platforms;
pub mod process;
pub mod qemu;
mod session;
mod tail;

pub use platforms::{Engine, PLATFORMS, Platform};
pub use session::{Ended, Limits, Session};

use std::path::{Path, PathBuf};

use crate::audit::{ExitLogFormat, ExitLogReader};
use crate::failure::Failure;
use process::{Invocation, find_program};

/// An emulator, ready to start.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Its name for people.
    pub name: String,
    /// Its name in accounts.
    pub kind: &'static str,
    /// How to start it.
    pub invocation: Invocation,
    /// Where it writes what the image sends.
    pub serial: PathBuf,
    /// Where it logs VM exits, if it was asked to.
    pub exit_log: Option<ExitLog>,
    /// Recognizes what it says when it can't start.
    pub explain: fn(&str) -> Option<Failure>,
}

/// An emulator's log of VM exits.
#[derive(Clone, Debug)]
pub struct ExitLog {
    /// The file.
    pub path: PathBuf,
    /// What its lines are like.
    pub format: ExitLogFormat,
    /// The processors of the machine.
    pub cpus: u32,
}

impl ExitLog {
    fn reader(&self) -> ExitLogReader {
        ExitLogReader::new(self.format, self.cpus)
    }
}

/// The ROM in a run's directory.
const ROM: &str = "rom.bin";
/// What the image sends, in a run's directory.
const SERIAL: &str = "serial.log";
/// Memory in MiB unless asked otherwise: what the monitor and its guest need, and some.
pub const MEMORY_MIB: u16 = 32;

/// The program that `variable` names or, where it is not set, the first of `names` in PATH; `None` if there is none of those.
///
/// # Errors
/// The variable names no program.
fn find(variable: &str, names: &[&str]) -> Result<Option<PathBuf>, Failure> {
    let Some(named) = std::env::var_os(variable) else {
        return Ok(names.iter().find_map(|name| find_program(name)));
    };
    let named = named.to_string_lossy();
    find_program(&named).map(Some).ok_or_else(|| {
        Failure::platform(format_args!("{variable} names `{named}`, which is no program"))
            .remedy(format_args!("correct or unset {variable}"))
    })
}

/// `, N CPUs` where that is more than one.
fn and_cpus(cpus: u32) -> String {
    if cpus > 1 { format!(", {cpus} CPUs") } else { String::new() }
}

fn in_directory(directory: &Path, name: &str, format: ExitLogFormat, cpus: u32) -> ExitLog {
    ExitLog { path: directory.join(name), format, cpus }
}
