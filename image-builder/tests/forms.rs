//! Forms of a report as the tool writes them: traces, bad input, and places that can't be written to.

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::golden::golden;
use common::{LogText, Row, balanced, text, tollgate_in, two_vcpus};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use tollgate_abi::record::Kind;
use tollgate_abi::trace::{Batch, Event};

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
    // The view of a viewer: events that overlap or nest as the format allows, and counters that end.
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

/// A run of two microbenchmarks on a machine with this processor; a CPUID took `ticks`.
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
        (&["first.log", "absent.log"], 2, "the whole records of these logs are not all that was measured"),
        (&["first.log", "--filter", "cpuidd"], 2, "did you mean `cpuid`?"),
        (&["first.log", "--cpu", "ryzen"], 2, "cannot be used with"),
    ] {
        let (status, _, said) = bench(arguments);
        assert_eq!(status, Some(expected), "{arguments:?}: {said}");
        assert!(said.contains(sentence), "{arguments:?}: {said}");
    }
}

const FORMS: [&str; 7] = ["table", "json", "csv", "html", "openmetrics", "prometheus", "leaves"];

/// Good and bad logs in a directory, and beside them other files.
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
            // The torn log has no verdict, which is worse than a file that can't be used.
            assert_eq!(output.status.code(), Some(4), "{form}: {said}");
            for sentence in [
                "./silent/serial.log: the log is empty",
                "./other/serial.log: the log is of protocol version 2",
                "2 of 7 logs can't be used",
                "1 file named .log passed over, no record of a run: ./b/bochs.log",
            ] {
                assert!(said.contains(sentence), "{form}: {sentence}: {said}");
            }
            assert!(!output.stdout.is_empty());
        }
    }
    let output = tollgate_in(directory.path(), &["report", "--format", "json", "."], &[]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let sources: Vec<&str> = json.as_array().unwrap().iter().map(|run| run["source"].as_str().unwrap()).collect();
    assert_eq!(
        sources,
        ["./a/serial.log", "./b/TG000001.LOG", "./torn/serial.log", "./twice/serial.log", "./twice/serial.log#2"]
    );
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
            tollgate_in(directory.path(), &["report", "--format", form, "--out", "kept", "silent", "other"], &[]);
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
    // An allocator's arena for a thread of its own takes no memory, but more addresses than these.
    command.env("MALLOC_ARENA_MAX", "1");
    command.args(["-c", "ulimit -v 49152; exec \"$1\" report -", "bash", env!("CARGO_BIN_EXE_tollgate")]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tool = command.spawn().unwrap();
    let mut log = tool.stdin.take().unwrap();
    let mut written = log.write_all(header.as_bytes());
    for _ in 0..64 {
        written = written.and_then(|()| log.write_all(more.0.as_bytes()));
    }
    written = written.and_then(|()| log.write_all(rest.as_bytes()));
    drop(log);
    let output = tool.wait_with_output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "64 MiB of log in 48 MiB of memory: {written:?}, {}",
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
fn a_data_set_has_the_good_logs_of_a_fleet_and_the_bad_ones_are_named() {
    let directory = fleet();
    let output = tollgate_in(directory.path(), &["report", "--format", "parquet", "--out", "set", "."], &[]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("other/serial.log: "), "{}", text(&output.stderr));
    let file = directory.path().join("set/runs/virtualization=vt-x/platform=bochs/part-0.parquet");
    let file = SerializedFileReader::new(fs::File::open(file).unwrap()).unwrap();
    let mut verdicts: Vec<String> =
        file.get_row_iter(None).unwrap().map(|row| row.unwrap().get_string(7).unwrap().clone()).collect();
    verdicts.sort();
    assert_eq!(verdicts, ["balanced", "balanced", "balanced", "balanced", "unfinished"]);
    let again = tollgate_in(directory.path(), &["report", "--format", "parquet", "--out", "set", "."], &[]);
    assert_eq!(again.status.code(), Some(2));
}

#[test]
fn csv_has_the_signs_of_a_locale() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("one.log"), two_vcpus().0).unwrap();
    let cpuid = |signs: &[&str], merge: &[&str]| {
        let output =
            tollgate_in(directory.path(), &[&["report", "--format", "csv", "one.log"], signs, merge].concat(), &[]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout).lines().find(|line| line.contains("CPUID")).unwrap().to_owned()
    };
    assert_eq!(cpuid(&[], &[]), "one.log,all,10,CPUID,enabled,10,725,70,75,72.50,10,");
    assert_eq!(cpuid(&["--decimal-comma"], &[]), "one.log;all;10;CPUID;enabled;10;725;70;75;72,50;10;");
    assert_eq!(
        cpuid(&["--csv-delimiter", "tab"], &[]),
        "one.log\tall\t10\tCPUID\tenabled\t10\t725\t70\t75\t72.50\t10\t"
    );
    let quoted = cpuid(&["--decimal-comma", "--csv-delimiter", "comma"], &[]);
    assert_eq!(quoted, "one.log,all,10,CPUID,enabled,10,725,70,75,\"72,50\",10,");
    let merged = cpuid(&["--decimal-comma"], &["--merge"]);
    assert!(merged.ends_with(";10;CPUID;1;10;725;70;75;72,50;10;10;10;72,50;72,50;72,50"), "{merged}");
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
