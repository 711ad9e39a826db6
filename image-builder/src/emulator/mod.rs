//! Emulators: found, started without window or socket, bounded in time, and never left running.

pub mod bare;
pub mod bochs;
mod choice;
pub mod family;
pub mod installed;
pub mod kvm;
pub mod models;
pub mod ovmf;
pub mod pipe;
pub mod platforms;
pub mod process;
pub mod qemu;
mod session;
mod tail;
pub mod target;
pub mod versions;
mod vga_rom;
pub mod watch;

pub use choice::Choice;
pub use family::{Family, Version};
pub use installed::Installed;
pub use platforms::{Engine, PLATFORMS, Platform};
pub use session::{Ended, Limits, Session};
pub use target::{Machine, Target};

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use tollgate_abi::emulated::Release;
use tollgate_abi::guest_image::PLACED_HPA;

use crate::image::Placed;
use process::{Invocation, find_program};
use tollgate_books::audit::{ExitLogFormat, ExitLogReader};
use tollgate_books::failure::Failure;
use tollgate_books::output_file;

/// An emulator, ready to start.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Its name for people.
    pub name: String,
    /// The platform that it is.
    pub platform: &'static Platform,
    /// The program and its version.
    pub emulator: Installed,
    /// Notes on the machine for people, a line each.
    pub notes: Vec<String>,
    /// Whether firmware starts the image.
    pub by_firmware: bool,
    /// The way to start it.
    pub invocation: Invocation,
    /// The file of the image's output.
    pub serial: PathBuf,
    /// Its log of VM exits, if it was asked for one.
    pub exit_log: Option<ExitLog>,
    /// Recognizes its messages when it can't start.
    pub explain: fn(&str) -> Option<Failure>,
}

impl ExitLog {
    /// Whether one of `texts` comes after the last `exit`, in the end of the log that is read.
    fn ends_behind(&self, texts: &[&[u8]], exit: &[u8]) -> bool {
        let Ok(tail) = tail(&self.path) else { return false };
        let last = |text: &[u8]| tail.windows(text.len()).rposition(|part| part == text);
        let found = texts.iter().filter_map(|text| last(text)).max();
        found.is_some_and(|at| last(exit).is_none_or(|exit| exit < at))
    }
}

/// The end of a file.
fn tail(path: &Path) -> io::Result<Vec<u8>> {
    const TAIL_BYTES: u64 = 1 << 16;
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// An emulator's log of VM exits.
#[derive(Clone, Debug)]
pub struct ExitLog {
    /// The file.
    pub path: PathBuf,
    /// The form of its lines.
    pub format: ExitLogFormat,
    /// The processors of the machine.
    pub cpus: u32,
}

impl ExitLog {
    fn reader(&self) -> ExitLogReader {
        ExitLogReader::new(self.format, self.cpus)
    }
}

/// The image that a machine starts from, as bytes.
#[derive(Clone, Copy, Debug)]
pub enum Boot<'a> {
    /// The ROM, which takes the place of firmware.
    Rom(&'a [u8]),
    /// The ROM, and its guest, which is placed in memory.
    RomAndGuest(&'a [u8], &'a Placed),
    /// The stick, which UEFI firmware starts.
    Stick(&'a [u8]),
}

/// The usual memory in MiB: what the monitor and its guest need, and some more.
const MEMORY_MIB: u16 = 32;

impl Boot<'_> {
    /// The usual memory in MiB.
    pub fn memory_mib(self) -> u16 {
        match self {
            Boot::Rom(_) => MEMORY_MIB,
            Boot::RomAndGuest(_, placed) => PLACED_MIB + placed.memory_mib() + SPARE_MIB,
            Boot::Stick(_) => ovmf::MEMORY_MIB,
        }
    }

    /// Writes the image, and the firmware if it needs one, into a run's directory. Returns the file that the machine starts from.
    fn place(self, directory: &Path, emulator: &Installed) -> Result<Start, Failure> {
        match self {
            Boot::Rom(bytes) => {
                output_file::write(&directory.join(ROM), bytes)?;
                Ok(Start { file: ROM, notes: Vec::new() })
            }
            Boot::RomAndGuest(bytes, placed) => {
                output_file::write(&directory.join(ROM), bytes)?;
                let file = directory.join(PLACED);
                placed.write(&file).map_err(|error| {
                    Failure::usage(format_args!("{} can't be written: {error}", file.display()))
                        .remedy("choose another directory with --out, or make room there")
                })?;
                Ok(Start { file: ROM, notes: Vec::new() })
            }
            Boot::Stick(bytes) => {
                let firmware = ovmf::firmware(emulator)?;
                output_file::write(&directory.join(ovmf::FILE), &firmware.bytes)?;
                remove_stale_lock(directory)?;
                output_file::write(&directory.join(STICK), bytes)?;
                Ok(Start { file: ovmf::FILE, notes: vec![firmware.note(emulator)] })
            }
        }
    }

    /// Whether firmware comes first.
    fn by_firmware(self) -> bool {
        matches!(self, Boot::Stick(_))
    }

    /// ` with OVMF` if firmware comes first; else nothing.
    fn with_firmware(self) -> &'static str {
        if self.by_firmware() { " with OVMF" } else { "" }
    }
}

/// The file of an image in a run's directory.
struct Start {
    /// The file that the machine starts from.
    file: &'static str,
    /// Lines for the person.
    notes: Vec<String>,
}

/// The bytes of a guest that is placed, in a run's directory.
const PLACED: &str = "guest.bin";
/// The address at which they lie in the machine's memory, in MiB, and the memory behind the guest's.
const PLACED_MIB: u16 = (PLACED_HPA >> 20) as u16;
const SPARE_MIB: u16 = 8;
/// The ROM in a run's directory.
const ROM: &str = "rom.bin";
/// The stick's image in a run's directory. The application's files stay on it.
pub const STICK: &str = "stick.img";
/// The file of the image's output in a run's directory.
pub const SERIAL: &str = "serial.log";

/// Removes the lock on the stick that a killed Bochs leaves behind, since the next one takes it for its own.
fn remove_stale_lock(directory: &Path) -> Result<(), Failure> {
    let lock = directory.join(format!("{STICK}.lock"));
    match std::fs::remove_file(&lock) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::usage(format_args!("the old {} can't be removed: {error}", lock.display()))
                .remedy("choose another directory with --out"))
        }
        _ => Ok(()),
    }
}

/// The program that `variable` names or, if it is not set, the first of `names` in PATH; `None` if PATH has none of them.
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

/// The emulator of an engine, if it is here.
///
/// # Errors
/// It is not installed.
pub fn installed(engine: Engine) -> Result<Installed, Failure> {
    let program = match engine {
        Engine::Bochs => bochs::find(),
        Engine::Kvm | Engine::Tcg => qemu::find(),
    }?;
    Ok(Installed::of(engine, &program))
}

/// The version of an engine's emulator, if it is installed and tells its version.
pub fn release(engine: Engine) -> Option<Release> {
    let version = installed(engine).ok()?.version.filter(|_| engine != Engine::Kvm)?;
    Some((version.major, version.minor))
}

/// `, N CPUs` if there is more than one; else nothing.
fn and_cpus(cpus: u32) -> String {
    if cpus > 1 { format!(", {cpus} CPUs") } else { String::new() }
}

fn in_directory(directory: &Path, name: &str, format: ExitLogFormat, cpus: u32) -> ExitLog {
    ExitLog { path: directory.join(name), format, cpus }
}
