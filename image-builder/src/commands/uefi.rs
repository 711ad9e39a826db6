//! `tollgate run --uefi`: the stick started by OVMF, and the log that comes back on it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tollgate_abi::command_line::Options;
use tollgate_abi::record;
use tollgate_abi::stick::log_name;

use super::outcome::account;
use super::run::seconds;
use crate::account::Account;
use crate::cli::{On, RunArguments};
use crate::emulator::models::Model;
use crate::emulator::{Limits, Platform, Session, bochs, ovmf, qemu};
use crate::failure::{Failure, Status};
use crate::image::{self, disk};
use crate::output_file;
use crate::progress::Progress;

/// How long the application has to save its log and to show the account, which it does at the speed of an emulated screen.
const GRACE: Duration = Duration::from_secs(30);

/// Boots a stick with these options under OVMF, in a directory, to its account.
pub(super) fn run_image(
    arguments: &RunArguments,
    options: &str,
    model: &'static Model,
    directory: &Path,
) -> Result<(String, Account), Failure> {
    let platform = platform(arguments)?;
    let stick = image::build_stick(arguments.image.guest.as_deref(), options)?;
    let parsed = Options::parse(options).unwrap_or_default();
    let progress = Progress::new(parsed.selected(parsed.cpus.into()).count() as u64);
    let launch = match platform {
        Platform::Bochs => {
            let memory_mib = arguments.memory.unwrap_or(ovmf::MEMORY_MIB);
            let cpus = arguments.machine_cpus.unwrap_or(parsed.processors());
            ovmf::in_bochs(directory, &stick.bytes, bochs::Machine { model, memory_mib, cpus }, arguments.audit)?
        }
        Platform::Qemu => {
            let accelerator = if qemu::nested_vtx().is_ok() { qemu::Accelerator::Kvm } else { qemu::Accelerator::Tcg };
            ovmf::in_qemu(directory, &stick.bytes, parsed.processors(), accelerator)?
        }
    };
    progress.phase(&launch.name);
    let limits = Limits { grace: GRACE, ..Limits::within(Duration::from_secs(seconds(arguments))) };
    let session = Session::run(&launch, limits, |record| progress.record(record));
    progress.finish();
    let account = account(&launch, session?)?;
    compare(directory, &launch.serial)?;
    Ok((launch.name, account))
}

/// Where to boot it: in Bochs, which has VT-x, if it is installed.
fn platform(arguments: &RunArguments) -> Result<Platform, Failure> {
    if arguments.image.wants_atlas() {
        return Err(Failure::usage("the atlas takes several runs, and is run from the ROM").remedy("leave --uefi out"));
    }
    let in_qemu = arguments.on == On::Qemu || arguments.on == On::Auto && bochs::find().is_err();
    if !in_qemu {
        return Ok(Platform::Bochs);
    }
    let of_bochs = arguments.cpu.is_some() || arguments.memory.is_some() || arguments.machine_cpus.is_some();
    if arguments.audit || of_bochs {
        let sentence =
            "--audit, --cpu, --memory and --machine-cpus are for Bochs, which has a log of VM exits and models";
        return Err(Failure::usage(sentence).remedy("use --on bochs"));
    }
    Ok(Platform::Qemu)
}

/// Takes the log from the stick, keeps it in the directory, and sees whether it says what the serial port said.
fn compare(directory: &Path, serial: &Path) -> Result<(), Failure> {
    let name = log_name(1);
    let name = name.as_str();
    let path = directory.join(ovmf::STICK);
    let unreadable = |path: &Path, error: &dyn std::fmt::Display| {
        Failure::new(Status::Differs, format_args!("{} can't be read after the run: {error}", path.display()))
    };
    let mut stick = fs::read(&path).map_err(|error| unreadable(&path, &error))?;
    let saved = disk::read(&mut stick, name)
        .map_err(|error| Failure::new(Status::Differs, format_args!("there is no {name} on the stick: {error}")))?;
    output_file::write(&directory.join(name), &saved)?;
    let sent = fs::read(serial).map_err(|error| unreadable(serial, &error))?;
    match first_difference(&records(&saved), &records(&sent)) {
        None => Ok(()),
        Some(line) => Err(Failure::new(
            Status::Differs,
            format_args!("the log on the stick and the serial log differ from record {line} on"),
        )),
    }
}

/// The lines that are records. A screen that firmware copies to the serial port is none.
fn records(log: &[u8]) -> Vec<&[u8]> {
    let line = |line: &&[u8]| record::parse(line).is_ok();
    log.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).filter(line).collect()
}

/// The first record, counted from 1, that only one has, or that they have differently.
fn first_difference(a: &[&[u8]], b: &[&[u8]]) -> Option<usize> {
    let differing = a.iter().zip(b).position(|(a, b)| a != b);
    differing.or_else(|| (a.len() != b.len()).then(|| a.len().min(b.len()))).map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_compared_and_noise_is_not() {
        let mut line = String::new();
        record::Writer::new(&mut line, record::Kind::Verdict).word("result", "balanced").finish().unwrap();
        let noisy = format!("BdsDxe: starting\r\n\x1b[2J\r\n{}\r\nVerdict: balanced\n", line.trim_end());
        assert_eq!(records(noisy.as_bytes()), records(line.as_bytes()));
        assert_eq!(first_difference(&[b"a", b"b"], &[b"a", b"b"]), None);
        assert_eq!(first_difference(&[b"a", b"b"], &[b"a", b"c"]), Some(2));
        assert_eq!(first_difference(&[b"a"], &[b"a", b"c"]), Some(2));
    }
}
