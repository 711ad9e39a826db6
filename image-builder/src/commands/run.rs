//! `tollgate run`: from options to a verdict.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tollgate_abi::command_line::Options;
use tollgate_abi::virtualization::Extension;
use tollgate_books::account::Account;
use tollgate_books::failure::{Failure, Status};
use tollgate_books::output_file;
use tollgate_books::report::{Format, Titled, counted, render, render_on};
use tollgate_books::terminal::Terminal;
use tollgate_books::trace::Form;

use super::atlas;
use super::outcome::account;
use super::{print, stick, trace};
use crate::cli::{On, RunArguments};
use crate::emulator::models::{self, MODELS, Model};
use crate::emulator::{Boot, Engine, Limits, Platform, SERIAL, Session, bochs, installed, qemu};
use crate::image;
use crate::progress::Progress;
use crate::selection::{DEFAULT_WATCHDOG_TICKS, KVM_WATCHDOG_TICKS, nearest};

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
    let target = target(arguments)?;
    let seconds = seconds(arguments.timeout, arguments.audit);
    if target.engine() == Engine::Kvm && selection.watchdog_ticks == DEFAULT_WATCHDOG_TICKS {
        selection.watchdog_ticks = KVM_WATCHDOG_TICKS;
    }
    selection.limit_ticks = selection.limit_ticks.or(Some(target.limit_ticks(seconds, arguments.audit)));
    let options = selection.options()?;
    let place = Place::new(arguments.out.as_deref())?;
    // Not found out only when the run is over.
    arguments.html.iter().chain(&arguments.trace).try_for_each(|path| output_file::can_be_written(path))?;
    let (title, account) = if arguments.image.wants_atlas() {
        atlas::run(arguments, &selection, target, &place)?
    } else {
        run_image(arguments, &options, target, place.path())?
    };
    let titled = [Titled { title, account }];
    let printed =
        print(&if arguments.json { render(&titled, Format::Json) } else { render_on(&titled, Terminal::of_stdout()) });
    // Each is written whatever becomes of the others; the first failure is told.
    let kept = place.keep(None, &titled[0].account);
    let paged =
        arguments.html.iter().try_for_each(|path| output_file::write(path, render(&titled, Format::Html).as_bytes()));
    let guest = arguments.image.guest.as_deref();
    let log = place.path().join(SERIAL);
    let traced = arguments.trace.iter().try_for_each(|path| trace::write(&log, guest, path).map(drop));
    let status = titled[0].account.status;
    match printed.and(kept).and(paged).and(traced) {
        Err(failure) if status > failure.status => {
            Terminal::of_stderr().tell(&format!("tollgate: {failure}"));
            Ok(status)
        }
        written => written.map(|()| status),
    }
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
    launch.notes.iter().for_each(|note| progress.phase(note));
    let scenarios = parsed.scenarios().count() as u64;
    let and_scenarios = if scenarios > 0 { format!(", {}", counted(scenarios, "scenario")) } else { String::new() };
    let what = match guest {
        Some(path) if workloads == 0 => format!("the guest {}", path.display()),
        _ => counted(workloads, "workload"),
    };
    progress.phase(&format!("{}: {what}{and_scenarios}", launch.name));
    let within = Limits::within(Duration::from_secs(seconds(arguments.timeout, arguments.audit || arguments.uefi)));
    let limits = if arguments.uefi { Limits { grace: stick::GRACE, ..within } } else { within };
    let session = Session::run(&launch, limits, |record| progress.record(record));
    progress.finish();
    let account = account(&launch, session?)?;
    if arguments.uefi {
        stick::compare(directory, &launch.serial)?;
    }
    Ok((launch.name, account))
}

/// Until a run is given up: more time where the emulator keeps a log or firmware comes first.
pub(super) fn seconds(asked: Option<u64>, slow: bool) -> u64 {
    asked.unwrap_or(if slow { DEFAULT_AUDITED_SECONDS } else { DEFAULT_SECONDS })
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

    /// The engine that executes the image.
    pub(super) fn engine(self) -> Engine {
        match self {
            Target::Bochs(_) => Engine::Bochs,
            Target::Qemu(platform) => platform.engine,
        }
    }

    /// The limit of a run that is given up after so many seconds: TSC ticks that a usual machine has done before.
    fn limit_ticks(self, seconds: u64, audit: bool) -> u64 {
        let (plain, audited) = match self.engine() {
            Engine::Bochs => (16_000_000, 5_000_000),
            Engine::Tcg => (30_000_000, 10_000_000),
            Engine::Kvm => (1_500_000_000, 1_500_000_000),
        };
        seconds.saturating_mul(if audit { audited } else { plain })
    }

    /// Whether a second run is the first to the tick.
    pub(super) fn repeats(self) -> bool {
        self.engine() != Engine::Kvm
    }

    /// The extension that the image finds there; a model without one has VT-x' messages.
    pub(super) fn extension(self) -> Extension {
        match self {
            Target::Bochs(model) => model.offers.extension().unwrap_or_default(),
            Target::Qemu(platform) => platform.extension,
        }
    }
}

/// The target that the arguments ask for, if it can do as they ask.
fn target(arguments: &RunArguments) -> Result<Target, Failure> {
    let is_atlas = arguments.image.wants_atlas();
    if arguments.uefi && is_atlas {
        return Err(Failure::usage("the atlas takes several runs, and is run from the ROM").remedy("leave --uefi out"));
    }
    // An atlas is always audited.
    choose(arguments.on, arguments.cpu.as_deref(), arguments.audit || is_atlas)
}

/// The best platform of those that are asked for, if it can be audited where that is asked for.
pub(super) fn choose(on: On, cpu: Option<&str>, audit: bool) -> Result<Target, Failure> {
    let model = model(cpu)?;
    if cpu.is_some() && !on.allows(Engine::Bochs) {
        return Err(Failure::usage("--cpu chooses a processor model of Bochs").remedy("use --on bochs"));
    }
    let asked = |row: &Platform| on.allows(row.engine) && (cpu.is_none() || row.engine == Engine::Bochs);
    let (platform, why) = Platform::choose(asked, audit)?;
    if on.leaves_a_choice() && cpu.is_none() {
        Terminal::of_stderr().tell(&format!("running on {platform}: {why}"));
    }
    if let Some(warning) = installed(platform.engine)?.warning() {
        Terminal::of_stderr().tell(&warning);
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
