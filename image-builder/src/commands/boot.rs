//! Booting an image: the machine, the limits, and the account of the run.

use std::path::Path;

use tollgate_books::account::Account;
use tollgate_books::failure::Failure;
use tollgate_books::terminal::Terminal;

use super::outcome;
use crate::cli::RunArguments;
use crate::emulator::models::{self, MODELS, Model};
use crate::emulator::{Boot, Choice, Launch, Limits, Machine, PLATFORMS, Platform, Session, Target, installed};
use crate::progress::Progress;
use crate::selection::nearest;

const DEFAULT_SECONDS: u64 = 60;
/// The default time of a kernel's boot.
const DEFAULT_KERNEL_SECONDS: u64 = 300;
/// The ticks of a kernel whose idle time lasts, for each that an emulator executes on a usual machine: it waits most of the time, for
/// the serial port above all, and the emulator passes over that.
const WAITING_OF_A_KERNEL: u64 = 4;
/// The default time of an audited run, for which the emulator writes some hundred bytes for each exit.
const DEFAULT_AUDITED_SECONDS: u64 = 180;

/// An image about to be booted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Booting<'a> {
    /// The image.
    pub(super) boot: Boot<'a>,
    /// The machine that is made for it.
    pub(super) machine: Machine,
    /// Whether the emulator logs the exits, too.
    pub(super) audit: bool,
    /// The limits of the run.
    pub(super) limits: Limits,
}

/// A run that is over.
#[derive(Debug)]
pub(super) struct Booted {
    /// The emulator that ran it.
    pub(super) launch: Launch,
    /// The run.
    pub(super) session: Session,
}

impl Booting<'_> {
    /// Boots in a directory, and shows the progress on standard error: `steps` of them make the whole. With `console` the guest's
    /// text is shown as well.
    pub(super) fn shown(&self, directory: &Path, steps: u64, what: &str, console: bool) -> Result<Booted, Failure> {
        let launch = self.machine.prepare(directory, self.boot, self.audit)?;
        let progress = Progress::new(steps, console);
        launch.notes.iter().for_each(|note| progress.phase(note));
        progress.phase(&format!("{}: {what}", launch.name));
        let session = Session::run(&launch, self.limits, |record| progress.record(record));
        progress.finish();
        Ok(Booted { session: session?, launch })
    }

    /// Boots in a directory without progress.
    pub(super) fn silent(&self, directory: &Path) -> Result<Booted, Failure> {
        let launch = self.machine.prepare(directory, self.boot, self.audit)?;
        let session = Session::run(&launch, self.limits, |_| {})?;
        Ok(Booted { launch, session })
    }
}

impl Booted {
    /// The run's account, or the reason that there is none.
    pub(super) fn account(self) -> Result<Account, Failure> {
        outcome::account(&self.launch, self.session)
    }
}

/// Seconds after which a run is given up: more if the emulator keeps a log or firmware comes first.
pub(super) fn seconds(asked: Option<u64>, slow: bool) -> u64 {
    asked.unwrap_or(if slow { DEFAULT_AUDITED_SECONDS } else { DEFAULT_SECONDS })
}

impl RunArguments {
    /// Seconds after which the run is given up.
    pub(super) fn seconds(&self) -> u64 {
        seconds(self.asked_seconds(), self.audit || self.uefi)
    }

    fn asked_seconds(&self) -> Option<u64> {
        self.timeout.or(self.image.kernel(None).map(|_| DEFAULT_KERNEL_SECONDS))
    }

    /// TSC ticks of the run, in most of that time, so that a guest that hangs has an account. A kernel executes by far more
    /// instructions for each exit that is logged than the built-in guest does, and the ticks in which it waits pass faster still on an
    /// emulator, unless they are skipped.
    pub(super) fn limit_ticks(&self, target: Target, skips_idle_time: bool) -> u64 {
        let is_kernel = self.image.kernel(None).is_some();
        let ticks = target.limit_ticks(seconds(self.asked_seconds(), self.audit), self.audit && !is_kernel);
        let waits = is_kernel && target.platform.is_exact && !skips_idle_time;
        if waits { ticks.saturating_mul(WAITING_OF_A_KERNEL) } else { ticks }
    }
}

/// The processor model of this name, or the usual one.
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

/// The best platform of those that are asked for; one that can be audited, if that is asked for.
pub(super) fn choose(on: Choice, cpu: Option<&str>, audit: bool) -> Result<Target, Failure> {
    let model = model(cpu)?;
    if cpu.is_some() && !PLATFORMS.iter().any(|row| on.allows(row) && row.has_models()) {
        return Err(Failure::usage("--cpu chooses a processor model of Bochs").remedy("use --on bochs"));
    }
    let asked = |row: &Platform| on.allows(row) && (cpu.is_none() || row.has_models());
    let (platform, why) = Platform::choose(asked, audit)?;
    if on.leaves_a_choice() && cpu.is_none() {
        Terminal::of_stderr().tell(&format!("running on {platform}: {why}"));
    }
    if let Some(warning) = installed(platform.engine)?.warning() {
        Terminal::of_stderr().tell(&warning);
    }
    Ok(if platform.has_models() { Target::bochs(model) } else { Target::of(platform) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    /// A kernel that executes without end reaches its limit before the run is given up, wherever its clock runs on.
    #[test]
    fn the_limit_comes_before_the_time_out() {
        let ticks = |words: &str, skips_idle_time: bool| {
            let words = format!("tollgate run {words}");
            let Command::Run(arguments) = Cli::try_parse_from(words.split(' ')).unwrap().command else {
                unreachable!()
            };
            let target = Target::of(PLATFORMS.iter().find(|row| row.name == "qemu-tcg").unwrap());
            let plain = target.platform.ticks_a_second.0;
            (arguments.limit_ticks(target, skips_idle_time), plain * arguments.seconds())
        };
        let (limit, executed) = ticks("--guest debian", true);
        assert_eq!(limit, executed);
        let (limit, executed) = ticks("--guest debian --timeout 20 --idle real", false);
        assert_eq!((limit, executed), (WAITING_OF_A_KERNEL * executed, 20 * 30_000_000));
        let (limit, executed) = ticks("--workload cpuid", false);
        assert_eq!(limit, executed);
    }
}
