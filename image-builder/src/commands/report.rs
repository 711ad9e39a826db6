//! `tollgate report`: accounts of logs that exist already.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::destination::Destination;
use crate::account::{Account, MOST_KINDS, Merge};
use crate::cli::ReportArguments;
use crate::failure::{Failure, Status};
use crate::log::{Found, Log, LogReader, find};
use crate::report::{Format, Look, Order, Report, Titled, counted, render_merged};
use crate::terminal::Terminal;

/// Reports all logs that can be used, each as it is read; the status is the worst of them.
pub(super) fn run(arguments: &ReportArguments) -> Result<Status, Failure> {
    let standard_input = [PathBuf::from("-")];
    let paths = if arguments.logs.is_empty() { &standard_input[..] } else { &arguments.logs };
    let look = look(arguments)?;
    let destination = Destination::open(arguments.out.as_deref())?;
    if arguments.merge { merge(arguments, paths, look, destination) } else { each(arguments, paths, look, destination) }
}

fn look(arguments: &ReportArguments) -> Result<Look, Failure> {
    let drawn = matches!(arguments.format, Format::Table | Format::Html);
    if arguments.order != Order::default() && !drawn {
        return Err(Failure::usage("--sort is for the table and the page").remedy("leave it out, or sort what comes"));
    }
    if arguments.histogram && arguments.format != Format::Table {
        let what = "--histogram is for the table; the other forms have the histograms in them, all but CSV";
        return Err(Failure::usage(what).remedy("leave it out"));
    }
    let terminal = if arguments.out.is_some() { Terminal::default() } else { Terminal::of_stdout() };
    Ok(Look { order: arguments.order, histogram: arguments.histogram, terminal })
}

fn each(arguments: &ReportArguments, paths: &[PathBuf], look: Look, out: Destination) -> Result<Status, Failure> {
    let several = paths.len() > 1 || paths.iter().any(|path| path.is_dir());
    let mut report = Report::new(out, arguments.format, several, look);
    let mut reading = Reading::new(paths);
    let mut wrong = None;
    while let Some((path, account)) = reading.next_account()? {
        if report.is_full() {
            let most = report.most();
            return Err(Failure::usage(format_args!("this form has room for {most} runs, and there are more"))
                .remedy("merge them with --merge, or report fewer"));
        }
        if let Err(error) = report.add(Titled { title: path.display().to_string(), account }) {
            wrong = Some(error);
            break;
        }
    }
    let status = reading.finish()?;
    let (out, result) = match wrong {
        None => report.finish(),
        Some(error) => (report.abandon(), Err(error)),
    };
    out.close(result)?;
    Ok(status)
}

fn merge(arguments: &ReportArguments, paths: &[PathBuf], look: Look, mut out: Destination) -> Result<Status, Failure> {
    let mut merge = Merge::default();
    let mut reading = Reading::new(paths);
    while let Some((path, account)) = reading.next_account()? {
        if !merge.add(&account) {
            let sentence = format!("{}: more than {MOST_KINDS} kinds of runs are not merged", path.display());
            reading.unusable(&Failure::usage(sentence));
        }
    }
    let unusable = reading.unusable;
    let status = reading.finish()?;
    let result = render_merged(&merge.finish(unusable), arguments.format, look, &mut out);
    out.close(result)?;
    Ok(status)
}

/// The logs one after the other, with what there is to say of those that can't be used.
struct Reading<'a> {
    found: Box<dyn Iterator<Item = Found> + 'a>,
    only_one: bool,
    used: u64,
    unusable: u64,
    passed_over: u64,
    worst: Status,
}

impl<'a> Reading<'a> {
    fn new(paths: &'a [PathBuf]) -> Self {
        let only_one = paths.len() == 1 && !paths[0].is_dir();
        Self { found: Box::new(find(paths)), only_one, used: 0, unusable: 0, passed_over: 0, worst: Status::Balanced }
    }

    /// The next that can be used. Of a single log that can't be, the reason is a failure.
    fn next_account(&mut self) -> Result<Option<(PathBuf, Account)>, Failure> {
        while let Some(found) = self.found.next() {
            let failure = match found {
                Found::PassedOver => {
                    self.passed_over += 1;
                    continue;
                }
                Found::Unreadable(path, error) => unusable(&path, &error),
                Found::Log(path) => match read(&path) {
                    Ok(log) => {
                        let account = Account::new(&log, None, None);
                        self.used += 1;
                        self.worst = self.worst.max(account.status);
                        return Ok(Some((path, account)));
                    }
                    Err(failure) => failure,
                },
            };
            if self.only_one {
                return Err(failure);
            }
            self.unusable(&failure);
        }
        Ok(None)
    }

    fn unusable(&mut self, failure: &Failure) {
        self.unusable += 1;
        self.worst = self.worst.max(failure.status);
        eprintln!("tollgate: {}", failure.sentence());
    }

    /// The status of all, once there is no more; a failure if there was nothing to report.
    fn finish(self) -> Result<Status, Failure> {
        let passed_over = counted(self.passed_over, "file");
        if self.used == 0 {
            let all = counted(self.unusable, "log");
            return Err(Failure::usage(format_args!(
                "nothing to report: {all} can't be used, and {passed_over} named .log hold no record of a run"
            ))
            .remedy(REMEDY));
        }
        if self.unusable > 0 {
            let all = counted(self.used + self.unusable, "log");
            eprintln!("tollgate: {} of {all} can't be used", self.unusable);
        }
        if self.passed_over > 0 {
            eprintln!("tollgate: {passed_over} named .log passed over: no record of a run");
        }
        Ok(self.worst)
    }
}

const REMEDY: &str = "name a serial log as `tollgate run --out DIR` keeps it in DIR/serial.log";

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::usage(format_args!("{}: {error}", path.display())).remedy(REMEDY)
}

fn read(path: &Path) -> Result<Log, Failure> {
    let log = if path == Path::new("-") {
        LogReader::read(io::stdin().lock())
    } else {
        LogReader::read(File::open(path).map_err(|error| unusable(path, &error))?)
    };
    log.map_err(|error| unusable(path, &error))
}
