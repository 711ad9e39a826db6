//! Sticks under OVMF in QEMU's own emulation, for tests that change the emulated machine.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tollgate::emulator::{Boot, Engine, Launch, Limits, Machine, PLATFORMS, STICK, Session, Target};
use tollgate::image::disk;
use tollgate_abi::record::Record;
use tollgate_books::log::{Log, LogReader};

use super::text;

/// The log of a stick's first run.
pub const FIRST_LOG: &str = "TG000001.LOG";

/// A launch of QEMU's own emulation with a stick. It does not count instructions: that takes five times as long, and is for runs
/// that are to repeat.
pub fn in_qemu(directory: &Path, stick: &[u8]) -> Launch {
    let platform = PLATFORMS.iter().find(|row| row.engine == Engine::Tcg).unwrap();
    let boot = Boot::Stick(stick);
    let mut launch = Machine::new(Target::of(platform), boot)
        .prepare(directory, boot, false)
        .unwrap_or_else(|missing| panic!("this test needs QEMU. {missing}"));
    let arguments = &mut launch.invocation.arguments;
    let counting = arguments.iter().position(|word| word == "-icount").unwrap();
    arguments.drain(counting..counting + 2);
    launch
}

/// A stick in QEMU's own emulation, for tests that change the emulated machine.
pub struct Booted {
    /// The serial log.
    pub serial: Log,
    /// The stick after the run.
    pub stick: Vec<u8>,
    /// All that came over the serial port.
    pub said: String,
    _place: TempDir,
}

impl Booted {
    /// Boots with a change of the emulated machine.
    pub fn new(stick: &[u8], change: impl FnOnce(&mut Launch)) -> Self {
        Self::watched(stick, change, |_, _| {})
    }

    /// The same, with each record shown as it comes, and the emulator's folder.
    pub fn watched(
        stick: &[u8],
        change: impl FnOnce(&mut Launch),
        mut observe: impl FnMut(&Record<'_>, &Path),
    ) -> Self {
        let place = tempfile::tempdir().unwrap();
        let mut launch = in_qemu(place.path(), stick);
        change(&mut launch);
        let limits = Limits { grace: Duration::from_secs(60), ..Limits::within(Duration::from_secs(180)) };
        let session = Session::run(&launch, limits, |record| observe(record, place.path())).unwrap();
        let serial = session.log.unwrap_or_else(|error| panic!("{error}\n{}", session.said));
        let said = text(&fs::read(&launch.serial).unwrap());
        let stick = fs::read(place.path().join(STICK)).unwrap();
        Self { serial, stick, said, _place: place }
    }

    /// The verdict of the serial log.
    pub fn verdict(&self) -> String {
        let verdict = self.serial.verdict.as_ref().expect("a verdict is the last record");
        format!("{}: {}", verdict.result, verdict.detail)
    }

    /// A log on the stick.
    pub fn log(&mut self, name: &str) -> Option<Log> {
        disk::read(&mut self.stick, name).ok().map(|bytes| LogReader::read(&*bytes).unwrap())
    }
}

/// Replaces an argument of an emulator.
pub fn replace(launch: &mut Launch, old: &str, new: &str) {
    let argument = launch.invocation.arguments.iter_mut().find(|argument| *argument == old);
    *argument.unwrap_or_else(|| panic!("there is no argument {old}")) = new.into();
}
