//! Reports against files that a person has looked at. `TOLLGATE_BLESS=1 cargo test` writes them anew.

mod common;

use std::path::Path;

use common::{LogText, balanced, books, text, tollgate};
use image_builder::account::Account;
use image_builder::audit::ExitLogReader;
use image_builder::log::LogReader;
use image_builder::report::{Format, Titled, render};

fn titled(title: &str, log: &LogText, audited: bool) -> Titled {
    let mut audit = ExitLogReader::default();
    audit.feed("0d[CPU0  ] VMEXIT reason = 10 (CPUID) q\n".repeat(5).as_bytes());
    audit.feed("0d[CPU0  ] VMEXIT reason = 18 (VMCALL) q\n".repeat(3).as_bytes());
    let audit = audit.finish();
    let log = LogReader::read(log.0.as_bytes()).unwrap();
    Titled { title: title.to_owned(), account: Account::new(&log, audited.then_some(&audit), Some("bochs")) }
}

fn broken() -> LogText {
    let mut log = LogText::default();
    log.header("workloads=cpuid:5");
    log.workload("cpuid", 5, &[(10, 5, 4, 5)]);
    log.noise("Bochs says something");
    books(&mut log);
    log.stop("triple-fault");
    log.verdict("stopped", "the guest ended as triple-fault at 0x100000");
    log
}

fn check(name: &str, report: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("TOLLGATE_BLESS").is_some() {
        std::fs::write(&path, report).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(golden == report, "{name} differs from what was agreed on. Now it is:\n{report}");
}

#[test]
fn reports_are_as_agreed() {
    let good = titled("good.log", &balanced(), true);
    let bad = titled("bad.log", &broken(), false);
    check("balanced.txt", &render(std::slice::from_ref(&good), Format::Table));
    check("balanced.json", &render(std::slice::from_ref(&good), Format::Json));
    check("balanced.csv", &render(std::slice::from_ref(&good), Format::Csv));
    check("stopped.txt", &render(std::slice::from_ref(&bad), Format::Table));
    let both = [good, bad];
    check("both.txt", &render(&both, Format::Table));
    check("both.csv", &render(&both, Format::Csv));
}

#[test]
fn tables_fit_a_terminal() {
    for table in [&["reasons"][..], &["workloads"], &["platforms"]] {
        let out = text(&tollgate(table).stdout);
        let widest = out.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 120, "{table:?} is {widest} columns wide");
    }
}

#[test]
fn several_logs_are_one_array() {
    let both = [titled("a", &balanced(), false), titled("b", &balanced(), false)];
    let json: serde_json::Value = serde_json::from_str(&render(&both, Format::Json)).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 2);
}
