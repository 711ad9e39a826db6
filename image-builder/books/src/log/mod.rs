//! A serial log as the records that it holds: the header, the workloads, the ledger, the guest's book, the verdict.
//!
//! Reading is streaming and bounded, whatever the log holds. Nothing is judged here; that is [`crate::account`]'s.

mod cpuid;
mod error;
mod fields;
mod files;
mod judged;
mod line;
mod lost;
mod marked;
mod named;
mod packing;
mod reader;
mod recorded;
mod runs;
mod source;

pub use cpuid::{CpuidLine, CpuidLines};
pub use error::LogError;
pub(crate) use files::is_called_a_log;
pub use files::{Found, find};
pub use judged::Judged;
pub use lost::{Lost, LostLine};
pub use marked::{Marked, Reached};
pub use named::{Name, Named};
pub use packing::Packing;
pub use reader::LogReader;
pub use recorded::{Part, Steps, TraceEnd, Traced};
pub use runs::{Run, Select, read_file};
pub use source::STANDARD_INPUT;

pub use fields::printable;

use std::collections::BTreeMap;

use compact_str::CompactString;
use serde::Serialize;
use tollgate_abi::exit_reason::Status;
use tollgate_abi::figures::Figures;
use tollgate_abi::virtualization::Facts;
use tollgate_abi::workload::Outcome;

use crate::exits::Exits;

/// Everything that one run said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The first record.
    pub header: Header,
    /// Properties of vCPU 0's processor; `None` in logs that do not tell.
    pub silicon: Option<Silicon>,
    /// The reasons that the controls of each profile enable, as bits by their numbers; empty in logs that do not tell.
    pub enabled: BTreeMap<String, u128>,
    /// The ticks of the way through the monitor, where microbenchmarks ran.
    pub calibration: Option<Calibration>,
    /// Exits for each reason that the monitor's own probes made before the guest ran: they are in the emulator's log alone.
    pub probes: BTreeMap<u16, u64>,
    /// The marks in the guest's console, in the order of their records.
    pub marks: Vec<Marked>,
    /// The workloads, in the order in which they ran.
    pub workloads: Vec<WorkloadRun>,
    /// The scenarios, in the order in which they ran.
    pub scenarios: Vec<ScenarioRun>,
    /// The ledger's rows by vCPU and reason.
    pub exits: BTreeMap<(u64, u16), ExitRow>,
    /// The keys of ledger rows, by vCPU and reason, where they were kept.
    pub keys: BTreeMap<(u64, u16), Vec<KeyRow>>,
    /// The variants of ledger rows, by vCPU and reason.
    pub variants: BTreeMap<(u64, u16), Vec<VariantRow>>,
    /// The sums of each vCPU's trace.
    pub traces: BTreeMap<u64, Traced>,
    /// Exits over time, by vCPU and reason.
    pub rates: BTreeMap<(u64, u16), Steps>,
    /// The guest's own book by reason; `None` if the log has none.
    pub tally: Option<BTreeMap<u16, u64>>,
    /// Sums by vCPU.
    pub totals: BTreeMap<u64, Total>,
    /// The answers of the account's leaves that the guest printed, as Debian's `cpuid` prints them.
    pub cpuid: CpuidLines,
    /// The guest's end.
    pub stop: Option<Stop>,
    /// The last record; `None` in the log of an unfinished run.
    pub verdict: Option<Verdict>,
    /// The lines of the guest that tell of its end.
    pub console: Console,
    /// The log's quality.
    pub quality: Quality,
    /// The records that did not arrive.
    pub lost: Lost,
}

/// The lines of the guest that tell of its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Console {
    /// The line with which a Linux kernel gives up, if it did.
    pub panic: Option<String>,
    /// The last line that is not empty.
    pub last: Option<String>,
}

/// The words with which Linux gives up.
const PANIC: &str = "Kernel panic - not syncing";

impl Console {
    fn line(&mut self, line: String) {
        if line.contains(PANIC) {
            self.panic.get_or_insert_with(|| line.clone());
        }
        if !line.trim().is_empty() {
            self.last = Some(line);
        }
    }
}

/// The header: the build, the machine and the options of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The monitor's build.
    pub build: String,
    /// The platform that the monitor took the machine for.
    pub platform: String,
    /// The virtualization extension, as in `vt-x`.
    pub virtualization: String,
    /// The processor's name.
    pub cpu: String,
    /// Edition of the exit-reason table.
    pub sdm_edition: String,
    /// The map of the course's leaves.
    pub leaf_map: String,
    /// Number of vCPUs.
    pub vcpus: u64,
    /// Facts that predictions depend on besides the controls.
    pub facts: Facts,
    /// The run's options.
    pub options: String,
}

/// One workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadRun {
    /// The workload's name.
    pub name: String,
    /// The workload's iterations.
    pub iterations: u64,
    /// The workload's `result` record.
    pub ended: Option<WorkloadEnd>,
    /// The workload's `count` records by reason.
    pub counts: BTreeMap<u16, Count>,
    /// The workload's `keycount` records.
    pub keys: Vec<KeyCount>,
    /// A microbenchmark's samples in their order.
    pub samples: Samples,
    /// The ledger's figures of a microbenchmark's exits by reason.
    pub costs: BTreeMap<u16, Cost>,
}

impl WorkloadRun {
    /// The monitor's judgement of the workload.
    pub fn verdict(&self) -> &Judged {
        self.ended.as_ref().map_or(&Judged::Unfinished, |end| &end.verdict)
    }
}

/// TSC ticks of several loops of `turns` turns each, in root operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calibration {
    /// The turns of each loop.
    pub turns: u64,
    /// Ticks of the loop itself.
    pub empty: u64,
    /// Ticks of the loop with the guest's registers saved and restored.
    pub frame: u64,
    /// Ticks of the loop with that and with the account of an exit.
    pub whole: u64,
    /// The part of these ticks that the account itself measured.
    pub inside: u64,
}

/// Samples in the order in which they were taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Samples {
    /// Runs of equal samples: TSC ticks of each, and the number of samples.
    pub runs: Vec<(u32, u32)>,
    /// The number of samples in all runs.
    pub count: u64,
}

impl Samples {
    fn extend(&mut self, runs: Vec<(u32, u32)>) {
        let more = runs.iter().map(|&(_, count)| u64::from(count)).sum();
        self.count = self.count.saturating_add(more);
        self.runs.extend(runs);
    }
}

/// The exits of one reason in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Exits.
    pub exits: u64,
    /// TSC ticks of all of them, by the ledger.
    pub cycles: u64,
}

/// One key that a workload predicts, as an account shows it, too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KeyCount {
    /// The basic exit reason that it divides.
    pub reason: u16,
    /// The key.
    pub key: u64,
    /// The key as people write it.
    pub name: CompactString,
    /// Exits that the workload's row in the table predicts.
    pub predicted: u64,
    /// Exits that the ledger has of it in the workload's window.
    pub observed: u64,
}

/// One scenario, as an account shows it, too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ScenarioRun {
    /// The scenario's name.
    pub name: String,
    /// The reason that it is about.
    pub reason: u16,
    /// The monitor's judgement of the scenario.
    pub verdict: Judged,
    /// Exits that it predicts.
    pub predicted: u64,
    /// Exits that the ledger has.
    pub observed: u64,
    /// The fault, or the feature that the processor lacks.
    pub detail: String,
    /// Samples, where it was timed: TSC ticks from before the VM entry to the exit's time stamp.
    #[serde(skip)]
    pub samples: Samples,
    /// The ledger's figures of its reason's exits in these samples.
    #[serde(skip)]
    pub cost: Cost,
}

/// The end of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadEnd {
    /// The monitor's judgement of the workload.
    pub verdict: Judged,
    /// Exits in its window.
    pub exits: u64,
    /// TSC ticks of its window.
    pub cycles: u64,
    /// System-management interrupts in its window; `None` where nobody counted them.
    pub smis: Option<u64>,
    /// The assertion that did not hold.
    pub message: String,
}

/// The counts of one reason in one workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// The count that the workload's row in the table predicts.
    pub predicted: Option<u64>,
    /// The count of the guest's own tally.
    pub guest: Option<u64>,
    /// The count of the ledger.
    pub observed: u64,
    /// The exits among those of the ledger that were the monitor's own looks at a guest that ran long.
    pub looks: u64,
}

/// One row of the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExitRow {
    /// The reason's name.
    pub name: CompactString,
    /// Whether the controls in force can produce it.
    pub status: Named<Status>,
    /// Its exits.
    pub exits: Exits,
    /// The exits among these that were the monitor's own looks at a guest that ran long.
    pub looks: u64,
}

/// The exits of one key within a reason, as an account shows them, too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KeyRow {
    /// The key; `null` for the exits that were not kept apart.
    pub key: Option<u64>,
    /// The key as people write it, or `others`.
    pub name: CompactString,
    /// Its exits and their ticks.
    #[serde(flatten)]
    pub figures: Figures,
}

/// The exits of one variant of a reason, as an account shows them, too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VariantRow {
    /// The variant's name in `abi::key::VARIANTS`.
    pub name: CompactString,
    /// Its exits and their ticks.
    #[serde(flatten)]
    pub figures: Figures,
}

/// One vCPU's sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// Exits.
    pub exits: u64,
    /// VM entries.
    pub entries: u64,
    /// TSC ticks of all exits.
    pub cycles: u64,
    /// TSC ticks from the first entry until the last exit was dealt with.
    pub elapsed: u64,
    /// TSC ticks of idle time that were skipped: they passed on the guest's clock alone.
    pub skipped: u64,
    /// The ticks among these in which the monitor worked for the guest outside of exits; 0 in logs that do not tell.
    pub paused: u64,
}

/// Properties of vCPU 0's processor that decide what exits cost, besides its model, as an account shows them, too. A property that
/// the processor does not tell is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Silicon {
    /// Revision of its microcode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub microcode: Option<u64>,
    /// Threads of one core: 1 without hyper-threading.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads_per_core: Option<u64>,
    /// IA32_SPEC_CTRL: bit 0 is IBRS, bit 1 STIBP, bit 2 SSBD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec_ctrl: Option<u64>,
    /// System-management interrupts that it had taken before the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smis_before: Option<u64>,
    /// System-management interrupts in the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smis: Option<u64>,
    /// Ticks of the time-stamp counter in a second; absent where it does not count time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tsc_hz: Option<u64>,
}

/// The guest's end, as an account shows it, too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stop {
    /// The vCPU that ended it; `null` where the log does not tell.
    pub vcpu: Option<u64>,
    /// The way in which it ended.
    pub outcome: Named<Outcome>,
    /// The guest's RIP.
    pub rip: Option<u64>,
    /// The exit-reason field of its last exit.
    pub reason: Option<u64>,
    /// The exit qualification of its last exit.
    pub qualification: Option<u64>,
    /// The code that the guest ended itself with, by the debug-exit port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u64>,
    /// The guest's function at RIP, where its symbols are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symbol: Option<String>,
    /// More detail for a person.
    pub detail: String,
}

/// The monitor's verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The monitor's judgement.
    pub result: Judged,
    /// More detail for a person.
    pub detail: String,
    /// The remedy, for a person.
    pub remedy: String,
    /// The records that the monitor wrote before this one; `None` in logs that do not tell.
    pub records: Option<u64>,
}

/// The quality of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quality {
    /// Records.
    pub records: u64,
    /// Lines that are no records: firmware messages, other programs.
    pub noise: u64,
    /// Records that were torn or written into.
    pub damaged: u64,
    /// Records behind the verdict, where nothing should be.
    pub after_verdict: u64,
}
