//! The image of a run, and the guest that it takes: the one in a file, the random one of a seed, or the built-in one.

use std::path::Path;

use tollgate_abi::command_line::Options;
use tollgate_books::failure::Failure;

use crate::image::{
    APPLICATION_ELF, GUEST_ELF, Guest, MONITOR_ELF, Placed, Rom, RomError, Stick, StickError, guest_file, with_mark,
};
use crate::random::RandomGuest;

/// Builds the ROM with these options for the run. The guest is the one in `guest`, or the one that `options` name by a seed, or
/// the built-in one.
///
/// # Errors
/// The guest file can't be read, is no guest, or does not fit; or the monitor does not fit.
pub fn build(guest: Option<&Path>, options: &str) -> Result<Rom, Failure> {
    with_guest(guest, options, |guest, elf, refuse| {
        Rom::build(MONITOR_ELF, guest, &with_mark(options, elf)).map_err(|error| match error {
            RomError::Monitor | RomError::MonitorTooLarge { .. } => Failure::usage(&error).remedy(error.remedy()),
            RomError::TooLarge { .. } | RomError::Load(_) => refuse((error.to_string(), error.remedy())),
        })
    })
}

/// Builds the ROM for a guest that is placed in memory.
///
/// # Errors
/// The guest's machine can't be as it is to be, or the monitor does not fit.
pub fn build_around(placed: &Placed, options: &str) -> Result<Rom, Failure> {
    Rom::build(MONITOR_ELF, &placed.guest(), options).map_err(|error| Failure::usage(&error).remedy(error.remedy()))
}

/// Builds the stick, of the same parts.
///
/// # Errors
/// As for [`build`].
pub fn build_stick(guest: Option<&Path>, options: &str) -> Result<Stick, Failure> {
    with_guest(guest, options, |guest, elf, refuse| {
        Stick::build(APPLICATION_ELF, guest, &with_mark(options, elf)).map_err(|error| match error {
            StickError::Application(_) | StickError::Disk(_) => Failure::usage(&error).remedy(error.remedy()),
            StickError::Load(_) => refuse((error.to_string(), error.remedy())),
        })
    })
}

/// Builds the stick for a guest that is too large for a ROM.
///
/// # Errors
/// The guest's machine can't be as it is to be.
pub fn build_stick_around(placed: &Placed, options: &str) -> Result<Stick, Failure> {
    let stick = Stick::build(APPLICATION_ELF, &placed.loaded(), options);
    stick.map_err(|error| Failure::usage(&error).remedy(error.remedy()))
}

/// Makes of a sentence and a remedy the failure that says that a file can't be the guest.
type Refuse<'a> = dyn Fn((String, &'static str)) -> Failure + 'a;

/// Makes an image of the guest in `path`, of the random one that the options name, or of the built-in one.
fn with_guest<T>(
    path: Option<&Path>,
    options: &str,
    make: impl FnOnce(&Guest<'_>, &[u8], &Refuse<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let bytes = path.map(guest_file).transpose()?;
    let options = Options::parse(options).unwrap_or_default();
    if let Some(seed) = options.random_seed.filter(|_| path.is_none()) {
        let random = RandomGuest::new(seed, options.cpus);
        let refuse = |(cause, remedy): (String, &'static str)| {
            Failure::usage(format_args!("the random guest of seed {seed} can't be the guest: {cause}")).remedy(remedy)
        };
        return make(&random.guest(), &random.bytes(), &refuse);
    }
    let name = path.map_or_else(|| "the built-in guest".to_owned(), |path| path.display().to_string());
    let refuse = |(cause, remedy): (String, &'static str)| {
        Failure::usage(format_args!("{name} can't be the guest: {cause}")).remedy(remedy)
    };
    let elf = bytes.as_deref().unwrap_or(GUEST_ELF);
    let guest = Guest::parse(elf).map_err(|error| refuse((error.to_string(), error.remedy())))?;
    make(&guest, elf, &refuse)
}
