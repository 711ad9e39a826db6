//! Parquet files of traces, read by the `parquet` crate: every row has the values that the CSV of the same log has.

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::statistics::Statistics;
use proptest::prelude::*;
use tollgate_abi::record::{Kind, PROTOCOL, Writer};
use tollgate_abi::trace::{Batch, Event};
use tollgate_books::trace::{Form, Symbols, convert};

/// The log of a run with these exits on vCPUs 0 and 1, in turns of so many.
fn log(events: &[Event], turn: usize) -> String {
    let mut text = String::new();
    Writer::new(&mut text, Kind::Tollgate).number("protocol", PROTOCOL).number("vcpus", 2).finish().unwrap();
    let mut records = [0, 0];
    for (at, events) in events.chunks(turn).enumerate() {
        let mut batch = Batch::new();
        events.iter().for_each(|&event| batch.push(event));
        assert_eq!(batch.exits, events.len() as u64);
        let record = Writer::new(&mut text, Kind::Trace).number("vcpu", at as u64 % 2).number("seq", records[at % 2]);
        let record = record.number("exits", batch.exits).number("tsc", batch.tsc);
        record.packed("data", &batch).finish().unwrap();
        records[at % 2] += 1;
    }
    text
}

fn converted(log: &str, form: Form) -> Vec<u8> {
    let mut out = Vec::new();
    convert(log.as_bytes(), form, Symbols::default(), &mut out).unwrap();
    out
}

/// The rows of a Parquet file, as CSV has them.
fn rows(file: Vec<u8>) -> Vec<String> {
    let reader = SerializedFileReader::new(bytes::Bytes::from(file)).unwrap();
    let number = |text: &str| text.parse::<u64>().unwrap();
    let row = |row: parquet::record::Row| {
        let of = |key: &str| {
            let (_, value) = row.get_column_iter().find(|(name, _)| *name == key).unwrap();
            value.to_string()
        };
        let [qualification, rip] = ["qualification", "rip"].map(|key| number(&of(key)));
        let [vcpu, tsc, reason, name, cycles] = ["vcpu", "tsc", "reason", "name", "cycles"].map(of);
        format!("{vcpu},{tsc},{reason},{name},{qualification:#x},{rip:#x},,{cycles}")
    };
    reader.get_row_iter(None).unwrap().map(|found| row(found.unwrap())).collect()
}

fn check(events: &[Event], turn: usize) {
    let log = log(events, turn);
    let csv = String::from_utf8(converted(&log, Form::Csv)).unwrap();
    let expected: Vec<&str> = csv.lines().skip(1).collect();
    assert_eq!(rows(converted(&log, Form::Parquet)), expected);
}

fn events(values: u64) -> impl Strategy<Value = Vec<Event>> {
    let near = || prop_oneof![8 => 0..values, 1 => any::<u64>()];
    let event =
        (any::<u64>(), 0..values, near(), near(), near()).prop_map(|(tsc, reason, cycles, rip, qualification)| Event {
            tsc,
            reason: reason as u16,
            cycles,
            rip,
            qualification,
        });
    proptest::collection::vec(event, 1..300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn rows_are_those_of_the_csv(few in events(3), many in events(60_000), turn in 1usize..40) {
        check(&few, turn);
        check(&many, turn);
    }
}

#[test]
fn one_value_takes_no_bits_and_each_number_of_values_its_own() {
    const ROWS: u64 = 4100;
    for (different, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (16, 4), (17, 5), (257, 9), (4097, 13)] {
        let event = |at: u64| Event { tsc: 10 * at, cycles: at % different, rip: 7, ..Event::default() };
        let events: Vec<Event> = (0..ROWS).map(event).collect();
        check(&events, 41);
        let reader =
            SerializedFileReader::new(bytes::Bytes::from(converted(&log(&events, 41), Form::Parquet))).unwrap();
        let bytes = reader.metadata().row_group(0).column(7).uncompressed_size() as u64;
        // The different values, and the headers of two pages.
        let (values, headers) = (8 * different, 100);
        assert!((0..headers).contains(&(bytes - values - ROWS * bits / 8)), "{different} values in {bytes} bytes");
    }
}

#[test]
fn groups_tell_their_extremes() {
    let event = |at: u64| Event { tsc: 1000 + at, reason: 10, cycles: u64::MAX - at, ..Event::default() };
    let log = log(&(0..9).map(event).collect::<Vec<_>>(), 5);
    let reader = SerializedFileReader::new(bytes::Bytes::from(converted(&log, Form::Parquet))).unwrap();
    let group = reader.metadata().row_group(0);
    let extremes = |at: usize| match group.column(at).statistics() {
        Some(Statistics::Int32(of)) => (*of.min_opt().unwrap() as u64, *of.max_opt().unwrap() as u64),
        Some(Statistics::Int64(of)) => (*of.min_opt().unwrap() as u64, *of.max_opt().unwrap() as u64),
        other => panic!("{other:?}"),
    };
    assert_eq!([0, 1, 2, 7].map(extremes), [(0, 1), (1000, 1008), (10, 10), (u64::MAX - 8, u64::MAX)]);
    let Some(Statistics::ByteArray(names)) = group.column(3).statistics() else { panic!("no names") };
    assert_eq!(names.min_opt().unwrap().data(), b"CPUID");
}
