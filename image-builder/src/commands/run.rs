//! `tollgate run`: from options to a verdict.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tollgate_abi::command_line::Options;
use tollgate_abi::virtualization::Extension;

use super::atlas;
use super::outcome::account;
use super::{print, stick};
use crate::account::Account;
use crate::cli::RunArguments;
use crate::emulator::models::{self, MODELS, Model};
use crate::emulator::{Boot, Engine, Limits, Platform, Session, bochs, qemu};
use crate::failure::{Failure, Status};
use crate::image;
use crate::output_file;
use crate::progress::Progress;
use crate::report::{Format, Titled, render};
use crate::selection::nearest;
use crate::trace::{self, Form};

/// Exits of each vCPU that a trace holds between two pauses, unless asked otherwise: more than any workload of the default run has.
const DEFAULT_TRACE_EXITS: u64 = 65536;
const DEFAULT_SECONDS: u64 = 60;
/// The emulator writes some hundred bytes for each exit then.
const DEFAULT_AUDITED_SECONDS: u64 = 180;

pub(super) fn run(arguments: &RunArguments) -> Result<Status, Failure> {
    let mut selection = arguments.image.selection()?;
    if let Some(path) = &arguments.trace {
        Form::of(path)?;
        selection.trace_exits = arguments.image.trace_exits.unwrap_or(DEFAULT_TRACE_EXITS);
    }
    let options = selection.options()?;
    let target = target(arguments)?;
    let place = Place::new(arguments.out.as_deref())?;
    let (title, account) = if arguments.image.wants_atlas() {
        atlas::run(arguments, &selection, target, &place)?
    } else {
        run_image(arguments, &options, target, place.path())?
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
    target: Target,
    directory: &Path,
) -> Result<(String, Account), Failure> {
    let guest = arguments.image.guest.as_deref();
    let image =
        if arguments.uefi { image::build_stick(guest, options)?.bytes } else { image::build(guest, options)?.bytes };
    let boot = if arguments.uefi { Boot::Stick(&image) } else { Boot::Rom(&image) };
    let parsed = Options::parse(options).unwrap_or_default();
    let workloads = parsed.selected(parsed.cpus.into()).count() as u64;
    let progress = Progress::new(workloads);
    let memory_mib = arguments.memory.unwrap_or(boot.memory_mib());
    let cpus = arguments.machine_cpus.unwrap_or(parsed.processors());
    let launch = match target {
        Target::Bochs(model) => {
            bochs::prepare(directory, boot, bochs::Machine { model, memory_mib, cpus }, arguments.audit)?
        }
        Target::Qemu(platform) => {
            qemu::prepare(directory, boot, qemu::Machine { platform, memory_mib, cpus }, arguments.audit)?
        }
    };
    let counted = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let scenarios = parsed.scenarios().count() as u64;
    let and_scenarios = if scenarios > 0 { format!(", {}", counted(scenarios, "scenario")) } else { String::new() };
    progress.phase(&format!("{}: {}{and_scenarios}", launch.name, counted(workloads, "workload")));
    let within = Limits::within(Duration::from_secs(seconds(arguments)));
    let limits = if arguments.uefi { Limits { grace: stick::GRACE, ..within } } else { within };
    let session = Session::run(&launch, limits, |record| progress.record(record));
    progress.finish();
    let account = account(&launch, session?)?;
    if arguments.uefi {
        stick::compare(directory, &launch.serial)?;
    }
    if let Some(path) = &arguments.trace {
        trace::export(&launch.serial, path)?;
    }
    Ok((launch.name, account))
}

fn seconds(arguments: &RunArguments) -> u64 {
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

/// Where an image runs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// A processor model of Bochs.
    Bochs(&'static Model),
    /// QEMU.
    Qemu(&'static Platform),
}

impl Target {
    /// Its name in tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Target::Bochs(model) => model.name,
            Target::Qemu(platform) => platform.name,
        }
    }

    /// The extension that the image finds there; a model without one has VT-x' messages.
    pub(super) fn extension(self) -> Extension {
        match self {
            Target::Bochs(model) => model.offers.extension().unwrap_or_default(),
            Target::Qemu(platform) => platform.extension,
        }
    }
}

/// What the arguments ask for, if it can do what they ask for.
fn target(arguments: &RunArguments) -> Result<Target, Failure> {
    let (on, model) = (arguments.on, model(arguments.cpu.as_deref())?);
    if arguments.cpu.is_some() && !on.allows(Engine::Bochs) {
        return Err(Failure::usage("--cpu chooses a processor model of Bochs").remedy("use --on bochs"));
    }
    let is_atlas = arguments.image.wants_atlas();
    if arguments.uefi && is_atlas {
        return Err(Failure::usage("the atlas takes several runs, and is run from the ROM").remedy("leave --uefi out"));
    }
    let asked = |row: &Platform| on.allows(row.engine) && (arguments.cpu.is_none() || row.engine == Engine::Bochs);
    // An atlas is always audited.
    let (platform, why) = Platform::choose(asked, arguments.audit || is_atlas)?;
    if on.leaves_a_choice() && arguments.cpu.is_none() {
        eprintln!("running on {platform}: {why}");
    }
    Ok(if platform.engine == Engine::Bochs { Target::Bochs(model) } else { Target::Qemu(platform) })
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
