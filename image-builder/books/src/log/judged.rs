//! A judgement as a log has it.

use std::fmt;

use serde::{Serialize, Serializer};
use tollgate_abi::judgement::Judgement;

/// The judgement of a workload, of a scenario or of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Judged {
    /// A judgement of the monitor's.
    Known(Judgement),
    /// A word that this tool does not know.
    Unknown(String),
    /// No judgement: the log ends before it.
    #[default]
    Unfinished,
}

impl Judged {
    /// The judgement of a word in a record.
    pub fn of(word: &str) -> Self {
        Judgement::of(word).map_or_else(|| Judged::Unknown(word.to_owned()), Judged::Known)
    }

    /// Whether it is this judgement of the monitor's.
    pub fn is(&self, judgement: Judgement) -> bool {
        *self == Judged::Known(judgement)
    }

    /// The word for the judgement.
    pub fn word(&self) -> &str {
        match self {
            Judged::Known(judgement) => judgement.word(),
            Judged::Unknown(word) => word,
            Judged::Unfinished => "unfinished",
        }
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A judgement is its word in documents.
impl Serialize for Judged {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}
