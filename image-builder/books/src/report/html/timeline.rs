//! Exits over time: a lane for each reason, in the steps in which they were sampled, all vCPUs together.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::charts::lane;
use super::grouped;
use crate::account::Account;
use crate::report::figures::counted;

/// The most steps that a lane has room for; more are drawn together.
const MOST_STEPS: usize = 240;

/// The lanes, the reason with the most exits first; a sentence where nothing was sampled.
pub(super) fn section(account: &Account) -> Markup {
    let step = account.rates.iter().map(|rate| rate.step).max().unwrap_or(0);
    html! {
        h2 { "Exits over time" }
        @if step == 0 {
            p.note { "The log has no samples of exits over time; a run takes them with the option " code { "--rate-step" } "." }
        } @else {
            (lanes(account, step))
        }
    }
}

fn lanes(account: &Account, step: u64) -> Markup {
    let mut reasons: BTreeMap<u16, Vec<u64>> = BTreeMap::new();
    let total = |counts: &[u64]| counts.iter().fold(0, |sum: u64, &count| sum.saturating_add(count));
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
    let ticks = step.saturating_mul(together as u64);
    let mut rows: Vec<(u16, u64, Vec<u64>)> = reasons
        .into_iter()
        .map(|(number, counts)| (number, total(&counts), counts.chunks(together).map(total).collect()))
        .collect();
    rows.sort_by_key(|&(number, total, _)| (std::cmp::Reverse(total), number));
    let name = |number: u16| {
        let row = account.reasons.iter().find(|row| row.number == number);
        row.map_or_else(|| format!("reason {number}"), |row| row.name.clone())
    };
    html! {
        p.note {
            "Exits on all vCPUs in steps of " (grouped(ticks)) " ticks, the height of each lane by its own most, which stands at its end."
        }
        figure.wide {
            div.lanes.timeline {
                @for (number, total, counts) in &rows {
                    @let most = counts.iter().copied().max().unwrap_or(0);
                    span { (name(*number)) }
                    (lane(&format!("{}: {} over time, {most} in a step at the most", name(*number), counted(*total, "exit")), counts, steps.div_ceil(together), ticks))
                    span.n { (grouped(most)) }
                }
                span {}
                div.axis { span { "0" } span { (grouped(step.saturating_mul(steps as u64))) " ticks" } }
                span {}
            }
        }
    }
}
