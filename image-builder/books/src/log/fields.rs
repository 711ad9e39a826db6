//! A record's fields, read with errors that name the place.

use std::collections::BTreeMap;
use std::fmt;

use tollgate_abi::record::Record;

use super::error::LogError;

/// A record's fields, with errors that name the place.
pub(super) struct Fields<'a> {
    pub(super) record: &'a Record<'a>,
    pub(super) line: u64,
}

impl Fields<'_> {
    pub(super) fn problem(&self, problem: String) -> LogError {
        LogError::Record { line: self.line, kind: self.record.kind.word(), problem }
    }

    pub(super) fn lacks(&self, key: &str) -> LogError {
        self.problem(format!("has no usable `{key}`"))
    }

    pub(super) fn number(&self, key: &str) -> Result<u64, LogError> {
        self.record.number(key).ok_or_else(|| self.lacks(key))
    }

    pub(super) fn optional_number(&self, key: &str) -> Option<u64> {
        self.record.number(key)
    }

    pub(super) fn reason(&self) -> Result<u16, LogError> {
        self.record.number("reason").and_then(|number| number.try_into().ok()).ok_or_else(|| self.lacks("reason"))
    }

    pub(super) fn text(&self, key: &str) -> Result<String, LogError> {
        self.record.text(key).map(printable).ok_or_else(|| self.lacks(key))
    }

    /// The buckets; a row without exits has none.
    pub(super) fn histogram(&self) -> Result<BTreeMap<u8, u64>, LogError> {
        let mut buckets = BTreeMap::<u8, u64>::new();
        if self.record.raw("histogram").is_some() {
            for (bucket, count) in self.record.histogram("histogram").ok_or_else(|| self.lacks("histogram"))? {
                let sum = buckets.entry(bucket).or_default();
                *sum = sum.saturating_add(count);
            }
        }
        Ok(buckets)
    }

    pub(super) fn optional_text(&self, key: &str) -> String {
        self.record.text(key).map(printable).unwrap_or_default()
    }
}

/// Text that may be shown on a terminal, whatever a log holds: control characters as Rust writes them.
pub fn printable(text: impl fmt::Display) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.to_string().chars().map(shown).collect()
}
