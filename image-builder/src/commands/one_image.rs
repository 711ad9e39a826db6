//! One boot as the arguments of `tollgate run` describe it, whether it is the whole run or a part of an atlas.

use std::path::Path;
use std::time::Duration;

use tollgate_abi::command_line::Options;
use tollgate_books::account::Account;
use tollgate_books::failure::Failure;
use tollgate_books::report::counted;
use tollgate_books::terminal::Terminal;

use super::boot::Booting;
use super::stick;
use crate::cli::RunArguments;
use crate::emulator::{Boot, Limits, Machine, Target};
use crate::image::Placed;
use crate::images;
use crate::kernel::Kernel;

/// Said of a guest that ran none of the workloads that were named.
const UNREAD: &str = "tollgate: --workload names workloads, and the guest of --guest began none: such a guest has to read the options \
                      itself, as the built-in one does; leave --workload out";

/// Refuses more memory by pages than the monitor has room for: each vCPU has tables of its own, of 8 bytes for each page.
fn has_room_for_tables(kernel: Option<&Kernel>, cpus: u32) -> Result<(), Failure> {
    const MOST_MIB: u64 = 4096;
    let mib = kernel.map_or(0, Kernel::memory_mib);
    if mib * u64::from(cpus) <= MOST_MIB {
        return Ok(());
    }
    let sentence =
        format!("the monitor has no room for the tables of {mib} MiB by pages of 4 KiB, once for each of {cpus} vCPUs");
    Err(Failure::usage(sentence)
        .remedy(format_args!("ask for at most {} MiB, or for --pages large", MOST_MIB / u64::from(cpus))))
}

/// Boots an image with these options, in a directory, and returns its account.
pub(super) fn run_image(
    arguments: &RunArguments,
    options: &str,
    target: Target,
    directory: &Path,
) -> Result<(String, Account), Failure> {
    let guest = arguments.image.guest.as_deref();
    let parsed = Options::parse(options).unwrap_or_default();
    let kernel = arguments.image.kernel(arguments.memory);
    if parsed.counts_touches {
        has_room_for_tables(kernel.as_ref(), parsed.cpus)?;
    }
    let placed = kernel.as_ref().map(|kernel| kernel.place(parsed.cpus)).transpose()?;
    let image = match &placed {
        Some(placed) if arguments.uefi => images::build_stick_around(placed, options)?.bytes,
        Some(placed) => images::build_around(placed, options)?.bytes,
        None if arguments.uefi => images::build_stick(guest, options)?.bytes,
        None => images::build(guest, options)?.bytes,
    };
    let boot = match &placed {
        _ if arguments.uefi => Boot::Stick(&image),
        Some(placed) => Boot::RomAndGuest(&image, placed),
        None => Boot::Rom(&image),
    };
    // Firmware's memory has to hold a kernel's file and its machine.
    let of_kernel = placed.as_ref().filter(|_| arguments.uefi).map_or(0, Placed::memory_mib);
    let workloads = parsed.selected(parsed.cpus.into()).count() as u64;
    let scenarios = parsed.scenarios().count() as u64;
    let and_scenarios = if scenarios > 0 { format!(", {}", counted(scenarios, "scenario")) } else { String::new() };
    let within = Limits::within(Duration::from_secs(arguments.seconds()));
    let booting = Booting {
        boot,
        machine: Machine {
            target,
            memory_mib: arguments.memory.filter(|_| placed.is_none()).unwrap_or(boot.memory_mib() + of_kernel),
            cpus: arguments.machine_cpus.unwrap_or(parsed.processors()),
        },
        audit: arguments.audit,
        limits: if arguments.uefi { Limits { grace: stick::GRACE, ..within } } else { within },
    };
    let asked = format!("{}{and_scenarios}", counted(workloads, "workload"));
    let what = match (&kernel, guest) {
        (Some(kernel), _) => kernel.name(),
        // It runs the workloads that it is asked for, if it knows any.
        (None, Some(guest)) if workloads + scenarios > 0 => format!("{}, asked for {asked}", guest.display()),
        (None, Some(guest)) => guest.display().to_string(),
        (None, None) => asked,
    };
    let booted = booting.shown(directory, workloads, &what, arguments.console)?;
    let (title, serial) = (booted.launch.name.clone(), booted.launch.serial.clone());
    let account = booted.account()?;
    if guest.is_some() && workloads > 0 && account.workloads.is_empty() {
        Terminal::of_stderr().tell(UNREAD);
    }
    if arguments.uefi {
        stick::compare(directory, &serial)?;
    }
    Ok((title, account))
}
