//! The verdict of a log, and the words for the guest's end.

mod common;

use common::{CPUID, LogText, balanced, boot};
use tollgate_abi::exit_reason::Status as ExitStatus;
use tollgate_abi::record::Kind;
use tollgate_abi::workload::Outcome;
use tollgate_books::account::Account;
use tollgate_books::failure::Status;
use tollgate_books::log::{LogReader, Named};
use tollgate_books::report::{Format, Titled, render};
use tollgate_books::symbols::Symbols;

fn account_of(log: &LogText) -> Account {
    Account::new(&LogReader::read(log.0.as_bytes()).unwrap(), None, None)
}

#[test]
fn who_ended_the_guest_is_told() {
    let mut log = LogText::default();
    log.header("");
    log.record(Kind::Stop).number("vcpu", 2).word("outcome", "triple-fault").finish().unwrap();
    assert_eq!(account_of(&log).stop.unwrap().vcpu, Some(2));
    assert_eq!(account_of(&balanced()).stop.unwrap().vcpu, None);
}

/// A newer monitor's words are shown as they are. A guest with such an end is taken for one that was stopped.
#[test]
fn an_outcome_or_a_status_that_is_not_known_stays_a_word() {
    let read = |outcome: &str, status: &str| {
        let mut log = LogText::default();
        log.header("");
        let exit = log.record(Kind::Exit).number("vcpu", 0).number("reason", 10).text("name", "CPUID");
        let exit = exit.word("status", status).number("count", 1).number("cycles", 60).number("min", 60);
        exit.number("max", 60).histogram("histogram", &[0; 64]).finish().unwrap();
        log.stop(outcome);
        account_of(&log)
    };
    for (outcome, status, known, early) in [
        ("exited", "enabled", Some((Outcome::Exited, ExitStatus::Enabled)), false),
        ("no-exits", "not-enabled", Some((Outcome::NoExits, ExitStatus::NotEnabled)), true),
        ("sent-away", "half-enabled", None, true),
    ] {
        let account = read(outcome, status);
        let (stop, reason) = (account.stop.as_ref().unwrap(), &account.reasons[0]);
        assert_eq!((stop.outcome.word(), reason.status.word()), (outcome, status));
        let (ended, enabled) = known.map_or_else(
            || (Named::Unknown(outcome.to_owned()), Named::Unknown(status.to_owned())),
            |(ended, enabled)| (Named::Known(ended), Named::Known(enabled)),
        );
        assert_eq!((&stop.outcome, &reason.status), (&ended, &enabled));
        assert_eq!(account.early_stop().is_some(), early, "{outcome}");
        let document = serde_json::to_value(&account).unwrap();
        let words = [&document["stop"]["outcome"], &document["reasons"][0]["status"]];
        assert_eq!(words, [outcome, status]);
    }
}

#[test]
fn verdicts_have_their_statuses() {
    let status = |result: &str| {
        let mut log = LogText::default();
        log.header("workloads=cpuid:5");
        log.verdict(result, "because");
        (account_of(&log).verdict.to_string(), account_of(&log).status)
    };
    assert_eq!(status("refused"), ("refused: because".to_owned(), Status::Platform));
    assert_eq!(status("stopped"), ("stopped: because".to_owned(), Status::Differs));
    assert_eq!(status("failed"), ("failed: because".to_owned(), Status::Differs));
    assert_eq!(status("fault"), ("fault: because".to_owned(), Status::Differs));
    assert_eq!(status("differs"), ("differs: because".to_owned(), Status::Differs));
    assert_eq!(status("marvellous"), ("marvellous: because".to_owned(), Status::Differs));
}

#[test]
fn a_kernel_that_gives_up_has_failed_however_it_ends() {
    let account = |options: &str, result: &str, lines: &[&str]| {
        let mut log = LogText::default();
        log.header(options);
        for line in lines {
            log.record(Kind::Console).text("text", line).finish().unwrap();
        }
        log.record(Kind::Console).word("by", "monitor").text("text", "Kernel panic - not syncing").finish().unwrap();
        log.exit(&CPUID);
        log.total(5, 5, 350);
        log.stop("reset");
        log.verdict(result, "5 exits");
        account_of(&log)
    };
    let panic = "[    0.3] Kernel panic - not syncing: No working init found.";
    let none = "workloads=none book=none";
    let gave_up = account(none, "balanced", &["Linux version", panic, "---[ end", ""]);
    assert_eq!(
        (gave_up.verdict.to_string(), gave_up.status),
        (format!("failed: the guest said: {panic}; it ended as reset at 0x100000"), Status::Differs)
    );
    let resets = account(none, "balanced", &["Linux version", "machine restart"]);
    assert_eq!(resets.status, Status::Balanced);
    let table = render(&[Titled { title: String::new(), account: resets }], Format::Table);
    assert!(table.contains("; it ended as reset at 0x100000; its last line: machine restart\n"), "{table}");
    let hangs = account(none, "stopped", &["Linux version", "waiting", " "]);
    assert_eq!(hangs.verdict.to_string(), "stopped: 5 exits; its last line: waiting");
    let keeps_a_book = account("workloads=none", "stopped", &[panic]);
    assert_eq!(keeps_a_book.verdict.to_string(), "stopped: 5 exits", "its text is a workload's");
}

#[test]
fn a_kernel_that_stops_between_two_marks_is_told_where() {
    let hangs = account_of(&boot("limit-reached"));
    let expected = "stopped: 35697 exits; the guest keeps no book, and ended; its last line: [    0.400000] Run /init as init \
                    process; it reached the mark init, and not up (`login:`)";
    assert_eq!((hangs.verdict.to_string().as_str(), hangs.status), (expected, Status::Differs));
    assert_eq!(account_of(&boot("powered-off")).status, Status::Balanced, "a mark is no goal");
}

#[test]
fn the_place_of_an_end_is_named_where_symbols_are_known() {
    let mut log = LogText::default();
    log.header("workloads=none book=none");
    log.exit(&CPUID);
    log.total(5, 5, 350);
    log.stop("halted-for-ever");
    log.verdict("stopped", "5 exits; the guest keeps no book, and ended as halted-for-ever at 0x100000");
    let mut account = account_of(&log);
    account.name_end(&Symbols::of_map(b"fffff T before\n").unwrap());
    assert_eq!(account.stop.as_ref().unwrap().symbol, None);
    account.name_end(&Symbols::of_map(b"fff00 T default_idle\n100100 T behind\n").unwrap());
    assert!(account.verdict.to_string().ends_with("at 0x100000 (default_idle+0x100/0x200)"), "{}", account.verdict);
    let table = render(&[Titled { title: String::new(), account }], Format::Table);
    assert!(table.contains("last exit: halted-for-ever, RIP 0x100000 (default_idle+0x100/0x200)"), "{table}");
}

#[test]
fn records_behind_the_verdict_are_found() {
    let mut log = balanced();
    log.tally(11, 1);
    assert_eq!(account_of(&log).verdict.to_string(), "differs: 1 records follow the verdict");
}
