//! A log's exits one by one, as files for other programs: a trace for Perfetto, CSV, Parquet. Read and written as they come, in
//! memory that does not grow with the log.

mod chrome;
mod csv;
mod parquet;
mod symbols;
mod text;

pub use symbols::{Symbols, mark_of};

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use tollgate_abi::record::Kind;
use tollgate_abi::record::records::read;
use tollgate_abi::trace::{Event, Events};

use self::chrome::Chrome;
use self::csv::Csv;
use self::parquet::Parquet;
use crate::account::{Account, row_name};
use crate::failure::{Failure, Status};
use crate::log::{Log, LogError, LogReader, Steps};
use crate::output_file;
use crate::terminal::Terminal;

/// The form of a trace's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Chrome's trace events, which ui.perfetto.dev shows; one TSC tick is shown as one microsecond.
    Json,
    /// A line for each exit.
    Csv,
    /// Columns, for data frames and databases.
    Parquet,
}

impl Form {
    /// The form that belongs to a file's extension.
    ///
    /// # Errors
    /// None has this extension.
    pub fn of(path: &Path) -> Result<Self, Failure> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => Ok(Form::Json),
            Some("csv") => Ok(Form::Csv),
            Some("parquet") => Ok(Form::Parquet),
            _ => Err(Failure::usage(format_args!("{} has no extension of a trace's file", path.display()))
                .remedy("name a file that ends in .json (for ui.perfetto.dev), .csv or .parquet")),
        }
    }
}

/// Writes the trace of a log into a file, with the functions of its guest by name. Says on standard error what the trace has and
/// what is wrong with the log, and returns the status of the run.
///
/// # Errors
/// The log can't be read, or has no trace; or the file can't be written. The file then has its previous contents.
pub fn export(log: &Path, symbols: impl FnOnce() -> Result<Symbols, Failure>, out: &Path) -> Result<Status, Failure> {
    let form = Form::of(out)?;
    let unreadable = |error: &dyn std::fmt::Display| {
        Failure::usage(format_args!("{}: {error}", log.display()))
            .remedy("name a serial log as `tollgate run --trace FILE --out DIR` keeps it in DIR/serial.log")
    };
    let source = File::open(log).map_err(|error| unreadable(&error))?;
    let symbols = symbols()?;
    let account = output_file::fill(out, |file| {
        let read = convert(source, form, &symbols, file).map_err(|problem| match problem {
            Problem::Log(error) => unreadable(&error),
            Problem::Output(error) => output_file::cannot_write(out, &error),
        })?;
        let account = Account::new(&read, None, None);
        if account.traces.is_empty() {
            return Err(unreadable(&"the run kept no trace"));
        }
        Ok(account)
    })?;
    let terminal = Terminal::of_stderr();
    for traced in &account.traces {
        let dropped = if traced.dropped > 0 {
            format!("; {} more found its ring full (--trace-exits makes room for more)", traced.dropped)
        } else {
            String::new()
        };
        terminal.tell(&format!("{}: {} exits of vCPU {}{dropped}", out.display(), traced.exits, traced.vcpu));
    }
    account.findings.iter().for_each(|finding| terminal.tell(&format!("{}: {finding}", log.display())));
    Ok(account.status)
}

/// The reason that a trace could not be converted.
#[derive(Debug)]
pub enum Problem {
    /// The log can't be read, or is none.
    Log(LogError),
    /// The output can't be written.
    Output(io::Error),
}

/// Writes the trace of a log as it is read, with the symbols of the guest if they are known.
///
/// # Errors
/// The first error of either side.
pub fn convert(log: impl Read, form: Form, symbols: &Symbols, out: impl Write + Send) -> Result<Log, Problem> {
    let mut sink: Box<dyn Sink + '_> = match form {
        Form::Json => Box::new(Chrome::new(out)),
        Form::Csv => Box::new(Csv::new(out)),
        Form::Parquet => Box::new(Parquet::new(out).map_err(Problem::Output)?),
    };
    let mut result = Ok(());
    let read = LogReader::read_observed(log, &mut |record| {
        if record.kind != Kind::Trace || result.is_err() {
            return;
        }
        // The reader has checked the record, and that it can be unpacked.
        if let Ok(read::Trace { vcpu, tsc, data, .. }) = read::Trace::of(record) {
            let mut events = Events::new(tsc, data).flatten();
            result = events.try_for_each(|event| {
                sink.exit(&Exit { vcpu, event, name: row_name(event.reason), symbol: symbols.find(event.rip) })
            });
        }
    });
    let read = read.map_err(Problem::Log)?;
    let mut rates = read.rates.iter();
    result
        .and_then(|()| {
            rates.try_for_each(|(&(vcpu, reason), samples)| {
                let Steps { start, step, counts } = samples;
                sink.rate(&Rate { vcpu, name: row_name(reason), start: *start, step: *step, counts })
            })
        })
        .and_then(|()| sink.end())
        .map(|()| read)
        .map_err(Problem::Output)
}

/// One exit, as it is written.
pub(crate) struct Exit<'a> {
    pub(crate) vcpu: u64,
    pub(crate) event: Event,
    /// The reason's name.
    pub(crate) name: &'static str,
    /// The guest's function; empty if it is not known.
    pub(crate) symbol: &'a str,
}

/// Exits for one reason in equal steps of time, where the log has them.
pub(crate) struct Rate<'a> {
    pub(crate) vcpu: u64,
    /// The reason's name.
    pub(crate) name: &'static str,
    /// The TSC at which the first step begins.
    pub(crate) start: u64,
    /// TSC ticks of a step.
    pub(crate) step: u64,
    /// Exits in each step.
    pub(crate) counts: &'a [u64],
}

/// A taker of exits, one by one.
pub(crate) trait Sink {
    fn exit(&mut self, exit: &Exit<'_>) -> io::Result<()>;
    /// Takes samples over time, behind all exits. Forms that are a table of exits leave them out.
    fn rate(&mut self, _: &Rate<'_>) -> io::Result<()> {
        Ok(())
    }
    /// Writes the end of the file.
    fn end(self: Box<Self>) -> io::Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_abi::record::{PROTOCOL, Writer};
    use tollgate_abi::trace::Batch;

    /// A log whose `trace` records have these numbers.
    fn log(numbers: &[u64]) -> String {
        let mut text = String::new();
        Writer::new(&mut text, Kind::Tollgate).number("protocol", PROTOCOL).finish().unwrap();
        for &number in numbers {
            let mut batch = Batch::new();
            let cpuid = Event { tsc: 1000, reason: 10, cycles: 61, rip: 0x10_0000, qualification: 0 };
            batch.push(cpuid);
            batch.push(Event { tsc: 1087, reason: 30, qualification: 0x3f8_0000, ..cpuid });
            let record = Writer::new(&mut text, Kind::Trace).number("vcpu", 1).number("seq", number);
            let record = record.number("exits", batch.exits).number("tsc", batch.tsc);
            record.packed("data", &batch).finish().unwrap();
        }
        text
    }

    fn converted(form: Form) -> String {
        let mut out = Vec::new();
        convert(log(&[0]).as_bytes(), form, &Symbols::default(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn csv_has_a_line_for_each_exit() {
        let expected = "vcpu,tsc,reason,name,qualification,rip,symbol,cycles\n\
                        1,1000,10,\"CPUID\",0x0,0x100000,,61\n\
                        1,1087,30,\"I/O instruction\",0x3f80000,0x100000,,61\n";
        assert_eq!(converted(Form::Csv), expected);
    }

    #[test]
    fn json_has_a_track_for_each_vcpu() {
        let document: serde_json::Value = serde_json::from_str(&converted(Form::Json)).unwrap();
        let [_, track, first, second] = document["traceEvents"].as_array().unwrap().as_slice() else {
            panic!("{document:#}")
        };
        assert_eq!((&track["pid"], &track["tid"], &track["args"]["name"]), (&1.into(), &2.into(), &"vCPU 1".into()));
        assert_eq!((&first["pid"], &first["tid"]), (&1.into(), &2.into()));
        assert_eq!((&first["name"], &first["ts"], &first["dur"]), (&"CPUID".into(), &1000.into(), &61.into()));
        assert_eq!(second["args"]["qualification"], "0x3f80000");
    }

    #[test]
    fn parquet_has_a_column_for_each_property() {
        use ::parquet::file::reader::{FileReader, SerializedFileReader};

        let mut out = Vec::new();
        convert(log(&[0, 1]).as_bytes(), Form::Parquet, &Symbols::default(), &mut out).unwrap();
        let reader = SerializedFileReader::new(bytes::Bytes::from(out)).unwrap();
        let rows: Vec<String> = reader.get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect();
        let second = "{vcpu: 1, tsc: 1087, reason: 30, name: \"I/O instruction\", qualification: 66584576, rip: 1048576, \
                      symbol: \"\", cycles: 61}";
        assert_eq!((rows.len(), rows[1].as_str()), (4, second));
    }

    #[test]
    fn a_missing_line_is_noticed() {
        let missing = |numbers: &[u64]| {
            let read = convert(log(numbers).as_bytes(), Form::Csv, &Symbols::default(), io::sink()).unwrap();
            Account::new(&read, None, None).traces[0].missing_records
        };
        assert_eq!((missing(&[0, 1, 2]), missing(&[0, 2])), (0, 1));
    }

    #[test]
    fn a_log_that_is_none_leaves_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let (bad, out) = (directory.path().join("bad.log"), directory.path().join("trace.csv"));
        std::fs::write(&bad, log(&[0]).repeat(2)).unwrap();
        std::fs::write(&out, "before").unwrap();
        let failure = export(&bad, || Ok(Symbols::default()), &out).unwrap_err().to_string();
        assert!(failure.contains("starts another run"), "{failure}");
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "before");
    }
}
