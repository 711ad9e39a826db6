//! Emulators that misbehave, each a shell script in the place of Bochs or QEMU: the run ends in time, says why, leaves nothing
//! behind.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{LogText, Row, TWO_VCPUS_AUDIT, balanced, text, two_vcpus, write_script};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tollgate_abi::record::Kind;
use tollgate_abi::scenario::RUNS;

/// A script that is started as Bochs or as QEMU, and a directory for its run.
struct Fake {
    directory: TempDir,
}

impl Fake {
    /// A script that says nothing about itself.
    fn new(script: &str) -> Self {
        Self::that_says("", script)
    }

    /// A script that answers `about` when it is asked for its help or its version.
    fn that_says(about: &str, script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("emulator");
        fs::write(directory.path().join("about"), about).unwrap();
        let answer = "case $1 in --help|--version) cat \"${0%/*}/about\"; exit;; esac";
        write_script(&program, &format!("#!/bin/bash\n{answer}\n{script}\n"));
        fs::create_dir(directory.path().join("temporary")).unwrap();
        Self { directory }
    }

    /// Puts this log at hand as `$LOG`.
    fn with_log(self, log: &LogText) -> Self {
        fs::write(self.path("given.log"), &log.0).unwrap();
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The tool's command line, to be completed. It runs on Bochs, unless `--on` is among the arguments.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command.args(["run", "--workload", "cpuid:5"]).args(arguments);
        if !arguments.contains(&"--on") {
            command.args(["--on", "bochs"]);
        }
        command
            .env("TOLLGATE_BOCHS", self.path("emulator"))
            .env("TOLLGATE_QEMU", self.path("emulator"))
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

    /// Checks that no process of the run is left: each works below this fake's directory.
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

/// Bochs' banner.
fn about_bochs(version: &str, options: &str) -> String {
    format!("  -rc filename  execute\n{options}\n====\n   Bochs x86 Emulator {version}\n====\n")
}

#[test]
fn one_whose_debugger_is_an_option_is_started_with_it() {
    let script = "[[ \" $* \" == *' -debugger '* ]] && cat $LOG > serial.log || echo 'the debugger is off'";
    let with = |about: &str| Fake::that_says(about, script).with_log(&balanced());
    check(&with(&about_bochs("3.0", "  -debugger  start Bochs internal debugger")), &[], 0, "verdict: balanced");
    check(&with(&about_bochs("2.7", "")), &[], 4, "the debugger is off");
}

#[test]
fn one_without_what_a_run_needs_is_refused() {
    let without_debugger = Fake::that_says("Bochs x86 Emulator 2.7\n", "exit 9");
    check(&without_debugger, &[], 3, "Bochs x86 Emulator 2.7 was built without its debugger");
    let models = about_bochs("3.0", "") + "Supported CPU models:\n\npentium\ncorei7_icelake_u\n\nend\n";
    check(&Fake::that_says(&models, "exit 9"), &[], 3, "Bochs x86 Emulator 3.0 has no processor model `tigerlake`");
    let with_model = Fake::that_says(&models, "cat $LOG > serial.log").with_log(&balanced());
    check(&with_model, &["--cpu", "corei7_icelake_u"], 0, "verdict: balanced");
}

#[test]
fn one_of_an_unknown_version_runs_and_is_told() {
    let of = |version: &str| {
        let fake = Fake::that_says(&about_bochs(version, ""), "cat $LOG > serial.log").with_log(&balanced());
        text(&check(&fake, &["--json"], 0, &format!("\"emulator\": \"Bochs x86 Emulator {version}\"")).stderr)
    };
    assert!(of("9.9").contains("Bochs 9.9 is unknown: 2.7, 3.0, 3.1 were tried"), "{}", of("9.9"));
    assert!(!of("3.1").contains("unknown"), "{}", of("3.1"));
}

#[test]
fn one_whose_log_can_not_be_read_is_not_taken_for_one_without_exits() {
    let script = "echo '0d[CPU0  ] an exit in other words' > bochs.log; cat $LOG > serial.log";
    let fake = Fake::that_says(&about_bochs("9.9", ""), script).with_log(&balanced());
    let cause = "differs: no line of the log of Bochs x86 Emulator 9.9 is read as an exit";
    let output = check(&fake, &["--audit"], 1, cause);
    assert!(text(&output.stdout).contains("leave --audit out"), "{}", text(&output.stdout));
}

#[test]
fn one_finds_a_vga_bios_and_a_stick_that_no_other_has_locked() {
    let out = tempfile::tempdir().unwrap();
    fs::write(out.path().join("stick.img.lock"), "").unwrap();
    let fake = Fake::new(
        "[[ -e stick.img.lock ]] && echo 'image locked'; grep -q '^vgaromimage: file=vga.rom' bochsrc && wc -c vga.rom",
    );
    check(&fake, &["--uefi", "--out", out.path().to_str().unwrap()], 4, "| 512 vga.rom");
    let said = fs::read_to_string(out.path().join("stdout.log")).unwrap();
    assert!(!said.contains("locked"), "{said}");
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
fn one_that_a_triple_fault_ends_is_told_from_a_crash() {
    let fake = Fake::new("echo '>>PANIC<< exception(): 3rd (13) exception with no resolution' >&2; exit 1");
    check(&fake, &[], 4, "remedy: use --on qemu-tcg");
}

#[test]
fn one_that_is_missing_is_named() {
    let fake = Fake::new("");
    fs::remove_file(fake.path("emulator")).unwrap();
    check(&fake, &[], 3, "remedy: correct or unset TOLLGATE_BOCHS");
}

/// The arguments for QEMU's own emulation.
const TCG: [&str; 2] = ["--on", "qemu-tcg"];

#[test]
fn a_qemu_that_does_its_work_passes() {
    let script = "for i in 1 2 3 4 5; do
            echo 'vmrun! 0000000000010000'
            echo 'vmexit(00000072, 0000000000000000, 0000000000000000, 00000000000f0148)!'
        done > exits.log
        yes 'vmexit(00000081, 0000000000000000, 0000000000000000, 00000000000f0148)!' | head -n 3 >> exits.log
        printf 'vmexit(00000081, 0000' >> exits.log
        cat $LOG > serial.log; exit 33";
    let fake = Fake::new(script).with_log(&balanced());
    check(&fake, &TCG, 0, "verdict: balanced");
    let audited = check(&fake, &["--on", "qemu-tcg", "--audit"], 0, "verdict: balanced");
    assert!(text(&audited.stdout).contains(" on qemu-tcg, "), "{}", text(&audited.stdout));
    let differs = Fake::new(&script.replace("head -n 3", "head -n 2")).with_log(&balanced());
    check(&differs, &["--on", "qemu-tcg", "--audit"], 1, "reason 18 VMCALL: ledger 3, guest 3, emulator 2");
}

#[test]
fn a_qemu_that_can_not_start_is_named_with_a_remedy() {
    let says = |line: &str| Fake::new(&format!("echo \"qemu-system-x86_64: {line}\" >&2; exit 1"));
    check(&says("Property 'max-x86_64-cpu.svm' not found"), &TCG, 3, "this QEMU emulates no SVM");
    check(&says("unable to find CPU model 'max'"), &TCG, 3, "remedy: install QEMU 7.2 or newer");
    check(&says("invalid accelerator tcg"), &TCG, 3, "built without its own emulation");
    check(&says("some trouble"), &TCG, 4, "| qemu-system-x86_64: some trouble");
}

#[test]
fn a_qemu_whose_processor_has_no_extension_is_refused() {
    let mut log = LogText::default();
    log.header("");
    log.verdict("refused", "neither VT-x nor SVM");
    check(&Fake::new("cat $LOG > serial.log; exit 37").with_log(&log), &TCG, 3, "refused: neither VT-x nor SVM");
}

#[test]
fn a_qemu_that_is_missing_is_named() {
    let fake = Fake::new("");
    fs::remove_file(fake.path("emulator")).unwrap();
    for on in ["qemu", "qemu-tcg"] {
        check(&fake, &["--on", on], 3, "remedy: correct or unset TOLLGATE_QEMU");
    }
}

#[test]
fn what_is_best_of_what_is_there_is_chosen_and_told() {
    let fake = Fake::new("cat $LOG > serial.log").with_log(&balanced());
    check(&fake, &["--on", "auto"], 0, "running on Bochs: it is installed, has VT-x in full and repeats to the byte");
    // This machine's KVM decides between QEMU's two platforms; an audit leaves KVM out.
    let script = "grep -qx -- tcg,thread=single <(printf '%s\\n' \"$@\") || exit 9
        yes 'vmexit(00000072, 0000000000000000, 0000000000000000, 0000000000000000)!' | head -n 5 > exits.log
        yes 'vmexit(00000081, 0000000000000000, 0000000000000000, 0000000000000000)!' | head -n 3 >> exits.log
        cat $LOG > serial.log";
    let fake = Fake::new(script).with_log(&balanced());
    let chosen = "QEMU with KVM keeps none; QEMU's own emulation has SVM and repeats to the byte";
    check(&fake, &["--on", "qemu", "--audit"], 0, chosen);
}

#[test]
fn a_choice_without_bochs_says_that_it_is_not_installed() {
    let fake = Fake::new("cat $LOG > serial.log").with_log(&balanced());
    let mut command = fake.command(&["--on", "auto"]);
    let output = command.env_remove("TOLLGATE_BOCHS").env("PATH", fake.directory.path()).output().unwrap();
    let said = text(&output.stderr);
    assert!(said.contains("running on QEMU") && said.contains(": Bochs is not installed: "), "{said}");
    let mut command = fake.command(&["--on", "auto"]);
    command.env_remove("TOLLGATE_BOCHS").env_remove("TOLLGATE_QEMU").env("PATH", fake.directory.path());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("remedy: run ci/setup, or: apt-get install"), "{}", text(&output.stderr));
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
fn bochs_that_has_no_more_time_is_first_asked_where_it_is_and_qemu_is_not() {
    for (engine, is_asked) in [("bochs", true), ("qemu-tcg", false)] {
        let fake =
            Fake::new("trap 'echo \"Next at t=99\"; touch \"${0%/*}/asked\"; exit' INT; while :; do sleep 0.1; done");
        check(&fake, &["--timeout", "1", "--on", engine], 4, "gave no verdict in 1.0 s");
        assert_eq!(fake.path("asked").exists(), is_asked, "{engine}");
    }
}

#[test]
fn firmware_that_starts_nothing_in_time_is_told_with_a_way_to_another() {
    let fake = Fake::new("echo 'BdsDxe: loading' > serial.log; while :; do sleep 0.1; done");
    let output = check(&fake, &["--uefi", "--timeout", "1"], 4, "its firmware did not start the stick's application");
    assert!(text(&output.stderr).contains("name another firmware with TOLLGATE_OVMF"), "{}", text(&output.stderr));
    let output = check(&fake, &["--timeout", "1"], 4, "gave no verdict in 1.0 s");
    assert!(!text(&output.stderr).contains("TOLLGATE_OVMF"), "{}", text(&output.stderr));
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
fn the_guests_console_is_shown_while_it_runs_if_it_is_asked_for() {
    let mut log = LogText::default();
    log.header("workloads=none book=none");
    log.record(Kind::Console).text("text", "Linux version 6.1").finish().unwrap();
    log.record(Kind::Console).word("by", "monitor").text("text", "a remark").finish().unwrap();
    log.verdict("balanced", "no exits");
    let fake = Fake::new("cat $LOG > serial.log").with_log(&log);
    for (arguments, is_shown) in [(&[][..], false), (&["--console"], true)] {
        let output = fake.run(arguments);
        let (said, printed) = (text(&output.stderr), text(&output.stdout));
        assert_eq!(said.lines().any(|line| line == "Linux version 6.1"), is_shown, "{arguments:?}: {said}");
        assert!(!said.contains("a remark") && !printed.contains("Linux version"), "{arguments:?}: {said}{printed}");
    }
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

/// A script that logs these exits: CPU, reason, number of times.
fn logs_exits(exits: &[(u64, u64, usize)]) -> String {
    let line = |&(cpu, reason, count): &(u64, u64, usize)| {
        format!("yes '0d[CPU{cpu:X}  ] VMEXIT reason = {reason} (name) q' | head -n {count} >> bochs.log\n")
    };
    exits.iter().map(line).collect::<String>() + "cat $LOG > serial.log"
}

#[test]
fn one_with_two_processors_is_audited_on_each() {
    let arguments = ["--audit", "--cpus", "2"];
    check(&Fake::new(&logs_exits(&TWO_VCPUS_AUDIT)).with_log(&two_vcpus()), &arguments, 0, "verdict: balanced");
    let mut exits = TWO_VCPUS_AUDIT;
    (exits[0].2, exits[4].2) = (4, 6);
    let fake = Fake::new(&logs_exits(&exits)).with_log(&two_vcpus());
    check(&fake, &arguments, 1, "differs: reason 10 CPUID on vCPU 0: ledger 5, emulator 4");
}

#[test]
fn the_machine_has_the_processors_that_are_needed_or_asked_for() {
    let configured = |arguments: &[&str], parts: &[&str]| {
        let fake = Fake::new("cat $LOG > serial.log").with_log(&balanced());
        let out = fake.path("results");
        fake.run(&[arguments, &["--out", out.to_str().unwrap()]].concat());
        let bochsrc = fs::read_to_string(out.join("bochsrc")).unwrap();
        for part in parts {
            assert!(bochsrc.contains(part), "{arguments:?} does not configure `{part}`: {bochsrc}");
        }
    };
    configured(&["--audit"], &[", count=1:1:1,", "cpu0=report\n"]);
    configured(&["--cpus", "3", "--audit"], &[", count=1:3:1,", "cpu0=report, cpu1=report, cpu2=report\n"]);
    configured(&["--cpus", "3"], &[", count=1:3:1,", "debug: action=ignore\n"]);
    configured(&["--cpus", "3", "--machine-cpus", "1"], &[", count=1:1:1,"]);
    configured(&["--workload", "init-signal"], &[", count=1:2:1,"]);
    configured(&["--cpus", "16", "--workload", "init-signal"], &[", count=16:1:1,"]);
    configured(&["--machine-cpus", "4", "--missing-cpus", "go-on", "--cpus", "5"], &[", count=1:4:1,"]);
}

/// A run of a scenario: its name, its reason.
fn scenario(name: &str, reason: u64) -> LogText {
    let mut log = LogText::default();
    log.header(&format!("workloads=none scenarios={name}"));
    let record = log.record(Kind::Scenario).word("scenario", name).number("reason", reason);
    record.word("verdict", "balanced").number("predicted", RUNS).number("observed", RUNS).finish().unwrap();
    log.ledger(0, &[Row { reason, name: "some reason", count: RUNS, each: 70 }]);
    log.tally(reason, 0);
    log.stop("exited");
    log.verdict("balanced", "");
    log
}

/// An atlas in which the run in `folder` logs one exit too many.
fn atlas(folder: &str) -> Fake {
    let script = format!(
        "case $PWD in
            */two-cpus) name=init; number=3 ;;
            */corei5_arrandale_m520) name=getsec; number=11 ;;
            *) name=given ;;
        esac
        cat ${{LOG%/*}}/$name.log > serial.log
        line() {{ yes \"0d[CPU0  ] VMEXIT reason = $1 (name) q\" | head -n $2 >> bochs.log; }}
        if [ $name = given ]; then line 10 5; line 18 3; else line $number 4; fi
        case $PWD in {folder}) line 10 1 ;; esac"
    );
    let fake = Fake::new(&script).with_log(&balanced());
    fs::write(fake.path("init.log"), scenario("init-signal", 3).0).unwrap();
    fs::write(fake.path("getsec.log"), scenario("getsec", 11).0).unwrap();
    fake
}

#[test]
fn an_atlas_is_made_of_three_runs() {
    let fake = atlas("none");
    let out = fake.path("results");
    let output = fake.run(&["--workload", "atlas", "--json", "--out", out.to_str().unwrap()]);
    // Each run balances, and together they lack most exits, although nothing says that the processors lack them.
    assert_eq!(output.status.code(), Some(1), "{}{}", text(&output.stdout), text(&output.stderr));
    let account: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(account["totals"]["exits"], 8);
    let gap = "no run of the atlas produced reason";
    assert!(account["verdict"].as_str().unwrap().starts_with(&format!("differs: {gap} 0 ")), "{}", account["verdict"]);
    let findings: Vec<&str> = account["findings"].as_array().unwrap().iter().filter_map(|text| text.as_str()).collect();
    assert!(findings.iter().all(|finding| finding.starts_with(gap)), "{findings:?}");
    let told = |number: u64| findings.iter().any(|finding| finding.starts_with(&format!("{gap} {number} ")));
    assert_eq!([3, 10, 11, 12].map(told), [false, false, false, true]);
    let scenarios: Vec<&str> =
        account["scenarios"].as_array().unwrap().iter().filter_map(|run| run["name"].as_str()).collect();
    assert_eq!(scenarios, ["getsec", "init-signal"], "in the order of the table");
    let row = |number: u64| account["atlas"].as_array().unwrap().iter().find(|row| row["number"] == number).unwrap();
    let figures = |number| (row(number)["count"].as_u64().unwrap(), row(number)["platform"].as_str().unwrap());
    assert_eq!((figures(10), figures(3)), ((5, "tigerlake"), (4, "tigerlake, 2 CPUs")));
    assert_eq!((figures(11), figures(12)), ((4, "corei5_arrandale_m520"), (0, "")));
    assert_eq!(row(28)["variants"].as_array().unwrap().len(), 8);
    let machine = |folder: &str| fs::read_to_string(out.join(folder).join("bochsrc")).unwrap();
    let first = machine(".");
    assert!(first.contains("model=tigerlake, count=1:1:1,") && first.contains("cpu0=report"), "{first}");
    assert!(machine("two-cpus").contains("model=tigerlake, count=1:2:1,"));
    assert!(machine("corei5_arrandale_m520").contains("model=corei5_arrandale_m520, count=1:1:1,"));
    assert_eq!(fs::read_to_string(out.join("serial.log")).unwrap(), balanced().0);
    assert_eq!(fs::read_to_string(out.join("two-cpus/serial.log")).unwrap(), scenario("init-signal", 3).0);
    assert!(fs::read_to_string(out.join("two-cpus/account.json")).unwrap().contains("\"verdict\": \"balanced\""));
}

#[test]
fn the_verdict_of_an_atlas_says_which_run_failed() {
    let arguments = ["--workload", "atlas"];
    let differs = |reason: &str, run: &str| format!("verdict: differs: {reason} ({run})");
    for (folder, verdict) in [
        (
            "*/two-cpus",
            differs("reason 10 CPUID: ledger 0, guest 0, emulator 1", "run 2 of 3: scenarios that need another CPU"),
        ),
        (
            "*/corei5*",
            differs("reason 10 CPUID: ledger 0, guest 0, emulator 1", "run 3 of 3: getsec on corei5_arrandale_m520"),
        ),
        ("*", differs("reason 10 CPUID: ledger 5, guest 5, emulator 6", "run 1 of 3: workloads and scenarios")),
    ] {
        check(&atlas(folder), &arguments, 1, &verdict);
    }
    let alone =
        differs("reason 10 CPUID: ledger 0, guest 0, emulator 1", "run 2 of 2: scenarios that need another CPU");
    check(&atlas("*/two-cpus"), &["--workload", "atlas", "--cpu", "tigerlake"], 1, &alone);
    let silent = Fake::new(
        "case $PWD in */two-cpus) exit 1 ;; esac; cat $LOG > serial.log\nfor i in 1 2 3 4 5; do
        echo '0d[CPU0  ] VMEXIT reason = 10 (name) q'; done > bochs.log
        for i in 1 2 3; do echo '0d[CPU0  ] VMEXIT reason = 18 (name) q'; done >> bochs.log",
    );
    let silent = silent.with_log(&balanced());
    check(&silent, &arguments, 4, "it printed nothing (run 2 of 3: scenarios that need another CPU)");
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
