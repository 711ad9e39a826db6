//! The runs of an atlas, which together produce every exit that the extension of the machine has.
//! [`tollgate_books::account::atlas`] makes one account of them.
//!
//! One run can't have all exits. With a second processor Bochs' time-stamp counter moves in steps of 5, so that only scenarios
//! that need one run with it. No processor model has all of VT-x; and of SVM, QEMU's own emulation and Bochs each lack features
//! that the other has. The exits that can be had depend on the emulators' versions, too ([`tollgate_abi::emulated`]).

use tollgate_abi::command_line::Options;
use tollgate_abi::emulated::Release;
use tollgate_abi::exit_reason::ExitReason;
use tollgate_abi::scenario::{self, Scenario};
use tollgate_abi::virtualization::Extension;
use tollgate_books::account::atlas::{Executor, Run, joined};
use tollgate_books::account::{Account, Verdict};
use tollgate_books::failure::{Failure, Status};
use tollgate_books::output_file;

use super::boot::model;
use super::one_image::run_image;
use super::place::Place;
use crate::cli::RunArguments;
use crate::emulator::{Engine, Target, bochs, release};
use crate::selection::Selection;

/// One run of an atlas.
pub(super) struct Part {
    /// Its subject, for people.
    pub(super) what: String,
    /// The image's options.
    pub(super) options: String,
    /// The machine that it runs on.
    pub(super) target: Target,
    /// The folder of its files within those of the atlas; `None` for the first run.
    pub(super) folder: Option<String>,
}

/// The folder of the run with the scenarios that need another CPU.
const OTHER_CPU_FOLDER: &str = "two-cpus";
/// Models with features that the usual models lack, and the scenarios and workloads about these features. Each of those runs on
/// the first model that the installed Bochs has.
const ELSEWHERE: [(Extension, &str, &[&str]); 4] = [
    (Extension::VtX, "corei5_arrandale_m520", &["getsec"]),
    (
        Extension::VtX,
        "wildcat_lake+user_msr",
        &["umwait", "tpause", "rdmsrlist", "wrmsrlist", "wrmsrns", "urdmsr", "uwrmsr"],
    ),
    (Extension::VtX, "sapphire_rapids", &["umwait", "tpause"]),
    (Extension::Svm, "ryzen+invpcid", &["hidden-instructions"]),
];
/// The model with features that QEMU's SVM lacks.
const SVM_MODEL: &str = "zambezi";

/// The runs of an atlas: `selection`, the scenarios that need another CPU, and, unless the machine has to stay `alone`, the
/// scenarios and workloads about features that it lacks, on other machines.
///
/// # Errors
/// The selection can't be run.
pub(super) fn parts(selection: &Selection, on: Target, alone: bool) -> Result<Vec<Part>, Failure> {
    let mut parts = parts_on(selection, on, None)?;
    if alone {
        return Ok(parts);
    }
    let has_bochs = match on.engine() {
        Engine::Bochs => true,
        Engine::Tcg if bochs::find().is_ok() => {
            parts.extend(parts_on(selection, Target::bochs(model(Some(SVM_MODEL))?), Some(SVM_MODEL))?);
            true
        }
        Engine::Tcg | Engine::Kvm => false,
    };
    if has_bochs {
        parts.extend(parts_elsewhere(selection, on.extension(), release(Engine::Bochs))?);
    }
    Ok(parts)
}

/// The runs on other models of this Bochs, about features that the usual models lack.
fn parts_elsewhere(
    selection: &Selection,
    extension: Extension,
    version: Option<Release>,
) -> Result<Vec<Part>, Failure> {
    let (mut parts, mut done) = (Vec::new(), Vec::new());
    for (of, name, about) in ELSEWHERE {
        let model = model(Some(name))?;
        let about: Vec<&str> = about.iter().copied().filter(|name| !done.contains(name)).collect();
        if of != extension || !model.versions.by(version) || about.is_empty() {
            continue;
        }
        parts.push(Part {
            what: format!("{} on {name}", about.join(", ")),
            options: alone(selection, about.clone())?,
            target: Target::bochs(model),
            folder: Some(name.to_owned()),
        });
        done.extend(about);
    }
    Ok(parts)
}

/// The runs on one machine, with this folder.
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
            options: alone(selection, names(with_other))?,
            target,
            folder: Some(inner),
        },
    ])
}

/// The reason that a scenario can't be run on a target that could not tell the reason itself.
pub(super) fn ends_the_emulator(scenario: &Scenario, target: Target) -> Option<&'static str> {
    let is_it = target.engine() == Engine::Bochs && scenario.reason == ExitReason::SVM_SHUTDOWN;
    let survives =
        || ExitReason::SVM_SHUTDOWN.own_of_svm().is_some_and(|own| own.places.bochs.by(release(Engine::Bochs)));
    (is_it && !survives()).then_some("Bochs before 3.0 ends itself at a triple fault, before it looks for SVM's exit")
}

/// The selection with keys kept, since variants come with keys.
fn kept(selection: &Selection) -> Selection {
    Selection { run: Options { keys: true, ..selection.run }, ..selection.clone() }
}

/// The options for these scenarios and workloads alone.
fn alone(selection: &Selection, names: Vec<&str>) -> Result<String, Failure> {
    let workloads = names.into_iter().map(str::to_owned).collect();
    let kept = kept(selection);
    let run = Options { cpus: 1, without_missing_cpus: false, ..kept.run };
    Selection { workloads, run, ..kept }.options()
}

/// Performs the runs. The result is the first one's account, with the atlas rows of all, and the verdict of the first run that
/// failed.
pub(super) fn run(
    arguments: &RunArguments,
    selection: &Selection,
    on: Target,
    place: &Place,
) -> Result<(String, Account), Failure> {
    let arguments = &RunArguments { audit: true, ..arguments.clone() };
    let is_alone = arguments.cpu.is_some();
    let parts = parts(selection, on, is_alone)?;
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
            // The results of the other runs are shown all the same.
            Err(failure) => {
                let mut account = joined(&runs, on.extension(), selection.run.keys, is_alone);
                (account.status, account.verdict) = (failure.status, Verdict::Ended(failure.during(&which)));
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
            account.verdict = Verdict::Of(Box::new(account.verdict), which);
        }
        let status = account.status;
        runs.push(Run { place: place_name(arguments, part), account, executor: executor(part.target.engine()) });
        // If books differ, the other runs go on; a platform that can't run one won't run the next.
        if !matches!(status, Status::Balanced | Status::Differs) {
            break;
        }
    }
    Ok((title, joined(&runs, on.extension(), selection.run.keys, is_alone)))
}

/// The program that executes the runs of an engine, in its version here.
fn executor(engine: Engine) -> Executor {
    match engine {
        Engine::Bochs => Executor::Bochs(release(engine)),
        Engine::Tcg => Executor::Qemu(release(engine)),
        Engine::Kvm => Executor::Silicon,
    }
}

/// A run's processor, and the number of processors if that is not one.
fn place_name(arguments: &RunArguments, part: &Part) -> String {
    let needed = Options::parse(&part.options).unwrap_or_default().processors();
    match arguments.machine_cpus.unwrap_or(needed) {
        1 => part.target.name().to_owned(),
        several => format!("{}, {several} CPUs", part.target.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::models;

    #[test]
    fn the_runs_of_an_atlas_divide_it() {
        let on = Target::bochs(model(Some(models::DEFAULT)).unwrap());
        let run = Options { cpus: 4, ..Options::default() };
        let asked = Selection { workloads: vec!["atlas".to_owned()], run, ..Selection::default() };
        let parts = parts(&asked, on, false).unwrap();
        let options: Vec<_> = parts.iter().map(|part| Options::parse(&part.options).unwrap()).collect();
        let cpus: Vec<_> = options.iter().map(|options| (options.cpus, options.processors())).collect();
        assert_eq!(cpus[..3], [(4, 4), (1, 2), (1, 1)]);
        assert!(options.iter().all(|options| options.keys));
        assert_eq!([1, 2].map(|at| options[at].selected(1).count()), [0, 0]);
        assert!(options[0].selected(4).count() > 30);
        let mut names: Vec<_> = [0, 1].iter().flat_map(|&at| options[at].scenarios()).map(|row| row.name).collect();
        names.sort_unstable();
        let mut all: Vec<_> =
            scenario::TABLE.iter().filter(|row| row.is_under(Extension::VtX)).map(|row| row.name).collect();
        all.sort_unstable();
        assert_eq!(names, all);
        assert_eq!(options[2].scenarios().map(|row| row.name).collect::<Vec<_>>(), ["getsec"]);
        assert_eq!(super::parts(&asked, on, true).unwrap().len(), 2);
    }

    /// Each scenario and workload runs on one model at most, and on one that can have it.
    #[test]
    fn what_the_usual_models_lack_runs_on_the_first_that_has_it() {
        let models = |extension, version| -> Vec<String> {
            let parts = parts_elsewhere(&Selection::default(), extension, version).unwrap();
            parts.into_iter().filter_map(|part| part.folder).collect()
        };
        assert_eq!(models(Extension::VtX, None), ["corei5_arrandale_m520"]);
        assert_eq!(models(Extension::VtX, Some((3, 0))), ["corei5_arrandale_m520", "sapphire_rapids"]);
        assert_eq!(models(Extension::VtX, Some((3, 1))), ["corei5_arrandale_m520", "wildcat_lake+user_msr"]);
        assert_eq!(models(Extension::Svm, Some((3, 0))), Vec::<String>::new());
        assert_eq!(models(Extension::Svm, Some((3, 1))), ["ryzen+invpcid"]);
    }

    #[test]
    fn the_runs_of_an_atlas_under_svm_leave_out_what_ends_this_bochs() {
        let asked = Selection { workloads: vec!["atlas".to_owned()], ..Selection::default() };
        let scenarios = |target| -> Vec<String> {
            let parts = parts(&asked, target, true).unwrap();
            parts.iter().map(|part| part.options.split(" scenarios=").nth(1).unwrap().to_owned()).collect()
        };
        let shutdown = scenario::TABLE.iter().find(|row| row.reason == ExitReason::SVM_SHUTDOWN).unwrap().name;
        let zambezi = scenarios(Target::bochs(model(Some(SVM_MODEL)).unwrap()));
        let survives = release(Engine::Bochs) >= Some((3, 0));
        assert_eq!((zambezi[0].contains("pushf,"), zambezi[0].contains(shutdown)), (true, survives), "{zambezi:?}");
        assert!(zambezi[1].starts_with("non-maskable-interrupt,security-exception,init-signal "), "{zambezi:?}");
        let tcg = crate::emulator::PLATFORMS.iter().find(|row| row.engine == Engine::Tcg).unwrap();
        let tcg = scenarios(Target::of(tcg));
        assert!(tcg[0].contains(shutdown) && !tcg[0].contains("getsec"), "{tcg:?}");
    }
}
