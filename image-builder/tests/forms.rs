//! Every form of a report: that any run sums to its totals in each, that OpenMetrics parses, that merging is exact, and what
//! becomes of bad input and of places that can't be written to.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::golden::golden;
use common::{LogText, Row, balanced, text, tollgate_in, two_vcpus};
use image_builder::account::{Account, Merge};
use image_builder::log::LogReader;
use image_builder::report::{Format, Look, Titled, render, render_as, render_merged};
use image_builder::terminal::Terminal;
use openmetrics_parser::openmetrics::parse_openmetrics;
use openmetrics_parser::{MetricNumber, OpenMetricsValue};
use parquet::file::reader::{FileReader, SerializedFileReader};
use proptest::prelude::*;
use tollgate_abi::record::Kind;
use tollgate_abi::trace::{Batch, Event};

fn account_of(log: &LogText) -> Account {
    Account::new(&LogReader::read(log.0.as_bytes()).unwrap(), None, None)
}

fn titled(title: &str, log: &LogText) -> Titled {
    Titled { title: title.to_owned(), account: account_of(log) }
}

fn integer(number: &MetricNumber) -> u64 {
    match number {
        MetricNumber::Int(number) => u64::try_from(*number).unwrap(),
        MetricNumber::Float(number) => *number as u64,
    }
}

/// Sums of a document's counters, and of its histograms as count, ticks and the last of the buckets.
fn sums(exposition: &str) -> BTreeMap<String, [u64; 3]> {
    let parsed = parse_openmetrics(exposition).unwrap_or_else(|error| panic!("{error}"));
    let mut sums: BTreeMap<String, [u64; 3]> = BTreeMap::new();
    for (name, family) in &parsed.families {
        let sum = sums.entry(name.clone()).or_default();
        for sample in family.iter_samples() {
            match &sample.value {
                OpenMetricsValue::Counter(counter) => sum[0] += integer(&counter.value),
                OpenMetricsValue::Histogram(histogram) => {
                    sum[0] += histogram.count.unwrap();
                    sum[1] += integer(histogram.sum.as_ref().unwrap());
                    sum[2] += integer(&histogram.buckets.last().unwrap().count);
                    assert!(histogram.buckets.windows(2).all(|two| two[0].upper_bound < two[1].upper_bound));
                    assert!(histogram.buckets.windows(2).all(|two| integer(&two[0].count) <= integer(&two[1].count)));
                }
                _ => {}
            }
        }
    }
    sums
}

/// The sum of a column of CSV over the rows of all vCPUs.
fn column(csv: &str, name: &str) -> u64 {
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let headings = reader.headers().unwrap().clone();
    let at = |name: &str| headings.iter().position(|heading| heading == name);
    let rows = reader.records().map(Result::unwrap);
    let all = rows.filter(|row| at("vcpu").is_none_or(|at| &row[at] == "all"));
    all.map(|row| row[at(name).unwrap()].parse::<u64>().unwrap()).sum()
}

/// The numbers in the page behind this attribute-like beginning, up to the next quote.
fn attributes(page: &str, beginning: &str) -> Vec<u64> {
    page.split(beginning).skip(1).map(|rest| rest[..rest.find('"').unwrap()].parse().unwrap()).collect()
}

#[test]
fn the_exposition_is_valid_and_ends() {
    let exposition =
        render(&[titled("a \"log\"\\\n.log", &two_vcpus()), titled("b.log", &balanced())], Format::Openmetrics);
    assert!(exposition.ends_with("# EOF\n"));
    let sums = sums(&exposition);
    assert_eq!(sums["tollgate_exits"][0], 17 + 8);
    assert_eq!(sums["tollgate_exit_ticks"], [17 + 8, 1405 + 650, 17 + 8]);
    assert_eq!((sums["tollgate_guest_exits"][0], sums["tollgate_entries"][0]), (17 + 8, 17 + 8));
    let line = "tollgate_exits_total{log=\"b.log\",platform=\"bochs\",virtualization=\"vt-x\",vcpu=\"0\",number=\"10\",reason=\"CPUID\"} 5\n";
    assert!(exposition.contains(line), "{exposition}");
}

/// A log of any rows on some vCPUs.
fn log_of(vcpus: &[BTreeMap<u64, (u64, u64)>]) -> LogText {
    let mut log = LogText::default();
    log.header_of(vcpus.len() as u64, "");
    for (vcpu, rows) in vcpus.iter().enumerate() {
        let rows: Vec<Row> =
            rows.iter().map(|(&reason, &(count, each))| Row { reason, name: "some reason", count, each }).collect();
        log.ledger(vcpu as u64, &rows);
    }
    log.verdict("balanced", "");
    log
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_run_sums_to_its_totals_in_every_form(
        vcpus in proptest::collection::vec(
            proptest::collection::btree_map(0u64..87, (1u64..100_000, prop_oneof![1u64..300, 1u64..1 << 36]), 1..12),
            1..4,
        ),
    ) {
        let titled = titled("any.log", &log_of(&vcpus));
        let totals = titled.account.totals;
        let exits: u64 = vcpus.iter().flat_map(|rows| rows.values()).map(|row| row.0).sum();
        let cycles: u64 = vcpus.iter().flat_map(|rows| rows.values()).map(|row| row.0 * row.1).sum();
        prop_assert_eq!((totals.exits, totals.cycles), (exits, cycles));
        let one = std::slice::from_ref(&titled);

        let json: serde_json::Value = serde_json::from_str(&render(one, Format::Json)).unwrap();
        let sum = |field: &str| json["reasons"].as_array().unwrap().iter().map(|row| row[field].as_u64().unwrap()).sum::<u64>();
        prop_assert_eq!((sum("count"), sum("cycles")), (exits, cycles));

        let csv = render(one, Format::Csv);
        prop_assert_eq!((column(&csv, "count"), column(&csv, "cycles")), (exits, cycles));

        let exposition = sums(&render(one, Format::Openmetrics));
        prop_assert_eq!(exposition["tollgate_exits"][0], exits);
        prop_assert_eq!(exposition["tollgate_exit_ticks"][0], exits);
        prop_assert_eq!(exposition["tollgate_exit_ticks"][2], exits);
        // Sums of ticks are floating-point numbers there.
        prop_assert!(exposition["tollgate_exit_ticks"][1].abs_diff(cycles) <= cycles >> 40);

        let page = render(one, Format::Html);
        prop_assert_eq!(attributes(&page, "data-total=\"exits\" data-v=\""), [exits]);
        prop_assert_eq!(attributes(&page, "data-total=\"cycles\" data-v=\""), [cycles]);

        for columns in [40, 80, 120] {
            let terminal = Terminal { columns, wraps: true, ..Terminal::default() };
            let table = render_as(one, Format::Table, Look { histogram: true, terminal, ..Look::default() });
            let bars = table.lines().filter(|line| line.ends_with('#'));
            let drawn = bars.map(|line| line.split_whitespace().rev().nth(2).unwrap().parse::<u64>().unwrap());
            prop_assert_eq!(drawn.sum::<u64>(), exits);
            let widest = table.lines().map(|line| line.chars().count()).max().unwrap();
            prop_assert!(widest <= usize::from(columns), "{} columns, {} wanted:\n{}", widest, columns, table);
        }
    }

    #[test]
    fn merged_runs_sum_to_the_runs(
        runs in proptest::collection::vec(proptest::collection::btree_map(0u64..9, (1u64..1000, 1u64..100_000), 1..6), 1..9),
    ) {
        let mut merge = Merge::default();
        for rows in &runs {
            prop_assert!(merge.add(&account_of(&log_of(std::slice::from_ref(rows)))));
        }
        let merged = merge.finish(0);
        let exits: u64 = runs.iter().flat_map(|rows| rows.values()).map(|row| row.0).sum();
        let cycles: u64 = runs.iter().flat_map(|rows| rows.values()).map(|row| row.0 * row.1).sum();
        let written = |format| {
            let mut out = Vec::new();
            render_merged(&merged, format, Look::default(), &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        prop_assert_eq!((merged.runs, merged.groups.len()), (runs.len() as u64, 1));
        let group = &merged.groups[0];
        prop_assert_eq!((group.exits, group.cycles), (exits, cycles));
        let csv = written(Format::Csv);
        prop_assert_eq!((column(&csv, "count"), column(&csv, "cycles")), (exits, cycles));
        let exposition = sums(&written(Format::Openmetrics));
        prop_assert_eq!(exposition["tollgate_merged_exits"][0], exits);
        prop_assert_eq!(exposition["tollgate_runs"][0], runs.len() as u64);
        prop_assert_eq!(attributes(&written(Format::Html), "data-total=\"exits\" data-v=\""), [exits]);
        for row in &group.reasons {
            let number = u64::from(row.reason.number);
            let mut counts: Vec<u64> = runs.iter().map(|rows| rows.get(&number).map_or(0, |row| row.0)).collect();
            counts.sort_unstable();
            prop_assert_eq!(row.count.min, counts[0]);
            prop_assert_eq!(row.count.median, counts[(counts.len() - 1) / 2]);
            prop_assert_eq!(row.count.max, counts[counts.len() - 1]);
            let mut averages: Vec<u64> = runs.iter().filter_map(|rows| rows.get(&number)).map(|row| row.1).collect();
            averages.sort_unstable();
            prop_assert_eq!(row.average.median, averages[(averages.len() - 1) / 2] as f64);
            prop_assert_eq!(row.runs, averages.len() as u64);
        }
    }
}

#[test]
fn forms_are_as_agreed() {
    let two = [titled("two.log", &two_vcpus())];
    golden("two_vcpus.html", &render(&two, Format::Html));
    golden("two_vcpus.openmetrics", &render(&two, Format::Openmetrics));
    let narrow = Terminal { columns: 40, wraps: true, colors: true, blocks: true };
    golden(
        "narrow.txt",
        &render_as(&two, Format::Table, Look { histogram: true, terminal: narrow, ..Look::default() }),
    );
    golden("histogram.txt", &render_as(&two, Format::Table, Look { histogram: true, ..Look::default() }));
    let mut merge = Merge::default();
    for log in [balanced(), two_vcpus(), balanced()] {
        assert!(merge.add(&account_of(&log)));
    }
    let merged = merge.finish(1);
    for (name, format) in [("merged.txt", Format::Table), ("merged.json", Format::Json), ("merged.csv", Format::Csv)] {
        let mut out = Vec::new();
        render_merged(&merged, format, Look::default(), &mut out).unwrap();
        golden(name, &text(&out));
    }
}

/// A run on two vCPUs whose exits were traced, of which one was dropped, and sampled over time.
fn traced() -> LogText {
    let mut log = LogText::default();
    log.header_of(2, "leaf-map=autumn2021 workloads=cpuid:5 cpus=2 trace=4 rate-step=100");
    let cpuid = Event { tsc: 1000, reason: 10, cycles: 61, rip: 0x10_0000, qualification: 0 };
    let out = Event { reason: 30, cycles: 80, rip: 0x10_00a7, qualification: 0x3f8_0000, ..cpuid };
    let late = Event { tsc: u64::MAX - 5, reason: 48, cycles: 4_000_000_000, rip: u64::MAX, qualification: u64::MAX };
    let batches: [&[Event]; 3] =
        [&[cpuid, Event { tsc: 1090, ..cpuid }], &[Event { tsc: 1250, ..out }], &[cpuid, late]];
    for (vcpu, seq, events) in [(0, 0, batches[0]), (1, 0, batches[2]), (0, 1, batches[1])] {
        let mut batch = Batch::new();
        events.iter().for_each(|&event| batch.push(event));
        let record = log.record(Kind::Trace).number("vcpu", vcpu).number("seq", seq);
        let record = record.number("exits", batch.exits).number("tsc", batch.tsc);
        record.packed("data", &batch).finish().unwrap();
    }
    let record = log.record(Kind::Dropped).number("vcpu", 0).number("reason", 10);
    record.number("count", 1).number("cycles", 61).finish().unwrap();
    for (vcpu, records, exits, dropped) in [(0, 2, 3, 1), (1, 1, 2, 0)] {
        let record = log.record(Kind::Traced).number("vcpu", vcpu).number("seq", records);
        record.number("exits", exits).number("dropped", dropped).number("ring", 4).finish().unwrap();
    }
    for (vcpu, reason, step, counts) in [(0, 10, 100, [3, 0, 0]), (0, 30, 100, [0, 0, 1]), (1, 10, 200, [1, 1, 0])] {
        log.rate(vcpu, reason, (1000, step), &counts);
    }
    log
}

#[test]
fn traces_are_as_agreed() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("traced.log"), traced().0).unwrap();
    for form in ["json", "csv", "parquet"] {
        let out = format!("trace.{form}");
        let output = tollgate_in(directory.path(), &["trace", "traced.log", "--out", &out], &[]);
        let said = text(&output.stderr);
        assert!(
            said.contains("3 exits of vCPU 0; 1 more found its ring full") && said.contains("2 exits of vCPU 1"),
            "{said}"
        );
        let written = fs::read(directory.path().join(&out)).unwrap();
        if form == "parquet" {
            let reader = SerializedFileReader::new(bytes::Bytes::from(written)).unwrap();
            let columns = reader.metadata().file_metadata().schema_descr().columns().iter();
            let columns = columns.map(|column| format!("{} {:?}\n", column.name(), column.physical_type()));
            let rows = reader.get_row_iter(None).unwrap().map(|row| format!("{}\n", row.unwrap()));
            golden("trace.parquet.txt", &columns.chain(rows).collect::<String>());
        } else {
            golden(&out, &text(&written));
        }
    }
    // What a viewer makes of it: events that overlap or nest as the format allows, and counters that end.
    let document: serde_json::Value =
        serde_json::from_slice(&fs::read(directory.path().join("trace.json")).unwrap()).unwrap();
    let events = document["traceEvents"].as_array().unwrap();
    let of = |phase: &str| events.iter().filter(|event| event["ph"] == phase).cloned().collect::<Vec<_>>();
    assert_eq!((of("M").len(), of("X").len()), (5, 5));
    let counters = of("C");
    let of_vcpu_0 = counters.iter().filter(|event| event["name"] == "vCPU 0:");
    let of_cpuid =
        of_vcpu_0.clone().filter_map(|event| Some((event["ts"].as_u64()?, event["args"]["CPUID"].as_u64()?)));
    assert_eq!(of_cpuid.collect::<Vec<_>>(), [(1000, 3), (1100, 0)]);
    let last = of_vcpu_0.clone().next_back().unwrap();
    assert_eq!((&last["ts"], &last["args"]["I/O instruction"]), (&1300.into(), &0.into()));
}

/// A run of two microbenchmarks on a machine with this processor; `ticks` are what a CPUID took.
fn benched(cpu: &str, ticks: u32) -> LogText {
    const ITERATIONS: u64 = 1016;
    let mut log = LogText::default();
    log.header_with(["uefi", "VT-x", cpu], 1, "leaf-map=autumn2021 workloads=bench.empty,bench.cpuid");
    for (name, counts, ticks) in
        [("bench.empty", &[][..], 30), ("bench.cpuid", &[(10, ITERATIONS, ITERATIONS, ITERATIONS)], ticks)]
    {
        log.workload(name, ITERATIONS, counts);
        let record = log.record(Kind::Samples).word("workload", name).number("first", 0);
        record.runs("ticks", &[(ticks, 990), (ticks + 1, 10)]).finish().unwrap();
    }
    let record = log.record(Kind::Cost).word("workload", "bench.cpuid").number("reason", 10);
    record.number("exits", ITERATIONS).number("cycles", 70 * ITERATIONS).finish().unwrap();
    log.ledger(0, &[Row { count: ITERATIONS, ..common::CPUID }]);
    log.tally(10, ITERATIONS);
    log.stop("exited");
    log.verdict("balanced", "every book agrees");
    log
}

#[test]
fn microbenchmarks_of_a_real_machine_are_read_from_its_logs() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, log: &LogText| fs::write(directory.path().join(name), &log.0).unwrap();
    write("first.log", &benched("Test CPU", 1200));
    write("second.log", &benched("Test CPU", 1204));
    write("slower.log", &benched("Test CPU", 1500));
    write("other.log", &benched("Another CPU", 1200));
    write("none.log", &balanced());
    let mut torn = benched("Test CPU", 1200);
    torn.0.truncate(torn.0.rfind("verdict").unwrap());
    write("torn.log", &torn);
    let bench = |arguments: &[&str]| {
        let output = tollgate_in(directory.path(), &[&["bench", "--log"], arguments].concat(), &[]);
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (status, shown, said) = bench(&["first.log", "second.log", "--save", "base.json"]);
    assert_eq!(status, Some(0), "{said}");
    assert!(shown.contains("on Test CPU (log of uefi, VT-x)"), "{shown}");
    assert!(shown.contains(" cpuid         2000  1200    1201  1204  1204  1205"), "{shown}");
    assert_eq!(bench(&["second.log", "--against", "base.json"]).0, Some(0), "half a percent is noise");
    let (status, shown, _) = bench(&["slower.log", "--against", "base.json", "--filter", "cpuid"]);
    assert!(status == Some(1) && shown.contains("base.json: cpuid: ") && !shown.contains("empty: "), "{shown}");
    for (arguments, expected, sentence) in [
        (
            &["first.log", "other.log"][..],
            2,
            "other.log: it is of another machine than the first log: its processor is",
        ),
        (&["other.log", "--against", "base.json"], 2, "base.json can't be compared with: its processor is `Test CPU`"),
        (&["none.log"], 2, "none.log: the run has no microbenchmark in it"),
        (&["torn.log"], 4, "torn.log: nothing was measured: "),
        (&["absent.log"], 2, "absent.log: No such file"),
        (&["first.log", "absent.log"], 2, "what is left of the logs is not all that was measured"),
        (&["first.log", "--filter", "cpuidd"], 2, "did you mean `cpuid`?"),
        (&["first.log", "--cpu", "ryzen"], 2, "cannot be used with"),
    ] {
        let (status, _, said) = bench(arguments);
        assert_eq!(status, Some(expected), "{arguments:?}: {said}");
        assert!(said.contains(sentence), "{arguments:?}: {said}");
    }
}

const FORMS: [&str; 5] = ["table", "json", "csv", "html", "openmetrics"];

/// Good and bad logs in a directory, and beside them what is no log.
fn fleet() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let whole = balanced().0;
    write("a/serial.log", whole.as_bytes());
    write("b/TG000001.LOG", whole.as_bytes());
    write("b/bochs.log", b"Bochs says something\n");
    write("b/rom.bin", whole.as_bytes());
    write("torn/serial.log", &whole.as_bytes()[..whole.len() / 2]);
    write("twice/serial.log", whole.repeat(2).as_bytes());
    write("silent/serial.log", b"");
    let mut other = LogText::default();
    other.record(tollgate_abi::record::Kind::Tollgate).number("protocol", 2).finish().unwrap();
    write("other/serial.log", other.0.as_bytes());
    directory
}

#[test]
fn bad_logs_of_a_fleet_are_named_and_the_others_reported_in_every_form() {
    let directory = fleet();
    for merge in [&[][..], &["--merge"]] {
        for form in FORMS {
            let output = tollgate_in(directory.path(), &[&["report", "--format", form, "."], merge].concat(), &[]);
            let said = text(&output.stderr);
            // The torn one has no verdict, which is worse than a file that can't be used.
            assert_eq!(output.status.code(), Some(4), "{form}: {said}");
            for sentence in [
                "./silent/serial.log: the log is empty",
                "./twice/serial.log: line 12 starts another run",
                "./other/serial.log: the log is of protocol version 2",
                "3 of 6 logs can't be used",
                "1 file named .log passed over",
            ] {
                assert!(said.contains(sentence), "{form}: {sentence}: {said}");
            }
            assert!(!output.stdout.is_empty());
        }
    }
    let output = tollgate_in(directory.path(), &["report", "--format", "json", "."], &[]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let sources: Vec<&str> = json.as_array().unwrap().iter().map(|run| run["source"].as_str().unwrap()).collect();
    assert_eq!(sources, ["./a/serial.log", "./b/TG000001.LOG", "./torn/serial.log"]);
    let output = tollgate_in(directory.path(), &["report", "--merge", "--format", "json", "a", "b", "silent"], &[]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["runs"], &json["unusable"]), (&2.into(), &1.into()));
    assert_eq!(json["groups"][0]["reasons"][0]["count_of_a_run"]["median"], 5);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn where_nothing_can_be_used_nothing_is_written() {
    let directory = fleet();
    fs::write(directory.path().join("kept"), "as it was").unwrap();
    for form in FORMS {
        let output =
            tollgate_in(directory.path(), &["report", "--format", form, "--out", "kept", "silent", "twice"], &[]);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
        assert!(text(&output.stderr).contains("nothing to report: 2 logs can't be used"), "{}", text(&output.stderr));
        assert_eq!(fs::read_to_string(directory.path().join("kept")).unwrap(), "as it was");
    }
}

fn shell(directory: &Path, script: &str) -> Output {
    let mut command = Command::new("bash");
    command.current_dir(directory).args(["-c", script, "bash", env!("CARGO_BIN_EXE_tollgate")]);
    command.output().unwrap()
}

#[test]
fn a_full_disk_is_a_failure_that_loses_nothing() {
    let directory = fleet();
    for form in FORMS {
        let output = shell(directory.path(), &format!("\"$1\" report --format {form} a/serial.log > /dev/full"));
        assert_eq!(output.status.code(), Some(2), "{form}");
        assert!(text(&output.stderr).contains("standard output can't be written: No space left"), "{form}");
        // A limit on the size of files ends a write as a full disk does.
        fs::write(directory.path().join("kept"), "as it was").unwrap();
        let limited = format!("trap '' XFSZ; ulimit -f 0; \"$1\" report --format {form} --out kept a/serial.log");
        let output = shell(directory.path(), &limited);
        assert_eq!(output.status.code(), Some(2), "{form}");
        assert!(text(&output.stderr).contains("kept can't be written: "), "{form}: {}", text(&output.stderr));
        assert_eq!(fs::read_to_string(directory.path().join("kept")).unwrap(), "as it was");
    }
    fs::write(directory.path().join("traced.log"), traced().0).unwrap();
    for form in ["json", "csv", "parquet"] {
        let out = format!("kept.{form}");
        fs::write(directory.path().join(&out), "as it was").unwrap();
        let output =
            shell(directory.path(), &format!("trap '' XFSZ; ulimit -f 0; \"$1\" trace traced.log --out {out}"));
        assert_eq!(output.status.code(), Some(2), "{form}");
        assert!(
            text(&output.stderr).contains(&format!("{out} can't be written: ")),
            "{form}: {}",
            text(&output.stderr)
        );
        assert_eq!(fs::read_to_string(directory.path().join(&out)).unwrap(), "as it was");
    }
    let names = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().starts_with('.')), "a temporary file stayed");
    let output = shell(directory.path(), "set -o pipefail; \"$1\" report a/serial.log | head -n 1");
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "a reader that goes away");
}

#[test]
fn a_log_longer_than_memory_is_read_as_it_comes() {
    const MIB: usize = 1 << 20;
    let mut more = LogText::default();
    while more.0.len() < MIB {
        more.record(Kind::Console).text("text", "one of many lines").finish().unwrap();
    }
    let whole = balanced().0;
    let (header, rest) = whole.split_at(whole.find('\n').unwrap() + 1);
    let mut command = Command::new("bash");
    command.args(["-c", "ulimit -v 32768; exec \"$1\" report -", "bash", env!("CARGO_BIN_EXE_tollgate")]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tool = command.spawn().unwrap();
    let mut log = tool.stdin.take().unwrap();
    let mut written = log.write_all(header.as_bytes());
    for _ in 0..32 {
        written = written.and_then(|()| log.write_all(more.0.as_bytes()));
    }
    written = written.and_then(|()| log.write_all(rest.as_bytes()));
    drop(log);
    let output = tool.wait_with_output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "32 MiB of log in 32 MiB of memory: {written:?}, {}",
        text(&output.stderr)
    );
    assert!(text(&output.stdout).ends_with("verdict: balanced\n"), "{}", text(&output.stdout));
}

#[test]
fn forms_that_keep_accounts_say_how_many_they_have_room_for() {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..101 {
        fs::write(directory.path().join(format!("{number}.log")), balanced().0).unwrap();
    }
    let report = |arguments: &[&str]| tollgate_in(directory.path(), arguments, &[]);
    let output = report(&["report", "--format", "html", "."]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("room for 100 runs, and there are more"), "{}", text(&output.stderr));
    let output = report(&["report", "--format", "html", "--merge", "."]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(report(&["report", "--format", "openmetrics", "."]).status.code(), Some(0));
}

#[test]
fn a_terminal_has_colors_unless_they_are_not_wanted() {
    let directory = fleet();
    let terminal = |before: &str| {
        let script = format!("stty rows 30 cols 40; {before} $TOLLGATE report --histogram a/serial.log");
        let mut command = Command::new("script");
        command.current_dir(directory.path()).args(["-qec", &script, "/dev/null"]);
        command.env("TOLLGATE", env!("CARGO_BIN_EXE_tollgate")).env("LC_ALL", "C.UTF-8").env("TERM", "xterm");
        text(&command.env_remove("NO_COLOR").output().expect("util-linux has `script`").stdout)
    };
    let colored = terminal("");
    assert!(colored.contains("\u{1b}[1m\u{1b}[32mverdict: balanced\u{1b}[0m"), "{colored}");
    assert!(colored.contains('\u{2588}'), "{colored}");
    let plain = terminal("NO_COLOR=1");
    assert!(!plain.contains('\u{1b}') && plain.contains("verdict: balanced"), "{plain}");
    assert!(plain.lines().all(|line| line.trim_end().chars().count() <= 40), "{plain}");
    assert!(!terminal("TERM=dumb").contains('\u{1b}'));
    assert!(!terminal("LC_ALL=C").contains('\u{2588}'));
}

#[test]
fn order_is_as_asked() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("two.log"), two_vcpus().0).unwrap();
    let first = |order: &str| {
        let output = tollgate_in(directory.path(), &["report", "--sort", order, "two.log"], &[]);
        text(&output.stdout).lines().nth(3).unwrap().split_whitespace().next().unwrap().to_owned()
    };
    // Samples: 1 1, 10 10, 12 1, 18 3, 32 2. Ticks each: 80, 70 to 75, 120, 100, 90.
    for (order, expected) in
        [("samples", "10"), ("time", "10"), ("min", "12"), ("max", "12"), ("avg", "12"), ("number", "1")]
    {
        assert_eq!(first(order), expected, "{order}");
    }
}
