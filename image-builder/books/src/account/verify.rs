//! The host's own check of the books, which trusts no sum that it can compute and no verdict at all.

use tollgate_abi::ExitReason;
use tollgate_abi::command_line::{OptionError, Options};
use tollgate_abi::figures::Figures;
use tollgate_abi::judgement::Judgement;
use tollgate_abi::scenario::{RUNS, Scenario};
use tollgate_abi::workload::{Ends, Workload};

use super::{Book, Reason, Totals, VcpuAccount, parts, predictions, recorded};
use crate::exits::Histogram;
use crate::log::{Count, ExitRow, KeyCount, Log, ScenarioRun, Total, WorkloadRun};

/// Everything that is wrong, as sentences, the books first.
pub(super) fn findings(
    log: &Log,
    options: &Result<Options<'_>, OptionError<'_>>,
    books: &[Book],
    reasons: &[Reason],
    per_vcpu: &[VcpuAccount],
    totals: &Totals,
) -> Vec<String> {
    let mut found = Vec::new();
    if let Err(error) = options {
        found.push(format!("the run's options can't be read: {error}"));
    }
    let options = options.as_ref().ok();
    let keys = options.is_some_and(|options| options.keys);
    let keeps_book = books.contains(&Book::Guest);
    let guest_knows = keeps_book && !runs_unknown_code(log);
    reasons.iter().for_each(|reason| reason_books(reason, guest_knows, &mut found));
    vcpu_books(per_vcpu, &mut found);
    log.workloads.iter().for_each(|workload| window_sum(workload, &mut found));
    if keeps_book {
        log.workloads.iter().for_each(|workload| workload_books(workload, &mut found));
        predictions::check(log, keys, &mut found);
    }
    let scenario_runs = options.map_or(RUNS, Options::scenario_runs);
    log.scenarios.iter().for_each(|run| scenario_books(run, scenario_runs, &mut found));
    for (&(vcpu, number), row) in &log.exits {
        let place = format!("reason {number} {} on vCPU {vcpu}", row.name);
        row_invariants(row, &place, &mut found);
        looks(number, row, &place, &mut found);
    }
    parts::check(log, keys, &mut found);
    recorded::check(log, options, &mut found);
    for (&vcpu, total) in &log.totals {
        total_invariants(log, vcpu, total, &mut found);
    }
    if let Some(audit) = totals.audit_count
        && audit != totals.exits
    {
        found.push(format!("all reasons: ledger {}, emulator {audit}", totals.exits));
    }
    completeness(log, options, &mut found);
    if keeps_book {
        workloads_asked(log, options, &mut found);
    }
    found
}

/// Whether the guest ran code whose exits it can't book, as random bytes are.
fn runs_unknown_code(log: &Log) -> bool {
    let anyhow = |run: &WorkloadRun| Workload::by_name(&run.name).is_some_and(|workload| workload.ends == Ends::Anyhow);
    log.workloads.iter().any(anyhow)
}

/// Checks the ledger against the emulator's book, and against the guest's where the guest knows its exits.
fn reason_books(reason: &Reason, guest_knows: bool, found: &mut Vec<String>) {
    let differs = |book: Option<u64>| book.is_some_and(|count| count != reason.exits.figures.count);
    let besides = reason.scenario_count.saturating_add(reason.looks);
    let known = reason.guest_count.map(|count| count.saturating_add(besides));
    if guest_knows && differs(known) || differs(reason.audit_count) {
        let mut sentence = format!("reason {} {}: ledger {}", reason.number, reason.name, reason.exits.figures.count);
        let some = |count: u64| Some(count).filter(|&count| count > 0);
        let (scenarios, looks) = (some(reason.scenario_count), some(reason.looks));
        let ours = [("guest", reason.guest_count), ("scenarios", scenarios), ("looks", looks)];
        for (book, count) in ours.into_iter().chain([("emulator", reason.audit_count)]) {
            if let Some(count) = count {
                sentence += &format!(", {book} {count}");
            }
        }
        found.push(sentence);
    }
}

/// Checks each vCPU's ledger against the emulator's log of its processor: sums may agree where their parts don't. One vCPU alone
/// is its own sum.
fn vcpu_books(per_vcpu: &[VcpuAccount], found: &mut Vec<String>) {
    for account in per_vcpu.iter().filter(|_| per_vcpu.len() > 1) {
        for reason in &account.reasons {
            if let Some(audit) = reason.audit_count.filter(|&count| count != reason.exits.figures.count) {
                let place = format!("reason {} {} on vCPU {}", reason.number, reason.name, account.vcpu);
                found.push(format!("{place}: ledger {}, emulator {audit}", reason.exits.figures.count));
            }
        }
    }
}

/// Checks prediction, guest and ledger in one workload.
fn workload_books(run: &WorkloadRun, found: &mut Vec<String>) {
    if run.ended.is_none() {
        return;
    }
    for (&number, count) in &run.counts {
        let Count { predicted, guest, observed, looks } = *count;
        let differs = |book: Option<u64>| book.is_some_and(|count| Some(count) != observed.checked_sub(looks));
        if differs(predicted) || differs(guest) {
            let shown = |book: Option<u64>| book.map_or_else(|| "unknown".to_owned(), |count| count.to_string());
            let looks = if looks > 0 { format!(", looks {looks}") } else { String::new() };
            found.push(format!(
                "workload {}, reason {number}: predicted {}, guest {}{looks}, ledger {observed}",
                run.name,
                shown(predicted),
                shown(guest)
            ));
        }
    }
    for KeyCount { reason, name, predicted, observed, .. } in
        run.keys.iter().filter(|key| key.predicted != key.observed)
    {
        found.push(format!("workload {}, reason {reason}, {name}: predicted {predicted}, ledger {observed}", run.name));
    }
}

/// Checks the ledger's rows in one workload against its sum.
fn window_sum(run: &WorkloadRun, found: &mut Vec<String>) {
    let Some(end) = &run.ended else { return };
    let observed = sum(run.counts.values().map(|count| count.observed));
    if observed != end.exits {
        found.push(format!("workload {}: its reasons have {observed} exits, its window {}", run.name, end.exits));
    }
}

/// Checks a scenario that was to be run `runs` times against its row in the table.
fn scenario_books(run: &ScenarioRun, runs: u64, found: &mut Vec<String>) {
    let Some(scenario) = Scenario::by_name(&run.name) else {
        return found.push(format!("there is no scenario {}", run.name));
    };
    let denied = run.verdict.is(Judgement::Denied);
    let expected = if denied { 0 } else { runs };
    if scenario.reasons().all(|reason| reason.0 != run.reason) || run.predicted != expected || run.observed != expected
    {
        let ScenarioRun { name, reason, predicted, observed, .. } = run;
        found.push(format!(
            "scenario {name}, reason {reason}: predicted {predicted}, ledger {observed}, table {expected}"
        ));
    } else if !denied && !run.verdict.is(Judgement::Balanced) {
        found.push(format!("scenario {}: {} ({})", run.name, run.verdict, run.detail));
    }
}

/// Checks the invariants of each ledger row.
fn row_invariants(row: &ExitRow, place: &str, found: &mut Vec<String>) {
    let mut check = |holds: bool, problem: &dyn Fn() -> String| {
        if !holds {
            found.push(format!("{place}: {}", problem()));
        }
    };
    let Figures { count, min, max, .. } = row.exits.figures;
    let in_buckets = row.exits.histogram.count();
    check(in_buckets == count, &|| format!("the histogram has {in_buckets} exits, the count is {count}"));
    check(count == 0 || min <= max, &|| format!("the minimum {min} is above the maximum {max}"));
    if let Some(contradiction) = row.exits.figures.contradiction() {
        check(false, &|| contradiction.to_string());
    }
    let buckets = row.exits.histogram.buckets();
    let extremes = [buckets.first(), buckets.last()].map(|bucket| bucket.map(|bucket| bucket.bucket));
    check(count == 0 || extremes == [min, max].map(|cycles| Some(Histogram::bucket_of(cycles))), &|| {
        format!("minimum {min} and maximum {max} are not in the histogram's outer buckets")
    });
}

/// Checks that only reasons for which the monitor looks at a guest have such looks.
fn looks(number: u16, row: &ExitRow, place: &str, found: &mut Vec<String>) {
    let most = if ExitReason(number).look().is_some() { row.exits.figures.count } else { 0 };
    if row.looks > most {
        found.push(format!("{place}: {} looks of the monitor among {} exits", row.looks, row.exits.figures.count));
    }
}

/// Checks the invariants between a vCPU's rows and its sums.
fn total_invariants(log: &Log, vcpu: u64, total: &Total, found: &mut Vec<String>) {
    let rows = || log.exits.range((vcpu, 0)..=(vcpu, u16::MAX)).map(|(_, row)| row);
    let (exits, cycles) =
        (sum(rows().map(|row| row.exits.figures.count)), sum(rows().map(|row| row.exits.figures.cycles)));
    let mut check = |holds: bool, problem: String| {
        if !holds {
            found.push(format!("vCPU {vcpu}: {problem}"));
        }
    };
    check(exits == total.exits, format!("its reasons have {exits} exits, its total {}", total.exits));
    check(cycles == total.cycles, format!("its reasons have {cycles} cycles, its total {}", total.cycles));
    check(total.exits == total.entries, format!("{} exits, {} entries", total.exits, total.entries));
    check(total.cycles <= total.elapsed, format!("{} cycles of exits in {} elapsed", total.cycles, total.elapsed));
}

/// Checks that a finished run has said everything.
fn completeness(log: &Log, options: Option<&Options<'_>>, found: &mut Vec<String>) {
    if log.verdict.is_none() {
        return;
    }
    let vcpus = log.header.vcpus;
    if !log.totals.keys().copied().eq(0..vcpus) {
        let lacking = (0..vcpus).find(|vcpu| !log.totals.contains_key(vcpu));
        let lacking = lacking.map_or_else(String::new, |vcpu| format!(", but vCPU {vcpu} has none"));
        found.push(format!("the log has totals of {} vCPUs, and {vcpus} ran{lacking}", log.totals.len()));
    }
    if let Some(options) = options {
        let asked = u64::from(options.cpus);
        if vcpus > asked || vcpus < asked && !options.without_missing_cpus {
            found.push(format!("the options ask for {asked} vCPUs, and {vcpus} ran"));
        }
    }
    if let Some(&(vcpu, _)) = log.exits.keys().find(|(vcpu, _)| !log.totals.contains_key(vcpu)) {
        found.push(format!("the log has ledger rows of vCPU {vcpu} and no total"));
    }
    if log.quality.after_verdict > 0 {
        found.push(format!("{} records follow the verdict", log.quality.after_verdict));
    }
}

/// Checks that a run which balances had a guest's book, and ran the workloads and scenarios that were asked for.
fn workloads_asked(log: &Log, options: Option<&Options<'_>>, found: &mut Vec<String>) {
    if log.verdict.as_ref().is_none_or(|verdict| !verdict.result.is(Judgement::Balanced)) {
        return;
    }
    let vcpus = log.header.vcpus;
    if log.tally.is_none() {
        found.push("the log has no book of the guest".to_owned());
    }
    if let Some(run) = log.workloads.iter().find(|run| !run.verdict().is(Judgement::Balanced)) {
        found.push(format!("workload {}: {}", run.name, run.verdict()));
    }
    if let Some(options) = options {
        let ran = log.workloads.iter().map(|run| (run.name.as_str(), run.iterations));
        let asked = options.selected(vcpus).map(|selected| (selected.workload.name, selected.iterations));
        if !asked.eq(ran) {
            found.push("the workloads that ran are not those that the options ask for".to_owned());
        }
        let of_extension = |scenario: &&Scenario| scenario.is_under(log.header.facts.extension);
        let asked = options.scenarios().filter(of_extension).map(|scenario| scenario.name);
        if !asked.eq(log.scenarios.iter().map(|run| run.name.as_str())) {
            found.push("the scenarios that ran are not those that the options ask for".to_owned());
        }
    }
}

fn sum(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}
