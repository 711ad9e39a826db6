//! The run's options: the requests of the command line, as the line of words that goes into the image.

use tollgate_abi::bench;
use tollgate_abi::command_line::{ALL, NONE, OptionError, Options, Selected, parse_selected};
use tollgate_abi::machine::OPTIONS_BYTES;
use tollgate_abi::marks::{Escaped, Text};
use tollgate_abi::scenario::{self, Scenario};
use tollgate_abi::workload::{TABLE, Workload};
use tollgate_books::failure::Failure;

use crate::random;

/// Ticks without an exit after which a guest is stopped, unless asked otherwise: some seconds of Bochs.
pub const DEFAULT_WATCHDOG_TICKS: u64 = 200_000_000;
/// Ticks without an exit after which a random guest is stopped: it hangs often.
pub const RANDOM_WATCHDOG_TICKS: u64 = 2_000_000;
/// Ticks after which a random guest is stopped, unless asked otherwise: by then it has come to its end, or never will.
pub const RANDOM_LIMIT_TICKS: u64 = 20_000_000;
/// The watchdog's ticks under KVM, which may leave a processor for a while to do something else: about a second.
pub const KVM_WATCHDOG_TICKS: u64 = SILICON_WATCHDOG_TICKS;
/// The watchdog's ticks for a kernel on silicon: about a second.
pub const SILICON_WATCHDOG_TICKS: u64 = 3_000_000_000;
/// The most ticks of the watchdog: the preemption timer, by which the monitor keeps it, has 32 bits.
const MOST_WATCHDOG_TICKS: u64 = u32::MAX as u64;

/// The name that stands for every workload that returns and every scenario.
pub const ATLAS: &str = "atlas";

/// The choices of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Items of `name` or `name:iterations`; none for the default run.
    pub workloads: Vec<String>,
    /// The scenarios that [`ATLAS`] stands for, if not for all.
    pub atlas: Option<Vec<&'static str>>,
    /// Everything else, as it is written; workloads, scenarios, book and seed are left out.
    pub run: Options<'static>,
    /// Marks in the guest's console, by name and text.
    pub marks: Vec<(String, String)>,
    /// The text that ends the run.
    pub until: Option<String>,
    /// The guest in the image.
    pub guest: GuestKind,
}

/// A guest, by the options that ask for it and the books that it is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuestKind {
    /// The built-in one, which runs workloads and books their exits.
    #[default]
    BuiltIn,
    /// Another guest, which runs no workload unless some are named, and hands over a book of its exits.
    Other,
    /// Another guest, which keeps no book.
    WithoutBook,
}

/// The options unless asked otherwise.
pub fn usual_options() -> Options<'static> {
    Options { watchdog_ticks: DEFAULT_WATCHDOG_TICKS, ..Options::default() }
}

impl Default for Selection {
    fn default() -> Self {
        let (marks, until) = (Vec::new(), None);
        Self { workloads: Vec::new(), atlas: None, run: usual_options(), marks, until, guest: GuestKind::BuiltIn }
    }
}

impl Selection {
    /// The options line.
    ///
    /// # Errors
    /// A workload or a value does not exist (the sentence suggests the nearest one that does), or a workload needs more vCPUs.
    pub fn options(&self) -> Result<String, Failure> {
        let items =
            self.workloads.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|item| !item.is_empty());
        let items: Vec<&str> = items.collect();
        let random = items.iter().find_map(|item| random_seed(item)).transpose()?;
        if random.is_some() && items.len() > 1 {
            let sentence = "a random guest is a guest of its own, and has no other workloads or scenarios";
            return Err(Failure::usage(sentence).remedy("run it alone: --workload random:SEED"));
        }
        let items = items.into_iter().filter(|_| random.is_none());
        let is_scenario = |item: &&str| *item == ATLAS || Scenario::by_name(item).is_some();
        let (scenarios, items): (Vec<&str>, Vec<&str>) = items.partition(is_scenario);
        for item in items.iter().filter(|&&item| item != bench::EVERY) {
            self.has_cpus_for(&parse_selected(item).map_err(refuse)?)?;
        }
        let atlas = scenarios.contains(&ATLAS);
        let watchdog_ticks = self.run.watchdog_ticks;
        if watchdog_ticks > MOST_WATCHDOG_TICKS {
            let sentence = format!("a watchdog of {watchdog_ticks} ticks is too long");
            return Err(
                Failure::usage(sentence).remedy(format_args!("choose at most {MOST_WATCHDOG_TICKS}, or 0 for none"))
            );
        }
        let scenarios_alone = !scenarios.is_empty() && !atlas;
        let is_without = random.is_some() || scenarios_alone || self.guest != GuestKind::BuiltIn;
        let workloads = if items.is_empty() && is_without { NONE.to_owned() } else { items.join(",") };
        let atlas = if atlas { Some(self.atlas.clone().unwrap_or_else(|| vec![ALL])) } else { None };
        let marks: Vec<_> = self.marks.iter().map(|(name, text)| format!("{name}={}", Escaped(text))).collect();
        let until = self.until.as_deref().map(|text| Escaped(text).to_string());
        let line = Options {
            marks: &marks.join(","),
            until: until.as_deref().and_then(Text::parse),
            workloads: &workloads,
            scenarios: &atlas.unwrap_or(scenarios).join(","),
            guest_keeps_book: random.is_none() && self.guest != GuestKind::WithoutBook,
            random_seed: random,
            ..self.run
        }
        .to_string();
        if line.len() > OPTIONS_BYTES {
            let sentence = format!("the list of workloads or marks is too long: the options have {} bytes", line.len());
            return Err(
                Failure::usage(sentence).remedy(format_args!("name fewer; the image holds {OPTIONS_BYTES} bytes"))
            );
        }
        Options::parse(&line).map_err(refuse)?;
        Ok(line)
    }

    fn has_cpus_for(&self, selected: &Selected) -> Result<(), Failure> {
        let least = selected.workload.on.least_vcpus();
        if u64::from(self.run.cpus) >= least {
            return Ok(());
        }
        let sentence =
            format!("`{}` runs on {least} vCPUs, and {} is asked for", selected.workload.name, self.run.cpus);
        Err(Failure::usage(sentence).remedy(format_args!("add --cpus {least}")))
    }
}

/// The seed of a random guest, if `item` asks for one: a number of 64 bits, decimal or hexadecimal.
pub fn random_seed(item: &str) -> Option<Result<u64, Failure>> {
    let digits = match item.split_once(':') {
        None => (item == random::NAME).then_some("")?,
        Some((name, digits)) => (name == random::NAME).then_some(digits)?,
    };
    let seed = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => digits.parse(),
    };
    Some(seed.ok().filter(|_| !digits.contains('+')).ok_or_else(|| {
        Failure::usage(format_args!("`{item}` names no random guest"))
            .remedy(format_args!("give a seed from 0 to {}, decimal or with 0x: random:7", u64::MAX))
    }))
}

fn refuse(error: OptionError<'_>) -> Failure {
    let remedy = match error {
        OptionError::Workload(name) | OptionError::Scenario(name) => match nearest(name, names()) {
            Some(near) => format!("did you mean `{near}`? `tollgate workloads` lists them all"),
            None => "`tollgate workloads` lists them".to_owned(),
        },
        OptionError::Iterations(item) => {
            let name = item.split(':').next().unwrap_or_default();
            let most = Workload::by_name(name).map_or(1, |workload| workload.most);
            format!("`{name}` takes 1 to {most} iterations")
        }
        OptionError::Unknown(_) | OptionError::Value(_) | OptionError::Mark(_) => {
            "`tollgate run --help` lists them".to_owned()
        }
    };
    Failure::usage(error).remedy(remedy)
}

/// Every name that a run can be asked for.
fn names() -> impl Iterator<Item = &'static str> {
    let workloads = TABLE.iter().map(|workload| workload.name);
    workloads.chain(scenario::TABLE.iter().map(|scenario| scenario.name)).chain([ATLAS, bench::EVERY, random::NAME])
}

/// The name most like `word`, if any is similar at all.
pub fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const ALIKE: f64 = 0.7;
    let likeness = |name: &str| strsim::jaro_winkler(&word.to_lowercase(), name);
    let best = names.map(|name| (likeness(name), name)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= ALIKE).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(workloads: &[&str]) -> Result<String, Failure> {
        Selection { workloads: workloads.iter().map(|&item| item.to_owned()).collect(), ..Selection::default() }
            .options()
    }

    #[test]
    fn workloads_are_repeated_or_listed() {
        assert_eq!(line(&[]).unwrap(), "leaf-map=autumn2021 watchdog=200000000");
        let listed = line(&["cpuid:5,memory", "hlt"]).unwrap();
        assert!(listed.ends_with(" workloads=cpuid:5,memory,hlt"), "{listed}");
    }

    #[test]
    fn scenarios_are_asked_for_by_the_same_option() {
        assert!(line(&["atlas"]).unwrap().ends_with("watchdog=200000000 scenarios=all"));
        assert!(line(&["getsec,xsaves"]).unwrap().ends_with(" workloads=none scenarios=getsec,xsaves"));
        assert!(line(&["cpuid,getsec"]).unwrap().ends_with(" workloads=cpuid scenarios=getsec"));
    }

    #[test]
    fn an_atlas_may_stand_for_some_scenarios() {
        let atlas = Some(vec!["pushf", "rsm"]);
        let some = Selection { workloads: vec![ATLAS.to_owned()], atlas, ..Selection::default() };
        let line = some.options().unwrap();
        let options = Options::parse(&line).unwrap();
        assert_eq!(options.selected(1).count(), TABLE.iter().filter(|workload| workload.is_default(1)).count());
        assert_eq!(options.scenarios().map(|scenario| scenario.name).collect::<Vec<_>>(), ["pushf", "rsm"]);
    }

    #[test]
    fn vcpus_are_told_where_there_are_several() {
        let of = |run| Selection { run, ..Selection::default() }.options();
        let two = Options { cpus: 2, ..usual_options() };
        assert_eq!(of(two).unwrap(), "leaf-map=autumn2021 watchdog=200000000 cpus=2");
        let going_on = Options { without_missing_cpus: true, ..two };
        assert!(of(going_on).unwrap().ends_with(" cpus=2 missing-cpus=go-on"));
        let most = Options { cpus: 17, ..usual_options() };
        assert!(of(most).unwrap_err().to_string().contains("`cpus=17` has a value that it does not take"));
    }

    #[test]
    fn a_workload_of_two_vcpus_is_refused_on_one() {
        let failure = line(&["cpuid,ipi-halted"]).unwrap_err().to_string();
        assert_eq!(failure, "`ipi-halted` runs on 2 vCPUs, and 1 is asked for\n  remedy: add --cpus 2");
        let run = Options { cpus: 2, ..usual_options() };
        let two = Selection { run, workloads: vec!["ipi-halted".to_owned()], ..Selection::default() };
        assert!(two.options().unwrap().ends_with(" workloads=ipi-halted cpus=2"));
    }

    #[test]
    fn a_limit_is_told_where_there_is_one() {
        let run = Options { limit_ticks: Some(5), ..usual_options() };
        let limited = Selection { run, ..Selection::default() };
        assert_eq!(limited.options().unwrap(), "leaf-map=autumn2021 watchdog=200000000 limit=5");
    }

    #[test]
    fn marks_and_the_last_text_are_escaped() {
        let marks = vec![("kernel".to_owned(), "Linux version ".to_owned()), ("up".to_owned(), "a,b=c".to_owned())];
        let (until, guest) = (Some("login: ".to_owned()), GuestKind::WithoutBook);
        let marked = Selection { marks, until, guest, ..Selection::default() }.options().unwrap();
        assert!(marked.ends_with(" marks=kernel=Linux%20version%20,up=a%2Cb%3Dc until=login:%20"), "{marked}");
        let texts: Vec<_> = Options::parse(&marked).unwrap().marks().map(|mark| mark.text.to_string()).collect();
        assert_eq!(texts, ["Linux version ", "a,b=c"]);
        let marks = (0..16).map(|at| (format!("mark-{at}"), ",".repeat(64))).collect();
        let failure = Selection { marks, ..Selection::default() }.options().unwrap_err().to_string();
        assert!(failure.contains("workloads or marks is too long"), "{failure}");
    }

    #[test]
    fn another_guest_runs_the_workloads_that_are_named_and_may_keep_no_book() {
        let line = |guest, workloads: &[&str]| {
            let workloads = workloads.iter().map(|&item| item.to_owned()).collect();
            Selection { guest, workloads, ..Selection::default() }.options().unwrap()
        };
        assert!(line(GuestKind::Other, &[]).ends_with("watchdog=200000000 workloads=none"));
        assert!(line(GuestKind::Other, &["cpuid"]).ends_with("watchdog=200000000 workloads=cpuid"));
        assert!(line(GuestKind::WithoutBook, &[]).ends_with("watchdog=200000000 workloads=none book=none"));
    }

    #[test]
    fn a_random_guest_has_a_seed_and_runs_alone() {
        let seed_7 = " workloads=none book=none random=7";
        assert!(line(&["random:7"]).unwrap().ends_with(seed_7) && line(&["random:0x7"]).unwrap().ends_with(seed_7));
        assert!(line(&[&format!("random:{}", u64::MAX)]).unwrap().ends_with(" random=18446744073709551615"));
        for item in
            ["random", "random:", "random:+7", "random:0x+7", "random:-1", "random:18446744073709551616", "random:x"]
        {
            let failure = line(&[item]).unwrap_err().to_string();
            assert!(failure.contains("names no random guest") && failure.contains("remedy: give a seed"), "{failure}");
        }
        for others in [["random:7,cpuid", ""], ["atlas", "random:7"], ["random:7", "random:8"]] {
            let failure = line(&others).unwrap_err().to_string();
            assert!(failure.contains("remedy: run it alone"), "{failure}");
        }
    }

    #[test]
    fn the_nearest_workload_is_suggested() {
        let check = |item: &str, part: &str| {
            let failure = line(&[item]).unwrap_err().to_string();
            assert!(failure.contains(part), "{failure}");
        };
        check("cpuidd", "did you mean `cpuid`?");
        check("getsex", "did you mean `getsec`?");
        check("HYPERCAL", "did you mean `hypercall`?");
        check("zzz", "`tollgate workloads` lists them");
        check("memory:1000000", "`memory` takes 1 to 1536 iterations");
        check("cpuid:0", "`cpuid` takes 1 to");
        let long = vec!["vmx-instructions"; 200].join(",");
        check(&long, "too long");
    }
}
