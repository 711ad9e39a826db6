//! The data set of many runs: its sums are those of merged runs, its columns keep their types, and it is read back row by row.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{LogText, Row, balanced, two_vcpus};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use proptest::prelude::*;
use tollgate_books::account::{Account, Merge, Share};
use tollgate_books::log::LogReader;
use tollgate_books::report::{ACCOUNTS, DataSet, RUNS, Titled};

fn titled(title: &str, log: &LogText) -> Titled {
    let account = Account::new(&LogReader::read(log.0.as_bytes()).unwrap(), None, None);
    Titled { title: title.to_owned(), account }
}

/// A data set of these runs, in a directory that goes when it is dropped.
fn data_set(runs: &[Titled]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("fleet");
    let mut data_set = DataSet::create(&place).unwrap();
    assert!(runs.iter().all(|run| data_set.add(run).unwrap()));
    data_set.finish().unwrap();
    (directory, place)
}

/// The files of a table, in the order of their folders.
fn files(place: &Path, table: &str) -> Vec<(String, SerializedFileReader<fs::File>)> {
    let mut files = Vec::new();
    for extension in fs::read_dir(place.join(table)).unwrap().map(Result::unwrap) {
        for platform in fs::read_dir(extension.path()).unwrap().map(Result::unwrap) {
            let path = platform.path().join("part-0.parquet");
            let name = path.parent().unwrap().strip_prefix(place.join(table)).unwrap().display().to_string();
            files.push((name, SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap()));
        }
    }
    files.sort_by(|a, b| a.0.cmp(&b.0));
    files
}

/// The rows of a file, as text.
fn rows(file: &SerializedFileReader<fs::File>) -> Vec<String> {
    file.get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect()
}

/// A run that ends in the middle of its ledger.
fn torn() -> LogText {
    let whole = balanced().0;
    LogText(whole[..whole.find("total ").unwrap()].to_owned())
}

#[test]
fn rows_are_read_back_by_partition() {
    let mut odd = LogText::default();
    odd.header_on("../a b", "svm", 1, "");
    odd.verdict("refused", "no nested paging");
    let runs = [titled("two.log", &two_vcpus()), titled("odd.log", &odd), titled("torn.log", &torn())];
    let (_kept, place) = data_set(&runs);
    let accounts = files(&place, "accounts");
    let names: Vec<&str> = accounts.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["virtualization=svm/platform=..%2Fa%20b", "virtualization=vt-x/platform=bochs"]);
    assert_eq!(rows(&accounts[0].1), Vec::<String>::new());
    let found = rows(&accounts[1].1);
    assert_eq!(found.len(), 7, "the torn run's ledger is not taken for a whole one: {found:#?}");
    // A bucket for each power of two up to that of 70 ticks.
    let first = "{log: \"two.log\", cpu: \"Test CPU\", vcpu: 0, number: 10, reason: \"CPUID\", count: 5, cycles: 350, min: 70, \
                 max: 70, looks: 0, histogram: [0, 0, 0, 0, 0, 0, 5]}";
    assert_eq!(found[0], first);
    let runs = files(&place, "runs");
    let odd = &rows(&runs[0].1)[0];
    for part in ["log: \"odd.log\"", "verdict: \"refused\"", "status: 3", "accounted: false", "guest_exits: null"] {
        assert!(odd.contains(part), "{part}: {odd}");
    }
    let [two, torn] = &rows(&runs[1].1)[..] else { panic!("two runs") };
    assert!(
        two.contains("accounted: true, exits: 17, entries: 17, cycles: 1405, elapsed: 10000, guest_exits: 17"),
        "{two}"
    );
    assert!(torn.contains("verdict: \"unfinished\"") && torn.contains("accounted: false"), "{torn}");
}

#[test]
fn columns_keep_their_names_and_types() {
    let (_kept, place) = data_set(&[titled("a.log", &balanced())]);
    for (table, agreed) in [
        (
            "runs",
            "log BYTE_ARRAY; cpu BYTE_ARRAY; build BYTE_ARRAY; options BYTE_ARRAY; leaf_map BYTE_ARRAY; sdm_edition BYTE_ARRAY; \
             vcpus INT32 u32; verdict BYTE_ARRAY; sentence BYTE_ARRAY; status INT32 u16; accounted BOOLEAN; exits INT64 u64; \
             entries INT64 u64; cycles INT64 u64; elapsed INT64 u64; guest_exits INT64 u64; seed INT64 u64; records INT64 u64; \
             noise INT64 u64; damaged INT64 u64",
        ),
        (
            "accounts",
            "log BYTE_ARRAY; cpu BYTE_ARRAY; vcpu INT32 u32; number INT32 u16; reason BYTE_ARRAY; count INT64 u64; \
             cycles INT64 u64; min INT64 u64; max INT64 u64; looks INT64 u64; histogram.list.element INT64 u64",
        ),
    ] {
        let (_, file) = &files(&place, table)[0];
        let metadata = file.metadata().file_metadata();
        let column = |column: &parquet::schema::types::ColumnDescPtr| {
            let kind = match column.logical_type() {
                Some(parquet::basic::LogicalType::Integer { bit_width, is_signed: false }) => format!(" u{bit_width}"),
                _ => String::new(),
            };
            format!("{} {}{kind}", column.path().string(), column.physical_type())
        };
        let found: Vec<String> = metadata.schema_descr().columns().iter().map(column).collect();
        assert_eq!(found.join("; "), agreed, "{table}: engines that have its older files expect these");
        let name = &metadata.key_value_metadata().unwrap()[0];
        assert_eq!(
            (name.key.as_str(), name.value.as_deref()),
            ("tollgate.schema", Some(&*format!("tollgate.{table}/1")))
        );
    }
    assert_eq!((RUNS.len(), ACCOUNTS.len()), (20, 11));
}

#[test]
fn platforms_without_end_are_no_data_set() {
    let directory = tempfile::tempdir().unwrap();
    let mut data_set = DataSet::create(&directory.path().join("fleet")).unwrap();
    let run = |platform: &str| {
        let mut log = LogText::default();
        log.header_on(platform, "vt-x", 1, "");
        titled("a.log", &log)
    };
    assert!(!data_set.add(&run(&"x".repeat(201))).unwrap(), "it is no folder's name");
    let taken = (0..100).filter(|number| data_set.add(&run(&format!("p{number}"))).unwrap()).count();
    assert_eq!(taken, 64);
    assert!(data_set.add(&run("p1")).unwrap(), "a platform that is there already");
    drop(data_set);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn its_sums_are_those_of_merged_runs(
        runs in proptest::collection::vec(
            (any::<bool>(), proptest::collection::btree_map(0u64..9, (1u64..1000, 1u64..100_000), 1..6)),
            1..30,
        ),
    ) {
        let mut merge = Merge::default();
        let mut all = Vec::new();
        for (at, (is_svm, rows)) in runs.iter().enumerate() {
            let mut log = LogText::default();
            log.header_on("bochs", if *is_svm { "svm" } else { "vt-x" }, 1, "");
            let rows: Vec<Row> =
                rows.iter().map(|(&reason, &(count, each))| Row { reason, name: "some reason", count, each }).collect();
            log.ledger(0, &rows);
            log.verdict("balanced", "");
            let titled = titled(&format!("{at}.log"), &log);
            prop_assert!(merge.add(Share::of(titled.account.clone())));
            all.push(titled);
        }
        let (_kept, place) = data_set(&all);
        let merged = merge.finish(0);
        for (name, file) in files(&place, "accounts") {
            let group = merged.groups.iter().find(|group| name.contains(&format!("={}/", group.platform.virtualization)));
            let group = group.expect("there is a group of this extension");
            let mut sums = std::collections::BTreeMap::<u16, [u64; 3]>::new();
            for row in file.get_row_iter(None).unwrap().map(Result::unwrap) {
                let sum = sums.entry(row.get_ushort(3).unwrap()).or_default();
                sum[0] += row.get_ulong(5).unwrap();
                sum[1] += row.get_ulong(6).unwrap();
                let histogram = row.get_list(10).unwrap().elements().iter();
                sum[2] += histogram.map(|field| field.to_string().parse::<u64>().unwrap()).sum::<u64>();
            }
            let expected = group.reasons.iter().map(|row| {
                let figures = row.reason.exits.figures;
                (row.reason.number, [figures.count, figures.cycles, figures.count])
            });
            prop_assert_eq!(sums, expected.collect());
        }
    }
}
