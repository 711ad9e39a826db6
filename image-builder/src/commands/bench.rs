//! `tollgate bench`: what each kind of exit costs on Bochs, where a TSC tick is an instruction, and what the ledger adds.

use std::collections::BTreeMap;
use std::time::Duration;

use tollgate_abi::virtualization::Extension;

use super::outcome;
use super::print;
use crate::account::{Account, WorkloadAccount};
use crate::cli::BenchArguments;
use crate::emulator::models::{self, Model, Offers};
use crate::emulator::{Boot, Limits, Session, bochs};
use crate::failure::{Failure, Status};
use crate::image;
use crate::progress::Progress;
use crate::report::{Sheet, SheetFormat};
use crate::selection::Selection;

/// One measured operation and its budget, the same under both extensions, in ticks an iteration.
///
/// The workload runs with so many iterations and then with twice as many: their difference is free of what it takes to
/// begin and to end.
struct Budget {
    workload: &'static str,
    iterations: u64,
    ticks: u64,
    vtx: Operation,
    svm: Operation,
}

/// What an extension calls the operation, and what Linux 6.1's KVM takes for it on the model of [`kvm_model`], in ticks.
struct Operation(&'static str, u64);

const fn budget(workload: &'static str, iterations: u64, ticks: u64, vtx: Operation, svm: Operation) -> Budget {
    Budget { workload, iterations, ticks, vtx, svm }
}

/// A tenth of KVM with VT-x.
const BUDGETS: [Budget; 7] = [
    budget("cpuid", 10_000, 98, Operation("CPUID", 985), Operation("CPUID", 1164)),
    budget("hypercall", 10_000, 98, Operation("VMCALL", 984), Operation("VMMCALL", 1115)),
    budget("rdmsr", 10_000, 112, Operation("RDMSR", 1123), Operation("RDMSR", 1231)),
    budget("cr0", 10_000, 112, Operation("MOV to CR0", 1129), Operation("MOV to CR0", 5916)),
    budget("port-in", 10_000, 128, Operation("IN", 1283), Operation("IN", 1430)),
    budget("port-out", 10_000, 128, Operation("OUT", 3284), Operation("OUT", 2896)),
    budget(
        "memory",
        512,
        340,
        Operation("a page's first EPT violation", 3425),
        Operation("a page's first nested page fault", 3290),
    ),
];

impl Budget {
    fn under(&self, extension: Extension) -> &Operation {
        match extension {
            Extension::VtX => &self.vtx,
            Extension::Svm => &self.svm,
        }
    }
}

/// The model on which KVM was measured. It is unmeasured on the others.
fn kvm_model(extension: Extension) -> &'static str {
    match extension {
        Extension::VtX => models::DEFAULT,
        Extension::Svm => "zambezi",
    }
}

/// The most that count, cycles, minimum, maximum and histogram together may cost, in ticks of one exit.
const ACCOUNTING_BUDGET_TICKS: f64 = 20.0;

/// vCPUs that all do the same at once, to see whether an exit then costs more.
const MANY_VCPUS: u32 = 8;
/// With several CPUs, Bochs lets each execute five instructions in turn, and its clock moves on by as many.
const CROWDED_SLACK_TICKS: f64 = 5.0;

pub(super) fn run(arguments: &BenchArguments) -> Result<Status, Failure> {
    let model = super::run::model(arguments.cpu.as_deref())?;
    let extension = extension(model)?;
    let limit = Duration::from_secs(arguments.timeout);
    let figures = Figures {
        accounted: measure(model, Books::Ledger, 1, limit)?,
        unaccounted: measure(model, Books::None, 1, limit)?,
        keyed: measure(model, Books::Keys, 1, limit)?,
        crowded: measure(model, Books::Ledger, MANY_VCPUS, limit)?,
    };
    let (sheet, over) = compare(model, extension, &figures)?;
    let mut text = sheet.render(arguments.format);
    if matches!(arguments.format, SheetFormat::Table | SheetFormat::Markdown) {
        text += &legend(model, extension);
    }
    print(&text)?;
    Ok(if over { Status::Differs } else { Status::Balanced })
}

/// The extension that is measured on a model, if the image runs there.
fn extension(model: &Model) -> Result<Extension, Failure> {
    let why = match model.offers {
        Offers::Enough(extension) => return Ok(extension),
        Offers::Lacks(extension, what) => format!("its {extension} has no {what}"),
        Offers::Nothing => "it has neither VT-x nor SVM".to_owned(),
    };
    let refusal = Failure::platform(format_args!("nothing can be measured on {}: {why}", model.name));
    Err(refusal.remedy("`tollgate platforms` tells which models run the image"))
}

/// What stands below the table.
fn legend(model: &Model, extension: Extension) -> String {
    let kvm =
        if model.name == kvm_model(extension) { "Linux 6.1 on the same Bochs" } else { "unmeasured on this model" };
    let svm = match extension {
        Extension::VtX => "",
        Extension::Svm => {
            "The budgets are those of VT-x. No AMD model of Bochs tells the register of a MOV to CR0 (decode assists): \
             reading the instruction for it is in that figure.\n"
        }
    };
    format!(
        "\nTicks of one iteration, loop included, on Bochs ({}, {extension}): one tick is one instruction.\n\
         KVM: {kvm}. The ledger may cost {ACCOUNTING_BUDGET_TICKS} ticks of an exit; --keys adds what \
         stands under keys. Under 8 vCPUs, eight do the same at once, and the clock moves in steps of 5.\n{svm}",
        model.name
    )
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

/// What is measured on one model.
struct Figures {
    accounted: Ticks,
    unaccounted: Ticks,
    keyed: Ticks,
    crowded: Ticks,
}

fn measure(model: &'static Model, books: Books, cpus: u32, limit: Duration) -> Result<Ticks, Failure> {
    // Eight vCPUs take eight times as long, and exact figures need no repetition.
    let iterations = |row: &Budget| if cpus > 1 { row.iterations / 10 } else { row.iterations };
    let twice = |row: &Budget| format!("{0}:{1},{0}:{2}", row.workload, iterations(row), 2 * iterations(row));
    let workloads = BUDGETS.iter().map(twice).collect();
    let (accounting, keys) = (books != Books::None, books == Books::Keys);
    let options = Selection { workloads, accounting, keys, cpus, ..Selection::default() }.options()?;
    let rom = image::build(None, &options)?;
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
fn compare(model: &Model, extension: Extension, figures: &Figures) -> Result<(Sheet, bool), Failure> {
    const UNMEASURED: &str = "-";
    let mut sheet =
        Sheet::new(&["exit", "ticks#", "budget#", "KVM#", "of KVM#", "ledger#", "keys#", "8 vCPUs#", "verdict"]);
    let mut any_over = false;
    for row in &BUDGETS {
        let of = |ticks: &Ticks| ticks.get(row.workload).copied();
        let (Some(with), Some(without), Some(keyed), Some(crowded)) =
            (of(&figures.accounted), of(&figures.unaccounted), of(&figures.keyed), of(&figures.crowded))
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
        let &Operation(what, kvm_ticks) = row.under(extension);
        let (kvm, of_kvm) = if model.name == kvm_model(extension) {
            (kvm_ticks.to_string(), format!("{:.1}%", with * 100.0 / kvm_ticks as f64))
        } else {
            (UNMEASURED.to_owned(), UNMEASURED.to_owned())
        };
        sheet.row(vec![
            what.to_owned(),
            format!("{with:.1}"),
            row.ticks.to_string(),
            kvm,
            of_kvm,
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

    fn on(name: &str, [accounted, unaccounted, crowded]: [f64; 3]) -> (String, bool) {
        let model = Model::by_name(name).unwrap();
        let [accounted, unaccounted, keyed, crowded] = [accounted, unaccounted, 200.0, crowded].map(ticks_of);
        let figures = Figures { accounted, unaccounted, keyed, crowded };
        let (sheet, over) = compare(model, extension(model).unwrap(), &figures).unwrap();
        (sheet.render(SheetFormat::Csv), over)
    }

    #[test]
    fn what_is_over_its_budget_is_marked() {
        for model in [models::DEFAULT, "zambezi"] {
            let (_, over) = on(model, [98.0, 80.0, 98.0]);
            assert!(!over);
            let (sheet, over) = on(model, [98.1, 90.0, 98.1]);
            assert!(over);
            assert_eq!(sheet.matches("over its budget").count(), 2);
            let (sheet, over) = on(model, [90.0, 69.0, 90.0]);
            assert!(over && sheet.contains("the ledger is over its budget"));
            let (sheet, over) = on(model, [90.0, 80.0, 96.0]);
            assert!(over && sheet.contains("it grows with the number of vCPUs"));
        }
    }

    #[test]
    fn what_has_no_result_is_no_verdict() {
        let model = Model::by_name(models::DEFAULT).unwrap();
        let [unaccounted, keyed, crowded] = [(); 3].map(|()| Ticks::new());
        let figures = Figures { accounted: ticks_of(1.0), unaccounted, keyed, crowded };
        assert_eq!(compare(model, Extension::VtX, &figures).unwrap_err().status, Status::NoVerdict);
    }

    #[test]
    fn kvm_stands_beside_the_models_on_which_it_was_measured() {
        for (model, row) in [
            (models::DEFAULT, "VMCALL,80.0,98,984,8.1%,"),
            ("zambezi", "VMMCALL,80.0,98,1115,7.2%,"),
            ("corei7_haswell_4770", "VMCALL,80.0,98,-,-,"),
            ("ryzen", "VMMCALL,80.0,98,-,-,"),
        ] {
            let (sheet, _) = on(model, [80.0, 70.0, 80.0]);
            assert!(sheet.contains(&format!("\n{row}")), "{model}: {sheet}");
            let legend = legend(Model::by_name(model).unwrap(), extension(Model::by_name(model).unwrap()).unwrap());
            assert_eq!(legend.contains("unmeasured"), row.contains('-'), "{legend}");
        }
        assert!(legend(Model::by_name("ryzen").unwrap(), Extension::Svm).contains("on Bochs (ryzen, SVM)"));
    }

    #[test]
    fn a_model_that_cannot_run_the_image_is_refused_with_the_reason() {
        for (model, why) in [
            ("core2_penryn_t9600", "its VT-x has no EPT"),
            ("turion64_tyler", "its SVM has no nested paging"),
            ("athlon64_venice", "it has neither VT-x nor SVM"),
        ] {
            let failure = extension(Model::by_name(model).unwrap()).unwrap_err();
            assert_eq!(failure.status, Status::Platform);
            assert!(failure.sentence().contains(model) && failure.sentence().contains(why), "{failure}");
        }
    }
}
