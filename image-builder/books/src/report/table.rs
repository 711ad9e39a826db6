//! Accounts for people: the reasons, the workloads, the verdict.

use std::io::{self, Write};

use anstyle::AnsiColor;
use tollgate_abi::ExitReason;
use tollgate_abi::judgement::Judgement;
use tollgate_abi::machine::legacy_pc::qemu_status;
use tollgate_abi::workload::{Outcome, TABLE as WORKLOADS};

use super::figures::{average, book, percent, seen, unless_lost};
use super::{Form, Look, Order, Sheet, SheetFormat, Titled, atlas, bars, merged, phases, silicon, vcpus};
use crate::account::{Account, Book, Merged, Reason, VcpuAccount};
use crate::failure::Status;
use crate::log::{Judged, Named, Stop};
use crate::terminal::Terminal;

/// The form.
#[derive(Debug)]
pub(super) struct Tables {
    several: bool,
    look: Look,
    begun: bool,
}

impl Tables {
    pub(super) fn new(several: bool, look: Look) -> Self {
        Self { several, look, begun: false }
    }
}

impl Form for Tables {
    fn has_order(&self) -> bool {
        true
    }

    fn has_histogram(&self) -> bool {
        true
    }

    fn add(&mut self, titled: Titled, out: &mut dyn Write) -> io::Result<()> {
        let separator = if self.begun { "\n" } else { "" };
        self.begun = true;
        let title = if self.several { format!("{}\n\n", titled.title) } else { String::new() };
        write!(out, "{separator}{title}{}", render(&titled.account, self.look))
    }

    fn finish(&mut self, _: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn merged(&self, merged: &Merged) -> String {
        merged::table(merged, self.look)
    }
}

/// Writes one account.
fn render(account: &Account, look: Look) -> String {
    let terminal = &look.terminal;
    let mut text = lines(&heading(account), terminal);
    let mut add = |part: &Sheet| {
        text += "\n";
        text += &part.within(SheetFormat::Table, terminal.columns);
    };
    let reasons = reasons(account, look.order);
    if !reasons.is_empty() {
        add(&reasons);
    }
    parts(account).iter().for_each(|(_, part)| add(part));
    if look.histogram {
        text += &format!("\n{}", bars::of(account, look));
    }
    if !account.atlas.is_empty() {
        text += &format!("\n{}\n", atlas::score(account));
    }
    text += "\n";
    text += &lines(&looks(account), terminal);
    text += &lines(&idle(account), terminal);
    text += &lines(&phases::answers(account).join("\n"), terminal);
    let verdict = verdict(account);
    let (first, more) = verdict.split_once('\n').unwrap_or((&verdict, ""));
    let color = if account.status == Status::Balanced { AnsiColor::Green } else { AnsiColor::Red };
    text += &(terminal.paint(color.on_default().bold(), &terminal.wrap(first)) + "\n");
    text + &lines(more, terminal)
}

/// Lines of text, each wrapped where the terminal wants that.
fn lines(text: &str, terminal: &Terminal) -> String {
    text.lines().map(|line| terminal.wrap(line) + "\n").collect()
}

/// The sheets besides that of the reasons, each with its caption.
pub(super) fn parts(account: &Account) -> Vec<(&'static str, Sheet)> {
    let mut parts = vec![("Phases", phases::sheet(account))];
    parts.extend(vcpus::sheets(account));
    parts.extend([
        ("Keys within reasons", keys(account)),
        ("Variants of reasons", variants(account)),
        ("Workloads", workloads(account)),
        ("Keys that workloads predict", workload_keys(account)),
        ("The local APIC by exits and by hardware", both_ways(account)),
        ("Scenarios", scenarios(account)),
        ("Atlas of exits", atlas::sheet(account)),
    ]);
    parts.retain(|(_, sheet)| !sheet.is_empty());
    parts
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
    for line in
        [silicon::properties(account)].into_iter().filter(|line| !line.is_empty()).chain(silicon::disturbed(account))
    {
        text += &format!("{line}\n");
    }
    for vcpu in &account.missing_vcpus {
        text += &format!("vCPU {vcpu} was asked for, and no processor came up for it\n");
    }
    if let Some(limit) = account.audit_limit {
        text += &format!("{limit}\n");
    }
    text
}

/// The reasons that any book has, as `perf kvm stat` has them.
fn reasons(account: &Account, order: Order) -> Sheet {
    let mut heading = vec!["no#", "exit reason", "samples#", "samples%#", "time%#", "min#", "max#", "avg#"];
    // Microseconds, where ticks are time.
    let microseconds = |cycles, count| silicon::microseconds(account, cycles, count);
    heading.extend(microseconds(0, 0).map(|_| "avg us#"));
    heading.extend(["guest#", "audit#"]);
    let mut sheet = Sheet::new(&heading);
    let mut rows = seen(account);
    order.sort(&mut rows);
    let totals = &account.totals;
    for reason in rows {
        let figures = reason.exits.figures;
        let known = |figure: String| unless_lost(reason.lost, figure);
        let share = |part: u64, whole: u64| unless_lost(reason.lost || totals.lost, percent(part, whole));
        let mut cells = vec![
            reason.number.to_string(),
            reason.name.to_string(),
            known(figures.count.to_string()),
            share(figures.count, totals.exits),
            share(figures.cycles, totals.cycles),
            known(figures.min.to_string()),
            known(figures.max.to_string()),
            known(average(figures.cycles, figures.count)),
        ];
        cells.extend(microseconds(figures.cycles, figures.count).map(known));
        cells.extend([with_scenarios(reason), book(reason.audit_count)]);
        sheet.row(cells);
    }
    if !sheet.is_empty() {
        let known = |figure: String| unless_lost(totals.lost, figure);
        let mut all = vec![String::new(), "all".to_owned(), known(totals.exits.to_string())];
        all.extend([percent(totals.exits, totals.exits), percent(totals.cycles, totals.cycles)].map(known));
        all.extend([String::new(), String::new()]);
        all.push(known(average(totals.cycles, totals.exits)));
        all.extend(microseconds(totals.cycles, totals.exits).map(known));
        all.extend([book(totals.guest_count), book(totals.audit_count)]);
        sheet.row(all);
    }
    sheet
}

/// The keys of each reason that has any, the most frequent first.
fn keys(account: &Account) -> Sheet {
    let mut sheet = Sheet::new(&["no#", "exit reason", "key", "samples#", "of reason#", "min#", "avg#", "max#"]);
    for reason in &account.reasons {
        for key in &reason.keys {
            // Logs of earlier monitors do not have a key's shortest and longest exit.
            let extreme = |cycles: u64| if key.figures.max > 0 { cycles.to_string() } else { "-".to_owned() };
            sheet.row(vec![
                reason.number.to_string(),
                reason.name.to_string(),
                key.name.to_string(),
                key.figures.count.to_string(),
                percent(key.figures.count, reason.exits.figures.count),
                extreme(key.figures.min),
                average(key.figures.cycles, key.figures.count),
                extreme(key.figures.max),
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
                reason.name.to_string(),
                variant.name.to_string(),
                variant.figures.count.to_string(),
                percent(variant.figures.count, reason.exits.figures.count),
                variant.figures.min.to_string(),
                average(variant.figures.cycles, variant.figures.count),
                variant.figures.max.to_string(),
            ]);
        }
    }
    sheet
}

fn workloads(account: &Account) -> Sheet {
    let mut sheet = Sheet::new(&["workload", "iterations#", "exits#", "cycles/iteration#", "verdict"]);
    for workload in &account.workloads {
        let verdict = match workload.message.as_str() {
            "" => workload.verdict.to_string(),
            message => format!("{}: {message}", workload.verdict),
        };
        let ended = !matches!(workload.verdict, Judged::Unfinished | Judged::Known(Judgement::Stopped));
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

/// The workloads of the local APIC whose exits the processor can spare: with these exits and without.
fn both_ways(account: &Account) -> Sheet {
    let mut sheet = Sheet::new(&[
        "local APIC",
        "exits#",
        "by exits, cycles/iteration#",
        "exits#",
        "by hardware, cycles/iteration#",
    ]);
    let ran = |name: &str| account.workloads.iter().find(|run| run.name == name && run.verdict.is(Judgement::Balanced));
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

/// The predictions of keys by workloads, and their results.
fn workload_keys(account: &Account) -> Sheet {
    let mut sheet = Sheet::new(&["workload", "reason#", "key", "predicted#", "ledger#"]);
    for workload in &account.workloads {
        for key in &workload.keys {
            sheet.row(vec![
                workload.name.clone(),
                key.reason.to_string(),
                key.name.to_string(),
                key.predicted.to_string(),
                key.observed.to_string(),
            ]);
        }
    }
    sheet
}

/// The guest's own count and, behind a plus sign, the exits that scenarios added to the ledger.
pub(super) fn with_scenarios(reason: &Reason) -> String {
    match reason.scenario_count {
        0 => book(reason.guest_count),
        more => format!("{}+{more}", reason.guest_count.unwrap_or(0)),
    }
}

/// The exits that only the ledger and the emulator have, because the monitor made them, as sentences.
pub(super) fn looks(account: &Account) -> String {
    let looked = account.reasons.iter().filter(|reason| reason.looks > 0);
    let sentence = |reason: &Reason| {
        let of = match ExitReason(reason.number) {
            ExitReason::EXTERNAL_INTERRUPT => "external interrupts",
            _ => "ends of the preemption timer",
        };
        let are = if reason.looks == 1 { "is the monitor's own look" } else { "are the monitor's own looks" };
        format!("{} of the {of} {are} at a guest that ran long (watchdog, limit) or idled\n", reason.looks)
    };
    looked.map(sentence).collect()
}

/// The parts of the guest's time where idle time was skipped, as a sentence.
pub(super) fn idle(account: &Account) -> String {
    let sum = |ticks: fn(&VcpuAccount) -> u64| account.per_vcpu.iter().map(ticks).fold(0, u64::saturating_add);
    let (elapsed, cycles, skipped) = (sum(|vcpu| vcpu.elapsed), sum(|vcpu| vcpu.cycles), sum(|vcpu| vcpu.skipped));
    if skipped == 0 {
        return String::new();
    }
    let (guest, all) = (elapsed.saturating_sub(cycles), elapsed.saturating_add(skipped));
    let on = if account.per_vcpu.len() == 1 { "the guest's clock" } else { "the vCPUs' clocks" };
    format!("{all} ticks on {on}: {guest} in the guest, {cycles} in exits, {skipped} of idle time that was skipped\n")
}

fn scenarios(account: &Account) -> Sheet {
    let mut sheet = Sheet::new(&["scenario", "reason#", "exits#", "verdict"]);
    for scenario in &account.scenarios {
        let verdict = match scenario.detail.as_str() {
            "" => scenario.verdict.to_string(),
            detail => format!("{}: {detail}", scenario.verdict),
        };
        sheet.row(vec![scenario.name.clone(), scenario.reason.to_string(), scenario.observed.to_string(), verdict]);
    }
    sheet
}

fn verdict(account: &Account) -> String {
    let mut text = format!("verdict: {}{}\n", account.verdict, without_guest(account));
    for finding in account.other_findings() {
        text += &format!("  also: {finding}\n");
    }
    if let Some(doubt) = account.other_doubt() {
        text += &format!("  also: {doubt}\n");
    }
    if let Some(ending) = ending_with_code(account) {
        text += &format!("  {ending}\n");
    }
    if let Some(stop) = account.early_stop() {
        text += &last_exit(stop);
    }
    if let Some(remedy) = &account.remedy {
        text += &format!("  remedy: {remedy}\n");
    }
    if account.log.damaged > 0 && account.doubt.is_none() {
        text += &format!(
            "  {} damaged records and {} lines of noise were skipped\n",
            account.log.damaged, account.log.noise
        );
    }
    text
}

/// The books that were compared, unless those were all: for a guest that keeps no book.
fn without_guest(account: &Account) -> String {
    if account.books.is_empty() || account.books.contains(&Book::Guest) || account.status != Status::Balanced {
        return String::new();
    }
    let names: Vec<_> = account.books.iter().filter(|&&book| book != Book::Cpuid).map(|book| book.name()).collect();
    let read = match (account.cpuid.len(), account.cpuid_lines_beyond) {
        (0, 0) => String::new(),
        (values, 0) => format!(", and allows all {values} values that cpuid read in the guest"),
        (values, more) => format!(", and allows the {values} values that cpuid read first, of {more} more lines"),
    };
    let compared = match (&names[..], read.as_str()) {
        ([one], "") => {
            format!(": the {one} adds up; the guest keeps no book, and nothing was compared without --audit")
        }
        ([one], _) => format!(": the {one} adds up{read}; the guest keeps no book"),
        _ => format!(": {}{read}; the guest keeps no book", names.join(" = ")),
    };
    compared + &reset(account)
}

/// The end of a guest that reset its machine: it may have meant to, or start again and again where it is not stopped.
fn reset(account: &Account) -> String {
    let Some(stop) = account.stop.as_ref().filter(|stop| stop.outcome == Named::Known(Outcome::Reset)) else {
        return String::new();
    };
    let line = account.last_line.as_ref().map_or_else(String::new, |line| format!("; its last line: {line}"));
    let at = stop.rip.map_or_else(String::new, |rip| format!(" at {}", place(stop, rip)));
    format!("; it ended as {}{at}{line}", stop.outcome)
}

/// The end of a guest by the debug-exit port, as a sentence.
pub(super) fn ending_with_code(account: &Account) -> Option<String> {
    let code = account.stop.as_ref()?.code?;
    let status = qemu_status(code);
    Some(format!("the guest ended itself by the debug-exit port with code {code:#x} (QEMU's exit status {status})"))
}

/// The guest's RIP at its end, and the function there where its symbols are known.
fn place(stop: &Stop, rip: u64) -> String {
    let symbol = stop.symbol.as_ref().map_or_else(String::new, |symbol| format!(" ({symbol})"));
    format!("{rip:#x}{symbol}")
}

/// The exit after which the guest did not run again.
pub(super) fn last_exit(stop: &Stop) -> String {
    let mut parts: Vec<String> = stop.vcpu.iter().map(|vcpu| format!("vCPU {vcpu}")).collect();
    parts.push(stop.outcome.to_string());
    if let Some(field) = stop.reason {
        // Bits 15:0 are the basic exit reason (SDM 3C 25.9.1).
        let reason = ExitReason(field as u16);
        parts.push(format!("reason {} {}", reason.0, reason.name()));
    }
    parts.extend(stop.qualification.map(|qualification| format!("qualification {qualification:#x}")));
    parts.extend(stop.rip.map(|rip| format!("RIP {}", place(stop, rip))));
    parts.extend(Some(stop.detail.clone()).filter(|detail| !detail.is_empty()));
    format!("  last exit: {}\n", parts.join(", "))
}
