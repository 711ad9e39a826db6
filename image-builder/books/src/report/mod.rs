//! Accounts as people and programs want to read them.

mod atlas;
mod bars;
mod csv;
mod figures;
mod html;
mod json;
mod merged;
mod openmetrics;
mod order;
mod sheet;
mod stream;
mod table;
mod vcpus;

pub use figures::counted;
pub use merged::render_merged;
pub use order::Order;
pub use sheet::{Sheet, SheetFormat};
pub use stream::Report;

use crate::account::Account;
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
    /// Counters and histograms for monitoring systems.
    Openmetrics,
}

/// An account and what it is called.
#[derive(Clone, Debug, PartialEq)]
pub struct Titled {
    /// The log's name, shown where there are several.
    pub title: String,
    /// Its account.
    pub account: Account,
}

/// How a form looks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// Which reason comes first, in tables.
    pub order: Order,
    /// Whether tables are followed by histograms.
    pub histogram: bool,
    /// The terminal for tables.
    pub terminal: Terminal,
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
