//! Accounts as people and programs want to read them.

mod atlas;
mod csv;
mod sheet;
mod table;
mod vcpus;

pub use sheet::{Sheet, SheetFormat};

use crate::account::Account;

/// A form in which accounts can be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns for people.
    #[default]
    Table,
    /// One JSON document; an array of them for several logs.
    Json,
    /// One line for each reason.
    Csv,
}

/// An account and what it is called.
#[derive(Clone, Debug, PartialEq)]
pub struct Titled {
    /// The log's name, shown where there are several.
    pub title: String,
    /// Its account.
    pub account: Account,
}

/// Writes accounts in one form.
pub fn render(accounts: &[Titled], format: Format) -> String {
    match format {
        Format::Table => table::render(accounts),
        Format::Csv => csv::render(accounts),
        Format::Json => json(accounts),
    }
}

fn json(accounts: &[Titled]) -> String {
    let text = match accounts {
        [only] => serde_json::to_string_pretty(&only.account),
        several => serde_json::to_string_pretty(&several.iter().map(|titled| &titled.account).collect::<Vec<_>>()),
    };
    // Maps have string keys and numbers are finite, so there is nothing that JSON can't hold.
    text.unwrap_or_default() + "\n"
}
