//! The account of a run: what `--json` writes and every report shows.
//!
//! It is computed here from the records alone and checked again on the host (see [`verify`]), so that a verdict of the
//! monitor that its own numbers contradict does not pass.

mod asked;
pub mod atlas;
mod books;
mod build;
mod cpuid;
mod documents;
mod findings;
mod many;
mod merge;
mod parts;
pub mod phases;
mod predictions;
mod recorded;
mod vcpus;
mod verdict;
mod verify;

pub use books::Book;
pub use cpuid::{CpuidValue, Unit};
pub use many::{Accounted, Many};
pub use merge::{Group, MERGED_SCHEMA, MOST_KINDS, Merge, Merged, MergedReason, MergedRow, Share, Spread};
pub use phases::{Mark, Phase, PhaseReason};
pub use recorded::{Rate, TraceFacts};
pub use vcpus::{VcpuAccount, VcpuReason};
pub use verdict::Verdict;

use std::collections::BTreeMap;

use compact_str::CompactString;
use serde::Serialize;
use tollgate_abi::ExitReason;
use tollgate_abi::exit_reason::{Status as ExitStatus, UNKNOWN_ROW};

use crate::exits::Exits;
use crate::failure::Status;
use crate::log::{Judged, KeyCount, KeyRow, Named, ScenarioRun, Silicon, Stop, VariantRow};
use crate::symbols::Symbols;
use tollgate_abi::figures::Figures;

/// The document's format. Fields may be added under this name, not renamed.
pub const SCHEMA: &str = "tollgate.account/1";

/// The gap of an audit where the emulator's log does not name processors.
pub const SUMS_ONLY: &str =
    "the emulator's log does not name processors: the audit compares sums over all vCPUs, and no vCPU by itself";

/// One run's account.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Account {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The platform that it ran on.
    pub platform: PlatformFacts,
    /// Properties of vCPU 0's processor that decide what exits cost, besides its model; absent where the log does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silicon: Option<Silicon>,
    /// `balanced`, or what failed.
    pub verdict: Verdict,
    /// The books that the verdict rests on: those that were compared. Empty where the run kept no ledger.
    pub books: Vec<Book>,
    /// The remedy for a person; `null` where none is known.
    pub remedy: Option<String>,
    /// Everything that the host found wrong, the first of which may be the verdict.
    pub findings: Vec<String>,
    /// The records that are damaged or missing, where they may hide differences; left out where none do. The figures of such a run are
    /// not whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
    /// Number of vCPUs.
    pub vcpus: u64,
    /// vCPUs that were asked for and had no processor, where the run went on without them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing_vcpus: Vec<u64>,
    /// The part that the audit could not compare; `null` where there was no audit, or it compared all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_limit: Option<&'static str>,
    /// Sums over all reasons and vCPUs; `null` where those of a vCPU are missing.
    #[serde(serialize_with = "documents::totals")]
    pub totals: Totals,
    /// One row for each reason that the log has, in ascending order.
    pub reasons: Vec<Reason>,
    /// The totals and reasons of each vCPU.
    pub per_vcpu: Vec<VcpuAccount>,
    /// The marks in the guest's console, those that were reached in their order, then the others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<Mark>,
    /// The run as these marks cut it, from its beginning to its end; empty where none was reached.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<Phase>,
    /// Exits over time, where they were sampled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rates: Vec<Rate>,
    /// The sums of the traces, by vCPU, where exits were traced.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub traces: Vec<TraceFacts>,
    /// The workloads, in the order in which they ran.
    pub workloads: Vec<WorkloadAccount>,
    /// The scenarios, in the order in which they ran.
    pub scenarios: Vec<ScenarioRun>,
    /// The exits of several runs together, where an atlas was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub atlas: Vec<AtlasRow>,
    /// The values that `cpuid` read in the guest, in the order in which it printed them, where they are compared.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpuid: Vec<CpuidValue>,
    /// Lines of `cpuid` behind those that are kept: they are not compared.
    #[serde(skip_serializing_if = "is_none")]
    pub cpuid_lines_beyond: u64,
    /// The guest's end, if the monitor said.
    pub stop: Option<Stop>,
    /// The last line of the guest's console that is not empty; left out where the guest keeps a book or wrote none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_line: Option<String>,
    /// The monitor's build.
    pub build: String,
    /// The run's options.
    pub options: String,
    /// The seed from which the guest was made, where it is a random one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The map of the course's leaves.
    pub leaf_map: String,
    /// Edition of the exit-reason table.
    pub sdm_edition: String,
    /// The log's quality.
    pub log: LogFacts,
    /// The exit status of the process.
    #[serde(skip)]
    pub status: Status,
}

impl Account {
    /// The findings that the verdict does not tell already.
    pub fn other_findings(&self) -> impl Iterator<Item = &String> {
        let verdict = self.verdict.to_string();
        self.findings.iter().filter(move |finding| !verdict.contains(finding.as_str()))
    }

    /// Whether it tells the number of its exits: a run that ended before its ledger was written, kept none, or has lost records of
    /// it does not.
    pub fn has_whole_ledger(&self) -> bool {
        let is_whole = self.doubt.is_none() && !self.totals.lost;
        matches!(self.status, Status::Balanced | Status::Differs) && self.totals.exits > 0 && is_whole
    }

    /// The lost records, unless the verdict tells them already.
    pub fn other_doubt(&self) -> Option<&String> {
        self.doubt.as_ref().filter(|_| !matches!(self.verdict, Verdict::Unjudged(_)))
    }

    /// Names the place where the guest ended, in its end and in the verdict.
    pub fn name_end(&mut self, symbols: &Symbols) {
        let Some(stop) = &mut self.stop else { return };
        let Some((rip, symbol)) = stop.rip.and_then(|rip| Some((rip, symbols.place(rip)?))) else { return };
        self.verdict.name_place(rip, &symbol);
        stop.symbol = Some(symbol);
    }

    /// The guest's end, unless it ended by its own wish and with its book.
    pub fn early_stop(&self) -> Option<&Stop> {
        self.stop.as_ref().filter(|stop| !matches!(stop.outcome, Named::Known(outcome) if outcome.is_intended()))
    }
}

/// The platform of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlatformFacts {
    /// The emulator, or the platform that the monitor took the machine for.
    pub kind: String,
    /// The emulator's own name and version, where one ran it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emulator: Option<String>,
    /// The virtualization extension in use.
    pub virtualization: String,
    /// The processor's name.
    pub cpu: String,
}

/// Sums over all reasons and vCPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Exits.
    pub exits: u64,
    /// VM entries.
    pub entries: u64,
    /// TSC ticks spent on exits.
    pub cycles: u64,
    /// TSC ticks from the first entry until the last exit was dealt with.
    pub elapsed: u64,
    /// TSC ticks of idle time that were skipped: they passed on the guest's clock alone. Left out where there are none.
    #[serde(skip_serializing_if = "is_none")]
    pub skipped: u64,
    /// Exits in the guest's own book; `null` where there is none.
    pub guest_count: Option<u64>,
    /// Exits in the emulator's log, without those of the monitor's own probes (`probe` records); `null` without an audit.
    pub audit_count: Option<u64>,
    /// Whether the sums of a vCPU are missing from the log, so that these are of some vCPUs only.
    #[serde(skip)]
    pub lost: bool,
}

/// One reason's row, over all vCPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reason {
    /// The basic exit reason; one past the newest collects unknown numbers.
    pub number: u16,
    /// The SDM's name.
    pub name: CompactString,
    /// Whether the controls in force can produce it; empty if the log has no row.
    pub status: Named<ExitStatus>,
    /// The reason's exits.
    pub exits: Exits,
    /// Exits in the guest's own book; `null` where there is none.
    pub guest_count: Option<u64>,
    /// The keys that tell the exits apart, the most frequent first and the exits that were not kept apart last; empty where keys
    /// were not kept or the reason has none.
    pub keys: Vec<KeyRow>,
    /// The kinds of exits that cost differently, whatever their keys; empty where keys were not kept or the reason has none.
    pub variants: Vec<VariantRow>,
    /// Exits that scenarios provoked: they are in the ledger, and not in the guest's book.
    pub scenario_count: u64,
    /// Exits by which the monitor looked at a guest that ran long, for its watchdog. Left out where there are none.
    pub looks: u64,
    /// Exits in the emulator's log, without those of the monitor's own probes (`probe` records); `null` without an audit.
    pub audit_count: Option<u64>,
    /// Whether its row, or that of one of several vCPUs, is missing from the log: its figures are not known, and documents leave them
    /// out.
    pub lost: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
pub(crate) fn is_none(count: &u64) -> bool {
    *count == 0
}

/// One workload. The maps go from a reason's number to a count.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorkloadAccount {
    /// The workload's name.
    pub name: String,
    /// The workload's iterations.
    pub iterations: u64,
    /// The prediction of its row in the table.
    pub predicted: BTreeMap<u16, u64>,
    /// The guest's book.
    pub guest: BTreeMap<u16, u64>,
    /// The ledger's exits by reason.
    pub observed: BTreeMap<u16, u64>,
    /// The exits among these that were the monitor's own looks at a guest that ran long; empty where there are none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub looks: BTreeMap<u16, u64>,
    /// The prediction of keys in its row, and the ledger's counts of them; empty where keys were not kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<KeyCount>,
    /// The monitor's verdict; `stopped` where the guest was stopped in it, `unfinished` where the log ends in it.
    pub verdict: Judged,
    /// The assertion that did not hold; empty if all did.
    pub message: String,
    /// Exits in its window.
    pub exits: u64,
    /// TSC ticks of its window.
    pub cycles: u64,
    /// TSC ticks of its window over its iterations.
    pub cycles_per_iteration: f64,
    /// System-management interrupts in its window, whose time is in those ticks; absent where nobody counted them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smis: Option<u64>,
}

/// One reason in an atlas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AtlasRow {
    /// The basic exit reason.
    pub number: u16,
    /// The SDM's name.
    pub name: String,
    /// The reason's exits and their ticks.
    #[serde(flatten)]
    pub figures: Figures,
    /// Exits in the emulator's log of that run.
    pub audit_count: Option<u64>,
    /// The means by which it was provoked, or the reason that it was not.
    pub how: String,
    /// The platform that produced it; empty if none did.
    pub platform: String,
    /// Whether this emulator can produce it at all.
    pub possible: bool,
    /// Its kinds that cost differently, those that were not produced with a count of 0; empty where it has none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<AtlasVariant>,
}

/// One variant of a reason in an atlas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AtlasVariant {
    /// The variant's exits in the run that produced it.
    #[serde(flatten)]
    pub row: VariantRow,
    /// The means by which a scenario provoked it, or the reason that it was not produced; empty where workloads did.
    pub how: String,
    /// The platform that produced it; empty if none did.
    pub platform: String,
    /// Whether these emulators can produce it at all.
    pub possible: bool,
}

/// The quality of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LogFacts {
    /// Records.
    pub records: u64,
    /// Lines that are no records.
    pub noise: u64,
    /// Records that were torn or written into.
    pub damaged: u64,
}

/// The name of a ledger row.
pub(crate) fn row_name(number: u16) -> &'static str {
    if usize::from(number) == UNKNOWN_ROW { "unknown reasons" } else { ExitReason(number).name() }
}
