//! The columns of a data set's tables: their names, types and meaning, and the value that a row has in each.

use std::sync::Arc;

use crate::account::{Account, VcpuReason};
use crate::exits::Histogram;

/// A column of rows `R`. Columns may be added to a table; none is renamed, and none gets another type.
#[derive(Clone, Copy, Debug)]
pub struct Column<R: 'static> {
    /// The column's name.
    pub name: &'static str,
    /// The meaning of its values.
    pub about: &'static str,
    /// Its type, and its value in a row.
    pub(super) value: Value<R>,
}

/// A type, and the way to a value of it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<R: 'static> {
    Text(for<'a> fn(&'a R) -> &'a str),
    U16(fn(&R) -> u64),
    U32(fn(&R) -> u64),
    U64(fn(&R) -> u64),
    OptionalU64(fn(&R) -> Option<u64>),
    Flag(fn(&R) -> bool),
    /// A list whose item n has the exits of 2^n ticks and more, up to the last that has any.
    Histogram(for<'a> fn(&'a R) -> &'a Histogram),
}

impl<R> Column<R> {
    const fn new(name: &'static str, about: &'static str, value: Value<R>) -> Self {
        Self { name, about, value }
    }

    /// The type's name in documents.
    pub fn type_name(&self) -> &'static str {
        match self.value {
            Value::Text(_) => "string",
            Value::U16(_) => "uint16",
            Value::U32(_) => "uint32",
            Value::U64(_) => "uint64",
            Value::OptionalU64(_) => "uint64 or null",
            Value::Flag(_) => "bool",
            Value::Histogram(_) => "list of uint64",
        }
    }
}

/// The table of some rows.
pub(super) trait Table {
    /// The name of its folder.
    const NAME: &'static str;
    /// Its name and version, in the metadata of each file.
    const SCHEMA: &'static str;
}

/// A run.
#[derive(Debug)]
pub struct RunRow {
    log: String,
    cpu: String,
    build: String,
    options: String,
    leaf_map: String,
    sdm_edition: String,
    vcpus: u64,
    verdict: String,
    sentence: String,
    status: u64,
    accounted: bool,
    exits: Option<u64>,
    entries: Option<u64>,
    cycles: Option<u64>,
    elapsed: Option<u64>,
    guest_exits: Option<u64>,
    seed: Option<u64>,
    records: u64,
    noise: u64,
    damaged: u64,
}

impl RunRow {
    pub(super) fn of(title: &str, account: &Account) -> Self {
        let Account { totals, log, .. } = account;
        let sums = Some(totals).filter(|totals| !totals.lost);
        Self {
            log: title.to_owned(),
            cpu: account.platform.cpu.clone(),
            build: account.build.clone(),
            options: account.options.clone(),
            leaf_map: account.leaf_map.clone(),
            sdm_edition: account.sdm_edition.clone(),
            vcpus: account.vcpus,
            verdict: account.verdict.word().to_owned(),
            sentence: account.verdict.to_string(),
            status: account.status as u64,
            accounted: account.has_whole_ledger(),
            exits: sums.map(|sums| sums.exits),
            entries: sums.map(|sums| sums.entries),
            cycles: sums.map(|sums| sums.cycles),
            elapsed: sums.map(|sums| sums.elapsed),
            guest_exits: totals.guest_count,
            seed: account.seed,
            records: log.records,
            noise: log.noise,
            damaged: log.damaged,
        }
    }
}

impl Table for RunRow {
    const NAME: &'static str = "runs";
    const SCHEMA: &'static str = "tollgate.runs/1";
}

/// One reason on one vCPU of a run.
#[derive(Debug)]
pub struct AccountRow {
    pub(super) log: Arc<str>,
    pub(super) cpu: Arc<str>,
    pub(super) vcpu: u64,
    pub(super) reason: VcpuReason,
}

impl Table for AccountRow {
    const NAME: &'static str = "accounts";
    const SCHEMA: &'static str = "tollgate.accounts/1";
}

/// The columns of the table of runs.
pub const RUNS: &[Column<RunRow>] = &[
    Column::new("log", "the log's name, as it was found", Value::Text(|row| &row.log)),
    Column::new("cpu", "the processor's name", Value::Text(|row| &row.cpu)),
    Column::new("build", "the monitor's build", Value::Text(|row| &row.build)),
    Column::new("options", "the run's options", Value::Text(|row| &row.options)),
    Column::new("leaf_map", "the term of its CPUID leaves", Value::Text(|row| &row.leaf_map)),
    Column::new("sdm_edition", "the SDM's edition of the exit reasons", Value::Text(|row| &row.sdm_edition)),
    Column::new("vcpus", "vCPUs", Value::U32(|row| row.vcpus)),
    Column::new("verdict", "the verdict's first word: `balanced`, `differs`, ...", Value::Text(|row| &row.verdict)),
    Column::new("sentence", "the whole verdict", Value::Text(|row| &row.sentence)),
    Column::new("status", "the exit status that `report` has for it", Value::U16(|row| row.status)),
    Column::new(
        "accounted",
        "whether its exits are in `accounts`, as they are in `--merge`",
        Value::Flag(|row| row.accounted),
    ),
    Column::new("exits", "exits", Value::OptionalU64(|row| row.exits)),
    Column::new("entries", "VM entries", Value::OptionalU64(|row| row.entries)),
    Column::new("cycles", "TSC ticks of all exits", Value::OptionalU64(|row| row.cycles)),
    Column::new(
        "elapsed",
        "TSC ticks from the first entry to the end of the last exit, of the vCPU that ran longest",
        Value::OptionalU64(|row| row.elapsed),
    ),
    Column::new("guest_exits", "exits in the guest's book", Value::OptionalU64(|row| row.guest_exits)),
    Column::new("seed", "the seed of a random guest", Value::OptionalU64(|row| row.seed)),
    Column::new("records", "records in the log", Value::U64(|row| row.records)),
    Column::new("noise", "lines that are no records", Value::U64(|row| row.noise)),
    Column::new("damaged", "damaged records", Value::U64(|row| row.damaged)),
];

/// The columns of the table of accounts.
pub const ACCOUNTS: &[Column<AccountRow>] = &[
    Column::new("log", "the run's log, as in `runs`", Value::Text(|row| &row.log)),
    Column::new("cpu", "the processor's name", Value::Text(|row| &row.cpu)),
    Column::new("vcpu", "the vCPU", Value::U32(|row| row.vcpu)),
    Column::new("number", "the basic exit reason", Value::U16(|row| row.reason.number.into())),
    Column::new("reason", "its name", Value::Text(|row| &row.reason.name)),
    Column::new("count", "exits; never 0", Value::U64(|row| row.reason.exits.figures.count)),
    Column::new("cycles", "TSC ticks of these", Value::U64(|row| row.reason.exits.figures.cycles)),
    Column::new("min", "TSC ticks of the shortest", Value::U64(|row| row.reason.exits.figures.min)),
    Column::new("max", "TSC ticks of the longest", Value::U64(|row| row.reason.exits.figures.max)),
    Column::new("looks", "the monitor's own looks at the guest among these", Value::U64(|row| row.reason.looks)),
    Column::new(
        "histogram",
        "item n, from 0: exits of 2^n ticks to less than twice that",
        Value::Histogram(|row| &row.reason.exits.histogram),
    ),
];
