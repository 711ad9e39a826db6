//! The ends of a kernel that does not switch itself off: it panics, spins, halts, resets, or never shows the text that is waited for.
//! Each run ends in time, with a full account that the emulator's log confirms, and its verdict says what happened last.

use std::fs;

use serde_json::Value;

use crate::boot::{Booted, boot};
use crate::common::{text, tollgate_in};

/// The platform on which a boot takes the least time.
const ON: &str = "qemu-tcg";
/// Ticks in which a kernel is up by far, and which the emulator executes soon.
const LIMIT: &str = "800000000";
/// Ticks without an exit after which a kernel is stopped.
const WATCHDOG: &str = "100000000";
/// A while in which the console sends all that was written to it.
const SEND: &str = "sleep 0.1";

/// Boots with these commands and words for the kernel, audited. The account has all exits.
fn end(commands: &str, append: &str, more: &[&str]) -> Option<Booted> {
    let options = ["--audit", "--limit", LIMIT, "--watchdog", WATCHDOG, "--append", append];
    let booted = boot(ON, commands, &[&options[..], more].concat())?;
    let account = &booted.account;
    let sum = |count: &str| {
        account["reasons"].as_array().unwrap().iter().map(|row| row[count].as_u64().unwrap()).sum::<u64>()
    };
    let totals = ["exits", "entries", "audit_count"].map(|name| account["totals"][name].as_u64().unwrap());
    assert_eq!(totals, [sum("count"); 3], "{}", account["verdict"]);
    assert!(totals[0] > 30_000 && sum("audit_count") == totals[0], "{totals:?}");
    assert_eq!(account["findings"], serde_json::json!([]));
    let phases = account["phases"].as_array().unwrap().iter();
    assert_eq!(
        phases.map(|phase| phase["exits"].as_u64().unwrap()).sum::<u64>(),
        totals[0],
        "the phases have all exits"
    );
    Some(booted)
}

/// RIP at the end, which the verdict has to name with the way in which the kernel ended, if it has these words.
fn checked(Booted { status, account, .. }: &Booted, (expected, outcome): (i32, &str), words: &[&str]) -> u64 {
    let verdict = account["verdict"].as_str().unwrap();
    assert_eq!((*status, account["stop"]["outcome"].as_str()), (Some(expected), Some(outcome)), "{verdict}");
    let rip = account["stop"]["rip"].as_u64().unwrap();
    let place = format!("ended as {outcome} at {rip:#x}");
    assert!(expected == 0 || verdict.contains(&place), "{verdict}");
    assert!(words.iter().all(|word| verdict.contains(word)), "{verdict}");
    rip
}

/// The function at the end by the kernel's own symbols, of which `map` has those around it: a report of the log names it.
fn symbol(map: &str, log: &str) -> String {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("System.map"), map).unwrap();
    fs::write(place.path().join("serial.log"), log).unwrap();
    let arguments = ["report", "--format", "json", "--system-map", "System.map", "serial.log"];
    let output = tollgate_in(place.path(), &arguments, &[]);
    let account: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    let symbol = account["stop"]["symbol"].as_str().unwrap_or_default().to_owned();
    let verdict = account["verdict"].as_str().unwrap();
    assert!(!symbol.is_empty() && verdict.contains(&format!(" ({symbol})")), "{symbol}: {verdict}");
    symbol
}

#[test]
fn a_kernel_that_panics_is_told_by_its_words_whether_it_resets_or_spins() {
    let no_init = "rdinit=/nonexistent";
    let Some(resets) = end("true", no_init, &[]) else { return };
    let said = "Kernel panic - not syncing: VFS: Unable to mount root fs";
    let mark = "; it reached the mark memory, and not init (`as init process`)";
    checked(&resets, (1, "reset"), &["failed: the guest said: ", said, mark]);
    // Behind its last words it makes no exit.
    let spins = end("true", &format!("{no_init} panic=0"), &[]).unwrap();
    checked(&spins, (1, "no-exits"), &["stopped: ", "; its last line: ", "---[ end Kernel panic", mark]);
}

#[test]
fn a_kernel_whose_processes_spin_or_sleep_is_stopped_at_the_limit() {
    let up = "; its last line: init: Linux ";
    let mark = "; it reached the mark commands, and not power-off (`reboot: Power down`)";
    let Some(spins) = end("while :; do :; done", "", &[]) else { return };
    checked(&spins, (1, "limit-reached"), &["stopped: ", up, mark]);
    // Its idle time is skipped, days of it.
    let sleeps = end("sleep 10000000", "", &[]).unwrap();
    checked(&sleeps, (1, "limit-reached"), &["stopped: ", "; its last line: ", mark]);
    let (skipped, elapsed) = (&sleeps.account["totals"]["skipped"], &sleeps.account["totals"]["elapsed"]);
    assert!(skipped.as_u64() > Some(10 * elapsed.as_u64().unwrap()), "{skipped} of {elapsed}");
}

#[test]
fn a_kernel_that_resets_is_stopped_at_the_first_time() {
    let again = |append| end(&format!("{SEND}; reboot -f"), append, &[]);
    let Some(resets) = again("") else { return };
    checked(&resets, (0, "reset"), &["balanced"]);
    assert!(resets.account["last_line"].as_str().unwrap().ends_with("reboot: machine restart"));
    assert_eq!(resets.log.matches("] Linux version ").count(), 1);
    let faults = again("reboot=t,force").unwrap();
    let mark = "; it reached the mark commands, and not power-off (`reboot: Power down`)";
    checked(&faults, (1, "triple-fault"), &["stopped: ", "; its last line: ", "reboot: machine restart", mark]);
}

#[test]
fn a_text_that_never_comes_is_named() {
    let Some(waits) = end("echo no prompt", "", &["--mark", "prompt=login:"]) else { return };
    checked(&waits, (0, "powered-off"), &["balanced"]);
    let marks = waits.account["marks"].as_array().unwrap();
    let missing: Vec<&Value> = marks.iter().filter(|mark| mark["until"].is_null()).map(|mark| &mark["name"]).collect();
    assert_eq!(missing, ["prompt"]);
    let fails = end("echo no prompt", "", &["--until", "login:"]).unwrap();
    let words = ["stopped: ", ", before its console showed `login:`; its last line: ", "reboot: Power down"];
    checked(&fails, (1, "powered-off"), &words);
}

/// The symbols come from the kernel itself, which a second boot asks for those around the place.
#[test]
fn the_function_in_which_a_kernel_halts_is_named_by_its_map() {
    let Some(halts) = end(&format!("{SEND}; halt -f"), "", &[]) else { return };
    let words = [
        "stopped: ",
        "; its last line: ",
        "reboot: System halted",
        "; it reached the mark commands, and not power-off",
    ];
    let rip = checked(&halts, (1, "halted-for-ever"), &words);
    // A page has more functions than one that ends there, and the one before it holds their beginnings.
    let pages = [rip - 0x1000, rip].map(|at| format!("^{:013x}", at >> 12));
    let map = boot(ON, &format!("grep -E '{}' /proc/kallsyms; {SEND}", pages.join("|")), &[]).unwrap();
    let shown = map.log.lines().filter_map(|line| line.split_once("text=\"")?.1.split('"').next());
    // The kernel may write into one of the lines.
    let is_symbol = |line: &&str| line.split(' ').map(str::len).take(2).eq([16, 1]) && line.split(' ').count() == 3;
    let symbols: Vec<&str> = shown.filter(is_symbol).collect();
    let symbol = symbol(&(symbols.join("\n") + "\n"), &halts.log);
    assert!(symbol.contains("halt") || symbol.contains("stop_this_cpu"), "{symbol} among {symbols:#?}");
}
