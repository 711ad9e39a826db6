//! The report as a page, in Chromium: its figures are the account's, sorting works by keyboard, nothing leaves the page, no text
//! of a log becomes markup, it fits a phone, and its text is legible in light and dark.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{LogText, Row, balanced, books, text, tollgate_in, two_vcpus};
use serde_json::Value;
use tollgate_abi::record::Kind;

/// Runs before anything else in the page, and hands its findings to the frame around it.
const PROBE: &str = include_str!("pages/probe.js");

/// The screen that a page is shown on.
#[derive(Clone, Copy, Debug)]
struct Screen {
    width: u32,
    dark: bool,
}

const DESK: Screen = Screen { width: 1280, dark: false };
const PHONE: Screen = Screen { width: 375, dark: true };
const NARROW: Screen = Screen { width: 320, dark: false };

/// Shows a page in Chromium and returns the probe's findings.
fn shown(directory: &Path, page: &str, screen: Screen) -> Value {
    let probed = page.replacen("<head>", &format!("<head><script>{PROBE}</script>"), 1);
    assert_ne!(probed, page, "the page has a head");
    fs::write(directory.join("page.html"), probed).unwrap();
    let frame = format!(
        "<!DOCTYPE html><iframe src=\"page.html\" width=\"{}\" height=\"900\" style=\"border: 0\"></iframe><pre id=\"found\"></pre>\
         <script>addEventListener(\"message\", (event) => {{ found.textContent = event.data; }});</script>",
        screen.width
    );
    let path = directory.join("frame.html");
    fs::write(&path, frame).unwrap();
    let mut command = Command::new("chromium");
    // Root has no sandbox, and a container often has no room for shared memory.
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--no-first-run"]);
    command.arg(format!("--user-data-dir={}", directory.join("profile").display()));
    command.args(["--window-size=1400,1000", "--virtual-time-budget=20000", "--dump-dom"]);
    if screen.dark {
        command.arg("--blink-settings=preferredColorScheme=0");
    }
    let output = command.arg(format!("file://{}", path.display())).output();
    let output = output.expect("Chromium starts; where it is missing, ci/setup installs it");
    let (dom, said) = (text(&output.stdout), text(&output.stderr));
    let consoled: Vec<&str> = said.lines().filter(|line| line.contains(":CONSOLE")).collect();
    assert_eq!(consoled, Vec::<&str>::new(), "the page writes to the console");
    let (_, found) = dom.split_once("<pre id=\"found\">").expect("the frame is shown");
    let found = found.split_once("</pre>").map_or("", |(found, _)| found);
    let found = found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    let mut found: Value =
        serde_json::from_str(&found).unwrap_or_else(|error| panic!("{error}: the probe said {found:?}; {said}"));
    found["figures"] = serde_json::from_str(found["figures"].as_str().unwrap()).unwrap();
    found
}

/// The page of logs, by the command.
fn page(directory: &Path, arguments: &[&str], logs: &[(&str, &LogText)]) -> String {
    let mut all = vec!["report", "--format", "html", "--out", "out.html"];
    all.extend(arguments);
    for (name, log) in logs {
        fs::write(directory.join(name), &log.0).unwrap();
        all.push(name);
    }
    let output = tollgate_in(directory, &all, &[]);
    assert!(output.status.code() < Some(2), "{}", text(&output.stderr));
    fs::read_to_string(directory.join("out.html")).unwrap()
}

/// Checks the rules for every page, on every screen.
fn check_manners(found: &Value) {
    assert_eq!(found["errors"], Value::Array(vec![]), "errors and violations");
    assert_eq!(found["resources"], 0, "nothing is loaded");
    assert_eq!(found["foreign"], 0, "elements that a log could have brought in");
    assert_eq!(found["uncaptioned"], 0, "tables without a caption or headings");
    assert_eq!(found["overflow"], 0, "columns by which the page is wider than its screen");
    assert_eq!(found["faint"], Value::Array(vec![]), "text of less contrast than 4.5 to 1");
    assert_eq!(found["unlabelled"], 0, "drawings without a text");
}

/// Rows that the page must have, from the account that the page has as JSON and the one that the tool writes.
fn check_figures(found: &Value, account: &Value) {
    assert!(found["figures"] == *account, "the figures in the page are not the report's as JSON");
    let totals = &account["totals"];
    for total in ["exits", "cycles", "elapsed", "entries"] {
        assert_eq!(found["totals"][total], totals[total].to_string(), "{total}");
    }
    let rows = found["rows"].as_array().unwrap();
    let reasons = account["reasons"].as_array().unwrap();
    assert_eq!(rows.len(), reasons.len());
    for row in rows {
        let number: u64 = row["no"].as_str().unwrap().parse().unwrap();
        let reason = reasons.iter().find(|reason| reason["number"] == number).unwrap();
        assert_eq!(row["exit reason"], reason["name"]);
        for (column, field) in [("samples", "count"), ("min", "min"), ("max", "max"), ("guest", "guest_count")] {
            assert_eq!(row[column], reason[field].to_string(), "{column} of {number}");
        }
        let share = reason["count"].as_f64().unwrap() / totals["exits"].as_f64().unwrap();
        assert!((row["share"].as_str().unwrap().parse::<f64>().unwrap() - share).abs() < 1e-9);
        let average = reason["cycles"].as_f64().unwrap() / reason["count"].as_f64().unwrap();
        assert!((row["avg"].as_str().unwrap().parse::<f64>().unwrap() - average).abs() <= 0.05);
        let drawn: u64 = found["drawn"][reason["name"].as_str().unwrap()].as_u64().unwrap();
        assert_eq!(Some(drawn), reason["count"].as_u64(), "the exits in the histogram's bars");
    }
}

fn json(directory: &Path, logs: &[&str]) -> Value {
    let mut arguments = vec!["report", "--format", "json"];
    arguments.extend(logs);
    serde_json::from_slice(&tollgate_in(directory, &arguments, &[]).stdout).unwrap()
}

#[test]
fn a_page_has_the_accounts_figures_and_sorts_them() {
    let directory = tempfile::tempdir().unwrap();
    let page = page(directory.path(), &[], &[("two.log", &two_vcpus())]);
    for foreign in ["http://", "https://", "src=", "url(", "@import"] {
        assert!(!page.contains(foreign), "the page names {foreign}");
    }
    for screen in [DESK, PHONE] {
        let found = shown(directory.path(), &page, screen);
        check_manners(&found);
        check_figures(&found, &json(directory.path(), &["two.log"]));
        assert_eq!((found["width"].as_u64(), found["dark"].as_bool()), (Some(screen.width.into()), Some(screen.dark)));
        // Sorted by ticks as it comes; a key press on `samples` sorts downwards, the next one upwards.
        assert_eq!(found["sorted"][0]["by"], "time descending");
        assert_eq!(found["sorted"][1], serde_json::json!({"by": "samples descending", "values": [10, 3, 2, 1, 1]}));
        assert_eq!(found["sorted"][2], serde_json::json!({"by": "samples ascending", "values": [1, 1, 2, 3, 10]}));
        assert_eq!(found["sorted"][3]["by"], "exit reason ascending");
        assert_eq!(
            found["sorted"][3]["values"],
            serde_json::json!(["CPUID", "External interrupt", "HLT", "VMCALL", "WRMSR or WRMSRNS"])
        );
    }
}

#[test]
fn what_a_log_says_is_text() {
    let directory = tempfile::tempdir().unwrap();
    let evil = "</script></style><img src=x onerror=alert(1)>\"'><script>alert(2)</script>&lt;<!--";
    let mut log = LogText::default();
    log.header_on(evil, "vt-x", 2, evil);
    log.workload("cpuid", 5, &[(10, 5, 5, 5)]);
    let record = log.record(Kind::Exit).number("vcpu", 1).number("reason", 11).text("name", evil);
    let record =
        record.text("status", evil).number("count", 2).number("cycles", 20).number("min", 10).number("max", 10);
    let mut histogram = [0; 64];
    histogram[3] = 2;
    record.histogram("histogram", &histogram).finish().unwrap();
    log.part(Kind::Key, 1, 11, evil, 2, &[10]);
    books(&mut log);
    log.total_on(1, 2, 2, 20);
    log.stop("triple-fault");
    log.verdict("failed", evil);
    let name = "<b>evil & good.log";
    let page = page(directory.path(), &[], &[(name, &log), ("good.log", &balanced())]);
    let found = shown(directory.path(), &page, DESK);
    check_manners(&found);
    assert!(found["figures"] == json(directory.path(), &[name, "good.log"]), "the figures are not the report's");
    assert!(found["text"].as_str().unwrap().contains(evil), "it is shown as it is");
}

#[test]
fn several_runs_are_compared() {
    let directory = tempfile::tempdir().unwrap();
    let logs = [("first.log", &balanced()), ("second.log", &two_vcpus()), ("third.log", &balanced())];
    let page = page(directory.path(), &["--sort", "number"], &logs);
    let found = shown(directory.path(), &page, PHONE);
    check_manners(&found);
    let cells = |reason: &str| {
        let rows =
            found["tables"]["Exit reasons side by side; \u{394} is the difference from run A"].as_array().unwrap();
        let row = rows.iter().find(|row| row[0] == reason).unwrap();
        row.as_array().unwrap().iter().skip(2).map(|cell| cell.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(cells("CPUID"), ["5", "70.0", "10", "+5", "72.5", "+3.6%", "5", "=", "70.0", "="]);
    assert_eq!(cells("HLT"), ["0", "-", "1", "+1", "120.0", "-", "0", "=", "-", "-"]);
}

/// Samples over time, which vCPU 1 took in steps half as long.
fn sampled() -> LogText {
    let mut log = LogText::default();
    log.header_of(2, "leaf-map=autumn2021 workloads=none cpus=2 rate-step=1000");
    for (vcpu, step, counts) in [(0, 2000, vec![3, 0, 2]), (1, 1000, vec![1, 1, 0, 3])] {
        log.ledger(vcpu, &[common::CPUID]);
        log.rate(vcpu, 10, (5, step), &counts);
    }
    log.tally(10, 10);
    log.stop("exited");
    log.verdict("balanced", "");
    log
}

#[test]
fn exits_over_time_are_drawn_where_they_were_sampled() {
    let directory = tempfile::tempdir().unwrap();
    let found = shown(directory.path(), &page(directory.path(), &[], &[("sampled.log", &sampled())]), PHONE);
    check_manners(&found);
    assert_eq!(found["lanes"], serde_json::json!({"CPUID": [[0, 5], [2000, 3], [4000, 2]]}));
    let found = shown(directory.path(), &page(directory.path(), &[], &[("good.log", &balanced())]), DESK);
    assert_eq!(found["lanes"], serde_json::json!({}));
    assert!(found["text"].as_str().unwrap().contains("no samples of exits over time"));
}

/// A run that was sampled, and whose console showed two marks, one right behind the other, and a third at its end. Behind the second
/// as much time was skipped as the run took.
fn sampled_boot() -> LogText {
    const SKIPPED: u64 = 1_000_000;
    let rows = |[cpuid, io]: [u64; 2]| {
        [Row { count: cpuid, ..common::CPUID }, Row { reason: 30, name: "I/O instruction", count: io, each: 100 }]
    };
    let sums = |rows: &[Row]| {
        let count = rows.iter().map(|row| row.count).sum::<u64>();
        (count, rows.iter().map(|row| row.count * row.each).sum::<u64>())
    };
    let mut log = LogText::default();
    log.header(
        "leaf-map=autumn2021 workloads=none book=none rate-step=100000 marks=kernel=up,memory=set,power-off=down",
    );
    let mark = |log: &mut LogText, name: &str, text: &str, [at, skipped]: [u64; 2], rows: &[Row]| {
        let (exits, cycles) = sums(rows);
        let record = log.record(Kind::Mark).word("name", name).text("text", text).number("vcpu", 0).number("at", at);
        let record = record.number("exits", exits).number("cycles", cycles).number("paused", 0);
        record.number("skipped", skipped).finish().unwrap();
        for row in rows.iter().filter(|row| row.count > 0) {
            let record = log.record(Kind::AtMark).word("name", name).number("reason", row.reason);
            record.number("count", row.count).number("cycles", row.count * row.each).finish().unwrap();
        }
    };
    mark(&mut log, "kernel", "up", [200_000, 0], &rows([2, 0]));
    mark(&mut log, "memory", "set", [210_000, 0], &rows([2, 100]));
    mark(&mut log, "power-off", "down", [990_000, SKIPPED], &rows([10, 104]));
    let end = rows([10, 105]);
    end.iter().for_each(|row| log.exit(row));
    let (exits, cycles) = sums(&end);
    let record = log.record(Kind::Total).number("vcpu", 0).number("exits", exits).number("entries", exits);
    let record = record.number("cycles", cycles).number("elapsed", 1_000_000).number("paused", 0);
    record.number("skipped", SKIPPED).finish().unwrap();
    log.rate(0, 10, (5, 100_000), &[1, 1, 0, 8]);
    log.rate(0, 30, (5, 100_000), &[0, 0, 100, 0, 0, 0, 0, 0, 0, 5]);
    log.stop("powered-off");
    log.verdict("balanced", "115 exits");
    log
}

#[test]
fn the_rates_of_phases_and_the_marks_are_drawn_over_time() {
    let directory = tempfile::tempdir().unwrap();
    let page = page(directory.path(), &[], &[("boot.log", &sampled_boot())]);
    for screen in [DESK, PHONE, NARROW] {
        let found = shown(directory.path(), &page, screen);
        check_manners(&found);
        // On the guest's clock, two million ticks; the scale is from 1 to 10000 exits in a million of them.
        let rates = &found["rates"];
        assert_eq!(rates["scale"], serde_json::json!(["10\u{202f}000", "1\u{202f}000", "100", "10", "1"]));
        assert_eq!(rates["legend"], serde_json::json!(["I/O instruction", "CPUID"]));
        assert_eq!(
            rates["areas"],
            serde_json::json!([
                ["start to kernel, all: 2 exits, 10.0 in a million ticks", 0, 100, 75],
                ["kernel to memory, all: 100 exits, 10000.0 in a million ticks", 100, 105, 0],
                ["memory to power-off, all: 12 exits, 6.7 in a million ticks", 105, 995, 79.281],
                ["power-off to end, all: 1 exit, 100.0 in a million ticks", 995, 1000, 50],
            ])
        );
        assert_eq!(
            rates["lines"],
            serde_json::json!([
                ["kernel to memory, I/O instruction: 100 exits, 10000.0 in a million ticks", 100, 105, 0],
                ["memory to power-off, I/O instruction: 4 exits, 2.2 in a million ticks", 105, 995, 91.209],
                ["power-off to end, I/O instruction: 1 exit, 100.0 in a million ticks", 995, 1000, 50],
                ["start to kernel, CPUID: 2 exits, 10.0 in a million ticks", 0, 100, 75],
                ["memory to power-off, CPUID: 8 exits, 4.5 in a million ticks", 105, 995, 83.683],
            ])
        );
        // The lanes are on the processor's clock, on which nothing is skipped.
        let lanes = serde_json::json!({
            "I/O instruction": [[200_000, 100], [900_000, 5]], "CPUID": [[0, 1], [100_000, 1], [300_000, 8]]
        });
        assert_eq!(found["lanes"], lanes);
        let lane = serde_json::json!([
            ["kernel at tick 200000: `up`", 200],
            ["memory at tick 210000: `set`", 210],
            ["power-off at tick 990000: `down`", 990]
        ]);
        let levels = serde_json::json!([
            ["kernel at tick 200000: `up`", 100],
            ["memory at tick 210000: `set`", 105],
            ["power-off at tick 1990000: `down`", 995]
        ]);
        assert_eq!(found["flags"], serde_json::json!([levels, lane, lane]));
        let names = ["kernel", "memory", "power-off", "kernel", "memory", "power-off"].map(|name| (name, 0));
        assert_eq!(found["names"], serde_json::json!({"lines": names, "overlapping": [], "outside": 0}), "{screen:?}");
        assert_eq!(
            found["tables"]["Exits in each phase"],
            serde_json::json!([["I/O instruction", "0", "100", "4", "1"], ["CPUID", "2", "0", "8", "0"]])
        );
        assert_eq!(
            found["tables"]["Exits in steps of 100\u{202f}000 ticks"][2],
            serde_json::json!(["200000", "100", "0"])
        );
    }
    assert!(page.contains("In bursts: 10000.0 exits in a million ticks from kernel to memory"), "the answers are told");
}

#[test]
fn merged_runs_and_empty_ones_have_pages() {
    let directory = tempfile::tempdir().unwrap();
    let logs = [("first.log", &balanced()), ("second.log", &balanced())];
    let merged = page(directory.path(), &["--merge"], &logs);
    let found = shown(directory.path(), &merged, PHONE);
    check_manners(&found);
    assert_eq!(found["figures"]["runs"], 2);
    assert_eq!((&found["totals"]["exits"], &found["totals"]["cycles"]), (&"16".into(), &"1300".into()));
    assert_eq!((&found["drawn"]["CPUID"], &found["drawn"]["VMCALL"]), (&10.into(), &6.into()));
    let mut refused = LogText::default();
    refused.header("");
    refused.verdict("failed", "before the first exit");
    let found = shown(directory.path(), &page(directory.path(), &[], &[("refused.log", &refused)]), DESK);
    check_manners(&found);
    assert!(found["text"].as_str().unwrap().contains("no exit was accounted"));
}
