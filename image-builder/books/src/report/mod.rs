//! Accounts as people and programs want to read them.

mod atlas;
mod bars;
mod csv;
mod data_set;
mod figures;
mod html;
mod json;
mod leaves;
mod merged;
mod metrics;
mod order;
mod phases;
mod sheet;
mod silicon;
mod stream;
mod table;
mod vcpus;

pub use data_set::{ACCOUNTS, Column, DataSet, RUNS};
pub use figures::counted;
pub use merged::render_merged;
pub use order::Order;
pub use sheet::{CsvSigns, Sheet, SheetFormat};
pub use stream::Report;

use std::fmt::Debug;
use std::io::{self, Write};

use crate::account::{Account, Merged};
use crate::terminal::Terminal;

/// A form in which accounts can be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Format {
    /// Aligned columns for people.
    #[default]
    Table,
    /// One JSON document; an array of them for several logs.
    Json,
    /// One line for each reason.
    Csv,
    /// One page with tables and charts, which needs no network.
    Html,
    /// Counters and histograms as OpenMetrics text, for scrapers.
    Openmetrics,
    /// The same as Prometheus' text format, for collectors of text files.
    Prometheus,
    /// The course's leaves at the end of the run, as `cpuid -1` prints them.
    Leaves,
}

impl Format {
    /// The form itself. `several` says that accounts are told apart by their titles, however many come.
    fn form(self, several: bool, look: Look) -> Box<dyn Form> {
        match self {
            Format::Table => Box::new(table::Tables::new(several, look)),
            Format::Json => Box::new(json::Documents::new(several)),
            Format::Csv => Box::new(csv::Lines::new(look.csv)),
            Format::Html => Box::new(html::Page::new(look)),
            Format::Openmetrics => Box::new(metrics::Families::openmetrics()),
            Format::Prometheus => Box::new(metrics::Families::classic()),
            Format::Leaves => Box::new(leaves::Leaves::new(several)),
        }
    }

    /// Whether reports in this format can be sorted.
    pub fn has_order(self) -> bool {
        self.form(false, Look::default()).has_order()
    }

    /// Whether histograms can be asked for.
    pub fn has_histogram(self) -> bool {
        self.form(false, Look::default()).has_histogram()
    }
}

/// A form of report, of accounts as they come: one file each.
trait Form: Debug {
    /// The most accounts that it has room for: those that it keeps until the end have to fit in memory.
    fn most(&self) -> u64 {
        u64::MAX
    }

    /// Whether reports in this form can be sorted.
    fn has_order(&self) -> bool {
        false
    }

    /// Whether histograms can be asked for.
    fn has_histogram(&self) -> bool {
        false
    }

    /// Takes the next account, and writes what can be written already.
    ///
    /// # Errors
    /// It can't be written.
    fn add(&mut self, titled: Titled, out: &mut dyn Write) -> io::Result<()>;

    /// Writes what has to wait for the last account.
    ///
    /// # Errors
    /// It can't be written.
    fn finish(&mut self, out: &mut dyn Write) -> io::Result<()>;

    /// Merged runs in this form.
    fn merged(&self, merged: &Merged) -> String;
}

/// An account and its title.
#[derive(Clone, Debug, PartialEq)]
pub struct Titled {
    /// The log's name, shown where there are several.
    pub title: String,
    /// Its account.
    pub account: Account,
}

/// The look of a form.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// The order of reasons in tables.
    pub order: Order,
    /// Whether tables are followed by histograms.
    pub histogram: bool,
    /// The terminal for tables.
    pub terminal: Terminal,
    /// The signs of CSV.
    pub csv: CsvSigns,
}

/// Writes accounts in one form, for a file or a pipe.
pub fn render(accounts: &[Titled], format: Format) -> String {
    render_as(accounts, format, Look::default())
}

/// Writes accounts as tables for a terminal.
pub fn render_on(accounts: &[Titled], terminal: Terminal) -> String {
    render_as(accounts, Format::Table, Look { terminal, ..Look::default() })
}

/// Writes accounts in one form that looks like this.
pub fn render_as(accounts: &[Titled], format: Format, look: Look) -> String {
    let mut report = Report::new(Vec::new(), format, accounts.len() > 1, look);
    // Writing to memory can't fail.
    for titled in accounts {
        let _ = report.add(titled.clone());
    }
    String::from_utf8_lossy(&report.finish().0).into_owned()
}
