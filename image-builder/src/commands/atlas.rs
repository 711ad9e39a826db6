//! The atlas: every exit that the extension of the machine has, produced by one of several runs, or why not.
//!
//! One run can't have it all. With a second processor Bochs' time-stamp counter moves in steps of 5, so what needs no other
//! runs without; the processor with the most of VT-x has no SMX; and of SVM, QEMU's own emulation and Bochs each lack what the
//! other has.

use tollgate_abi::command_line::Options;
use tollgate_abi::exit_reason::{ExitReason, OWN_OF_SVM, ROWS, Status as ExitStatus, TABLE};
use tollgate_abi::key::{Key, KeyKind, VARIANTS};
use tollgate_abi::scenario::{self, Scenario};
use tollgate_abi::svm_exit;
use tollgate_abi::virtualization::{Extension, Facts};

use super::run::{Place, Target, model, run_image};
use super::tables::enabled_by;
use crate::account::{Account, AtlasRow, AtlasVariant, LogFacts, Reason};
use crate::cli::RunArguments;
use crate::emulator::{Engine, bochs};
use crate::failure::{Failure, Status};
use crate::log::{DENIED, ScenarioRun, VariantRow};
use crate::output_file;
use crate::selection::Selection;

/// One of an atlas' runs.
pub(super) struct Part {
    /// What it is about, for people.
    pub(super) what: String,
    /// The image's options.
    pub(super) options: String,
    /// Where it runs.
    pub(super) target: Target,
    /// The folder of its files within those of the atlas; the first run's are not in one.
    pub(super) folder: Option<String>,
}

/// Where the scenarios that need another CPU are run.
const OTHER_CPU_FOLDER: &str = "two-cpus";
/// The model for what the default one lacks, and the scenario that is about it.
const SMX_MODEL: &str = "corei5_arrandale_m520";
const SMX_SCENARIO: &str = "getsec";
/// The model for what QEMU's SVM lacks.
const SVM_MODEL: &str = "zambezi";
/// The scenario that Bochs 2.7 does not survive.
const SHUTDOWN_SCENARIO: &str = "shutdown";

/// The runs of an atlas: `selection`, the scenarios that need another CPU, and, unless the machine has to stay alone, what
/// it lacks on another.
///
/// # Errors
/// The selection is none.
pub(super) fn parts(selection: &Selection, on: Target, alone: bool) -> Result<Vec<Part>, Failure> {
    let mut parts = parts_on(selection, on, None)?;
    if alone {
        return Ok(parts);
    }
    match on {
        Target::Bochs(_) if on.extension() == Extension::VtX => parts.push(Part {
            what: format!("{SMX_SCENARIO} on {SMX_MODEL}"),
            options: scenarios_alone(selection, vec![SMX_SCENARIO])?,
            target: Target::Bochs(model(Some(SMX_MODEL))?),
            folder: Some(SMX_MODEL.to_owned()),
        }),
        Target::Qemu(platform) if platform.engine == Engine::Tcg && bochs::find().is_ok() => {
            parts.extend(parts_on(selection, Target::Bochs(model(Some(SVM_MODEL))?), Some(SVM_MODEL))?);
        }
        Target::Bochs(_) | Target::Qemu(_) => {}
    }
    Ok(parts)
}

/// The runs on one machine, in this folder.
fn parts_on(selection: &Selection, target: Target, folder: Option<&str>) -> Result<Vec<Part>, Failure> {
    let runs =
        |scenario: &&Scenario| scenario.is_under(target.extension()) && ends_the_emulator(scenario, target).is_none();
    let (with_other, on_one): (Vec<_>, Vec<_>) =
        scenario::TABLE.iter().filter(runs).partition(|scenario| scenario.needs_other_cpu());
    let names = |scenarios: Vec<&Scenario>| scenarios.into_iter().map(|scenario| scenario.name).collect();
    let first = Selection { atlas: Some(names(on_one)), ..kept(selection) };
    let there = folder.map_or_else(String::new, |folder| format!(" on {folder}"));
    let inner = folder.map_or_else(|| OTHER_CPU_FOLDER.to_owned(), |folder| format!("{folder}-{OTHER_CPU_FOLDER}"));
    Ok(vec![
        Part {
            what: format!("workloads and scenarios{there}"),
            options: first.options()?,
            target,
            folder: folder.map(str::to_owned),
        },
        Part {
            what: format!("scenarios that need another CPU{there}"),
            options: scenarios_alone(selection, names(with_other))?,
            target,
            folder: Some(inner),
        },
    ])
}

/// Why a scenario can't be run on a target that could not say so itself.
pub(super) fn ends_the_emulator(scenario: &Scenario, target: Target) -> Option<&'static str> {
    let ends = matches!(target, Target::Bochs(_)) && scenario.name == SHUTDOWN_SCENARIO;
    ends.then_some("Bochs 2.7 ends itself at a triple fault before it looks for SVM's exit")
}

/// Variants are kept with keys.
fn kept(selection: &Selection) -> Selection {
    Selection { keys: true, ..selection.clone() }
}

/// The options for scenarios without workloads.
fn scenarios_alone(selection: &Selection, names: Vec<&str>) -> Result<String, Failure> {
    let workloads = names.into_iter().map(str::to_owned).collect();
    Selection { workloads, cpus: 1, without_missing_cpus: false, ..kept(selection) }.options()
}

/// Performs the runs: the first one's account, with the rows of all, and the verdict of the first that failed.
pub(super) fn run(
    arguments: &RunArguments,
    selection: &Selection,
    on: Target,
    place: &Place,
) -> Result<(String, Account), Failure> {
    let arguments = &RunArguments { audit: true, ..arguments.clone() };
    let parts = parts(selection, on, arguments.cpu.is_some())?;
    let mut title = String::new();
    let mut runs = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        let which = format!("run {} of {}: {}", at + 1, parts.len(), part.what);
        let directory =
            part.folder.as_ref().map_or_else(|| place.path().to_owned(), |folder| place.path().join(folder));
        output_file::create_directory(&directory)?;
        let outcome = run_image(arguments, &part.options, part.target, &directory);
        let (name, mut account) = match outcome {
            Ok(account) => account,
            Err(failure) if runs.is_empty() || failure.status == Status::Usage => return Err(failure.during(&which)),
            // What the others found is shown all the same.
            Err(failure) => {
                let mut account = joined(&runs, on.extension(), selection.keys);
                (account.status, account.verdict) = (failure.status, failure.during(&which).to_string());
                return Ok((title, account));
            }
        };
        if part.folder.is_some() {
            place.keep(part.folder.as_deref(), &account)?;
            account.findings.iter_mut().for_each(|finding| *finding += &format!(" ({which})"));
        } else {
            title = name;
        }
        if account.status != Status::Balanced {
            account.verdict += &format!(" ({which})");
        }
        let status = account.status;
        runs.push((place_name(arguments, part), account));
        // Books that differ leave the other runs as they are; a platform that can't run one won't run the next.
        if !matches!(status, Status::Balanced | Status::Differs) {
            break;
        }
    }
    Ok((title, joined(&runs, on.extension(), selection.keys)))
}

/// A run's processor, and how many where that is not one.
fn place_name(arguments: &RunArguments, part: &Part) -> String {
    let needed = Options::parse(&part.options).unwrap_or_default().processors();
    match arguments.machine_cpus.unwrap_or(needed) {
        1 => part.target.name().to_owned(),
        several => format!("{}, {several} CPUs", part.target.name()),
    }
}

/// The account of the first of several runs, at least one, with the atlas of all, and with what failed first.
fn joined(runs: &[(String, Account)], extension: Extension, keep_keys: bool) -> Account {
    let mut account = runs[0].1.clone();
    if let Some((_, failed)) = runs.iter().find(|(_, run)| run.status != Status::Balanced) {
        account.status = failed.status;
        account.verdict.clone_from(&failed.verdict);
        account.remedy.clone_from(&failed.remedy);
        account.stop.clone_from(&failed.stop);
    }
    account.findings = runs.iter().flat_map(|(_, run)| run.findings.iter().cloned()).collect();
    account.scenarios = scenarios(runs);
    account.log = runs.iter().fold(LogFacts::default(), |sum, (_, run)| LogFacts {
        records: sum.records + run.log.records,
        noise: sum.noise + run.log.noise,
        damaged: sum.damaged + run.log.damaged,
    });
    // They were kept for the variants' sake.
    if !keep_keys {
        account.reasons.iter_mut().for_each(|reason| reason.keys.clear());
    }
    // A platform that refused the first run says why, once.
    if runs[0].1.status != Status::Platform {
        account.atlas = rows(runs, extension);
    }
    if account.status == Status::Balanced {
        account.findings = gaps(&account.atlas, runs);
        if let Some(gap) = account.findings.first() {
            (account.status, account.verdict) = (Status::Differs, format!("differs: {gap}"));
        }
    }
    account
}

/// Each scenario where it ran, or why it ran nowhere.
fn scenarios(runs: &[(String, Account)]) -> Vec<ScenarioRun> {
    let all = || runs.iter().flat_map(|(_, run)| &run.scenarios);
    let of = |scenario: &Scenario| {
        let mut its = all().filter(|run| run.name == scenario.name);
        its.clone().find(|run| run.verdict != DENIED).or_else(|| its.next()).cloned()
    };
    scenario::TABLE.iter().filter_map(of).collect()
}

/// What is not produced though nothing says that the processor lacks what it takes.
fn gaps(rows: &[AtlasRow], runs: &[(String, Account)]) -> Vec<String> {
    let accounts = || runs.iter().map(|(_, account)| account);
    let mut gaps = Vec::new();
    for row in rows.iter().filter(|row| row.possible) {
        if row.count == 0 && lacking(row.number, accounts()).is_none() {
            gaps.push(format!("no run of the atlas produced reason {} {}", row.number, row.name));
        }
        for AtlasVariant { row: VariantRow { name, count, .. }, .. } in &row.variants {
            if row.count > 0 && *count == 0 && lacking_variant(ExitReason(row.number), name, runs).is_none() {
                gaps.push(format!("no run of the atlas produced reason {} {}, {name}", row.number, row.name));
            }
        }
    }
    gaps
}

/// What the processors of these runs lack for a reason, if that is why they did not produce it: a scenario that was denied
/// says so, or the reason's controls.
pub(super) fn lacking<'a>(number: u16, accounts: impl Iterator<Item = &'a Account> + Clone) -> Option<String> {
    if let Some(detail) = denied(number, None, accounts.clone()) {
        return Some(detail);
    }
    let is_svm = accounts.clone().any(|account| account.platform.virtualization == Extension::Svm.name());
    let mut statuses = accounts.flat_map(|account| &account.reasons).filter(|reason| reason.number == number);
    let known = statuses.clone().next().is_some();
    let is_lacking = known && statuses.all(|reason| reason.status == ExitStatus::NotEnabled.as_str());
    if is_svm {
        return is_lacking.then(|| "this processor lacks the intercept or the instruction".to_owned());
    }
    let row = ExitReason(number).row().filter(|_| is_lacking)?;
    Some(format!("this processor lacks {}", enabled_by(row.enabled_by)))
}

/// What the processors of these runs lack for the scenario about a reason, or about one variant of it, if there is one and it
/// was denied.
pub(super) fn denied<'a>(
    number: u16,
    variant: Option<&str>,
    accounts: impl Iterator<Item = &'a Account>,
) -> Option<String> {
    let about = |run: &&ScenarioRun| {
        run.reason == number && Scenario::by_name(&run.name).and_then(|scenario| scenario.variant) == variant
    };
    let denied = accounts.flat_map(|account| &account.scenarios).filter(about).filter(|run| run.verdict == DENIED);
    denied.last().map(|run| run.detail.clone())
}

/// An exit that an atlas is to have.
struct Wanted {
    reason: ExitReason,
    provoked_by: &'static str,
    platforms: &'static str,
    extension: Extension,
}

/// Every exit that an extension has: the SDM's reasons, or those for which SVM has a code, and SVM's own.
fn wanted(extension: Extension) -> Vec<Wanted> {
    let all = TABLE.iter().map(|row| (row.reason, row.notes().provoked_by, row.notes().platforms));
    match extension {
        Extension::VtX => {
            all.map(|(reason, provoked_by, platforms)| Wanted { reason, provoked_by, platforms, extension }).collect()
        }
        Extension::Svm => {
            let own = (OWN_OF_SVM..ROWS as u16).map(ExitReason);
            let own = own.filter_map(|reason| Some((reason, reason.own_of_svm()?.provoked_by)));
            let all = all.map(|(reason, provoked_by, _)| (reason, provoked_by)).chain(own);
            let with_code = |(reason, provoked_by)| {
                svm_exit::platforms(reason).map(|platforms| Wanted { reason, provoked_by, platforms, extension })
            };
            all.filter_map(with_code).collect()
        }
    }
}

impl Wanted {
    /// Whether one of these runs was where it can be produced.
    fn is_possible(&self, runs: &[(String, Account)]) -> bool {
        let some = |on_qemu| runs.iter().any(|(_, run)| is_on_qemu(run) == on_qemu);
        match self.platforms {
            "" => false,
            platforms if platforms.starts_with("silicon") => false,
            platforms if platforms.starts_with("QEMU") => some(true),
            platforms if platforms.starts_with("Bochs") => some(false),
            _ => true,
        }
    }

    /// The variants of it that there are under the extension.
    fn variants(&self) -> impl Iterator<Item = &'static str> {
        let (reason, extension) = (self.reason, self.extension);
        let is_there = move |name: &&str| match about(reason, name) {
            Some(scenario) => scenario.is_under(extension),
            None => true,
        };
        VARIANTS.iter().filter(move |(of, _)| *of == reason).map(|&(_, name)| name).filter(is_there)
    }
}

/// The scenario about a variant.
fn about(reason: ExitReason, variant: &str) -> Option<&'static Scenario> {
    scenario::TABLE.iter().find(|scenario| (scenario.reason, scenario.variant) == (reason, Some(variant)))
}

/// Why no run produced a variant: its scenario was denied, or they are all QEMU's, which makes no exit of it.
fn lacking_variant(reason: ExitReason, name: &str, runs: &[(String, Account)]) -> Option<String> {
    let qemus = Facts { extension: Extension::Svm, is_qemu: true, ..Facts::default() };
    let is_lacking = |vector: u8| {
        let is_it = reason == ExitReason::EXCEPTION_OR_NMI && Key(KeyKind::Vector, vector.into()).to_string() == name;
        is_it && qemus.exceptions_without_exit() >> vector & 1 != 0
    };
    denied(reason.0, Some(name), runs.iter().map(|(_, account)| account)).or_else(|| {
        let lacks = runs.iter().all(|(_, run)| is_on_qemu(run)) && (0..32).any(is_lacking);
        lacks.then(|| "QEMU's emulation makes no exit of it".to_owned())
    })
}

fn is_on_qemu(account: &Account) -> bool {
    account.platform.kind.starts_with("qemu")
}

/// One row for each exit that the extension has, from the first run that produced it.
fn rows(runs: &[(String, Account)], extension: Extension) -> Vec<AtlasRow> {
    wanted(extension).iter().map(|row| atlas_row(row, runs)).collect()
}

fn atlas_row(row: &Wanted, runs: &[(String, Account)]) -> AtlasRow {
    let number = row.reason.0;
    let seen = runs.iter().find_map(|(place, account)| {
        let reason = account.reasons.iter().find(|reason| reason.number == number && reason.count > 0)?;
        Some((place.as_str(), reason))
    });
    let nothing = Reason::default();
    let (platform, reason) = seen.unwrap_or(("", &nothing));
    let possible = row.is_possible(runs);
    AtlasRow {
        number,
        name: row.reason.name().to_owned(),
        count: reason.count,
        cycles: reason.cycles,
        min: reason.min,
        max: reason.max,
        audit_count: reason.audit_count,
        how: if reason.count > 0 { provoked_by(row, reason) } else { why_not(row, possible, runs) },
        platform: platform.to_owned(),
        possible,
        variants: variants(row, reason, runs),
    }
}

/// Every variant that an atlas is to have, each from the first run that produced it, and what else the reason's run has.
fn variants(row: &Wanted, reason: &Reason, runs: &[(String, Account)]) -> Vec<AtlasVariant> {
    let more = reason.variants.iter().filter(|variant| row.variants().all(|name| name != variant.name));
    let more = more.map(|variant| AtlasVariant { row: variant.clone(), ..AtlasVariant::default() });
    row.variants().map(|name| atlas_variant(row.reason, name, runs)).chain(more).collect()
}

fn atlas_variant(reason: ExitReason, name: &str, runs: &[(String, Account)]) -> AtlasVariant {
    let seen = runs.iter().find_map(|(place, account)| {
        let of_reason = account.reasons.iter().filter(|row| row.number == reason.0);
        let variant = of_reason.flat_map(|row| &row.variants).find(|variant| variant.name == name)?;
        Some((place, variant)).filter(|(_, variant)| variant.count > 0)
    });
    if let Some((place, variant)) = seen {
        let how = about(reason, name).map_or("", |scenario| scenario.about);
        return AtlasVariant { row: variant.clone(), how: how.to_owned(), platform: place.clone() };
    }
    let lacking = lacking_variant(reason, name, runs);
    let row = VariantRow { name: name.to_owned(), ..VariantRow::default() };
    AtlasVariant { row, how: not_produced(lacking), platform: String::new() }
}

/// A scenario tells it more exactly than the table, where the guest itself did not provoke the reason.
fn provoked_by(row: &Wanted, reason: &Reason) -> String {
    let by_scenario_alone = reason.guest_count.unwrap_or(0) == 0;
    let is_it = |scenario: &&Scenario| scenario.reason == row.reason && scenario.is_under(row.extension);
    let scenario = scenario::TABLE.iter().find(is_it).filter(|_| by_scenario_alone);
    scenario.map_or(row.provoked_by, |scenario| scenario.about).to_owned()
}

fn why_not(row: &Wanted, possible: bool, runs: &[(String, Account)]) -> String {
    if !possible {
        return format!("needs {}", row.platforms);
    }
    not_produced(lacking(row.reason.0, runs.iter().map(|(_, account)| account)))
}

fn not_produced(lacking: Option<String>) -> String {
    lacking.map_or_else(|| "not produced".to_owned(), |lacking| format!("not produced: {lacking}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::models;
    use crate::log::LogReader;
    use tollgate_abi::record::{Kind, PROTOCOL, Writer};

    fn record(log: &mut String, kind: Kind, reason: ExitReason) -> Writer<'_, String> {
        Writer::new(log, kind).number("vcpu", 0).number("reason", reason.0.into())
    }

    /// A run with these rows, each with variants of half its exits.
    fn account(rows: &[(ExitReason, u64, &[&str])], denied: Option<ExitReason>) -> Account {
        let mut log = String::new();
        Writer::new(&mut log, Kind::Tollgate).number("protocol", PROTOCOL).finish().unwrap();
        for &(reason, count, variants) in rows {
            let exit = record(&mut log, Kind::Exit, reason).text("name", reason.name()).word("status", "enabled");
            exit.number("count", count)
                .number("cycles", 70 * count)
                .number("min", 70)
                .number("max", 70)
                .finish()
                .unwrap();
            for name in variants {
                let variant = record(&mut log, Kind::Variant, reason).text("name", name).number("count", count / 2);
                variant.number("cycles", 35 * count).number("min", 70).number("max", 70).finish().unwrap();
            }
        }
        if let Some(reason) = denied {
            let record =
                Writer::new(&mut log, Kind::Scenario).word("scenario", "some").number("reason", reason.0.into());
            let record = record.word("verdict", "denied").number("predicted", 0).number("observed", 0);
            record.text("detail", "this processor lacks SMX").finish().unwrap();
        }
        Account::new(&LogReader::read(log.as_bytes()).unwrap(), None, None)
    }

    fn vtx(runs: &[(String, Account)]) -> Vec<AtlasRow> {
        rows(runs, Extension::VtX)
    }

    #[test]
    fn a_row_is_of_the_first_run_that_produced_it() {
        let first = account(&[(ExitReason::CPUID, 5, &[])], Some(ExitReason::GETSEC));
        let second = account(&[(ExitReason::CPUID, 9, &[]), (ExitReason::GETSEC, 4, &[])], None);
        let rows = vtx(&[("first".to_owned(), first.clone()), ("second".to_owned(), second)]);
        let row = |reason: ExitReason| rows.iter().find(|row| row.number == reason.0).unwrap();
        assert_eq!((row(ExitReason::CPUID).count, row(ExitReason::CPUID).platform.as_str()), (5, "first"));
        assert_eq!((row(ExitReason::GETSEC).count, row(ExitReason::GETSEC).platform.as_str()), (4, "second"));
        assert_eq!((row(ExitReason::HLT).count, row(ExitReason::HLT).how.as_str()), (0, "not produced"));
        let alone = vtx(&[("first".to_owned(), first)]);
        let getsec = alone.iter().find(|row| row.number == ExitReason::GETSEC.0).unwrap();
        assert_eq!((getsec.count, getsec.how.as_str()), (0, "not produced: this processor lacks SMX"));
    }

    #[test]
    fn what_no_run_produced_without_a_reason_is_a_gap() {
        type Produced = (ExitReason, u64, Vec<&'static str>);
        let produced: Vec<Produced> = TABLE
            .iter()
            .map(|row| {
                let names = VARIANTS.iter().filter(|(of, _)| *of == row.reason).map(|&(_, name)| name);
                (row.reason, 4, names.collect())
            })
            .collect();
        let run = |change: &dyn Fn(&mut Produced)| {
            let mut rows = produced.clone();
            rows.iter_mut().for_each(change);
            let rows: Vec<_> = rows.iter().map(|(reason, count, names)| (*reason, *count, &names[..])).collect();
            let mut first = account(&rows, None);
            (first.status, first.findings) = (Status::Balanced, Vec::new());
            joined(&[("first".to_owned(), first)], Extension::VtX, true)
        };
        let whole = run(&|_| {});
        assert_eq!((whole.status, whole.findings), (Status::Balanced, Vec::new()));
        let without_hlt = run(&|row| row.1 *= u64::from(row.0 != ExitReason::HLT));
        assert_eq!(without_hlt.verdict, "differs: no run of the atlas produced reason 12 HLT");
        assert_eq!(without_hlt.status, Status::Differs);
        let without_cr3 = run(&|row| row.2.retain(|name| *name != "CR3 read"));
        assert_eq!(
            without_cr3.findings,
            ["no run of the atlas produced reason 28 Control-register accesses, CR3 read"]
        );
    }

    #[test]
    fn scenarios_are_those_that_ran_somewhere() {
        let ran =
            |verdict: &str| ScenarioRun { name: SMX_SCENARIO.into(), verdict: verdict.into(), ..Default::default() };
        let run = |verdicts: &[&str]| {
            let scenarios = verdicts.iter().map(|verdict| ran(verdict)).collect();
            (String::new(), Account { scenarios, ..account(&[], None) })
        };
        let verdicts =
            |runs: &[(String, Account)]| scenarios(runs).into_iter().map(|run| run.verdict).collect::<Vec<_>>();
        assert_eq!(verdicts(&[run(&[DENIED]), run(&["balanced"])]), ["balanced"]);
        assert_eq!(verdicts(&[run(&[DENIED]), run(&[])]), [DENIED]);
        assert_eq!(verdicts(&[run(&[])]), Vec::<String>::new());
    }

    #[test]
    fn every_variant_has_a_row_produced_or_not() {
        let names: &[&str] = &["of its own", "CR3 read", "CR0 write"];
        let run = account(&[(ExitReason::CR_ACCESS, 10, names), (ExitReason::CPUID, 5, &[])], None);
        let rows = vtx(&[("first".to_owned(), run)]);
        for row in &rows {
            let wanted = VARIANTS.iter().filter(|(of, _)| of.0 == row.number).map(|&(_, name)| name);
            let expected: Vec<&str> =
                wanted.chain((row.number == ExitReason::CR_ACCESS.0).then_some("of its own")).collect();
            assert_eq!(row.variants.iter().map(|variant| variant.row.name.as_str()).collect::<Vec<_>>(), expected);
            for AtlasVariant { row: variant, how, platform } in &row.variants {
                let produced = row.number == ExitReason::CR_ACCESS.0 && names.contains(&variant.name.as_str());
                let figures = if produced { (5, 350, 70, 70) } else { (0, 0, 0, 0) };
                assert_eq!((variant.count, variant.cycles, variant.min, variant.max), figures, "{}", variant.name);
                let expected = if variant.name == "of its own" {
                    ("", "")
                } else if produced {
                    ("", "first")
                } else {
                    ("not produced", "")
                };
                assert_eq!((how.as_str(), platform.as_str()), expected, "{}", variant.name);
            }
        }
    }

    #[test]
    fn a_variant_is_of_the_first_run_that_produced_it_or_says_what_is_lacking() {
        const NUMBER: u16 = ExitReason::EXCEPTION_OR_NMI.0;
        let run = |variants: &[&str], denied: &str| {
            let detail = "this processor lacks CET".to_owned();
            let denied = ScenarioRun {
                name: denied.into(),
                reason: NUMBER,
                verdict: DENIED.into(),
                detail,
                ..Default::default()
            };
            Account { scenarios: vec![denied], ..account(&[(ExitReason::EXCEPTION_OR_NMI, 8, variants)], None) }
        };
        let runs = [
            ("one".to_owned(), run(&["#UD"], "control-protection")),
            ("two".to_owned(), run(&["#UD", "NMI"], "invalid-tss")),
        ];
        let rows = vtx(&runs);
        let row = rows.iter().find(|row| row.number == NUMBER).unwrap();
        let variant = |name: &str| {
            let AtlasVariant { row, how, platform } =
                row.variants.iter().find(|variant| variant.row.name == name).unwrap();
            (row.count, platform.as_str(), how.as_str())
        };
        assert_eq!(variant("#UD"), (4, "one", ""));
        assert_eq!(variant("NMI"), (4, "two", "an NMI from another CPU"));
        assert_eq!(variant("#CP"), (0, "", "not produced: this processor lacks CET"));
        assert_eq!(variant("#BR"), (0, "", "not produced"));
        let gaps = gaps(&rows, &runs);
        assert!(gaps.iter().any(|gap| gap.ends_with(", #BR")) && !gaps.iter().any(|gap| gap.ends_with(", #CP")));
        assert_eq!(lacking(NUMBER, runs.iter().map(|(_, run)| run)), None);
    }

    #[test]
    fn the_runs_of_an_atlas_divide_it() {
        let on = Target::Bochs(model(Some(models::DEFAULT)).unwrap());
        let asked = Selection { workloads: vec!["atlas".to_owned()], cpus: 4, ..Selection::default() };
        let parts = parts(&asked, on, false).unwrap();
        let options: Vec<_> = parts.iter().map(|part| Options::parse(&part.options).unwrap()).collect();
        let cpus: Vec<_> = options.iter().map(|options| (options.cpus, options.processors())).collect();
        assert_eq!(cpus, [(4, 4), (1, 2), (1, 1)]);
        assert_eq!(options.iter().map(|options| options.keys).collect::<Vec<_>>(), [true; 3]);
        assert_eq!([1, 2].map(|at| options[at].selected(1).count()), [0, 0]);
        assert!(options[0].selected(4).count() > 30);
        let mut names: Vec<_> = [0, 1].iter().flat_map(|&at| options[at].scenarios()).map(|row| row.name).collect();
        names.sort_unstable();
        let mut all: Vec<_> =
            scenario::TABLE.iter().filter(|row| row.is_under(Extension::VtX)).map(|row| row.name).collect();
        all.sort_unstable();
        assert_eq!(names, all);
        assert_eq!(options[2].scenarios().map(|row| row.name).collect::<Vec<_>>(), [SMX_SCENARIO]);
        assert_eq!(super::parts(&asked, on, true).unwrap().len(), 2);
    }

    #[test]
    fn an_atlas_of_svm_has_its_codes_and_says_where_the_others_are() {
        let on = |kind: &str, rows: &[(ExitReason, u64, &[&str])]| {
            let mut run = account(rows, None);
            (run.platform.kind, run.platform.virtualization) = (kind.to_owned(), "SVM".to_owned());
            (kind.to_owned(), run)
        };
        let on_qemu = on("qemu-tcg", &[(ExitReason::EXCEPTION_OR_NMI, 8, &["#UD"]), (ExitReason::SVM_PUSHF, 4, &[])]);
        let on_bochs = on("bochs", &[(ExitReason::INVD, 3, &[]), (ExitReason::EXCEPTION_OR_NMI, 8, &["#BP"])]);
        let (alone, both) = ([on_qemu.clone()], [on_qemu, on_bochs]);
        let row = |runs: &[(String, Account)], reason: ExitReason| {
            rows(runs, Extension::Svm).into_iter().find(|row| row.number == reason.0)
        };
        let told = |runs: &[(String, Account)], reason| row(runs, reason).map(|row| (row.count, row.possible, row.how));
        assert_eq!(told(&alone, ExitReason::SVM_PUSHF), Some((4, true, "PUSHFQ".to_owned())));
        let elsewhere = Some((0, false, "needs Bochs' AMD models or silicon".to_owned()));
        assert_eq!(told(&alone, ExitReason::INVD), elsewhere);
        assert_eq!(told(&both, ExitReason::INVD), Some((3, true, "INVD".to_owned())));
        assert_eq!(told(&both, ExitReason::SVM_RSM), Some((0, true, "not produced".to_owned())));
        assert_eq!(told(&both[1..], ExitReason::SVM_RSM), Some((0, false, "needs QEMU".to_owned())));
        assert_eq!(told(&both, ExitReason::VMREAD), None, "SVM has no such exit");
        let variant = |runs: &[(String, Account)], name: &str| {
            let row = row(runs, ExitReason::EXCEPTION_OR_NMI).unwrap();
            row.variants.into_iter().find(|variant| variant.row.name == name).map(|variant| variant.how)
        };
        let lacking = Some("not produced: QEMU's emulation makes no exit of it".to_owned());
        assert_eq!((variant(&alone, "#BP"), variant(&alone, "#XM")), (lacking.clone(), lacking));
        assert_eq!((variant(&both, "#BP"), variant(&both, "#VE")), (Some(String::new()), None));
        assert!(gaps(&rows(&alone, Extension::Svm), &alone).iter().all(|gap| !gap.contains("#BP")));
    }

    #[test]
    fn the_runs_of_an_atlas_under_svm_leave_out_what_ends_bochs() {
        let asked = Selection { workloads: vec!["atlas".to_owned()], ..Selection::default() };
        let scenarios = |target| -> Vec<String> {
            let parts = parts(&asked, target, true).unwrap();
            parts.iter().map(|part| part.options.split(" scenarios=").nth(1).unwrap().to_owned()).collect()
        };
        let zambezi = scenarios(Target::Bochs(model(Some(SVM_MODEL)).unwrap()));
        assert!(zambezi[0].contains("pushf,") && !zambezi[0].contains(SHUTDOWN_SCENARIO), "{zambezi:?}");
        assert!(zambezi[1].starts_with("non-maskable-interrupt,init-signal "), "{zambezi:?}");
        let tcg = crate::emulator::PLATFORMS.iter().find(|row| row.engine == Engine::Tcg).unwrap();
        let tcg = scenarios(Target::Qemu(tcg));
        assert!(tcg[0].contains(SHUTDOWN_SCENARIO) && !tcg[0].contains("getsec"), "{tcg:?}");
    }
}
