//! The vCPUs of an account side by side: their sums, and their exits for each reason.

use std::collections::BTreeMap;

use super::Sheet;
use super::figures::{book, percent, unless_lost};
use crate::account::{Account, VcpuAccount};

/// The most vCPUs that a matrix has columns for; the next ones have a matrix of their own.
const ABREAST: usize = 8;

/// The tables of a run on several vCPUs.
pub(super) fn sheets(account: &Account) -> Vec<(&'static str, Sheet)> {
    if account.per_vcpu.len() < 2 {
        return Vec::new();
    }
    let mut sheets = vec![("vCPUs", sums(account))];
    let blocks = account.per_vcpu.chunks(ABREAST);
    let last = blocks.len() - 1;
    sheets.extend(blocks.enumerate().map(|(at, block)| ("Exits by vCPU", matrix(account, block, at == last))));
    sheets
}

fn sums(account: &Account) -> Sheet {
    let mut sheet = Sheet::new(&["vCPU#", "exits#", "samples%#", "cycles#", "entries#", "audit#"]);
    for vcpu in &account.per_vcpu {
        let known = |figure: String| unless_lost(vcpu.lost, figure);
        sheet.row(vec![
            vcpu.vcpu.to_string(),
            known(vcpu.exits.to_string()),
            unless_lost(account.totals.lost, percent(vcpu.exits, account.totals.exits)),
            known(vcpu.cycles.to_string()),
            known(vcpu.entries.to_string()),
            book(vcpu.audit_count),
        ]);
    }
    sheet
}

/// Exits by reason and vCPU, and behind the last vCPU those of all.
fn matrix(account: &Account, block: &[VcpuAccount], is_last: bool) -> Sheet {
    let mut heading = vec!["no#".to_owned(), "exit reason".to_owned()];
    heading.extend(block.iter().map(|vcpu| format!("vCPU {}#", vcpu.vcpu)));
    heading.extend(is_last.then(|| "all#".to_owned()));
    let mut sheet = Sheet::new(&heading);
    let counts =
        |vcpu: &VcpuAccount| vcpu.reasons.iter().map(|reason| (reason.number, reason.exits.figures.count)).collect();
    let columns: Vec<BTreeMap<u16, u64>> = block.iter().map(counts).collect();
    for reason in account.reasons.iter().filter(|reason| reason.exits.figures.count > 0) {
        let mut cells = vec![reason.number.to_string(), reason.name.to_string()];
        // Of a reason that is lost nobody knows on which vCPU.
        let none = unless_lost(reason.lost, "0".to_owned());
        let of = |counts: &BTreeMap<u16, u64>| counts.get(&reason.number).map_or(none.clone(), u64::to_string);
        cells.extend(columns.iter().map(of));
        cells.extend(is_last.then(|| unless_lost(reason.lost, reason.exits.figures.count.to_string())));
        sheet.row(cells);
    }
    sheet
}
