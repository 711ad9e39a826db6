//! Builds an account from a log and an audit.

use std::collections::BTreeMap;

use compact_str::CompactString;
use tollgate_abi::command_line::Options;
use tollgate_abi::judgement::Judgement;
use tollgate_abi::record::Kind;

use super::findings::Findings;
use super::{
    Account, Book, LogFacts, PlatformFacts, Reason, SCHEMA, SUMS_ONLY, Totals, Verdict, WorkloadAccount, cpuid, parts,
    phases, recorded, row_name, vcpus, verify,
};
use crate::audit::Audit;
use crate::failure::Status;
use crate::log::{ExitRow, Judged, Log, Named, WorkloadRun};

impl Account {
    /// The account of `log`, with the emulator's own counts if there are any. `kind` is the emulator, if it is known.
    pub fn new(log: &Log, audit: Option<&Audit>, kind: Option<&str>) -> Self {
        Self::build(log, audit, kind, true)
    }

    /// The account of `log`, and the status that goes with it.
    pub fn with_status(log: &Log) -> (Status, Self) {
        let account = Self::new(log, None, None);
        (account.status, account)
    }

    /// The account of `log` for those who add up many: judged like any other, and without the keys and variants of its reasons and
    /// without the vCPUs by themselves.
    pub fn sums(log: &Log) -> Self {
        Self::build(log, None, None, false)
    }

    /// The account, with the parts of its sums if it is to be `whole`.
    fn build(log: &Log, audit: Option<&Audit>, kind: Option<&str>, whole: bool) -> Self {
        let refused = log.verdict.as_ref().is_some_and(|verdict| verdict.result.is(Judgement::Refused));
        let options = Options::parse(&log.header.options);
        let accounted = options.as_ref().map_or(true, |options| options.accounting);
        let audit = audit.filter(|_| accounted && !refused).map(|audit| audit.without(&log.probes));
        let too_few = audit.iter().flat_map(|(_, too_few)| too_few.clone()).collect::<Vec<_>>();
        let audit = audit.as_ref().map(|(audit, _)| audit);
        let guest_keeps_book = options.as_ref().map_or(true, |options| options.guest_keeps_book);
        let has_ledger = accounted && !refused;
        let mut reasons = reasons(log, audit);
        if whole {
            add_parts(log, &mut reasons);
        }
        // A profile of the built-in guest's may enable a reason for a while; a log without an end has no ledger yet.
        let has_cpuid = has_ledger && !guest_keeps_book && log.verdict.is_some();
        let (cpuid, wrong) = if has_cpuid { cpuid::of(log, &reasons) } else { (Vec::new(), Vec::new()) };
        let has_cpuid = !cpuid.is_empty() || !wrong.is_empty();
        let books = if has_ledger { Book::of_run(guest_keeps_book, audit.is_some(), has_cpuid) } else { Vec::new() };
        let totals = totals(log, audit);
        let per_vcpu = if whole { vcpus::of(log, audit) } else { Vec::new() };
        let mut found = Findings::of(log);
        if has_ledger {
            verify::check(log, &options, &books, &reasons, &per_vcpu, &totals, &mut found);
        }
        let sentence =
            |&row: &u16| format!("reason {row}: the emulator logged fewer exits than the monitor's probes made");
        too_few.iter().map(sentence).for_each(|sentence| found.push(sentence));
        wrong.into_iter().for_each(|sentence| found.between(&[Kind::Exit, Kind::Console], sentence));
        mark_lost(log, &found, &mut reasons);
        let (findings, doubt) = found.finish();
        let verdict = Verdict::of(log, &findings, doubt.as_deref(), accounted);
        let header = &log.header;
        Self {
            schema: SCHEMA,
            platform: PlatformFacts {
                kind: kind.unwrap_or(&header.platform).to_owned(),
                emulator: None,
                virtualization: header.virtualization.clone(),
                cpu: header.cpu.clone(),
            },
            silicon: log.silicon,
            books,
            remedy: log.verdict.as_ref().map(|verdict| verdict.remedy.clone()).filter(|remedy| !remedy.is_empty()),
            findings,
            doubt,
            vcpus: header.vcpus,
            seed: options.as_ref().ok().and_then(|options| options.random_seed),
            missing_vcpus: options
                .ok()
                .filter(|_| !log.lost.heading)
                .map_or(0..0, |options| header.vcpus..options.cpus.into())
                .collect(),
            audit_limit: audit.filter(|audit| !audit.tells_cpus()).map(|_| SUMS_ONLY),
            phases: if has_ledger { phases::phases(log, &reasons, &totals) } else { Vec::new() },
            marks: phases::marks(log),
            totals,
            reasons,
            per_vcpu,
            rates: recorded::rates(log),
            traces: recorded::traces(log),
            workloads: log.workloads.iter().map(|run| workload(run, log.stop.is_some())).collect(),
            scenarios: log.scenarios.clone(),
            atlas: Vec::new(),
            cpuid_lines_beyond: if has_cpuid { log.cpuid.beyond } else { 0 },
            cpuid,
            stop: log.stop.clone(),
            last_line: log.console.last.clone().filter(|_| !guest_keeps_book),
            build: header.build.clone(),
            options: header.options.clone(),
            leaf_map: header.leaf_map.clone(),
            sdm_edition: header.sdm_edition.clone(),
            log: LogFacts { records: log.quality.records, noise: log.quality.noise, damaged: log.quality.damaged },
            status: verdict.status(),
            verdict,
        }
    }
}

/// One row for each reason that any book mentions.
fn reasons(log: &Log, audit: Option<&Audit>) -> Vec<Reason> {
    let mut numbers: Vec<u16> = log.exits.keys().map(|&(_, number)| number).collect();
    numbers.extend(log.tally.iter().flatten().map(|(&number, _)| number));
    numbers.extend(audit.iter().flat_map(|audit| audit.rows()));
    numbers.sort_unstable();
    numbers.dedup();
    let mut rows: Vec<Reason> = numbers
        .iter()
        .map(|&number| {
            let guest_count = log.tally.as_ref().map(|tally| tally.get(&number).copied().unwrap_or(0));
            let audit_count = audit.map(|audit| audit.count(number));
            let name = CompactString::const_new(row_name(number));
            let of_reason = log.scenarios.iter().filter(|run| run.reason == number);
            let scenario_count = of_reason.map(|run| run.observed).fold(0, u64::saturating_add);
            Reason { number, name, guest_count, scenario_count, audit_count, ..Reason::default() }
        })
        .collect();
    for (&(_, number), row) in &log.exits {
        if let Ok(at) = numbers.binary_search(&number) {
            add(&mut rows[at], row);
        }
    }
    rows
}

/// Adds the keys and variants of each reason.
fn add_parts(log: &Log, reasons: &mut [Reason]) {
    let (mut keys, mut variants) = (parts::keys(log), parts::variants(log));
    for reason in reasons {
        reason.keys = keys.remove(&reason.number).unwrap_or_default();
        reason.variants = variants.remove(&reason.number).unwrap_or_default();
    }
}

/// Marks the reasons of which a vCPU's row may be missing, unless the guest's book tells that none is.
fn mark_lost(log: &Log, found: &Findings<'_>, reasons: &mut [Reason]) {
    if (0..log.header.vcpus).all(|vcpu| !found.lacks_rows(vcpu)) {
        return;
    }
    for reason in reasons {
        let besides = reason.scenario_count.saturating_add(reason.looks);
        let known = reason.guest_count.map(|count| count.saturating_add(besides));
        let is_booked = log.tally.as_ref().is_some_and(|tally| tally.contains_key(&reason.number));
        let is_whole = is_booked && known == Some(reason.exits.figures.count);
        let mut vcpus = 0..log.header.vcpus;
        reason.lost = !is_whole && vcpus.any(|vcpu| found.missing_row(vcpu, reason.number).is_some());
    }
}

/// Adds one vCPU's row.
fn add(reason: &mut Reason, row: &ExitRow) {
    if reason.status == Named::default() {
        reason.status.clone_from(&row.status);
        reason.name.clone_from(&row.name);
    }
    reason.exits.add(&row.exits);
    reason.looks = reason.looks.saturating_add(row.looks);
}

fn totals(log: &Log, audit: Option<&Audit>) -> Totals {
    let sum = |counts: &mut dyn Iterator<Item = u64>| counts.fold(0, u64::saturating_add);
    Totals {
        exits: sum(&mut log.totals.values().map(|total| total.exits)),
        entries: sum(&mut log.totals.values().map(|total| total.entries)),
        cycles: sum(&mut log.totals.values().map(|total| total.cycles)),
        elapsed: log.totals.values().map(|total| total.elapsed).max().unwrap_or(0),
        skipped: log.totals.values().map(|total| total.skipped).max().unwrap_or(0),
        guest_count: log.tally.as_ref().map(|tally| sum(&mut tally.values().copied())),
        lost: !log.exits.is_empty() && (0..log.header.vcpus).any(|vcpu| !log.totals.contains_key(&vcpu)),
        audit_count: audit.map(Audit::total),
    }
}

/// The account of one workload. `stopped` says that the guest ended, so that a workload without an end is the one in which it
/// did.
fn workload(run: &WorkloadRun, stopped: bool) -> WorkloadAccount {
    let end = run.ended.clone().unwrap_or_default();
    let book = |count: &dyn Fn(&crate::log::Count) -> Option<u64>| {
        run.counts.iter().filter_map(|(&number, row)| Some((number, count(row)?))).collect::<BTreeMap<_, _>>()
    };
    WorkloadAccount {
        name: run.name.clone(),
        iterations: run.iterations,
        predicted: book(&|row| row.predicted),
        guest: book(&|row| row.guest),
        observed: book(&|row| Some(row.observed)),
        looks: book(&|row| Some(row.looks).filter(|&looks| looks > 0)),
        keys: run.keys.clone(),
        verdict: match run.verdict() {
            Judged::Unfinished if stopped => Judged::Known(Judgement::Stopped),
            verdict => verdict.clone(),
        },
        message: end.message,
        exits: end.exits,
        cycles: end.cycles,
        smis: end.smis,
        cycles_per_iteration: if run.iterations == 0 { 0.0 } else { end.cycles as f64 / run.iterations as f64 },
    }
}
