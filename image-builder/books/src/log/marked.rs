//! The marks in a log: texts in the guest's console, each with the account at the moment when it was reached.

use std::collections::BTreeMap;

use tollgate_abi::record::Kind;
use tollgate_abi::record::records::read;

use super::error::LogError;
use super::fields::{Fields, printable};
use super::lost::Lost;
use super::recorded::Part;

/// The most marks in one log.
const MOST_MARKS: usize = 1000;
/// The most reasons of one mark.
const MOST_REASONS: usize = 1000;

/// One mark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marked {
    /// Its name.
    pub name: String,
    /// Its text.
    pub text: String,
    /// The account when it was reached; `None` if it never was.
    pub reached: Option<Reached>,
}

/// The account at a mark, of all vCPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// The vCPU that sent the text.
    pub vcpu: u64,
    /// TSC ticks from vCPU 0's first entry.
    pub at: u64,
    /// Exits so far.
    pub exits: u64,
    /// TSC ticks of all of them.
    pub cycles: u64,
    /// TSC ticks that the monitor has worked for the guest outside of exits.
    pub paused: u64,
    /// TSC ticks of idle time that were skipped so far: they passed on the guest's clock alone.
    pub skipped: u64,
    /// The reasons that have exits.
    pub reasons: BTreeMap<u16, Part>,
}

/// Takes a `mark` record.
pub(super) fn mark(marks: &mut Vec<Marked>, fields: &Fields<'_, '_>) -> Result<(), LogError> {
    let read::Mark { name, text, vcpu, at, exits, cycles, paused, skipped } = fields.of(read::Mark::of)?;
    let (name, text) = (printable(name), printable(text));
    if marks.len() == MOST_MARKS {
        return Err(LogError::TooMany { line: fields.line, what: "marks", most: MOST_MARKS });
    }
    let reached = match (vcpu, at, exits, cycles, paused) {
        (Some(vcpu), Some(at), Some(exits), Some(cycles), Some(paused)) => {
            let skipped = skipped.unwrap_or(0);
            Some(Reached { vcpu, at, exits, cycles, paused, skipped, reasons: BTreeMap::new() })
        }
        (None, None, None, None, None) => None,
        _ => return Err(fields.problem("has some of the figures of a mark that was reached, and not all".to_owned())),
    };
    let known = marks.iter().find(|mark| mark.name == name);
    let is_known = known.is_some();
    let bare = |mark: &Marked| {
        let reached = mark.reached.clone().map(|reached| Reached { reasons: BTreeMap::new(), ..reached });
        Marked { reached, ..mark.clone() }
    };
    let mark = Marked { name, text, reached };
    fields.same(known.map(bare).as_ref(), Some(&mark), || format!("repeats the mark {}", mark.name))?;
    if !is_known {
        marks.push(mark);
    }
    Ok(())
}

/// Takes an `atmark` record.
pub(super) fn at_mark(marks: &mut [Marked], lost: &mut Lost, fields: &Fields<'_, '_>) -> Result<(), LogError> {
    let read::AtMark { name, reason, count, cycles } = fields.of(read::AtMark::of)?;
    let name = printable(name);
    let Some(mark) = marks.iter_mut().find(|mark| mark.name == name) else {
        lost.gap(Kind::Mark, format!("the record of the mark {name}"));
        return Ok(());
    };
    let Some(reached) = &mut mark.reached else {
        return Err(fields.contradiction(format!("is about the mark {name}, which was not reached")));
    };
    if reached.reasons.len() == MOST_REASONS {
        return Err(LogError::TooMany { line: fields.line, what: "reasons of a mark", most: MOST_REASONS });
    }
    let part = Part { count, cycles };
    let known = reached.reasons.insert(reason, part);
    fields.same(known.as_ref(), Some(&part), || format!("repeats reason {reason} of the mark {name}"))
}
