//! What was measured, as tables: round trips, where they go, and the operations that have budgets.

use tollgate_abi::bench::{Bench, Parts};

use super::budgets;
use super::run::Target;
use crate::bench::{Baseline, Row, Split};
use crate::report::{Sheet, SheetFormat};

/// A figure that there is none of.
const NONE: &str = "-";

/// Everything that was measured.
pub(super) fn render(measured: &Baseline, target: Target, format: SheetFormat) -> String {
    let is_csv = format == SheetFormat::Csv;
    let mut parts = Vec::new();
    if !measured.budgets.is_empty() {
        parts.push(budgets::sheet(&measured.budgets).render(format));
        if let (false, Target::Bochs(model)) = (is_csv, target) {
            parts.push(budgets::legend(model, target.extension()));
        }
    }
    if is_csv {
        // Of which there can be one in a file: what has budgets is in JSON and in the other tables.
        return everything(measured).render(format);
    }
    let platform = &measured.platform;
    let unit = if platform.repeats { ": a tick is an instruction" } else { "" };
    parts.push(format!(
        "Round trips as the guest times them, in TSC ticks, on {} ({}, {}){unit}\n",
        platform.emulator, platform.model, platform.extension
    ));
    parts.push(round_trips(measured).render(format));
    parts.push("Where the mean goes\n".to_owned());
    parts.push(splits(measured).render(format));
    parts.push(LEGEND.to_owned());
    parts.join("\n")
}

const LEGEND: &str = "\
timing:     the guest's own, which is that of `empty`; nothing is subtracted from it
transition: the instruction, the exit and the entry; + with the guest's own
            handler in it, which can't be told apart
frame:      the stub that saves and restores registers, calibrated in root
            operation, as is the account: time stamps, opening, closing
handler:    the ledger's cycles without what stub and account have of them; what an
            exit off the quick path does after its last time stamp is in transition
-           can't be told apart: others wait or run meanwhile, or a processor
            overlaps what was calibrated one by one
";

fn rows(measured: &Baseline) -> impl Iterator<Item = &Row> {
    measured.rows.iter()
}

fn round_trips(measured: &Baseline) -> Sheet {
    let repeats = measured.platform.repeats;
    let mut heading = vec!["operation", "samples#", "min#", "median#", "p90#", "p99#", "max#"];
    if !repeats {
        heading.extend(["95% of median#", "outliers#"]);
    }
    let mut sheet = Sheet::new(&heading);
    for row in rows(measured) {
        let mut cells = vec![row.name.clone()];
        cells.extend(figures(row));
        if !repeats {
            cells.extend(noise(row));
        }
        sheet.row(cells);
    }
    sheet
}

fn figures(row: &Row) -> Vec<String> {
    let Some(of) = &row.statistics else { return vec![NONE.to_owned(); 6] };
    let ticks = [of.min, of.median, of.p90, of.p99, of.max];
    std::iter::once(of.samples.to_string()).chain(ticks.map(|ticks| ticks.to_string())).collect()
}

fn noise(row: &Row) -> Vec<String> {
    let Some(of) = &row.statistics else { return vec![NONE.to_owned(); 2] };
    let [low, high] = of.median_between;
    vec![if low == high { low.to_string() } else { format!("{low}-{high}") }, of.outliers.to_string()]
}

fn splits(measured: &Baseline) -> Sheet {
    let mut sheet = Sheet::new(&["operation", "mean#", "timing#", "transition#", "frame#", "handler#", "account#"]);
    for row in rows(measured).filter(|row| row.name != "empty") {
        let mut cells = vec![row.name.clone(), mean(row)];
        cells.extend(parts(row, true));
        sheet.row(cells);
    }
    sheet
}

fn mean(row: &Row) -> String {
    row.statistics.as_ref().map_or(NONE.to_owned(), |of| format!("{:.1}", of.mean))
}

fn parts(row: &Row, marked: bool) -> Vec<String> {
    let Some(split) = &row.parts else { return vec![NONE.to_owned(); Split::PARTS.len()] };
    let in_guest = Bench::by_name(&row.name).is_some_and(|bench| bench.parts == Parts::GuestHandler);
    let mark = |name| if marked && in_guest && name == "transition" { "+" } else { "" };
    // A rounding below zero is none.
    Split::PARTS.map(|(name, part)| format!("{:.1}{}", part(split).max(0.0), mark(name))).to_vec()
}

/// One table of all columns.
fn everything(measured: &Baseline) -> Sheet {
    let mut sheet = Sheet::new(&[
        "operation",
        "about",
        "vcpus#",
        "exits#",
        "samples#",
        "min#",
        "median#",
        "p90#",
        "p99#",
        "max#",
        "median95#",
        "outliers#",
        "mean#",
        "timing#",
        "transition#",
        "frame#",
        "handler#",
        "account#",
    ]);
    for row in rows(measured) {
        let workload = Bench::by_name(&row.name).map(|bench| &bench.workload);
        let mut cells = vec![row.name.clone()];
        cells.push(workload.map_or(String::new(), |workload| workload.about().to_owned()));
        cells.push(workload.map_or(String::new(), |workload| workload.on.least_vcpus().to_string()));
        cells.push(format!("{:.1}", row.exits as f64 / row.iterations.max(1) as f64));
        cells.extend(figures(row));
        cells.extend(noise(row));
        cells.push(mean(row));
        cells.extend(parts(row, false));
        sheet.row(cells);
    }
    sheet
}
