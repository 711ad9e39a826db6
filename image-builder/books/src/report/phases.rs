//! The phases of a run as a table, and what they say about a boot in words: its exits until each stage, whether they come
//! steadily, and which are the most and the least frequent.

use super::Sheet;
use super::figures::{counted, percent};
use crate::account::phases::END;
use crate::account::{Account, Mark, Phase, Reason};

/// The column of skipped idle time, which stands only where there is any.
const SKIPPED: &str = "skipped#";

/// The most reasons of a phase that its row names.
const MOST_REASONS: usize = 3;
/// A phase that has less than one of so many of the run's ticks says nothing about the rate.
const SHORT: u64 = 1000;
/// Exits come steadily if no phase has more than so many times the rate of another.
const STEADY: f64 = 2.0;
/// The marks until which a boot's exits are asked for.
const ASKED_FOR: [&str; 2] = ["init", "power-off"];

/// A row for each phase, and the sums.
pub(super) fn sheet(account: &Account) -> Sheet {
    let heading = [
        "phase",
        "ticks#",
        "exits#",
        "exits/Mtick#",
        "exit ticks#",
        "pauses#",
        "skipped#",
        "guest ticks#",
        "most frequent",
    ];
    let is_skipped = account.phases.iter().any(|phase| phase.skipped > 0);
    let shown = |at: &usize| is_skipped || heading[*at] != SKIPPED;
    let columns: Vec<usize> = (0..heading.len()).filter(shown).collect();
    let mut sheet = Sheet::new(&columns.iter().map(|&at| heading[at]).collect::<Vec<_>>());
    let mut row = |cells: [String; 9]| sheet.row(columns.iter().map(|&at| cells[at].clone()).collect());
    for phase in &account.phases {
        row([
            title(phase),
            phase.ticks.to_string(),
            phase.exits.to_string(),
            rate(phase.rate),
            phase.cycles.to_string(),
            phase.paused.to_string(),
            phase.skipped.to_string(),
            phase.guest_ticks.map_or_else(|| "-".to_owned(), |ticks| ticks.to_string()),
            most_frequent(phase),
        ]);
    }
    if account.phases.last().is_some_and(|phase| phase.to == END) {
        let guest = account.phases.iter().map(|phase| phase.guest_ticks).sum::<Option<u64>>();
        let totals = &account.totals;
        let sum = |figure: fn(&Phase) -> u64| account.phases.iter().map(figure).fold(0, u64::saturating_add);
        let ticks = sum(|phase| phase.ticks);
        let all = (ticks > 0).then(|| totals.exits as f64 * 1e6 / ticks as f64);
        row([
            "all".to_owned(),
            ticks.to_string(),
            totals.exits.to_string(),
            rate(all),
            totals.cycles.to_string(),
            sum(|phase| phase.paused).to_string(),
            sum(|phase| phase.skipped).to_string(),
            guest.map_or_else(|| "-".to_owned(), |ticks| ticks.to_string()),
            String::new(),
        ]);
    }
    sheet
}

/// A phase by its ends.
pub(super) fn title(phase: &Phase) -> String {
    format!("{} to {}", phase.from, phase.to)
}

/// Exits in a million ticks.
fn rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"))
}

fn most_frequent(phase: &Phase) -> String {
    let named = phase.reasons.iter().filter(|row| row.count > 0).take(MOST_REASONS);
    named.map(|row| format!("{} {}", row.name, row.count)).collect::<Vec<_>>().join(", ")
}

/// The answers, a sentence each; none for a run without marks.
pub(super) fn answers(account: &Account) -> Vec<String> {
    if account.marks.is_empty() {
        return Vec::new();
    }
    let missing = account.marks.iter().filter(|mark| mark.until.is_none()).map(not_reached);
    if account.phases.is_empty() {
        return missing.collect();
    }
    let answers = [totals(account), steadiness(account), frequency(account)].into_iter().flatten();
    answers.chain(missing).collect()
}

/// The exits until init and until power-off, or until the last mark of a run that has neither.
fn totals(account: &Account) -> Option<String> {
    let reached = || account.marks.iter().filter(|mark| mark.until.is_some());
    let asked: Vec<&Mark> = reached().filter(|mark| ASKED_FOR.contains(&mark.name.as_str())).collect();
    let asked = if asked.is_empty() { reached().next_back().into_iter().collect() } else { asked };
    let until = |mark: &Mark| {
        let until = mark.until?;
        let (exits, cycles) = (counted(until.exits, "exit"), until.cycles);
        let share = share(account, cycles, until.ticks);
        Some(format!("until {}: {exits}, which took {cycles} of {} ticks{share}", mark.name, until.ticks))
    };
    let parts: Vec<String> = asked.into_iter().filter_map(until).collect();
    let text = parts.join("; ");
    (!text.is_empty()).then(|| capitalized(&text) + ".")
}

/// The part of the time that exits took: with several vCPUs, they are in exits at the same time.
fn share(account: &Account, cycles: u64, ticks: u64) -> String {
    if account.vcpus == 1 { format!(" ({})", percent(cycles, ticks)) } else { String::new() }
}

/// Whether exits come steadily or in bursts, by the phases with the least and the highest rate.
fn steadiness(account: &Account) -> Option<String> {
    let all = account.phases.iter().map(|phase| phase.ticks).fold(0, u64::saturating_add);
    let counts = |phase: &&Phase| u128::from(phase.ticks) * u128::from(SHORT) >= u128::from(all);
    let mut rated: Vec<(&Phase, f64)> =
        account.phases.iter().filter(counts).filter_map(|phase| Some((phase, phase.rate?))).collect();
    rated.sort_by(|one, other| one.1.total_cmp(&other.1));
    let (&(least, low), &(most, high)) = (rated.first()?, rated.last()?);
    if rated.len() < 2 {
        return None;
    }
    let [least, most] = [least, most].map(title);
    let how = if high <= STEADY * low { "Steadily" } else { "In bursts" };
    let times = if low > 0.0 { format!(": {:.1} times as many", high / low) } else { String::new() };
    let short = if rated.len() < account.phases.len() {
        format!("; phases of less than 1/{SHORT} of the ticks are left out")
    } else {
        String::new()
    };
    Some(format!(
        "{how}: {high:.1} exits in a million ticks from {most}, which is the most, and {low:.1} from {least}, the least\
         {times}{short}."
    ))
}

/// The most and the least frequent reason.
fn frequency(account: &Account) -> Option<String> {
    let count = |reason: &&Reason| reason.exits.figures.count;
    let rows: Vec<&Reason> = account.reasons.iter().filter(|reason| count(reason) > 0).collect();
    let most = rows.iter().max_by_key(|row| (row.exits.figures.count, std::cmp::Reverse(row.number)))?;
    let fewest = rows.iter().map(count).min()?;
    let least: Vec<&str> = rows.iter().filter(|row| count(row) == fewest).map(|row| row.name.as_str()).collect();
    let all = account.totals.exits;
    let share = percent(most.exits.figures.count, all);
    Some(format!(
        "Most frequent: {} ({} of {}, {share}); least: {} ({}{}).",
        most.name,
        most.exits.figures.count,
        counted(all, "exit"),
        least.join(", "),
        fewest,
        if least.len() > 1 { " each" } else { "" }
    ))
}

fn not_reached(mark: &Mark) -> String {
    format!("The mark {} was not reached: the console never showed `{}`.", mark.name, mark.text)
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
