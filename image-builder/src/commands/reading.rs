//! Logs one after the other, and messages about those that can't be used.

use std::path::PathBuf;

use tollgate_books::account::{Accounted, Many};
use tollgate_books::failure::{Failure, Status};
use tollgate_books::log::{Log, LogError};
use tollgate_books::report::counted;
use tollgate_books::terminal::Terminal;

/// The runs in the logs that some paths name.
pub(super) struct Reading<T> {
    accounts: Many<T>,
    only_one: bool,
    used: u64,
    /// The number of logs that can't be used.
    pub(super) unusable: u64,
    passed_over: u64,
    first_passed_over: Vec<String>,
    worst: Status,
}

/// The most files that are named where they are passed over.
const MOST_NAMED: usize = 5;

impl<T: Send + 'static> Reading<T> {
    /// Begins to read. `digest` makes of a run its status and the part that is wanted.
    pub(super) fn new(paths: &[PathBuf], digest: fn(Log) -> (Status, T)) -> Self {
        Self {
            accounts: Many::of(paths.to_vec(), digest),
            only_one: paths.len() == 1 && !paths[0].is_dir(),
            used: 0,
            unusable: 0,
            passed_over: 0,
            first_passed_over: Vec::new(),
            worst: Status::Balanced,
        }
    }

    /// The next run of a log that can be used: its name and its digest. If there is only one log and nothing in it can be
    /// used, that is a failure.
    pub(super) fn next(&mut self) -> Result<Option<(String, T)>, Failure> {
        while let Some(next) = self.accounts.next() {
            match next {
                Accounted::Run { title, status, run } => {
                    self.used += 1;
                    self.worst = self.worst.max(status);
                    return Ok(Some((title, run)));
                }
                Accounted::PassedOver(title) => {
                    self.passed_over += 1;
                    if self.first_passed_over.len() < MOST_NAMED {
                        self.first_passed_over.push(title);
                    }
                }
                Accounted::Unusable(title, error) => {
                    let failure = unusable(&title, &error);
                    if self.only_one && self.used == 0 {
                        return Err(failure);
                    }
                    self.unusable(&failure);
                }
            }
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
        if self.used == 0 {
            let all = counted(self.unusable, "log");
            let passed_over = counted(self.passed_over, "file");
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
            let more = self.passed_over - self.first_passed_over.len() as u64;
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let named = self.first_passed_over.join(", ");
            let files = counted(self.passed_over, "file");
            tell(&format!("{files} named .log passed over, no record of a run: {named}{more}"));
        }
        Ok(self.worst)
    }
}

fn tell(text: &str) {
    Terminal::of_stderr().tell(&format!("tollgate: {text}"));
}

const REMEDY: &str = "name a serial log as `tollgate run --out DIR` keeps it in DIR/serial.log";

fn unusable(title: &str, error: &LogError) -> Failure {
    Failure::usage(format_args!("{title}: {error}")).remedy(match error {
        LogError::Packed(_) => "unpack it, and report the log itself",
        _ => REMEDY,
    })
}
