//! A report in the making: what can be written as each account comes is written then.

use std::io::{self, Write};

use super::json::json;
use super::{Format, Look, Titled, csv, html, openmetrics, table};

/// Runs that a page has room for.
const MOST_ON_A_PAGE: u64 = 100;
/// Runs whose series a monitoring system takes at a time.
const MOST_EXPOSED: u64 = 1000;

/// Writes accounts, one after the other, in one form.
#[derive(Debug)]
pub struct Report<W: Write> {
    out: W,
    format: Format,
    look: Look,
    several: bool,
    written: u64,
    kept: Vec<Titled>,
}

impl<W: Write> Report<W> {
    /// Nothing yet. `several` says that the accounts are told apart by their titles, however many come.
    pub fn new(out: W, format: Format, several: bool, look: Look) -> Self {
        Self { out, format, look, several, written: 0, kept: Vec::new() }
    }

    /// Takes the next account.
    ///
    /// # Errors
    /// It can't be written.
    pub fn add(&mut self, titled: Titled) -> io::Result<()> {
        let first = self.written == 0;
        self.written += 1;
        match self.format {
            Format::Table => {
                let separator = if first { "" } else { "\n" };
                let title = if self.several { format!("{}\n\n", titled.title) } else { String::new() };
                write!(self.out, "{separator}{title}{}", table::render(&titled.account, self.look))
            }
            Format::Csv => self.out.write_all(csv::render(&titled, first).as_bytes()),
            Format::Json if self.several => {
                let separator = if first { "[\n" } else { ",\n" };
                write!(self.out, "{separator}{}", indented(&json(&titled, true)))
            }
            Format::Json => self.out.write_all((json(&titled, false) + "\n").as_bytes()),
            Format::Html | Format::Openmetrics => {
                self.kept.push(titled);
                Ok(())
            }
        }
    }

    /// How many accounts the form has room for: those that have to be kept for the end are as many as fit in memory.
    pub fn most(&self) -> u64 {
        match self.format {
            Format::Table | Format::Json | Format::Csv => u64::MAX,
            Format::Html => MOST_ON_A_PAGE,
            Format::Openmetrics => MOST_EXPOSED,
        }
    }

    /// Whether there is no room for another account.
    pub fn is_full(&self) -> bool {
        self.written >= self.most()
    }

    /// Where it was written to, after an error.
    pub fn abandon(self) -> W {
        self.out
    }

    /// Writes what has to wait for the last account, and hands back where it was written to.
    pub fn finish(mut self) -> (W, io::Result<()>) {
        let result = self.end();
        (self.out, result)
    }

    fn end(&mut self) -> io::Result<()> {
        match self.format {
            Format::Table => {}
            Format::Csv if self.written == 0 => self.out.write_all(csv::heading().as_bytes())?,
            Format::Csv => {}
            Format::Json if !self.several => {}
            Format::Json => self.out.write_all(if self.written == 0 { b"[]\n" } else { b"\n]\n" })?,
            Format::Html => self.out.write_all(html::render(&self.kept, self.look).as_bytes())?,
            Format::Openmetrics => self.out.write_all(openmetrics::render(&self.kept).as_bytes())?,
        }
        self.out.flush()
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
