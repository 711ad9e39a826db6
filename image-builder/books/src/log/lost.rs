//! The records of a run that did not arrive: damaged lines, and records that must have been there.

use tollgate_abi::record::Kind;

/// The most lines and gaps that are told one by one.
const MOST_TOLD: usize = 20;

/// The records of a run that did not arrive whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// The first of the damaged lines.
    pub lines: Vec<LostLine>,
    /// The number of all damaged lines.
    pub damaged: u64,
    /// The records that are missing by the numbers of those that came, in words; the first of them.
    pub gaps: Vec<String>,
    /// Whether the first record is lost, and with it everything that it tells: platform, options, number of vCPUs.
    pub heading: bool,
    /// The records that are missing without a trace, and the number of all that the monitor wrote before its verdict.
    pub untraced: Option<(u64, u64)>,
    kinds: u64,
    any_kind: bool,
}

/// A line that was a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostLine {
    /// Its number in the log, from 1 on.
    pub line: u64,
    /// The kind of the record, where its first word can still be read.
    pub kind: Option<Kind>,
}

impl Lost {
    /// Whether every record arrived, as far as one can tell.
    pub fn is_nothing(&self) -> bool {
        self.damaged == 0 && self.gaps.is_empty() && !self.heading && self.untraced.is_none()
    }

    /// Whether a record of one of these kinds may be among those that did not arrive.
    pub fn may_be(&self, kinds: &[Kind]) -> bool {
        self.any_kind || kinds.iter().any(|&kind| self.kinds & bit(kind) != 0)
    }

    pub(super) fn damaged(&mut self, line: u64, kind: Option<Kind>) {
        self.damaged += 1;
        match kind {
            Some(kind) => self.kinds |= bit(kind),
            None => self.any_kind = true,
        }
        if self.lines.len() < MOST_TOLD {
            self.lines.push(LostLine { line, kind });
        }
    }

    /// Notes the number of records that the monitor wrote, where so many came whole. A damaged line is a trace of one.
    pub(super) fn told(&mut self, written: u64, whole: u64) {
        let missing = written.saturating_sub(whole.saturating_add(self.damaged));
        self.untraced = (missing > 0).then_some((missing, written));
    }

    /// Notes that records of a kind are missing.
    pub(super) fn gap(&mut self, kind: Kind, what: String) {
        self.kinds |= bit(kind);
        if self.gaps.len() < MOST_TOLD {
            self.gaps.push(what);
        }
    }
}

const _: () = assert!(Kind::ALL.len() <= u64::BITS as usize);

fn bit(kind: Kind) -> u64 {
    1 << kind as u32
}
