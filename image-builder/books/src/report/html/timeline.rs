//! Exits over time, all vCPUs together, with the marks of the console: the rates of the run's phases, and a lane for each reason in the
//! steps in which exits were sampled.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use maud::{Markup, Render, html};

use super::charts::{Decades, Level, lane, legend, levels};
use super::flags::{self, Clock, flags};
use super::grouped;
use super::tables::{Cell, Column, Table};
use crate::account::{Account, Phase};
use crate::report::figures::counted;
use crate::report::phases::{answers, title};

/// The most steps that a lane has room for; more are drawn together.
const MOST_STEPS: usize = 240;
/// The most reasons that are drawn as lines over the phases.
const MOST_LINES: usize = 5;

/// The phases and the lanes; a sentence where there is neither.
pub(super) fn section(account: &Account) -> Markup {
    let step = account.rates.iter().map(|rate| rate.step).max().unwrap_or(0);
    let option = html! { code { "--rate-step" } };
    html! {
        h2 { "Exits over time" }
        (phases(account))
        @for answer in answers(account) { p { (answer) } }
        @if step > 0 {
            (lanes(account, step))
        } @else if account.phases.is_empty() {
            p.note { "The log has no samples of exits over time; a run takes them with the option " (option) "." }
        } @else {
            p.note { "How exits come within a phase is sampled with the option " (option) "." }
        }
    }
}

/// Exits of reasons in phases: the number and name of each, the one with the most exits first, and its exits in each phase.
fn by_reason(phases: &[Phase]) -> Vec<(u16, &str, Vec<u64>)> {
    let mut rows: BTreeMap<u16, (&str, Vec<u64>)> = BTreeMap::new();
    for (at, phase) in phases.iter().enumerate() {
        for reason in &phase.reasons {
            let (_, counts) = rows.entry(reason.number).or_insert_with(|| (&reason.name, vec![0; phases.len()]));
            counts[at] = reason.count;
        }
    }
    let mut rows: Vec<_> = rows.into_iter().map(|(number, (name, counts))| (number, name, counts)).collect();
    rows.sort_by_key(|(number, _, counts)| (Reverse(total(counts)), *number));
    rows
}

/// The rate of each phase over time.
fn phases(account: &Account) -> Markup {
    let phases = &account.phases;
    let end = phases.last().map_or(0, |phase| phase.begin.saturating_add(phase.ticks));
    let rows = by_reason(phases);
    let place = |ticks: u64| ticks as f64 / end.max(1) as f64;
    let level = |name: &str, phase: &Phase, count: u64| {
        let rate = if phase.ticks == 0 { 0.0 } else { count as f64 * 1e6 / phase.ticks as f64 };
        let title = format!("{}, {name}: {}, {rate:.1} in a million ticks", title(phase), counted(count, "exit"));
        Level { from: place(phase.begin), to: place(phase.begin.saturating_add(phase.ticks)), rate, title }
    };
    let all: Vec<Level> = phases.iter().map(|phase| level("all", phase, phase.exits)).collect();
    let line = |(color, (_, name, counts)): (usize, &(u16, &str, Vec<u64>))| {
        (color, phases.iter().zip(counts).map(|(phase, &count)| level(name, phase, count)).collect())
    };
    let lines: Vec<(usize, Vec<Level>)> = rows.iter().take(MOST_LINES).enumerate().map(line).collect();
    let rates = lines.iter().flat_map(|(_, levels)| levels).chain(&all).map(|level| level.rate);
    let Some(decades) = Decades::of(rates) else { return html! {} };
    let flags = flags(account, Clock::Guest, end);
    let names = rows.iter().take(MOST_LINES).enumerate().map(|(color, &(_, name, _))| (color, name));
    let label =
        format!("Exits in a million ticks, in {}, on a logarithmic scale", counted(phases.len() as u64, "phase"));
    html! {
        p.note {
            "Exits on all vCPUs in a million ticks of the guest's clock, from mark to mark, on a logarithmic scale: of all reasons as an \
             area, of the most frequent ones as lines."
        }
        figure.wide {
            div.rates {
                (flags::names(&flags))
                div.scale aria-hidden="true" { @for label in decades.labels() { span { (label) } } }
                (levels(&label, decades, &all, &lines, &flags))
                (axis(end))
            }
            (legend(names))
        }
        details { summary { "The same as figures" } (figures(phases, &rows)) }
    }
}

/// The exits of each reason in each phase, as a table.
fn figures(phases: &[Phase], rows: &[(u16, &str, Vec<u64>)]) -> Markup {
    let titles: Vec<String> = phases.iter().map(title).collect();
    let mut columns = vec![Column::new("exit reason", false)];
    columns.extend(titles.iter().map(|title| Column::new(title, true)));
    let row = |name: &str, counts: &[u64]| {
        std::iter::once(Cell::text(name)).chain(counts.iter().map(|&count| Cell::count(count))).collect()
    };
    let all: Vec<u64> = phases.iter().map(|phase| phase.exits).collect();
    Table {
        caption: html! { "Exits in each phase" },
        groups: Vec::new(),
        columns,
        rows: rows.iter().map(|(_, name, counts)| row(name, counts)).collect(),
        last: Some(row("all", &all)),
    }
    .render()
}

/// The lanes of samples.
fn lanes(account: &Account, step: u64) -> Markup {
    let mut reasons: BTreeMap<u16, Vec<u64>> = BTreeMap::new();
    for rate in &account.rates {
        // In a long run, each vCPU doubles its steps by itself. The longest steps are the axis.
        let folded = usize::try_from(step / rate.step.max(1)).unwrap_or(usize::MAX);
        let sum = reasons.entry(rate.reason).or_default();
        sum.resize(sum.len().max(rate.counts.len().div_ceil(folded)), 0);
        let counts = rate.counts.chunks(folded).map(total);
        sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum = sum.saturating_add(count));
    }
    let steps = reasons.values().map(Vec::len).max().unwrap_or(0).max(1);
    let together = steps.div_ceil(MOST_STEPS);
    let (ticks, drawn) = (step.saturating_mul(together as u64), steps.div_ceil(together));
    let mut sums: Vec<(u16, Vec<u64>)> = reasons.into_iter().collect();
    sums.sort_by_key(|(number, counts)| (Reverse(total(counts)), *number));
    let name = |number: u16| {
        let row = account.reasons.iter().find(|row| row.number == number);
        row.map_or_else(|| format!("reason {number}"), |row| row.name.to_string())
    };
    let summed = |(number, counts): (u16, Vec<u64>)| (name(number), counts.chunks(together).map(total).collect());
    let rows: Vec<(String, Vec<u64>)> = sums.into_iter().map(summed).collect();
    let end = ticks.saturating_mul(drawn as u64);
    let flags = flags(account, Clock::Tsc, end);
    let is_skipped = account.phases.iter().any(|phase| phase.skipped > 0);
    html! {
        p.note {
            "Exits on all vCPUs in steps of " (grouped(ticks)) " ticks, the height of each lane by its own most, which stands at its end."
            @if is_skipped { " Idle time that was skipped is not on this axis." }
        }
        figure.wide {
            div.lanes.timeline {
                @if !flags.is_empty() { span {} (flags::names(&flags)) span {} }
                @for (name, counts) in &rows {
                    @let most = counts.iter().copied().max().unwrap_or(0);
                    span { (name) }
                    (lane(&format!("{name}: {} over time, {most} in a step at the most", counted(total(counts), "exit")), counts, drawn, ticks, &flags))
                    span.n { (grouped(most)) }
                }
                span {}
                (axis(end))
                span {}
            }
        }
        details { summary { "The same as figures" } (samples(&rows, drawn, ticks)) }
    }
}

/// The exits of each reason in each step, as a table.
fn samples(rows: &[(String, Vec<u64>)], steps: usize, ticks: u64) -> Markup {
    let mut columns = vec![Column::new("from tick", true)];
    columns.extend(rows.iter().map(|(name, _)| Column::new(name, true)));
    let row = |step: usize| {
        let counts = rows.iter().map(|(_, counts)| counts.get(step).copied().unwrap_or(0));
        std::iter::once(ticks.saturating_mul(step as u64)).chain(counts).map(Cell::count).collect()
    };
    Table {
        caption: html! { "Exits in steps of " (grouped(ticks)) " ticks" },
        groups: Vec::new(),
        columns,
        rows: (0..steps).map(row).collect(),
        last: None,
    }
    .render()
}

/// The ends of the axis.
fn axis(end: u64) -> Markup {
    html! { div.axis { span { "0" } span { (grouped(end)) " ticks" } } }
}

fn total(counts: &[u64]) -> u64 {
    counts.iter().fold(0, |sum, &count| sum.saturating_add(count))
}
