//! Runs kvm-unit-tests' kernels under Tollgate, and on QEMU without a monitor, and writes `KERNELS.md` from what they print.
//!
//! ```text
//! cargo build --release -p tollgate --example kernels
//! target/release/examples/kernels FOLDER [TEST ...] > image-builder/KERNELS.md
//! ```
//!
//! `FOLDER` has the tests' `*.flat`, which are built elsewhere, and whose licence is their own. A verdict that differs from the other
//! columns' has its reason in [`REASONS`]; one without a reason makes the exit status 1.
#![allow(unused_crate_dependencies, reason = "an example uses a part of the package's crates")]

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use serde_json::Value;
use time::OffsetDateTime;

/// One of the tests.
struct Test {
    name: &'static str,
    /// The file, without `.flat`.
    file: &'static str,
    cpus: u32,
    append: &'static str,
    /// QEMU's processor where there is no monitor.
    cpu: &'static str,
}

const fn test(name: &'static str, cpus: u32, cpu: &'static str) -> Test {
    Test { name, file: name, cpus, append: "", cpu }
}

const fn vmexit(name: &'static str, append: &'static str) -> Test {
    Test { name, file: "vmexit", cpus: 1, append, cpu: "max" }
}

/// The tests, as the tests' own list has them.
const TESTS: &[Test] = &[
    test("apic", 2, "qemu64,+x2apic,+tsc-deadline"),
    Test { name: "x2apic", file: "apic", cpus: 2, append: "", cpu: "max,+x2apic,+tsc-deadline" },
    test("ioapic", 4, "qemu64,+x2apic"),
    test("smptest", 2, "max"),
    Test { name: "smptest3", file: "smptest", cpus: 3, append: "", cpu: "max" },
    test("debug", 1, "max"),
    test("emulator", 1, "max"),
    test("eventinj", 1, "max"),
    test("hypercall", 1, "max"),
    test("idt_test", 1, "max"),
    test("memory", 1, "max"),
    test("msr", 1, "max"),
    test("pcid", 1, "max"),
    test("pku", 1, "max"),
    test("realmode", 1, "max"),
    test("setjmp", 1, "max"),
    test("sieve", 1, "max"),
    test("smap", 1, "max"),
    test("syscall", 1, "Opteron_G1,vendor=AuthenticAMD"),
    test("tsc", 1, "max"),
    test("tsc_adjust", 1, "max"),
    test("tscdeadline_latency", 1, "max"),
    test("umip", 1, "qemu64,+umip"),
    test("xsave", 1, "max"),
];

/// Operations of `vmexit`, each a run of its own.
const OPERATIONS: &[Test] = &[
    vmexit("cpuid", "cpuid"),
    vmexit("vmcall", "vmcall"),
    vmexit("mov_from_cr8", "mov_from_cr8"),
    vmexit("mov_to_cr8", "mov_to_cr8"),
    vmexit("ipi", "self_ipi_x2apic_sti_nop"),
];

/// Reasons that more than one verdict has.
const LONG: &str =
    "It takes longer than the seven minutes that a test gets, so that there is no whole account, either.";
const NO_BIOS: &str = "It waits for the timer interrupt of a BIOS, which the machine does not have.";

/// Reasons for verdicts that differ: the test, the columns by the beginning of their names, and a sentence. Verdicts without one are
/// faults that nobody has looked into yet.
const REASONS: &[(&str, &str, &str)] = &[
    ("realmode", "VT-x", NO_BIOS),
    ("realmode", "SVM", NO_BIOS),
    ("sieve", "VT-x", LONG),
    ("sieve", "SVM", LONG),
    ("tscdeadline_latency", "VT-x", LONG),
    ("tscdeadline_latency", "SVM", LONG),
];

/// The places where a test runs: the column's title, and the tool's arguments; none for QEMU without a monitor.
const PLACES: [(&str, &[&str]); 3] = [
    ("VT-x (Bochs, tigerlake)", &["--on", "bochs", "--cpu", "tigerlake"]),
    ("SVM (QEMU TCG)", &["--on", "qemu-tcg"]),
    ("QEMU TCG alone", &[]),
];

const SECONDS: &str = "420";

/// The outcome of a test in a place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Outcome {
    passed: usize,
    /// The names of those that failed.
    failed: Vec<String>,
    skipped: usize,
    /// The text's last line, if the test did not come to its end.
    broke_off: Option<String>,
    exits: Option<u64>,
    /// Whether the books agree.
    balanced: bool,
    text: String,
}

impl Outcome {
    fn of(text: String) -> Self {
        let begins = |mark: &str| -> Vec<String> {
            text.lines().filter_map(|line| line.trim().strip_prefix(mark)).map(|rest| rest.trim().to_owned()).collect()
        };
        let ended =
            text.lines().any(|line| line.contains("SUMMARY:") || line.contains("DONE") || line.contains("ENDED"));
        Self {
            passed: begins("PASS:").len(),
            failed: begins("FAIL:"),
            skipped: begins("SKIP:").len(),
            broke_off: (!ended).then(|| text.lines().last().unwrap_or("nothing was printed").trim().to_owned()),
            exits: None,
            balanced: true,
            text,
        }
    }

    fn cell(&self) -> String {
        let mut words = vec![format!("{} pass", self.passed)];
        if !self.failed.is_empty() {
            words.push(format!("**{} fail**", self.failed.len()));
        }
        if self.skipped > 0 {
            words.push(format!("{} skipped", self.skipped));
        }
        if self.broke_off.is_some() {
            words.push("**no end**".to_owned());
        }
        if !self.balanced {
            words.push("**books differ**".to_owned());
        }
        words.join(", ")
    }

    /// The part of it that a reason is asked for.
    fn verdict(&self) -> (&[String], bool) {
        (&self.failed, self.broke_off.is_some())
    }
}

/// The tests' environment: the facts that they would otherwise ask QEMU's configuration device for.
fn environment(cpus: u32) -> String {
    format!("NR_CPUS={cpus}\nMEMLIMIT=128\nTEST_DEVICE=1\nBOOTLOADER=1\n")
}

/// The tool beside this program's folder.
fn tool() -> PathBuf {
    let own = env::current_exe().unwrap_or_default();
    own.ancestors().nth(2).unwrap_or(Path::new("")).join("tollgate")
}

fn under_tollgate(test: &Test, folder: &Path, place: &Path, arguments: &[&str]) -> Outcome {
    let _ = fs::create_dir_all(place);
    let environment_file = place.join("environment");
    let _ = fs::write(&environment_file, environment(test.cpus));
    let mut command = Command::new(tool());
    command.args(["run", "--audit", "--json", "--memory", "128", "--watchdog", "0", "--timeout", SECONDS]);
    command.args(arguments).args(["--cpus", &test.cpus.to_string()]).arg("--out").arg(place);
    command.arg("--guest").arg(folder.join(test.file).with_extension("flat")).arg("--initrd").arg(&environment_file);
    if !test.append.is_empty() {
        command.args(["--append", test.append]);
    }
    let output = command.stderr(Stdio::null()).output().expect("the tool is built beside this program");
    let log = String::from_utf8_lossy(&fs::read(place.join("serial.log")).unwrap_or_default()).into_owned();
    let lines = log.lines().filter(|line| line.starts_with("console") && !line.contains("by=monitor"));
    let text: Vec<_> = lines.filter_map(|line| Some(line.split_once("text=\"")?.1.rsplit_once('"')?.0)).collect();
    let mut outcome = Outcome::of(text.join("\n"));
    let account: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    outcome.exits = account["totals"]["exits"].as_u64();
    outcome.balanced = account["findings"].as_array().is_some_and(Vec::is_empty) && outcome.exits.is_some();
    outcome
}

fn on_qemu(test: &Test, folder: &Path) -> Outcome {
    let mut command = Command::new("timeout");
    command.args([SECONDS, "qemu-system-x86_64", "-display", "none", "-serial", "stdio", "-no-reboot", "-m", "128"]);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x4", "-device", "pc-testdev", "-vga", "none"]);
    command.args(["-cpu", test.cpu, "-smp", &test.cpus.to_string()]);
    command.arg("-kernel").arg(folder.join(test.file).with_extension("flat"));
    if !test.append.is_empty() {
        command.args(["-append", test.append]);
    }
    let output = command.stdin(Stdio::null()).output().expect("`timeout` is there");
    Outcome::of(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn run(test: &Test, folder: &Path, place: &Path) -> Vec<Outcome> {
    PLACES
        .iter()
        .map(|(title, arguments)| {
            eprintln!("{}: {title}", test.name);
            if arguments.is_empty() { on_qemu(test, folder) } else { under_tollgate(test, folder, place, arguments) }
        })
        .collect()
}

/// The lines behind the table about verdicts that are none of a pass, and whether each has a reason.
fn remarks(results: &BTreeMap<usize, Vec<Outcome>>) -> (String, bool) {
    let (mut text, mut all_explained) = (String::new(), true);
    for (&at, outcomes) in results {
        let test = &TESTS[at];
        for ((title, arguments), outcome) in PLACES.iter().zip(outcomes) {
            let (failed, broke_off) = outcome.verdict();
            if failed.is_empty() && !broke_off && outcome.balanced {
                continue;
            }
            let mut found = Vec::new();
            found.extend(failed.iter().map(|name| format!("`{name}`")));
            found.extend(outcome.broke_off.iter().map(|line| format!("ends behind `{line}`")));
            let reason = REASONS.iter().find(|(name, place, _)| *name == test.name && title.starts_with(place));
            let reason = match reason {
                Some((.., sentence)) => *sentence,
                None if arguments.is_empty() => "QEMU's own.",
                None => {
                    all_explained = false;
                    eprintln!("{} has no reason: {title}", test.name);
                    "The reason is not known yet."
                }
            };
            let more = if found.len() > 4 { format!(" and {} more", found.len() - 4) } else { String::new() };
            found.truncate(4);
            let _ = writeln!(text, "- **{}**, {title}: {}{more}. {reason}", test.name, found.join(", "));
        }
    }
    (text, all_explained)
}

/// The figure that `vmexit` printed for an operation.
fn figure(outcome: &Outcome, name: &str) -> Option<u64> {
    outcome.text.lines().find_map(|line| line.trim().strip_prefix(name)?.trim().parse().ok())
}

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let Some(folder) = arguments.next().map(PathBuf::from) else {
        eprintln!("kernels: name the folder that has kvm-unit-tests' *.flat");
        return ExitCode::from(2);
    };
    let names: Vec<_> = arguments.filter_map(|name| name.into_string().ok()).collect();
    let place = tempfile::tempdir().expect("there is room for temporary files");
    let mut results = BTreeMap::new();
    for (at, test) in TESTS.iter().enumerate() {
        let is_there = folder.join(test.file).with_extension("flat").is_file();
        if (names.is_empty() || names.iter().any(|name| name == test.name)) && is_there {
            results.insert(at, run(test, &folder, place.path()));
        }
    }
    let mut text = format!(
        "# Kernels of others\n\n\
         Written on {} by `image-builder/examples/kernels.rs` from kvm-unit-tests' kernels, which are not a part of this project.\n\
         Each ran under Tollgate on two emulators, audited, and on QEMU's emulation without a monitor. KVM on hardware is not\n\
         among the columns: this was written on a machine without it.\n\n\
         | test | vCPUs |",
        OffsetDateTime::now_utc().date()
    );
    for (title, _) in PLACES {
        let _ = write!(text, " {title} |");
    }
    text += " exits, VT-x | exits, SVM |\n|---|---:|---|---|---|---:|---:|\n";
    for (&at, outcomes) in &results {
        let _ = write!(text, "| {} | {} |", TESTS[at].name, TESTS[at].cpus);
        outcomes.iter().for_each(|outcome| _ = write!(text, " {} |", outcome.cell()));
        let exits = |at: usize| outcomes[at].exits.map_or("-".to_owned(), |exits| exits.to_string());
        let _ = writeln!(text, " {} | {} |", exits(0), exits(1));
    }
    let (remarks, all_explained) = remarks(&results);
    let _ = write!(text, "\n## Failures, and tests without an end\n\n{remarks}");
    if names.is_empty() || names.iter().any(|name| name == "vmexit") {
        text += "\n## vmexit\n\nTicks of one operation, the loop around it included. A dash: no figure within seven minutes.\n\n| operation | VT-x (Bochs, tigerlake) | SVM (QEMU TCG) |\n|---|---:|---:|\n";
        for test in OPERATIONS {
            let figures: Vec<_> = PLACES[..2]
                .iter()
                .map(|(_, arguments)| figure(&under_tollgate(test, &folder, place.path(), arguments), test.append))
                .map(|figure| figure.map_or("-".to_owned(), |ticks| ticks.to_string()))
                .collect();
            let _ = writeln!(text, "| {} | {} |", test.name, figures.join(" | "));
        }
    }
    print!("{text}");
    if all_explained { ExitCode::SUCCESS } else { ExitCode::from(1) }
}
