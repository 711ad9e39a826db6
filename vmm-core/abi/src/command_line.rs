//! The run's options: a line of `key=value` words that the host tool puts into an image.
//!
//! ```text
//! leaf-map=autumn2021 workloads=cpuid,memory:64 watchdog=200000000
//! ```
//!
//! The monitor and the guest read the same line; each takes what concerns it. The line is printed in the first record.

use core::fmt;

use crate::bench::{self, Bench, EVERY};
use crate::leaves::LeafMap;
use crate::machine::MOST_VCPUS;
use crate::scenario::{self, Scenario};
use crate::workload::{TABLE, Workload};

/// Parsed options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options<'a> {
    /// `leaf-map=`: where the course leaves are.
    pub leaf_map: LeafMap,
    /// `workloads=`: names, each with `:iterations` if not the default; [`EVERY`] microbenchmark; `none`; empty for the default run.
    workloads: &'a str,
    /// `scenarios=`: names, or `all`; empty for none.
    scenarios: &'a str,
    /// `scenario-samples=`: how often each scenario is timed; 0, the default, for no samples.
    pub scenario_samples: u64,
    /// `watchdog=`: TSC ticks without an exit after which the guest is stopped; 0 for never. Under SVM, which has no timer for
    /// that, a guest that exits is looked at as often, and needs [`Options::accounting`].
    pub watchdog_ticks: u64,
    /// `limit=`: TSC ticks from the first entry on after which the guest is stopped, whatever it does; 0 for never. Without the
    /// option the monitor chooses some minutes, by the rate that the processor tells.
    pub limit_ticks: Option<u64>,
    /// `accounting=off`: run without the ledger, to measure what it costs. The account then stays empty; and under SVM there
    /// is no watchdog, since it asks the ledger whether the guest has exited.
    pub accounting: bool,
    /// `keys=on`: keep the keys by which the exits of a reason differ.
    pub keys: bool,
    /// `trace=`: how many exits of each vCPU to hold until they can be written; 0, the default, for no trace.
    pub trace_exits: u64,
    /// `guest=`: what tells the guest's file from others, in hexadecimal, where a trace has addresses in it.
    pub guest: Option<u32>,
    /// `rate-step=`: TSC ticks of the steps in which exits are sampled over time; 0, the default, for no samples.
    pub rate_step_ticks: u64,
    /// `cpus=`: how many vCPUs the guest is to have, each on a processor of its own.
    pub cpus: u32,
    /// `missing-cpus=go-on`: run on fewer vCPUs where some processors don't come up; `stop`, the default, refuses.
    pub without_missing_cpus: bool,
    /// `book=none`: the guest keeps no book and nobody predicts its exits, so that the ledger is compared with the emulator's log
    /// alone, however the guest ends; `own`, the default, compares every book.
    pub guest_keeps_book: bool,
    /// `random=`: the seed from which the guest was made, where it is a random one.
    pub random_seed: Option<u64>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            leaf_map: LeafMap::default(),
            workloads: "",
            scenarios: "",
            scenario_samples: 0,
            watchdog_ticks: 0,
            limit_ticks: None,
            accounting: true,
            keys: false,
            trace_exits: 0,
            guest: None,
            rate_step_ticks: 0,
            cpus: 1,
            without_missing_cpus: false,
            guest_keeps_book: true,
            random_seed: None,
        }
    }
}

/// All scenarios.
pub const ALL: &str = "all";
/// No workload.
pub const NONE: &str = "none";

/// Why an option was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionError<'a> {
    /// A word that is not `key=value`, or whose key nobody knows.
    Unknown(&'a str),
    /// A value that the key does not take.
    Value(&'a str),
    /// A workload that does not exist.
    Workload(&'a str),
    /// A scenario that does not exist.
    Scenario(&'a str),
    /// A number of iterations that the workload does not take.
    Iterations(&'a str),
}

impl fmt::Display for OptionError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OptionError::Unknown(word) => {
                write!(
                    f,
                    "option `{word}` is unknown; there are leaf-map=, workloads=, scenarios=, scenario-samples=, cpus=, missing-cpus=, watchdog=, limit=, keys=, trace=, guest=, rate-step=, accounting=, book=, random="
                )
            }
            OptionError::Value(word) => write!(f, "option `{word}` has a value that it does not take"),
            OptionError::Workload(name) => write!(f, "there is no workload `{name}`"),
            OptionError::Scenario(name) => write!(f, "there is no scenario `{name}`"),
            OptionError::Iterations(item) => {
                write!(f, "`{item}` asks for a number of iterations that the workload does not take")
            }
        }
    }
}

/// One selected workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selected {
    /// Its row.
    pub workload: &'static Workload,
    /// The number of iterations.
    pub iterations: u64,
}

/// Reads `name` or `name:iterations`.
///
/// # Errors
/// The workload does not exist, or the number is not one in `1..=most`.
pub fn parse_selected(item: &str) -> Result<Selected, OptionError<'_>> {
    let (name, iterations) = item.split_once(':').map_or((item, None), |(name, n)| (name, Some(n)));
    let workload = Workload::by_name(name).ok_or(OptionError::Workload(name))?;
    let iterations = match iterations {
        None => workload.iterations,
        Some(digits) => match digits.parse() {
            Ok(n) if (1..=workload.most).contains(&n) && !digits.starts_with('+') => n,
            _ => return Err(OptionError::Iterations(item)),
        },
    };
    Ok(Selected { workload, iterations })
}

impl<'a> Options<'a> {
    /// Reads an options line.
    ///
    /// # Errors
    /// The first word that is not an option with a value it takes.
    pub fn parse(line: &'a str) -> Result<Self, OptionError<'a>> {
        let mut options = Self::default();
        for word in line.split_ascii_whitespace() {
            let (key, value) = word.split_once('=').ok_or(OptionError::Unknown(word))?;
            match key {
                "leaf-map" => options.leaf_map = LeafMap::parse(value).ok_or(OptionError::Value(word))?,
                "watchdog" => options.watchdog_ticks = value.parse().map_err(|_| OptionError::Value(word))?,
                "limit" => options.limit_ticks = Some(value.parse().map_err(|_| OptionError::Value(word))?),
                "trace" => options.trace_exits = value.parse().map_err(|_| OptionError::Value(word))?,
                "guest" => {
                    let digits = value.strip_prefix("0x").filter(|digits| !digits.starts_with('+'));
                    let mark = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
                    options.guest = Some(mark.ok_or(OptionError::Value(word))?);
                }
                "rate-step" => options.rate_step_ticks = value.parse().map_err(|_| OptionError::Value(word))?,
                "accounting" => {
                    options.accounting = match value {
                        "on" => true,
                        "off" => false,
                        _ => return Err(OptionError::Value(word)),
                    }
                }
                "keys" => {
                    options.keys = match value {
                        "on" => true,
                        "off" => false,
                        _ => return Err(OptionError::Value(word)),
                    }
                }
                "scenario-samples" => {
                    let samples = value.parse().ok().filter(|&samples| samples <= bench::MOST_SAMPLES);
                    options.scenario_samples = samples.ok_or(OptionError::Value(word))?;
                }
                "cpus" => {
                    let most = 1..=MOST_VCPUS as u32;
                    options.cpus =
                        value.parse().ok().filter(|cpus| most.contains(cpus)).ok_or(OptionError::Value(word))?;
                }
                "missing-cpus" => {
                    options.without_missing_cpus = match value {
                        "go-on" => true,
                        "stop" => false,
                        _ => return Err(OptionError::Value(word)),
                    }
                }
                "book" => {
                    options.guest_keeps_book = match value {
                        "own" => true,
                        "none" => false,
                        _ => return Err(OptionError::Value(word)),
                    }
                }
                "random" => options.random_seed = Some(value.parse().map_err(|_| OptionError::Value(word))?),
                "workloads" => {
                    for item in value.split(',').filter(|&item| !item.is_empty() && value != NONE && item != EVERY) {
                        parse_selected(item)?;
                    }
                    options.workloads = value;
                }
                "scenarios" => {
                    for name in value.split(',').filter(|&name| !name.is_empty() && value != ALL) {
                        Scenario::by_name(name).ok_or(OptionError::Scenario(name))?;
                    }
                    options.scenarios = value;
                }
                _ => return Err(OptionError::Unknown(word)),
            }
        }
        Ok(options)
    }

    /// True if exits are recorded one by one, or over time.
    pub const fn records(&self) -> bool {
        self.trace_exits > 0 || self.rate_step_ticks > 0
    }

    /// The scenarios to run, in the table's order.
    pub fn scenarios(&self) -> impl Iterator<Item = &'static Scenario> + use<'a> {
        let named = self.scenarios;
        let wanted = move |scenario: &&Scenario| named == ALL || named.split(',').any(|name| name == scenario.name);
        scenario::TABLE.iter().filter(wanted)
    }

    /// The runs of each scenario; if it is timed, the first ones give no sample.
    pub const fn scenario_runs(&self) -> u64 {
        if self.scenario_samples > 0 { bench::WARM_UP + self.scenario_samples } else { scenario::RUNS }
    }

    /// The processors that the run makes use of: one for each vCPU, and another where a scenario is about that.
    pub fn processors(&self) -> u32 {
        let least = if self.scenarios().any(Scenario::needs_other_cpu) { 2 } else { 1 };
        self.cpus.max(least)
    }

    /// True if there is a microbenchmark among the workloads.
    pub fn benches(&self) -> bool {
        !self.workloads.is_empty() && self.selected(1).any(|selected| Bench::of(selected.workload).is_some())
    }

    /// The workloads to run on so many vCPUs, in order: those named, or all that return.
    pub fn selected(&self, vcpus: u64) -> impl Iterator<Item = Selected> + use<'a> {
        let fits = move |bench: &&Bench| bench.workload.on.least_vcpus() <= vcpus;
        let named = self.workloads.split(',').flat_map(move |item| {
            let benches = bench::TABLE.iter().filter(move |_| item == EVERY).filter(fits);
            let benches = benches.map(|Bench { workload, .. }| Selected { workload, iterations: workload.iterations });
            benches.chain(parse_selected(item).ok())
        });
        let default = self.workloads.is_empty();
        let all = TABLE.iter().filter(move |workload| default && workload.is_default(vcpus));
        named.chain(all.map(|workload| Selected { workload, iterations: workload.iterations }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::String;
    use std::vec::Vec;

    #[test]
    fn an_empty_line_is_the_default_run() {
        let options = Options::parse("").unwrap();
        assert_eq!(options, Options::default());
        assert_eq!(options.selected(1).count(), TABLE.iter().filter(|w| w.is_default(1)).count());
    }

    #[test]
    fn named_workloads_come_in_their_order() {
        let options =
            Options::parse("workloads=memory:64,cpuid leaf-map=autumn2022 watchdog=5 limit=9 accounting=off").unwrap();
        let selected: Vec<_> = options.selected(1).map(|s| (s.workload.name, s.iterations)).collect();
        assert_eq!(selected, [("memory", 64), ("cpuid", 1000)]);
        assert_eq!((options.leaf_map, options.watchdog_ticks, options.accounting), (LeafMap::Autumn2022, 5, false));
        assert_eq!((options.limit_ticks, Options::default().limit_ticks), (Some(9), None));
    }

    #[test]
    fn every_microbenchmark_that_fits_is_one_name() {
        let options = Options::parse("workloads=cpuid,bench").unwrap();
        let fitting = |vcpus| bench::TABLE.iter().filter(|row| row.workload.on.least_vcpus() <= vcpus).count();
        assert_eq!([1, 2].map(|vcpus| options.selected(vcpus).count()), [1, 2].map(|vcpus| 1 + fitting(vcpus)));
        assert!(options.benches() && fitting(1) < fitting(2));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |line, error| assert_eq!(Options::parse(line), Err(error));
        check("nonsense", OptionError::Unknown("nonsense"));
        check("colour=red", OptionError::Unknown("colour=red"));
        check("leaf-map=winter", OptionError::Value("leaf-map=winter"));
        check("watchdog=-1", OptionError::Value("watchdog=-1"));
        check("limit=soon", OptionError::Value("limit=soon"));
        check("workloads=cpuid,cpuidd", OptionError::Workload("cpuidd"));
        check("scenarios=getsec,getsex", OptionError::Scenario("getsex"));
        check("scenario-samples=16385", OptionError::Value("scenario-samples=16385"));
        check("trace=many", OptionError::Value("trace=many"));
        check("guest=1", OptionError::Value("guest=1"));
        check("guest=0x100000000", OptionError::Value("guest=0x100000000"));
        check("rate-step=-1", OptionError::Value("rate-step=-1"));
        check("cpus=0", OptionError::Value("cpus=0"));
        check("cpus=17", OptionError::Value("cpus=17"));
        check("missing-cpus=maybe", OptionError::Value("missing-cpus=maybe"));
        check("book=red", OptionError::Value("book=red"));
        check("random=", OptionError::Value("random="));
        check("random=18446744073709551616", OptionError::Value("random=18446744073709551616"));
        check("workloads=cpuid:0", OptionError::Iterations("cpuid:0"));
        check("workloads=memory:99999", OptionError::Iterations("memory:99999"));
    }

    #[test]
    fn scenarios_are_named_or_all() {
        let count = |line| Options::parse(line).unwrap().scenarios().count();
        assert_eq!(Options::parse("workloads=none").unwrap().selected(1).count(), 0);
        assert_eq!(
            (count(""), count("scenarios=all"), count("scenarios=getsec,xsaves")),
            (0, scenario::TABLE.len(), 2)
        );
        let runs = |line| Options::parse(line).unwrap().scenario_runs();
        assert_eq!((runs("scenarios=all"), runs("scenario-samples=100")), (scenario::RUNS, 100 + bench::WARM_UP));
    }

    proptest! {
        #[test]
        fn any_line_parses_without_panic(line in "\\PC{0,80}") {
            if let Ok(options) = Options::parse(&line) {
                let _ = options.selected(1).map(|s| s.iterations).collect::<Vec<_>>();
            }
            let worded: String = std::format!("workloads={line}");
            let _ = Options::parse(&worded);
        }
    }
}
