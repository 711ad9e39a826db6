//! Logs one after the other, and messages about those that can't be used.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tollgate_books::account::Account;
use tollgate_books::failure::{Failure, Status};
use tollgate_books::log::{Found, Log, LogReader, find};
use tollgate_books::report::counted;
use tollgate_books::terminal::Terminal;

/// The logs that some paths name.
pub(super) struct Reading<'a> {
    found: Box<dyn Iterator<Item = Found> + 'a>,
    only_one: bool,
    used: u64,
    /// The number of logs that can't be used.
    pub(super) unusable: u64,
    passed_over: u64,
    worst: Status,
}

impl<'a> Reading<'a> {
    pub(super) fn new(paths: &'a [PathBuf]) -> Self {
        let only_one = paths.len() == 1 && !paths[0].is_dir();
        Self { found: Box::new(find(paths)), only_one, used: 0, unusable: 0, passed_over: 0, worst: Status::Balanced }
    }

    /// The next log that can be used, with its account. If there is only one log and it can't be used, that is a failure.
    pub(super) fn next(&mut self) -> Result<Option<(PathBuf, Log, Account)>, Failure> {
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
                        return Ok(Some((path, log, account)));
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

    /// Says why a log can't be used.
    pub(super) fn unusable(&mut self, failure: &Failure) {
        self.unusable += 1;
        self.worst = self.worst.max(failure.status);
        tell(failure.sentence());
    }

    /// The status of all logs, once there is no more; a failure if there was nothing to report.
    pub(super) fn finish(self) -> Result<Status, Failure> {
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
            tell(&format!("{} of {all} can't be used", self.unusable));
        }
        if self.passed_over > 0 {
            tell(&format!("{passed_over} named .log passed over: no record of a run"));
        }
        Ok(self.worst)
    }
}

fn tell(text: &str) {
    Terminal::of_stderr().tell(&format!("tollgate: {text}"));
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
