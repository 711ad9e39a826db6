//! `tollgate report`: accounts of logs that exist already.

use std::collections::VecDeque;
use std::path::PathBuf;

use tollgate_books::account::{Account, MOST_KINDS, Merge, Share};
use tollgate_books::failure::{Failure, Status};
use tollgate_books::report::{CsvSigns, Format, Look, Order, Report, Titled, render_merged};
use tollgate_books::symbols::Symbols;
use tollgate_books::terminal::Terminal;

use super::data_set;
use super::destination::Destination;
use super::follow;
use super::reading::Reading;
use super::system_map;
use crate::cli::{Delimiter, ReportArguments, ReportFormat};

/// Reports all logs that can be used, each as it is read; the status is the worst of them.
pub(super) fn run(arguments: &ReportArguments) -> Result<Status, Failure> {
    let standard_input = [PathBuf::from("-")];
    let paths = if arguments.logs.is_empty() { &standard_input[..] } else { &arguments.logs };
    check(arguments)?;
    let ReportFormat::File(format) = arguments.format else {
        return data_set::write(paths, arguments.out.as_deref());
    };
    let look = look(arguments);
    let map = arguments.system_map.as_deref().map(system_map::read).transpose()?;
    let destination = Destination::open(arguments.out.as_deref())?;
    if arguments.follow {
        let [path] = paths else {
            return Err(
                Failure::usage("one log can be followed at a time").remedy("name one, or none for standard input")
            );
        };
        return follow::run(path, format, look, destination);
    }
    if arguments.merge {
        merge(format, paths, look, destination)
    } else {
        each(format, paths, map.as_ref(), look, destination)
    }
}

/// Refuses options that the form does not have.
fn check(arguments: &ReportArguments) -> Result<(), Failure> {
    let format = if let ReportFormat::File(format) = arguments.format { Some(format) } else { None };
    if arguments.order != Order::default() && !format.is_some_and(Format::has_order) {
        return Err(Failure::usage("--sort is for the table and the page").remedy("leave it out, or sort the output"));
    }
    if arguments.histogram && !format.is_some_and(Format::has_histogram) {
        let what = "--histogram is for the table; the other forms have the histograms in them, all but CSV";
        return Err(Failure::usage(what).remedy("leave it out"));
    }
    let asks_for_signs = arguments.decimal_comma || arguments.csv_delimiter.is_some();
    if asks_for_signs && format != Some(Format::Csv) {
        return Err(Failure::usage("--csv-delimiter and --decimal-comma are for CSV").remedy("add --format csv"));
    }
    if arguments.follow && format.is_none() {
        let what = "a log that is followed goes into no data set";
        return Err(Failure::usage(what).remedy("name another format, and report the log again when it is whole"));
    }
    if arguments.system_map.is_some() && format.is_none() {
        let what = "--system-map names the functions in which kernels ended, and a data set has none";
        return Err(Failure::usage(what).remedy("leave it out"));
    }
    if arguments.merge && format.is_none() {
        let what = "a data set has every run by itself";
        return Err(Failure::usage(what).remedy("leave --merge out; the engines that read it add up"));
    }
    Ok(())
}

fn look(arguments: &ReportArguments) -> Look {
    let usual = if arguments.decimal_comma { Delimiter::Semicolon } else { Delimiter::Comma };
    let delimiter = arguments.csv_delimiter.unwrap_or(usual).sign();
    let csv = CsvSigns { delimiter, decimal_comma: arguments.decimal_comma };
    let terminal = if arguments.out.is_some() { Terminal::default() } else { Terminal::of_stdout() };
    Look { order: arguments.order, histogram: arguments.histogram, terminal, csv }
}

fn each(
    format: Format,
    paths: &[PathBuf],
    map: Option<&Symbols>,
    look: Look,
    out: Destination,
) -> Result<Status, Failure> {
    let mut reading = Reading::new(paths, |log| Account::with_status(&log));
    // One file may have several runs: the first two tell.
    let mut first: VecDeque<_> = reading.next()?.into_iter().collect();
    first.extend(reading.next()?);
    let several = paths.len() > 1 || paths.iter().any(|path| path.is_dir()) || first.len() > 1;
    let mut report = Report::new(out, format, several, look);
    let mut wrong = None;
    while let Some((title, mut account)) = first.pop_front().map_or_else(|| reading.next(), |run| Ok(Some(run)))? {
        if let Some(map) = map {
            account.name_end(map);
        }
        if report.is_full() {
            let most = report.most();
            return Err(Failure::usage(format_args!("this form has room for {most} runs, and there are more"))
                .remedy("merge them with --merge, or report fewer"));
        }
        if let Err(error) = report.add(Titled { title, account }) {
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

fn merge(format: Format, paths: &[PathBuf], look: Look, mut out: Destination) -> Result<Status, Failure> {
    let mut merge = Merge::default();
    let mut reading = Reading::new(paths, |log| {
        let account = Account::sums(&log);
        (account.status, Share::of(account))
    });
    while let Some((title, share)) = reading.next()? {
        if !merge.add(share) {
            let sentence = format!("{title}: more than {MOST_KINDS} kinds of runs are not merged");
            reading.unusable(&Failure::usage(sentence));
        }
    }
    let unusable = reading.unusable;
    let status = reading.finish()?;
    let result = render_merged(&merge.finish(unusable), format, look, &mut out);
    out.close(result)?;
    Ok(status)
}
