//! Several runs side by side: the result of each, and reason by reason the differences from the first.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::charts;
use super::run::{platform, verdict};
use super::tables::{Cell, Column, Table};
use crate::account::{Account, Reason, Totals};
use crate::report::figures::{average, seen};
use crate::report::{Look, Titled};

/// The name of the run at this place: A to Z, then numbers.
pub(super) fn letter(at: usize) -> String {
    match u8::try_from(at) {
        Ok(at) if at < 26 => char::from(b'A' + at).to_string(),
        _ => (at + 1).to_string(),
    }
}

pub(super) fn section(accounts: &[Titled], look: Look) -> Markup {
    html! {
        section { (overview(accounts)) @if !accounts.is_empty() { (reasons(accounts, look)) } }
    }
}

fn overview(accounts: &[Titled]) -> Markup {
    let columns =
        [("log", false), ("run", false), ("verdict", false), ("platform", false), ("exits", true), ("ticks", true)];
    let row = |(at, Titled { title, account }): (usize, &Titled)| {
        let letter = letter(at);
        vec![
            Cell::of(html! { a href={ "#run-" (letter) } { (title) } }, None),
            Cell::text(&letter),
            Cell::of(verdict(account), None),
            Cell::text(platform(account)),
            total(account).map_or_else(none, |all| Cell::count(all.count)),
            total(account).map_or_else(none, |all| Cell::count(all.cycles)),
        ]
    };
    let table = Table {
        caption: html! { "The runs" },
        groups: Vec::new(),
        columns: columns.map(|(name, numeric)| Column::new(name, numeric)).into(),
        rows: accounts.iter().enumerate().map(row).collect(),
        last: None,
    };
    html! { (table) }
}

/// The compared figures of a row.
#[derive(Clone, Copy)]
struct Figures {
    count: u64,
    cycles: u64,
}

impl Figures {
    fn average(self) -> Option<f64> {
        (self.count > 0).then(|| self.cycles as f64 / self.count as f64)
    }
}

/// The sums of a run, if they are known.
fn total(account: &Account) -> Option<Figures> {
    let Totals { exits, cycles, lost, .. } = account.totals;
    (!lost).then_some(Figures { count: exits, cycles })
}

fn none() -> Cell {
    Cell::text("-")
}

/// The reasons that any run has, in the order of the first run and then by number.
fn reasons(accounts: &[Titled], look: Look) -> Markup {
    let mut names: BTreeMap<u16, &str> = BTreeMap::new();
    let mut order: Vec<u16> = Vec::new();
    for Titled { account, .. } in accounts {
        let mut rows = seen(account);
        look.order.sort(&mut rows);
        for row in rows {
            if names.insert(row.number, &row.name).is_none() {
                order.push(row.number);
            }
        }
    }
    let runs: Vec<BTreeMap<u16, &Reason>> =
        accounts.iter().map(|titled| titled.account.reasons.iter().map(|row| (row.number, row)).collect()).collect();
    let of = |run: usize, number: u16| {
        let known = |row: &&Reason| Figures { count: row.exits.figures.count, cycles: row.exits.figures.cycles };
        let row = runs[run].get(&number);
        (!row.is_some_and(|row| row.lost)).then(|| row.map_or(Figures { count: 0, cycles: 0 }, known))
    };
    let mut groups = vec![(String::new(), 2)];
    let mut columns = vec![Column::new("exit reason", false), Column::new("no", true)];
    for at in 0..accounts.len() {
        groups.push((format!("run {}", letter(at)), if at == 0 { 2 } else { 4 }));
        columns.extend([Column::new("samples", true)]);
        if at > 0 {
            columns.push(Column { about: "more samples than in run A", ..Column::new("\u{394} samples", true) });
        }
        columns.push(Column { about: "ticks of an exit on average", ..Column::new("avg", true) });
        if at > 0 {
            columns.push(Column { about: "more ticks on average than in run A", ..Column::new("\u{394} avg", true) });
        }
    }
    let row = |number: u16| {
        let mut cells = vec![Cell::text(names[&number]), Cell::count(number.into())];
        (0..accounts.len()).for_each(|at| cells.extend(cells_of(of(at, number), (at > 0).then(|| of(0, number)))));
        cells
    };
    let mut last = vec![Cell::text("all"), Cell::text("")];
    for (at, titled) in accounts.iter().enumerate() {
        last.extend(cells_of(total(&titled.account), (at > 0).then(|| total(&accounts[0].account))));
    }
    let table = Table {
        caption: html! { "Exit reasons side by side; \u{394} is the difference from run A" },
        groups,
        columns,
        rows: order.into_iter().map(row).collect(),
        last: Some(last),
    };
    html! { h2 { "Reasons compared" } (table) }
}

/// A run's figures, each followed by its difference from that of the first, which is given for all other runs.
fn cells_of(figures: Option<Figures>, first: Option<Option<Figures>>) -> Vec<Cell> {
    let mut cells = vec![figures.map_or_else(none, |figures| Cell::count(figures.count))];
    let both = |first: Option<Figures>| figures.zip(first);
    cells.extend(first.map(|first| both(first).map_or_else(none, |(own, first)| more(own, first))));
    let shown = figures.filter(|figures| figures.count > 0);
    cells.push(shown.map_or_else(none, |figures| Cell::text(average(figures.cycles, figures.count))));
    cells.extend(first.map(|first| both(first).map_or_else(none, |(own, first)| longer(own, first))));
    cells
}

fn more(own: Figures, first: Figures) -> Cell {
    let more = i128::from(own.count) - i128::from(first.count);
    let text = if more == 0 { "=".to_owned() } else { format!("{more:+}") };
    Cell::of(html! { (text) }, Some(more as f64))
}

fn longer(own: Figures, first: Figures) -> Cell {
    match (own.average(), first.average()) {
        (Some(own), Some(others)) if others > 0.0 => {
            let ratio = own / others - 1.0;
            let text = if own == others { "=".to_owned() } else { format!("{:+.1}%", ratio * 100.0) };
            Cell::of(html! { (text) @if own != others { (charts::change(ratio)) } }, Some(ratio))
        }
        _ => none(),
    }
}
