//! A log's exits one by one, as files for other programs: a trace for Perfetto, CSV, Parquet. Read and written as they come, in
//! memory that does not grow with the log.

mod block;
mod chrome;
mod csv;
mod dictionary;
mod parquet;
mod pipeline;
mod text;

pub use crate::symbols::Symbols;
use crate::symbols::mark_of;

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use tollgate_abi::record::records::read;
use tollgate_abi::record::{Kind, Record};

use self::block::Block;
use self::chrome::Chrome;
use self::csv::Csv;
use self::parquet::Parquet;
use crate::account::{Account, row_name};
use crate::failure::{Failure, Status};
use crate::log::{Log, LogError, LogReader, Run, Select, Steps, read_file};
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

/// Writes the trace of a log into a file, with the functions of its guest by name: `symbols` gets the mark of the guest that the log
/// has, once there are exits to name. Says on standard error what the trace has and what is wrong with the log, and returns the status
/// of the run. The log is opened once, so that a pipe will do; `FILE#2` is the second run of a file.
///
/// # Errors
/// The log can't be read, has no trace, or has several runs; or the file can't be written. The file then has its previous contents.
pub fn export(
    log: &Path,
    symbols: impl FnOnce(Option<u32>) -> Result<Symbols, Failure>,
    out: &Path,
) -> Result<Status, Failure> {
    let form = Form::of(out)?;
    let unreadable = |error: &dyn std::fmt::Display| {
        Failure::usage(format_args!("{}: {error}", log.display()))
            .remedy("name a serial log as `tollgate run --trace FILE --out DIR` keeps it in DIR/serial.log")
    };
    let account = output_file::fill(out, |file| {
        let read = convert_file(&Select::of(log), form, symbols, file).map_err(|problem| match problem {
            Problem::Log(error) => unreadable(&error),
            Problem::Output(error) => output_file::cannot_write(out, &error),
            Problem::Symbols(failure) => failure,
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
    /// The guest can't be used.
    Symbols(Failure),
}

/// Writes the trace of a log as it is read, with the symbols of the guest if they are known.
///
/// # Errors
/// The first error of either side.
pub fn convert(log: impl Read, form: Form, symbols: Symbols, out: impl Write + Send) -> Result<Log, Problem> {
    let mut conversion = Conversion::new(form, |_| Ok(symbols), out).map_err(Problem::Output)?;
    let read = LogReader::read_observed(log, &mut |record| conversion.take(record));
    conversion.finish(read)
}

/// Writes the trace of one run of a file, the only one if none is named.
fn convert_file(
    select: &Select,
    form: Form,
    symbols: impl FnOnce(Option<u32>) -> Result<Symbols, Failure>,
    out: impl Write + Send,
) -> Result<Log, Problem> {
    let mut conversion = Conversion::new(form, symbols, out).map_err(Problem::Output)?;
    let wanted = select.run.unwrap_or(1);
    let mut runs = Vec::new();
    let observe = &mut |number, record: &Record<'_>| {
        if number == wanted {
            conversion.take(record);
        }
    };
    read_file(select, observe, &mut |run| {
        runs.push(run);
        // The second is told, and no more.
        if runs.len() > 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let read = match (runs.pop(), runs.pop()) {
        (Some(run), None) => run.log,
        (Some(Run { log: Err(error), .. }), _) => Err(error),
        _ => Err(LogError::SeveralRuns),
    };
    conversion.finish(read)
}

/// A trace on its way from the records of a run to a file.
struct Conversion<'a, F> {
    sink: Box<dyn Sink + 'a>,
    /// The functions of the guest, once there are exits to name; until then the way to find them.
    symbols: Result<Arc<Symbols>, Option<F>>,
    /// The exits that wait to be encoded.
    block: Block,
    /// vCPUs that have exits.
    vcpus: BTreeSet<u64>,
    mark: Option<u32>,
    result: Result<(), Problem>,
}

impl<'a, F: FnOnce(Option<u32>) -> Result<Symbols, Failure>> Conversion<'a, F> {
    fn new(form: Form, symbols: F, out: impl Write + Send + 'a) -> io::Result<Self> {
        let sink: Box<dyn Sink + 'a> = match form {
            Form::Json => Box::new(Chrome::new(out)?),
            Form::Csv => Box::new(Csv::new(out)?),
            Form::Parquet => Box::new(Parquet::new(out)?),
        };
        let (block, vcpus) = (Block::default(), BTreeSet::new());
        Ok(Self { sink, symbols: Err(Some(symbols)), block, vcpus, mark: None, result: Ok(()) })
    }

    /// Takes a record that the reader has checked, and that can be unpacked if it is of a trace.
    fn take(&mut self, record: &Record<'_>) {
        match record.kind {
            Kind::Tollgate => self.mark = mark_of(record),
            Kind::Trace if self.result.is_ok() => self.result = self.exits(record),
            _ => {}
        }
    }

    fn exits(&mut self, record: &Record<'_>) -> Result<(), Problem> {
        if let Err(find) = &mut self.symbols {
            let found = find.take().map_or_else(|| Ok(Symbols::default()), |find| find(self.mark));
            self.symbols = Ok(Arc::new(found.map_err(Problem::Symbols)?));
        }
        let Ok(read::Trace { vcpu, tsc, exits, data, .. }) = read::Trace::of(record) else { return Ok(()) };
        self.block.add(vcpu, self.vcpus.insert(vcpu), tsc, exits, data);
        if self.block.exits < self.sink.block_exits() { Ok(()) } else { self.push().map_err(Problem::Output) }
    }

    fn push(&mut self) -> io::Result<()> {
        let mut block = std::mem::take(&mut self.block);
        if let Ok(symbols) = &self.symbols {
            block.symbols = Arc::clone(symbols);
        }
        self.sink.push(block)
    }

    /// Writes the end, given the run that was read.
    fn finish(mut self, read: Result<Log, LogError>) -> Result<Log, Problem> {
        std::mem::replace(&mut self.result, Ok(()))?;
        let read = read.map_err(Problem::Log)?;
        let last = if self.block.exits > 0 { self.push() } else { Ok(()) };
        let mut rates = read.rates.iter();
        let rates = last.and_then(|()| {
            rates.try_for_each(|(&(vcpu, reason), samples)| {
                let Steps { start, step, counts } = samples;
                self.sink.rate(&Rate { vcpu, name: row_name(reason), start: *start, step: *step, counts })
            })
        });
        rates.and_then(|()| self.sink.end()).map(|()| read).map_err(Problem::Output)
    }
}

/// Exits for one reason in equal steps of time, where the log has them.
struct Rate<'a> {
    vcpu: u64,
    /// The reason's name.
    name: &'static str,
    /// The TSC at which the first step begins.
    start: u64,
    /// TSC ticks of a step.
    step: u64,
    /// Exits in each step.
    counts: &'a [u64],
}

/// A taker of exits, a block at a time.
trait Sink {
    /// The exits of a block, or a few more; the last has fewer.
    fn block_exits(&self) -> usize;
    /// Takes a block.
    fn push(&mut self, block: Block) -> io::Result<()>;
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
    use tollgate_abi::trace::{Batch, Event};

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
        convert(log(&[0]).as_bytes(), form, Symbols::default(), &mut out).unwrap();
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
        convert(log(&[0, 1]).as_bytes(), Form::Parquet, Symbols::default(), &mut out).unwrap();
        let reader = SerializedFileReader::new(bytes::Bytes::from(out)).unwrap();
        let rows: Vec<String> = reader.get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect();
        let second = "{vcpu: 1, tsc: 1087, reason: 30, name: \"I/O instruction\", qualification: 66584576, rip: 1048576, \
                      symbol: \"\", cycles: 61}";
        assert_eq!((rows.len(), rows[1].as_str()), (4, second));
    }

    #[test]
    fn a_missing_line_is_noticed() {
        let missing = |numbers: &[u64]| {
            let read = convert(log(numbers).as_bytes(), Form::Csv, Symbols::default(), io::sink()).unwrap();
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
        let failure = export(&bad, |_| Ok(Symbols::default()), &out).unwrap_err().to_string();
        assert!(failure.contains("has several runs"), "{failure}");
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "before");
    }
}
