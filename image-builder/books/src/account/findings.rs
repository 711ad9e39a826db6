//! The differences that the host found, apart from those that lost records explain.
//!
//! A line that was damaged or lost on its way says nothing about the monitor. A difference counts only if it lies between records that
//! arrived; where one of them may be among the lost, nobody can tell.

use std::collections::BTreeSet;

use tollgate_abi::ExitReason;
use tollgate_abi::exit_reason::ROWS;
use tollgate_abi::record::Kind;

use crate::log::{Log, Lost, LostLine, Total};

/// The most lost records that a sentence names.
const MOST_NAMED: usize = 5;

/// Findings, and the records without which there are none.
pub(super) struct Findings<'a> {
    log: &'a Log,
    wrong: Vec<String>,
    is_unsure: bool,
    missing: BTreeSet<String>,
    /// The vCPUs whose rows are fewer than their sums.
    short: BTreeSet<u64>,
}

impl<'a> Findings<'a> {
    pub(super) fn of(log: &'a Log) -> Self {
        let missing = log.lost.gaps.iter().cloned().collect();
        let short = log.totals.iter().filter(|&(&vcpu, total)| is_short(log, vcpu, total)).map(|(&vcpu, _)| vcpu);
        let is_unsure = log.lost.heading || log.lost.untraced.is_some();
        Self { log, wrong: Vec::new(), is_unsure, missing, short: short.collect() }
    }

    /// A fault of one record, or of records that are all there.
    pub(super) fn push(&mut self, sentence: String) {
        self.wrong.push(sentence);
    }

    /// A difference between records of these kinds. One that a damaged line may have been explains it, and so does one that is missing
    /// without a trace.
    pub(super) fn between(&mut self, kinds: &[Kind], sentence: String) {
        if self.log.lost.may_be(kinds) || self.log.lost.untraced.is_some() {
            self.is_unsure = true;
        } else {
            self.wrong.push(sentence);
        }
    }

    /// A difference between records of these kinds. If `missing` names a record that is not there, its lack explains the difference.
    pub(super) fn unless(&mut self, missing: Option<String>, kinds: &[Kind], sentence: impl FnOnce() -> String) {
        match missing {
            _ if self.log.lost.may_be(kinds) => self.is_unsure = true,
            Some(missing) => drop(self.missing.insert(missing)),
            None if self.log.lost.untraced.is_some() => self.is_unsure = true,
            None => self.wrong.push(sentence()),
        }
    }

    /// Records of these kinds that every such run has are not there.
    pub(super) fn missing(&mut self, kinds: &[Kind], what: String) {
        self.unless(Some(what), kinds, String::new);
    }

    /// Whether rows of a vCPU's ledger may be missing: its sums are, or they have more exits and more cycles than its rows.
    pub(super) fn lacks_rows(&self, vcpu: u64) -> bool {
        vcpu < self.log.header.vcpus && (self.short.contains(&vcpu) || !self.log.totals.contains_key(&vcpu))
    }

    /// The row of a reason, if it may be missing: it is not there, and the vCPU's rows have fewer exits and cycles than its sums.
    pub(super) fn missing_row(&self, vcpu: u64, reason: u16) -> Option<String> {
        let is_missing = self.lacks_rows(vcpu) && !self.log.exits.contains_key(&(vcpu, reason));
        is_missing.then(|| row(vcpu, reason))
    }

    /// The differences, and the reason that there may be others, if there is one.
    pub(super) fn finish(self) -> (Vec<String>, Option<String>) {
        let doubt = (self.is_unsure || !self.missing.is_empty()).then(|| doubt(&self.log.lost, &self.missing));
        (self.wrong, doubt)
    }
}

/// The name of a ledger's row.
pub(super) fn row(vcpu: u64, reason: u16) -> String {
    format!("the row of reason {reason} {} on vCPU {vcpu}", super::row_name(reason))
}

fn is_short(log: &Log, vcpu: u64, total: &Total) -> bool {
    let rows = || log.exits.range((vcpu, 0)..=(vcpu, u16::MAX)).map(|(_, row)| row.exits.figures);
    let exits = rows().fold(0_u64, |sum, row| sum.saturating_add(row.count));
    let cycles = rows().fold(0_u64, |sum, row| sum.saturating_add(row.cycles));
    // If every row is there, none is missing.
    let has_room = || (0..ROWS as u16).any(|row| ExitReason(row).is_named() && !log.exits.contains_key(&(vcpu, row)));
    exits < total.exits && cycles < total.cycles && has_room()
}

/// Tells the lost records.
fn doubt(lost: &Lost, missing: &BTreeSet<String>) -> String {
    let mut parts = Vec::new();
    if lost.damaged > 0 {
        let shown: Vec<String> = lost.lines.iter().take(MOST_NAMED).map(place).collect();
        let more = lost.damaged - shown.len() as u64;
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let records = if lost.damaged == 1 { "1 record is" } else { &format!("{} records are", lost.damaged) };
        parts.push(format!("{records} damaged ({}{more})", shown.join("; ")));
    }
    let mut missing: Vec<&str> = missing.iter().map(String::as_str).collect();
    let heading_is_damaged = lost.lines.iter().any(|line| line.kind == Some(Kind::Tollgate));
    if lost.heading && !heading_is_damaged {
        missing.insert(0, "the first record, with the platform and the options");
    }
    let more = missing.len().saturating_sub(MOST_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    missing.truncate(MOST_NAMED);
    let named = format!("{}{more}", missing.join(", "));
    match lost.untraced {
        Some((lost, all)) if missing.is_empty() => parts.push(format!("the log lacks {lost} of its {all} records")),
        Some((lost, all)) => parts.push(format!("the log lacks {lost} of its {all} records, among them {named}")),
        None if missing.is_empty() => {}
        None => parts.push(format!("the log lacks {named}")),
    }
    parts.join("; ")
}

fn place(LostLine { line, kind }: &LostLine) -> String {
    kind.map_or_else(|| format!("line {line}"), |kind| format!("line {line}, {}", kind.word()))
}
