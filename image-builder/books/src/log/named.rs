//! A word of a record that has a value in the monitor's tables.

use std::fmt;

use serde::{Serialize, Serializer};
use tollgate_abi::exit_reason::Status;
use tollgate_abi::workload::Outcome;

/// A value that has a word of its own in records.
pub trait Name: Copy + PartialEq {
    /// The word in records.
    fn name(self) -> &'static str;
    /// The value of a word; `None` if no value has it.
    fn parse(word: &str) -> Option<Self>;
}

impl Name for Outcome {
    fn name(self) -> &'static str {
        Outcome::name(self)
    }

    fn parse(word: &str) -> Option<Self> {
        Outcome::parse(word)
    }
}

impl Name for Status {
    fn name(self) -> &'static str {
        self.as_str()
    }

    fn parse(word: &str) -> Option<Self> {
        Status::parse(word)
    }
}

/// A value as a log has it. A newer monitor may write words that this tool does not know: they are kept as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named<T> {
    /// A value of the monitor's tables.
    Known(T),
    /// A word that this tool does not know; empty where the log has none.
    Unknown(String),
}

impl<T: Name> Named<T> {
    /// The value of a word in a record.
    pub fn of(word: &str) -> Self {
        T::parse(word).map_or_else(|| Named::Unknown(word.to_owned()), Named::Known)
    }

    /// Whether it is this value.
    pub fn is(&self, value: T) -> bool {
        matches!(self, Named::Known(known) if *known == value)
    }

    /// The word for the value.
    pub fn word(&self) -> &str {
        match self {
            Named::Known(known) => known.name(),
            Named::Unknown(word) => word,
        }
    }
}

/// No word.
impl<T> Default for Named<T> {
    fn default() -> Self {
        Named::Unknown(String::new())
    }
}

impl<T: Name> fmt::Display for Named<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A value is its word in documents.
impl<T: Name> Serialize for Named<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}
