//! Progress on standard error: a line that moves on a terminal, a plain line for each phase elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tollgate_abi::record::records::read;
use tollgate_abi::record::{Kind, Record};

use tollgate_books::log::printable;
use tollgate_books::terminal::Terminal;

/// The progress of a run, shown while it works.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    terminal: Terminal,
    console: bool,
}

const REDRAWS_EACH_SECOND: u8 = 15;

impl Progress {
    /// Progress through `workloads` workloads; with `console` each line of the guest's text, too.
    pub fn new(workloads: u64, console: bool) -> Self {
        let terminal = Terminal::of_stderr();
        // A line that moves takes escape sequences.
        let bar = (std::io::stderr().is_terminal() && terminal.colors).then(|| {
            let target = ProgressDrawTarget::stderr_with_hz(REDRAWS_EACH_SECOND);
            let style = ProgressStyle::with_template("{spinner} {pos}/{len} {wide_msg}");
            ProgressBar::with_draw_target(Some(workloads), target)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        if let Some(bar) = &bar {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Self { bar, terminal, console }
    }

    /// Shows the beginning of a phase, or a line of its own.
    pub fn phase(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(self.terminal.wrap(text)),
            None => self.terminal.tell(text),
        }
    }

    /// Counts a record that has come.
    pub fn record(&self, record: &Record<'_>) {
        if self.console
            && record.kind == Kind::Console
            && let Ok(read::Console { by: None, text }) = read::Console::of(record)
        {
            self.phase(&printable(text));
        }
        let Some(bar) = &self.bar else { return };
        match record.kind {
            Kind::Begin => {
                let workload = read::Begin::of(record).map(|begin| printable(begin.workload));
                bar.set_message(workload.unwrap_or_default());
            }
            Kind::Result => bar.inc(1),
            _ => {}
        }
    }

    /// Removes the moving line, when no more comes.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
