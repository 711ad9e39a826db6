//! `tollgate report`: accounts of logs that exist already.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::print;
use crate::account::Account;
use crate::cli::ReportArguments;
use crate::failure::{Failure, Status};
use crate::log::{Log, LogReader};
use crate::report::{Titled, render};

/// Reports all logs that can be read; the status is the worst of them.
pub(super) fn run(arguments: &ReportArguments) -> Result<Status, Failure> {
    let standard_input = [PathBuf::from("-")];
    let paths = if arguments.logs.is_empty() { &standard_input[..] } else { &arguments.logs };
    let mut accounts = Vec::new();
    let mut worst = Status::Balanced;
    for path in paths {
        match read(path) {
            Ok(log) => {
                let account = Account::new(&log, None, None);
                worst = worst.max(account.status);
                accounts.push(Titled { title: path.display().to_string(), account });
            }
            Err(failure) if paths.len() == 1 => return Err(failure),
            Err(failure) => {
                eprintln!("tollgate: {failure}");
                worst = worst.max(failure.status);
            }
        }
    }
    print(&render(&accounts, arguments.format))?;
    Ok(worst)
}

fn read(path: &Path) -> Result<Log, Failure> {
    let unreadable = |error: &dyn std::fmt::Display| {
        Failure::usage(format_args!("{}: {error}", path.display()))
            .remedy("name a serial log as `tollgate run --out DIR` keeps it in DIR/serial.log")
    };
    let log = if path == Path::new("-") {
        LogReader::read(io::stdin().lock())
    } else {
        LogReader::read(File::open(path).map_err(|error| unreadable(&error))?)
    };
    log.map_err(|error| unreadable(&error))
}
