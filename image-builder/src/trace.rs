//! A log's exits one by one, as files for other programs: a trace for Perfetto, or CSV. Read and written as they come, in memory
//! that does not grow with the log.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use tollgate_abi::record::{Kind, Record};
use tollgate_abi::trace::{Event, Events};

use crate::account::{Account, row_name};
use crate::failure::{Failure, Status};
use crate::log::{Log, LogError, LogReader};
use crate::output_file;

/// The form of a trace's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Chrome's trace events, which ui.perfetto.dev shows; one TSC tick is shown as one microsecond.
    Json,
    /// A line for each exit.
    Csv,
}

impl Form {
    /// By the extension of a file.
    ///
    /// # Errors
    /// It is none of those that there are.
    pub fn of(path: &Path) -> Result<Self, Failure> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => Ok(Form::Json),
            Some("csv") => Ok(Form::Csv),
            _ => Err(Failure::usage(format_args!("{} has no extension of a trace's file", path.display()))
                .remedy("name a file that ends in .json (for ui.perfetto.dev) or .csv")),
        }
    }
}

/// Writes the trace of a log into a file, says on standard error what is in it and what is wrong with the log, and returns the
/// status of the run.
///
/// # Errors
/// The log can't be read, or has no trace; or the file can't be written. What was in the file before is in it then.
pub fn export(log: &Path, out: &Path) -> Result<Status, Failure> {
    let form = Form::of(out)?;
    let unreadable = |error: &dyn std::fmt::Display| {
        Failure::usage(format_args!("{}: {error}", log.display()))
            .remedy("name a serial log as `tollgate run --trace FILE --out DIR` keeps it in DIR/serial.log")
    };
    let source = File::open(log).map_err(|error| unreadable(&error))?;
    let account = output_file::fill(out, |file| {
        let read = convert(source, form, file).map_err(|problem| match problem {
            Problem::Log(error) => unreadable(&error),
            Problem::Output(error) => output_file::cannot_write(out, &error),
        })?;
        let account = Account::new(&read, None, None);
        if account.traces.is_empty() {
            return Err(unreadable(&"the run kept no trace"));
        }
        Ok(account)
    })?;
    for traced in &account.traces {
        let dropped = if traced.dropped > 0 {
            format!("; {} more found its ring full (--trace-exits makes room for more)", traced.dropped)
        } else {
            String::new()
        };
        eprintln!("{}: {} exits of vCPU {}{dropped}", out.display(), traced.exits, traced.vcpu);
    }
    account.findings.iter().for_each(|finding| eprintln!("{}: {finding}", log.display()));
    Ok(account.status)
}

/// Why a trace could not be converted.
#[derive(Debug)]
pub enum Problem {
    /// The log.
    Log(LogError),
    /// What is written to.
    Output(io::Error),
}

/// Writes the trace of a log as it is read.
///
/// # Errors
/// The first, of either side.
pub fn convert(log: impl Read, form: Form, out: impl Write) -> Result<Log, Problem> {
    let mut writer = Writer { out, form, vcpus: BTreeSet::new(), result: Ok(()) };
    writer.begin();
    let read = LogReader::read_observed(log, &mut |record| writer.record(record)).map_err(Problem::Log)?;
    writer.end();
    writer.result.map(|()| read).map_err(Problem::Output)
}

struct Writer<W> {
    out: W,
    form: Form,
    /// Those that have a track.
    vcpus: BTreeSet<u64>,
    result: io::Result<()>,
}

impl<W: Write> Writer<W> {
    fn begin(&mut self) {
        self.result = match self.form {
            Form::Json => self.out.write_all(
                b"{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n\
                  {\"ph\":\"M\",\"pid\":0,\"name\":\"process_name\",\"args\":{\"name\":\"VM exits, a TSC tick as 1 us\"}}",
            ),
            Form::Csv => self.out.write_all(b"vcpu,tsc,reason,name,qualification,rip,cycles\n"),
        };
    }

    fn end(&mut self) {
        if self.result.is_ok() && self.form == Form::Json {
            self.result = self.out.write_all(b"\n]}\n");
        }
    }

    /// The reader has checked the record, and that it can be unpacked.
    fn record(&mut self, record: &Record<'_>) {
        let fields = (record.number("vcpu"), record.number("tsc"), record.raw("data"));
        if let (Kind::Trace, (Some(vcpu), Some(tsc), Some(data)), Ok(())) = (record.kind, fields, &self.result) {
            self.result = self.events(vcpu, Events::new(tsc, data));
        }
    }

    fn events(&mut self, vcpu: u64, events: Events<'_>) -> io::Result<()> {
        if self.form == Form::Json && self.vcpus.insert(vcpu) {
            write!(
                self.out,
                ",\n{{\"ph\":\"M\",\"pid\":0,\"tid\":{vcpu},\"name\":\"thread_name\",\"args\":{{\"name\":\"vCPU {vcpu}\"}}}}"
            )?;
        }
        for Event { tsc, reason, cycles, rip, qualification } in events.flatten() {
            let name = row_name(reason);
            match self.form {
                Form::Json => write!(
                    self.out,
                    ",\n{{\"ph\":\"X\",\"pid\":0,\"tid\":{vcpu},\"ts\":{tsc},\"dur\":{cycles},\"name\":\"{name}\",\
                     \"args\":{{\"reason\":{reason},\"qualification\":\"{qualification:#x}\",\"rip\":\"{rip:#x}\"}}}}"
                ),
                Form::Csv => {
                    writeln!(self.out, "{vcpu},{tsc},{reason},\"{name}\",{qualification:#x},{rip:#x},{cycles}")
                }
            }?;
        }
        Ok(())
    }
}
