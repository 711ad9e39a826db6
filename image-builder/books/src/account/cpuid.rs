//! The values that Debian's `cpuid` read in the guest, held against the ledger.
//!
//! A value is a snapshot of a moment that no one recorded; but counts and cycles never fall, each question is a CPUID exit itself, a total
//! is the sum of its reasons, and an exit takes as long as the ledger's extremes say. So what was read before and after, and the
//! ledger at the end, bound each value from both sides. The questions are taken to have been asked in the order in which their
//! answers were printed.

use std::collections::BTreeMap;

use serde::Serialize;
use tollgate_abi::ExitReason;
use tollgate_abi::figures::Figures;
use tollgate_abi::leaves::{Answer, Leaf, LeafMap};

use super::{Reason, row_name};
use crate::log::{CpuidLine, Log};

/// The most findings that are told one by one.
const MOST_FINDINGS: usize = 10;

/// A value that `cpuid` read in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CpuidValue {
    /// The leaf, in hexadecimal.
    pub leaf: String,
    /// The basic exit reason; `null` for all together.
    pub reason: Option<u16>,
    /// Whether the value counts exits or ticks of the time-stamp counter.
    pub unit: Unit,
    /// The value.
    pub value: u64,
    /// The least that the ledger allows, with the values that were read before.
    pub least: u64,
    /// The most that the ledger allows, with the values that were read after.
    pub most: u64,
}

/// The unit of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// VM exits.
    Exits,
    /// TSC ticks of these.
    Cycles,
}

/// The values of a log, and the sentences about those that can't be true.
pub(super) fn of(log: &Log, reasons: &[Reason]) -> (Vec<CpuidValue>, Vec<String>) {
    let figures: BTreeMap<u16, Figures> = reasons.iter().map(|reason| (reason.number, reason.exits.figures)).collect();
    // Leaves have the low half of a count. Nobody waits for a run that has more exits.
    let too_many = figures.values().map(|row| row.count).fold(0, u64::saturating_add) > u32::MAX.into();
    let Some(map) = LeafMap::parse(&log.header.leaf_map).filter(|_| !too_many) else { return (Vec::new(), Vec::new()) };
    let mut found = Vec::new();
    let mut values = Vec::new();
    for (at, line) in log.cpuid.kept.iter().enumerate() {
        match read(map, line) {
            Ok(read) => values.extend(read.into_iter().flatten().map(|value| (at, value))),
            Err(form) => found.push(form),
        }
    }
    let books = Books { figures, questions: log.cpuid.kept.len(), vcpus: log.header.vcpus };
    books.bound(&mut values);
    let values: Vec<CpuidValue> = values.into_iter().map(|(_, value)| value).collect();
    let outside = values.iter().filter(|value| !(value.least..=value.most).contains(&value.value));
    found.extend(outside.map(|value| {
        let unit = if value.unit == Unit::Exits { "exits" } else { "cycles" };
        let CpuidValue { value: read, least, most, .. } = value;
        format!(
            "{}: cpuid read {read} {unit}, and the ledger allows {least} to {most}",
            place(&value.leaf, value.reason)
        )
    }));
    let more = found.len().saturating_sub(MOST_FINDINGS);
    found.truncate(MOST_FINDINGS);
    if more > 0 {
        found.push(format!("cpuid in the guest: {more} more of its values can't be true"));
    }
    (values, found)
}

fn place(leaf: &str, reason: Option<u16>) -> String {
    let of = reason.map_or("all reasons".to_owned(), |reason| format!("reason {reason} {}", row_name(reason)));
    format!("{of}, leaf {leaf} in the guest")
}

/// The values in an answer, none for leaves that are not the course's and for a reason that is undefined; or a sentence about
/// registers that no such answer has.
fn read(map: LeafMap, line: &CpuidLine) -> Result<[Option<CpuidValue>; 2], String> {
    let CpuidLine { leaf, subleaf, answer } = *line;
    let Some(meaning) = map.decode(leaf) else { return Ok([None, None]) };
    let (exits, cycles) = (u64::from(answer.eax), answer.ebx_ecx());
    let defined = u16::try_from(subleaf).ok().filter(|&reason| ExitReason(reason).is_defined());
    let (expected, reason) = match meaning {
        Leaf::TotalCount => (Answer::count(exits), None),
        Leaf::TotalCycles => (Answer::cycles(cycles), None),
        Leaf::Totals => (Answer::totals(exits, cycles), None),
        Leaf::ReasonCount | Leaf::ReasonCycles if defined.is_none() => (Answer::UNDEFINED, None),
        Leaf::ReasonCount => (Answer::count(exits), defined),
        Leaf::ReasonCycles => (Answer::cycles(cycles), defined),
        _ => return Ok([None, None]),
    };
    let name = format!("{leaf:#x}");
    if answer != expected {
        let Answer { eax, ebx, ecx, edx } = answer;
        let of = match meaning {
            Leaf::ReasonCount | Leaf::ReasonCycles if defined.is_none() => {
                format!("undefined reason {subleaf}, leaf {name} in the guest")
            }
            _ => place(&name, reason),
        };
        return Err(format!(
            "{of}: cpuid read eax={eax:#x} ebx={ebx:#x} ecx={ecx:#x} edx={edx:#x}, and the leaf never gives that"
        ));
    }
    let value = |unit, value| Some(CpuidValue { leaf: name.clone(), reason, unit, value, least: 0, most: 0 });
    Ok(match meaning {
        _ if expected == Answer::UNDEFINED => [None, None],
        Leaf::TotalCount | Leaf::ReasonCount => [value(Unit::Exits, exits), None],
        Leaf::TotalCycles | Leaf::ReasonCycles => [value(Unit::Cycles, cycles), None],
        _ => [value(Unit::Exits, exits), value(Unit::Cycles, cycles)],
    })
}

/// The ledger at the end, and the number of questions.
struct Books {
    figures: BTreeMap<u16, Figures>,
    questions: usize,
    vcpus: u64,
}

/// The values that were read on one side of a moment: by unit and reason, each with its place among the questions.
type Known = BTreeMap<(Unit, Option<u16>), (usize, u64)>;

impl Books {
    /// Bounds each value: from below by those in front of it, from above by those behind it.
    fn bound(&self, values: &mut [(usize, CpuidValue)]) {
        let mut known = Known::new();
        for (at, value) in values.iter_mut() {
            value.least = self.least(&known, *at, value.unit, value.reason);
            known.insert((value.unit, value.reason), (*at, value.value));
        }
        known.clear();
        for (at, value) in values.iter_mut().rev() {
            value.most = self.most(&known, *at, value.unit, value.reason);
            known.insert((value.unit, value.reason), (*at, value.value));
        }
    }

    /// The questions among the exits of a reason, of so many questions.
    fn asked(reason: Option<u16>, questions: usize) -> u64 {
        let is_cpuid = reason.is_none_or(|reason| reason == ExitReason::CPUID.0);
        if is_cpuid { questions as u64 } else { 0 }
    }

    /// The least that a value can have at a question, by what is known from questions before.
    fn least(&self, known: &Known, at: usize, unit: Unit, reason: Option<u16>) -> u64 {
        let before = known.get(&(unit, reason));
        let own = match unit {
            Unit::Exits => before.map_or(Self::asked(reason, at + 1), |&(from, value)| {
                value.saturating_add(Self::asked(reason, at - from))
            }),
            Unit::Cycles => before.map_or(0, |&(_, value)| value),
        };
        let Some(number) = reason else {
            let parts = self.figures.keys().map(|&number| self.least(known, at, unit, Some(number)));
            return own.max(parts.fold(0, u64::saturating_add));
        };
        if unit == Unit::Exits {
            return own;
        }
        // Each other vCPU may be in an exit that is counted and not timed yet, as the one that asks is in a CPUID.
        let open = self.vcpus.saturating_sub(1).saturating_add(Self::asked(reason, 1));
        let Figures { count, cycles, min, max } = self.figures(number);
        let exits = self.least(known, at, Unit::Exits, reason);
        let to_come = count.saturating_sub(exits).saturating_add(open);
        own.max(min.saturating_mul(exits.saturating_sub(open))).max(cycles.saturating_sub(max.saturating_mul(to_come)))
    }

    /// The most that a value can have at a question, by what is known from questions behind it and from the ledger's end.
    fn most(&self, known: &Known, at: usize, unit: Unit, reason: Option<u16>) -> u64 {
        let last = self.questions - 1;
        let end = reason.map_or_else(|| self.sum(unit), |number| of_unit(self.figures(number), unit));
        let &(to, value) = known.get(&(unit, reason)).unwrap_or(&(last, end));
        let own = match unit {
            Unit::Exits => value.saturating_sub(Self::asked(reason, to - at)),
            Unit::Cycles => value,
        };
        let Some(number) = reason else {
            let parts = self.figures.keys().map(|&number| self.most(known, at, unit, Some(number)));
            return own.min(parts.fold(0, u64::saturating_add));
        };
        if unit == Unit::Exits {
            return own;
        }
        // The CPUID that asks is counted and not timed yet.
        let Figures { count, cycles, min, max } = self.figures(number);
        let timed = self.most(known, at, Unit::Exits, reason).saturating_sub(Self::asked(reason, 1));
        own.min(max.saturating_mul(timed)).min(cycles.saturating_sub(min.saturating_mul(count.saturating_sub(timed))))
    }

    fn figures(&self, number: u16) -> Figures {
        self.figures.get(&number).copied().unwrap_or_default()
    }

    fn sum(&self, unit: Unit) -> u64 {
        self.figures.values().map(|&row| of_unit(row, unit)).fold(0, u64::saturating_add)
    }
}

fn of_unit(figures: Figures, unit: Unit) -> u64 {
    match unit {
        Unit::Exits => figures.count,
        Unit::Cycles => figures.cycles,
    }
}
