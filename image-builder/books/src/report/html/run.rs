//! One run on a page: its verdict, its reasons, their histograms, its vCPUs, and the rest of the account.

use maud::{Markup, html};

use super::charts::{self, COLORS, Part};
use super::tables::{self, Cell, Column, Table};
use super::{grouped, timeline};
use crate::account::{Account, Reason, VcpuAccount};
use crate::failure::Status;
use crate::report::figures::{average, book, bounds, percent, percentile, seen};
use crate::report::table::{ending_with_code, idle, last_exit, looks, parts, with_scenarios};
use crate::report::{Look, Order, Titled, silicon};

/// The most vCPUs that are drawn; all of them are in the table.
const MOST_VCPUS: usize = 64;

/// The percentiles that are shown: name, and share of exits.
const PERCENTILES: [(&str, f64); 3] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];

/// Everything about one run. `letter` is its name in a comparison.
pub(super) fn section(titled: &Titled, letter: Option<&str>, look: Look) -> Markup {
    let account = &titled.account;
    html! {
        section.run id=[letter.map(|letter| format!("run-{letter}"))] {
            (head(titled, letter))
            (tiles(account))
            (reasons(account, look.order))
            (histograms(seen(account)))
            (timeline::section(account))
            (vcpus(account))
            @let parts = parts(account);
            @if !parts.is_empty() { h2 { "What exits came from" } }
            @for (caption, sheet) in parts { (tables::sheet(caption, &sheet)) }
            (about(account))
        }
    }
}

/// The platform in words.
pub(super) fn platform(account: &Account) -> String {
    let known = |word: &str| if word.is_empty() { "unknown".to_owned() } else { word.to_owned() };
    let platform = &account.platform;
    format!("{} on {}, {}", known(&platform.virtualization), known(&platform.kind), known(&platform.cpu))
}

/// The verdict as a mark, told by sign and word as well as by colour.
pub(super) fn verdict(account: &Account) -> Markup {
    let (class, sign) = match account.status {
        Status::Balanced => ("good", "\u{2713}"),
        Status::Differs | Status::Usage => ("bad", "\u{2717}"),
        Status::Platform | Status::NoVerdict => ("open", "?"),
    };
    html! { span.verdict.(class) { span aria-hidden="true" { (sign) " " } (account.verdict.to_string()) } }
}

fn head(Titled { title, account }: &Titled, letter: Option<&str>) -> Markup {
    let (looks, idle) = (looks(account), idle(account));
    html! {
        header {
            @match letter {
                Some(letter) => h2 { "Run " (letter) ": " (title) },
                None => h1 { (platform(account)) },
            }
            p.outcome { (verdict(account)) }
            @if letter.is_some() { p { (platform(account)) } }
            @if account.other_findings().next().is_some() || account.other_doubt().is_some() {
                ul.findings {
                    @for finding in account.other_findings() { li { (finding) } }
                    @if let Some(doubt) = account.other_doubt() { li { (doubt) } }
                }
            }
            @if let Some(ending) = ending_with_code(account) { p { (ending) } }
            @if let Some(stop) = account.early_stop() { p { (last_exit(stop)) } }
            @if let Some(remedy) = &account.remedy { p { "Remedy: " (remedy) } }
            @for vcpu in &account.missing_vcpus { p { "vCPU " (vcpu) " was asked for, and no processor came up for it." } }
            @if let Some(limit) = account.audit_limit { p.note { (limit) } }
            @for line in silicon::disturbed(account) { p.note { (line) } }
            @if !looks.is_empty() { p.note { (looks) } }
            @if !idle.is_empty() { p.note { (idle) } }
            @if account.log.damaged > 0 && account.doubt.is_none() {
                p.note { (account.log.damaged) " damaged records and " (account.log.noise) " lines of noise were skipped." }
            }
        }
    }
}

fn tiles(account: &Account) -> Markup {
    let totals = &account.totals;
    let guest_time = account.per_vcpu.iter().fold(0_u64, |sum, vcpu| sum.saturating_add(vcpu.elapsed));
    let tile = |name: &str, value: &str, id: &str, raw: u64| {
        html! { div { dt { (name) } dd data-total=(id) data-v=(raw) { (value) } } }
    };
    html! {
        dl.tiles {
            @if !totals.lost {
                (tile("exits", &grouped(totals.exits), "exits", totals.exits))
                (tile("ticks in exits", &grouped(totals.cycles), "cycles", totals.cycles))
                (tile("of the run's time", &percent(totals.cycles, guest_time), "elapsed", totals.elapsed))
                (tile("ticks an exit, on average", &average(totals.cycles, totals.exits), "entries", totals.entries))
            }
            (tile(if account.vcpus == 1 { "vCPU" } else { "vCPUs" }, &account.vcpus.to_string(), "vcpus", account.vcpus))
        }
    }
}

/// The direction in which a column is sorted as the rows stand, if it is.
fn sorted(order: Order, name: &str) -> Option<&'static str> {
    let column = match order {
        Order::Samples => "samples",
        Order::Time => "time",
        Order::Min => "min",
        Order::Max => "max",
        Order::Avg => "avg",
        Order::Number => return (name == "no").then_some("ascending"),
    };
    (name == column).then_some("descending")
}

fn reasons(account: &Account, order: Order) -> Markup {
    let mut rows = seen(account);
    if rows.is_empty() {
        return html! { p.note { "The log has no ledger: no exit was accounted before it ended." } };
    }
    order.sort(&mut rows);
    let columns = [
        ("exit reason", ""),
        ("no", "basic exit reason"),
        ("samples", "exits in the monitor's ledger"),
        ("share", "of all exits"),
        ("time", "share of the ticks of all exits"),
        ("min", "ticks of the shortest exit"),
        ("p50", "ticks that half of the exits did not exceed, estimated"),
        ("p90", "ticks that 90 of 100 exits did not exceed, estimated"),
        ("p99", "ticks that 99 of 100 exits did not exceed, estimated"),
        ("max", "ticks of the longest exit"),
        ("avg", "ticks of an exit on average"),
        ("guest", "exits in the guest's own book, and after a plus sign those that scenarios provoked"),
        ("audit", "exits in the emulator's log"),
    ];
    let column = |&(name, about): &(&'static str, &'static str)| Column {
        name,
        numeric: name != "exit reason",
        sorted: sorted(order, name),
        about,
    };
    let totals = &account.totals;
    let mut last = vec![Cell::text("all"), Cell::text(""), Cell::count(totals.exits)];
    last.extend([Cell::text(percent(totals.exits, totals.exits)), Cell::text(percent(totals.cycles, totals.cycles))]);
    last.extend(std::iter::repeat_with(|| Cell::text("")).take(PERCENTILES.len() + 2));
    last.push(Cell::text(average(totals.cycles, totals.exits)));
    if totals.lost {
        last[2..].fill_with(|| Cell::text("-"));
    }
    last.extend([totals.guest_count, totals.audit_count].map(|count| Cell::text(book(count))));
    let table = Table {
        caption: html! { "Exit reasons" },
        groups: Vec::new(),
        columns: columns.iter().map(column).collect(),
        rows: rows.iter().map(|reason| row(account, reason)).collect(),
        last: Some(last),
    };
    html! {
        h2 { "Reasons" }
        (table)
        p.note {
            "Percentiles are estimates from the histogram: their power of two is exact. A book that differs from the ledger is marked \u{2260}."
        }
    }
}

fn row(account: &Account, reason: &Reason) -> Vec<Cell> {
    let totals = &account.totals;
    let most = |figure: fn(&Reason) -> u64| account.reasons.iter().map(figure).max().unwrap_or(0);
    let shared = |part: u64, whole: u64, most: u64| {
        let value = if whole == 0 { None } else { Some(part as f64 / whole as f64) };
        Cell::of(html! { (percent(part, whole)) (charts::share(part, most)) }, value)
    };
    let ticks = |ticks: Option<u64>| Cell::text(book(ticks.filter(|_| reason.exits.figures.count > 0)));
    let mut cells =
        vec![Cell::text(&reason.name), Cell::count(reason.number.into()), Cell::count(reason.exits.figures.count)];
    cells.push(shared(reason.exits.figures.count, totals.exits, most(|row| row.exits.figures.count)));
    cells.push(shared(reason.exits.figures.cycles, totals.cycles, most(|row| row.exits.figures.cycles)));
    cells.push(ticks(Some(reason.exits.figures.min)));
    cells.extend(PERCENTILES.map(|(_, share)| ticks(percentile(&reason.exits, share))));
    cells.extend([
        ticks(Some(reason.exits.figures.max)),
        Cell::text(average(reason.exits.figures.cycles, reason.exits.figures.count)),
    ]);
    if reason.lost {
        cells[2..].fill_with(|| Cell::text("-"));
    } else if totals.lost {
        cells[3..5].fill_with(|| Cell::text("-"));
    }
    let own =
        reason.exits.figures.count.checked_sub(reason.looks).and_then(|rest| rest.checked_sub(reason.scenario_count));
    let differs = |differs: bool, text: String| {
        if differs { Cell::text(format!("\u{2260}{text}")).marked("differs") } else { Cell::text(text) }
    };
    let differs_from = |differs_from: bool, text: String| differs(differs_from && !reason.lost, text);
    cells.push(differs_from(reason.guest_count.is_some() && reason.guest_count != own, with_scenarios(reason)));
    cells.push(differs_from(
        reason.audit_count.is_some_and(|count| count != reason.exits.figures.count),
        book(reason.audit_count),
    ));
    cells
}

/// The histograms of these reasons.
pub(super) fn histograms(mut rows: Vec<&Reason>) -> Markup {
    rows.retain(|reason| !reason.exits.histogram.buckets().is_empty());
    let Some(domain) = charts::domain(rows.iter().copied()) else { return html! {} };
    Order::Time.sort(&mut rows);
    let buckets: Vec<u8> = (domain.0..=domain.1).collect();
    let heading: Vec<String> = buckets.iter().map(|&bucket| charts::short(bounds(bucket).0)).collect();
    let mut columns = vec![Column::new("exit reason", false)];
    columns.extend(heading.iter().map(|name| Column::new(name, true)));
    let figures = Table {
        caption: html! { "Exits by ticks, from the number above the column on" },
        groups: Vec::new(),
        columns,
        rows: rows
            .iter()
            .map(|&reason| {
                let counts = buckets.iter().map(|&bucket| Cell::count(reason.exits.histogram.of(bucket)));
                std::iter::once(Cell::text(&reason.name)).chain(counts).collect()
            })
            .collect(),
        last: None,
    };
    html! {
        h2 { "How long exits took" }
        p.note {
            "Ticks from left to right by powers of two, on one scale for all reasons; each bar is a share of its reason's exits. The line is the \
             estimated median."
        }
        div.grid {
            @for reason in &rows {
                figure {
                    figcaption { b { (reason.name) } " " span { (grouped(reason.exits.figures.count)) " exits" } }
                    (charts::histogram(reason, domain))
                }
            }
        }
        details { summary { "The same as figures" } (figures) }
    }
}

/// The vCPUs as bars of reasons. A matrix of them is among the tables.
fn vcpus(account: &Account) -> Markup {
    if account.per_vcpu.len() < 2 {
        return html! {};
    }
    let mut rows = seen(account);
    Order::Time.sort(&mut rows);
    let known: Vec<(usize, u16, &str)> =
        rows.iter().take(COLORS - 1).enumerate().map(|(color, row)| (color, row.number, row.name.as_str())).collect();
    let drawn: Vec<&VcpuAccount> = account.per_vcpu.iter().filter(|vcpu| !vcpu.lost).take(MOST_VCPUS).collect();
    let longest = drawn.iter().map(|vcpu| vcpu.cycles).max().unwrap_or(0);
    let rest = (COLORS - 1, "others");
    let legend = known.iter().map(|&(color, _, name)| (color, name)).chain((rows.len() > known.len()).then_some(rest));
    html! {
        h2 { "vCPUs" }
        figure.wide {
            figcaption { "Ticks in exits of each vCPU, by reason" }
            div.lanes {
                @for vcpu in &drawn {
                    span { "vCPU " (vcpu.vcpu) }
                    (charts::stack(&format!("vCPU {}: {} ticks in {} exits", vcpu.vcpu, vcpu.cycles, vcpu.exits), &stack(vcpu, &known), longest))
                    span.n { (grouped(vcpu.cycles)) }
                }
            }
            (charts::legend(legend))
            @if account.per_vcpu.len() > drawn.len() {
                p.note { (account.per_vcpu.len() - drawn.len()) " more vCPUs are in the table only." }
            }
        }
    }
}

fn stack(vcpu: &VcpuAccount, known: &[(usize, u16, &str)]) -> Vec<Part> {
    let ticks =
        |number: u16| vcpu.reasons.iter().find(|row| row.number == number).map_or(0, |row| row.exits.figures.cycles);
    let mut parts: Vec<Part> = known
        .iter()
        .map(|&(color, number, name)| Part { color, name: name.to_owned(), amount: ticks(number) })
        .collect();
    let others = parts.iter().fold(vcpu.cycles, |rest, part| rest.saturating_sub(part.amount));
    parts.push(Part { color: COLORS - 1, name: "others".to_owned(), amount: others });
    parts.retain(|part| part.amount > 0);
    parts
}

/// The conditions of the run, for someone who wants to repeat it.
fn about(account: &Account) -> Markup {
    let facts = [
        ("processor", silicon::properties(account)),
        ("build", account.build.clone()),
        ("options", account.options.clone()),
        ("reasons of SDM", account.sdm_edition.clone()),
        ("leaves of", account.leaf_map.clone()),
        ("records in the log", account.log.records.to_string()),
    ];
    html! {
        h2 { "About the run" }
        dl.facts {
            @for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) { div { dt { (name) } dd { (value) } } }
        }
    }
}
