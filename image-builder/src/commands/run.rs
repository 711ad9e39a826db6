//! `tollgate run`: from options to a verdict.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tollgate_abi::command_line::Options;

use super::outcome::account;
use super::print;
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
    if arguments.cpus != 1 {
        let sentence = format!("{} vCPUs are asked for, and the monitor runs one", arguments.cpus);
        return Err(Failure::usage(sentence).remedy("leave --cpus out"));
    }
    let options = arguments.image.selection()?.options()?;
    let model = model(arguments.cpu.as_deref())?;
    let rom = image::build(arguments.image.guest.as_deref(), &options)?;
    let workloads = Options::parse(&options).map_or(0, |options| options.selected().count()) as u64;
    let progress = Progress::new(workloads);
    let platform = platform(arguments, &progress)?;
    let place = Place::new(arguments.out.as_deref())?;
    let launch = match platform {
        Platform::Bochs => {
            let memory_mib = arguments.memory.unwrap_or(bochs::MEMORY_MIB);
            bochs::prepare(place.path(), &rom.bytes, bochs::Machine { model, memory_mib }, arguments.audit)?
        }
        Platform::Qemu => qemu::prepare(place.path(), &rom.bytes, qemu::Accelerator::Kvm)?,
    };
    let plural = if workloads == 1 { "" } else { "s" };
    progress.phase(&format!("{}: {workloads} workload{plural}", launch.name));
    let limits = Limits::within(Duration::from_secs(seconds(arguments)));
    let session = Session::run(&launch, limits, |record| progress.record(record));
    progress.finish();
    let account = account(&launch, session?)?;
    place.keep(&account)?;
    let format = if arguments.json { Format::Json } else { Format::Table };
    let status = account.status;
    print(&render(&[Titled { title: launch.name, account }], format))?;
    Ok(status)
}

fn seconds(arguments: &RunArguments) -> u64 {
    arguments.timeout.unwrap_or(if arguments.audit { DEFAULT_AUDITED_SECONDS } else { DEFAULT_SECONDS })
}

fn model(name: Option<&str>) -> Result<&'static Model, Failure> {
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
        if arguments.audit {
            return Err(Failure::platform("QEMU keeps no log of VM exits to audit against")
                .remedy("use --on bochs, or leave --audit out"));
        }
        if arguments.memory.is_some() {
            return Err(Failure::usage("--memory sizes Bochs' machine").remedy("use --on bochs"));
        }
        if arguments.cpu.is_some() {
            return Err(Failure::usage("--cpu chooses a model of Bochs; KVM offers the processor that is there")
                .remedy("use --on bochs"));
        }
    }
    Ok(platform)
}

/// Where the files of a run are: kept, or gone with the run.
enum Place {
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

    fn path(&self) -> &Path {
        match self {
            Place::Kept(path) => path,
            Place::Temporary(directory) => directory.path(),
        }
    }

    fn keep(&self, account: &Account) -> Result<(), Failure> {
        let Place::Kept(path) = self else { return Ok(()) };
        let titled = Titled { title: String::new(), account: account.clone() };
        output_file::write(&path.join("account.json"), render(&[titled], Format::Json).as_bytes())
    }
}
