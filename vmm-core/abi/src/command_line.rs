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
use crate::marks::{self, MOST_MARKS, Text};
use crate::scenario::{self, Scenario};
use crate::workload::{TABLE, Workload};

/// Makes the options from their rows. A row has the field, its type and its default value; then the key, the form of its values,
/// and whether a line names the option when it has its default value.
macro_rules! options {
    ($(
        $(#[$doc:meta])*
        $field:ident: $kind:ty = $default:expr, $key:literal, $form:expr, $written:ident;
    )*) => {
        /// Parsed options.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Options<'a> {
            $($(#[$doc])* pub $field: $kind,)*
        }

        impl Default for Options<'_> {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        /// Every key, in the order in which a line has them.
        const KEYS: &[&str] = &[$($key,)*];

        impl<'a> Options<'a> {
            /// Takes a word of the line.
            fn take(&mut self, word: &'a str, key: &str, value: &'a str) -> Result<(), OptionError<'a>> {
                match key {
                    $($key => self.$field = $form.read(value).map_err(|wrong| wrong.unwrap_or(OptionError::Value(word)))?,)*
                    _ => return Err(OptionError::Unknown(word)),
                }
                Ok(())
            }
        }

        /// The line that is read as these options.
        impl fmt::Display for Options<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let usual = Options::default();
                let mut separator = "";
                $(
                    if matches!(Written::$written, Written::Always) || self.$field != usual.$field {
                        write!(f, "{separator}{}=", $key)?;
                        $form.write(self.$field, f)?;
                        separator = " ";
                    }
                )*
                let _ = separator;
                Ok(())
            }
        }
    };
}

/// Whether a line names an option that has its default value.
enum Written {
    Always,
    Else,
}

options! {
    /// The term by which the course's leaves are numbered.
    leaf_map: LeafMap = LeafMap::default(), "leaf-map", Term, Always;
    /// TSC ticks without an exit after which the guest is stopped; 0 for never. SVM has no timer for that: a guest that exits is
    /// looked at as often, and needs [`Options::accounting`].
    watchdog_ticks: u64 = 0, "watchdog", NUMBER, Always;
    /// TSC ticks from the first entry on after which the guest is stopped, whatever it does; 0 for never. Without the option the
    /// monitor chooses some minutes, by the rate of the TSC that the processor tells.
    limit_ticks: Option<u64> = None, "limit", Maybe(NUMBER), Else;
    /// Names of workloads, each with `:iterations` if not the default; or [`EVERY`] microbenchmark; or [`NONE`]; empty for the
    /// default run.
    workloads: &'a str = "", "workloads", Workloads, Else;
    /// `none`: the guest keeps no book and nobody predicts its exits, so that the ledger is compared with the emulator's log
    /// alone, however the guest ends. `own` compares every book.
    guest_keeps_book: bool = true, "book", Words("own", "none"), Else;
    /// Names of scenarios, or [`ALL`]; empty for none.
    scenarios: &'a str = "", "scenarios", Scenarios, Else;
    /// The seed from which the guest was made, where it is a random one.
    random_seed: Option<u64> = None, "random", Maybe(NUMBER), Else;
    /// Samples of each scenario's time; 0 for none.
    scenario_samples: u64 = 0, "scenario-samples", Number(0, bench::MOST_SAMPLES), Else;
    /// vCPUs of the guest, each on a processor of its own.
    cpus: u32 = 1, "cpus", Vcpus, Else;
    /// `go-on`: run on fewer vCPUs where some processors don't come up; `stop` refuses.
    without_missing_cpus: bool = false, "missing-cpus", Words("go-on", "stop"), Else;
    /// `skipped`: where no vCPU has anything to do before a timer fires, the guest's clock is moved on to that time; `real` waits.
    skips_idle_time: bool = false, "idle", Words("skipped", "real"), Else;
    /// `screen`: the last lines of the guest's console are shown on the screen, with the account, where firmware has one; `log`: they
    /// are in the log alone.
    shows_console: bool = false, "console", Words("screen", "log"), Else;
    /// `4k`: the guest gets the memory of its machine by pages of 4 KiB, each on its first touch, which is an exit; `large` maps all of
    /// it before. The unikernel's machine is as its row says.
    counts_touches: bool = false, "pages", Words("4k", "large"), Else;
    /// Keep the keys by which the exits of a reason differ.
    keys: bool = false, "keys", Words("on", "off"), Else;
    /// Exits of each vCPU that are held until they can be written; 0 for no trace.
    trace_exits: u64 = 0, "trace", NUMBER, Else;
    /// TSC ticks of the steps in which exits are sampled over time; 0 for no samples.
    rate_step_ticks: u64 = 0, "rate-step", NUMBER, Else;
    /// `off`: run without the ledger, to measure its cost. The account then stays empty; and under SVM there is no watchdog,
    /// since it asks the ledger whether the guest has exited.
    accounting: bool = true, "accounting", Words("on", "off"), Else;
    /// A mark of the guest's file, in hexadecimal. A log that has a trace has it, so that addresses are named by the right file.
    guest: Option<u32> = None, "guest", Maybe(Mark), Else;
    /// Marks in the guest's console, as [`marks`] writes them; empty for none.
    marks: &'a str = "", "marks", Marks, Else;
    /// The text that ends the run once the console shows it. A guest without it has not done what it was to do.
    until: Option<Text<'a>> = None, "until", Maybe(Shown), Else;
}

/// A form of values. Another value is refused, by an error that says more than [`OptionError::Value`] where there is one.
trait Form<'a> {
    type Value: Copy;

    fn read(&self, text: &'a str) -> Result<Self::Value, Option<OptionError<'a>>>;

    fn write(&self, value: Self::Value, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

/// A number from the first to the second.
struct Number(u64, u64);

const NUMBER: Number = Number(0, u64::MAX);

impl<'a> Form<'a> for Number {
    type Value = u64;

    fn read(&self, text: &'a str) -> Result<u64, Option<OptionError<'a>>> {
        text.parse().ok().filter(|number| (self.0..=self.1).contains(number)).ok_or(None)
    }

    fn write(&self, value: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&value, f)
    }
}

/// A number of vCPUs.
struct Vcpus;

impl<'a> Form<'a> for Vcpus {
    type Value = u32;

    fn read(&self, text: &'a str) -> Result<u32, Option<OptionError<'a>>> {
        Number(1, MOST_VCPUS as u64).read(text).map(|number| number as u32)
    }

    fn write(&self, value: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&value, f)
    }
}

/// A value of this form, where there is one.
struct Maybe<F>(F);

impl<'a, F: Form<'a>> Form<'a> for Maybe<F> {
    type Value = Option<F::Value>;

    fn read(&self, text: &'a str) -> Result<Self::Value, Option<OptionError<'a>>> {
        self.0.read(text).map(Some)
    }

    fn write(&self, value: Self::Value, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        value.map_or(Ok(()), |value| self.0.write(value, f))
    }
}

/// A number of 32 bits in hexadecimal.
struct Mark;

impl<'a> Form<'a> for Mark {
    type Value = u32;

    fn read(&self, text: &'a str) -> Result<u32, Option<OptionError<'a>>> {
        let digits = text.strip_prefix("0x").filter(|digits| !digits.starts_with('+'));
        digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).ok_or(None)
    }

    fn write(&self, value: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{value:#x}")
    }
}

/// The word for true, and the one for false.
struct Words(&'static str, &'static str);

impl<'a> Form<'a> for Words {
    type Value = bool;

    fn read(&self, text: &'a str) -> Result<bool, Option<OptionError<'a>>> {
        let is_true = text == self.0;
        if is_true || text == self.1 { Ok(is_true) } else { Err(None) }
    }

    fn write(&self, value: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if value { self.0 } else { self.1 })
    }
}

/// A term of the course.
struct Term;

impl<'a> Form<'a> for Term {
    type Value = LeafMap;

    fn read(&self, text: &'a str) -> Result<LeafMap, Option<OptionError<'a>>> {
        LeafMap::parse(text).ok_or(None)
    }

    fn write(&self, value: LeafMap, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(value.name())
    }
}

/// Names of workloads.
struct Workloads;

impl<'a> Form<'a> for Workloads {
    type Value = &'a str;

    fn read(&self, text: &'a str) -> Result<&'a str, Option<OptionError<'a>>> {
        for item in text.split(',').filter(|&item| !item.is_empty() && text != NONE && item != EVERY) {
            parse_selected(item).map_err(Some)?;
        }
        Ok(text)
    }

    fn write(&self, value: &'a str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(value)
    }
}

/// Names of scenarios.
struct Scenarios;

impl<'a> Form<'a> for Scenarios {
    type Value = &'a str;

    fn read(&self, text: &'a str) -> Result<&'a str, Option<OptionError<'a>>> {
        for name in text.split(',').filter(|&name| !name.is_empty() && text != ALL) {
            Scenario::by_name(name).ok_or(Some(OptionError::Scenario(name)))?;
        }
        Ok(text)
    }

    fn write(&self, value: &'a str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(value)
    }
}

/// Marks in the console, each of another name.
struct Marks;

impl<'a> Form<'a> for Marks {
    type Value = &'a str;

    fn read(&self, text: &'a str) -> Result<&'a str, Option<OptionError<'a>>> {
        let is_new = |name: &str, at: usize| marks::items(text).take(at).flatten().all(|before| before.name != name);
        for (at, mark) in marks::items(text).enumerate() {
            let mark = mark.map_err(|item| Some(OptionError::Mark(item)))?;
            if at == MOST_MARKS || !is_new(mark.name, at) {
                return Err(Some(OptionError::Mark(mark.name)));
            }
        }
        Ok(text)
    }

    fn write(&self, value: &'a str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(value)
    }
}

/// A text of the console.
struct Shown;

impl<'a> Form<'a> for Shown {
    type Value = Text<'a>;

    fn read(&self, text: &'a str) -> Result<Text<'a>, Option<OptionError<'a>>> {
        Text::parse(text).ok_or(None)
    }

    fn write(&self, value: Text<'a>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(value.escaped())
    }
}

/// All scenarios.
pub const ALL: &str = "all";
/// No workload.
pub const NONE: &str = "none";

/// The error of an option that is refused.
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
    /// A mark that is none, that repeats another's name, or that is one too many.
    Mark(&'a str),
}

impl fmt::Display for OptionError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OptionError::Unknown(word) => {
                write!(f, "option `{word}` is unknown; there are ")?;
                KEYS.iter().enumerate().try_for_each(|(at, key)| {
                    let separator = if at == 0 { "" } else { ", " };
                    write!(f, "{separator}{key}=")
                })
            }
            OptionError::Value(word) => write!(f, "option `{word}` has a value that it does not take"),
            OptionError::Workload(name) => write!(f, "there is no workload `{name}`"),
            OptionError::Scenario(name) => write!(f, "there is no scenario `{name}`"),
            OptionError::Mark(item) => {
                write!(f, "`{item}` is no mark: there are at most {MOST_MARKS}, each a name of its own with a text")
            }
            OptionError::Iterations(item) => {
                write!(f, "`{item}` asks for a number of iterations that the workload does not take")
            }
        }
    }
}

/// One selected workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selected {
    /// The workload's row.
    pub workload: &'static Workload,
    /// The number of iterations.
    pub iterations: u64,
}

/// Reads `name` or `name:iterations`.
///
/// # Errors
/// The workload does not exist, or the number is not in `1..=most`.
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
    /// The first word that is not an option with a value that it takes.
    pub fn parse(line: &'a str) -> Result<Self, OptionError<'a>> {
        let mut options = Self::default();
        for word in line.split_ascii_whitespace() {
            let (key, value) = word.split_once('=').ok_or(OptionError::Unknown(word))?;
            options.take(word, key, value)?;
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

    /// The marks in the guest's console.
    pub fn marks(&self) -> impl Iterator<Item = marks::Mark<'a>> + use<'a> {
        marks::items(self.marks).flatten()
    }

    /// The runs of each scenario; if it is timed, the first ones give no sample.
    pub const fn scenario_runs(&self) -> u64 {
        if self.scenario_samples > 0 { bench::WARM_UP + self.scenario_samples } else { scenario::RUNS }
    }

    /// The processors that the run needs: one for each vCPU, and another if a scenario is about another processor.
    pub fn processors(&self) -> u32 {
        let least = if self.scenarios().any(Scenario::needs_other_cpu) { 2 } else { 1 };
        self.cpus.max(least)
    }

    /// True if there is a microbenchmark among the workloads.
    pub fn benches(&self) -> bool {
        !self.workloads.is_empty() && self.selected(1).any(|selected| Bench::of(selected.workload).is_some())
    }

    /// The workloads to run on `vcpus`, in order: the named ones, or all that return.
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
    fn a_line_is_read_as_the_options_that_it_was_written_of() {
        let check = |options: Options<'_>, line: &str| {
            let written = std::format!("{options}");
            assert_eq!((written.as_str(), Options::parse(&written)), (line, Ok(options)));
        };
        check(Options::default(), "leaf-map=autumn2021 watchdog=0");
        check(
            Options {
                leaf_map: LeafMap::Autumn2022,
                watchdog_ticks: 1,
                limit_ticks: Some(2),
                workloads: "cpuid:3",
                guest_keeps_book: false,
                scenarios: ALL,
                random_seed: Some(4),
                scenario_samples: 5,
                cpus: 6,
                without_missing_cpus: true,
                skips_idle_time: true,
                shows_console: true,
                counts_touches: true,
                keys: true,
                trace_exits: 7,
                rate_step_ticks: 8,
                accounting: false,
                guest: Some(9),
                marks: "one=a%20b,two=c",
                until: Text::parse("%20d"),
            },
            "leaf-map=autumn2022 watchdog=1 limit=2 workloads=cpuid:3 book=none scenarios=all random=4 scenario-samples=5 cpus=6 \
             missing-cpus=go-on idle=skipped console=screen pages=4k keys=on trace=7 rate-step=8 accounting=off guest=0x9 \
             marks=one=a%20b,two=c until=%20d",
        );
        assert_eq!(KEYS.len(), 20);
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
        check("marks=a=b,a=c", OptionError::Mark("a"));
        check("marks=a=b,c", OptionError::Mark("c"));
        let many = (0..=MOST_MARKS).map(|at| std::format!("m{at}=x")).collect::<Vec<_>>().join(",");
        assert_eq!(Options::parse(&std::format!("marks={many}")), Err(OptionError::Mark("m16")));
        check("until=", OptionError::Value("until="));
        check("until=%0A", OptionError::Value("until=%0A"));
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
