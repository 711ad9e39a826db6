//! The properties of standard output and standard error: their width, and whether they show colours and blocks.

use std::env;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use rustix::termios::tcgetwinsize;

/// Columns of an output that is no terminal.
pub const FIXED_COLUMNS: u16 = 120;

/// The least columns that are believed; fewer hold nothing.
const LEAST_COLUMNS: u16 = 20;

/// The means that an output has to show text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// Columns to which text is wrapped.
    pub columns: u16,
    /// Whether whole lines are wrapped between words; a program wants them whole.
    pub wraps: bool,
    /// Whether it shows colours, and is asked to.
    pub colors: bool,
    /// Whether it shows block characters.
    pub blocks: bool,
}

/// Options for wrapping text into lines of this width: between words, of which "VT-x" is one.
pub fn lines_of<'a>(columns: usize) -> textwrap::Options<'a> {
    textwrap::Options::new(columns).word_splitter(textwrap::WordSplitter::NoHyphenation)
}

impl Default for Terminal {
    fn default() -> Self {
        Self { columns: FIXED_COLUMNS, wraps: false, colors: false, blocks: false }
    }
}

impl Terminal {
    /// Standard output; if it is no terminal, it has a fixed width and shows plain text only.
    pub fn of_stdout() -> Self {
        Self::of(&io::stdout())
    }

    /// Standard error, for messages.
    pub fn of_stderr() -> Self {
        Self::of(&io::stderr())
    }

    fn of(out: &(impl IsTerminal + AsFd)) -> Self {
        if !out.is_terminal() {
            return Self::default();
        }
        let says = |name: &str| env::var(name).unwrap_or_default();
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].map(says).into_iter().find(|value| !value.is_empty());
        // A terminal may tell its columns without its rows.
        let columns = tcgetwinsize(out).map_or(0, |size| size.ws_col);
        Self {
            columns: if columns == 0 { FIXED_COLUMNS } else { columns.max(LEAST_COLUMNS) },
            wraps: true,
            colors: says("NO_COLOR").is_empty() && says("TERM") != "dumb",
            blocks: locale.is_some_and(|value| value.to_ascii_uppercase().replace('-', "").contains("UTF8")),
        }
    }

    /// Writes a message to standard error, each of its lines wrapped.
    pub fn tell(&self, text: &str) {
        eprintln!("{}", self.wrap(text));
    }

    /// A line of text, wrapped.
    pub fn wrap(&self, text: &str) -> String {
        if self.wraps { textwrap::fill(text, lines_of(self.columns.into())) } else { text.to_owned() }
    }

    /// Text in a style, where there are any.
    pub fn paint(&self, style: anstyle::Style, text: &str) -> String {
        if self.colors { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}
