//! The atlas: every exit reason of the SDM, produced by one of several runs, or why not.
//!
//! One run can't have it all. With a second processor Bochs' time-stamp counter moves in steps of 5, so what needs no other
//! runs without; and the processor with the most has no SMX.

use tollgate_abi::command_line::Options;
use tollgate_abi::exit_reason::{ExitReason, Row, Status as ExitStatus, TABLE};
use tollgate_abi::key::VARIANTS;
use tollgate_abi::scenario::{self, Scenario};

use super::run::{Place, model, run_image};
use super::tables::enabled_by;
use crate::account::{Account, AtlasRow, AtlasVariant, LogFacts, Reason};
use crate::cli::RunArguments;
use crate::emulator::models::Model;
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
    pub(super) model: &'static Model,
    /// The folder of its files within those of the atlas; the first run's are not in one.
    pub(super) folder: Option<&'static str>,
}

/// Where the scenarios that need another CPU are run.
const OTHER_CPU_FOLDER: &str = "two-cpus";
/// The model for what the default one lacks, and the scenario that is about it.
const SMX_MODEL: &str = "corei5_arrandale_m520";
const SMX_SCENARIO: &str = "getsec";

/// The runs of an atlas: `selection`, the scenarios that need another CPU, and, unless the model has to stay alone, what
/// it lacks on another.
///
/// # Errors
/// The selection is none.
pub(super) fn parts(selection: &Selection, on: &'static Model, alone: bool) -> Result<Vec<Part>, Failure> {
    // Variants are kept with keys.
    let first = Selection { atlas_on_one_cpu: true, keys: true, ..selection.clone() };
    let scenarios = |names: Vec<&str>| {
        let workloads = names.into_iter().map(str::to_owned).collect();
        Selection { workloads, cpus: 1, without_missing_cpus: false, ..first.clone() }.options()
    };
    let other_cpu = scenario::TABLE.iter().filter(|scenario| scenario.needs_other_cpu()).map(|scenario| scenario.name);
    let mut parts = vec![
        Part { what: "workloads and scenarios".to_owned(), options: first.options()?, model: on, folder: None },
        Part {
            what: "scenarios that need another CPU".to_owned(),
            options: scenarios(other_cpu.collect())?,
            model: on,
            folder: Some(OTHER_CPU_FOLDER),
        },
    ];
    if !alone {
        parts.push(Part {
            what: format!("{SMX_SCENARIO} on {SMX_MODEL}"),
            options: scenarios(vec![SMX_SCENARIO])?,
            model: model(Some(SMX_MODEL))?,
            folder: Some(SMX_MODEL),
        });
    }
    Ok(parts)
}

/// Performs the runs: the first one's account, with the rows of all, and the verdict of the first that failed.
pub(super) fn run(
    arguments: &RunArguments,
    selection: &Selection,
    on: &'static Model,
    place: &Place,
) -> Result<(String, Account), Failure> {
    let arguments = &RunArguments { audit: true, ..arguments.clone() };
    let parts = parts(selection, on, arguments.cpu.is_some())?;
    let mut title = String::new();
    let mut runs = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        let which = format!("run {} of {}: {}", at + 1, parts.len(), part.what);
        let directory = part.folder.map_or_else(|| place.path().to_owned(), |folder| place.path().join(folder));
        output_file::create_directory(&directory)?;
        let outcome = run_image(arguments, &part.options, part.model, &directory);
        let (name, mut account) = match outcome {
            Ok(account) => account,
            Err(failure) if runs.is_empty() || failure.status == Status::Usage => return Err(failure.during(&which)),
            // What the others found is shown all the same.
            Err(failure) => {
                let mut account = joined(&runs, selection.keys);
                (account.status, account.verdict) = (failure.status, failure.during(&which).to_string());
                return Ok((title, account));
            }
        };
        if part.folder.is_some() {
            place.keep(part.folder, &account)?;
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
    Ok((title, joined(&runs, selection.keys)))
}

/// A run's processor, and how many where that is not one.
fn place_name(arguments: &RunArguments, part: &Part) -> String {
    let needed = Options::parse(&part.options).unwrap_or_default().processors();
    match arguments.machine_cpus.unwrap_or(needed) {
        1 => part.model.name.to_owned(),
        several => format!("{}, {several} CPUs", part.model.name),
    }
}

/// The account of the first of several runs, at least one, with the atlas of all, and with what failed first.
fn joined(runs: &[(String, Account)], keep_keys: bool) -> Account {
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
        account.atlas = rows(runs);
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
            if row.count > 0 && *count == 0 && denied(row.number, Some(name), accounts()).is_none() {
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
    let mut statuses = accounts.flat_map(|account| &account.reasons).filter(|reason| reason.number == number);
    let known = statuses.clone().next().is_some();
    let is_lacking = known && statuses.all(|reason| reason.status == ExitStatus::NotEnabled.as_str());
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

/// One row for each reason of the table, from the first run that produced it.
fn rows(runs: &[(String, Account)]) -> Vec<AtlasRow> {
    TABLE.iter().map(|row| atlas_row(row, runs)).collect()
}

fn atlas_row(row: &Row, runs: &[(String, Account)]) -> AtlasRow {
    let number = row.reason.0;
    let seen = runs.iter().find_map(|(place, account)| {
        let reason = account.reasons.iter().find(|reason| reason.number == number && reason.count > 0)?;
        Some((place.as_str(), reason))
    });
    let nothing = Reason::default();
    let (platform, reason) = seen.unwrap_or(("", &nothing));
    // Bochs emulates what the table does not keep for silicon.
    let possible = !row.notes().platforms.starts_with("silicon");
    AtlasRow {
        number,
        name: row.name.to_owned(),
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
fn variants(row: &Row, reason: &Reason, runs: &[(String, Account)]) -> Vec<AtlasVariant> {
    let wanted = || VARIANTS.iter().filter(|(of, _)| *of == row.reason).map(|&(_, name)| name);
    let more = reason.variants.iter().filter(|variant| wanted().all(|name| name != variant.name));
    let more = more.map(|variant| AtlasVariant { row: variant.clone(), ..AtlasVariant::default() });
    wanted().map(|name| atlas_variant(row, name, runs)).chain(more).collect()
}

fn atlas_variant(row: &Row, name: &str, runs: &[(String, Account)]) -> AtlasVariant {
    let seen = runs.iter().find_map(|(place, account)| {
        let of_reason = account.reasons.iter().filter(|reason| reason.number == row.reason.0);
        let variant = of_reason.flat_map(|reason| &reason.variants).find(|variant| variant.name == name)?;
        Some((place, variant)).filter(|(_, variant)| variant.count > 0)
    });
    if let Some((place, variant)) = seen {
        let about = |scenario: &&Scenario| (scenario.reason, scenario.variant) == (row.reason, Some(name));
        let how = scenario::TABLE.iter().find(about).map_or("", |scenario| scenario.about);
        return AtlasVariant { row: variant.clone(), how: how.to_owned(), platform: place.clone() };
    }
    let lacking = denied(row.reason.0, Some(name), runs.iter().map(|(_, account)| account));
    let row = VariantRow { name: name.to_owned(), ..VariantRow::default() };
    AtlasVariant { row, how: not_produced(lacking), platform: String::new() }
}

/// A scenario tells it more exactly than the table, where the guest itself did not provoke the reason.
fn provoked_by(row: &Row, reason: &Reason) -> String {
    let by_scenario_alone = reason.guest_count.unwrap_or(0) == 0;
    let scenario = scenario::TABLE.iter().find(|scenario| scenario.reason == row.reason && by_scenario_alone);
    scenario.map_or(row.notes().provoked_by, |scenario| scenario.about).to_owned()
}

fn why_not(row: &Row, possible: bool, runs: &[(String, Account)]) -> String {
    if !possible {
        return format!("needs {}", row.notes().platforms);
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
            record.text("detail", "this processor lacks Smx").finish().unwrap();
        }
        Account::new(&LogReader::read(log.as_bytes()).unwrap(), None, None)
    }

    #[test]
    fn a_row_is_of_the_first_run_that_produced_it() {
        let first = account(&[(ExitReason::CPUID, 5, &[])], Some(ExitReason::GETSEC));
        let second = account(&[(ExitReason::CPUID, 9, &[]), (ExitReason::GETSEC, 4, &[])], None);
        let rows = rows(&[("first".to_owned(), first.clone()), ("second".to_owned(), second)]);
        let row = |reason: ExitReason| rows.iter().find(|row| row.number == reason.0).unwrap();
        assert_eq!((row(ExitReason::CPUID).count, row(ExitReason::CPUID).platform.as_str()), (5, "first"));
        assert_eq!((row(ExitReason::GETSEC).count, row(ExitReason::GETSEC).platform.as_str()), (4, "second"));
        assert_eq!((row(ExitReason::HLT).count, row(ExitReason::HLT).how.as_str()), (0, "not produced"));
        let alone = super::rows(&[("first".to_owned(), first)]);
        let getsec = alone.iter().find(|row| row.number == ExitReason::GETSEC.0).unwrap();
        assert_eq!((getsec.count, getsec.how.as_str()), (0, "not produced: this processor lacks Smx"));
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
            joined(&[("first".to_owned(), first)], true)
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
        let rows = rows(&[("first".to_owned(), run)]);
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
            let detail = "this processor lacks Cet".to_owned();
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
        let rows = rows(&runs);
        let row = rows.iter().find(|row| row.number == NUMBER).unwrap();
        let variant = |name: &str| {
            let AtlasVariant { row, how, platform } =
                row.variants.iter().find(|variant| variant.row.name == name).unwrap();
            (row.count, platform.as_str(), how.as_str())
        };
        assert_eq!(variant("#UD"), (4, "one", ""));
        assert_eq!(variant("NMI"), (4, "two", "an NMI from another CPU"));
        assert_eq!(variant("#CP"), (0, "", "not produced: this processor lacks Cet"));
        assert_eq!(variant("#BR"), (0, "", "not produced"));
        let gaps = gaps(&rows, &runs);
        assert!(gaps.iter().any(|gap| gap.ends_with(", #BR")) && !gaps.iter().any(|gap| gap.ends_with(", #CP")));
        assert_eq!(lacking(NUMBER, runs.iter().map(|(_, run)| run)), None);
    }

    #[test]
    fn the_runs_of_an_atlas_divide_it() {
        let on = model(Some(models::DEFAULT)).unwrap();
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
        let mut all: Vec<_> = scenario::TABLE.iter().map(|row| row.name).collect();
        all.sort_unstable();
        assert_eq!(names, all);
        assert_eq!(options[2].scenarios().map(|row| row.name).collect::<Vec<_>>(), [SMX_SCENARIO]);
        assert_eq!(super::parts(&asked, on, true).unwrap().len(), 2);
    }
}
