//! The host's own check of the books, which trusts no sum that it can compute and no verdict at all.

use std::fmt;

use tollgate_abi::ExitReason;
use tollgate_abi::command_line::{OptionError, Options};
use tollgate_abi::figures::Figures;
use tollgate_abi::judgement::Judgement;
use tollgate_abi::record::Kind;
use tollgate_abi::scenario::{RUNS, Scenario};
use tollgate_abi::workload::{Ends, Workload};

use super::asked::left_out;
use super::findings::Findings;
use super::{Book, Reason, Totals, VcpuAccount, parts, phases, predictions, recorded};
use crate::exits::Histogram;
use crate::log::{Count, ExitRow, KeyCount, Log, ScenarioRun, Total, WorkloadRun};

/// Finds everything that is wrong, the books first.
pub(super) fn check(
    log: &Log,
    options: &Result<Options<'_>, OptionError<'_>>,
    books: &[Book],
    reasons: &[Reason],
    per_vcpu: &[VcpuAccount],
    totals: &Totals,
    found: &mut Findings<'_>,
) {
    if let Err(error) = options {
        found.push(format!("the run's options can't be read: {error}"));
    }
    let options = options.as_ref().ok().filter(|_| !log.lost.heading);
    let keys = options.is_some_and(|options| options.keys);
    let keeps_book = books.contains(&Book::Guest) && !log.lost.heading;
    let guest_knows = keeps_book && !runs_unknown_code(log);
    reasons.iter().for_each(|reason| reason_books(log, reason, guest_knows, found));
    vcpu_books(per_vcpu, found);
    log.workloads.iter().for_each(|workload| window_sum(workload, found));
    if keeps_book {
        log.workloads.iter().for_each(|workload| workload_books(workload, found));
        predictions::check(log, keys, found);
    }
    let scenario_runs = options.map_or(RUNS, Options::scenario_runs);
    if !log.lost.heading {
        log.scenarios.iter().for_each(|run| scenario_books(run, scenario_runs, found));
    }
    for (&(vcpu, number), row) in &log.exits {
        let place = format_args!("reason {number} {} on vCPU {vcpu}", row.name);
        row_invariants(row, place, found);
        looks(number, row, place, found);
    }
    parts::check(log, keys, found);
    recorded::check(log, options, found);
    phases::check(log, reasons, totals, found);
    for (&vcpu, total) in &log.totals {
        total_invariants(log, vcpu, total, found);
    }
    if let Some(audit) = totals.audit_count
        && audit != totals.exits
    {
        let sentence = format!("all reasons: ledger {}, emulator {audit}", totals.exits);
        found.between(&[Kind::Total], sentence);
    }
    if !log.lost.heading {
        completeness(log, options, found);
    }
    if keeps_book {
        workloads_asked(log, options, found);
    }
}

/// Whether the guest ran code whose exits it can't book, as random bytes are.
fn runs_unknown_code(log: &Log) -> bool {
    let anyhow = |run: &WorkloadRun| Workload::by_name(&run.name).is_some_and(|workload| workload.ends == Ends::Anyhow);
    log.workloads.iter().any(anyhow)
}

/// Checks the ledger against the emulator's book, and against the guest's where the guest knows its exits.
fn reason_books(log: &Log, reason: &Reason, guest_knows: bool, found: &mut Findings<'_>) {
    let count = reason.exits.figures.count;
    let differs = |book: Option<u64>| book.is_some_and(|other| other != count);
    let besides = reason.scenario_count.saturating_add(reason.looks);
    let known = reason.guest_count.map(|count| count.saturating_add(besides)).filter(|_| guest_knows);
    if !differs(known) && !differs(reason.audit_count) {
        return;
    }
    let mut rows = (0..log.header.vcpus).filter_map(|vcpu| found.missing_row(vcpu, reason.number));
    let is_booked = log.tally.as_ref().is_none_or(|tally| tally.contains_key(&reason.number));
    let missing = rows.next().or_else(|| {
        let of_guest = !is_booked && known < Some(count) && !differs(reason.audit_count);
        of_guest.then(|| format!("the guest's book of reason {} {}", reason.number, reason.name))
    });
    found.unless(missing, &[Kind::Exit, Kind::Tally, Kind::Scenario], || {
        let mut sentence = format!("reason {} {}: ledger {count}", reason.number, reason.name);
        let some = |count: u64| Some(count).filter(|&count| count > 0);
        let (scenarios, looks) = (some(reason.scenario_count), some(reason.looks));
        let ours = [("guest", reason.guest_count), ("scenarios", scenarios), ("looks", looks)];
        for (book, count) in ours.into_iter().chain([("emulator", reason.audit_count)]) {
            if let Some(count) = count {
                sentence += &format!(", {book} {count}");
            }
        }
        sentence
    });
}

/// Checks each vCPU's ledger against the emulator's log of its processor: sums may agree where their parts don't. One vCPU alone
/// is its own sum.
fn vcpu_books(per_vcpu: &[VcpuAccount], found: &mut Findings<'_>) {
    for account in per_vcpu.iter().filter(|_| per_vcpu.len() > 1) {
        for reason in &account.reasons {
            if let Some(audit) = reason.audit_count.filter(|&count| count != reason.exits.figures.count) {
                let place = format!("reason {} {} on vCPU {}", reason.number, reason.name, account.vcpu);
                let missing = found.missing_row(account.vcpu, reason.number);
                found.unless(missing, &[Kind::Exit], || {
                    format!("{place}: ledger {}, emulator {audit}", reason.exits.figures.count)
                });
            }
        }
    }
}

/// Checks prediction, guest and ledger in one workload.
fn workload_books(run: &WorkloadRun, found: &mut Findings<'_>) {
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
fn window_sum(run: &WorkloadRun, found: &mut Findings<'_>) {
    let Some(end) = &run.ended else { return };
    let observed = sum(run.counts.values().map(|count| count.observed));
    if observed != end.exits {
        let missing = (observed < end.exits).then(|| format!("counts of workload {}", run.name));
        found.unless(missing, &[Kind::Count, Kind::Result, Kind::Begin], || {
            format!("workload {}: its reasons have {observed} exits, its window {}", run.name, end.exits)
        });
    }
}

/// Checks a scenario that was to be run `runs` times against its row in the table.
fn scenario_books(run: &ScenarioRun, runs: u64, found: &mut Findings<'_>) {
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
fn row_invariants(row: &ExitRow, place: fmt::Arguments<'_>, found: &mut Findings<'_>) {
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
fn looks(number: u16, row: &ExitRow, place: fmt::Arguments<'_>, found: &mut Findings<'_>) {
    let most = if ExitReason(number).look().is_some() { row.exits.figures.count } else { 0 };
    if row.looks > most {
        found.push(format!("{place}: {} looks of the monitor among {} exits", row.looks, row.exits.figures.count));
    }
}

/// Checks the invariants between a vCPU's rows and its sums.
fn total_invariants(log: &Log, vcpu: u64, total: &Total, found: &mut Findings<'_>) {
    let rows = || log.exits.range((vcpu, 0)..=(vcpu, u16::MAX)).map(|(_, row)| row);
    let (exits, cycles) =
        (sum(rows().map(|row| row.exits.figures.count)), sum(rows().map(|row| row.exits.figures.cycles)));
    let missing = found.lacks_rows(vcpu).then(|| format!("rows of the ledger of vCPU {vcpu}"));
    if exits != total.exits {
        let sentence = || format!("vCPU {vcpu}: its reasons have {exits} exits, its total {}", total.exits);
        found.unless(missing.clone(), &[Kind::Exit], sentence);
    }
    if cycles != total.cycles {
        let sentence = || format!("vCPU {vcpu}: its reasons have {cycles} cycles, its total {}", total.cycles);
        found.unless(missing, &[Kind::Exit], sentence);
    }
    if total.exits != total.entries {
        found.push(format!("vCPU {vcpu}: {} exits, {} entries", total.exits, total.entries));
    }
    let outside = total.cycles.saturating_add(total.paused);
    if outside > total.elapsed {
        found.push(format!("vCPU {vcpu}: {outside} cycles of exits and pauses in {} elapsed", total.elapsed));
    }
}

/// Checks that a finished run has said everything.
fn completeness(log: &Log, options: Option<&Options<'_>>, found: &mut Findings<'_>) {
    if log.verdict.is_none() {
        return;
    }
    let vcpus = log.header.vcpus;
    for vcpu in (0..vcpus).filter(|vcpu| !log.totals.contains_key(vcpu)).take(MOST_TOLD) {
        found.missing(&[Kind::Total], format!("the sums of vCPU {vcpu}"));
    }
    if log.totals.keys().any(|&vcpu| vcpu >= vcpus) {
        found.push(format!("the log has totals of {} vCPUs, and {vcpus} ran", log.totals.len()));
    }
    if let Some(options) = options {
        let asked = u64::from(options.cpus);
        if vcpus > asked || vcpus < asked && !options.without_missing_cpus {
            found.push(format!("the options ask for {asked} vCPUs, and {vcpus} ran"));
        }
    }
    let is_strange = |vcpu: u64| vcpu >= vcpus && !log.totals.contains_key(&vcpu);
    if let Some(&(vcpu, _)) = log.exits.keys().find(|(vcpu, _)| is_strange(*vcpu)) {
        found.push(format!("the log has ledger rows of vCPU {vcpu}, and {vcpus} ran"));
    }
    if log.quality.after_verdict > 0 {
        found.push(format!("{} records follow the verdict", log.quality.after_verdict));
    }
}

/// Checks that a run which balances had a guest's book, and ran the workloads and scenarios that were asked for.
fn workloads_asked(log: &Log, options: Option<&Options<'_>>, found: &mut Findings<'_>) {
    if log.verdict.as_ref().is_none_or(|verdict| !verdict.result.is(Judgement::Balanced)) {
        return;
    }
    let vcpus = log.header.vcpus;
    if log.tally.is_none() {
        found.missing(&[Kind::Tally], "the guest's book".to_owned());
    }
    for run in log.workloads.iter().filter(|run| !run.verdict().is(Judgement::Balanced)) {
        let missing = run.ended.is_none().then(|| format!("the result of workload {}", run.name));
        found.unless(missing, &[Kind::Result], || format!("workload {}: {}", run.name, run.verdict()));
    }
    let Some(options) = options else { return };
    let asked = options.selected(vcpus).map(|selected| (selected.workload.name, selected.iterations));
    // Only its result tells the iterations of a workload whose beginning is missing.
    let is_it = |(name, iterations): &(&str, u64), run: &WorkloadRun| {
        run.name == *name && (run.iterations == *iterations || run.iterations == 0 && run.ended.is_none())
    };
    let named = |(name, _): &(&str, u64)| format!("workload {name}");
    let missing = left_out(asked, &log.workloads, is_it, named);
    let kinds = [Kind::Begin, Kind::Result, Kind::Count, Kind::KeyCount, Kind::Samples, Kind::Cost];
    compare_asked("workloads", missing, &kinds, found);
    let of_extension = |scenario: &&Scenario| scenario.is_under(log.header.facts.extension);
    let asked = options.scenarios().filter(of_extension).map(|scenario| scenario.name);
    let named = |name: &&str| format!("scenario {name}");
    let missing = left_out(asked, &log.scenarios, |name, run| run.name == *name, named);
    compare_asked("scenarios", missing, &[Kind::Scenario], found);
}

/// Tells that something else ran than was asked for, or that some of it is missing.
fn compare_asked(what: &str, missing: Option<Vec<String>>, kinds: &[Kind], found: &mut Findings<'_>) {
    match missing {
        Some(missing) => missing.into_iter().take(MOST_TOLD).for_each(|name| found.missing(kinds, name)),
        None => found.between(kinds, format!("the {what} that ran are not those that the options ask for")),
    }
}

/// The most missing records of one kind that are told one by one.
const MOST_TOLD: usize = 20;

fn sum(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}
