//! `tollgate bench`: what each kind of exit costs on Bochs, where a TSC tick is an instruction, and what the ledger adds.

use std::collections::BTreeMap;
use std::time::Duration;

use super::outcome;
use super::print;
use crate::account::{Account, WorkloadAccount};
use crate::cli::BenchArguments;
use crate::emulator::models::{self, Model};
use crate::emulator::{Boot, Limits, Session, bochs};
use crate::failure::{Failure, Status};
use crate::image;
use crate::progress::Progress;
use crate::report::{Sheet, SheetFormat};
use crate::selection::Selection;

/// One measured operation, its budget, and what Linux 6.1's KVM takes for it on the same Bochs; in ticks an iteration.
///
/// The workload runs with so many iterations and then with twice as many: their difference is free of what it takes to
/// begin and to end.
struct Budget {
    what: &'static str,
    workload: &'static str,
    iterations: u64,
    ticks: u64,
    kvm_ticks: u64,
}

const fn budget(what: &'static str, workload: &'static str, iterations: u64, ticks: u64, kvm_ticks: u64) -> Budget {
    Budget { what, workload, iterations, ticks, kvm_ticks }
}

/// A tenth of KVM.
const BUDGETS: [Budget; 7] = [
    budget("CPUID", "cpuid", 10_000, 98, 985),
    budget("VMCALL", "hypercall", 10_000, 98, 984),
    budget("RDMSR", "rdmsr", 10_000, 112, 1123),
    budget("MOV to CR0", "cr0", 10_000, 112, 1129),
    budget("IN", "port-in", 10_000, 128, 1283),
    budget("OUT", "port-out", 10_000, 128, 3284),
    budget("a page's first EPT violation", "memory", 512, 340, 3425),
];

/// The most that count, cycles, minimum, maximum and histogram together may cost, in ticks of one exit.
const ACCOUNTING_BUDGET_TICKS: f64 = 20.0;

/// vCPUs that all do the same at once, to see whether an exit then costs more.
const MANY_VCPUS: u32 = 8;
/// With several CPUs, Bochs lets each execute five instructions in turn, and its clock moves on by as many.
const CROWDED_SLACK_TICKS: f64 = 5.0;

pub(super) fn run(arguments: &BenchArguments) -> Result<Status, Failure> {
    let limit = Duration::from_secs(arguments.timeout);
    let accounted = measure(Books::Ledger, 1, limit)?;
    let unaccounted = measure(Books::None, 1, limit)?;
    let keyed = measure(Books::Keys, 1, limit)?;
    let crowded = measure(Books::Ledger, MANY_VCPUS, limit)?;
    let (sheet, over) = compare(&accounted, &unaccounted, &keyed, &crowded)?;
    let mut text = sheet.render(arguments.format);
    if matches!(arguments.format, SheetFormat::Table | SheetFormat::Markdown) {
        text += &format!(
            "\nTicks of one iteration, loop included, on Bochs ({}): one tick is one instruction.\n\
             KVM: Linux 6.1 on the same Bochs. The ledger may cost {ACCOUNTING_BUDGET_TICKS} ticks of an exit; --keys adds what \
             stands under keys. Under 8 vCPUs, eight do the same at once, and the clock moves in steps of 5.\n",
            models::DEFAULT
        );
    }
    print(&text)?;
    Ok(if over { Status::Differs } else { Status::Balanced })
}

/// What is kept while something is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Books {
    Ledger,
    None,
    Keys,
}

/// Ticks of one iteration by workload.
type Ticks = BTreeMap<String, f64>;

fn measure(books: Books, cpus: u32, limit: Duration) -> Result<Ticks, Failure> {
    // Eight vCPUs take eight times as long, and exact figures need no repetition.
    let iterations = |row: &Budget| if cpus > 1 { row.iterations / 10 } else { row.iterations };
    let twice = |row: &Budget| format!("{0}:{1},{0}:{2}", row.workload, iterations(row), 2 * iterations(row));
    let workloads = BUDGETS.iter().map(twice).collect();
    let (accounting, keys) = (books != Books::None, books == Books::Keys);
    let options = Selection { workloads, accounting, keys, cpus, ..Selection::default() }.options()?;
    let rom = image::build(None, &options)?;
    let model = Model::by_name(models::DEFAULT).ok_or_else(|| Failure::platform("the default model is unknown"))?;
    let directory = tempfile::tempdir().map_err(|error| {
        Failure::usage(format_args!("no temporary directory can be made: {error}")).remedy("set TMPDIR")
    })?;
    let boot = Boot::Rom(&rom.bytes);
    let machine = bochs::Machine { cpus, ..bochs::Machine::new(model, boot) };
    let launch = bochs::prepare(directory.path(), boot, machine, false)?;
    let progress = Progress::new(2 * BUDGETS.len() as u64);
    let what = match books {
        Books::Ledger if cpus > 1 => "with the ledger, on several vCPUs at once",
        Books::Ledger => "with the ledger",
        Books::None => "without the ledger",
        Books::Keys => "with the ledger and keys",
    };
    progress.phase(&format!("{}: {what}", launch.name));
    let session = Session::run(&launch, Limits::within(limit), |record| progress.record(record));
    progress.finish();
    let account = outcome::account(&launch, session?)?;
    ticks(&account, accounting)
}

fn ticks(account: &Account, accounting: bool) -> Result<Ticks, Failure> {
    let unfit = match account.status {
        Status::Balanced => !accounting,
        Status::Differs => accounting || !account.verdict.starts_with("unaccounted"),
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

/// The table, and whether anything in it is over its budget.
fn compare(accounted: &Ticks, unaccounted: &Ticks, keyed: &Ticks, crowded: &Ticks) -> Result<(Sheet, bool), Failure> {
    let mut sheet =
        Sheet::new(&["exit", "ticks#", "budget#", "KVM#", "of KVM#", "ledger#", "keys#", "8 vCPUs#", "verdict"]);
    let mut any_over = false;
    for row in &BUDGETS {
        let of = |ticks: &Ticks| ticks.get(row.workload).copied();
        let (Some(with), Some(without), Some(keyed), Some(crowded)) =
            (of(accounted), of(unaccounted), of(keyed), of(crowded))
        else {
            return Err(Failure::no_verdict(format_args!("workload {} has no result", row.workload)));
        };
        let ledger = with - without;
        let over = [
            (with > row.ticks as f64, "over its budget"),
            (ledger > ACCOUNTING_BUDGET_TICKS, "the ledger is over its budget"),
            (crowded - with > CROWDED_SLACK_TICKS, "it grows with the number of vCPUs"),
        ];
        let over: Vec<_> = over.into_iter().filter(|&(over, _)| over).map(|(_, text)| text).collect();
        any_over |= !over.is_empty();
        sheet.row(vec![
            row.what.to_owned(),
            format!("{with:.1}"),
            row.ticks.to_string(),
            row.kvm_ticks.to_string(),
            format!("{:.1}%", with * 100.0 / row.kvm_ticks as f64),
            format!("{ledger:.1}"),
            format!("{:.1}", keyed - with),
            format!("{crowded:.1}"),
            if over.is_empty() { "within".to_owned() } else { over.join("; ") },
        ]);
    }
    Ok((sheet, any_over))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks_of(each: f64) -> Ticks {
        BUDGETS.iter().map(|row| (row.workload.to_owned(), each)).collect()
    }

    #[test]
    fn what_is_over_its_budget_is_marked() {
        let (_, over) = compare(&ticks_of(98.0), &ticks_of(80.0), &ticks_of(200.0), &ticks_of(98.0)).unwrap();
        assert!(!over);
        let (sheet, over) = compare(&ticks_of(98.1), &ticks_of(90.0), &ticks_of(200.0), &ticks_of(98.1)).unwrap();
        assert!(over);
        assert_eq!(sheet.render(SheetFormat::Csv).matches("over its budget").count(), 2);
        let (sheet, over) = compare(&ticks_of(90.0), &ticks_of(69.0), &ticks_of(200.0), &ticks_of(90.0)).unwrap();
        assert!(over && sheet.render(SheetFormat::Csv).contains("the ledger is over its budget"));
        let (sheet, over) = compare(&ticks_of(90.0), &ticks_of(80.0), &ticks_of(200.0), &ticks_of(96.0)).unwrap();
        assert!(over && sheet.render(SheetFormat::Csv).contains("it grows with the number of vCPUs"));
        assert!(compare(&ticks_of(1.0), &Ticks::new(), &Ticks::new(), &Ticks::new()).is_err());
    }
}
