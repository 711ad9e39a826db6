//! The image in real emulators. The tests assert the audit: prediction, guest, ledger and the emulator's own log agree.

mod common;

use std::fs;
use std::path::Path;
use std::process::Output;
use std::sync::Mutex;
use std::time::Duration;

use common::{text, tollgate_in};
use serde_json::{Value, json};
use tempfile::TempDir;
use tollgate::emulator::models::{self, MODELS, Model, Offers};
use tollgate::emulator::{Boot, Engine, Launch, Limits, Machine, PLATFORMS, Session, Target, bochs, release};
use tollgate::images;
use tollgate_abi::bench::{Bench, Parts, TABLE as BENCHES, WARM_UP};
use tollgate_abi::emulated::Release;
use tollgate_abi::key::VARIANTS;
use tollgate_abi::leaves::LeafMap;
use tollgate_abi::scenario::{self, RUNS};
use tollgate_abi::virtualization::Extension;
use tollgate_abi::workload::{Ends, TABLE, Workload};
use tollgate_books::account::Account;
use tollgate_books::bench::{Baseline, Distribution};
use tollgate_books::failure::Status;
use tollgate_books::log::LogReader;

/// A second model, without CET: each model hides exits that the other shows.
const WITHOUT_CET: &str = "corei7_haswell_4770";
/// A model with SVM.
const WITH_SVM: &str = "zambezi";

/// A run of the tool on Bochs.
struct Run {
    output: Output,
    account: Value,
    place: TempDir,
}

impl Run {
    fn new(arguments: &[&str]) -> Self {
        if let Err(missing) = bochs::find() {
            panic!("this test needs Bochs. {missing}");
        }
        let place = tempfile::tempdir().unwrap();
        let fixed = ["run", "--on", "bochs", "--json", "--out", "."];
        let output = tollgate_in(place.path(), &[&fixed, arguments].concat(), &[]);
        let account = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{arguments:?}: {}", text(&output.stderr)));
        Self { output, account, place }
    }

    fn status(&self) -> Option<i32> {
        self.output.status.code()
    }

    fn verdict(&self) -> &str {
        self.account["verdict"].as_str().unwrap_or_default()
    }

    /// Its verdict, its findings and its messages, for a failed assertion.
    fn story(&self) -> String {
        format!("{}\n{:#}\n{}", self.verdict(), self.account["findings"], text(&self.output.stderr))
    }

    fn check_balanced(&self) {
        assert_eq!((self.status(), self.verdict()), (Some(0), "balanced"), "{}", self.story());
    }

    /// Checks that the host found nothing wrong in the books, whatever the end of the guest.
    fn check_books(&self) {
        assert_eq!(self.account["findings"], Value::Array(vec![]), "{}", self.story());
    }
}

/// Checks the items of a list in two threads.
fn in_parallel<T: Sync>(items: &[T], check: impl Fn(&T) + Sync) {
    let next = Mutex::new(items.iter());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let item = next.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next();
                    match item {
                        Some(item) => check(item),
                        None => return,
                    }
                }
            });
        }
    });
}

#[test]
fn the_default_run_balances_with_the_emulators_own_log() {
    let run = Run::new(&["--audit"]);
    run.check_balanced();
    let account = &run.account;
    assert_eq!(account["schema"], "tollgate.account/1");
    assert_eq!(account["platform"]["kind"], "bochs");
    assert!(account["silicon"].is_object(), "the log tells of the processor");
    assert_eq!((&account["vcpus"], &account["sdm_edition"]), (&1.into(), &"2025-06".into()));
    let exits = account["totals"]["exits"].as_u64().unwrap();
    assert!(exits > 10_000, "only {exits} exits");
    assert_eq!((&account["totals"]["audit_count"], &account["totals"]["guest_count"]), (&exits.into(), &exits.into()));
    for reason in account["reasons"].as_array().unwrap() {
        assert_eq!(reason["count"], reason["guest_count"], "{reason}");
        assert_eq!(reason["count"], reason["audit_count"], "{reason}");
    }
    let ran: Vec<&str> =
        account["workloads"].as_array().unwrap().iter().map(|workload| workload["name"].as_str().unwrap()).collect();
    let expected: Vec<&str> =
        TABLE.iter().filter(|workload| workload.is_default(1)).map(|workload| workload.name).collect();
    assert_eq!(ran, expected);
    for file in ["serial.log", "bochs.log", "bochsrc", "account.json", "rom.bin"] {
        assert!(run.place.path().join(file).exists(), "{file} was not kept");
    }
    let reported = tollgate_in(run.place.path(), &["report", "serial.log"], &[]);
    assert_eq!(reported.status.code(), Some(0), "{}", text(&reported.stdout));
    let log = LogReader::read(fs::File::open(run.place.path().join("serial.log")).unwrap()).unwrap();
    let told = log.verdict.unwrap().records;
    assert_eq!(told, Some(log.quality.records - 1), "the verdict tells the records before it");
}

#[test]
fn two_runs_are_identical_to_the_byte() {
    let logs = [(); 2].map(|()| {
        let run = Run::new(&[]);
        run.check_balanced();
        fs::read(run.place.path().join("serial.log")).unwrap()
    });
    assert!(logs[0] == logs[1], "two runs differ:\n{}", first_difference(&text(&logs[0]), &text(&logs[1])));
}

/// A package of Bochs' processors has eight cores at most: these are packages of their own.
#[test]
fn more_vcpus_than_a_package_has_cores_balance() {
    for cpus in ["9", "16"] {
        let run = Run::new(&["--audit", "--cpus", cpus, "--workload", "cpuid:20,ipi-halted:10"]);
        run.check_balanced();
        assert_eq!(run.account["per_vcpu"].as_array().unwrap().len().to_string(), cpus);
    }
}

#[test]
fn two_runs_on_four_vcpus_are_identical_to_the_byte() {
    let logs = [(); 2].map(|()| {
        let run =
            Run::new(&["--cpus", "4", "--workload", "cpuid,memory:64,race,threads,ipi-halted,apic-timer-virtual"]);
        run.check_balanced();
        fs::read(run.place.path().join("serial.log")).unwrap()
    });
    assert!(logs[0] == logs[1], "two runs differ:\n{}", first_difference(&text(&logs[0]), &text(&logs[1])));
}

fn first_difference(a: &str, b: &str) -> String {
    a.lines().zip(b.lines()).find(|(a, b)| a != b).map_or_else(|| "in length".to_owned(), |(a, b)| format!("{a}\n{b}"))
}

#[test]
fn the_atlas_has_every_exit_that_the_emulator_can_produce() {
    let runs = [(); 2].map(|()| Run::new(&["--workload", "atlas"]));
    let run = &runs[0];
    run.check_balanced();
    run.check_books();
    let rows = run.account["atlas"].as_array().unwrap();
    let possible = || rows.iter().filter(|row| row["possible"] == true);
    let missing: Vec<&Value> = possible().filter(|row| row["count"] == 0).map(|row| &row["number"]).collect();
    assert_eq!(missing, Vec::<&Value>::new());
    assert_eq!(possible().count(), known(Engine::Bochs, &[((2, 7), 58), ((3, 0), 60), ((3, 1), 65)]));
    for row in possible() {
        assert_eq!(row["count"], row["audit_count"], "{row}");
        assert!(row["min"].as_u64() <= row["max"].as_u64() && row["min"].as_u64() > Some(0), "{row}");
    }
    check_what_is_not_possible(rows);
    let is_vtx = |name| scenario::TABLE.iter().all(|row| row.variant != Some(name) || row.is_under(Extension::VtX));
    for (reason, name) in VARIANTS.iter().filter(|(_, name)| is_vtx(name)) {
        let row = rows.iter().find(|row| row["number"] == reason.0).unwrap();
        let variant = row["variants"].as_array().unwrap().iter().find(|variant| variant["name"] == *name).unwrap();
        assert!(variant["count"].as_u64() > Some(0), "{reason:?}, {name} was not produced: {row}");
        if scenario::TABLE.iter().any(|scenario| (scenario.reason, scenario.variant) == (*reason, Some(name))) {
            assert_eq!(variant["count"], RUNS, "{variant}");
        }
    }
    for folder in [".", "two-cpus", "corei5_arrandale_m520"] {
        let logs = runs.each_ref().map(|run| fs::read(run.place.path().join(folder).join("serial.log")).unwrap());
        let differences = first_difference(&text(&logs[0]), &text(&logs[1]));
        assert!(logs[0] == logs[1], "two runs differ in {folder}:\n{differences}");
    }
}

#[test]
fn the_atlas_has_every_exit_of_svm_that_the_emulators_can_produce() {
    let run = run_on_tcg(&["--workload", "atlas"]);
    run.check_balanced();
    let rows = run.account["atlas"].as_array().unwrap();
    let possible: Vec<&Value> = rows.iter().filter(|row| row["possible"] == true).collect();
    for row in &possible {
        assert!(row["count"].as_u64() > Some(0) && row["count"] == row["audit_count"], "{row}");
        let variants = row["variants"].as_array().into_iter().flatten();
        for variant in variants.filter(|variant| variant["possible"] == true) {
            assert!(variant["count"].as_u64() > Some(0), "{variant}");
        }
    }
    assert_eq!(possible.len(), known(Engine::Bochs, &[((2, 7), 43), ((3, 0), 43), ((3, 1), 44)]));
    let variants = possible.iter().flat_map(|row| row["variants"].as_array().into_iter().flatten());
    let nmi = variants.clone().find(|variant| variant["name"] == "NMI").unwrap();
    assert_eq!(nmi["platform"], "qemu-tcg, 2 CPUs", "of a second processor that QEMU has given its turn: {nmi}");
    let there = variants.filter(|variant| variant["possible"] == true).count();
    assert_eq!(there, known(Engine::Bochs, &[((2, 7), 34), ((3, 0), 35), ((3, 1), 35)]));
    check_what_is_not_possible(rows);
    let mut platforms: Vec<&str> = possible.iter().filter_map(|row| row["platform"].as_str()).collect();
    platforms.sort_unstable();
    platforms.dedup();
    platforms.retain(|platform| *platform != "ryzen+invpcid");
    assert_eq!(platforms, ["qemu-tcg", "zambezi", "zambezi, 2 CPUs"]);
}

/// The row for the version of the installed emulator.
fn known<T: Copy>(engine: Engine, rows: &[(Release, T)]) -> T {
    let version = release(engine);
    let row = rows.iter().find(|(of, _)| Some(*of) == version);
    row.unwrap_or_else(|| panic!("nobody has counted what version {version:?} of {engine:?} can produce")).1
}

/// Checks that the other exits need silicon or a newer emulator, and say so.
fn check_what_is_not_possible(rows: &[Value]) {
    for row in rows.iter().filter(|row| row["possible"] == false) {
        let how = row["how"].as_str().unwrap();
        let says_what = how.starts_with("needs silicon") || how.starts_with("needs ") && how.contains(" from ");
        assert!(row["count"] == 0 && says_what, "{row}");
    }
}

#[test]
fn every_vcpu_balances_with_the_processor_that_it_runs_on() {
    for (model, cpus) in [(models::DEFAULT, 2), (models::DEFAULT, 8), (WITHOUT_CET, 4), (WITH_SVM, 3)] {
        let run = Run::new(&["--audit", "--cpu", model, "--cpus", &cpus.to_string()]);
        run.check_balanced();
        run.check_books();
        let vcpus = run.account["per_vcpu"].as_array().unwrap();
        assert_eq!((&run.account["vcpus"], vcpus.len()), (&cpus.into(), cpus));
        for vcpu in vcpus {
            assert!(vcpu["exits"].as_u64() > Some(1000), "{vcpu}");
            assert_eq!((&vcpu["audit_count"], &vcpu["entries"]), (&vcpu["exits"], &vcpu["exits"]));
            for reason in vcpu["reasons"].as_array().unwrap() {
                assert_eq!(reason["count"], reason["audit_count"], "vCPU {}: {reason}", vcpu["vcpu"]);
            }
        }
        let ran = run.account["workloads"].as_array().unwrap().len();
        assert_eq!(ran, TABLE.iter().filter(|workload| workload.is_default(cpus as u64)).count());
    }
}

#[test]
fn missing_processors_stop_a_run_unless_it_may_go_on() {
    let asked = ["--audit", "--workload", "cpuid", "--cpus", "3", "--machine-cpus", "2"];
    let stopped = Run::new(&asked);
    assert_eq!(stopped.status(), Some(3), "{}", stopped.story());
    assert!(stopped.verdict().contains("2 processors came up: no vCPU 2"), "{}", stopped.verdict());
    let went_on = Run::new(&[&asked[..], &["--missing-cpus", "go-on"]].concat());
    went_on.check_balanced();
    assert_eq!((&went_on.account["vcpus"], &went_on.account["missing_vcpus"]), (&2.into(), &json!([2])));
}

#[test]
fn a_vcpu_that_breaks_stops_the_others_whatever_they_do() {
    let run = Run::new(&["--audit", "--cpus", "4", "--workload", "triple-fault-elsewhere"]);
    assert_eq!(run.status(), Some(1), "{}", run.story());
    assert!(run.verdict().starts_with("stopped: vCPU 1 ended as triple-fault"), "{}", run.story());
    assert_eq!(run.account["stop"]["vcpu"], 1);
    run.check_books();
    let exits = |vcpu: usize| run.account["per_vcpu"][vcpu]["exits"].as_u64().unwrap();
    // Coming up takes a dozen exits.
    assert!(exits(2) > 12 && exits(3) > 12, "{}", run.account["per_vcpu"]);
}

#[test]
fn a_hostile_guest_is_stopped_and_named_with_a_full_account() {
    let hostile: Vec<&Workload> = TABLE.iter().filter(|workload| matches!(workload.ends, Ends::Stopped(_))).collect();
    assert!(hostile.len() >= 5);
    let on_both = |workload| [(models::DEFAULT, workload), (WITHOUT_CET, workload)];
    let runs: Vec<(&str, &Workload)> = hostile.into_iter().flat_map(on_both).collect();
    in_parallel(&runs, |(model, workload)| {
        let Ends::Stopped(outcome) = workload.ends else { return };
        let cpus = workload.on.least_vcpus().to_string();
        let run = Run::new(&["--audit", "--cpu", model, "--cpus", &cpus, "--workload", workload.name]);
        assert_eq!(run.status(), Some(1), "{model}, {}: {}", workload.name, run.story());
        assert!(run.verdict().starts_with("stopped: "), "{}: {}", workload.name, run.story());
        assert_eq!(run.account["stop"]["outcome"], outcome.name(), "{}: {}", workload.name, run.story());
        run.check_books();
    });
}

#[test]
fn random_bytes_never_break_the_monitor() {
    let seeds: Vec<u64> = (1..=6).collect();
    in_parallel(&seeds, |seed| {
        let run = Run::new(&["--audit", "--watchdog", "2000000", "--workload", &format!("random-bytes:{seed}")]);
        assert!(matches!(run.status(), Some(0 | 1)), "seed {seed}: {}", run.story());
        assert!(!run.verdict().starts_with("fault"), "seed {seed}: {}", run.story());
        run.check_books();
    });
}

/// The models that the installed Bochs has.
fn models() -> impl Iterator<Item = &'static Model> {
    let version = release(Engine::Bochs);
    MODELS.iter().filter(move |model| model.versions.by(version))
}

#[test]
fn every_model_with_enough_of_vtx_balances() {
    let models: Vec<&Model> = models().filter(|model| model.offers == Offers::Enough(Extension::VtX)).collect();
    in_parallel(&models, |model| {
        let run = Run::new(&["--workload", "atlas", "--cpu", model.name]);
        assert_eq!((run.status(), run.verdict()), (Some(0), "balanced"), "{}: {}", model.name, run.story());
        for scenario in run.account["scenarios"].as_array().unwrap() {
            let denied = scenario["verdict"] == "denied";
            let says_why = scenario["detail"].as_str().unwrap().contains("lacks");
            assert!(denied == says_why && (denied || scenario["verdict"] == "balanced"), "{}: {scenario}", model.name);
        }
        let possible = |row: &&Value| row["possible"] == true && row["count"] == 0;
        for row in run.account["atlas"].as_array().unwrap().iter().filter(possible) {
            let says_why = row["how"].as_str().unwrap().starts_with("not produced: this processor lacks ");
            assert!(says_why, "{}: {row}", model.name);
        }
    });
}

#[test]
fn every_other_model_says_what_it_lacks() {
    let models: Vec<&Model> = models().filter(|model| !matches!(model.offers, Offers::Enough(_))).collect();
    in_parallel(&models, |model| {
        let run = Run::new(&["--cpu", model.name]);
        assert_eq!(run.status(), Some(3), "{}: {}", model.name, run.story());
        let lacks = match model.offers {
            Offers::Lacks(_, what) => what,
            _ => "neither VT-x",
        };
        let refused = run.verdict().starts_with("refused: ") && run.verdict().contains(lacks);
        assert!(refused, "{} does not say that it lacks {lacks}: {}", model.name, run.story());
        assert!(run.account["remedy"].is_string(), "{} has no remedy: {}", model.name, run.account);
    });
}

#[test]
fn keys_are_parts_of_their_reasons() {
    let run =
        Run::new(&["--keys", "--audit", "--workload", "cpuid:100,port-in:50,port-out:7,cr0:30,memory:40,exceptions:5"]);
    run.check_balanced();
    run.check_books();
    let reasons = run.account["reasons"].as_array().unwrap();
    let of = |number: u64| reasons.iter().find(|reason| reason["number"] == number).unwrap();
    for number in [0, 10, 18, 28, 30, 48] {
        let keys = of(number)["keys"].as_array().unwrap();
        for field in ["count", "cycles"] {
            let sum: u64 = keys.iter().map(|key| key[field].as_u64().unwrap()).sum();
            assert_eq!(sum, of(number)[field], "reason {number}, {field}");
        }
    }
    let count = |number: u64, name: &str| {
        let keys = of(number)["keys"].as_array().unwrap();
        keys.iter().find(|key| key["name"] == name).map_or(0, |key| key["count"].as_u64().unwrap())
    };
    // The guest sets the port once before it reads it.
    assert_eq!((count(30, "port 0x80 in"), count(30, "port 0x80 out")), (50, 7 + 1));
    assert_eq!(
        (count(28, "CR0 write"), count(0, "#PF"), count(48, "page 0x827000 write")),
        (30, 5, 1),
        "the last page has a slot"
    );
    assert!(count(10, "leaf 0x0") >= 100);
    assert_eq!(count(48, "others"), 40 - 24, "pages beyond the slots");
}

/// The table in the documentation for the installed Bochs is the one that the tool writes, from runs on every model. The tables
/// for other versions stay as they are.
#[test]
fn the_documented_exits_are_those_of_each_model() {
    let output = tollgate_in(Path::new("."), &["platforms", "--exits", "--format", "markdown"], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("EXITS.md");
    let (major, minor) = release(Engine::Bochs).expect("this Bochs tells its version");
    let heading = format!("{SECTION}{major}.{minor}\n");
    let written = format!("{heading}\n{}", text(&output.stdout));
    let documented = fs::read_to_string(&path).unwrap_or_default();
    let sections = documented.split(SECTION).skip(1).map(|section| format!("{SECTION}{}\n", section.trim_end()));
    let (of_this, mut others): (Vec<_>, Vec<_>) = sections.partition(|section| section.starts_with(&heading));
    if std::env::var_os("TOLLGATE_BLESS").is_some() {
        others.push(written);
        others.sort_unstable();
        fs::write(&path, format!("{EXITS_HEADING}{}", others.join("\n"))).unwrap();
        return;
    }
    assert!(documented.starts_with(EXITS_HEADING), "EXITS.md begins otherwise; TOLLGATE_BLESS=1 writes it anew");
    assert!(of_this == [written.as_str()], "EXITS.md is out of date; TOLLGATE_BLESS=1 writes it anew:\n{written}");
}

/// The heading of a version's part of EXITS.md.
const SECTION: &str = "## Bochs ";

const EXITS_HEADING: &str = "# Exits by processor model

The output of `tollgate platforms --exits --format markdown` with each version of Bochs. It has the exit reasons, and below
each its variants, that each of that version's processor models with VT-x produced when the atlas ran on it. Every reason is
audited against Bochs' own log. A model without an x lacks the features in the last column: bits of the VM-execution controls,
or a property of the processor. A feature after a `+` was added to the model (`add_features` in Bochs' configuration).

";

#[test]
fn a_run_writes_its_page_besides_its_account() {
    if let Err(missing) = bochs::find() {
        panic!("this test needs Bochs. {missing}");
    }
    let place = tempfile::tempdir().unwrap();
    let what = ["run", "--on", "bochs", "--json", "--workload", "cpuid:10", "--rate-step", "10000"];
    // The directory does not exist yet.
    let to = ["--out", "new", "--html", "new/exits.html", "--trace", "new/exits.csv"];
    let output = tollgate_in(place.path(), &[&what[..], &to].concat(), &[]);
    let account = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    let run = Run { output, account, place };
    run.check_balanced();
    let page = fs::read_to_string(run.place.path().join("new/exits.html")).unwrap();
    let trace = fs::read_to_string(run.place.path().join("new/exits.csv")).unwrap();
    assert_eq!(trace.lines().count() as u64, 1 + run.account["totals"]["exits"].as_u64().unwrap());
    let (_, figures) =
        page.split_once("<script type=\"application/json\" id=\"figures\">").expect("the page has figures");
    let figures: Value = serde_json::from_str(figures.split_once("</script>").unwrap().0).unwrap();
    assert!(figures == run.account, "the figures in the page are not those of the account");
    let exits = &run.account["totals"]["exits"];
    assert!(page.contains(&format!("data-total=\"exits\" data-v=\"{exits}\"")), "the page has no {exits} exits");
    assert!(page.contains("<svg class=\"lane\""), "the page has no exits over time");
}

#[test]
fn a_machine_with_too_little_memory_is_refused() {
    let run = Run::new(&["--memory", "16"]);
    assert_eq!(run.status(), Some(3), "{}", run.story());
    assert!(run.verdict().contains("16 MiB of memory") && run.verdict().contains("need 24 MiB"), "{}", run.story());
}

#[test]
fn every_term_has_its_leaves() {
    for map in LeafMap::ALL {
        let run = Run::new(&["--audit", "--workload", "leaves,cpuid:10", "--leaf-map", map.name()]);
        run.check_balanced();
        assert_eq!(run.account["leaf_map"], map.name());
    }
}

/// Measures everything on the model of a section of BENCH.md, and compares the section with the tool's output. Returns the exit
/// status and the measurement. Versions of Bochs differ in the exits that they can produce, so that with another version than the
/// document's only operations with budgets are compared.
fn documented_costs(heading: &str, more: &[&str]) -> (Option<i32>, Value) {
    if let Err(missing) = bochs::find() {
        panic!("this test needs Bochs. {missing}");
    }
    let place = tempfile::tempdir().unwrap();
    let arguments = [&["bench", "--format", "markdown", "--save", "measured.json"], more].concat();
    let output = tollgate_in(place.path(), &arguments, &[]);
    let story = text(&output.stdout) + &text(&output.stderr);
    let saved = fs::read(place.path().join("measured.json")).unwrap_or_else(|_| panic!("{story}"));
    check_documented(heading, &text(&output.stdout));
    (output.status.code(), serde_json::from_slice(&saved).unwrap())
}

/// Compares a section of BENCH.md with the tool's output.
fn check_documented(heading: &str, body: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("BENCH.md");
    let heading = format!("{COSTS_SECTION}{heading}\n");
    let written = format!("{heading}\n{}\n", body.trim_end());
    // Sections may be written anew at the same time: each writer has to find those of the others.
    static WRITING: Mutex<()> = Mutex::new(());
    let _writing = WRITING.lock();
    let documented = fs::read_to_string(&path).unwrap_or_default();
    let sections = documented.split(COSTS_SECTION).skip(1);
    let sections = sections.map(|section| format!("{COSTS_SECTION}{}\n", section.trim_end()));
    let (of_this, mut others): (Vec<_>, Vec<_>) = sections.partition(|section| section.starts_with(&heading));
    let is_documented = release(Engine::Bochs) == Some(COSTS_VERSION);
    if is_documented && std::env::var_os("TOLLGATE_BLESS").is_some() {
        others.push(written);
        others.sort_unstable();
        fs::write(&path, format!("{COSTS_HEADING}{}", others.join("\n"))).unwrap();
        return;
    }
    assert!(documented.starts_with(COSTS_HEADING), "BENCH.md begins otherwise; TOLLGATE_BLESS=1 writes it anew");
    let compared = |section: &str| {
        let budgets = section.split("\n\n").take(2).collect::<Vec<_>>().join("\n\n");
        if is_documented { section.to_owned() } else { budgets }
    };
    let of_this: Vec<_> = of_this.iter().map(|section| compared(section)).collect();
    assert!(of_this == [compared(&written)], "BENCH.md is out of date; TOLLGATE_BLESS=1 writes it anew:\n{written}");
}

const COSTS_VERSION: Release = (2, 7);
const COSTS_SECTION: &str = "## ";

const COSTS_HEADING: &str = "# The cost of exits

Figures of Bochs 2.7, where a tick of the time-stamp counter is an instruction. They are the output of `tollgate bench --format
markdown` for one processor model of each extension, and of `tollgate run` for the local APIC; the test suite writes this page
and compares it with every run. They say how many instructions the monitor takes, and nothing of a processor's nanoseconds.
Costs on silicon are unmeasured. [The manual](MANUAL.md#benchmarks-and-baselines) explains tables and columns.

";

#[test]
fn the_budgets_hold_and_the_documented_costs_are_those_of_vtx() {
    let (status, measured) = documented_costs("VT-x, on Bochs' tigerlake", &[]);
    assert_eq!(status, Some(0), "{}", measured["budgets"]);
}

/// Zambezi has no decode assists, so that MOV to CR0 costs more than its budget. The ledger takes a tick more than its budget
/// there.
#[test]
fn every_budget_holds_under_svm_but_that_of_mov_to_cr0() {
    let (status, measured) = documented_costs("SVM, on Bochs' zambezi", &["--cpu", "zambezi"]);
    let rows = measured["budgets"].as_array().unwrap();
    let exits: Vec<_> = rows.iter().map(|row| row["exit"].as_str().unwrap()).collect();
    let fault = "a page's first nested page fault";
    assert_eq!(exits, ["CPUID", "VMMCALL", "RDMSR", "MOV to CR0", "IN", "OUT", fault], "{}", measured["budgets"]);
    for (exit, row) in exits.iter().zip(rows) {
        for column in ["ticks", "budget", "kvm", "ledger", "keys", "vcpus_8"] {
            assert!(row[column].as_f64().is_some_and(|number| number > 0.0), "{column} of {row}");
        }
        let expected = if *exit == "MOV to CR0" { "over its budget" } else { "within" };
        assert_eq!(row["verdict"], expected, "{row}");
    }
    assert_eq!(status, Some(1), "{}", measured["budgets"]);
}

#[test]
fn the_documented_costs_of_the_local_apic_are_those_of_a_run() {
    let by_exits = ["apic-registers", "task-priority", "self-ipi", "held-interrupt", "held-priority", "apic-timer"];
    let by_hardware = by_exits.map(|name| format!("{name}-virtual"));
    let asked = by_exits.iter().copied().chain(by_hardware.iter().map(String::as_str)).collect::<Vec<_>>().join(",");
    let output = tollgate_in(Path::new("."), &["run", "--on", "bochs", "--workload", &asked], &[]);
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{told}{}", text(&output.stderr));
    let table = told.split("\n\n").find(|block| block.starts_with(" local APIC")).expect("both ways are compared");
    check_documented("The local APIC, by exits and by hardware", &format!("```text\n{table}\n```"));
}

#[test]
fn a_trace_has_every_exit_and_repeats_and_a_full_ring_is_told() {
    let asked = ["--audit", "--cpus", "2", "--workload", "cpuid:50,memory:20,ipi-halted:20", "--rate-step", "50000"];
    let traces = [(); 2].map(|()| {
        let run = Run::new(&[&asked[..], &["--trace", "exits.csv"]].concat());
        run.check_balanced();
        let trace = text(&fs::read(run.place.path().join("exits.csv")).unwrap());
        assert_eq!(Some(trace.lines().count() as u64 - 1), run.account["totals"]["exits"].as_u64());
        assert!(trace.contains(",\"CPUID\",0x0,0x") && trace.contains("unikernel_guest::"), "{trace}");
        assert!(run.account["rates"].as_array().is_some_and(|rates| rates.len() > 5), "{}", run.account["rates"]);
        trace
    });
    assert!(traces[0] == traces[1], "two traces differ:\n{}", first_difference(&traces[0], &traces[1]));

    let run = Run::new(&[&asked[..], &["--trace", "exits.json", "--trace-exits", "10"]].concat());
    run.check_balanced();
    for traced in run.account["traces"].as_array().unwrap() {
        assert!(traced["dropped"].as_u64() > Some(0) && traced["ring"] == 10, "{traced}");
    }
    let chrome: Value = serde_json::from_slice(&fs::read(run.place.path().join("exits.json")).unwrap()).unwrap();
    assert!(chrome["traceEvents"].as_array().is_some_and(|events| events.len() > 20));
}

#[test]
fn keys_a_trace_and_rates_come_in_one_run() {
    for cpu in [models::DEFAULT, WITH_SVM] {
        let workloads = "cpuid:50,memory:20,port-in:20,port-string:9,rdmsr:20,cr0:20,exceptions";
        let asked =
            ["--cpu", cpu, "--audit", "--workload", workloads, "--keys", "--rate-step", "20000", "--trace", "t.csv"];
        let run = Run::new(&asked);
        run.check_balanced();
        let exits = run.account["totals"]["exits"].as_u64().unwrap();
        assert_eq!(run.account["traces"][0]["exits"], exits);
        let trace = text(&fs::read(run.place.path().join("t.csv")).unwrap());
        let of = |reason: &Value, what: &str| -> Vec<u64> {
            reason[what].as_array().into_iter().flatten().map(|row| row["count"].as_u64().unwrap()).collect()
        };
        let mut keyed = 0;
        for reason in run.account["reasons"].as_array().unwrap().iter().filter(|reason| reason["keys"].is_array()) {
            assert_eq!(of(reason, "keys").iter().sum::<u64>(), reason["count"].as_u64().unwrap(), "{reason}");
            let column = format!(",{},\"", reason["number"]);
            let traced = trace.lines().skip(1).filter(|line| line.contains(&column)).count() as u64;
            assert_eq!(Some(traced), reason["count"].as_u64(), "{reason}");
            keyed += 1;
        }
        let sampled = run.account["rates"].as_array().unwrap().iter();
        let sampled = sampled.flat_map(|rate| rate["counts"].as_array().unwrap()).map(|count| count.as_u64().unwrap());
        assert_eq!((keyed > 4, sampled.sum::<u64>()), (true, exits), "{cpu}");
    }
}

/// Runs some microbenchmarks with further arguments: the exit status, and the output.
fn bench(rows: &str, more: &[&str]) -> (Option<i32>, String) {
    if let Err(missing) = bochs::find() {
        panic!("this test needs Bochs. {missing}");
    }
    let arguments = [&["bench", "--on", "bochs", "--filter", rows], more].concat();
    let output = tollgate_in(Path::new("."), &arguments, &[]);
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

/// Operations with a budget, which take longer to measure and are measured by other tests.
const BUDGETED: [&str; 7] = ["cpuid", "vmcall", "rdmsr", "mov_to_cr0", "in", "out", "ept_violation_write"];

/// Measures every other microbenchmark and every scenario, without those in `but`, with these arguments. Measures them once more
/// against the first result, and returns the rows. Rows without samples have to be those in `missing`.
fn bench_everything(extension: Extension, arguments: &[&str], but: &[&str], missing: &[&str]) -> Vec<Value> {
    let place = tempfile::tempdir().unwrap();
    let saved = place.path().join("baseline.json");
    let here = BENCHES.iter().filter(|row| row.runs_under(extension)).map(Bench::name);
    let scenarios = scenario::TABLE.iter().filter(|scenario| scenario.is_under(extension));
    let here = here.chain(scenarios.map(|scenario| scenario.name));
    let here: Vec<_> = here.filter(|name| !BUDGETED.contains(name) && !but.contains(name)).collect();
    let filter = here.join(",");
    for (which, more) in [("--save", arguments), ("--against", &arguments[..2])] {
        let arguments = [&["bench", "--filter", &filter, which, saved.to_str().unwrap()], more].concat();
        let output = tollgate_in(Path::new("."), &arguments, &[]);
        assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    }
    let document: Value = serde_json::from_slice(&std::fs::read(&saved).unwrap()).unwrap();
    let rows = document["rows"].as_array().unwrap();
    let mut names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names.len(), here.len(), "{names:?}");
    assert!(here.iter().all(|name| names.binary_search(name).is_ok()), "{names:?}");
    let empty = rows.iter().filter(|row| row["statistics"].is_null()).map(|row| row["name"].as_str().unwrap());
    assert_eq!(empty.collect::<Vec<_>>(), missing);
    rows.clone()
}

#[test]
fn every_microbenchmark_is_measured_under_svm() {
    let hidden = ["rdrand", "rdseed", "invpcid"];
    let (ends_it, lacks): (&[&str], &[&str]) = match release(Engine::Bochs) {
        Some(version) if version >= (3, 0) => (&[], &["rsm"]),
        _ => (&["shutdown"], &["rsm", "security-exception"]),
    };
    bench_everything(Extension::Svm, &["--cpu", "zambezi"], ends_it, &[&hidden[..], lacks].concat());
    let by_exceptions = ["overflow", "double-fault", "alignment-check", "security-exception"];
    let no_exits = [&["simd_error", "task-switch", "icebp"], &by_exceptions[..], &["init-signal"]].concat();
    bench_everything(Extension::Svm, &["--on", "qemu-tcg", "--audit"], &[], &[&hidden[..], &no_exits].concat());
}

/// Scenarios about features that the default model lacks in every version of Bochs.
const NOT_ON_TIGERLAKE: [&str; 10] = [
    "getsec",
    "umwait",
    "tpause",
    "rdmsrlist",
    "wrmsrlist",
    "wrmsrns",
    "urdmsr",
    "uwrmsr",
    "rdmsr-immediate",
    "wrmsrns-immediate",
];

/// Each row is measured, audited, and the sum of its parts if it has any; a second run, without the emulator's log, repeats the
/// first.
#[test]
fn every_microbenchmark_repeats_and_adds_up() {
    let mut scenarios = 0;
    for row in bench_everything(Extension::VtX, &["--on", "bochs", "--audit"], &[], &NOT_ON_TIGERLAKE) {
        let Some(bench) = Bench::by_name(row["name"].as_str().unwrap()) else {
            scenarios += 1;
            let samples = row["iterations"].as_u64().unwrap().saturating_sub(WARM_UP);
            assert!(row["statistics"].is_null() || row["statistics"]["samples"] == samples, "{row}");
            continue;
        };
        assert_eq!(row["iterations"], bench.workload.iterations, "{row}");
        assert_eq!(row["statistics"]["samples"], bench.workload.iterations - WARM_UP, "{row}");
        let Some(parts) = row["parts"].as_object() else {
            assert_eq!(bench.parts, Parts::Waiting, "{row}");
            continue;
        };
        let sum: f64 = parts.values().map(|part| part.as_f64().unwrap()).sum();
        assert!((sum - row["statistics"]["mean"].as_f64().unwrap()).abs() < 1e-6, "{row}");
        assert!(parts.values().all(|part| part.as_f64().unwrap() >= 0.0), "{row}");
    }
    assert_eq!(scenarios, scenario::TABLE.iter().filter(|scenario| scenario.is_under(Extension::VtX)).count());
}

/// A baseline whose handler was faster by five ticks: the handler is reported as slower.
#[test]
fn a_slower_handler_is_caught_and_named() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("baseline.json");
    let (status, story) = bench("pause,wbinvd", &["--save", path.to_str().unwrap()]);
    assert_eq!(status, Some(0), "{story}");
    let mut before = Baseline::load(&path).unwrap();
    let row = before.rows.iter_mut().find(|row| row.name == "pause").unwrap();
    let mut faster = Distribution::default();
    let was = row.statistics.clone().unwrap();
    faster.add(was.median - 5, was.samples);
    row.distribution = faster;
    row.statistics = row.distribution.statistics();
    row.cycles -= 5 * row.iterations;
    row.parts.as_mut().unwrap().handler -= 5.0;
    before.save(&path).unwrap();
    let (status, story) = bench("pause,wbinvd", &["--against", path.to_str().unwrap()]);
    assert_eq!(status, Some(1), "{story}");
    assert!(story.contains(": pause: slower by its handler; ") && !story.contains(": wbinvd: "), "{story}");
    let (status, story) = bench("wbinvd", &["--against", path.to_str().unwrap()]);
    assert_eq!(status, Some(0), "{story}");
}

/// QEMU's own emulation, ready to run an image.
fn on_tcg(directory: &Path, rom: &[u8], cpus: u32) -> Launch {
    let platform = PLATFORMS.iter().find(|row| row.engine == Engine::Tcg).unwrap();
    let boot = Boot::Rom(rom);
    let machine = Machine { cpus, ..Machine::new(Target::of(platform), boot) };
    machine.prepare(directory, boot, true).unwrap_or_else(|missing| panic!("this test needs QEMU. {missing}"))
}

#[test]
fn an_emulator_without_an_extension_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let rom = images::build(None, "").unwrap();
    let mut launch = on_tcg(place.path(), &rom.bytes, 1);
    for word in launch.invocation.arguments.iter_mut().filter(|word| word.to_string_lossy().contains("+svm")) {
        *word = "max,-svm".into();
    }
    let session = Session::run(&launch, Limits::within(Duration::from_secs(60)), |_| {}).unwrap();
    let log = session.log.unwrap_or_else(|error| panic!("{error}\n{}", session.said));
    let account = Account::new(&log, None, Some(launch.platform.name));
    assert_eq!(account.status, Status::Platform, "{}", account.verdict);
    assert!(
        account.verdict.to_string().starts_with("refused: ") && account.verdict.to_string().contains("VT-x"),
        "{}",
        account.verdict
    );
    assert!(account.remedy.is_some());
}

/// An audited run in QEMU's own emulation.
fn run_on_tcg(arguments: &[&str]) -> Run {
    let place = tempfile::tempdir().unwrap();
    let fixed = ["run", "--on", "qemu-tcg", "--json", "--audit", "--out", "."];
    let output = tollgate_in(place.path(), &[&fixed, arguments].concat(), &[]);
    let account = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    Run { output, account, place }
}

#[test]
fn svm_balances_on_qemus_own_emulation_and_repeats_to_the_byte() {
    for cpus in ["1", "4"] {
        let logs = [(); 2].map(|()| {
            let run = run_on_tcg(&["--cpus", cpus]);
            run.check_balanced();
            let platform = &run.account["platform"];
            assert_eq!((&platform["kind"], &platform["virtualization"]), (&"qemu-tcg".into(), &"SVM".into()));
            let exits = &run.account["totals"]["exits"];
            assert!(exits.as_u64() > Some(10_000), "only {exits} exits");
            assert_eq!(&run.account["totals"]["audit_count"], exits);
            if cpus == "1" {
                run.check_books();
                assert_eq!(&run.account["per_vcpu"][0]["audit_count"], exits);
            }
            text(&fs::read(run.place.path().join("serial.log")).unwrap())
        });
        assert!(logs[0] == logs[1], "{cpus} vCPUs: two runs differ:\n{}", first_difference(&logs[0], &logs[1]));
    }
}

#[test]
fn svm_balances_where_the_watchdog_looks_at_a_guest_that_runs_long() {
    // In "apic-timer" each HLT starts the watchdog anew; it comes last, for the exits that follow looks.
    for (cpus, workloads, looked_at) in [
        ("1", "cpuid:20000,leaves:20,apic-timer:300", &["cpuid", "leaves"][..]),
        ("2", "leaves:20,ipi-halted:300,ipi-running:600", &["leaves", "ipi-halted", "ipi-running"]),
    ] {
        let run = run_on_tcg(&["--cpus", cpus, "--workload", workloads, "--watchdog", "500000"]);
        run.check_balanced();
        run.check_books();
        let account = &run.account;
        assert_eq!(account["totals"]["audit_count"], account["totals"]["exits"]);
        let looks_in = |workload: &Value| workload["looks"]["1"].as_u64().unwrap_or(0);
        let with_looks = account["workloads"].as_array().unwrap().iter().filter(|workload| looks_in(workload) > 0);
        let names: Vec<&str> = with_looks.map(|workload| workload["name"].as_str().unwrap()).collect();
        assert_eq!(names, looked_at, "{cpus} vCPUs");
        let external = account["reasons"].as_array().unwrap().iter().find(|reason| reason["number"] == 1).unwrap();
        let [count, guest, looks] = ["count", "guest_count", "looks"].map(|book| external[book].as_u64().unwrap());
        assert!(looks > 0 && count == guest + looks, "{external}");
    }
}

#[test]
fn what_is_left_changed_at_the_end_of_a_window_is_restored_outside_of_it() {
    // Under SVM every write of CR0 exits, and an odd number of them leaves it changed.
    let run = run_on_tcg(&["--cpus", "3", "--workload", "cr0:1,control-registers:1"]);
    run.check_balanced();
    run.check_books();
}

#[test]
fn a_guest_that_breaks_under_svm_is_named() {
    let ends = [
        (&["--workload", "triple-fault"][..], "the guest ended as triple-fault"),
        (&["--workload", "triple-fault-elsewhere", "--cpus", "3"], "vCPU 1 ended as triple-fault"),
        (&["--workload", "endless-loop"], "the guest ended as no-exits"),
        (&["--workload", "left-long-mode"], "the guest ended as left-long-mode"),
        (&["--workload", "halt-for-ever"], "the guest ended as halted-for-ever"),
        (&["--workload", "outside-memory"], "the guest ended as outside-memory"),
    ];
    for (arguments, end) in ends {
        let run = run_on_tcg(arguments);
        let verdict = run.account["verdict"].as_str().unwrap();
        assert!(verdict.starts_with("stopped: ") && verdict.contains(end), "{arguments:?}: {verdict}");
        assert_eq!(run.output.status.code(), Some(1), "{arguments:?}");
        assert_eq!(run.account["totals"]["audit_count"], run.account["totals"]["exits"], "{arguments:?}");
    }
}

#[test]
fn every_model_with_enough_of_svm_balances() {
    let models: Vec<&Model> = models().filter(|model| model.offers == Offers::Enough(Extension::Svm)).collect();
    in_parallel(&models, |model| {
        for cpus in ["1", "2"] {
            let run = Run::new(&["--audit", "--cpu", model.name, "--cpus", cpus]);
            run.check_balanced();
            run.check_books();
        }
        let run = Run::new(&["--workload", "atlas", "--cpu", model.name]);
        assert_eq!((run.status(), run.verdict()), (Some(0), "balanced"), "{}: {}", model.name, run.story());
    });
}

/// A ROM that loops for ever.
fn endless_rom() -> Vec<u8> {
    let mut rom = vec![0; 64 << 10];
    rom[0xfff0..][..2].copy_from_slice(&[0xeb, 0xfe]);
    rom
}

#[test]
fn no_emulator_listens_on_a_network() {
    let place = tempfile::tempdir().unwrap();
    let rom = images::build(None, "workloads=endless-loop watchdog=100000000").unwrap();
    let model = Model::by_name("tigerlake").unwrap();
    let boot = Boot::Rom(&rom.bytes);
    let launch = Machine::new(Target::bochs(model), boot)
        .prepare(place.path(), boot, false)
        .unwrap_or_else(|missing| panic!("{missing}"));
    check_no_sockets(&launch, place.path());
    let place = tempfile::tempdir().unwrap();
    check_no_sockets(&on_tcg(place.path(), &endless_rom(), 1), place.path());
}

fn check_no_sockets(launch: &Launch, directory: &Path) {
    let looked = Mutex::new(0);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| Session::run(launch, Limits::within(Duration::from_secs(3)), |_| {}));
        while !run.is_finished() {
            *looked.lock().unwrap() += sockets_of_processes_in(directory);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    assert!(*looked.lock().unwrap() > 0, "the emulator was never seen running");
}

/// The number of processes that work in `directory`; panics if one of them has a socket.
fn sockets_of_processes_in(directory: &Path) -> usize {
    let mut seen = 0;
    for process in fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path())) {
        if !fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == directory) {
            continue;
        }
        seen += 1;
        let Ok(descriptors) = fs::read_dir(process.join("fd")) else { continue };
        for target in descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()) {
            assert!(!target.to_string_lossy().starts_with("socket:"), "the emulator has a socket");
        }
    }
    seen
}
