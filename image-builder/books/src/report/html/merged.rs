//! Merged runs on a page: for each kind of runs its reasons with their spread, and the histograms of all its runs.

use maud::{Markup, html};

use super::grouped;
use super::run::histograms;
use super::{page, tables};
use crate::account::{Group, Merged, Reason};
use crate::report::merged::{heading, json, sheet, sorted};
use crate::report::{Look, merged};

/// The most kinds of runs that have a section of their own.
const MOST_GROUPS: usize = 100;

/// Writes merged runs as a page.
pub(super) fn render(merged: &Merged, look: Look) -> String {
    let title = format!("{} runs merged", grouped(merged.runs));
    let more = merged.groups.len().saturating_sub(MOST_GROUPS);
    let body = html! {
        h1 { (title) }
        @if merged.unusable > 0 {
            p.outcome { span.verdict.bad { (grouped(merged.unusable)) " logs could not be used" } }
        }
        @for group in merged.groups.iter().take(MOST_GROUPS) { (section(group, look)) }
        @if more > 0 { p.note { (more) " more kinds of runs are left out here; the figures in this page, as JSON, have them all." } }
    };
    page(&title, &body, &json(merged))
}

fn section(group: &Group, look: Look) -> Markup {
    let [platform, _] = heading(group);
    let plain: Vec<Reason> = merged::sorted(group, look).into_iter().map(|(reason, _)| reason).collect();
    html! {
        section.run {
            h2 { (platform) }
            dl.tiles {
                div { dt { "runs" } dd { (grouped(group.runs)) } }
                @for (verdict, &runs) in &group.verdicts { div { dt { (verdict) } dd { (grouped(runs)) } } }
                div { dt { "exits" } dd data-total="exits" data-v=(group.exits) { (grouped(group.exits)) } }
                div { dt { "ticks in exits" } dd data-total="cycles" data-v=(group.cycles) { (grouped(group.cycles)) } }
            }
            @if !group.options.is_empty() { p.note { "Options: " (group.options) } }
            @if !sorted(group, look).is_empty() { (tables::sheet("Exit reasons over all runs", &sheet(group, look))) }
            (histograms(plain.iter().collect()))
        }
    }
}
