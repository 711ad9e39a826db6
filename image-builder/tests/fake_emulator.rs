//! Emulators that misbehave, each a shell script in Bochs' place: the run ends in time, says why, leaves nothing behind.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{LogText, balanced, text};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A script that is started as Bochs, and a place for its run.
struct Fake {
    directory: TempDir,
}

impl Fake {
    fn new(script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("bochs");
        fs::write(&program, format!("#!/bin/bash\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(directory.path().join("temporary")).unwrap();
        Self { directory }
    }

    /// With this log at hand as `$LOG`.
    fn with_log(self, log: &LogText) -> Self {
        fs::write(self.path("given.log"), &log.0).unwrap();
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command.args(["run", "--on", "bochs", "--workload", "cpuid:5"]).args(arguments);
        command
            .env("TOLLGATE_BOCHS", self.path("bochs"))
            .env("TMPDIR", self.path("temporary"))
            .env("LOG", self.path("given.log"));
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().unwrap();
        assert_eq!(fs::read_dir(self.path("temporary")).unwrap().count(), 0, "files stayed");
        self.check_nothing_runs();
        output
    }

    /// Everything that a run starts works below this fake's directory.
    fn check_nothing_runs(&self) {
        let deadline = Instant::now() + Duration::from_secs(3);
        while let Some(process) = working_below(self.directory.path()) {
            assert!(Instant::now() < deadline, "still running: {process}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn wait_until_started(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.path("started").exists() {
            assert!(Instant::now() < deadline, "the emulator was not started");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn working_below(directory: &Path) -> Option<String> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let works_there = |path: &PathBuf| fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(directory));
    processes
        .filter(works_there)
        .map(|path| fs::read_to_string(path.join("cmdline")).unwrap_or_default().replace('\0', " "))
        .next()
}

fn check(fake: &Fake, arguments: &[&str], status: i32, part: &str) -> Output {
    let output = fake.run(arguments);
    let all = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{all}");
    assert!(all.contains(part), "this does not say `{part}`: {all}");
    output
}

#[test]
fn one_that_does_its_work_passes() {
    check(&Fake::new("cat $LOG > serial.log").with_log(&balanced()), &[], 0, "verdict: balanced");
}

#[test]
fn one_that_says_nothing_is_named() {
    check(&Fake::new("exit 1"), &[], 4, "ended (exit status: 1)");
    check(&Fake::new("exit 0"), &[], 4, "it printed nothing");
    check(&Fake::new("echo 'some trouble' >&2; exit 7"), &[], 4, "| some trouble");
}

#[test]
fn one_that_is_killed_is_named() {
    check(&Fake::new("kill -SEGV $$"), &[], 4, "signal: 11");
    check(&Fake::new("kill -KILL $$"), &[], 4, "signal: 9");
}

#[test]
fn one_without_its_display_is_told_from_a_crash() {
    let fake = Fake::new("echo \">>PANIC<< bochsrc:2: display library 'term' not available\" >&2; exit 1");
    check(&fake, &[], 3, "bochs-term");
}

#[test]
fn one_that_is_missing_is_named() {
    let fake = Fake::new("");
    fs::remove_file(fake.path("bochs")).unwrap();
    check(&fake, &[], 3, "remedy: correct or unset TOLLGATE_BOCHS");
}

#[test]
fn one_that_hangs_is_stopped_in_time_with_its_children() {
    let start = Instant::now();
    let fake = Fake::new("sleep 1000 & sleep 1000");
    check(&fake, &["--timeout", "1"], 4, "gave no verdict in 1.0 s");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn one_that_ignores_signals_is_stopped_too() {
    check(&Fake::new("trap '' TERM INT HUP; while :; do sleep 0.1; done"), &["--timeout", "1"], 4, "no verdict");
}

#[test]
fn one_that_floods_the_serial_port_is_stopped() {
    check(
        &Fake::new("exec yes \"$(printf 'noise %.0s' {1..100})\" > serial.log"),
        &["--timeout", "60"],
        4,
        "the serial log of Bochs (tigerlake) grew beyond its limit",
    );
}

#[test]
fn one_that_stays_after_its_verdict_is_ended() {
    let fake = Fake::new("cat $LOG > serial.log; sleep 1000").with_log(&balanced());
    check(&fake, &["--timeout", "60"], 0, "verdict: balanced");
}

#[test]
fn one_that_dies_half_way_leaves_an_unfinished_account() {
    let fake = Fake::new("head -n 3 $LOG > serial.log; exit 1").with_log(&balanced());
    let output = check(&fake, &["--json"], 4, "before a verdict");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["verdict"], "unfinished");
}

#[test]
fn one_that_runs_something_else_is_named() {
    check(&Fake::new("echo hello > serial.log"), &[], 4, "not a log of Tollgate");
}

#[test]
fn a_refusal_has_its_status() {
    let mut log = LogText::default();
    log.header("");
    log.verdict("refused", "no VT-x");
    check(&Fake::new("cat $LOG > serial.log; exit 1").with_log(&log), &["--audit"], 3, "refused: no VT-x");
}

#[test]
fn one_that_logs_other_exits_than_the_ledger_differs() {
    let lines = "for i in 1 2 3 4 5; do echo '0d[CPU0  ] VMEXIT reason = 10 (CPUID) q'; done > bochs.log
        cat $LOG > serial.log";
    let fake = Fake::new(lines).with_log(&balanced());
    check(&fake, &["--audit"], 1, "differs: reason 18 VMCALL: ledger 3, guest 3, emulator 0");
}

#[test]
fn a_long_exit_log_is_read_to_its_end() {
    let script = "yes '0d[CPU0  ] VMENTER to x86-64 guest' | head -n 20000 > bochs.log
        for i in 1 2 3 4 5; do echo '0d[CPU0  ] VMEXIT reason = 10 (CPUID) q'; done >> bochs.log
        for i in 1 2 3; do echo '0d[CPU0  ] VMEXIT reason = 18 (VMCALL) q'; done >> bochs.log
        cat $LOG > serial.log";
    check(&Fake::new(script).with_log(&balanced()), &["--audit"], 0, "verdict: balanced");
}

#[test]
fn files_are_kept_where_asked() {
    let fake = Fake::new("cat $LOG > serial.log").with_log(&balanced());
    let out = fake.path("results/of/today");
    let output = fake.run(&["--json", "--out", out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(fs::read(out.join("account.json")).unwrap(), output.stdout);
    assert_eq!(fs::read_to_string(out.join("serial.log")).unwrap(), balanced().0);
    assert!(out.join("bochsrc").exists());
}

#[test]
fn the_logs_of_an_earlier_run_are_not_taken_for_this_ones() {
    let fake = Fake::new("exit 1");
    let out = fake.path("results");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("serial.log"), balanced().0).unwrap();
    check(&fake, &["--out", out.to_str().unwrap()], 4, "it printed nothing");
    fs::create_dir(out.join("serial.log")).unwrap();
    check(&fake, &["--out", out.to_str().unwrap()], 2, "can't be removed");
}

#[test]
fn an_interrupted_run_takes_the_emulator_with_it() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let fake = Fake::new("touch ../../started; sleep 1000 & sleep 1000");
        let child = fake.start(&[]);
        fake.wait_until_started();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(4), "{signal:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains("interrupted"));
        fake.check_nothing_runs();
    }
}

#[test]
fn a_killed_run_takes_the_emulator_with_it() {
    let fake = Fake::new("touch ../../started; exec sleep 1000");
    let mut child = fake.start(&[]);
    fake.wait_until_started();
    child.kill().unwrap();
    child.wait().unwrap();
    fake.check_nothing_runs();
}
