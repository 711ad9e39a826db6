//! Every form of a report: that any run sums to its totals in each form, that OpenMetrics parses, and that merging is exact.

mod common;

use std::collections::BTreeMap;

use common::golden::golden;
use common::{LogText, Row, balanced, text, two_vcpus};
use openmetrics_parser::openmetrics::parse_openmetrics;
use openmetrics_parser::prometheus::parse_prometheus;
use openmetrics_parser::{HistogramValue, MetricNumber, OpenMetricsValue, PrometheusValue};
use proptest::prelude::*;
use tollgate_books::account::{Account, Merge, Share};
use tollgate_books::log::LogReader;
use tollgate_books::report::{Format, Look, Titled, render, render_as, render_merged};
use tollgate_books::terminal::Terminal;

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

/// Sums of a document's counters, and of its histograms as count, ticks and the last of the buckets, by their names in OpenMetrics.
type Sums = BTreeMap<String, [u64; 3]>;

fn add_histogram(sum: &mut [u64; 3], histogram: &HistogramValue) {
    sum[0] += histogram.count.unwrap();
    sum[1] += integer(histogram.sum.as_ref().unwrap());
    sum[2] += integer(&histogram.buckets.last().unwrap().count);
    assert!(histogram.buckets.windows(2).all(|two| two[0].upper_bound < two[1].upper_bound));
    assert!(histogram.buckets.windows(2).all(|two| integer(&two[0].count) <= integer(&two[1].count)));
}

fn sums(exposition: &str) -> Sums {
    let parsed = parse_openmetrics(exposition).unwrap_or_else(|error| panic!("{error}"));
    let mut sums = Sums::new();
    for (name, family) in &parsed.families {
        let sum = sums.entry(name.clone()).or_default();
        for sample in family.iter_samples() {
            match &sample.value {
                OpenMetricsValue::Counter(counter) => sum[0] += integer(&counter.value),
                OpenMetricsValue::Histogram(histogram) => add_histogram(sum, histogram),
                _ => {}
            }
        }
    }
    sums
}

fn classic_sums(exposition: &str) -> Sums {
    let parsed = parse_prometheus(exposition).unwrap_or_else(|error| panic!("{error}"));
    let mut sums = Sums::new();
    for (name, family) in &parsed.families {
        for sample in family.iter_samples() {
            match &sample.value {
                PrometheusValue::Counter(counter) => {
                    let name = name.strip_suffix("_total").expect("a counter's name ends so");
                    sums.entry(name.to_owned()).or_default()[0] += integer(&counter.value);
                }
                PrometheusValue::Histogram(histogram) => {
                    add_histogram(sums.entry(name.clone()).or_default(), histogram);
                }
                PrometheusValue::Gauge(_) => {
                    sums.entry(name.strip_suffix("_info").unwrap_or(name).to_owned()).or_default();
                }
                other => panic!("{name}: {other:?}"),
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

/// The numbers in the page that follow `beginning`, each up to the next quote.
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

#[test]
fn both_text_formats_say_the_same() {
    let both = [titled("a \"log\"\\\n.log", &two_vcpus()), titled("b.log", &balanced())];
    let classic = render(&both, Format::Prometheus);
    assert_eq!(classic_sums(&classic), sums(&render(&both, Format::Openmetrics)), "{classic}");
    let mut merge = Merge::default();
    assert!(both.iter().all(|titled| merge.add(Share::of(titled.account.clone()))));
    let merged = merge.finish(1);
    let written = |format| {
        let mut out = Vec::new();
        render_merged(&merged, format, Look::default(), &mut out).unwrap();
        text(&out)
    };
    assert_eq!(classic_sums(&written(Format::Prometheus)), sums(&written(Format::Openmetrics)));
}

/// A log of any rows on some vCPUs.
fn log_of(vcpus: &[BTreeMap<u64, (u64, u64)>]) -> LogText {
    let mut log = LogText::default();
    log.header_of(vcpus.len() as u64, &format!("workloads=none cpus={}", vcpus.len()));
    for (vcpu, rows) in vcpus.iter().enumerate() {
        let rows: Vec<Row> =
            rows.iter().map(|(&reason, &(count, each))| Row { reason, name: "some reason", count, each }).collect();
        log.ledger(vcpu as u64, &rows);
    }
    let mut book: BTreeMap<u64, u64> = BTreeMap::new();
    vcpus.iter().flatten().for_each(|(&reason, &(count, _))| *book.entry(reason).or_default() += count);
    book.iter().for_each(|(&reason, &count)| log.tally(reason, count));
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
        // In OpenMetrics, sums of ticks are floating-point numbers.
        prop_assert!(exposition["tollgate_exit_ticks"][1].abs_diff(cycles) <= cycles >> 40);
        prop_assert_eq!(classic_sums(&render(one, Format::Prometheus)), exposition);

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
            prop_assert!(merge.add(Share::of(account_of(&log_of(std::slice::from_ref(rows))))));
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
    golden("two_vcpus.prom", &render(&two, Format::Prometheus));
    let narrow = Terminal { columns: 40, wraps: true, colors: true, blocks: true };
    golden(
        "narrow.txt",
        &render_as(&two, Format::Table, Look { histogram: true, terminal: narrow, ..Look::default() }),
    );
    golden("histogram.txt", &render_as(&two, Format::Table, Look { histogram: true, ..Look::default() }));
    let mut merge = Merge::default();
    for log in [balanced(), two_vcpus(), balanced()] {
        assert!(merge.add(Share::of(account_of(&log))));
    }
    let merged = merge.finish(1);
    for (name, format) in [("merged.txt", Format::Table), ("merged.json", Format::Json), ("merged.csv", Format::Csv)] {
        let mut out = Vec::new();
        render_merged(&merged, format, Look::default(), &mut out).unwrap();
        golden(name, &text(&out));
    }
}
