//! `tollgate run`: from options to a verdict.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tollgate_abi::command_line::Options;

use super::atlas;
use super::outcome::account;
use super::{print, uefi};
use crate::account::Account;
use crate::cli::{On, RunArguments};
use crate::emulator::models::{self, MODELS, Model};
use crate::emulator::{Limits, Platform, Session, bochs, qemu};
use crate::failure::{Failure, Status};
use crate::image;
use crate::output_file;
use crate::progress::Progress;
use crate::report::{Format, Titled, render};
use crate::selection::nearest;

const DEFAULT_SECONDS: u64 = 60;
/// Bochs writes some hundred bytes for each exit then.
const DEFAULT_AUDITED_SECONDS: u64 = 180;

pub(super) fn run(arguments: &RunArguments) -> Result<Status, Failure> {
    let selection = arguments.image.selection()?;
    let options = selection.options()?;
    let model = model(arguments.cpu.as_deref())?;
    let place = Place::new(arguments.out.as_deref())?;
    let (title, account) = if arguments.image.wants_atlas() && !arguments.uefi {
        atlas::run(arguments, &selection, model, &place)?
    } else {
        run_image(arguments, &options, model, place.path())?
    };
    place.keep(None, &account)?;
    let format = if arguments.json { Format::Json } else { Format::Table };
    let status = account.status;
    print(&render(&[Titled { title, account }], format))?;
    Ok(status)
}

/// Boots an image with these options, in a directory, to its account.
pub(super) fn run_image(
    arguments: &RunArguments,
    options: &str,
    model: &'static Model,
    directory: &Path,
) -> Result<(String, Account), Failure> {
    if arguments.uefi {
        return uefi::run_image(arguments, options, model, directory);
    }
    let rom = image::build(arguments.image.guest.as_deref(), options)?;
    let parsed = Options::parse(options).unwrap_or_default();
    let workloads = parsed.selected(parsed.cpus.into()).count() as u64;
    let progress = Progress::new(workloads);
    let launch = match platform(arguments, &progress)? {
        Platform::Bochs => {
            let memory_mib = arguments.memory.unwrap_or(bochs::MEMORY_MIB);
            let cpus = arguments.machine_cpus.unwrap_or(parsed.processors());
            bochs::prepare(directory, &rom.bytes, bochs::Machine { model, memory_mib, cpus }, arguments.audit)?
        }
        Platform::Qemu => qemu::prepare(directory, &rom.bytes, parsed.processors(), qemu::Accelerator::Kvm)?,
    };
    let counted = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let scenarios = parsed.scenarios().count() as u64;
    let and_scenarios = if scenarios > 0 { format!(", {}", counted(scenarios, "scenario")) } else { String::new() };
    progress.phase(&format!("{}: {}{and_scenarios}", launch.name, counted(workloads, "workload")));
    let limits = Limits::within(Duration::from_secs(seconds(arguments)));
    let session = Session::run(&launch, limits, |record| progress.record(record));
    progress.finish();
    Ok((launch.name.clone(), account(&launch, session?)?))
}

pub(super) fn seconds(arguments: &RunArguments) -> u64 {
    arguments.timeout.unwrap_or(if arguments.audit { DEFAULT_AUDITED_SECONDS } else { DEFAULT_SECONDS })
}

pub(super) fn model(name: Option<&str>) -> Result<&'static Model, Failure> {
    let name = name.unwrap_or(models::DEFAULT);
    Model::by_name(name).ok_or_else(|| {
        let remedy = match nearest(name, MODELS.iter().map(|model| model.name)) {
            Some(near) => format!("did you mean `{near}`? `tollgate platforms` lists them all"),
            None => "`tollgate platforms` lists them".to_owned(),
        };
        Failure::usage(format_args!("there is no processor model `{name}`")).remedy(remedy)
    })
}

/// The platform that the arguments ask for, if it can do what they ask for.
fn platform(arguments: &RunArguments, progress: &Progress) -> Result<Platform, Failure> {
    let platform = match arguments.on {
        On::Bochs => Platform::Bochs,
        On::Qemu => Platform::Qemu,
        On::Auto => {
            let (platform, why) = Platform::choose()?;
            progress.phase(&format!("running on {platform}: {why}"));
            platform
        }
    };
    if platform == Platform::Qemu {
        if arguments.audit || arguments.image.wants_atlas() {
            let what = if arguments.audit { "an audit" } else { "the atlas, which is audited," };
            let sentence = format_args!("{what} needs an emulator's own log of VM exits, and QEMU keeps none");
            return Err(Failure::platform(sentence).remedy("use --on bochs"));
        }
        if arguments.memory.is_some() {
            return Err(Failure::usage("--memory sizes Bochs' machine").remedy("use --on bochs"));
        }
        if arguments.machine_cpus.is_some() {
            return Err(Failure::usage("--machine-cpus sizes Bochs' machine").remedy("use --on bochs"));
        }
        if arguments.cpu.is_some() {
            return Err(Failure::usage("--cpu chooses a model of Bochs; KVM offers the processor that is there")
                .remedy("use --on bochs"));
        }
    }
    Ok(platform)
}

/// Where the files of a run are: kept, or gone with the run.
pub(super) enum Place {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl Place {
    fn new(out: Option<&Path>) -> Result<Self, Failure> {
        if let Some(path) = out {
            output_file::create_directory(path)?;
            let absolute = std::path::absolute(path);
            return Ok(Place::Kept(absolute.unwrap_or_else(|_| path.to_owned())));
        }
        let directory = tempfile::Builder::new().prefix("tollgate-").tempdir();
        directory.map(Place::Temporary).map_err(|error| {
            Failure::usage(format_args!("no temporary directory can be made: {error}"))
                .remedy("name one with --out, or set TMPDIR")
        })
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Place::Kept(path) => path,
            Place::Temporary(directory) => directory.path(),
        }
    }

    /// Writes an account beside the files of its run, if they are kept.
    pub(super) fn keep(&self, folder: Option<&str>, account: &Account) -> Result<(), Failure> {
        let Place::Kept(path) = self else { return Ok(()) };
        let path = folder.map_or_else(|| path.clone(), |folder| path.join(folder));
        let titled = Titled { title: String::new(), account: account.clone() };
        output_file::write(&path.join("account.json"), render(&[titled], Format::Json).as_bytes())
    }
}
