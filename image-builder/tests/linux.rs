//! Debian's kernel, as `--guest debian` has it, in the emulators: its account, what it reads of that itself, and the same bytes again.

mod common;

use std::fs;
use std::io::Write;

use common::{text, tollgate_in};
use serde_json::Value;
use tollgate_books::failure::Status;
use tollgate_books::log::CpuidLine;

/// The commands: a total, a reason that is frequent, one that is undefined, and the total again.
const COMMANDS: &str = "cpuid -1 -l 0x4fffffff; cpuid -1 -l 0x4ffffffd -s 30; cpuid -1 -l 0x4ffffffc -s 30; \
                        cpuid -1 -l 0x4ffffffd -s 35; cpuid -1 -l 0x4fffffff";

/// A run's account and serial log, or `None` with the reason on standard error where Debian's packages can't be had, or this version
/// of Bochs can't place a guest.
fn run(on: &str, audit: bool, more: &[&str]) -> Option<(Value, String)> {
    let place = tempfile::tempdir().unwrap();
    let mut arguments = vec!["run", "--on", on, "--guest", "debian", "--exec", COMMANDS, "--json", "--out", "."];
    arguments.extend(audit.then_some("--audit").iter().chain(more));
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
    Some((account, text(&fs::read(place.path().join("serial.log")).unwrap())))
}

/// Boots twice, with audit and without, which the log does not show.
fn check(on: &str) {
    let Some((account, log)) = run(on, true, &[]) else { return };
    let findings = &account["findings"];
    assert_eq!(
        (&account["verdict"], account["stop"]["outcome"].as_str()),
        (&"balanced".into(), Some("powered-off")),
        "{findings}"
    );
    assert_eq!(account["books"], serde_json::json!(["ledger", "emulator", "cpuid"]), "{on}");
    let console = |line: &str| log.contains(&format!("text=\"{line}"));
    assert!(console("init: Linux ") && console("init: the commands ended with status 0"), "{log}");
    // The lines of the real program are printed again, byte for byte.
    let printed = log.lines().filter_map(|line| line.split_once("text=\"")?.1.split('"').next());
    let lines: Vec<(&str, CpuidLine)> = printed.filter_map(|text| Some((text, CpuidLine::parse(text)?))).collect();
    assert!(lines.len() >= 3 && lines.iter().all(|(text, line)| line.to_string() == *text), "{on}: {lines:?}");
    let read = account["cpuid"].as_array().unwrap();
    // The kernel may write into one of the lines.
    assert!(read.len() >= 3, "{on}: {read:?}");
    let frequent = read.iter().filter(|value| value["reason"] == 30 && value["unit"] == "exits");
    assert!(frequent.into_iter().all(|value| value["value"].as_u64() > Some(30_000)), "{on}: {read:?}");
    assert!(run(on, false, &[]).unwrap().1 == log, "{on}: a second boot has another log");
}

#[test]
fn debian_boots_on_bochs_and_reads_its_account() {
    check("bochs");
}

#[test]
fn debian_boots_on_qemu_and_reads_its_account() {
    check("qemu-tcg");
}

#[test]
fn debian_boots_with_its_apic_in_memory() {
    let more = ["--cpus", "2", "--append", "nox2apic quiet", "--keys"];
    let Some((account, _)) = run("bochs", true, &more) else { return };
    assert_eq!(account["verdict"], "balanced", "{}", account["findings"]);
    let reasons = account["reasons"].as_array().unwrap();
    let keys = reasons.iter().filter(|row| row["number"] == 48).flat_map(|row| row["keys"].as_array().unwrap());
    let pages: Vec<_> = keys.map(|key| key["name"].as_str().unwrap()).collect();
    assert!(!pages.is_empty() && pages.iter().all(|page| page.starts_with("page 0xfee00000 ")), "{pages:?}");
}
