//! Serial logs of every kind: whole, torn, noisy, endless, foreign. Also the books in them, each made wrong in turn.

mod common;

use common::{
    CPUID, ENABLED, HLT, LogText, Row, SECOND, TWO_VCPUS_AUDIT, VMCALL, WRMSR, audit_of, balanced, books, mark,
    two_vcpus, two_vcpus_begin, two_vcpus_end, unreached,
};
use proptest::prelude::*;
use tollgate_abi::bench::WARM_UP;
use tollgate_abi::record::{Kind, Writer};
use tollgate_abi::trace::{Batch, Event};
use tollgate_books::account::{Account, SUMS_ONLY, VcpuAccount, Verdict};
use tollgate_books::audit::{Audit, ExitLogFormat, ExitLogReader};
use tollgate_books::failure::Status;
use tollgate_books::log::{LogError, LogReader};

fn account_of(log: &LogText) -> Account {
    account_of_bytes(log.0.as_bytes())
}

fn account_of_bytes(bytes: &[u8]) -> Account {
    Account::new(&LogReader::read(bytes).unwrap(), None, None)
}

fn error_of(bytes: &[u8]) -> String {
    LogReader::read(bytes).unwrap_err().to_string()
}

#[test]
fn a_balanced_log_balances() {
    let account = account_of(&balanced());
    assert_eq!(
        (account.verdict.to_string().as_str(), account.status),
        ("balanced", Status::Balanced),
        "{:?}",
        account.findings
    );
    assert_eq!((account.totals.exits, account.totals.cycles, account.totals.guest_count), (8, 650, Some(8)));
    assert_eq!(account.workloads[0].cycles_per_iteration, 98.0);
    let cpuid = &account.reasons[0];
    assert_eq!(
        (cpuid.number, cpuid.exits.figures.count, cpuid.exits.figures.min, cpuid.exits.figures.max, cpuid.guest_count),
        (10, 5, 70, 70, Some(5))
    );
}

#[test]
fn files_that_are_no_log_are_named() {
    assert!(matches!(LogReader::read(&b""[..]), Err(LogError::Empty)));
    assert!(matches!(LogReader::read(&b"SeaBIOS\r\n\r\nBooting\n"[..]), Err(LogError::NotOurs { lines: 3 })));
    assert!(matches!(LogReader::read(&[0u8; 100_000][..]), Err(LogError::NotOurs { lines: 1 })));
    let damaged = balanced().0.replace("=", "==");
    assert!(matches!(LogReader::read(damaged.as_bytes()), Err(LogError::Damaged { lines: 11 })));
}

#[test]
fn a_mark_that_is_half_there_or_twice_is_refused() {
    let problem = |write: fn(&mut LogText)| {
        let mut log = LogText::default();
        log.header("");
        mark(&mut log, "up", "login:", [10, 0], &[CPUID]);
        write(&mut log);
        error_of(log.0.as_bytes())
    };
    let at_mark = |log: &mut LogText, name: &str, reason| {
        let record = log.record(Kind::AtMark).word("name", name).number("reason", reason);
        record.number("count", 1).number("cycles", 1).finish().unwrap();
    };
    let check = |error: String, what: &str| assert!(error.contains(what), "{error}");
    check(problem(|log| unreached(log, "up", "x")), "repeats the mark up");
    let mut headless = LogText::default();
    headless.header("");
    at_mark(&mut headless, "up", 10);
    let lost = LogReader::read(headless.0.as_bytes()).unwrap().lost;
    assert_eq!(lost.gaps, ["the record of the mark up"]);
    check(
        problem(|log| log.record(Kind::Mark).word("name", "half").text("text", "x").number("at", 1).finish().unwrap()),
        "not all",
    );
    check(problem(|log| log.record(Kind::Mark).word("name", "bare").finish().unwrap()), "has no usable `text`");
    let stray = |name, reason| {
        let mut log = LogText::default();
        log.header("");
        mark(&mut log, "up", "login:", [10, 0], &[CPUID]);
        unreached(&mut log, "off", "x");
        at_mark(&mut log, name, reason);
        error_of(log.0.as_bytes())
    };
    check(stray("off", 10), "is about the mark off, which was not reached");
    let mut log = LogText::default();
    log.header("");
    mark(&mut log, "up", "login:", [10, 0], &[CPUID]);
    at_mark(&mut log, "up", 10);
    check(error_of(log.0.as_bytes()), "repeats reason 10 of the mark up");
}

#[test]
fn two_runs_are_refused_where_one_is_expected() {
    let twice = balanced().0.repeat(2);
    assert_eq!(error_of(twice.as_bytes()), "line 12 starts another run, and one is expected");
}

#[test]
fn another_protocol_is_refused() {
    let mut log = LogText::default();
    log.record(Kind::Tollgate).number("protocol", 2).finish().unwrap();
    assert!(error_of(log.0.as_bytes()).contains("protocol version 2, and this tool reads version 1"));
    let mut log = LogText::default();
    log.record(Kind::Tollgate).text("protocol", "one").finish().unwrap();
    assert!(error_of(log.0.as_bytes()).contains("line 1: the record `tollgate` has no usable `protocol`"));
}

#[test]
fn records_of_another_build_are_named() {
    let mut log = LogText::default();
    log.header("");
    log.record(Kind::Exit).number("vcpu", 0).finish().unwrap();
    assert!(error_of(log.0.as_bytes()).contains("line 2: the record `exit` has no usable `reason`"));
    let mut log = LogText::default();
    log.header("");
    log.exit(&CPUID);
    log.exit(&CPUID);
    assert_eq!(account_of(&log).reasons[0].exits.figures.count, 5, "a line that is shown again is the same");
    log.exit(&Row { count: 6, ..CPUID });
    let error = error_of(log.0.as_bytes());
    assert_eq!(error, "line 4: the record `exit` repeats reason 10 of vCPU 0; the lines of two runs are mixed");
}

#[test]
fn noise_and_damage_are_counted_and_skipped() {
    let clean = balanced();
    let mut noisy = LogText::default();
    for line in clean.0.lines() {
        noisy.noise("SeaBIOS (version 1.16)");
        noisy.noise(line);
    }
    noisy.noise(&clean.0.lines().next().unwrap()[..20]);
    let account = account_of(&noisy);
    assert_eq!(account.verdict.to_string(), "balanced");
    assert_eq!((account.log.records, account.log.noise, account.log.damaged), (11, 11, 1));
}

#[test]
fn a_log_without_verdict_is_unfinished_wherever_it_was_torn() {
    let log = balanced().0;
    let header = log.find('\n').unwrap() + 1;
    for cut in header..log.len() - 1 {
        let account = account_of_bytes(&log.as_bytes()[..cut]);
        assert_eq!(
            (account.verdict.to_string().as_str(), account.status),
            ("unfinished", Status::NoVerdict),
            "cut at {cut}"
        );
    }
    for cut in 1..header - 1 {
        assert!(LogReader::read(&log.as_bytes()[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn a_line_without_end_is_skipped_in_bounded_memory() {
    let mut reader = LogReader::new();
    reader.feed(&balanced().0.as_bytes()[..balanced().0.find('\n').unwrap() + 1]);
    for _ in 0..4096 {
        reader.feed(&[b'e'; 64 << 10]);
    }
    reader.feed(b"\n");
    let rest = balanced().0;
    reader.feed(&rest.as_bytes()[rest.find('\n').unwrap() + 1..]);
    let log = reader.finish().unwrap();
    assert_eq!((log.quality.noise, Account::new(&log, None, None).verdict.to_string().as_str()), (1, "balanced"));
}

#[test]
fn a_log_with_more_than_any_run_writes_is_refused() {
    let mut reader = LogReader::new();
    let mut log = LogText::default();
    log.header("");
    for _ in 0..10_001 {
        log.record(Kind::Begin).word("workload", "cpuid").number("iterations", 1).finish().unwrap();
    }
    reader.feed(log.0.as_bytes());
    assert!(reader.finish().unwrap_err().to_string().contains("more than 10000 workloads"));
}

/// Checks that the verdict on a log that `build` made names `part`.
fn check(part: &str, build: impl Fn(&mut LogText)) {
    let mut log = LogText::default();
    log.header("workloads=cpuid:5");
    build(&mut log);
    log.stop("exited");
    log.verdict("balanced", "");
    let account = account_of(&log);
    assert!(account.verdict.to_string().starts_with("differs: "), "{part}: {}", account.verdict);
    assert!(account.findings.iter().any(|finding| finding.contains(part)), "{part}: {:#?}", account.findings);
    assert_eq!(account.status, Status::Differs);
}

/// Checks that the verdict on a log that `build` made is that this is missing.
fn check_lacks(part: &str, build: impl Fn(&mut LogText)) {
    let mut log = LogText::default();
    log.header("workloads=cpuid:5");
    build(&mut log);
    log.stop("exited");
    log.verdict("balanced", "");
    let account = account_of(&log);
    assert_eq!(account.verdict.to_string(), format!("can't be judged: the log lacks {part}"));
    assert_eq!((account.status, &account.findings[..]), (Status::NoVerdict, &[][..]));
}

fn cpuid_workload(log: &mut LogText) {
    log.workload("cpuid", 5, &[(10, 5, 5, 5)]);
}

#[test]
fn every_book_that_differs_is_found_whatever_the_monitor_says() {
    check("workload cpuid, reason 10: predicted 5, guest 4, ledger 5", |log| {
        log.workload("cpuid", 5, &[(10, 5, 4, 5)]);
        books(log);
    });
    check("workload cpuid, reason 10: predicted 5, guest 6, ledger 6", |log| {
        log.workload("cpuid", 5, &[(10, 5, 6, 6)]);
        books(log);
    });
    check("the monitor predicted 6, the table of workloads 5", |log| {
        log.workload("cpuid", 5, &[(10, 6, 6, 6)]);
        books(log);
    });
    check("workloads that ran are not those", |log| {
        log.workload("cpuid", 6, &[(10, 6, 6, 6)]);
        books(log);
    });
    check("reason 10 CPUID: ledger 5, guest 4", |log| {
        cpuid_workload(log);
        log.exit(&CPUID);
        log.total(5, 5, 350);
        log.tally(10, 4);
    });
    check("reason 18 VMCALL: ledger 3, guest 2", |log| {
        cpuid_workload(log);
        log.exit(&CPUID);
        log.exit(&VMCALL);
        log.total(8, 8, 650);
        log.tally(10, 5);
        log.tally(18, 2);
    });
}

#[test]
fn a_record_that_must_have_been_there_is_missing_and_no_difference() {
    check_lacks("workload cpuid", books);
    check_lacks("the guest's book of reason 18 VMCALL", |log| {
        cpuid_workload(log);
        log.exit(&CPUID);
        log.exit(&VMCALL);
        log.total(8, 8, 650);
        log.tally(10, 5);
    });
    check_lacks("rows of the ledger of vCPU 0, the row of reason 18 VMCALL on vCPU 0", |log| {
        cpuid_workload(log);
        log.exit(&CPUID);
        log.total(8, 8, 650);
        log.tally(10, 5);
        log.tally(18, 3);
    });
    check_lacks("the guest's book", |log| {
        cpuid_workload(log);
        log.exit(&CPUID);
        log.total(5, 5, 350);
    });
    check_lacks("the sums of vCPU 0", |log| {
        cpuid_workload(log);
        log.exit(&CPUID);
        log.tally(10, 5);
    });
    check_lacks("counts of workload cpuid, the count of workload cpuid, reason 10 CPUID", |log| {
        cpuid_workload(log);
        let count = log.0.rfind("count  ").unwrap();
        log.0.truncate(count);
        log.exit(&CPUID);
        log.total(5, 5, 350);
        log.tally(10, 5);
    });
}

#[test]
fn every_invariant_is_checked() {
    let total = |part, exits, entries, cycles| {
        check(part, |log| {
            cpuid_workload(log);
            log.exit(&CPUID);
            log.total(exits, entries, cycles);
            log.tally(10, 5);
        });
    };
    total("its reasons have 5 exits, its total 6", 6, 6, 350);
    total("its reasons have 350 cycles, its total 351", 5, 5, 351);
    total("5 exits, 6 entries", 5, 6, 350);
    let row = |part, cycles, min, max, histogram: &[u64]| {
        check(part, |log| {
            cpuid_workload(log);
            let record = log.record(Kind::Exit).number("vcpu", 0).number("reason", 10).text("name", "CPUID");
            let record = record.word("status", "enabled").number("count", 5).number("cycles", cycles);
            record.number("min", min).number("max", max).histogram("histogram", histogram).finish().unwrap();
            log.total(5, 5, cycles);
            log.tally(10, 5);
        });
    };
    row("the histogram has 4 exits, the count is 5", 350, 70, 70, &[0, 0, 0, 0, 0, 0, 4]);
    row("the minimum 80 is above the maximum 70", 350, 80, 70, &[0, 0, 0, 0, 0, 0, 5]);
    row("351 cycles are not 5 exits of 70 to 70", 351, 70, 70, &[0, 0, 0, 0, 0, 0, 5]);
    row("not in the histogram's outer buckets", 350, 70, 70, &[0, 0, 0, 0, 0, 5, 0]);
}

/// A run of one workload with so many external interrupts by each book, and so many looks by the row and in the window.
fn looked_at(row: (u64, u64), window: (u64, u64), guest: u64) -> LogText {
    let mut log = LogText::default();
    log.header("workloads=cpuid:5");
    cpuid_workload(&mut log);
    let at = log.0.find("exits=5").unwrap();
    let (before, after) = (log.0[..at].rfind('\n').unwrap() + 1, at + log.0[at..].find('\n').unwrap() + 1);
    log.0.replace_range(before..after, "");
    let record = log.record(Kind::Result).word("workload", "cpuid").number("iterations", 5).word("verdict", "balanced");
    record.number("exits", 5 + window.0).number("cycles", 490).finish().unwrap();
    let record = log.record(Kind::Count).word("workload", "cpuid").number("reason", 1).number("predicted", 0);
    record.number("guest", 0).number("observed", window.0).number("looks", window.1).finish().unwrap();
    log.exit(&CPUID);
    log.looked_at(0, row.0, row.1);
    log.total(5 + row.0, 5 + row.0, 350 + 80 * row.0);
    log.tally(10, 5);
    log.tally(1, guest);
    log.stop("exited");
    log.verdict("balanced", "");
    log
}

#[test]
fn the_monitors_looks_are_no_exits_of_the_guests_and_in_the_emulators_log() {
    let balanced = looked_at((4, 3), (2, 2), 1);
    let account = account_of(&balanced);
    assert_eq!(
        (account.verdict.to_string().as_str(), account.findings.len()),
        ("balanced", 0),
        "{:?}",
        account.findings
    );
    assert_eq!((account.reasons[0].exits.figures.count, account.reasons[0].looks), (4, 3));
    assert_eq!(account.workloads[0].looks, [(1, 2)].into());
    let audited_with = |interrupts| audited(&balanced, &[(0, 10, 5), (0, 1, interrupts)]).verdict.to_string();
    assert_eq!(audited_with(4), "balanced");
    assert_eq!(
        audited_with(1),
        "differs: reason 1 External interrupt: ledger 4, guest 1, looks 3, emulator 1",
        "the emulator counts looks"
    );
    for (log, finding) in [
        (looked_at((4, 2), (2, 2), 1), "reason 1 External interrupt: ledger 4, guest 1, looks 2"),
        (looked_at((4, 3), (2, 2), 4), "reason 1 External interrupt: ledger 4, guest 4, looks 3"),
        (looked_at((4, 3), (3, 2), 1), "workload cpuid, reason 1: predicted 0, guest 0, looks 2, ledger 3"),
        (looked_at((4, 3), (2, 3), 1), "workload cpuid, reason 1: predicted 0, guest 0, looks 3, ledger 2"),
        (looked_at((4, 5), (2, 2), 0), "on vCPU 0: 5 looks of the monitor among 4 exits"),
    ] {
        let account = account_of(&log);
        assert!(account.findings.iter().any(|found| found.contains(finding)), "{finding}: {:#?}", account.findings);
        assert!(account.verdict.to_string().starts_with("differs: "), "{finding}: {}", account.verdict);
    }
}

#[test]
fn the_emulators_book_is_compared() {
    let audit = |cpuid: usize| audit_of(&[(0, 10, cpuid), (0, 18, 3)]);
    let log = LogReader::read(balanced().0.as_bytes()).unwrap();
    let account = Account::new(&log, Some(&audit(5)), Some("bochs"));
    assert_eq!((account.verdict.to_string().as_str(), account.totals.audit_count), ("balanced", Some(8)));
    let account = Account::new(&log, Some(&audit(6)), Some("bochs"));
    assert_eq!(account.verdict.to_string(), "differs: reason 10 CPUID: ledger 5, guest 5, emulator 6");
    assert_eq!(account.findings.len(), 2, "one vCPU is not compared again: {:?}", account.findings);
    let account = Account::new(&log, Some(&ExitLogReader::new(ExitLogFormat::Bochs, 1).finish()), Some("bochs"));
    assert_eq!(account.status, Status::Differs);
}

/// QEMU's log on a machine of two processors: SVM's codes of CPUID, VMMCALL, MSR, INTR, HLT, and their numbers.
fn qemu_audit(exits: &[(u64, u64, usize)], cpus: u32) -> Audit {
    let mut reader = ExitLogReader::new(ExitLogFormat::Qemu, cpus);
    for &(code, exitinfo1, count) in exits {
        let line = format!("vmrun! 0000000000010000\nvmexit({code:08x}, {exitinfo1:016x}, {:016x}, {:016x})!\n", 0, 0);
        reader.feed(line.repeat(count).as_bytes());
    }
    reader.finish()
}

#[test]
fn a_log_without_processors_is_compared_in_sums_and_says_so() {
    let log = LogReader::read(two_vcpus().0.as_bytes()).unwrap();
    let account = |exits: &[_]| Account::new(&log, Some(&qemu_audit(exits, 2)), Some("qemu-tcg"));
    let exits = [(0x72, 0, 10), (0x81, 0, 3), (0x7c, 1, 2), (0x60, 0, 1), (0x78, 0, 1)];
    let good = account(&exits);
    assert_eq!(
        (good.verdict.to_string().as_str(), good.totals.audit_count, good.audit_limit),
        ("balanced", Some(17), Some(SUMS_ONLY))
    );
    for vcpu in &good.per_vcpu {
        assert!(vcpu.audit_count.is_none() && vcpu.reasons.iter().all(|reason| reason.audit_count.is_none()));
    }
    let mut fewer = exits;
    fewer[0].2 = 9;
    let bad = account(&fewer);
    assert_eq!(bad.verdict.to_string(), "differs: reason 10 CPUID: ledger 10, guest 10, emulator 9");
    assert_eq!(bad.findings.len(), 2, "{:?}", bad.findings);
}

#[test]
fn a_log_without_processors_tells_all_of_one_processor() {
    let log = LogReader::read(balanced().0.as_bytes()).unwrap();
    let account = Account::new(&log, Some(&qemu_audit(&[(0x72, 0, 5), (0x81, 0, 3)], 1)), Some("qemu-tcg"));
    assert_eq!((account.verdict.to_string().as_str(), account.audit_limit), ("balanced", None));
    assert_eq!(account.per_vcpu[0].audit_count, Some(8));
}

/// The account of a log, audited.
fn audited(log: &LogText, exits: &[(u64, u64, usize)]) -> Account {
    Account::new(&LogReader::read(log.0.as_bytes()).unwrap(), Some(&audit_of(exits)), Some("bochs"))
}

#[test]
fn two_vcpus_that_balance_balance() {
    let account = audited(&two_vcpus(), &TWO_VCPUS_AUDIT);
    assert_eq!(
        (account.verdict.to_string().as_str(), account.status),
        ("balanced", Status::Balanced),
        "{:?}",
        account.findings
    );
    let sums = |of: &dyn Fn(&VcpuAccount) -> u64| account.per_vcpu.iter().map(of).collect::<Vec<_>>();
    assert_eq!(
        (sums(&|vcpu| vcpu.vcpu), sums(&|vcpu| vcpu.exits), sums(&|vcpu| vcpu.cycles)),
        (vec![0, 1], vec![9, 8], vec![740, 665])
    );
    assert_eq!(sums(&|vcpu| vcpu.audit_count.unwrap()), [9, 8]);
    let second: Vec<_> = account.per_vcpu[1]
        .reasons
        .iter()
        .map(|row| (row.number, row.exits.figures.count, row.exits.figures.max))
        .collect();
    assert_eq!(second, [(1, 1, 80), (10, 5, 75), (12, 1, 120), (32, 1, 90)]);
    assert!(account.per_vcpu[1].reasons.iter().all(|row| row.audit_count == Some(row.exits.figures.count)));
    assert!(account_of(&two_vcpus()).per_vcpu.iter().all(|vcpu| vcpu.audit_count.is_none()));
}

#[test]
fn a_vcpu_that_differs_from_its_processor_is_found_though_the_sums_agree() {
    let mut exits = TWO_VCPUS_AUDIT;
    (exits[0].2, exits[4].2) = (6, 4);
    let account = audited(&two_vcpus(), &exits);
    assert_eq!(account.verdict.to_string(), "differs: reason 10 CPUID on vCPU 0: ledger 5, emulator 6");
    let found = ["reason 10 CPUID on vCPU 0: ledger 5, emulator 6", "reason 10 CPUID on vCPU 1: ledger 5, emulator 4"];
    assert_eq!(account.findings, found);
}

#[test]
fn a_vcpu_on_another_processor_than_its_own_is_found() {
    let account = audited(&balanced(), &[(0, 10, 5), (1, 18, 3)]);
    let found =
        ["reason 18 VMCALL on vCPU 0: ledger 3, emulator 0", "reason 18 VMCALL on vCPU 1: ledger 0, emulator 3"];
    assert_eq!((account.status, account.findings), (Status::Differs, found.map(str::to_owned).to_vec()));
}

/// The run of two vCPUs with other ledgers; its account must have the finding `part`.
fn check_two(part: &str, ledgers: impl Fn(&mut LogText)) {
    let mut log = LogText::default();
    two_vcpus_begin(&mut log);
    ledgers(&mut log);
    two_vcpus_end(&mut log);
    let account = account_of(&log);
    assert!(account.findings.iter().any(|finding| finding.contains(part)), "{part}: {:#?}", account.findings);
    assert_eq!(account.status, Status::Differs);
}

#[test]
fn what_a_vcpu_lacks_is_found() {
    const FIRST: [Row; 3] = [CPUID, VMCALL, WRMSR];
    let mut log = LogText::default();
    two_vcpus_begin(&mut log);
    log.ledger(0, &FIRST);
    SECOND.iter().for_each(|row| log.exit_on(1, row));
    two_vcpus_end(&mut log);
    let account = account_of(&log);
    assert_eq!(account.verdict.to_string(), "can't be judged: the log lacks the sums of vCPU 1");
    assert!(account.totals.lost && account.per_vcpu[1].lost && !account.per_vcpu[0].lost);
    let document = serde_json::to_value(&account).unwrap();
    assert!(document["totals"].is_null() && document["per_vcpu"][1].get("exits").is_none(), "{document:#}");
    assert_eq!(document["per_vcpu"][1]["reasons"][0]["count"], 1);
    check_two("ledger rows of vCPU 2, and 2 ran", |log| {
        log.ledger(0, &FIRST);
        log.ledger(1, &SECOND);
        log.exit_on(2, &HLT);
    });
    check_two("totals of 3 vCPUs, and 2 ran", |log| {
        log.ledger(0, &FIRST);
        log.ledger(1, &SECOND);
        log.ledger(2, &[]);
    });
    check_two("vCPU 1: its reasons have 8 exits, its total 9", |log| {
        log.ledger(0, &FIRST);
        SECOND.iter().for_each(|row| log.exit_on(1, row));
        log.total_on(1, 9, 9, 665);
    });
}

#[test]
fn as_many_vcpus_run_as_were_asked_for_unless_it_may_be_fewer() {
    let account = |vcpus: u64, options: &str| {
        let mut log = LogText::default();
        log.header_of(vcpus, options);
        (0..vcpus).for_each(|vcpu| log.ledger(vcpu, &[]));
        log.record(Kind::Tally).number("reason", 10).number("guest", 0).finish().unwrap();
        log.verdict("balanced", "");
        account_of(&log).verdict.to_string()
    };
    assert_eq!(account(3, "workloads=none cpus=3"), "balanced");
    assert_eq!(account(2, "workloads=none cpus=3 missing-cpus=go-on"), "balanced");
    assert_eq!(account(2, "workloads=none cpus=3"), "differs: the options ask for 3 vCPUs, and 2 ran");
    assert_eq!(account(2, "workloads=none"), "differs: the options ask for 1 vCPUs, and 2 ran");
    assert_eq!(
        account(3, "workloads=none cpus=2 missing-cpus=go-on"),
        "differs: the options ask for 2 vCPUs, and 3 ran"
    );
}

/// A run of `rdtscp` in which the monitor predicted `predicted` of these reasons.
fn rdtscp(enabled: Option<&[u64]>, reason: &Row) -> Account {
    let mut log = LogText::default();
    log.header("workloads=rdtscp:5");
    log.controls("minimal", &ENABLED);
    if let Some(reasons) = enabled {
        log.controls("full", reasons);
    }
    log.workload("rdtscp", 5, &[(reason.reason, 5, 5, 5)]);
    log.ledger(0, std::slice::from_ref(reason));
    log.tally(reason.reason, 5);
    log.stop("exited");
    log.verdict("balanced", "");
    account_of(&log)
}

#[test]
fn predictions_follow_what_the_controls_enable() {
    let exception = Row { reason: 0, name: "Exception or non-maskable interrupt", count: 5, each: 70 };
    let rdtscp_exit = Row { reason: 51, name: "RDTSCP", count: 5, each: 70 };
    assert_eq!(rdtscp(Some(&[0, 51]), &rdtscp_exit).verdict.to_string(), "balanced");
    assert_eq!(rdtscp(Some(&[0]), &exception).verdict.to_string(), "balanced");
    let wrong = "workload rdtscp, reason 51 RDTSCP: the monitor predicted 5, the table of workloads 0";
    assert!(rdtscp(Some(&[0]), &rdtscp_exit).findings.contains(&wrong.to_owned()));
    let wrong = "workload rdtscp, reason 51 RDTSCP: the monitor predicted 0, the table of workloads 5";
    assert!(rdtscp(Some(&[0, 51]), &exception).findings.contains(&wrong.to_owned()));
    // In a log that does not tell, the reasons that were predicted were enabled.
    assert_eq!(rdtscp(None, &rdtscp_exit).verdict.to_string(), "balanced");
}

#[test]
fn predictions_count_every_vcpu() {
    let mut log = LogText::default();
    log.header_of(2, "workloads=cpuid:5 cpus=2");
    log.workload("cpuid", 5, &[(10, 5, 5, 5)]);
    log.verdict("balanced", "");
    let findings = account_of(&log).findings;
    let wrong = "workload cpuid, reason 10 CPUID: the monitor predicted 5, the table of workloads 10";
    assert!(findings.contains(&wrong.to_owned()), "{findings:?}");
    let wrong = "workload cpuid, reason 32 WRMSR or WRMSRNS: the monitor predicted 0, the table of workloads 2";
    assert!(findings.contains(&wrong.to_owned()), "{findings:?}");
}

#[test]
fn what_a_profile_enables_is_read_in_full_and_once() {
    let mut log = LogText::default();
    log.header("");
    log.record(Kind::Controls).word("profile", "older").hex("pin", 0x5f).finish().unwrap();
    log.controls("full", &[0, 63, 64, 84]);
    log.controls("full", &[0, 63, 64, 84]);
    let read = LogReader::read(log.0.as_bytes()).unwrap();
    assert_eq!(read.enabled.into_iter().collect::<Vec<_>>(), [("full".to_owned(), 1 | 1 << 63 | 1 << 64 | 1 << 84)]);
    log.controls("full", &[0, 63, 64, 85]);
    let error = error_of(log.0.as_bytes());
    assert!(error.contains("line 5: the record `controls` contradicts another of profile full"), "{error}");
    let mut half = LogText::default();
    half.header("");
    half.record(Kind::Controls).word("profile", "full").hex("enabled", 1).finish().unwrap();
    assert!(error_of(half.0.as_bytes()).contains("has no usable `enabled_high`"));
}

/// A run with a row of 5 exits of CPUID on each of two vCPUs, and these parts of them.
fn divided(build: impl Fn(&mut LogText)) -> Account {
    let mut log = LogText::default();
    log.header_of(2, "workloads=none keys=on cpus=2");
    for vcpu in [0, 1] {
        log.ledger(vcpu, std::slice::from_ref(&CPUID));
    }
    build(&mut log);
    log.tally(10, 10);
    log.verdict("balanced", "");
    account_of(&log)
}

#[test]
fn keys_sum_to_their_row_on_each_vcpu() {
    let keys = |counts: [(u64, &'static [u64]); 2]| {
        divided(|log| {
            for (vcpu, (count, ticks)) in (0..).zip(counts) {
                log.part(Kind::Key, vcpu, 10, "others", 2, &[70]);
                log.part(Kind::Key, vcpu, 10, "leaf 0x0", count, ticks);
            }
        })
    };
    let account = keys([(3, &[70]), (3, &[70])]);
    assert_eq!(account.verdict.to_string(), "balanced", "{:?}", account.findings);
    let rows: Vec<_> =
        account.reasons[0].keys.iter().map(|key| (key.name.as_str(), key.figures.count, key.figures.min)).collect();
    assert_eq!(rows, [("leaf 0x0", 6, 70), ("others", 4, 70)]);
    // Neither the sum over the vCPUs nor the number of exits shows these faults.
    let found = |account: Account, part: &str| {
        assert!(account.findings.iter().any(|finding| finding.contains(part)), "{part}: {:?}", account.findings);
    };
    found(keys([(2, &[70]), (4, &[70])]), "on vCPU 1: its keys have 6 exits and 420 cycles, the row 5 and 350");
    found(keys([(3, &[60, 70, 80]), (3, &[70])]), "on vCPU 0: leaf 0x0: 60 to 80 cycles, the row has 70 to 70");
    let strange = divided(|log| log.part(Kind::Key, 3, 10, "leaf 0x0", 1, &[70]));
    found(strange, "on vCPU 3: its keys have 1 exits and 70 cycles, the row 0 and 0");
}

/// A run of `cpuid` that kept keys and predicted `predicted` of leaf 0, if it says so.
fn keyed_cpuid(keys: &[(u64, u64, u64)]) -> Account {
    let mut log = LogText::default();
    log.header("workloads=cpuid:5 keys=on");
    cpuid_workload(&mut log);
    keys.iter().for_each(|&(key, predicted, observed)| log.key_count("cpuid", 10, key, predicted, observed));
    log.ledger(0, std::slice::from_ref(&CPUID));
    log.part(Kind::Key, 0, 10, "leaf 0x0", 5, &[70]);
    log.tally(10, 5);
    log.verdict("balanced", "");
    account_of(&log)
}

#[test]
fn keys_that_a_workload_predicts_are_compared_again() {
    let account = keyed_cpuid(&[(0, 5, 5)]);
    assert_eq!(account.verdict.to_string(), "balanced", "{:?}", account.findings);
    let key = &account.workloads[0].keys[0];
    assert_eq!((key.reason, key.key, key.name.as_str(), key.predicted, key.observed), (10, 0, "leaf 0x0", 5, 5));
    assert_eq!(
        keyed_cpuid(&[(0, 5, 1)]).verdict.to_string(),
        "differs: workload cpuid, reason 10, leaf 0x0: predicted 5, ledger 1"
    );
    let unlike_the_table =
        "differs: workload cpuid: the monitor did not predict its keys as the table of workloads does";
    let missing = "can't be judged: the log lacks key 0x0 of reason 10 of workload cpuid";
    assert_eq!(keyed_cpuid(&[]).verdict.to_string(), missing);
    for keys in [&[(0, 4, 4)][..], &[(1, 5, 5)], &[(0, 5, 5), (1, 0, 0)]] {
        assert_eq!(keyed_cpuid(keys).verdict.to_string(), unlike_the_table, "{keys:?}");
    }
}

/// The findings on a run that was traced and sampled. It has `trace` records of these numbers, and this many exits of CPUID in
/// its trace and its samples.
fn recorded(numbers: &[u64], traced: u64, sampled: &[u64], has_end: bool) -> Vec<String> {
    let mut log = LogText::default();
    log.header("leaf-map=autumn2021 workloads=cpuid:5 trace=9 rate-step=100");
    log.workload("cpuid", 5, &[(10, 5, 5, 5)]);
    let exits = [(CPUID, traced), (VMCALL, 3)];
    let events = exits.iter().flat_map(|(row, count)| (0..*count).map(move |_| (row.reason as u16, row.each)));
    for (&number, (reason, cycles)) in numbers.iter().zip(events) {
        let mut batch = Batch::new();
        batch.push(Event { tsc: 1000 + number, reason, cycles, ..Event::default() });
        let record = log.record(Kind::Trace).number("vcpu", 0).number("seq", number).number("exits", 1);
        record.number("tsc", batch.tsc).packed("data", &batch).finish().unwrap();
    }
    books(&mut log);
    if has_end {
        let record = log.record(Kind::Dropped).number("vcpu", 0).number("reason", 10);
        record.number("count", 1).number("cycles", 70).finish().unwrap();
        let record = log.record(Kind::Traced).number("vcpu", 0).number("seq", 7).number("exits", 7);
        record.number("dropped", 1).number("ring", 9).finish().unwrap();
    }
    for (reason, counts) in [(10, sampled), (18, &[0, 3])] {
        log.rate(0, reason, (1000, 100), counts);
    }
    log.stop("exited");
    log.verdict("balanced", "8 exits, every book agrees");
    let account = account_of(&log);
    account.findings.into_iter().chain(account.doubt).collect()
}

#[test]
fn a_trace_and_samples_are_held_against_the_ledger() {
    const ALL: [u64; 7] = [0, 1, 2, 3, 4, 5, 6];
    assert_eq!(recorded(&ALL, 4, &[2, 0, 3], true), [""; 0]);
    let one = |findings: Vec<String>, part: &str| {
        assert!(findings.len() == 1 && findings[0].contains(part), "{findings:?}");
    };
    one(recorded(&[0, 1, 2, 4, 5, 6], 4, &[2, 0, 3], true), "the log lacks 1 records of the trace of vCPU 0");
    one(recorded(&ALL[..6], 4, &[2, 0, 3], true), "the log lacks 1 records of the trace of vCPU 0");
    one(recorded(&ALL, 4, &[2, 0, 3], false), "the log lacks the trace of vCPU 0, or its end");
    one(recorded(&ALL, 4, &[2, 0, 2], true), "reason 10 CPUID on vCPU 0: ledger 5, over time 4");
    let differs = recorded(&ALL, 5, &[2, 0, 3], true);
    assert!(
        differs.len() == 2 && differs[0].contains("ledger 5 exits of 350 cycles, trace 5 of 350, dropped 1 of 70"),
        "{differs:?}"
    );
}

/// A log of one scenario that is timed twice, with `observed` exits in the ledger, and more records behind it.
fn timed_scenario(observed: u64, more: impl FnOnce(&mut LogText)) -> LogText {
    let runs = 2 + WARM_UP;
    let mut log = LogText::default();
    log.header("workloads=none scenarios=getsec scenario-samples=2");
    let record = log.record(Kind::Scenario).word("scenario", "getsec").number("reason", 11).word("verdict", "balanced");
    record.number("predicted", runs).number("observed", observed).finish().unwrap();
    more(&mut log);
    log.ledger(0, &[Row { reason: 11, name: "GETSEC", count: observed, each: 88 }]);
    log.record(Kind::Tally).number("reason", 10).number("guest", 0).finish().unwrap();
    log.stop("exited");
    log.verdict("balanced", "");
    log
}

/// Samples of a scenario from the `first` on.
fn samples(log: &mut LogText, scenario: &str, first: u64, runs: &[(u32, u32)]) {
    let record = log.record(Kind::Samples).word("scenario", scenario).number("first", first);
    record.runs("ticks", runs).finish().unwrap();
}

#[test]
fn a_scenario_that_is_timed_runs_more_often_and_has_samples() {
    let good = timed_scenario(2 + WARM_UP, |log| {
        samples(log, "getsec", 0, &[(68, 1)]);
        samples(log, "getsec", 1, &[(69, 1)]);
        let record = log.record(Kind::Cost).word("scenario", "getsec").number("reason", 11);
        record.number("exits", 2 + WARM_UP).number("cycles", 1584).finish().unwrap();
    });
    let read = LogReader::read(good.0.as_bytes()).unwrap();
    let run = &read.scenarios[0];
    assert_eq!((run.samples.runs.as_slice(), run.cost.cycles), ([(68, 1), (69, 1)].as_slice(), 1584));
    assert_eq!(account_of(&good).verdict.to_string(), "balanced");
    let often = account_of(&timed_scenario(4, |_| ())).verdict.to_string();
    assert_eq!(often, "differs: scenario getsec, reason 11: predicted 18, ledger 4, table 18");
    for (scenario, first, missing) in
        [("xsaves", 0, "the record of scenario xsaves"), ("getsec", 1, "samples 0 to 0 of getsec")]
    {
        let bad = account_of(&timed_scenario(18, |log| samples(log, scenario, first, &[(68, 1)])));
        assert_eq!(bad.verdict.to_string(), format!("can't be judged: the log lacks {missing}"));
    }
    let twice = timed_scenario(18, |log| (0..2).for_each(|_| samples(log, "getsec", 0, &[(68, 1)])));
    assert!(error_of(twice.0.as_bytes()).contains("begins with sample 0, behind 1; the lines of two runs are mixed"));
}

#[test]
fn options_that_cannot_be_read_are_found() {
    let mut log = LogText::default();
    log.header("workloads=none colour=red");
    log.ledger(0, &[]);
    log.record(Kind::Tally).number("reason", 10).number("guest", 0).finish().unwrap();
    log.verdict("balanced", "");
    let account = account_of(&log);
    assert!(
        account.verdict.to_string().starts_with("differs: the run's options can't be read: "),
        "{}",
        account.verdict
    );
}

#[test]
fn vcpus_without_a_processor_are_named() {
    let mut log = LogText::default();
    log.header_of(2, "workloads=none cpus=4 missing-cpus=go-on");
    assert_eq!(account_of(&log).missing_vcpus, [2, 3]);
    assert!(account_of(&balanced()).missing_vcpus.is_empty());
}

#[test]
fn nothing_in_a_log_drives_the_terminal() {
    let mut log = LogText::default();
    log.header("workloads=cpuid:5");
    log.verdict("failed", "red \u{1b}[31m\nverdict: balanced");
    assert_eq!(account_of(&log).verdict.to_string(), "failed: red \\u{1b}[31m\\nverdict: balanced");
}

#[test]
fn keys_without_extremes_are_read() {
    let account = divided(|log| {
        for vcpu in [0, 1] {
            let record = log.record(Kind::Key).number("vcpu", vcpu).number("reason", 10).hex("key", 0);
            record.text("name", "leaf 0x0").number("count", 5).number("cycles", 350).finish().unwrap();
        }
    });
    let keys = &account.reasons[0].keys;
    assert_eq!(
        (account.verdict.to_string().as_str(), keys[0].figures.min, keys[0].figures.max),
        ("balanced", 0, 0),
        "{:?}",
        account.findings
    );
}

#[test]
fn variants_never_exceed_their_row() {
    let variants = |parts: &[(u64, &str, u64, &[u64])]| {
        divided(|log| {
            for vcpu in [0, 1] {
                log.part(Kind::Key, vcpu, 10, "leaf 0x0", 5, &[70]);
            }
            for &(vcpu, name, count, ticks) in parts {
                log.part(Kind::Variant, vcpu, 10, name, count, ticks);
            }
        })
    };
    let account = variants(&[(0, "one", 2, &[70]), (0, "two", 3, &[70]), (1, "two", 1, &[70])]);
    assert_eq!(account.verdict.to_string(), "balanced", "{:?}", account.findings);
    let rows: Vec<_> = account.reasons[0]
        .variants
        .iter()
        .map(|row| (row.name.as_str(), row.figures.count, row.figures.cycles))
        .collect();
    assert_eq!(rows, [("one", 2, 140), ("two", 4, 280)]);
    let found = |parts: &[(u64, &str, u64, &[u64])], part: &str| {
        let findings = variants(parts).findings;
        assert!(findings.iter().any(|finding| finding.contains(part)), "{part}: {findings:?}");
    };
    let exceeds = "on vCPU 1: its variants have 6 exits and 420 cycles, the row 5 and 350";
    found(&[(1, "one", 3, &[70]), (1, "two", 3, &[70])], exceeds);
    found(&[(0, "one", 2, &[60, 80])], "on vCPU 0: one: 60 to 80 cycles, the row has 70 to 70");
    found(&[(3, "one", 1, &[70])], "on vCPU 3: its variants have 1 exits and 70 cycles, the row 0 and 0");
    let account = divided(|log| {
        let record = log.record(Kind::Variant).number("vcpu", 0).number("reason", 10).text("name", "one");
        record.number("count", 2).number("cycles", 200).number("min", 70).number("max", 70).finish().unwrap();
    });
    let contradicts = account.findings.iter().any(|finding| finding.contains("200 cycles are not 2 exits of 70 to 70"));
    assert!(contradicts, "{:?}", account.findings);
}

#[test]
fn a_guest_that_runs_unknown_code_is_not_asked_for_its_book() {
    let mut log = LogText::default();
    log.header("workloads=random-bytes");
    log.record(Kind::Begin).word("workload", "random-bytes").number("iterations", 1).finish().unwrap();
    log.exit(&CPUID);
    log.total(5, 5, 350);
    log.tally(VMCALL.reason, 1);
    log.stop("exited");
    log.verdict("failed", "unexpected exception");
    assert_eq!(account_of(&log).findings, Vec::<String>::new());
    let audited = Account::new(&LogReader::read(log.0.as_bytes()).unwrap(), Some(&audit_of(&[])), None);
    assert!(audited.findings[0].contains("ledger 5, guest 0, emulator 0"), "{:?}", audited.findings);
}

#[test]
fn rows_of_several_vcpus_are_summed() {
    let mut log = LogText::default();
    let record = log.record(Kind::Tollgate).number("protocol", 1).number("vcpus", 2);
    record.text("options", "").finish().unwrap();
    for (vcpu, count, each) in [(0, 2, 64), (1, 3, 200)] {
        let mut histogram = [0; 64];
        histogram[6 + vcpu as usize] = count;
        let record = log.record(Kind::Exit).number("vcpu", vcpu).number("reason", 10).text("name", "CPUID");
        let record = record.word("status", "enabled").number("count", count).number("cycles", count * each);
        record.number("min", each).number("max", each).histogram("histogram", &histogram).finish().unwrap();
        let record = log.record(Kind::Total).number("vcpu", vcpu).number("exits", count).number("entries", count);
        record.number("cycles", count * each).number("elapsed", 1000 + vcpu).finish().unwrap();
    }
    let account = account_of(&log);
    let cpuid = &account.reasons[0];
    assert_eq!(
        (
            cpuid.exits.figures.count,
            cpuid.exits.figures.cycles,
            cpuid.exits.figures.min,
            cpuid.exits.figures.max,
            cpuid.exits.histogram.buckets().len()
        ),
        (5, 728, 64, 200, 2)
    );
    assert_eq!((account.totals.exits, account.totals.cycles, account.totals.elapsed), (5, 728, 1001));
    assert_eq!(account.findings, Vec::<String>::new());
}

/// Every key that holds a number in some record.
const NUMBERS: [&str; 16] = [
    "key",
    "vcpu",
    "iterations",
    "count",
    "cycles",
    "min",
    "max",
    "exits",
    "entries",
    "elapsed",
    "predicted",
    "guest",
    "observed",
    "rip",
    "enabled",
    "enabled_high",
];

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        if let Ok(log) = LogReader::read(&bytes[..]) {
            let _ = Account::new(&log, None, None);
        }
    }

    #[test]
    fn any_records_are_judged_without_panic(
        // Another first record ends the reading, and so does a row that comes twice on one vCPU.
        kinds in proptest::collection::vec((0..Kind::ALL.len()).prop_filter("a beginning", |&at| Kind::ALL[at] != Kind::Tollgate), 0..30),
        numbers in proptest::collection::vec(prop_oneof![Just(0), Just(u64::MAX), 0u64..100, any::<u64>()], 12),
        words in proptest::collection::vec("cpuid|hidden-instructions|task-switch|memory|balanced|[a-z]{1,6}", 4),
        vcpus in prop_oneof![0u64..4, Just(u64::MAX)],
    ) {
        let mut log = LogText::default();
        log.header_of(vcpus, "keys=on cpus=2");
        for (i, &kind) in kinds.iter().enumerate() {
            let number = |at: usize| numbers[(at + i) % numbers.len()];
            let mut record: Writer<'_, String> = log.record(Kind::ALL[kind]);
            for (at, key) in NUMBERS.iter().enumerate() {
                record = record.number(key, number(at));
            }
            record = record.number("reason", (number(1) % 70_000).wrapping_add(i as u64) % 70_000);
            record = record.text("name", &words[i % 4]).text("workload", &words[(i + 1) % 4]);
            record = record.text("scenario", &words[i % 4]);
            record = record.text("verdict", &words[(i + 2) % 4]).text("status", "enabled").text("outcome", "exited");
            record = record.text("profile", &words[i % 4]);
            let mut buckets = [0; 64];
            buckets[i % 64] = number(3);
            record.text("result", &words[(i + 3) % 4]).histogram("histogram", &buckets).finish().unwrap();
        }
        if let Ok(read) = LogReader::read(log.0.as_bytes()) {
            let account = Account::new(&read, Some(&audit_of(&[(0, 10, 1), (255, 99, 1)])), None);
            prop_assert_eq!(account.status == Status::Balanced, account.verdict == Verdict::Balanced);
        }
    }

    #[test]
    fn a_run_of_any_rows_that_balance_sums_up(
        rows in proptest::collection::btree_map(0u64..87, (1u64..1000, 1u64..100_000), 1..40),
    ) {
        let mut log = LogText::default();
        log.header("");
        let (mut exits, mut cycles) = (0, 0);
        for (&reason, &(count, each)) in &rows {
            log.exit(&Row { reason, name: "some reason", count, each });
            log.tally(reason, count);
            exits += count;
            cycles += count * each;
        }
        let record = log.record(Kind::Total).number("vcpu", 0).number("exits", exits).number("entries", exits);
        record.number("cycles", cycles).number("elapsed", cycles).finish().unwrap();
        log.stop("exited");
        log.verdict("stopped", "");
        let account = account_of(&log);
        prop_assert_eq!(&account.findings, &Vec::<String>::new());
        prop_assert_eq!(account.reasons.iter().map(|reason| reason.exits.figures.count).sum::<u64>(), exits);
        prop_assert_eq!(account.reasons.iter().map(|reason| reason.exits.figures.cycles).sum::<u64>(), account.totals.cycles);
        prop_assert_eq!(account.totals.guest_count, Some(exits));
    }
}
