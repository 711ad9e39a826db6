//! Charts of a page, as SVG that stretches: shapes only, in the colours of the style sheet, with labels around them that
//! keep the page's size of type. Each shape says in a `title` what it stands for.

use maud::{Markup, html};

use super::flags::Flag;
use super::grouped;
use crate::account::Reason;
use crate::exits::{Bucket, Exits};
use crate::report::figures::{bounds, percentile, scaled};

/// The width of every chart in its own units.
const WIDTH: f64 = 1000.0;
/// The height of every chart in its own units.
const HEIGHT: f64 = 100.0;

/// Colours that the style sheet has for kinds; the last is for the rest.
pub(super) const COLORS: usize = 8;

/// A number in a chart's units; less than a thousandth shows on no screen.
fn units(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A number as a bar, as long as its share of the greatest of its column.
pub(super) fn share(part: u64, most: u64) -> Markup {
    let width = if most == 0 { 0.0 } else { part as f64 / most as f64 * WIDTH };
    html! {
        svg.share viewBox="0 0 1000 100" preserveAspectRatio="none" aria-hidden="true" {
            rect width=(units(width)) height="100" {}
        }
    }
}

/// The buckets from the lowest to the highest that any of these rows has.
pub(super) fn domain<'a>(rows: impl Iterator<Item = &'a Reason>) -> Option<(u8, u8)> {
    let buckets = rows.flat_map(|row| row.exits.histogram.buckets().iter().map(|bucket| bucket.bucket));
    buckets.fold(None, |domain, bucket| match domain {
        None => Some((bucket, bucket)),
        Some((least, most)) => Some((bucket.min(least), bucket.max(most))),
    })
}

/// A histogram of the ticks that a reason's exits took: a bar for each power of two, a line at the estimated median.
pub(super) fn histogram(reason: &Reason, (first, last): (u8, u8)) -> Markup {
    let Exits { figures, histogram } = &reason.exits;
    let exits = histogram.count();
    let tallest = histogram.buckets().iter().map(|bucket| bucket.count).max().unwrap_or(1).max(1);
    let width = WIDTH / f64::from(last - first + 1);
    let median = percentile(&reason.exits, 0.5);
    let label = format!(
        "{}: {exits} exits of {} to {} ticks, {} at the median",
        reason.name,
        figures.min,
        figures.max,
        median.unwrap_or(0)
    );
    html! {
        svg.histogram viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label=(label) {
            @for &Bucket { bucket, count } in histogram.buckets() {
                @let height = (count as f64 / tallest as f64 * HEIGHT).max(1.5);
                @let (least, most) = bounds(bucket);
                rect x=(units(f64::from(bucket - first) * width + width * 0.06)) y=(units(HEIGHT - height))
                    width=(units(width * 0.88)) height=(units(height)) {
                    title { (least) " to " (most) " ticks: " (count) " exits" }
                }
            }
            @if let Some(median) = median {
                @let x = (place(median) - f64::from(first)) * width;
                line.median x1=(units(x)) x2=(units(x)) y1="0" y2="100" { title { "median " (median) " ticks" } }
            }
        }
        div.axis aria-hidden="true" {
            span { (short(bounds(first).0)) }
            @if last > first + 2 { span { (short(bounds(first + (last - first).div_ceil(2)).0)) } }
            span { (short(bounds(last).1.saturating_add(1))) }
        }
    }
}

/// The place of a number of ticks on an axis of powers of two.
fn place(ticks: u64) -> f64 {
    (ticks.max(1) as f64).log2()
}

/// A number in the room of five characters.
pub(super) fn short(number: u64) -> String {
    match scaled(number) {
        (number, "") => number.to_string(),
        (number, unit) => format!("{number}\u{202f}{unit}"),
    }
}

/// One part of a whole: its colour's number, its name, its size.
pub(super) struct Part {
    pub(super) color: usize,
    pub(super) name: String,
    pub(super) amount: u64,
}

/// A whole and its parts, one behind the other, as long as its share of `longest`.
pub(super) fn stack(label: &str, parts: &[Part], longest: u64) -> Markup {
    let scale = WIDTH / longest.max(1) as f64;
    let mut from = 0.0;
    let mut placed = Vec::new();
    for part in parts {
        let width = part.amount as f64 * scale;
        placed.push((part, from, width));
        from += width;
    }
    html! {
        svg.stack viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label=(label) {
            @for (part, x, width) in placed {
                rect class={ "c" (part.color) } x=(units(x)) width=(units(width)) height="100" {
                    title { (part.name) ": " (part.amount) }
                }
            }
        }
    }
}

/// Counts in steps of time, as bars without gaps. Steps without any are not drawn.
pub(super) fn lane(label: &str, counts: &[u64], steps: usize, ticks: u64, flags: &[Flag]) -> Markup {
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let width = WIDTH / steps.max(1) as f64;
    html! {
        svg.lane viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label=(label) {
            @for (at, &count) in counts.iter().enumerate().filter(|&(_, &count)| count > 0) {
                @let height = (count as f64 / most as f64 * HEIGHT).max(3.0);
                rect x=(units(at as f64 * width)) y=(units(HEIGHT - height)) width=(units(width)) height=(units(height)) {
                    title { "from tick " (ticks.saturating_mul(at as u64)) ": " (count) " exits" }
                }
            }
            (lines(flags))
        }
    }
}

/// A line for each mark.
fn lines(flags: &[Flag]) -> Markup {
    html! {
        @for flag in flags {
            @let x = units(flag.place * WIDTH);
            line.flag x1=(x) x2=(x) y1="0" y2="100" { title { (flag.title) } }
        }
    }
}

/// A scale of powers of ten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decades {
    lowest: i32,
    highest: i32,
}

impl Decades {
    /// The most powers of ten between which a chart is legible; rates below them stand at the bottom.
    const MOST: i32 = 6;

    /// The scale of these rates; `None` if all are 0.
    pub(super) fn of(rates: impl Iterator<Item = f64>) -> Option<Self> {
        let exponents = rates.filter(|&rate| rate > 0.0).map(f64::log10);
        let ends = exponents.fold(None, |ends: Option<(f64, f64)>, at| {
            Some(ends.map_or((at, at), |(least, most)| (at.min(least), at.max(most))))
        });
        let (least, most) = ends?;
        let (lowest, highest) = (least.floor() as i32, most.ceil() as i32);
        let lowest = lowest.clamp(highest - Self::MOST, highest - 1);
        Some(Self { lowest, highest })
    }

    /// The distance from the chart's top.
    fn y(self, rate: f64) -> f64 {
        let share = (rate.log10() - f64::from(self.lowest)) / f64::from(self.highest - self.lowest);
        HEIGHT - share.clamp(0.0, 1.0) * HEIGHT
    }

    /// The powers of ten from the highest down.
    fn powers(self) -> impl Iterator<Item = i32> {
        (self.lowest..=self.highest).rev()
    }

    /// Their numbers.
    pub(super) fn labels(self) -> impl Iterator<Item = String> {
        self.powers().map(|power| match u64::try_from(power) {
            Ok(power) => grouped(10_u64.saturating_pow(power as u32)),
            Err(_) => format!("{:.*}", power.unsigned_abs() as usize, 10_f64.powi(power)),
        })
    }
}

/// A rate from one share of the axis to another.
#[derive(Clone, Debug)]
pub(super) struct Level {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) rate: f64,
    pub(super) title: String,
}

/// Rates over time: as areas, and in front of these, by the numbers of their colours, as lines.
pub(super) fn levels(
    label: &str,
    decades: Decades,
    areas: &[Level],
    rows: &[(usize, Vec<Level>)],
    flags: &[Flag],
) -> Markup {
    let is_drawn = |level: &&Level| level.rate > 0.0;
    html! {
        svg.levels viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label=(label) {
            @for power in decades.powers() {
                @let y = units(decades.y(10_f64.powi(power)));
                line.grid x1="0" x2="1000" y1=(y) y2=(y) {}
            }
            @for level in areas.iter().filter(is_drawn) {
                @let (x, y) = (level.from * WIDTH, decades.y(level.rate));
                rect x=(units(x)) y=(units(y)) width=(units(level.to * WIDTH - x)) height=(units(HEIGHT - y)) {
                    title { (level.title) }
                }
            }
            (lines(flags))
            @for (color, levels) in rows {
                @for level in levels.iter().filter(is_drawn) {
                    @let y = units(decades.y(level.rate));
                    line.level.{ "s" (color) } x1=(units(level.from * WIDTH)) x2=(units(level.to * WIDTH)) y1=(y) y2=(y) {
                        title { (level.title) }
                    }
                }
            }
        }
    }
}

/// The meaning of the colours.
pub(super) fn legend<'a>(names: impl Iterator<Item = (usize, &'a str)>) -> Markup {
    html! {
        ul.legend {
            @for (color, name) in names {
                li {
                    svg viewBox="0 0 10 10" aria-hidden="true" { rect class={ "c" (color) } width="10" height="10" {} }
                    (name)
                }
            }
        }
    }
}

/// A change as a bar to the left or to the right of the middle. A side is full at a change by the whole: twice as much, or
/// nothing.
pub(super) fn change(ratio: f64) -> Markup {
    let length = ratio.clamp(-1.0, 1.0).abs() * WIDTH / 2.0;
    let (class, x) = if ratio < 0.0 { ("less", WIDTH / 2.0 - length) } else { ("more", WIDTH / 2.0) };
    html! {
        svg.change viewBox="0 0 1000 100" preserveAspectRatio="none" aria-hidden="true" {
            rect class=(class) x=(units(x)) width=(units(length)) height="100" {}
            line x1="500" x2="500" y1="0" y2="100" {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_has_the_powers_of_ten_around_its_rates() {
        let scale = |rates: &[f64]| Decades::of(rates.iter().copied());
        let labels = |rates: &[f64]| scale(rates).unwrap().labels().collect::<Vec<_>>();
        assert_eq!(labels(&[0.04, 0.0, 1065.1]), ["10\u{202f}000", "1\u{202f}000", "100", "10", "1", "0.1", "0.01"]);
        assert_eq!(labels(&[5.6]), ["10", "1"]);
        assert_eq!(labels(&[100.0]), ["100", "10"], "a power of ten stands at the top");
        assert_eq!(labels(&[1e-9, 2.0]), ["10", "1", "0.1", "0.01", "0.001", "0.0001", "0.00001"]);
        let decades = scale(&[1e-9, 10.0]).unwrap();
        assert_eq!([10.0, 0.01, 1e-5, 1e-9].map(|rate| decades.y(rate)), [0.0, 50.0, 100.0, 100.0]);
        assert_eq!((scale(&[0.0]), scale(&[])), (None, None));
    }
}
