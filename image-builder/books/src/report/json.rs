//! Accounts as JSON: one document, or an array of them that name their source.

use std::io::{self, Write};

use serde::Serialize;

use super::{Form, Titled, merged};
use crate::account::{Account, Merged};

/// JSON: a document for each run.
#[derive(Debug)]
pub(super) struct Documents {
    several: bool,
    begun: bool,
}

impl Documents {
    pub(super) fn new(several: bool) -> Self {
        Self { several, begun: false }
    }
}

impl Form for Documents {
    fn add(&mut self, titled: Titled, out: &mut dyn Write) -> io::Result<()> {
        if !self.several {
            return writeln!(out, "{}", json(&titled, false));
        }
        let separator = if self.begun { ",\n" } else { "[\n" };
        self.begun = true;
        write!(out, "{separator}{}", indented(&json(&titled, true)))
    }

    fn finish(&mut self, out: &mut dyn Write) -> io::Result<()> {
        match (self.several, self.begun) {
            (false, _) => Ok(()),
            (true, false) => out.write_all(b"[]\n"),
            (true, true) => out.write_all(b"\n]\n"),
        }
    }

    fn merged(&self, merged: &Merged) -> String {
        merged::json(merged) + "\n"
    }
}

/// An account among several, with the name of its source.
#[derive(Serialize)]
struct Sourced<'a> {
    source: &'a str,
    #[serde(flatten)]
    account: &'a Account,
}

/// An account as JSON, with the name of its source if `sourced`.
pub(super) fn json(Titled { title, account }: &Titled, sourced: bool) -> String {
    let text = if sourced {
        serde_json::to_string_pretty(&Sourced { source: title, account })
    } else {
        serde_json::to_string_pretty(account)
    };
    // Maps have string keys and numbers are finite, so there is nothing that JSON can't hold.
    text.unwrap_or_default()
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
