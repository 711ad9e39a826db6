//! The boots of a comparison. Each has a directory of its own, and is gone with it.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use tollgate_abi::command_line::Options;
use tollgate_abi::peer::{ENDED, POWERED_OFF, SAID};
use tollgate_books::beside::{Boot as TimedBoot, BootReader, Seconds};
use tollgate_books::failure::{Failure, Status};
use tollgate_books::report::counted;
use tollgate_books::terminal::Terminal;

use super::super::{outcome, place};
use super::watchers::{Kvm, Until};
use crate::emulator::bare::Bare;
use crate::emulator::models::Model;
use crate::emulator::watch::{Watched, watch};
use crate::emulator::{Boot, Launch, Limits, Machine, Session, Target};
use crate::image::Placed;
use crate::images;
use crate::selection::{GuestKind, Selection, usual_options};

/// The kernel's line in front of its user space.
const RUNS_INIT: &str = "Run /init as init process";
/// The user space's line behind commands that went well.
const COMMANDS_ENDED: &str = "init: the commands ended with status 0";
/// TSC ticks in a second of a boot, at most: the limit of a boot under Tollgate has to be given in ticks.
const MOST_TICKS_A_SECOND: u64 = 100_000_000;
/// Bytes of the exit log that are read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// The boots' common parts.
pub(super) struct Boots {
    /// The processor.
    pub(super) model: &'static Model,
    /// The most wall time of each.
    pub(super) within: Duration,
    /// Boots of each kind whose time is taken.
    pub(super) runs: u32,
}

impl Boots {
    /// The time until the kernel runs its user space on Bochs without a hypervisor.
    pub(super) fn alone(&self, kernel: &Placed) -> Result<Seconds, Failure> {
        self.least("without a hypervisor", |directory, until| {
            Bare::new(directory, kernel, self.model, false)?.run(self.within, until)
        })
    }

    /// The same under Tollgate; with `audit` Bochs logs each exit meanwhile.
    pub(super) fn tollgate(&self, guest: &Placed, audit: bool) -> Result<Seconds, Failure> {
        let what = if audit { "under Tollgate, audited" } else { "under Tollgate" };
        self.least(what, |directory, until| {
            let launch = self.launch(directory, guest, audit)?;
            watch(&launch.invocation, launch.serial, None, self.within, until)
        })
    }

    /// A whole boot under Tollgate, by Bochs' log, with which the ledger has to agree.
    pub(super) fn audited(&self, guest: &Placed) -> Result<TimedBoot, Failure> {
        let directory = place::temporary()?;
        let launch = self.launch(directory.path(), guest, true)?;
        let log = launch.exit_log.as_ref().map(|log| log.path.clone()).unwrap_or_default();
        let session = Session::run(&launch, Limits::within(self.within), |_| {})?;
        let account = outcome::account(&launch, session)?;
        Terminal::of_stderr().tell(&format!("under Tollgate: {}", account.verdict));
        if account.status != Status::Balanced {
            return Err(Failure::new(account.status, format_args!("under Tollgate: {}", account.verdict)));
        }
        marked(read_log(&log)?, "Tollgate")
    }

    /// A boot under KVM, by Bochs' log.
    pub(super) fn kvm(&self, outer: &Placed) -> Result<TimedBoot, Failure> {
        let directory = place::temporary()?;
        let bare = Bare::new(directory.path(), outer, self.model, true)?;
        Terminal::of_stderr().tell(&format!("{}: Debian's KVM, and the kernel under it", bare.name));
        let mut watcher = Kvm::default();
        let watched = bare.run(self.within, &mut watcher)?;
        watcher.console.has_come(watched.left, "Linux' KVM")?;
        let (ended, said) = (watcher.console.behind(ENDED).concat(), watcher.console.behind(SAID));
        if ended != POWERED_OFF || !said.iter().any(|line| line == COMMANDS_ENDED) {
            let sentence = format!("the guest under KVM failed: {ended}; it said last: {}", said.join(" | "));
            return Err(Failure::new(Status::Differs, sentence));
        }
        marked(watcher.reader.finish(), "KVM")
    }

    /// The least time until user space of as many boots as are asked for.
    fn least(
        &self,
        what: &str,
        boot: impl Fn(&Path, &mut Until) -> Result<Watched, Failure>,
    ) -> Result<Seconds, Failure> {
        let mut least = Seconds { wall: f64::INFINITY, processor: f64::INFINITY };
        for number in 1..=self.runs {
            let directory = place::temporary()?;
            let mut until = Until::new(RUNS_INIT);
            let watched = boot(directory.path(), &mut until)?;
            until.has_come(watched.left, &format!("Linux {what}"))?;
            let (wall, processor) = (watched.wall.as_secs_f64(), watched.processor.unwrap_or_default().as_secs_f64());
            let of = counted(u64::from(self.runs), "boot");
            Terminal::of_stderr().tell(&format!(
                "{what}, {number} of {of}: user space after {wall:.1} s, of which the emulator had a processor for {processor:.1} s"
            ));
            least = Seconds { wall: least.wall.min(wall), processor: least.processor.min(processor) };
        }
        Ok(least)
    }

    /// Makes a boot under Tollgate ready.
    fn launch(&self, directory: &Path, guest: &Placed, audit: bool) -> Result<Launch, Failure> {
        let limit_ticks = Some(self.within.as_secs().saturating_mul(MOST_TICKS_A_SECOND));
        let selection = Selection {
            run: Options { limit_ticks, skips_idle_time: true, ..usual_options() },
            guest: GuestKind::WithoutBook,
            ..Selection::default()
        };
        let rom = images::build_around(guest, &selection.options()?)?;
        let boot = Boot::RomAndGuest(&rom.bytes, guest);
        Machine::new(Target::bochs(self.model), boot).prepare(directory, boot, audit)
    }
}

/// A boot, if its user space left its mark.
fn marked(boot: TimedBoot, under: &str) -> Result<TimedBoot, Failure> {
    if boot.is_marked {
        return Ok(boot);
    }
    let sentence = format!("Bochs' log of the boot under {under} has no mark of the beginning of user space");
    Err(Failure::new(Status::Differs, sentence))
}

fn read_log(path: &Path) -> Result<TimedBoot, Failure> {
    let unreadable = |error| Failure::no_verdict(format_args!("Bochs' log can't be read: {error}"));
    let mut file = File::open(path).map_err(unreadable)?;
    let (mut reader, mut buffer) = (BootReader::default(), vec![0; CHUNK_BYTES]);
    loop {
        match file.read(&mut buffer).map_err(unreadable)? {
            0 => return Ok(reader.finish()),
            count => reader.feed(&buffer[..count]),
        }
    }
}
