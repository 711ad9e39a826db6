//! A baseline: the figures of a measurement and its conditions, as a JSON file.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tollgate_abi::bench::Bench;
use tollgate_abi::scenario::Scenario;

use super::parts::Split;
use super::statistics::{Distribution, Statistics};
use crate::failure::Failure;
use crate::log::printable;
use crate::output_file;

/// The name and the version of the file's schema.
pub const SCHEMA: &str = "tollgate-bench-1";

/// The most bytes of a file that is read as a baseline.
const MOST_BYTES: u64 = 64 << 20;

/// The figures that `bench` measures, prints as JSON, and saves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// [`SCHEMA`].
    pub schema: String,
    /// The platform that it was measured on.
    pub platform: Identity,
    /// The image's checksum. Another image alone is no reason not to compare.
    pub image: String,
    /// Boots of each row.
    pub runs: u32,
    /// The microbenchmarks.
    pub rows: Vec<Row>,
    /// The operations that have budgets, where they were measured.
    pub budgets: Vec<Budget>,
}

/// The facts that have to be the same for figures to be comparable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The platform's name, as `--on` takes it.
    pub platform: String,
    /// Whether each run is the same to the tick.
    pub repeats: bool,
    /// The emulator's own name and version.
    pub emulator: String,
    /// The virtualization extension.
    pub extension: String,
    /// Bochs' model, or the counterpart on other platforms.
    pub model: String,
    /// The processor's name, as the processor tells it.
    pub cpu: String,
    /// Memory of the machine, in MiB.
    pub memory_mib: u16,
    /// The machine that runs the emulator; it matters where nothing repeats.
    pub host: String,
    /// The version of tollgate.
    pub tollgate: String,
}

/// One microbenchmark, or a scenario that was timed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The row's name.
    pub name: String,
    /// Iterations in all boots, warm-up included.
    pub iterations: u64,
    /// The ledger's exits in them.
    pub exits: u64,
    /// The ledger's cycles of these exits.
    pub cycles: u64,
    /// Samples by their ticks.
    pub distribution: Distribution,
    /// The statistics that follow; `null` where the processor does not have the operation.
    pub statistics: Option<Statistics>,
    /// The parts of the mean; `null` where they can't be told apart.
    pub parts: Option<Split>,
    /// The reason that a scenario was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lacks: Option<String>,
}

impl Row {
    /// The scenario that it is about, if any. The monitor times scenarios, from before the VM entry to the exit.
    pub fn scenario(&self) -> Option<&'static Scenario> {
        Scenario::by_name(&self.name)
    }
}

/// One operation with a budget, in ticks of one iteration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// The operation.
    pub exit: String,
    /// Ticks with the ledger.
    pub ticks: f64,
    /// The ticks that it may take.
    pub budget: u64,
    /// The ticks under Linux' KVM, where that was measured.
    pub kvm: Option<u64>,
    /// The ledger's part of the ticks.
    pub ledger: f64,
    /// The ticks that keys add.
    pub keys: f64,
    /// Ticks with the ledger on eight vCPUs at once.
    pub vcpus_8: f64,
    /// The verdict: the figures over their budget, if any.
    pub verdict: String,
}

impl Baseline {
    /// The file's text.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn save(&self, path: &Path) -> Result<(), Failure> {
        output_file::write(path, self.to_json().as_bytes())
    }

    /// Reads a baseline.
    ///
    /// # Errors
    /// The file can't be read, is no baseline, or contradicts itself; the sentence says what.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let refuse = |what: String| refusal(path, &what);
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes));
        read.map_err(|error| refuse(format!("it can't be read: {error}")))?;
        if bytes.len() as u64 > MOST_BYTES {
            return Err(refuse("it is too large for a baseline".to_owned()));
        }
        Self::parse(&bytes).map_err(|what| refuse(what).remedy(SAVE_ANOTHER))
    }

    /// Checks that it can be compared with measurements on `platform`; `path` is the file that it came from.
    ///
    /// # Errors
    /// It was measured on another platform; the sentence says what differs.
    pub fn is_of(&self, platform: &Identity, path: &Path) -> Result<(), Failure> {
        let other = platform.difference(&self.platform);
        other.map_or(Ok(()), |what| Err(refusal(path, &what).remedy(SAVE_ANOTHER)))
    }

    /// Reads and checks the text of a baseline.
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let value: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|error| format!("it is no JSON document: {error}"))?;
        match value.get("schema").and_then(|schema| schema.as_str()) {
            Some(SCHEMA) => {}
            Some(other) => return Err(format!("its schema is `{}`, not `{SCHEMA}`", printable(other))),
            None => return Err(format!("it is no baseline: it has no `schema` of `{SCHEMA}`")),
        }
        let baseline: Self = serde_json::from_value(value).map_err(|error| format!("it is malformed: {error}"))?;
        baseline.rows.iter().try_for_each(Row::check)?;
        for (at, row) in baseline.rows.iter().enumerate() {
            if baseline.rows[..at].iter().any(|other| other.name == row.name) {
                return Err(format!("it has `{}` twice", printable(&row.name)));
            }
        }
        Ok(baseline)
    }
}

fn refusal(path: &Path, what: &str) -> Failure {
    Failure::usage(format_args!("{} can't be compared with: {what}", path.display()))
}

const SAVE_ANOTHER: &str = "save one of this platform by --save";

impl Row {
    /// Checks each derived figure against the figures that it comes from.
    fn check(&self) -> Result<(), String> {
        let name = &printable(&self.name);
        if Bench::by_name(name).is_none() && self.scenario().is_none() {
            return Err(format!("there is no microbenchmark `{name}`"));
        }
        let derived = self.distribution.statistics();
        let same = |a: f64, b: f64| (a - b).abs() <= 1e-6 * (1.0 + a.abs());
        let agree = match (&derived, &self.statistics) {
            (None, None) => true,
            (Some(derived), Some(told)) => {
                same(derived.mean, told.mean) && Statistics { mean: told.mean, ..derived.clone() } == *told
            }
            _ => false,
        };
        if !agree {
            return Err(format!("the statistics of `{name}` are not those of its distribution"));
        }
        if self.distribution.samples() > self.iterations {
            return Err(format!("`{name}` has more samples than iterations"));
        }
        match (&self.parts, &derived) {
            (Some(parts), Some(derived)) if !same(parts.sum(), derived.mean) => Err(format!(
                "the parts of `{name}` are {:.3} ticks together, its mean is {:.3}",
                parts.sum(),
                derived.mean
            )),
            (Some(_), None) => Err(format!("`{name}` has parts and no samples")),
            _ => Ok(()),
        }
    }
}

impl Identity {
    /// The first difference between this platform and that of a baseline, as a clause; `None` if they are the same.
    pub fn difference(&self, baseline: &Identity) -> Option<String> {
        let pairs = [
            ("platform", &self.platform, &baseline.platform),
            ("emulator", &self.emulator, &baseline.emulator),
            ("extension", &self.extension, &baseline.extension),
            ("processor model", &self.model, &baseline.model),
            ("processor", &self.cpu, &baseline.cpu),
            ("host", &self.host, &baseline.host),
            ("version of tollgate", &self.tollgate, &baseline.tollgate),
        ];
        let other = pairs.iter().find(|(_, here, there)| here != there);
        let other =
            other.map(|(what, here, there)| format!("its {what} is `{}`, and here it is `{here}`", printable(there)));
        let (here, there) = (self.memory_mib, baseline.memory_mib);
        other.or_else(|| {
            (here != there).then(|| format!("its machine has {there} MiB of memory, and here it is {here}"))
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn identity() -> Identity {
        Identity {
            platform: "bochs".into(),
            repeats: true,
            emulator: "Bochs 2.7".into(),
            extension: "VT-x".into(),
            model: "tigerlake".into(),
            cpu: "Test CPU".into(),
            memory_mib: 32,
            host: String::new(),
            tollgate: "0.1.0".into(),
        }
    }

    pub(in super::super) fn row(name: &str, samples: &[(u32, u64)]) -> Row {
        let mut distribution = Distribution::default();
        samples.iter().for_each(|&(ticks, count)| distribution.add(ticks, count));
        let statistics = distribution.statistics();
        let mean = statistics.as_ref().map_or(0.0, |statistics| statistics.mean);
        let parts = Some(Split { timing: 4.0, transition: 4.0, frame: 34.0, handler: mean - 59.0, account: 17.0 });
        let (name, lacks) = (name.into(), None);
        Row { name, iterations: 1016, exits: 1016, cycles: 50_800, distribution, statistics, parts, lacks }
    }

    pub(in super::super) fn baseline(platform: Identity, rows: Vec<Row>) -> Baseline {
        Baseline { schema: SCHEMA.into(), platform, image: "0".into(), runs: 1, rows, budgets: Vec::new() }
    }

    fn load(text: &str, platform: &Identity) -> Result<Baseline, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("baseline.json");
        std::fs::write(&path, text).unwrap();
        let read = Baseline::load(&path);
        let compared = read.and_then(|baseline| baseline.is_of(platform, &path).map(|()| baseline));
        compared.map_err(|failure| {
            assert_eq!(failure.status, crate::failure::Status::Usage);
            failure.to_string()
        })
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("baseline.json");
        let saved = baseline(identity(), vec![row("cpuid", &[(86, 999), (87, 1)])]);
        saved.save(&path).unwrap();
        assert_eq!(Baseline::load(&path).unwrap(), saved);
    }

    #[test]
    fn another_platform_schema_or_version_is_refused_with_the_reason() {
        let text = baseline(identity(), vec![row("cpuid", &[(86, 1000)])]).to_json();
        let check = |platform: Identity, what: &str| {
            let refusal = load(&text, &platform).unwrap_err();
            assert!(refusal.contains(what), "{refusal}");
        };
        check(
            Identity { platform: "qemu-tcg".into(), ..identity() },
            "its platform is `bochs`, and here it is `qemu-tcg`",
        );
        check(Identity { emulator: "Bochs 3.0".into(), ..identity() }, "its emulator is `Bochs 2.7`");
        check(Identity { model: "zambezi".into(), ..identity() }, "its processor model is `tigerlake`");
        check(Identity { tollgate: "0.2.0".into(), ..identity() }, "its version of tollgate is `0.1.0`");
        check(Identity { memory_mib: 64, ..identity() }, "its machine has 32 MiB of memory");
        let refusal = load(&text.replace(SCHEMA, "tollgate-bench-0"), &identity()).unwrap_err();
        assert!(refusal.contains("its schema is `tollgate-bench-0`"), "{refusal}");
    }

    #[test]
    fn what_was_edited_is_refused_with_a_sentence() {
        let text = baseline(identity(), vec![row("cpuid", &[(86, 1000)])]).to_json();
        let check = |from: &str, to: &str, what: &str| {
            assert!(text.contains(from), "{from} in {text}");
            let refusal = load(&text.replace(from, to), &identity()).unwrap_err();
            assert!(refusal.contains(what), "{refusal}");
        };
        check("\"median\": 86", "\"median\": 85", "the statistics of `cpuid` are not those of its distribution");
        check("\"86\": 1000", "\"85\": 1000", "the statistics of `cpuid` are not those of its distribution");
        check("\"handler\": 27.0", "\"handler\": 26.0", "the parts of `cpuid` are 85.000 ticks together");
        check("\"iterations\": 1016", "\"iterations\": 16", "more samples than iterations");
        check("\"name\": \"cpuid\"", "\"name\": \"cpuidd\"", "there is no microbenchmark `cpuidd`");
        check("\"exits\": 1016", "\"exits\": -1", "it is malformed");
        check("\"runs\": 1,", "", "it is malformed: missing field `runs`");
        check("\"name\": \"cpuid\"", "\"name\": \"\\u001b[31m\"", "there is no microbenchmark `\\u{1b}[31m`");
        assert!(load(&text[..text.len() / 2], &identity()).unwrap_err().contains("it is no JSON document"));
        assert!(load("[]", &identity()).unwrap_err().contains("it is no baseline"));
        let twice = baseline(identity(), vec![row("cpuid", &[(86, 1)]), row("cpuid", &[(86, 1)])]).to_json();
        assert!(load(&twice, &identity()).unwrap_err().contains("it has `cpuid` twice"));
    }
}
