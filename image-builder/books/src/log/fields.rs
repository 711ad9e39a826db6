//! A record's fields, read with errors that name the place.

use std::fmt;

use compact_str::CompactString;
use tollgate_abi::record::{Record, Text};

use super::error::LogError;
use super::{Name, Named};

/// A record's fields, with errors that name the place.
pub(super) struct Fields<'r, 'a> {
    pub(super) record: &'r Record<'a>,
    pub(super) line: u64,
}

impl<'a> Fields<'_, 'a> {
    pub(super) fn problem(&self, problem: String) -> LogError {
        LogError::Record { line: self.line, kind: self.record.kind.word(), problem }
    }

    pub(super) fn contradiction(&self, problem: String) -> LogError {
        LogError::Contradiction { line: self.line, kind: self.record.kind.word(), problem }
    }

    /// A record may come twice, where a line is shown again; two that differ contradict each other.
    pub(super) fn same<T: PartialEq>(
        &self,
        known: Option<&T>,
        found: Option<&T>,
        problem: impl FnOnce() -> String,
    ) -> Result<(), LogError> {
        if known.is_none() || known == found { Ok(()) } else { Err(self.contradiction(problem())) }
    }

    pub(super) fn lacks(&self, key: &str) -> LogError {
        self.problem(format!("has no usable `{key}`"))
    }

    /// The record as the table of records has it.
    pub(super) fn of<T>(&self, read: impl FnOnce(&Record<'a>) -> Result<T, &'static str>) -> Result<T, LogError> {
        read(self.record).map_err(|key| self.lacks(key))
    }
}

/// A text as people may see it; empty if there is none.
pub(super) fn text(text: Option<Text<'_>>) -> String {
    text.map(printable).unwrap_or_default()
}

/// A short text as people may see it, such as a name.
pub(super) fn short(text: Text<'_>) -> CompactString {
    text.as_plain().filter(|plain| is_printable(plain)).map_or_else(|| printable(text).into(), CompactString::from)
}

/// Text that may be shown on a terminal, whatever a log holds: control characters as Rust writes them.
pub fn printable(text: impl fmt::Display) -> String {
    let text = text.to_string();
    // Most text is this already.
    if is_printable(&text) {
        return text;
    }
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// The value of a word.
pub(super) fn named<T: Name>(word: Text<'_>) -> Named<T> {
    let known = word.as_plain().and_then(T::parse);
    known.map_or_else(|| Named::of(&printable(word)), Named::Known)
}
