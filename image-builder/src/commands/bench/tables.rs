//! What was measured, as tables: round trips, where they go, and the operations that have budgets.

use tollgate_abi::bench::{Bench, Parts};
use tollgate_abi::workload::Workload;

use super::run::Target;
use super::{budgets, kvm};
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
        return everything(measured, target).render(format);
    }
    let platform = &measured.platform;
    let unit = if platform.repeats { ": a tick is an instruction" } else { "" };
    let place = format!("in TSC ticks, on {} ({}, {}){unit}", platform.emulator, platform.model, platform.extension);
    if benches(measured).next().is_some() {
        parts.push(format!("Round trips as the guest times them, {place}\n"));
        parts.push(round_trips(measured, target).render(format));
        parts.push("Where the mean goes\n".to_owned());
        parts.push(splits(measured).render(format));
        let kvm = if kvm::is_measured_on(target) { KVM_LEGEND } else { "" };
        parts.push(format!("{kvm}{LEGEND}"));
    }
    if scenarios(measured).next().is_some() {
        parts.push(format!("{SCENARIOS}, {place}\n"));
        parts.push(entries_to_exits(measured).render(format));
    }
    parts.join("\n")
}

const SCENARIOS: &str = "\
Exits that need another state than this guest's, as the monitor times them: from
before the VM entry to the exit's time stamp. Beside that, what the ledger has of one
exit; all of it";

const KVM_LEGEND: &str = "\
KVM:        Linux 6.1's on the same Bochs, an iteration of a loop around the operation
";

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

/// What the guest times.
fn benches(measured: &Baseline) -> impl Iterator<Item = &Row> {
    measured.rows.iter().filter(|row| row.scenario().is_none())
}

/// What the monitor times.
fn scenarios(measured: &Baseline) -> impl Iterator<Item = &Row> {
    measured.rows.iter().filter(|row| row.scenario().is_some())
}

/// The headings of samples.
fn headings(measured: &Baseline) -> Vec<&'static str> {
    let mut headings = vec!["operation", "samples#", "min#", "median#", "p90#", "p99#", "max#"];
    if !measured.platform.repeats {
        headings.extend(["95% of median#", "outliers#"]);
    }
    headings
}

/// What stands under them.
fn samples(row: &Row, measured: &Baseline) -> Vec<String> {
    let mut cells = vec![row.name.clone()];
    cells.extend(figures(row));
    if !measured.platform.repeats {
        cells.extend(noise(row));
    }
    cells
}

fn round_trips(measured: &Baseline, target: Target) -> Sheet {
    let mut headings = headings(measured);
    let with_kvm = kvm::is_measured_on(target);
    if with_kvm {
        headings.push("KVM#");
    }
    let mut sheet = Sheet::new(&headings);
    for row in benches(measured) {
        let mut cells = samples(row, measured);
        if with_kvm {
            cells.push(kvm_ticks(row, target));
        }
        sheet.row(cells);
    }
    sheet
}

fn entries_to_exits(measured: &Baseline) -> Sheet {
    let mut headings = headings(measured);
    headings.push("ledger#");
    let lacks = scenarios(measured).any(|row| row.lacks.is_some());
    if lacks {
        headings.push("why it has none");
    }
    let mut sheet = Sheet::new(&headings);
    for row in scenarios(measured) {
        let mut cells = samples(row, measured);
        cells.push(ledger(row));
        if lacks {
            cells.push(row.lacks.clone().unwrap_or_default());
        }
        sheet.row(cells);
    }
    sheet
}

fn kvm_ticks(row: &Row, target: Target) -> String {
    kvm::ticks(&row.name, target).map_or(NONE.to_owned(), |ticks| ticks.to_string())
}

/// The mean of the ledger's cycles of one exit.
fn ledger(row: &Row) -> String {
    if row.exits == 0 { NONE.to_owned() } else { format!("{:.1}", row.cycles as f64 / row.exits as f64) }
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
    for row in benches(measured).filter(|row| row.name != "empty") {
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
fn everything(measured: &Baseline, target: Target) -> Sheet {
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
        "timed_by",
        "ledger#",
        "KVM#",
        "lacks",
    ]);
    for row in &measured.rows {
        let workload = Bench::by_name(&row.name).map(|bench| &bench.workload);
        let mut cells = vec![row.name.clone()];
        let about = row.scenario().map(|scenario| scenario.about).or(workload.map(Workload::about));
        cells.push(about.unwrap_or_default().to_owned());
        cells.push(workload.map_or(1, |workload| workload.on.least_vcpus()).to_string());
        cells.push(format!("{:.1}", row.exits as f64 / row.iterations.max(1) as f64));
        cells.extend(figures(row));
        cells.extend(noise(row));
        cells.push(mean(row));
        cells.extend(parts(row, false));
        cells.push(if row.scenario().is_some() { "monitor" } else { "guest" }.to_owned());
        cells.push(ledger(row));
        cells.push(kvm_ticks(row, target));
        cells.push(row.lacks.clone().unwrap_or_default());
        sheet.row(cells);
    }
    sheet
}
