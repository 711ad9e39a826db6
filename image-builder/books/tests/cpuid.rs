//! The values that `cpuid` prints in a guest, right and wrong ones, held against a ledger.

mod common;

use common::{LogText, Row};
use tollgate_abi::ExitReason;
use tollgate_abi::leaves::Answer;
use tollgate_abi::record::Kind;
use tollgate_books::account::{Account, Book};
use tollgate_books::failure::Status;
use tollgate_books::log::{CpuidLine, LogReader};
use tollgate_books::report::{Format, Titled, render};

/// The ledger at the end: 120 exits of 7,400 cycles.
const LEDGER: [Row; 2] = [
    Row { reason: 10, name: "CPUID", count: 20, each: 70 },
    Row { reason: 30, name: "I/O instruction", count: 100, each: 60 },
];

/// Leaf, subleaf and registers of what a good guest prints.
const GOOD: [(u32, u32, [u32; 4]); 9] = [
    (0x4fff_ffff, 0, [30, 0, 0, 0]),
    (0x4fff_fffd, 10, [7, 0, 0, 0]),
    (0x4fff_fffc, 10, [0, 0, 8 * 70, 0]),
    (0x4fff_fffd, 30, [40, 0, 0, 0]),
    (0x4fff_fffd, 35, [0, 0, 0, u32::MAX]),
    (0x4fff_fffc, 12, [0, 0, 0, 0]),
    (0x4fff_fffd, 30, [41, 0, 0, 0]),
    (0x4fff_ffff, 0, [60, 0, 0, 0]),
    (0x4fff_fffe, 0, [0, 0, 3600, 0]),
];

fn account(options: &str, lines: &[(u32, u32, [u32; 4])]) -> Account {
    let mut log = LogText::default();
    log.header(options);
    let mut say = |text: &str| log.record(Kind::Console).text("text", text).finish().unwrap();
    say("init: Linux is up");
    for (leaf, subleaf, [eax, ebx, ecx, edx]) in lines {
        say("CPU:");
        say(&format!(
            "   {leaf:#010x} {subleaf:#04x}: eax={eax:#010x} ebx={ebx:#010x} ecx={ecx:#010x} edx={edx:#010x}"
        ));
    }
    log.ledger(0, &LEDGER);
    log.stop("powered-off");
    log.verdict("balanced", "");
    Account::new(&LogReader::read(log.0.as_bytes()).unwrap(), None, None)
}

const KERNEL: &str = "workloads=none book=none";

#[test]
fn values_that_the_ledger_allows_are_a_book() {
    let account = account(KERNEL, &GOOD);
    assert_eq!((account.status, &account.findings), (Status::Balanced, &Vec::new()));
    assert_eq!(account.books, [Book::Ledger, Book::Cpuid]);
    let bounds: Vec<_> = account.cpuid.iter().map(|value| (value.least, value.value, value.most)).collect();
    // The first total: one question, and at least as many left to come as there are questions behind it; 41 of the I/O
    // instructions and 6 of the CPUIDs were there at most.
    let expected = [
        (1, 30, 46),
        (2, 7, 13),
        (490, 560, 910),
        (0, 40, 41),
        (0, 0, 0),
        (40, 41, 100),
        (54, 60, 119),
        (3370, 3600, 7330),
    ];
    assert_eq!(bounds, expected);
    let titled = [Titled { title: String::new(), account }];
    let table = render(&titled, Format::Table);
    let verdict = "verdict: balanced: the ledger adds up, and allows all 8 values that cpuid read in the guest";
    assert!(table.replace('\n', " ").contains(verdict), "{table}");
    let json = render(&titled, Format::Json);
    assert!(json.contains("\"leaf\": \"0x4ffffffd\"") && json.contains("\"most\": 7330"), "{json}");
}

#[test]
fn a_value_that_the_ledger_does_not_allow_is_a_difference() {
    let check = |at: usize, registers: [u32; 4], finding: &str| {
        let mut lines = GOOD;
        lines[at].2 = registers;
        let account = account(KERNEL, &lines);
        assert_eq!(account.status, Status::Differs, "{finding}");
        assert!(account.findings.iter().any(|found| found == finding), "{finding}\n{:#?}", account.findings);
    };
    let io = "reason 30 I/O instruction, leaf 0x4ffffffd in the guest: cpuid read";
    check(6, [101, 0, 0, 0], &format!("{io} 101 exits, and the ledger allows 40 to 100"));
    check(6, [39, 0, 0, 0], &format!("{io} 39 exits, and the ledger allows 40 to 100"));
    let cpuid = "reason 10 CPUID, leaf 0x4ffffffd in the guest: cpuid read";
    check(1, [1, 0, 0, 0], &format!("{cpuid} 1 exits, and the ledger allows 2 to 13"));
    check(1, [14, 0, 0, 0], &format!("{cpuid} 14 exits, and the ledger allows 2 to 13"));
    let all = "all reasons, leaf 0x4fffffff in the guest: cpuid read";
    check(7, [53, 0, 0, 0], &format!("{all} 53 exits, and the ledger allows 54 to 119"));
    check(0, [47, 0, 0, 0], &format!("{all} 47 exits, and the ledger allows 1 to 46"));
    let cycles = "reason 10 CPUID, leaf 0x4ffffffc in the guest: cpuid read";
    check(2, [0, 0, 489, 0], &format!("{cycles} 489 cycles, and the ledger allows 490 to 910"));
    check(2, [0, 0, 911, 0], &format!("{cycles} 911 cycles, and the ledger allows 490 to 910"));
    let never = "and the leaf never gives that";
    check(
        5,
        [0, 0, 1, 0],
        "reason 12 HLT, leaf 0x4ffffffc in the guest: cpuid read 1 cycles, and the ledger allows 0 to 0",
    );
    check(
        4,
        [0; 4],
        &format!(
            "undefined reason 35, leaf 0x4ffffffd in the guest: cpuid read eax=0x0 ebx=0x0 ecx=0x0 edx=0x0, {never}"
        ),
    );
    check(3, [40, 0, 0, 1], &format!("{io} eax=0x28 ebx=0x0 ecx=0x0 edx=0x1, {never}"));
}

#[test]
fn the_answers_at_the_end_are_printed_as_cpuid_prints_them() {
    let answers = |map: &str| {
        let mut log = LogText::default();
        let header = log.record(Kind::Tollgate).number("protocol", 1).word("leaf_map", map).number("vcpus", 1);
        header.text("options", KERNEL).finish().unwrap();
        log.ledger(0, &LEDGER);
        log.verdict("balanced", "");
        let account = Account::new(&LogReader::read(log.0.as_bytes()).unwrap(), None, None);
        assert_eq!((account.totals.exits, account.totals.cycles), (120, 7400));
        render(&[Titled { title: String::new(), account }], Format::Leaves)
    };
    // Leaf, subleaf, EAX and EBX:ECX, as the tables of each term say.
    for (map, expected, lines) in [
        (
            "autumn2021",
            [
                (0x4fff_ffff, 0, 120, 0),
                (0x4fff_fffe, 0, 0, 7400),
                (0x4fff_fffd, 30, 100, 0),
                (0x4fff_fffc, 30, 0, 6000),
            ],
            2 + 2 * 86,
        ),
        (
            "autumn2022",
            [
                (0x4fff_fffc, 0, 120, 0),
                (0x4fff_fffd, 0, 0, 7400),
                (0x4fff_fffe, 30, 100, 0),
                (0x4fff_ffff, 30, 0, 6000),
            ],
            2 + 2 * 86,
        ),
        (
            "spring2021",
            [(0x4fff_ffff, 0, 120, 7400), (0x4fff_fffe, 10, 20, 0), (0x4fff_fffe, 30, 100, 0), (0x4fff_fffe, 0, 0, 0)],
            1 + 86,
        ),
    ] {
        let text = answers(map);
        let printed: Vec<&str> = text.lines().collect();
        assert_eq!(printed.len(), 2 * lines, "{map}");
        let mut seen = Vec::new();
        for two in printed.chunks(2) {
            assert_eq!(two[0], "CPU:");
            let line = CpuidLine::parse(two[1]).expect("it is a line of cpuid");
            assert_eq!(line.to_string(), two[1]);
            let undefined = line.answer == Answer::UNDEFINED;
            assert_eq!(undefined, !ExitReason(line.subleaf as u16).is_defined(), "{}", two[1]);
            seen.push((line.leaf, line.subleaf, line.answer.eax, line.answer.ebx_ecx()));
        }
        assert!(expected.iter().all(|line| seen.contains(line)), "{map}: {seen:x?}");
    }
    let reason = "CPU:\n   0x4ffffffd 0x1e: eax=0x00000064 ebx=0x00000000 ecx=0x00000000 edx=0x00000000\n";
    let undefined = "CPU:\n   0x4ffffffc 0x23: eax=0x00000000 ebx=0x00000000 ecx=0x00000000 edx=0xffffffff\n";
    let text = answers("autumn2021");
    assert!(text.contains(reason) && text.contains(undefined), "{text}");
}

#[test]
fn a_log_without_a_whole_ledger_has_no_answers() {
    let mut log = LogText::default();
    log.header(KERNEL);
    log.exit(&LEDGER[0]);
    let account = Account::new(&LogReader::read(log.0.as_bytes()).unwrap(), None, None);
    let text = render(&[Titled { title: "torn.log".to_owned(), account }], Format::Leaves);
    assert_eq!(text, "==> torn.log: no answers without a whole ledger: unfinished <==\n");
}

/// The findings about two lines, where the ledger's 20 exits of CPUID took 10 to 60 ticks, and 1,000 in all.
fn unequal(lines: [(u32, u32, [u32; 4]); 2]) -> Vec<String> {
    let mut log = LogText::default();
    log.header(KERNEL);
    for (leaf, subleaf, [eax, ebx, ecx, edx]) in lines {
        let line =
            format!("   {leaf:#010x} {subleaf:#04x}: eax={eax:#010x} ebx={ebx:#010x} ecx={ecx:#010x} edx={edx:#010x}");
        log.record(Kind::Console).text("text", line).finish().unwrap();
    }
    let row = log.record(Kind::Exit).number("vcpu", 0).number("reason", 10).text("name", "CPUID");
    let row = row.word("status", "enabled").number("count", 20).number("cycles", 1000).number("min", 10);
    row.number("max", 60).histogram("histogram", &[0, 0, 0, 4, 0, 16]).finish().unwrap();
    log.total(20, 20, 1000);
    log.stop("powered-off");
    log.verdict("balanced", "");
    Account::new(&LogReader::read(log.0.as_bytes()).unwrap(), None, None).findings
}

#[test]
fn an_exit_takes_as_long_as_the_ledgers_extremes_say() {
    let (count, cycles) = ((0x4fff_fffd, 10), (0x4fff_fffc, 10));
    let sentence = |read: u32, bounds: &str| {
        format!(
            "reason 10 CPUID, leaf 0x4ffffffc in the guest: cpuid read {read} cycles, and the ledger allows {bounds}"
        )
    };
    // Of the 7 exits up to the second question, five were over at the first: at most 60 ticks each.
    let early = |read: u32| unequal([(cycles.0, cycles.1, [0, 0, read, 0]), (count.0, count.1, [7, 0, 0, 0])]);
    assert_eq!(early(300), Vec::<String>::new());
    assert_eq!(early(301), [sentence(301, "0 to 300")]);
    // Of 20 exits 18 were over at the second question: two were to come, 60 ticks each, or one of 10.
    let late = |read: u32| unequal([(count.0, count.1, [18, 0, 0, 0]), (cycles.0, cycles.1, [0, 0, read, 0])]);
    assert_eq!([880, 990].map(late), [Vec::<String>::new(), Vec::new()]);
    assert_eq!(late(879), [sentence(879, "880 to 990")]);
    assert_eq!(late(991), [sentence(991, "880 to 990")]);
}

#[test]
fn the_guest_of_the_workloads_has_its_own_book() {
    let mut wrong = GOOD;
    wrong[0].2 = [1000, 0, 0, 0];
    let account = account("workloads=none", &wrong);
    assert!(account.cpuid.is_empty() && !account.books.contains(&Book::Cpuid));
}
