//! `tollgate report --follow`: a log that is still being written. Its progress is shown as its records come, its account at its end.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tollgate_abi::record::Kind;
use tollgate_books::account::Account;
use tollgate_books::failure::{Failure, Status};
use tollgate_books::live::Live;
use tollgate_books::log::{LogError, LogReader, STANDARD_INPUT};
use tollgate_books::report::{Format, Look, Report, Titled};
use tollgate_books::terminal::Terminal;

use super::destination::Destination;
use crate::interrupt;

/// The time after which a file is looked at again.
const PAUSE: Duration = Duration::from_millis(200);

/// Follows one log to the end of its first run, and reports that.
pub(super) fn run(path: &Path, format: Format, look: Look, out: Destination) -> Result<Status, Failure> {
    let title = path.display().to_string();
    let unusable = |error: LogError| Failure::usage(format_args!("{title}: {error}"));
    let log = read(path).map_err(LogError::from).and_then(|mut reader| {
        reader.close();
        reader.next_run().unwrap_or(Err(LogError::Empty))
    });
    let account = Account::new(&log.map_err(unusable)?, None, None);
    let status = account.status;
    let mut report = Report::new(out, format, false, look);
    let (out, result) = match report.add(Titled { title, account }) {
        Ok(()) => report.finish(),
        Err(error) => (report.abandon(), Err(error)),
    };
    out.close(result)?;
    Ok(status)
}

/// Reads until the verdict has come, another run begins, a pipe ends, or a person has enough of it.
fn read(path: &Path) -> io::Result<LogReader> {
    let (mut source, grows): (Box<dyn Read>, bool) = if path == Path::new(STANDARD_INPUT) {
        (Box::new(io::stdin().lock()), false)
    } else {
        let file = File::open(path)?;
        let grows = file.metadata()?.is_file();
        (Box::new(file), grows)
    };
    interrupt::watch();
    let (mut reader, view) = (LogReader::of_runs(), View::new());
    let mut buffer = vec![0; 16 << 10];
    while !interrupt::requested() && !reader.has_run() {
        match source.read(&mut buffer) {
            Ok(0) if grows => sleep(PAUSE),
            Ok(0) => break,
            Ok(count) => {
                let mut steps = false;
                reader.feed_observed(&buffer[..count], &mut |record| {
                    steps |= matches!(record.kind, Kind::Tollgate | Kind::Begin | Kind::Result | Kind::Scenario);
                });
                view.show(&Live::of(reader.so_far()), steps);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    view.finish();
    Ok(reader)
}

/// Progress on standard error: in place on a terminal, elsewhere a line for each step.
struct View {
    bar: Option<ProgressBar>,
    terminal: Terminal,
}

impl View {
    fn new() -> Self {
        let terminal = Terminal::of_stderr();
        let bar = (io::stderr().is_terminal() && terminal.colors).then(|| {
            let style = ProgressStyle::with_template("{spinner} {wide_msg}");
            let bar = ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { bar, terminal }
    }

    fn show(&self, live: &Live, steps: bool) {
        match &self.bar {
            Some(bar) => bar.set_message(live.to_string()),
            None if steps => self.terminal.tell(&live.to_string()),
            None => {}
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
