//! An atlas from the accounts of several runs: every exit that an extension has, from the first run that produced it, or the reason
//! that no run did. The exits that can be had depend on the emulators' versions ([`tollgate_abi::emulated`]).

use tollgate_abi::emulated::{Emulated, Places, Release};
use tollgate_abi::exit_reason::{ExitReason, OWN_OF_SVM, ROWS, Status as ExitStatus, TABLE};
use tollgate_abi::judgement::Judgement;
use tollgate_abi::key::{self, VARIANTS};
use tollgate_abi::scenario::{self, Scenario};
use tollgate_abi::svm_exit;
use tollgate_abi::virtualization::Extension;

use super::{Account, AtlasRow, AtlasVariant, LogFacts, Reason, Verdict};
use crate::failure::Status;
use crate::log::{ScenarioRun, VariantRow};
use crate::needs;

/// A run that was performed.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its processor, and the number of processors if that is not one.
    pub place: String,
    /// Its account.
    pub account: Account,
    /// The program that executed it.
    pub executor: Executor,
}

/// The program that executed a run, on which the exits that can be produced depend. The version of an emulator may be unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executor {
    /// Bochs, of this version.
    Bochs(Option<Release>),
    /// QEMU's own emulation, of this version.
    Qemu(Option<Release>),
    /// A processor.
    Silicon,
}

impl Executor {
    /// Whether it is one of these versions of Bochs or QEMU.
    fn is_one_of(self, bochs: Emulated, qemu: Emulated) -> bool {
        match self {
            Executor::Bochs(version) => bochs.by(version),
            Executor::Qemu(version) => qemu.by(version),
            // Silicon may have any exit that some emulator has.
            Executor::Silicon => bochs != Emulated::Never || qemu != Emulated::Never,
        }
    }

    /// Whether the exits that can be produced are known, so that missing ones can be told.
    fn is_known(self) -> bool {
        matches!(self, Executor::Bochs(Some(_)) | Executor::Qemu(Some(_)))
    }
}

/// The account of the first of several runs, with the atlas of all, and with the first failure.
///
/// # Panics
/// There is no run.
pub fn joined(runs: &[Run], extension: Extension, keep_keys: bool, is_alone: bool) -> Account {
    let accounts = || runs.iter().map(|run| &run.account);
    let mut account = runs[0].account.clone();
    if let Some(failed) = accounts().find(|run| run.status != Status::Balanced) {
        account.status = failed.status;
        account.verdict.clone_from(&failed.verdict);
        account.remedy.clone_from(&failed.remedy);
        account.stop.clone_from(&failed.stop);
    }
    account.findings = accounts().flat_map(|run| run.findings.iter().cloned()).collect();
    account.scenarios = scenarios(runs);
    account.log = accounts().fold(LogFacts::default(), |sum, run| LogFacts {
        records: sum.records + run.log.records,
        noise: sum.noise + run.log.noise,
        damaged: sum.damaged + run.log.damaged,
    });
    // Keys were kept for the variants' sake.
    if !keep_keys {
        account.reasons.iter_mut().for_each(|reason| reason.keys.clear());
    }
    // A platform that refused the first run gives its reason once.
    if runs[0].account.status != Status::Platform {
        account.atlas = rows(runs, extension);
    }
    if account.status == Status::Balanced {
        account.findings = gaps(&account.atlas, runs, is_alone);
        if let Some(gap) = account.findings.first() {
            (account.status, account.verdict) = (Status::Differs, Verdict::Differs(gap.clone()));
        }
    }
    account
}

/// Each scenario of the run that had it, or the reason that no run had it.
fn scenarios(runs: &[Run]) -> Vec<ScenarioRun> {
    let all = || runs.iter().flat_map(|run| &run.account.scenarios);
    let of = |scenario: &Scenario| {
        let mut its = all().filter(|run| run.name == scenario.name);
        its.clone().find(|run| !run.verdict.is(Judgement::Denied)).or_else(|| its.next()).cloned()
    };
    scenario::TABLE.iter().filter_map(of).collect()
}

/// The exits that are missing although these emulators can produce them. A processor that lacks the feature is no excuse, unless
/// the machine had to stay alone or is silicon.
fn gaps(rows: &[AtlasRow], runs: &[Run], is_alone: bool) -> Vec<String> {
    let may_lack = is_alone || !runs.iter().all(|run| run.executor.is_known());
    let accounts = || runs.iter().map(|run| &run.account);
    let mut gaps = Vec::new();
    let mut check = |of: &AtlasRow, variant: &str, lacking: Option<String>| {
        if !(may_lack && lacking.is_some()) {
            let why = lacking.map_or_else(String::new, |lacking| format!(": {lacking}"));
            gaps.push(format!("no run of the atlas produced reason {} {}{variant}{why}", of.number, of.name));
        }
    };
    for row in rows.iter().filter(|row| row.possible) {
        if row.figures.count == 0 {
            check(row, "", lacking(row.number, accounts()));
        }
        for variant in row
            .variants
            .iter()
            .filter(|variant| row.figures.count > 0 && variant.possible && variant.row.figures.count == 0)
        {
            let name = &variant.row.name;
            check(row, &format!(", {name}"), denied(row.number, Some(name), accounts()));
        }
    }
    gaps
}

/// The features that the processors of these runs lack for a reason, if that is why they did not produce it. A scenario that was
/// denied tells them, or the reason's controls do.
pub fn lacking<'a>(number: u16, accounts: impl Iterator<Item = &'a Account> + Clone) -> Option<String> {
    if let Some(detail) = denied(number, None, accounts.clone()) {
        return Some(detail);
    }
    let is_svm = accounts.clone().any(|account| account.platform.virtualization == Extension::Svm.name());
    let mut statuses = accounts.flat_map(|account| &account.reasons).filter(|reason| reason.number == number);
    let known = statuses.clone().next().is_some();
    let is_lacking = known && statuses.all(|reason| reason.status.is(ExitStatus::NotEnabled));
    if is_svm {
        return is_lacking.then(|| "this processor lacks the intercept or the instruction".to_owned());
    }
    let row = ExitReason(number).row().filter(|_| is_lacking)?;
    Some(format!("this processor lacks {}", needs::enabled_by(row.enabled_by)))
}

/// The features that the processors of these runs lack for the scenario about a reason, or about one variant of it. `None` if
/// there is no such scenario, or it was not denied.
pub fn denied<'a>(number: u16, variant: Option<&str>, accounts: impl Iterator<Item = &'a Account>) -> Option<String> {
    let about = |run: &&ScenarioRun| {
        run.reason == number && Scenario::by_name(&run.name).and_then(|scenario| scenario.variant) == variant
    };
    let denied =
        accounts.flat_map(|account| &account.scenarios).filter(about).filter(|run| run.verdict.is(Judgement::Denied));
    denied.last().map(|run| run.detail.clone())
}

/// An exit that an atlas is to have.
struct Wanted {
    reason: ExitReason,
    provoked_by: &'static str,
    places: Places,
    extension: Extension,
}

/// Every exit that an extension has: the SDM's reasons, or, under SVM, those that have a code and SVM's own.
fn wanted(extension: Extension) -> Vec<Wanted> {
    let all = TABLE.iter().map(|row| (row.reason, row.notes().provoked_by, row.notes().places));
    match extension {
        Extension::VtX => {
            all.map(|(reason, provoked_by, places)| Wanted { reason, provoked_by, places, extension }).collect()
        }
        Extension::Svm => {
            let own = (OWN_OF_SVM..ROWS as u16).map(ExitReason);
            let own = own.filter_map(|reason| Some((reason, reason.own_of_svm()?.provoked_by)));
            let all = all.map(|(reason, provoked_by, _)| (reason, provoked_by)).chain(own);
            let with_code = |(reason, provoked_by)| {
                svm_exit::places(reason).map(|places| Wanted { reason, provoked_by, places, extension })
            };
            all.filter_map(with_code).collect()
        }
    }
}

impl Wanted {
    /// Whether one of these runs was on a platform that can produce it.
    fn is_possible(&self, runs: &[Run]) -> bool {
        runs.iter().any(|run| run.executor.is_one_of(self.places.bochs, self.places.qemu))
    }

    /// The exit's variants under the extension.
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
pub fn about(reason: ExitReason, variant: &str) -> Option<&'static Scenario> {
    scenario::TABLE.iter().find(|scenario| (scenario.reason, scenario.variant) == (reason, Some(variant)))
}

/// Whether one of these runs was on a platform that can produce a variant.
fn is_variant_possible(reason: ExitReason, name: &str, runs: &[Run]) -> bool {
    let (bochs, qemu) = key::emulated(reason, name);
    runs.iter().any(|run| run.executor.is_one_of(bochs, qemu))
}

/// The reason that no run produced a variant: its scenario was denied, or none of the emulators makes an exit of it.
fn lacking_variant(reason: ExitReason, name: &str, runs: &[Run]) -> Option<String> {
    denied(reason.0, Some(name), runs.iter().map(|run| &run.account)).or_else(|| {
        let why = || "this emulator, in this version, makes no exit of it".to_owned();
        (!is_variant_possible(reason, name, runs)).then(why)
    })
}

/// One row for each exit that the extension has, from the first run that produced it.
fn rows(runs: &[Run], extension: Extension) -> Vec<AtlasRow> {
    wanted(extension).iter().map(|row| atlas_row(row, runs)).collect()
}

fn atlas_row(row: &Wanted, runs: &[Run]) -> AtlasRow {
    let number = row.reason.0;
    let seen = runs.iter().find_map(|Run { place, account, .. }| {
        let reason = account.reasons.iter().find(|reason| reason.number == number && reason.exits.figures.count > 0)?;
        Some((place.as_str(), reason))
    });
    let nothing = Reason::default();
    let (platform, reason) = seen.unwrap_or(("", &nothing));
    let possible = row.is_possible(runs) || reason.exits.figures.count > 0;
    AtlasRow {
        number,
        name: row.reason.name().to_owned(),
        figures: reason.exits.figures,
        audit_count: reason.audit_count,
        how: if reason.exits.figures.count > 0 { provoked_by(row, reason) } else { why_not(row, possible, runs) },
        platform: platform.to_owned(),
        possible,
        variants: variants(row, reason, runs),
    }
}

/// Every variant that an atlas is to have, each from the first run that produced it, and further variants in the reason's run.
fn variants(row: &Wanted, reason: &Reason, runs: &[Run]) -> Vec<AtlasVariant> {
    let more = reason.variants.iter().filter(|variant| row.variants().all(|name| name != variant.name));
    let more = more.map(|variant| AtlasVariant { row: variant.clone(), possible: true, ..AtlasVariant::default() });
    row.variants().map(|name| atlas_variant(row.reason, name, runs)).chain(more).collect()
}

fn atlas_variant(reason: ExitReason, name: &str, runs: &[Run]) -> AtlasVariant {
    let seen = runs.iter().find_map(|Run { place, account, .. }| {
        let of_reason = account.reasons.iter().filter(|row| row.number == reason.0);
        let variant = of_reason.flat_map(|row| &row.variants).find(|variant| variant.name == name)?;
        Some((place, variant)).filter(|(_, variant)| variant.figures.count > 0)
    });
    if let Some((place, variant)) = seen {
        let how = about(reason, name).map_or("", |scenario| scenario.about);
        return AtlasVariant { row: variant.clone(), how: how.to_owned(), platform: place.clone(), possible: true };
    }
    let lacking = lacking_variant(reason, name, runs);
    let row = VariantRow { name: name.into(), ..VariantRow::default() };
    let possible = is_variant_possible(reason, name, runs);
    AtlasVariant { row, how: not_produced(lacking), platform: String::new(), possible }
}

/// The way in which the reason was provoked. A scenario tells it more exactly than the table, if the guest itself did not provoke
/// the reason.
fn provoked_by(row: &Wanted, reason: &Reason) -> String {
    let by_scenario_alone = reason.guest_count.unwrap_or(0) == 0;
    let is_it = |scenario: &&Scenario| {
        scenario.reasons().any(|reason| reason == row.reason) && scenario.is_under(row.extension)
    };
    let scenario = scenario::TABLE.iter().find(is_it).filter(|_| by_scenario_alone);
    scenario.map_or(row.provoked_by, |scenario| scenario.about).to_owned()
}

fn why_not(row: &Wanted, possible: bool, runs: &[Run]) -> String {
    if !possible {
        return format!("needs {}", row.places);
    }
    not_produced(lacking(row.reason.0, runs.iter().map(|run| &run.account)))
}

fn not_produced(lacking: Option<String>) -> String {
    lacking.map_or_else(|| "not produced".to_owned(), |lacking| format!("not produced: {lacking}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Judged, LogReader};
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

    /// A run on the only emulator of a test.
    fn run(place: &str, account: Account) -> Run {
        run_of(Executor::Bochs(Some((2, 7))), place, account)
    }

    fn run_of(executor: Executor, place: &str, account: Account) -> Run {
        Run { place: place.to_owned(), account, executor }
    }

    fn vtx(runs: &[Run]) -> Vec<AtlasRow> {
        rows(runs, Extension::VtX)
    }

    #[test]
    fn a_row_is_of_the_first_run_that_produced_it() {
        let first = account(&[(ExitReason::CPUID, 5, &[])], Some(ExitReason::GETSEC));
        let second = account(&[(ExitReason::CPUID, 9, &[]), (ExitReason::GETSEC, 4, &[])], None);
        let rows = vtx(&[run("first", first.clone()), run("second", second)]);
        let row = |reason: ExitReason| rows.iter().find(|row| row.number == reason.0).unwrap();
        assert_eq!((row(ExitReason::CPUID).figures.count, row(ExitReason::CPUID).platform.as_str()), (5, "first"));
        assert_eq!((row(ExitReason::GETSEC).figures.count, row(ExitReason::GETSEC).platform.as_str()), (4, "second"));
        assert_eq!((row(ExitReason::HLT).figures.count, row(ExitReason::HLT).how.as_str()), (0, "not produced"));
        let alone = vtx(&[run("first", first)]);
        let getsec = alone.iter().find(|row| row.number == ExitReason::GETSEC.0).unwrap();
        assert_eq!((getsec.figures.count, getsec.how.as_str()), (0, "not produced: this processor lacks SMX"));
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
        let joined = |change: &dyn Fn(&mut Produced)| {
            let mut rows = produced.clone();
            rows.iter_mut().for_each(change);
            let rows: Vec<_> = rows.iter().map(|(reason, count, names)| (*reason, *count, &names[..])).collect();
            let mut first = account(&rows, None);
            (first.status, first.findings) = (Status::Balanced, Vec::new());
            joined(&[run("first", first)], Extension::VtX, true, false)
        };
        let whole = joined(&|_| {});
        assert_eq!((whole.status, whole.findings), (Status::Balanced, Vec::new()));
        let without_hlt = joined(&|row| row.1 *= u64::from(row.0 != ExitReason::HLT));
        assert_eq!(without_hlt.verdict.to_string(), "differs: no run of the atlas produced reason 12 HLT");
        assert_eq!(without_hlt.status, Status::Differs);
        let without_cr3 = joined(&|row| row.2.retain(|name| *name != "CR3 read"));
        assert_eq!(
            without_cr3.findings,
            ["no run of the atlas produced reason 28 Control-register accesses, CR3 read"]
        );
    }

    #[test]
    fn scenarios_are_those_that_ran_somewhere() {
        let ran = |verdict: Judgement| ScenarioRun {
            name: "getsec".into(),
            verdict: Judged::Known(verdict),
            ..Default::default()
        };
        let run = |verdicts: &[Judgement]| {
            let scenarios = verdicts.iter().map(|&verdict| ran(verdict)).collect();
            run("", Account { scenarios, ..account(&[], None) })
        };
        let verdicts = |runs: &[Run]| scenarios(runs).into_iter().map(|run| run.verdict).collect::<Vec<_>>();
        let (denied, balanced) = (Judgement::Denied, Judgement::Balanced);
        assert_eq!(verdicts(&[run(&[denied]), run(&[balanced])]), [Judged::Known(balanced)]);
        assert_eq!(verdicts(&[run(&[denied]), run(&[])]), [Judged::Known(denied)]);
        assert_eq!(verdicts(&[run(&[])]), []);
    }

    #[test]
    fn every_variant_has_a_row_produced_or_not() {
        let names: &[&str] = &["of its own", "CR3 read", "CR0 write"];
        let rows = [(ExitReason::CR_ACCESS, 10, names), (ExitReason::CPUID, 5, &[])];
        let rows = vtx(&[run("first", account(&rows, None))]);
        for row in &rows {
            let wanted =
                VARIANTS.iter().filter(|(of, name)| of.0 == row.number && *name != "#SX").map(|&(_, name)| name);
            let expected: Vec<&str> =
                wanted.chain((row.number == ExitReason::CR_ACCESS.0).then_some("of its own")).collect();
            assert_eq!(row.variants.iter().map(|variant| variant.row.name.as_str()).collect::<Vec<_>>(), expected);
            for AtlasVariant { row: variant, how, platform, .. } in &row.variants {
                let produced = row.number == ExitReason::CR_ACCESS.0 && names.contains(&variant.name.as_str());
                let figures = if produced { (5, 350, 70, 70) } else { (0, 0, 0, 0) };
                assert_eq!(
                    (variant.figures.count, variant.figures.cycles, variant.figures.min, variant.figures.max),
                    figures,
                    "{}",
                    variant.name
                );
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
        let run = |place: &str, variants: &[&str], denied: &str| {
            let detail = "this processor lacks CET".to_owned();
            let denied = ScenarioRun {
                name: denied.into(),
                reason: NUMBER,
                verdict: Judged::Known(Judgement::Denied),
                detail,
                ..Default::default()
            };
            let rows = account(&[(ExitReason::EXCEPTION_OR_NMI, 8, variants)], None);
            run(place, Account { scenarios: vec![denied], ..rows })
        };
        let runs = [run("one", &["#UD"], "control-protection"), run("two", &["#UD", "NMI"], "invalid-tss")];
        let rows = vtx(&runs);
        let row = rows.iter().find(|row| row.number == NUMBER).unwrap();
        let variant = |name: &str| {
            let AtlasVariant { row, how, platform, .. } =
                row.variants.iter().find(|variant| variant.row.name == name).unwrap();
            (row.figures.count, platform.as_str(), how.as_str())
        };
        assert_eq!(variant("#UD"), (4, "one", ""));
        assert_eq!(variant("NMI"), (4, "two", "an NMI from another CPU"));
        assert_eq!(variant("#CP"), (0, "", "not produced: this processor lacks CET"));
        assert_eq!(variant("#BR"), (0, "", "not produced"));
        let found = |is_alone| gaps(&rows, &runs, is_alone);
        assert!(found(true).iter().any(|gap| gap.ends_with(", #BR")), "nothing says that it is lacking");
        assert!(!found(true).iter().any(|gap| gap.contains(", #CP")), "the machine has to stay alone");
        assert!(found(false).iter().any(|gap| gap.ends_with(", #CP: this processor lacks CET")), "another has it");
        assert_eq!(lacking(NUMBER, runs.iter().map(|run| &run.account)), None);
    }

    #[test]
    fn an_atlas_of_svm_has_its_codes_and_says_where_the_others_are() {
        let on = |executor, rows: &[(ExitReason, u64, &[&str])]| {
            let mut account = account(rows, None);
            "SVM".clone_into(&mut account.platform.virtualization);
            run_of(executor, "one", account)
        };
        let on_qemu = on(
            Executor::Qemu(Some((7, 2))),
            &[(ExitReason::EXCEPTION_OR_NMI, 8, &["#UD"]), (ExitReason::SVM_PUSHF, 4, &[])],
        );
        let on_bochs = on(
            Executor::Bochs(Some((2, 7))),
            &[(ExitReason::INVD, 3, &[]), (ExitReason::EXCEPTION_OR_NMI, 8, &["#BP"])],
        );
        let (alone, both) = ([on_qemu.clone()], [on_qemu, on_bochs]);
        let row = |runs: &[Run], reason: ExitReason| {
            rows(runs, Extension::Svm).into_iter().find(|row| row.number == reason.0)
        };
        let told = |runs: &[Run], reason| row(runs, reason).map(|row| (row.figures.count, row.possible, row.how));
        assert_eq!(told(&alone, ExitReason::SVM_PUSHF), Some((4, true, "PUSHFQ".to_owned())));
        let elsewhere = Some((0, false, "needs Bochs' AMD models, QEMU or silicon (QEMU from 9.1 on)".to_owned()));
        assert_eq!(told(&alone, ExitReason::INVD), elsewhere);
        assert_eq!(told(&both, ExitReason::INVD), Some((3, true, "INVD".to_owned())));
        assert_eq!(told(&both, ExitReason::SVM_RSM), Some((0, true, "not produced".to_owned())));
        assert_eq!(told(&both[1..], ExitReason::SVM_RSM), Some((0, false, "needs QEMU".to_owned())));
        assert_eq!(told(&both, ExitReason::VMREAD), None, "SVM has no such exit");
        let variant = |runs: &[Run], name: &str| {
            let row = row(runs, ExitReason::EXCEPTION_OR_NMI).unwrap();
            row.variants.into_iter().find(|variant| variant.row.name == name).map(|variant| variant.how)
        };
        let lacking = Some("not produced: this emulator, in this version, makes no exit of it".to_owned());
        assert_eq!((variant(&alone, "#BP"), variant(&alone, "#XM")), (lacking.clone(), lacking));
        assert_eq!((variant(&both, "#BP"), variant(&both, "#VE")), (Some(String::new()), None));
        assert!(gaps(&rows(&alone, Extension::Svm), &alone, false).iter().all(|gap| !gap.contains("#BP")));
    }

    /// The exits that each version can produce, and the missing ones if none was produced.
    #[test]
    fn what_can_be_produced_goes_by_the_emulators_version() {
        let possible = |executor: fn(Option<Release>) -> Executor, extension: Extension, version: Release| {
            let runs = [run_of(executor(Some(version)), "one", account(&[], None))];
            let rows = rows(&runs, extension);
            assert_eq!(gaps(&rows, &runs, false).len(), rows.iter().filter(|row| row.possible).count());
            rows.iter().filter(|row| row.possible).count()
        };
        assert_eq!(
            [(2, 7), (3, 0), (3, 1)].map(|version| possible(Executor::Bochs, Extension::VtX, version)),
            [58, 60, 65]
        );
        assert_eq!(
            [(2, 7), (3, 0), (3, 1)].map(|version| possible(Executor::Bochs, Extension::Svm, version)),
            [41, 42, 43]
        );
        assert_eq!([(7, 2), (10, 0)].map(|version| possible(Executor::Qemu, Extension::Svm, version)), [37, 38]);
        let variant = |version| {
            let runs = [run_of(Executor::Bochs(Some(version)), "zambezi", account(&[], None))];
            is_variant_possible(ExitReason::EXCEPTION_OR_NMI, "#SX", &runs)
        };
        assert_eq!((variant((2, 7)), variant((3, 0))), (false, true));
    }
}
