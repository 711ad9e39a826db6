//! Guests of random instructions: the bytes that a seed makes, and the guests' ends in the emulators. Ledger and emulator's log
//! are compared; how a guest ends is its own affair.

mod common;

use std::collections::BTreeSet;
use std::fs;

use common::{LogText, VMCALL, audit_of, text, tollgate, tollgate_in};
use serde_json::{Value, json};
use tollgate::random::RandomGuest;
use tollgate::{image, images};
use tollgate_abi::machine::{BOOT_AREA_BYTES, MOST_VCPUS, UNIKERNEL};
use tollgate_books::account::{Account, Book};
use tollgate_books::failure::Status;
use tollgate_books::log::LogReader;

#[test]
fn a_seed_makes_one_guest_that_fits() {
    let mut guests = BTreeSet::new();
    for seed in [0, 1, 2, 3, 7, 4711, u64::MAX] {
        for vcpus in [1, 2, 3, 4, MOST_VCPUS as u32] {
            let random = RandomGuest::new(seed, vcpus);
            assert_eq!(random, RandomGuest::new(seed, vcpus), "seed {seed}, {vcpus} vCPUs");
            assert!(guests.insert(random.bytes()), "seed {seed}, {vcpus} vCPUs are another's guest");
            for piece in random.guest().pieces {
                let (start, end) = (piece.gpa, piece.gpa + piece.memory_bytes);
                assert!(
                    start >= BOOT_AREA_BYTES && end <= UNIKERNEL.ram_bytes(),
                    "seed {seed}: {start:#x} to {end:#x}"
                );
            }
            let options = format!("workloads=none book=none random={seed} cpus={vcpus}");
            images::build(None, &options).unwrap_or_else(|error| panic!("seed {seed}, {vcpus} vCPUs: {error}"));
        }
    }
}

/// The same seed is the same guest in every version, so that a seed that found something finds it again.
#[test]
fn a_seed_is_the_same_guest_everywhere() {
    let sum = |seed, vcpus| image::guest_mark(&RandomGuest::new(seed, vcpus).bytes());
    let sums = [sum(1, 1), sum(2, 1), sum(1, 2)];
    assert_eq!(sums, SUMS, "the generator has changed, or the stream of numbers: seeds in notes name other guests now");
}

const SUMS: [u32; 3] = [0xba4_670d, 0xac61_ac59, 0xec7a_1e0d];

/// A run without a guest's book: two reasons, a triple fault.
fn log_without_book() -> LogText {
    let mut log = LogText::default();
    log.header("leaf-map=autumn2021 workloads=none book=none random=7");
    log.exit(&common::CPUID);
    log.exit(&VMCALL);
    log.total(8, 8, 650);
    log.stop("triple-fault");
    log.verdict("balanced", "8 exits; the guest keeps no book, and ended as triple-fault at 0x100000");
    log
}

#[test]
fn a_lost_exit_is_noticed() {
    let log = LogReader::read(log_without_book().0.as_bytes()).unwrap();
    let account = |exits: &[(u64, u64, usize)]| Account::new(&log, Some(&audit_of(exits)), None);
    let agreeing = account(&[(0, 10, 5), (0, 18, 3)]);
    assert_eq!(
        (agreeing.verdict.to_string().as_str(), agreeing.status, agreeing.seed),
        ("balanced", Status::Balanced, Some(7))
    );
    assert_eq!(agreeing.books, [Book::Ledger, Book::Emulator]);
    let lost = account(&[(0, 10, 6), (0, 18, 3)]);
    assert_eq!(
        (lost.verdict.to_string().as_str(), lost.status),
        ("differs: reason 10 CPUID: ledger 5, emulator 6", Status::Differs)
    );
    let elsewhere = account(&[(1, 10, 5), (0, 18, 3)]);
    assert_eq!(elsewhere.status, Status::Differs, "exits on a processor without a vCPU");
    let unaudited = Account::new(&log, None, None);
    assert_eq!((unaudited.status, &unaudited.books[..]), (Status::Balanced, &[Book::Ledger][..]));
}

#[test]
fn what_the_monitor_could_not_run_fails_whatever_its_books() {
    let mut log = log_without_book();
    let end = log.0.find("verdict").unwrap();
    log.0.truncate(end);
    log.verdict("stopped", "the guest ended as entry-failed at 0x100000");
    let account = Account::new(&LogReader::read(log.0.as_bytes()).unwrap(), None, None);
    assert_eq!(account.status, Status::Differs, "{}", account.verdict);
}

#[test]
fn it_is_asked_for_alone() {
    let check = |arguments: &[&str], sentence: &str| {
        let output = tollgate(&[&["run"], arguments].concat());
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(sentence), "{arguments:?}: {said}");
    };
    check(&["--workload", "random:7,cpuid"], "no other workloads or scenarios");
    check(&["--workload", "random:7", "--guest", "/bin/true"], "--guest names another");
    check(&["--workload", "random"], "names no random guest");
}

/// A run of a seed to its account; it balances.
fn run(seed: u64, platform: &[&str]) -> (Value, Vec<u8>) {
    let place = tempfile::tempdir().unwrap();
    let (workload, fixed) = (format!("random:{seed}"), ["run", "--audit", "--json", "--out", "."]);
    let output = tollgate_in(place.path(), &[&fixed, &["--workload", &workload][..], platform].concat(), &[]);
    let account: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("seed {seed} {platform:?}: {}", text(&output.stderr)));
    let told = (output.status.code(), &account["verdict"], &account["findings"]);
    assert_eq!(told, (Some(0), &json!("balanced"), &json!([])), "seed {seed} {platform:?}: {}", text(&output.stderr));
    assert_eq!((&account["seed"], &account["books"]), (&json!(seed), &json!(["ledger", "emulator"])));
    assert!(account["totals"]["exits"].as_u64().unwrap() > 0, "seed {seed} {platform:?}");
    (account, fs::read(place.path().join("serial.log")).unwrap())
}

/// Seeds whose guests live long on each platform.
const FIXED: &[(&[u64], &[&str])] = &[
    (&[12, 36, 60], &["--on", "bochs"]),
    (&[2, 14], &["--cpu", "corei7_haswell_4770"]),
    (&[3, 15], &["--cpu", "ryzen"]),
    (&[1, 13], &["--on", "qemu-tcg"]),
    (&[16, 28], &["--on", "bochs", "--cpus", "2"]),
    // Here the last exit of a vCPU took longer than the rest of its time.
    (&[32], &["--on", "bochs", "--cpus", "3"]),
    (&[19], &["--on", "qemu-tcg", "--cpus", "2"]),
];

#[test]
fn random_guests_leave_the_books_in_order() {
    for &(seeds, platform) in FIXED {
        for &seed in seeds {
            run(seed, platform);
        }
    }
}

#[test]
fn a_seed_repeats_to_the_byte() {
    for platform in
        [&["--on", "bochs"][..], &["--cpu", "ryzen"], &["--on", "qemu-tcg"], &["--on", "bochs", "--cpus", "2"]]
    {
        let ((first, log), (_, again)) = (run(5, platform), run(5, platform));
        assert!(log == again, "{platform:?}: two runs of a seed differ, of {} exits", first["totals"]["exits"]);
    }
}
