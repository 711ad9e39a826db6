//! Marks of a run on an axis of time: a line for each, which goes through the charts, and its name above them.

use std::cmp::Ordering;

use maud::{Markup, html};
use tollgate_abi::marks::MOST_MARKS;

use crate::account::phases::Until;
use crate::account::{Account, Mark, Phase};

/// The most marks that are drawn: four times as many as a run can have.
const MOST: usize = 4 * MOST_MARKS;
/// Shares of the axis, in percent, that a letter and the space around a name take on a telephone.
const LETTER: f64 = 2.1;
const SPACE: f64 = 2.0;
/// The height of a row of names, in rem.
const ROW_REM: f64 = 1.25;

/// A mark at its place.
#[derive(Debug)]
pub(super) struct Flag {
    /// Its place, as a share of the axis.
    pub(super) place: f64,
    name: String,
    /// Its name, its place in ticks and its text.
    pub(super) title: String,
}

/// The clock of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    /// The guest's, which idle time that was skipped moves on.
    Guest,
    /// The processor's.
    Tsc,
}

/// The marks that were reached, on an axis of so many ticks.
pub(super) fn flags(account: &Account, clock: Clock, axis_ticks: u64) -> Vec<Flag> {
    let mut skipped = 0_u64;
    let reached = account.marks.iter().filter_map(|mark| Some((mark, mark.until?)));
    // A phase ends with each of them.
    let flag = |((mark, until), phase): ((&Mark, Until), &Phase)| {
        skipped = skipped.saturating_add(phase.skipped);
        let ticks = if clock == Clock::Guest { until.ticks } else { until.ticks.saturating_sub(skipped) };
        Flag {
            place: (ticks as f64 / axis_ticks.max(1) as f64).min(1.0),
            name: mark.name.clone(),
            title: format!("{} at tick {ticks}: `{}`", mark.name, mark.text),
        }
    };
    reached.zip(&account.phases).take(MOST).map(flag).collect()
}

/// The names, each at its line, in as many rows as keep them apart; nothing without marks.
pub(super) fn names(flags: &[Flag]) -> Markup {
    let labels = arrange(flags);
    let rows = labels.iter().map(|label| label.row + 1).max().unwrap_or(0);
    let top = |label: &Label| format!("{:.1}", label.row as f64 * 100.0 / rows as f64);
    html! {
        @if rows > 0 {
            div.flags aria-hidden="true" style=(format!("height:{}rem", rows as f64 * ROW_REM)) {
                svg viewBox="0 0 1000 100" preserveAspectRatio="none" aria-hidden="true" {
                    @for (flag, label) in flags.iter().zip(&labels) {
                        @let x = format!("{:.1}", flag.place * 1000.0);
                        line.flag x1=(x) x2=(x) y1=(top(label)) y2="100" {}
                    }
                }
                @for (flag, label) in flags.iter().zip(&labels) {
                    @let side = if label.is_before { "right" } else { "left" };
                    @let distance = if label.is_before { 100.0 - flag.place * 100.0 } else { flag.place * 100.0 };
                    span title=(flag.title) style=(format!("{side}:{distance:.2}%;top:{}%", top(label))) { (flag.name) }
                }
            }
        }
    }
}

/// The place of a name.
#[derive(Clone, Copy, Debug)]
struct Label {
    row: usize,
    /// Whether it stands before its line, for want of room behind.
    is_before: bool,
    /// Its beginning and its end, in percent of the axis.
    span: (f64, f64),
}

/// Rows in which no name lies on another, nor on the line that goes down from one above it. Of names behind their lines the first has
/// the highest row that is free, of those before their lines the last.
fn arrange(flags: &[Flag]) -> Vec<Label> {
    let label = |flag: &Flag| {
        let (x, width) = (flag.place * 100.0, flag.name.chars().count() as f64 * LETTER + SPACE);
        let is_before = x + width > 100.0 && x > 50.0;
        Label { row: 0, is_before, span: if is_before { (x - width, x) } else { (x, x + width) } }
    };
    let mut labels: Vec<Label> = flags.iter().map(label).collect();
    let (before, behind): (Vec<usize>, Vec<usize>) = (0..labels.len()).partition(|&at| labels[at].is_before);
    let mut placed: Vec<usize> = Vec::new();
    for at in behind.into_iter().chain(before.into_iter().rev()) {
        let is_free =
            |row: &usize| placed.iter().all(|&other| are_apart(Label { row: *row, ..labels[at] }, labels[other]));
        // Below all others there is room, but perhaps for a line that crosses.
        labels[at].row = (0..placed.len()).find(is_free).unwrap_or(placed.len());
        placed.push(at);
    }
    labels
}

/// Whether neither name lies on the other, nor on the line from the other down.
fn are_apart(one: Label, other: Label) -> bool {
    let line = |label: Label| if label.is_before { label.span.1 } else { label.span.0 };
    let crosses = |above: Label, below: Label| below.span.0 < line(above) && line(above) < below.span.1;
    match one.row.cmp(&other.row) {
        Ordering::Equal => one.span.1 <= other.span.0 || other.span.1 <= one.span.0,
        Ordering::Less => !crosses(one, other),
        Ordering::Greater => !crosses(other, one),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(marks: &[(&str, f64)]) -> Vec<(usize, bool)> {
        let flag = |&(name, place): &(&str, f64)| Flag { place, name: name.to_owned(), title: String::new() };
        let flags: Vec<Flag> = marks.iter().map(flag).collect();
        arrange(&flags).iter().map(|label| (label.row, label.is_before)).collect()
    }

    #[test]
    fn names_stay_apart_from_each_other_and_from_lines() {
        let boot = [("kernel", 0.112), ("memory", 0.122), ("init", 0.575), ("commands", 0.588), ("power-off", 0.9998)];
        assert_eq!(rows(&boot), [(0, false), (1, false), (0, false), (1, false), (0, true)]);
        // Room in the first row is of no use where the line would go through a name below.
        assert_eq!(rows(&[("a", 0.1), ("a-long-name", 0.11), ("b", 0.2)]), [(0, false), (1, false), (2, false)]);
        assert_eq!(rows(&[("far", 0.1), ("apart", 0.5)]), [(0, false), (0, false)]);
        assert_eq!(rows(&[("same", 0.5), ("place", 0.5)]), [(0, false), (1, false)]);
        // At the end of the axis, where names stand before their lines.
        let end = [("init", 0.95), ("commands", 0.965), ("power-off", 0.973)];
        assert_eq!(rows(&end), [(2, true), (1, true), (0, true)]);
        assert_eq!(rows(&[]), []);
    }
}
