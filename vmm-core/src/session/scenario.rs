//! Scenarios in the books: the exits that each provoked in its runs, and its samples if it is timed.

use core::fmt::{self, Write};

use tollgate_abi::ExitReason;
use tollgate_abi::bench::WARM_UP;
use tollgate_abi::exit_reason::{Need, ROWS};
use tollgate_abi::judgement::Judgement;
use tollgate_abi::record::records;
use tollgate_abi::scenario::Scenario;

use super::{Books, Session, counts, keeps};
use crate::bench::Sampled;

/// The samples of a scenario that was timed.
#[derive(Debug)]
pub struct TimedScenario<'a> {
    /// TSC ticks of each run, from before the VM entry to the exit's time stamp; the first runs give no samples.
    pub ticks: &'a [u32],
    /// The exits of its reason in the ledger: their number, and their cycles.
    pub cost: (u64, u64),
}

impl<W: Write> Session<W> {
    /// Records that the platform can't run a scenario.
    #[inline(never)]
    pub fn scenario_denied(&mut self, scenario: &Scenario, need: Need) {
        let record = records::Scenario {
            scenario: scenario.name,
            reason: scenario.reason.0,
            verdict: Judgement::Denied.word(),
            predicted: 0,
            observed: 0,
            detail: Some(&format_args!("this processor lacks {need}")),
        };
        let _ = record.write(&mut self.out);
    }

    /// The state of the ledger before `runs` runs, to be handed to [`Session::scenario`].
    pub fn before_scenario(&self, books: &Books, scenario: &Scenario, runs: u64) -> BeforeScenario {
        BeforeScenario { runs, rows: counts(books), variant: variant_count(scenario, books) }
    }

    /// Compares a scenario's exits in its runs with its prediction.
    #[inline(never)]
    pub fn scenario(
        &mut self,
        books: &Books,
        scenario: &'static Scenario,
        before: &BeforeScenario,
        failure: Option<&dyn fmt::Display>,
    ) {
        let mut observed = counts(books);
        for (row, count) in observed.iter_mut().enumerate() {
            *count -= before.rows[row];
            self.unbooked[row] += *count;
        }
        let came_up = |reason: &ExitReason| observed[reason.ledger_row()] > 0;
        let reason = scenario.reasons().find(came_up).unwrap_or(scenario.reason);
        let row = reason.ledger_row();
        let predicted = if keeps(books) { before.runs } else { 0 };
        let variant = variant_count(scenario, books).zip(before.variant).map(|(after, before)| after - before);
        let stray =
            (0..ROWS).find(|&other| observed[other] > if other == row { variant.unwrap_or(u64::MAX) } else { 0 });
        let observed = variant.unwrap_or(observed[row]);
        let balanced = observed == predicted && stray.is_none() && failure.is_none();
        if !balanced {
            self.differing_scenario = self.differing_scenario.or(Some(scenario));
        }
        let came_up = stray.map(|other| Stray { reason: ExitReason(other as u16), is_of_the_row: other == row });
        let record = records::Scenario {
            scenario: scenario.name,
            reason: reason.0,
            verdict: if balanced { Judgement::Balanced } else { Judgement::Differs }.word(),
            predicted,
            observed,
            detail: failure.or(came_up.as_ref().map(|stray| stray as &dyn fmt::Display)),
        };
        let _ = record.write(&mut self.out);
    }

    /// Records a scenario's samples.
    #[inline(never)]
    pub fn timed_scenario(&mut self, scenario: &Scenario, timed: &TimedScenario<'_>) {
        let samples = timed.ticks.get(WARM_UP as usize..).unwrap_or_default();
        self.samples(Sampled::Scenario(scenario.name), samples.len() as u64, &|number| {
            samples.get(number as usize).copied()
        });
        let record = records::Cost {
            workload: None,
            scenario: Some(scenario.name),
            reason: scenario.reason.ledger_row() as u16,
            exits: timed.cost.0,
            cycles: timed.cost.1,
        };
        let _ = record.write(&mut self.out);
    }
}

/// An exit that came up beside those that a scenario predicts.
struct Stray {
    reason: ExitReason,
    is_of_the_row: bool,
}

impl fmt::Display for Stray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{} came up", self.reason, if self.is_of_the_row { " of another kind" } else { "" })
    }
}

/// The exits of all vCPUs by the scenario's variant, if it is about one and variants are kept.
fn variant_count(scenario: &Scenario, books: &Books) -> Option<u64> {
    let name = scenario.variant.filter(|_| books.iter().any(|book| book.keeps_keys()))?;
    let mut sum = 0;
    for book in books {
        book.variants(&mut |row| {
            if (row.reason, row.name) == (scenario.reason, name) {
                sum += row.figures.count;
            }
        });
    }
    Some(sum)
}

/// The state of the ledger before a scenario.
#[derive(Debug)]
pub struct BeforeScenario {
    runs: u64,
    rows: [u64; ROWS],
    variant: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Keyed;
    use crate::ledger::{Account, Book};
    use alloc::boxed::Box;
    use alloc::string::{String, ToString};
    use alloc::vec;
    use alloc::vec::Vec;
    use tollgate_abi::record::{MOST_RUNS, parse};
    use tollgate_abi::scenario::RUNS;

    /// The record of a scenario about #OF that was run with so many exits of these vectors.
    fn scenario_record(exits: &[(u64, u64)]) -> (String, u64, String) {
        let keyed: &'static Keyed = Box::leak(Box::default());
        let books: [&'static dyn Book; 1] = [keyed];
        let book = |vector: u64| {
            keyed.expect(ExitReason::EXCEPTION_OR_NMI, || Some(vector), || 0);
            keyed.close(keyed.open(ExitReason::EXCEPTION_OR_NMI), 0, || 50);
        };
        book(4);
        let mut text = String::new();
        let mut session = Session::new(&mut text);
        let scenario = Scenario::by_name("overflow").unwrap();
        let before = session.before_scenario(&books, scenario, RUNS);
        exits.iter().for_each(|&(vector, times)| (0..times).for_each(|_| book(vector)));
        session.scenario(&books, scenario, &before, None);
        let record = parse(text.trim_end().as_bytes()).unwrap();
        let detail = record.text("detail").map(|text| text.to_string()).unwrap_or_default();
        (record.text("verdict").unwrap().to_string(), record.number("observed").unwrap(), detail)
    }

    #[test]
    fn a_scenario_about_a_variant_wants_that_one() {
        let differs = |observed, detail: &str| ("differs".to_owned(), observed, detail.to_owned());
        let stray = "0 (Exception or non-maskable interrupt) of another kind came up";
        assert_eq!(scenario_record(&[(4, RUNS)]), ("balanced".to_owned(), RUNS, String::new()));
        assert_eq!(scenario_record(&[(6, RUNS)]), differs(0, stray));
        assert_eq!(scenario_record(&[(4, RUNS), (6, 1)]), differs(RUNS, stray));
        assert_eq!(scenario_record(&[(4, RUNS - 1)]), differs(RUNS - 1, ""));
    }

    #[test]
    fn a_scenario_that_is_timed_has_its_samples_but_the_first_ones() {
        let mut text = String::new();
        let mut ticks = vec![999; WARM_UP as usize];
        ticks.extend((0..2 * MOST_RUNS as u32).map(|number| 60 + number % 2));
        ticks.push(61);
        let scenario = Scenario::by_name("getsec").unwrap();
        Session::new(&mut text).timed_scenario(scenario, &TimedScenario { ticks: &ticks, cost: (273, 24_024) });
        let records: Vec<_> = text.lines().map(|line| parse(line.as_bytes()).unwrap()).collect();
        let [first, second, cost] = records.as_slice() else { panic!("{text}") };
        assert_eq!((first.number("first"), second.number("first")), (Some(0), Some(MOST_RUNS as u64)));
        let ticks = |record| records::read::Samples::of(record).unwrap().ticks;
        assert_eq!(ticks(first).iter().take(2).collect::<Vec<_>>(), [(60, 1), (61, 1)]);
        assert_eq!(ticks(second).iter().last(), Some((61, 2)));
        assert_eq!(["reason", "exits", "cycles"].map(|key| cost.number(key)), [Some(11), Some(273), Some(24_024)]);
    }
}
