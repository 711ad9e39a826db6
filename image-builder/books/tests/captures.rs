//! Captures as people have them: by the tools' own files, by the forms that other tools give to lines, packed, encoded, several in one.

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use common::{LogText, balanced};
use proptest::prelude::*;
use tollgate_abi::record::Kind;
use tollgate_books::account::{Account, Accounted, Many, Merge, Share, Verdict};
use tollgate_books::failure::Status;
use tollgate_books::log::{LogError, LogReader};

const PLAIN: &str = include_str!("captures/plain.log");

fn capture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures").join(name)
}

/// The runs that files have: the end of each title behind the last `/`, with its verdict, or with the reason that there is none.
fn read(paths: &[PathBuf]) -> Vec<(String, String)> {
    let short = |title: String| title.rsplit('/').next().unwrap_or_default().to_owned();
    let one = |accounted| match accounted {
        Accounted::Run { title, run, .. } => (short(title), run),
        Accounted::PassedOver(title) => (short(title), "passed over".to_owned()),
        Accounted::Unusable(title, error) => (short(title), error.to_string()),
    };
    let digest = |log| {
        let (status, account) = Account::with_status(&log);
        (status, account.verdict.to_string())
    };
    Many::of(paths.to_vec(), digest).map(one).collect()
}

fn of_bytes(bytes: &[u8]) -> Account {
    Account::new(&LogReader::read(bytes).unwrap(), None, None)
}

/// The reasons and their counts, by ledger and guest.
fn figures(account: &Account) -> Vec<(u16, u64, Option<u64>)> {
    account.reasons.iter().map(|row| (row.number, row.exits.figures.count, row.guest_count)).collect()
}

fn balances(bytes: &[u8], form: &str) {
    let account = of_bytes(bytes);
    assert_eq!(account.verdict.to_string(), "balanced", "{form}: {:?}", account.findings);
    assert_eq!(figures(&account), figures(&of_bytes(PLAIN.as_bytes())), "{form}");
    assert_eq!((account.log.records, account.log.damaged), (19, 0), "{form}");
}

#[test]
fn captures_by_the_tools_themselves_balance() {
    for name in [
        "plain.log",
        "minicom.cap",
        "tio.log",
        "tio-terminal.log",
        "picocom.log",
        "screenlog.0",
        "typescript",
        "ts.log",
        "ts-micro.log",
        "utf16le-powershell.log",
    ] {
        assert_eq!(read(&[capture(name)]), [(name.to_owned(), "balanced".to_owned())]);
    }
}

#[test]
fn prefixes_of_every_tool_are_passed_over() {
    for prefix in [
        "Mar 14 09:26:53 ",
        "[2025-03-14 09:26:53.123] ",
        "[00:00:12.345] ",
        "Mar 14 09:26:53 host console[812]: ",
        "2025-03-14T09:26:53+0100 host console[812]: ",
        "2025-03-14T09:26:53.1234567Z ",
        "test (ubuntu)\tRun\t2025-03-14T09:26:53.1234567Z ",
        "monitor-1  | ",
        "2025-03-14T09:26:53.123456789Z stdout F ",
        "[Fri Mar 14 09:26:53 2025] ",
        "[    0.123456] ",
        "<6>[    0.123456] tollgate: ",
        "12:",
        "    12\t",
        "        ",
        "> ",
        "\u{1b}[32m",
        "\u{0}",
        "\u{feff}",
        "exit      vcpu=0 reason=1 ~0000 ",
    ] {
        let stamped: String = PLAIN.lines().map(|line| format!("{prefix}{line}\n")).collect();
        if prefix.starts_with("exit") {
            assert_eq!(
                of_bytes(stamped.as_bytes()).log.damaged,
                19,
                "a prefix that imitates a record is a damaged one"
            );
            assert_eq!(of_bytes(stamped.as_bytes()).verdict.to_string(), "balanced");
        } else {
            balances(stamped.as_bytes(), prefix);
        }
    }
}

#[test]
fn line_ends_of_every_kind_are_read() {
    for end in [
        "\n",
        "\r\n",
        "\r\r\n",
        "\n\r",
        "\r",
        "\r\r\r\n",
        " \n",
        "\t \r\n",
        "\0\n",
        "\u{1b}[K\n",
        "\u{1b}[0m\u{1b}[K\r\n",
        "\"\n",
    ] {
        balances(PLAIN.replace('\n', end).as_bytes(), end);
    }
    balances(PLAIN.trim_end().as_bytes(), "no line end at the end");
    let lost = PLAIN.replacen("~c4af\n", "~c4af", 1).replacen("~c9ca\n", "~c9ca", 1);
    balances(lost.as_bytes(), "line feeds that were lost");
}

/// Text in 16 bits a letter.
fn utf16(text: &str, big: bool) -> Vec<u8> {
    let bytes = |unit: u16| if big { unit.to_be_bytes() } else { unit.to_le_bytes() };
    text.encode_utf16().flat_map(bytes).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut packed = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(6)).unwrap();
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in files {
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        archive.start_file(*name, options).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// Files of these names and contents in a directory, and the runs that are in them.
fn in_directory(files: &[(&str, Vec<u8>)]) -> Vec<(String, String)> {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(directory.path().join(name), bytes).unwrap();
    }
    read(&[directory.path().to_owned()])
}

#[test]
fn a_directory_with_every_form_is_read_and_the_rest_is_named() {
    let plain = PLAIN.as_bytes();
    let twice = [gzip(plain), gzip(plain)].concat();
    let member = gzip(&utf16(&format!("\u{feff}{PLAIN}"), false));
    let found = in_directory(&[
        ("01.log", plain.to_vec()),
        ("02.log", gzip(plain)),
        ("03.log.gz", twice),
        ("04.log.xz", xz(plain)),
        ("05.log.zst", [zstd(plain), zstd(plain)].concat()),
        (
            "06.zip",
            zip(&[("a/one.log", plain), ("a/exit.log", b"other things"), ("two.log.gz", &member), ("read.me", b"x")]),
        ),
        ("07.txt", utf16(&format!("\u{feff}{PLAIN}"), true)),
        ("08.cap", utf16(PLAIN, false)),
        ("09.log.bz2", b"BZh91AY&SY".to_vec()),
        ("10.log", b"another program's\n".to_vec()),
        ("11.txt", b"notes\n".to_vec()),
        ("12.rom", plain.to_vec()),
        ("13.log.1", PLAIN.replace('\n', "\r").into_bytes()),
        ("14.log", xz(&gzip(&zstd(plain)))),
        ("15.log", xz(&gzip(&gzip(&zstd(plain))))),
        ("16.log.gz", gzip(plain)[..300].to_vec()),
        ("17.log", Vec::new()),
    ]);
    let balanced = |name: &str| (name.to_owned(), "balanced".to_owned());
    let other = |name: &str, what: &str| (name.to_owned(), what.to_owned());
    let packed = |by: &str| format!("it is packed as {by}, or more than once: unpack it first");
    let expected = [
        balanced("01.log"),
        balanced("02.log"),
        balanced("03.log.gz"),
        balanced("03.log.gz#2"),
        balanced("04.log.xz"),
        balanced("05.log.zst"),
        balanced("05.log.zst#2"),
        balanced("one.log"),
        other("exit.log", "passed over"),
        balanced("06.zip:two.log.gz"),
        balanced("07.txt"),
        balanced("08.cap"),
        other("09.log.bz2", &packed("bzip2")),
        other("10.log", "passed over"),
        balanced("13.log.1"),
        balanced("14.log"),
        other("15.log", &packed("zstd")),
        other("16.log.gz", "unfinished"),
        other("16.log.gz", "the log can't be read: as gzip it is damaged: "),
        other("17.log", "the log is empty: the image said nothing"),
    ];
    for (found, expected) in found.iter().zip(&expected) {
        assert!(found.0 == expected.0 && found.1.starts_with(&expected.1), "{found:?}, not {expected:?}");
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn several_runs_in_a_file_are_each_reported_and_can_be_asked_for() {
    let name = |end: &str| format!("reset-then-run.log{end}");
    let expected = [(name(""), "unfinished".to_owned()), (name("#2"), "balanced".to_owned())];
    assert_eq!(read(&[capture("reset-then-run.log")]), expected);
    assert_eq!(read(&[capture("reset-then-run.log#2")]), expected[1..]);
    assert_eq!(read(&[capture("reset-then-run.log#3")]), [(name(""), "it has no run 3".to_owned())]);
    let both = [capture("plain.log"), capture("../captures/plain.log"), capture("plain.log")];
    assert_eq!(read(&both).len(), 1, "a file that is named twice is read once");
    // The beginning of the second is lost, and that of the first is damaged.
    let lost = PLAIN.split_inclusive('\n').skip(1).collect::<String>();
    let three = format!("{}{lost}{PLAIN}", PLAIN.replacen("rom", "ram", 1));
    let mut ends = Vec::new();
    LogReader::of_runs().read_runs(three.as_bytes(), &mut |_, _| {}, &mut |number, run| {
        ends.push((number, Account::new(&run.unwrap(), None, None).verdict.to_string()));
        std::ops::ControlFlow::Continue(())
    });
    let damaged = "can't be judged: 1 record is damaged (line 1, tollgate)".to_owned();
    let lacks = "can't be judged: the log lacks the first record, with the platform and the options".to_owned();
    assert_eq!(ends, [(1, damaged), (2, lacks), (3, "balanced".to_owned())]);
}

#[test]
fn a_damaged_line_is_no_fault_of_the_monitors() {
    let account = of_bytes(include_bytes!("captures/one-byte-damaged.log"));
    assert_eq!(account.verdict.to_string(), "can't be judged: 1 record is damaged (line 6, exit)");
    assert_eq!((account.status, account.findings.len()), (Status::NoVerdict, 0), "{:?}", account.findings);
    let document = serde_json::to_value(&account).unwrap();
    let vmcall = &document["reasons"][1];
    assert_eq!((&vmcall["number"], &vmcall["guest_count"]), (&18.into(), &6.into()));
    assert!(vmcall.get("count").is_none() && vmcall.get("min").is_none(), "{vmcall}");
    assert_eq!((account.totals.exits, account.totals.lost), (259, false), "the sums are there");
    let known: Vec<_> = account.reasons.iter().filter(|row| !row.lost).map(|row| row.number).collect();
    assert_eq!(known, [10, 28, 30, 32, 55], "no other row is doubted");
}

#[test]
fn a_damaged_first_record_costs_the_heading() {
    let account = of_bytes(include_bytes!("captures/first-record-damaged.log"));
    assert_eq!(account.verdict.to_string(), "can't be judged: 1 record is damaged (line 1, tollgate)");
    assert_eq!((account.status, account.vcpus), (Status::NoVerdict, 1));
    assert_eq!(figures(&account), figures(&of_bytes(PLAIN.as_bytes())));
    let wrapped = of_bytes(include_bytes!("captures/wrapped-at-80.log"));
    assert!(matches!(wrapped.verdict, Verdict::Unjudged(_)), "{}", wrapped.verdict);
    assert!(wrapped.reasons.iter().all(|row| row.lost || row.exits.figures.count > 0), "{:?}", wrapped.reasons);
}

/// A log with more kinds of records than the plain one: keys, samples over time, a trace.
fn rich() -> String {
    let mut log = LogText::default();
    log.header("leaf-map=autumn2021 workloads=cpuid:5 keys=on rate-step=100");
    log.controls("minimal", &common::ENABLED);
    log.workload("cpuid", 5, &[(10, 5, 5, 5)]);
    log.key_count("cpuid", 10, 0, 5, 5);
    log.exit(&common::CPUID);
    log.exit(&common::VMCALL);
    log.rate(0, 10, (1000, 100), &[2, 0, 3]);
    log.rate(0, 18, (1000, 100), &[0, 3]);
    log.part(Kind::Key, 0, 10, "leaf 0x0", 5, &[70]);
    log.part(Kind::Key, 0, 18, "call 1", 3, &[100]);
    log.part(Kind::Variant, 0, 10, "one", 2, &[70]);
    log.total(8, 8, 650);
    log.tally(10, 5);
    log.tally(18, 3);
    log.stop("exited");
    log.verdict("balanced", "");
    log.0
}

#[test]
fn no_byte_that_is_damaged_and_no_line_that_is_lost_makes_the_books_differ() {
    for log in [PLAIN.to_owned(), rich(), common::two_vcpus().0] {
        let whole = of_bytes(log.as_bytes());
        assert_eq!(whole.verdict.to_string(), "balanced", "{:?}", whole.findings);
        let lines: Vec<&str> = log.split_inclusive('\n').collect();
        for (at, line) in lines.iter().enumerate() {
            let with =
                |line: &[u8]| [lines[..at].concat().as_bytes(), line, lines[at + 1..].concat().as_bytes()].concat();
            let broken = (0..line.len()).step_by(3).map(|byte| {
                let mut line = line.as_bytes().to_vec();
                line[byte] ^= 1;
                with(&line)
            });
            for bytes in broken.chain([with(b"")]) {
                let account = of_bytes(&bytes);
                let text = String::from_utf8_lossy(&bytes);
                let verdict = account.verdict.to_string();
                let is_fair =
                    verdict == "balanced" || verdict == "unfinished" || verdict.starts_with("can't be judged: ");
                assert!(is_fair && account.findings.is_empty(), "{verdict}, {:?}: {text}", account.findings);
                for row in account.reasons.iter().filter(|row| !row.lost) {
                    let same = whole.reasons.iter().find(|known| known.number == row.number);
                    let same = same.map(|known| known.exits.figures);
                    assert_eq!(same, Some(row.exits.figures), "reason {}: {text}", row.number);
                }
                let totals = account.totals;
                assert!(totals.lost || totals.exits == whole.totals.exits || account.reasons.is_empty(), "{text}");
            }
        }
    }
}

/// The same run, whose verdict tells the number of records.
fn counted(log: &str) -> String {
    let verdict = log.lines().find(|line| line.starts_with("verdict ")).unwrap();
    let mut counted = LogText(log.replace(&format!("{verdict}\n"), ""));
    counted.counted_verdict("balanced");
    counted.0
}

#[test]
fn a_record_that_is_cut_out_whole_is_noticed() {
    let mut guests = LogText(rich());
    guests.record(Kind::Console).text("text", "a line that nothing else tells of").finish().unwrap();
    for log in [PLAIN.to_owned(), guests.0, common::two_vcpus().0].map(|log| counted(&log)) {
        assert_eq!(of_bytes(log.as_bytes()).verdict.to_string(), "balanced", "{log}");
        let lines: Vec<&str> = log.split_inclusive('\n').collect();
        let records = lines.iter().filter(|line| line.contains(" ~")).count() - 1;
        let last = lines.iter().rposition(|line| line.starts_with("verdict ")).unwrap();
        for at in (0..last).filter(|&at| lines[at].contains(" ~")) {
            let with = |line: &str| [&lines[..at].concat(), line, &lines[at + 1..].concat()].concat();
            let account = of_bytes(with("").as_bytes());
            let lacks = format!("can't be judged: the log lacks 1 of its {records} records");
            assert!(account.verdict.to_string().starts_with(&lacks), "{}: {}", account.verdict, lines[at]);
            assert_eq!((account.status, account.findings.len()), (Status::NoVerdict, 0), "{}", lines[at]);
            assert!(!account.has_whole_ledger(), "it stays out of merged figures");
            // One that is damaged has left a trace.
            let damaged = of_bytes(with(&lines[at].replacen(" ~", "x ~", 1)).as_bytes());
            assert!(!damaged.doubt.unwrap_or_default().contains(" of its "), "{}", lines[at]);
        }
    }
}

#[test]
fn records_that_are_missing_are_named_where_others_tell_of_them() {
    let log = counted(&rich());
    let without = |word: &str| log.split_inclusive('\n').filter(|line| !line.starts_with(word)).collect::<String>();
    let verdict = |word: &str| of_bytes(without(word).as_bytes()).verdict.to_string();
    let all = log.lines().count() - 1;
    let lacks = format!("can't be judged: the log lacks 1 of its {all} records, among them the sums of vCPU 0");
    assert_eq!(verdict("total "), lacks);
    let lacks = format!("can't be judged: the log lacks 1 of its {all} records, among them the first record");
    assert!(verdict("tollgate ").starts_with(&lacks), "{}", verdict("tollgate "));
}

#[test]
fn a_difference_between_whole_records_stays_one() {
    let mut log = balanced();
    log.0 = log.0.replace(&log.0.lines().find(|line| line.starts_with("tally")).unwrap().to_owned(), "");
    let mut other = LogText::default();
    other.tally(10, 4);
    log.0 = log.0.replacen("stop ", &format!("{}stop ", other.0), 1);
    log.noise("key       reason=10 ~0000");
    let account = of_bytes(log.0.as_bytes());
    assert_eq!(account.verdict.to_string(), "differs: reason 10 CPUID: ledger 5, guest 4");
    log.noise("exit      reason=10 ~0000");
    assert!(matches!(of_bytes(log.0.as_bytes()).verdict, Verdict::Unjudged(_)), "its row may have come twice");
}

#[test]
fn an_account_of_sums_is_the_whole_one_without_its_parts() {
    for log in [PLAIN.to_owned(), rich(), common::two_vcpus().0, rich().replacen("count=5", "count=6", 1)] {
        let log = LogReader::read(log.as_bytes()).unwrap();
        let (sums, mut whole) = (Account::sums(&log), Account::new(&log, None, None));
        assert!(sums.per_vcpu.is_empty() && sums.reasons.iter().all(|row| row.keys.is_empty()));
        whole.per_vcpu.clear();
        whole.reasons.iter_mut().for_each(|row| (row.keys, row.variants) = (Vec::new(), Vec::new()));
        assert_eq!(sums, whole);
    }
}

#[test]
fn merged_figures_are_of_whole_runs() {
    let mut merge = Merge::default();
    for log in ["plain.log", "one-byte-damaged.log"] {
        assert!(merge.add(Share::of(of_bytes(&fs::read(capture(log)).unwrap()))));
    }
    let merged = merge.finish(0);
    let group = &merged.groups[0];
    assert_eq!((group.runs, group.accounted, group.verdicts["can't be judged"]), (2, 1, 1));
    let vmcall = group.reasons.iter().find(|row| row.reason.number == 18).unwrap();
    assert_eq!((vmcall.count.min, vmcall.count.median, vmcall.count.max), (6, 6, 6));
}

#[test]
fn a_bomb_is_bounded_and_named() {
    let zeros = gzip(&vec![0; 1 << 20]);
    let found = in_directory(&[("bomb.log", [gzip(PLAIN.as_bytes()), zeros.repeat(40)].concat())]);
    let what = "the log can't be read: it unpacks to more than 500 times its size as gzip, which no log does";
    assert_eq!(found, [("bomb.log", "balanced"), ("bomb.log", what)].map(|(title, what)| (title.into(), what.into())));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: Some(Box::new(proptest::test_runner::FileFailurePersistence::Direct("tests/captures.proptest-regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn runs_that_are_mixed_or_torn_are_read_without_panic_and_without_a_false_balance(
        picks in proptest::collection::vec((0usize..3, 0usize..4, any::<u16>()), 0..80),
    ) {
        let logs = [PLAIN.to_owned(), rich(), common::two_vcpus().0];
        let mut lines: Vec<_> = logs.iter().map(|log| log.lines()).collect();
        let mut bytes = Vec::new();
        for (from, damage, at) in picks {
            let Some(line) = lines[from].next() else { continue };
            let at = usize::from(at) % line.len();
            match damage {
                0 => bytes.extend_from_slice(&line.as_bytes()[..at]),
                1 => bytes.extend_from_slice(&[line.as_bytes(), line.as_bytes()].concat()),
                _ => bytes.extend_from_slice(line.as_bytes()),
            }
            bytes.push(if damage == 2 { b'\r' } else { b'\n' });
        }
        LogReader::of_runs().read_runs(&bytes[..], &mut |_, _| {}, &mut |_, run| {
            if let Ok(log) = run {
                let account = Account::new(&log, None, None);
                if account.status == Status::Balanced {
                    assert!(account.totals.exits == 259 || account.totals.exits == 8 || account.totals.exits == 17);
                }
            }
            std::ops::ControlFlow::Continue(())
        });
    }

    #[test]
    fn any_bytes_around_records_are_read_without_panic(
        parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 19),
        packing in 0usize..6,
    ) {
        let mut bytes: Vec<u8> = [&b""[..], b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"\xff\xfe"][packing].to_vec();
        for (line, part) in PLAIN.lines().zip(parts) {
            bytes.extend_from_slice(line.as_bytes());
            bytes.extend(part);
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("any.log");
        fs::write(&path, bytes).unwrap();
        prop_assert!(!read(&[path]).is_empty());
    }
}

#[test]
fn errors_name_the_reason() {
    let error = |bytes: &[u8]| LogReader::read(bytes).unwrap_err();
    assert!(matches!(error(b"exit      vcpu=0\n"), LogError::Damaged { lines: 1 }));
    let wide = PLAIN.replace("guest=", "guest= ");
    assert!(matches!(
        error(wide.lines().skip(12).collect::<Vec<_>>().join("\n").replace('=', "-").as_bytes()),
        LogError::Damaged { .. }
    ));
}
