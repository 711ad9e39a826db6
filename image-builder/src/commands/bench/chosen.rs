//! The operations to measure, grouped by the boots in which they run.

use tollgate_abi::bench::{Bench, Parts, TABLE};
use tollgate_abi::command_line::Options;
use tollgate_abi::scenario::{self, Scenario};
use tollgate_books::failure::Failure;

use super::super::atlas;
use super::budgets;
use crate::emulator::Target;
use crate::selection::{Selection, nearest, usual_options};

/// Samples of each scenario.
const SCENARIO_SAMPLES: u64 = 256;

/// Everything that is measured.
pub(super) struct Chosen {
    rows: Vec<&'static Bench>,
    scenarios: Vec<&'static Scenario>,
    /// Operations that have budgets.
    pub(super) budgets: Vec<&'static budgets::Row>,
    /// Nothing was left out by name.
    is_all: bool,
}

/// The operations that are booted together.
pub(super) struct Boot {
    /// The number of vCPUs.
    pub(super) cpus: u32,
    rows: Vec<&'static Bench>,
    pub(super) scenarios: Vec<&'static Scenario>,
}

/// Checks that each of these names fits an operation.
///
/// # Errors
/// One fits none; the remedy has a similar name.
pub(super) fn check(filter: &[String]) -> Result<(), Failure> {
    let names = || TABLE.iter().map(Bench::name).chain(scenario::TABLE.iter().map(|scenario| scenario.name));
    let Some(name) = filter.iter().find(|name| !names().any(|known| known == name.as_str())) else { return Ok(()) };
    let remedy = match nearest(name, names()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there are {}", names().collect::<Vec<_>>().join(", ")),
    };
    Err(Failure::usage(format_args!("there is no microbenchmark `{name}`")).remedy(remedy))
}

/// Whether a filter lets a row through.
pub(super) fn shows(filter: &[String], name: &str) -> bool {
    filter.is_empty() || filter.iter().any(|item| item == name)
}

impl Chosen {
    /// The operations on a target that a filter, by names, lets through.
    pub(super) fn new(filter: &[String], target: Target) -> Result<Self, Failure> {
        check(filter)?;
        let extension = target.extension();
        for name in filter {
            let bench = Bench::by_name(name).is_some_and(|bench| !bench.runs_under(extension));
            let scenario = Scenario::by_name(name);
            if bench || scenario.is_some_and(|scenario| !scenario.is_under(extension)) {
                let sentence = format!("`{name}` is not an operation of {extension}");
                return Err(Failure::usage(sentence).remedy("leave it out, or choose another platform"));
            }
            if let Some(why) = scenario.and_then(|scenario| atlas::ends_the_emulator(scenario, target)) {
                let sentence = format!("`{name}` can't be measured here: {why}");
                return Err(Failure::platform(sentence).remedy("leave it out, or choose another platform"));
            }
        }
        let asked = |name: &str| shows(filter, name);
        // The timing is measured in any case. Operations that need two processors are measured all together: the lead of one
        // processor, when the other begins, depends on the operations before.
        let is_in_company = |bench: &&Bench| bench.workload.on.least_vcpus() > 1;
        let wants_company = TABLE.iter().filter(is_in_company).any(|bench| asked(bench.name()));
        let chosen = |bench: &&Bench| {
            let is_wanted = asked(bench.name()) || is_in_company(bench) && wants_company;
            bench.parts == Parts::Timing || is_wanted && bench.runs_under(extension)
        };
        let there = || scenario::TABLE.iter().filter(move |scenario| scenario.is_under(extension));
        let wants_another = there().any(|scenario| scenario.needs_other_cpu() && asked(scenario.name));
        let chosen_scenario = |scenario: &&Scenario| {
            let is_wanted = asked(scenario.name) || scenario.needs_other_cpu() && wants_another;
            is_wanted && atlas::ends_the_emulator(scenario, target).is_none()
        };
        Ok(Self {
            rows: TABLE.iter().filter(chosen).collect(),
            scenarios: there().filter(chosen_scenario).collect(),
            budgets: budgets::ROWS.iter().filter(|row| asked(row.bench)).collect(),
            is_all: filter.is_empty(),
        })
    }

    /// Scenarios that are left out because the emulator does not survive them, and the reasons.
    pub(super) fn lacking(&self, target: Target) -> impl Iterator<Item = (&'static Scenario, &'static str)> {
        let extension = target.extension();
        let there = scenario::TABLE.iter().filter(move |scenario| self.is_all && scenario.is_under(extension));
        there.filter_map(move |scenario| Some((scenario, atlas::ends_the_emulator(scenario, target)?)))
    }

    /// Whether no operation was left out by name.
    pub(super) fn is_all(&self) -> bool {
        self.is_all
    }

    /// The boots: operations that need one processor, those that need two vCPUs, and scenarios that need another processor.
    pub(super) fn boots(&self) -> Vec<Boot> {
        let rows = |cpus: u32| {
            let fits = |bench: &&&'static Bench| bench.workload.on.least_vcpus() == u64::from(cpus);
            self.rows.iter().filter(fits).copied().collect::<Vec<_>>()
        };
        let (with_other, alone): (Vec<_>, Vec<_>) =
            self.scenarios.iter().partition(|scenario| scenario.needs_other_cpu());
        let boots = [
            Boot { cpus: 1, rows: rows(1), scenarios: alone },
            Boot { cpus: 2, rows: rows(2), scenarios: Vec::new() },
            Boot { cpus: 1, rows: Vec::new(), scenarios: with_other },
        ];
        boots.into_iter().filter(|boot| boot.steps() > 0).collect()
    }
}

impl Boot {
    /// The number of steps that progress counts.
    pub(super) fn steps(&self) -> u64 {
        (self.rows.len() + self.scenarios.len()) as u64
    }

    /// Processors of the machine.
    pub(super) fn processors(&self) -> u32 {
        let other = self.scenarios.iter().any(|scenario| scenario.needs_other_cpu());
        self.cpus.max(if other { 2 } else { 1 })
    }

    /// The image's options.
    pub(super) fn options(&self) -> Result<String, Failure> {
        let scenarios = self.scenarios.iter().map(|scenario| scenario.name);
        let names: Vec<_> = self.rows.iter().map(|bench| bench.workload.name).chain(scenarios).collect();
        let scenario_samples = if self.scenarios.is_empty() { 0 } else { SCENARIO_SAMPLES };
        let run = Options { scenario_samples, cpus: self.cpus, ..usual_options() };
        Selection { workloads: vec![names.join(",")], run, ..Selection::default() }.options()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::models::{self, Model};
    use crate::emulator::{Engine, release};
    use tollgate_abi::virtualization::Extension;

    fn bochs(model: &str) -> Target {
        Target::bochs(Model::by_name(model).unwrap())
    }

    fn chosen(names: &[&str], model: &str) -> Result<Chosen, String> {
        let filter: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        Chosen::new(&filter, bochs(model)).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_filter_takes_names_that_exist_here() {
        let one = chosen(&["cpuid"], models::DEFAULT).unwrap();
        assert_eq!(one.rows.iter().map(|bench| bench.name()).collect::<Vec<_>>(), ["empty", "cpuid"]);
        assert!(one.budgets.len() == 1 && one.scenarios.is_empty());
        assert!(!shows(&["cpuid".to_owned()], "empty") && shows(&[], "empty"));
        let company = chosen(&["ipi"], models::DEFAULT).unwrap();
        assert!(company.rows.iter().any(|bench| bench.name() == "ipi_halt"));
        let scenario = chosen(&["start-up-ipi"], models::DEFAULT).unwrap();
        assert!(scenario.scenarios.len() > 1 && scenario.boots()[1].processors() == 2);
        let refusal = |name: &str, model| chosen(&[name], model).err().unwrap();
        assert!(refusal("cpuidd", models::DEFAULT).contains("did you mean `cpuid`?"));
        assert!(refusal("getsecc", models::DEFAULT).contains("did you mean `getsec`?"));
        assert!(refusal("vmrun", models::DEFAULT).contains("`vmrun` is not an operation of VT-x"));
        assert!(refusal("getsec", "zambezi").contains("`getsec` is not an operation of SVM"));
        if release(Engine::Bochs) < Some((3, 0)) {
            let refused = refusal("shutdown", "zambezi");
            assert!(refused.contains("`shutdown` can't be measured here: Bochs before 3.0 ends itself"), "{refused}");
        }
    }

    #[test]
    fn everything_fits_the_options_of_three_boots() {
        for (model, extension) in [(models::DEFAULT, Extension::VtX), ("zambezi", Extension::Svm)] {
            let all = chosen(&[], model).unwrap();
            let boots = all.boots();
            assert_eq!(
                boots.iter().map(|boot| (boot.cpus, boot.processors())).collect::<Vec<_>>(),
                [(1, 1), (2, 2), (1, 2)]
            );
            let rows: usize = boots.iter().map(|boot| boot.rows.len()).sum();
            assert_eq!(rows, TABLE.iter().filter(|bench| bench.runs_under(extension)).count());
            let lines: Vec<String> = boots.iter().map(|boot| boot.options().unwrap()).collect();
            let scenarios = |line: &String| Options::parse(line).unwrap().scenarios().count();
            let known = scenario::TABLE.iter().filter(|scenario| scenario.is_under(extension)).count();
            // Under SVM, Bochs 2.7 does not survive a triple fault; later versions do.
            let left_out = all.lacking(bochs(model)).count();
            assert_eq!(lines.iter().map(scenarios).sum::<usize>(), known - left_out);
        }
    }
}
