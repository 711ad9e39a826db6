//! Accounts for people: the reasons, the workloads, the verdict.

use tollgate_abi::ExitReason;
use tollgate_abi::workload::TABLE as WORKLOADS;

use super::{Sheet, SheetFormat, Titled, atlas, vcpus};
use crate::account::{Account, Reason, StopFacts};

/// Writes accounts one after the other, with titles where there are several.
pub(super) fn render(accounts: &[Titled]) -> String {
    let one = |titled: &Titled| {
        let title = if accounts.len() > 1 { format!("{}\n\n", titled.title) } else { String::new() };
        title + &account(&titled.account)
    };
    accounts.iter().map(one).collect::<Vec<_>>().join("\n")
}

fn account(account: &Account) -> String {
    let mut text = heading(account);
    let mut parts = vec![reasons(account)];
    parts.extend(vcpus::sheets(account));
    parts.extend([keys(account), variants(account), workloads(account), workload_keys(account), both_ways(account)]);
    parts.extend([scenarios(account), atlas::sheet(account)]);
    for part in parts.iter().filter(|part| !part.is_empty()) {
        text += "\n";
        text += &part.render(SheetFormat::Table);
    }
    if !account.atlas.is_empty() {
        text += &format!("\n{}\n", atlas::score(account));
    }
    text += "\n";
    text += &looks(account);
    text += &verdict(account);
    text
}

fn heading(account: &Account) -> String {
    let platform = &account.platform;
    let known = |word: &str| if word.is_empty() { "unknown".to_owned() } else { word.to_owned() };
    let mut text = format!(
        "{} on {}, {}, {} vCPU{}; reasons of SDM {}, leaves of {}\n",
        known(&platform.virtualization),
        known(&platform.kind),
        known(&platform.cpu),
        account.vcpus,
        if account.vcpus == 1 { "" } else { "s" },
        known(&account.sdm_edition),
        known(&account.leaf_map),
    );
    for vcpu in &account.missing_vcpus {
        text += &format!("vCPU {vcpu} was asked for, and no processor came up for it\n");
    }
    if let Some(limit) = account.audit_limit {
        text += &format!("{limit}\n");
    }
    text
}

pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.2}%", part as f64 * 100.0 / whole as f64) }
}

pub(super) fn book(count: Option<u64>) -> String {
    count.map_or_else(|| "-".to_owned(), |count| count.to_string())
}

/// TSC ticks of one of `count` exits.
pub(super) fn average(cycles: u64, count: u64) -> String {
    format!("{:.1}", cycles as f64 / count.max(1) as f64)
}

/// The reasons that any book has, the costliest first as `perf kvm stat` has them.
fn reasons(account: &Account) -> Sheet {
    let mut sheet = Sheet::new(&[
        "no#",
        "exit reason",
        "samples#",
        "samples%#",
        "time%#",
        "min#",
        "max#",
        "avg#",
        "guest#",
        "audit#",
    ]);
    let seen = |reason: &&Reason| reason.count > 0 || reason.guest_count > Some(0) || reason.audit_count > Some(0);
    let mut rows: Vec<&Reason> = account.reasons.iter().filter(seen).collect();
    rows.sort_by_key(|reason| (std::cmp::Reverse(reason.cycles), reason.number));
    let totals = &account.totals;
    for reason in rows {
        sheet.row(vec![
            reason.number.to_string(),
            reason.name.clone(),
            reason.count.to_string(),
            percent(reason.count, totals.exits),
            percent(reason.cycles, totals.cycles),
            reason.min.to_string(),
            reason.max.to_string(),
            average(reason.cycles, reason.count),
            with_scenarios(reason),
            book(reason.audit_count),
        ]);
    }
    if !sheet.is_empty() {
        let mut all = vec![String::new(), "all".to_owned(), totals.exits.to_string()];
        all.extend([percent(totals.exits, totals.exits), percent(totals.cycles, totals.cycles)]);
        all.extend([String::new(), String::new()]);
        let average = average(totals.cycles, totals.exits);
        all.extend([average, book(totals.guest_count), book(totals.audit_count)]);
        sheet.row(all);
    }
    sheet
}

/// The keys within each reason that has any, the most frequent first.
fn keys(account: &Account) -> Sheet {
    let mut sheet = Sheet::new(&["no#", "exit reason", "key", "samples#", "of reason#", "min#", "avg#", "max#"]);
    for reason in &account.reasons {
        for key in &reason.keys {
            // Logs of earlier monitors have no extremes of keys.
            let extreme = |cycles: u64| if key.max > 0 { cycles.to_string() } else { "-".to_owned() };
            sheet.row(vec![
                reason.number.to_string(),
                reason.name.clone(),
                key.name.clone(),
                key.count.to_string(),
                percent(key.count, reason.count),
                extreme(key.min),
                average(key.cycles, key.count),
                extreme(key.max),
            ]);
        }
    }
    sheet
}

/// The variants of each reason that has any. An atlas has them in its own rows.
fn variants(account: &Account) -> Sheet {
    let mut sheet = Sheet::new(&["no#", "exit reason", "variant", "samples#", "of reason#", "min#", "avg#", "max#"]);
    for reason in account.reasons.iter().filter(|_| account.atlas.is_empty()) {
        for variant in &reason.variants {
            sheet.row(vec![
                reason.number.to_string(),
                reason.name.clone(),
                variant.name.clone(),
                variant.count.to_string(),
                percent(variant.count, reason.count),
                variant.min.to_string(),
                average(variant.cycles, variant.count),
                variant.max.to_string(),
            ]);
        }
    }
    sheet
}

fn workloads(account: &Account) -> Sheet {
    let mut sheet = Sheet::new(&["workload", "iterations#", "exits#", "cycles/iteration#", "verdict"]);
    for workload in &account.workloads {
        let verdict = match workload.message.as_str() {
            "" => workload.verdict.clone(),
            message => format!("{}: {message}", workload.verdict),
        };
        let ended = !matches!(workload.verdict.as_str(), "stopped" | "unfinished");
        let known = |figure: String| if ended { figure } else { "-".to_owned() };
        sheet.row(vec![
            workload.name.clone(),
            workload.iterations.to_string(),
            known(workload.exits.to_string()),
            known(format!("{:.1}", workload.cycles_per_iteration)),
            verdict,
        ]);
    }
    sheet
}

/// The workloads of the local APIC whose exits the processor can spare, both ways.
fn both_ways(account: &Account) -> Sheet {
    let mut sheet = Sheet::new(&[
        "local APIC",
        "exits#",
        "by exits, cycles/iteration#",
        "exits#",
        "by hardware, cycles/iteration#",
    ]);
    let ran = |name: &str| account.workloads.iter().find(|run| run.name == name && run.verdict == "balanced");
    for workload in WORKLOADS {
        let Some(twin) = workload.by_hardware() else { continue };
        if let (Some(by_exits), Some(by_hardware)) = (ran(workload.name), ran(twin.name)) {
            let mut cells = vec![workload.name.to_owned()];
            for run in [by_exits, by_hardware] {
                cells.extend([run.exits.to_string(), format!("{:.1}", run.cycles_per_iteration)]);
            }
            sheet.row(cells);
        }
    }
    sheet
}

/// What workloads predict of keys, and what came of it.
fn workload_keys(account: &Account) -> Sheet {
    let mut sheet = Sheet::new(&["workload", "reason#", "key", "predicted#", "ledger#"]);
    for workload in &account.workloads {
        for key in &workload.keys {
            sheet.row(vec![
                workload.name.clone(),
                key.reason.to_string(),
                key.name.clone(),
                key.predicted.to_string(),
                key.observed.to_string(),
            ]);
        }
    }
    sheet
}

/// The guest's own count, and behind a plus sign what scenarios added to the ledger.
fn with_scenarios(reason: &Reason) -> String {
    match reason.scenario_count {
        0 => book(reason.guest_count),
        more => format!("{}+{more}", reason.guest_count.unwrap_or(0)),
    }
}

/// Why the ledger has external interrupts that no other book but the emulator's has.
fn looks(account: &Account) -> String {
    match account.reasons.iter().fold(0, |sum: u64, reason| sum.saturating_add(reason.looks)) {
        0 => String::new(),
        1 => "1 of the external interrupts is the monitor's own look at a guest that ran long (watchdog)\n".to_owned(),
        looks => format!(
            "{looks} of the external interrupts are the monitor's own looks at a guest that ran long (watchdog)\n"
        ),
    }
}

fn scenarios(account: &Account) -> Sheet {
    let mut sheet = Sheet::new(&["scenario", "reason#", "exits#", "verdict"]);
    for scenario in &account.scenarios {
        let verdict = match scenario.detail.as_str() {
            "" => scenario.verdict.clone(),
            detail => format!("{}: {detail}", scenario.verdict),
        };
        sheet.row(vec![scenario.name.clone(), scenario.reason.to_string(), scenario.observed.to_string(), verdict]);
    }
    sheet
}

fn verdict(account: &Account) -> String {
    let mut text = format!("verdict: {}\n", account.verdict);
    let told = |finding: &&String| !account.verdict.contains(finding.as_str());
    for finding in account.findings.iter().filter(told) {
        text += &format!("  also: {finding}\n");
    }
    if let Some(stop) = account.stop.as_ref().filter(|stop| stop.outcome != "exited") {
        text += &last_exit(stop);
    }
    if let Some(remedy) = &account.remedy {
        text += &format!("  remedy: {remedy}\n");
    }
    if account.log.damaged > 0 {
        text += &format!(
            "  {} damaged records and {} lines of noise were skipped\n",
            account.log.damaged, account.log.noise
        );
    }
    text
}

/// The exit after which the guest did not run again.
fn last_exit(stop: &StopFacts) -> String {
    let mut parts: Vec<String> = stop.vcpu.iter().map(|vcpu| format!("vCPU {vcpu}")).collect();
    parts.push(stop.outcome.clone());
    if let Some(field) = stop.reason {
        // Bits 15:0 are the basic exit reason (SDM 3C 25.9.1).
        let reason = ExitReason(field as u16);
        parts.push(format!("reason {} {}", reason.0, reason.name()));
    }
    parts.extend(stop.qualification.map(|qualification| format!("qualification {qualification:#x}")));
    parts.extend(stop.rip.map(|rip| format!("RIP {rip:#x}")));
    parts.extend(Some(stop.detail.clone()).filter(|detail| !detail.is_empty()));
    format!("  last exit: {}\n", parts.join(", "))
}
