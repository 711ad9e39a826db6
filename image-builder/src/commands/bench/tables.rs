//! The measurement as tables: round trips, their parts, and the operations that have budgets.

use tollgate_abi::bench::{Bench, Parts};
use tollgate_abi::workload::Workload;
use tollgate_books::bench::{Baseline, Row, Split};
use tollgate_books::report::{Sheet, SheetFormat};
use tollgate_books::terminal::{Terminal, lines_of};

use super::{budgets, kvm};
use crate::emulator::Target;

/// Stands in place of a figure that does not exist.
const NONE: &str = "-";

/// Everything that was measured, in a form.
pub(super) fn render(measured: &Baseline, target: Option<Target>, format: SheetFormat, terminal: Terminal) -> String {
    if format == SheetFormat::Csv {
        // A CSV file can have one table only: the operations with budgets are in JSON and in the other tables.
        return everything(measured, target).render(format);
    }
    let shown = |sheet: Sheet| sheet.within(format, terminal.columns);
    let mut parts = Vec::new();
    if !measured.budgets.is_empty() {
        parts.push(shown(budgets::sheet(&measured.budgets)));
        if let Some((target, model)) = target.and_then(|target| Some((target, target.model?))) {
            let legend = budgets::legend(model, target.extension());
            parts.push(legend.iter().map(|line| terminal.wrap(line) + "\n").collect());
        }
    }
    let platform = &measured.platform;
    let unit = if platform.repeats { ": a tick is an instruction" } else { "" };
    let place = match target {
        Some(_) => format!("{} ({}, {}){unit}", platform.emulator, platform.model, platform.extension),
        None => format!("{} ({}, {})", platform.cpu, platform.platform, platform.extension),
    };
    let place = format!("in TSC ticks, on {place}");
    if benches(measured).next().is_some() {
        parts.push(terminal.wrap(&format!("Round trips as the guest times them, {place}")) + "\n");
        parts.push(shown(round_trips(measured, target)));
        parts.push("Parts of the mean\n".to_owned());
        parts.push(shown(splits(measured)));
        let kvm = target.is_some_and(kvm::is_measured_on).then_some(&KVM);
        parts.push(kvm.into_iter().chain(LEGEND).map(|term| defined(term, format, terminal)).collect());
    }
    if scenarios(measured).next().is_some() {
        parts.push(terminal.wrap(&format!("{SCENARIOS} {place}")) + "\n");
        parts.push(shown(entries_to_exits(measured)));
    }
    parts.join("\n")
}

const SCENARIOS: &str = "Exits that need another state than this guest's, as the monitor times them: from before the VM entry \
                         to the exit's time stamp. The ledger's column is the mean of its ticks for one exit. All figures \
                         are";

const KVM: Term = ("KVM", "Linux 6.1's figure on the same Bochs: one iteration of a loop around the operation");

/// A column, and its meaning.
type Term = (&'static str, &'static str);

const LEGEND: &[Term] = &[
    ("timing", "the guest's own timing, which `empty` measures; the mean includes it"),
    (
        "transition",
        "the instruction, the exit and the entry; a + says that the guest's own handler is in it, which can't be told apart",
    ),
    ("frame", "the stub that saves and restores registers, calibrated in root operation"),
    (
        "handler",
        "the rest of the ledger's cycles; the work of an exit off the quick path after its last time stamp is in transition",
    ),
    ("account", "the ledger's time stamps, opening and closing, calibrated like the frame"),
    (
        NONE,
        "can't be told apart: other vCPUs wait or run meanwhile, or a processor overlaps the parts that were calibrated one \
         by one",
    ),
];

/// A term with its meaning: an item of a list in Markdown; else lines of text, which a document takes as well.
fn defined((name, meaning): &Term, format: SheetFormat, terminal: Terminal) -> String {
    const LINE_COLUMNS: u16 = 90;
    if format == SheetFormat::Markdown {
        return format!("- `{name}`: {meaning}\n");
    }
    let indent = " ".repeat(if terminal.columns < 60 { 2 } else { 12 });
    let options = lines_of(terminal.columns.min(LINE_COLUMNS).into()).subsequent_indent(&indent);
    let name = if *name == NONE { NONE.to_owned() } else { format!("{name}:") };
    textwrap::fill(&format!("{name:<12}{meaning}"), options) + "\n"
}

/// The rows that the guest times.
fn benches(measured: &Baseline) -> impl Iterator<Item = &Row> {
    measured.rows.iter().filter(|row| row.scenario().is_none())
}

/// The rows that the monitor times.
fn scenarios(measured: &Baseline) -> impl Iterator<Item = &Row> {
    measured.rows.iter().filter(|row| row.scenario().is_some())
}

/// The headings of the samples' columns.
fn headings(measured: &Baseline) -> Vec<&'static str> {
    let mut headings = vec!["operation", "samples#", "min#", "median#", "p90#", "p99#", "max#"];
    if !measured.platform.repeats {
        headings.extend(["95% of median#", "outliers#"]);
    }
    headings
}

/// The cells under these headings.
fn samples(row: &Row, measured: &Baseline) -> Vec<String> {
    let mut cells = vec![row.name.clone()];
    cells.extend(figures(row));
    if !measured.platform.repeats {
        cells.extend(noise(row));
    }
    cells
}

fn round_trips(measured: &Baseline, target: Option<Target>) -> Sheet {
    let mut headings = headings(measured);
    let with_kvm = target.is_some_and(kvm::is_measured_on);
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

fn kvm_ticks(row: &Row, target: Option<Target>) -> String {
    target.and_then(|target| kvm::ticks(&row.name, target)).map_or(NONE.to_owned(), |ticks| ticks.to_string())
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
    // A value that rounding has made negative is 0.
    Split::PARTS.map(|(name, part)| format!("{:.1}{}", part(split).max(0.0), mark(name))).to_vec()
}

/// One table of all columns.
fn everything(measured: &Baseline, target: Option<Target>) -> Sheet {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::models::{self, Model};
    use crate::golden::golden;
    use tollgate_books::bench::{Budget, Distribution, Identity, SCHEMA};

    fn row(name: &str, samples: &[(u32, u64)], parts: Option<Split>) -> Row {
        let mut distribution = Distribution::default();
        samples.iter().for_each(|&(ticks, count)| distribution.add(ticks, count));
        let (statistics, iterations) = (distribution.statistics(), distribution.samples());
        let name = name.to_owned();
        Row {
            name,
            iterations,
            exits: iterations,
            cycles: 50 * iterations,
            distribution,
            statistics,
            parts,
            lacks: None,
        }
    }

    /// Rows of every kind: with parts and without, with the guest's handler, absent; scenarios that ran and that did not.
    fn measured(repeats: bool) -> Baseline {
        let split = Split { timing: 4.0, transition: 4.5, frame: 34.0, handler: 30.0, account: 17.0 };
        let budget = Budget {
            exit: "CPUID".into(),
            ticks: 87.0,
            budget: 98,
            kvm: Some(985),
            ledger: 18.0,
            keys: 149.0,
            vcpus_8: 92.5,
            verdict: "over its budget".into(),
        };
        Baseline {
            schema: SCHEMA.into(),
            platform: Identity {
                platform: "bochs".into(),
                repeats,
                emulator: "Bochs 2.7".into(),
                extension: "VT-x".into(),
                model: models::DEFAULT.into(),
                cpu: "Test CPU".into(),
                memory_mib: 32,
                host: String::new(),
                tollgate: "0.1.0, monitor 0.1.0".into(),
            },
            image: "0".into(),
            runs: 1,
            rows: vec![
                row("empty", &[(4, 1000)], None),
                row("cpuid", &[(89, 500), (90, 500)], Some(split)),
                row("page_fault", &[(89, 990), (90, 8), (20_000, 2)], Some(Split { handler: 70.0, ..split })),
                row("ipi", &[(1390, 3), (1415, 5)], None),
                row("rdrand", &[], None),
                row("xsaves", &[(68, 256)], None),
                Row { lacks: Some("this processor lacks SMX".into()), ..row("getsec", &[], None) },
            ],
            budgets: vec![budget],
        }
    }

    #[test]
    fn tables_are_as_agreed() {
        let on = |name| Some(Target::bochs(Model::by_name(name).unwrap()));
        let narrow = Terminal { columns: 40, wraps: true, ..Terminal::default() };
        for (name, text) in [
            ("bench.txt", render(&measured(true), on(models::DEFAULT), SheetFormat::Table, Terminal::default())),
            ("bench_scattered.txt", render(&measured(false), on("ryzen"), SheetFormat::Table, Terminal::default())),
            ("bench_narrow.txt", render(&measured(true), on(models::DEFAULT), SheetFormat::Table, narrow)),
            ("bench.md", render(&measured(true), on(models::DEFAULT), SheetFormat::Markdown, Terminal::default())),
            ("bench.csv", render(&measured(true), on(models::DEFAULT), SheetFormat::Csv, Terminal::default())),
            ("bench.json", measured(true).to_json()),
        ] {
            golden(name, &text);
        }
    }

    #[test]
    fn nothing_is_wider_than_the_terminal() {
        let target = Some(Target::bochs(Model::by_name(models::DEFAULT).unwrap()));
        for columns in [20, 40, 60, 80, 100] {
            let terminal = Terminal { columns, wraps: true, ..Terminal::default() };
            let text = render(&measured(true), target, SheetFormat::Table, terminal);
            let widest = text.lines().max_by_key(|line| line.chars().count()).unwrap();
            assert!(widest.chars().count() <= usize::from(columns), "{columns} columns: {widest}");
        }
    }
}
