//! The account as Debian's `cpuid` would print it in the guest: the answers that the leaves of the run's term have at its end.

use std::io::{self, Write};

use tollgate_abi::ExitReason;
use tollgate_abi::command_line::Options;
use tollgate_abi::exit_reason::UNKNOWN_ROW;
use tollgate_abi::leaves::{Answer, Leaf, LeafMap};

use super::{Form, Titled};
use crate::account::{Account, Group, Merged};
use crate::log::CpuidLine;

/// The line that `cpuid -1` prints before each answer.
const HEADING: &str = "CPU:";

/// The answers of each run.
#[derive(Debug)]
pub(super) struct Leaves {
    several: bool,
}

impl Leaves {
    pub(super) fn new(several: bool) -> Self {
        Self { several }
    }
}

impl Form for Leaves {
    fn add(&mut self, Titled { title, account }: Titled, out: &mut dyn Write) -> io::Result<()> {
        let text = match Figures::of(&account) {
            Some(figures) if self.several => format!("==> {title} <==\n{}", figures.answers()),
            Some(figures) => figures.answers(),
            // Zeros would be wrong answers.
            None => format!("==> {title}: no answers without a whole ledger: {} <==\n", account.verdict),
        };
        out.write_all(text.as_bytes())
    }

    fn finish(&mut self, _: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn merged(&self, merged: &Merged) -> String {
        let several = merged.groups.len() > 1;
        let one = |(at, group): (usize, &Group)| {
            let heading = if several { format!("==> kind {} of runs <==\n", at + 1) } else { String::new() };
            heading + &Figures::of_group(group).map_or_else(String::new, |figures| figures.answers())
        };
        merged.groups.iter().enumerate().map(one).collect()
    }
}

/// Exits and their ticks, over all reasons and by reason.
struct Figures {
    map: LeafMap,
    all: (u64, u64),
    by_reason: Vec<(u16, u64, u64)>,
}

impl Figures {
    /// Those of a run; `None` if it does not tell all its exits, or not by which leaves.
    fn of(account: &Account) -> Option<Self> {
        let map = LeafMap::parse(&account.leaf_map).filter(|_| account.has_whole_ledger())?;
        let rows = account.reasons.iter().map(|row| (row.number, row.exits.figures));
        let by_reason = rows.map(|(number, figures)| (number, figures.count, figures.cycles)).collect();
        Some(Self { map, all: (account.totals.exits, account.totals.cycles), by_reason })
    }

    /// The sums of runs with the same options, and so of the same term; `None` if these do not tell it.
    fn of_group(group: &Group) -> Option<Self> {
        let map = Options::parse(&group.options).ok()?.leaf_map;
        let rows = group.reasons.iter().map(|row| (row.reason.number, row.reason.exits.figures));
        let by_reason = rows.map(|(number, figures)| (number, figures.count, figures.cycles)).collect();
        Some(Self { map, all: (group.exits, group.cycles), by_reason })
    }

    /// The answers: first the totals, then those of each reason.
    fn answers(&self) -> String {
        let totals = [Leaf::TotalCount, Leaf::TotalCycles, Leaf::Totals].map(|leaf| (leaf, 0));
        let newest = UNKNOWN_ROW as u16 - 1;
        let of_reasons = (0..=newest).flat_map(|number| [(Leaf::ReasonCount, number), (Leaf::ReasonCycles, number)]);
        let line = |(meaning, number): (Leaf, u16)| {
            let answer = self.answer(meaning, number);
            let line = CpuidLine { leaf: self.map.encode(meaning)?, subleaf: number.into(), answer };
            Some(format!("{HEADING}\n{line}\n"))
        };
        totals.into_iter().chain(of_reasons).filter_map(line).collect()
    }

    /// The monitor's answer. For a reason that is not enabled it is that of one without exits.
    fn answer(&self, leaf: Leaf, number: u16) -> Answer {
        let found = self.by_reason.binary_search_by_key(&number, |row| row.0);
        let (count, cycles) = found.map_or((0, 0), |at| (self.by_reason[at].1, self.by_reason[at].2));
        match leaf {
            Leaf::TotalCount => Answer::count(self.all.0),
            Leaf::TotalCycles => Answer::cycles(self.all.1),
            Leaf::Totals => Answer::totals(self.all.0, self.all.1),
            _ if !ExitReason(number).is_defined() => Answer::UNDEFINED,
            Leaf::ReasonCount => Answer::count(count),
            _ => Answer::cycles(cycles),
        }
    }
}
