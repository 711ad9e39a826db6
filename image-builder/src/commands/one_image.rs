//! One boot as the arguments of `tollgate run` describe it, whether it is the whole run or a part of an atlas.

use std::path::Path;
use std::time::Duration;

use tollgate_abi::command_line::Options;
use tollgate_books::account::Account;
use tollgate_books::failure::Failure;
use tollgate_books::report::counted;

use super::boot::{Booting, seconds};
use super::stick;
use crate::cli::RunArguments;
use crate::emulator::{Boot, Limits, Machine, Target};
use crate::images;

/// Boots an image with these options, in a directory, and returns its account.
pub(super) fn run_image(
    arguments: &RunArguments,
    options: &str,
    target: Target,
    directory: &Path,
) -> Result<(String, Account), Failure> {
    let guest = arguments.image.guest.as_deref();
    let image =
        if arguments.uefi { images::build_stick(guest, options)?.bytes } else { images::build(guest, options)?.bytes };
    let boot = if arguments.uefi { Boot::Stick(&image) } else { Boot::Rom(&image) };
    let parsed = Options::parse(options).unwrap_or_default();
    let workloads = parsed.selected(parsed.cpus.into()).count() as u64;
    let scenarios = parsed.scenarios().count() as u64;
    let and_scenarios = if scenarios > 0 { format!(", {}", counted(scenarios, "scenario")) } else { String::new() };
    let within = Limits::within(Duration::from_secs(seconds(arguments.timeout, arguments.audit || arguments.uefi)));
    let booting = Booting {
        boot,
        machine: Machine {
            target,
            memory_mib: arguments.memory.unwrap_or(boot.memory_mib()),
            cpus: arguments.machine_cpus.unwrap_or(parsed.processors()),
        },
        audit: arguments.audit,
        limits: if arguments.uefi { Limits { grace: stick::GRACE, ..within } } else { within },
    };
    let booted = booting.shown(directory, workloads, &format!("{}{and_scenarios}", counted(workloads, "workload")))?;
    let (title, serial) = (booted.launch.name.clone(), booted.launch.serial.clone());
    let account = booted.account()?;
    if arguments.uefi {
        stick::compare(directory, &serial)?;
    }
    Ok((title, account))
}
