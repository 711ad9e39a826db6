//! Boots of Debian's kernel in an emulator, by the command.

use std::fs;
use std::io::Write;

use serde_json::Value;
use tollgate_books::failure::Status;

use crate::common::{text, tollgate_in};

/// A boot that is over.
pub(crate) struct Booted {
    /// The exit status.
    pub(crate) status: Option<i32>,
    /// The account as JSON.
    pub(crate) account: Value,
    /// The serial log.
    pub(crate) log: String,
}

/// Boots with these options and these commands, or returns `None` with the reason on standard error where Debian's packages can't be
/// had, or this version of Bochs can't place a guest.
pub(crate) fn boot(on: &str, commands: &str, more: &[&str]) -> Option<Booted> {
    let place = tempfile::tempdir().unwrap();
    let mut arguments = vec!["run", "--on", on, "--guest", "debian", "--exec", commands, "--json", "--out", "."];
    arguments.extend(more);
    let output = tollgate_in(place.path(), &arguments, &[]);
    let said = text(&output.stderr);
    let lacking = [
        "needs a Debian system",
        "apt does not know Debian's packages",
        "packages can't be fetched",
        "can't place a guest in memory",
    ];
    if output.status.code() == Some(Status::Platform as i32) && lacking.iter().any(|words| said.contains(words)) {
        // Past the test runner, which shows no output of a test that passes.
        let _ = writeln!(std::io::stderr(), "skipped, Debian's kernel on {on}: {said}");
        return None;
    }
    let account = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{on}: {said}"));
    let log = text(&fs::read(place.path().join("serial.log")).unwrap());
    Some(Booted { status: output.status.code(), account, log })
}
