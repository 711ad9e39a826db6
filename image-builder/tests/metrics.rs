//! The metrics, by the parsers of their readers: promtool, whose parser the node exporter and other collectors have, and the Python
//! client of Prometheus for OpenMetrics.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{balanced, text, tollgate_in, two_vcpus};

/// Counts the samples of each type, and the sum of those in which all exits are.
const READ: &str = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    exits = sum(sample.value for sample in family.samples if sample.name in sys.argv[1:])
    print(family.name, family.type, len(family.samples), int(exits))
";

/// Two logs, one with a name that has to be escaped, as metrics of this form in a file; the file's path.
fn metrics(directory: &Path, arguments: &[&str]) -> std::path::PathBuf {
    let named = "a \"log\" \\.log";
    fs::write(directory.join(named), two_vcpus().0).unwrap();
    fs::write(directory.join("b.log"), balanced().0).unwrap();
    let arguments = [&["report", "--out", "tollgate.prom"], arguments, &[named, "b.log"]].concat();
    let output = tollgate_in(directory, &arguments, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    directory.join("tollgate.prom")
}

/// The output of a reader that takes a file without a word of reproach.
fn read_by(mut reader: Command, file: &Path) -> String {
    let program = reader.get_program().to_owned();
    let output = reader.stdin(Stdio::from(fs::File::open(file).unwrap())).output();
    let output =
        output.unwrap_or_else(|error| panic!("{program:?}: {error}; where it is missing, ci/setup installs it"));
    let said = text(&output.stderr) + &text(&output.stdout);
    assert!(output.status.success() && output.stderr.is_empty(), "{said}\n{}", fs::read_to_string(file).unwrap());
    text(&output.stdout)
}

#[test]
fn promtool_takes_the_classic_text_and_has_nothing_to_improve() {
    for merge in [&[][..], &["--merge"]] {
        let directory = tempfile::tempdir().unwrap();
        let file = metrics(directory.path(), &[&["--format", "prometheus"], merge].concat());
        let mut promtool = Command::new("promtool");
        promtool.args(["check", "metrics"]);
        assert_eq!(read_by(promtool, &file), "");
    }
}

#[test]
fn the_python_client_reads_the_openmetrics_text_with_its_sums() {
    let directory = tempfile::tempdir().unwrap();
    let file = metrics(directory.path(), &["--format", "openmetrics"]);
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", READ, "tollgate_exits_total", "tollgate_exit_ticks_count"]);
    let families = read_by(python, &file);
    for line in [
        "tollgate_run info 2 0",
        "tollgate_balanced gauge 2 0",
        "tollgate_exits counter 9 25",
        // 32 buckets with a bound and one without, sum and count, for each of nine.
        "tollgate_exit_ticks histogram 315 25",
        "tollgate_exit_min_ticks gauge 9 0",
    ] {
        assert!(families.lines().any(|found| found == line), "{line}\n{families}");
    }
}
