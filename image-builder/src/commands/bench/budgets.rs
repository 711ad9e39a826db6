//! The operations that have a budget: the cost of each on Bochs, where a TSC tick is an instruction; the share of the ledger and
//! of keys; and the cost if many vCPUs perform it at once.

use std::collections::BTreeMap;
use std::time::Duration;

use tollgate_abi::ExitReason;
use tollgate_abi::command_line::Options;
use tollgate_abi::quick::{self, LEDGER_BUDGET_TICKS};
use tollgate_abi::virtualization::Extension;
use tollgate_books::account::{Account, Verdict, WorkloadAccount};
use tollgate_books::bench::Budget;
use tollgate_books::failure::{Failure, Status};
use tollgate_books::report::Sheet;

use super::super::boot::Booting;
use super::super::place;
use super::kvm;
use super::measurable::extension;
use crate::emulator::models::Model;
use crate::emulator::{Boot, Limits, Machine, Target};
use crate::images;
use crate::selection::{Selection, usual_options};

/// One measured operation and its budget, the same under both extensions, in ticks an iteration.
///
/// The workload runs with so many iterations and then with twice as many. In the difference, its beginning and its end cancel
/// out.
#[derive(Debug)]
pub(super) struct Row {
    /// The microbenchmark of the same operation.
    pub(super) bench: &'static str,
    workload: &'static str,
    iterations: u64,
    ticks: u64,
    /// The name of the operation under each extension.
    vtx: &'static str,
    svm: &'static str,
}

/// The verdict on an operation that is not over its budget.
pub(super) const WITHIN: &str = "within";

const fn budget(
    [bench, workload]: [&'static str; 2],
    iterations: u64,
    reason: ExitReason,
    [vtx, svm]: [&'static str; 2],
) -> Row {
    Row { bench, workload, iterations, ticks: quick::budget_ticks(reason), vtx, svm }
}

/// The quick exits; their budgets are those of the monitor's own table.
pub(super) const ROWS: &[Row] = &[
    budget(["cpuid", "cpuid"], 10_000, ExitReason::CPUID, ["CPUID", "CPUID"]),
    budget(["vmcall", "hypercall"], 10_000, ExitReason::VMCALL, ["VMCALL", "VMMCALL"]),
    budget(["rdmsr", "rdmsr"], 10_000, ExitReason::RDMSR, ["RDMSR", "RDMSR"]),
    budget(["mov_to_cr0", "cr0"], 10_000, ExitReason::CR_ACCESS, ["MOV to CR0", "MOV to CR0"]),
    budget(["in", "port-in"], 10_000, ExitReason::IO_INSTRUCTION, ["IN", "IN"]),
    budget(["out", "port-out"], 10_000, ExitReason::IO_INSTRUCTION, ["OUT", "OUT"]),
    budget(
        ["ept_violation_write", "memory"],
        512,
        ExitReason::EPT_VIOLATION,
        ["a page's first EPT violation", "a page's first nested page fault"],
    ),
];

impl Row {
    fn under(&self, extension: Extension) -> &'static str {
        match extension {
            Extension::VtX => self.vtx,
            Extension::Svm => self.svm,
        }
    }
}

/// vCPUs that all perform the operation at once, to see whether an exit then costs more.
const MANY_VCPUS: u32 = 8;
/// With several CPUs, Bochs lets each execute five instructions in turn, and its clock moves on by as many.
const CROWDED_SLACK_TICKS: f64 = 5.0;

/// Measures some of the operations.
pub(super) fn measure_all(model: &'static Model, rows: &[&Row], limit: Duration) -> Result<Vec<Budget>, Failure> {
    let extension = extension(model)?;
    let figures = Figures {
        accounted: measure(model, rows, Books::Ledger, 1, limit)?,
        unaccounted: measure(model, rows, Books::None, 1, limit)?,
        keyed: measure(model, rows, Books::Keys, 1, limit)?,
        crowded: measure(model, rows, Books::Ledger, MANY_VCPUS, limit)?,
    };
    compare(model, extension, rows, &figures)
}

/// The notes below the table, a paragraph each.
pub(super) fn legend(model: &'static Model, extension: Extension) -> Vec<String> {
    let measured = kvm::is_measured_on(Target::bochs(model));
    let kvm = if measured { "Linux 6.1 on the same Bochs" } else { "unmeasured on this model" };
    let mut paragraphs = vec![
        format!(
            "Ticks of one iteration, loop included, on Bochs ({}, {extension}): one tick is one instruction.",
            model.name
        ),
        format!(
            "KVM: {kvm}. The ledger may cost {LEDGER_BUDGET_TICKS} ticks of an exit; --keys costs the ticks under \
             keys in addition. Under 8 vCPUs, eight vCPUs do the same at once, and the clock moves in steps of 5."
        ),
    ];
    if extension == Extension::Svm {
        paragraphs.push(
            "The budgets are those of VT-x. No AMD model of Bochs tells the register of a MOV to CR0 (decode assists): \
             its figure includes reading the instruction."
                .to_owned(),
        );
    }
    paragraphs
}

/// The books that are kept during a measurement.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Books {
    Ledger,
    None,
    Keys,
}

/// Ticks of one iteration, by workload.
type Ticks = BTreeMap<String, f64>;

/// The figures of one model.
struct Figures {
    accounted: Ticks,
    unaccounted: Ticks,
    keyed: Ticks,
    crowded: Ticks,
}

fn measure(model: &'static Model, rows: &[&Row], books: Books, cpus: u32, limit: Duration) -> Result<Ticks, Failure> {
    // Eight vCPUs take eight times as long, and exact figures need no repetition.
    let iterations = |row: &Row| if cpus > 1 { row.iterations / 10 } else { row.iterations };
    let twice = |row: &Row| format!("{0}:{1},{0}:{2}", row.workload, iterations(row), 2 * iterations(row));
    let workloads = rows.iter().copied().map(twice).collect();
    let (accounting, keys) = (books != Books::None, books == Books::Keys);
    let options =
        Selection { workloads, run: Options { accounting, keys, cpus, ..usual_options() }, ..Selection::default() }
            .options()?;
    let what = match books {
        Books::Ledger if cpus > 1 => "with the ledger, on several vCPUs at once",
        Books::Ledger => "with the ledger",
        Books::None => "without the ledger",
        Books::Keys => "with the ledger and keys",
    };
    let rom = images::build(None, &options)?;
    let directory = place::temporary()?;
    let boot = Boot::Rom(&rom.bytes);
    let machine = Machine { cpus, ..Machine::new(Target::bochs(model), boot) };
    let booting = Booting { boot, machine, audit: false, limits: Limits::within(limit) };
    let account = booting.shown(directory.path(), 2 * rows.len() as u64, what, false)?.account()?;
    ticks(&account, accounting)
}

fn ticks(account: &Account, accounting: bool) -> Result<Ticks, Failure> {
    let unfit = match account.status {
        Status::Balanced => !accounting,
        Status::Differs => accounting || account.verdict != Verdict::Unaccounted,
        _ => true,
    };
    if unfit {
        return Err(Failure::new(
            account.status.max(Status::Differs),
            format_args!("nothing was measured: {}", account.verdict),
        ));
    }
    let slope = |pair: &[WorkloadAccount]| match pair {
        [once, twice] if once.name == twice.name && once.iterations < twice.iterations => {
            let iterations = twice.iterations - once.iterations;
            Some((once.name.clone(), twice.cycles.saturating_sub(once.cycles) as f64 / iterations as f64))
        }
        _ => None,
    };
    Ok(account.workloads.chunks(2).filter_map(slope).collect())
}

/// Each figure, and the verdict on it.
fn compare(
    model: &'static Model,
    extension: Extension,
    rows: &[&Row],
    figures: &Figures,
) -> Result<Vec<Budget>, Failure> {
    let mut compared = Vec::new();
    for row in rows {
        let of = |ticks: &Ticks| ticks.get(row.workload).copied();
        let (Some(with), Some(without), Some(keyed), Some(crowded)) =
            (of(&figures.accounted), of(&figures.unaccounted), of(&figures.keyed), of(&figures.crowded))
        else {
            return Err(Failure::no_verdict(format_args!("workload {} has no result", row.workload)));
        };
        let ledger = with - without;
        let over = [
            (with > row.ticks as f64, "over its budget"),
            (ledger > LEDGER_BUDGET_TICKS as f64, "the ledger is over its budget"),
            (crowded - with > CROWDED_SLACK_TICKS, "it grows with the number of vCPUs"),
        ];
        let over: Vec<_> = over.into_iter().filter(|&(over, _)| over).map(|(_, text)| text).collect();
        compared.push(Budget {
            exit: row.under(extension).to_owned(),
            ticks: with,
            budget: row.ticks,
            kvm: kvm::ticks(row.bench, Target::bochs(model)),
            ledger,
            keys: keyed - with,
            vcpus_8: crowded,
            verdict: if over.is_empty() { WITHIN.to_owned() } else { over.join("; ") },
        });
    }
    Ok(compared)
}

/// The table of budgets.
pub(super) fn sheet(rows: &[Budget]) -> Sheet {
    const UNMEASURED: &str = "-";
    let mut sheet =
        Sheet::new(&["exit", "ticks#", "budget#", "KVM#", "of KVM#", "ledger#", "keys#", "8 vCPUs#", "verdict"]);
    for row in rows {
        let of_kvm = |kvm: u64| format!("{:.1}%", row.ticks * 100.0 / kvm as f64);
        sheet.row(vec![
            row.exit.clone(),
            format!("{:.1}", row.ticks),
            row.budget.to_string(),
            row.kvm.map_or(UNMEASURED.to_owned(), |kvm| kvm.to_string()),
            row.kvm.map_or(UNMEASURED.to_owned(), of_kvm),
            format!("{:.1}", row.ledger),
            format!("{:.1}", row.keys),
            format!("{:.1}", row.vcpus_8),
            row.verdict.clone(),
        ]);
    }
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::models;
    use tollgate_books::report::SheetFormat;

    fn every() -> Vec<&'static Row> {
        ROWS.iter().collect()
    }

    fn ticks_of(each: f64) -> Ticks {
        ROWS.iter().map(|row| (row.workload.to_owned(), each)).collect()
    }

    fn on(name: &str, [accounted, unaccounted, crowded]: [f64; 3]) -> (String, bool) {
        let model = Model::by_name(name).unwrap();
        let [accounted, unaccounted, keyed, crowded] = [accounted, unaccounted, 200.0, crowded].map(ticks_of);
        let figures = Figures { accounted, unaccounted, keyed, crowded };
        let rows = compare(model, extension(model).unwrap(), &every(), &figures).unwrap();
        (sheet(&rows).render(SheetFormat::Csv), rows.iter().any(|row| row.verdict != WITHIN))
    }

    #[test]
    fn what_is_over_its_budget_is_marked() {
        for model in [models::DEFAULT, "zambezi"] {
            let (_, over) = on(model, [66.0, 49.0, 66.0]);
            assert!(!over);
            let (sheet, over) = on(model, [66.1, 60.0, 66.1]);
            assert!(over);
            assert_eq!(sheet.matches("over its budget").count(), 2);
            let (sheet, over) = on(model, [60.0, 42.0, 60.0]);
            assert!(over && sheet.contains("the ledger is over its budget"));
            let (sheet, over) = on(model, [60.0, 50.0, 66.0]);
            assert!(over && sheet.contains("it grows with the number of vCPUs"));
        }
    }

    #[test]
    fn what_has_no_result_is_no_verdict() {
        let model = Model::by_name(models::DEFAULT).unwrap();
        let [unaccounted, keyed, crowded] = [(); 3].map(|()| Ticks::new());
        let figures = Figures { accounted: ticks_of(1.0), unaccounted, keyed, crowded };
        assert_eq!(compare(model, Extension::VtX, &every(), &figures).unwrap_err().status, Status::NoVerdict);
    }

    #[test]
    fn kvm_stands_beside_the_models_on_which_it_was_measured() {
        for (model, row) in [
            (models::DEFAULT, "VMCALL,60.0,66,984,6.1%,"),
            ("zambezi", "VMMCALL,60.0,66,1115,5.4%,"),
            ("corei7_haswell_4770", "VMCALL,60.0,66,-,-,"),
            ("ryzen", "VMMCALL,60.0,66,-,-,"),
        ] {
            let (sheet, _) = on(model, [60.0, 50.0, 60.0]);
            assert!(sheet.contains(&format!("\n{row}")), "{model}: {sheet}");
            let legend = legend(Model::by_name(model).unwrap(), extension(Model::by_name(model).unwrap()).unwrap());
            assert_eq!(legend.concat().contains("unmeasured"), row.contains('-'), "{legend:?}");
        }
        assert!(legend(Model::by_name("ryzen").unwrap(), Extension::Svm)[0].contains("on Bochs (ryzen, SVM)"));
    }
}
