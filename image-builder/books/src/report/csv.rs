//! Accounts as CSV: a line for each reason of each log, over all vCPUs and, where there are several, for each of them. All lines
//! are of one kind, so that any program can sum a column; parts of a reason, and figures that are of none, are left out.

use std::io::{self, Write};

use super::{CsvSigns, Form, Sheet, Titled, merged};
use crate::account::{Account, Merged, Reason, VcpuReason};

/// CSV: a line for each reason of a run.
#[derive(Debug)]
pub(super) struct Lines {
    has_heading: bool,
    signs: CsvSigns,
}

impl Lines {
    pub(super) fn new(signs: CsvSigns) -> Self {
        Self { has_heading: false, signs }
    }
}

impl Form for Lines {
    fn add(&mut self, titled: Titled, out: &mut dyn Write) -> io::Result<()> {
        let headed = !self.has_heading;
        self.has_heading = true;
        out.write_all(render(&titled, headed, self.signs).as_bytes())
    }

    fn finish(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if self.has_heading { Ok(()) } else { out.write_all(heading(self.signs).as_bytes()) }
    }

    fn merged(&self, merged: &Merged) -> String {
        merged::csv(merged, self.signs)
    }
}

const HEADING: [&str; 12] = [
    "log",
    "vcpu",
    "number#",
    "name",
    "status",
    "count#",
    "cycles#",
    "min#",
    "max#",
    "average#",
    "guest_count#",
    "audit_count#",
];

/// The columns of the ledger's figures, which are empty where they are lost.
const FIGURES: std::ops::Range<usize> = 5..10;

/// The mark of sums in the column `vcpu`.
const ALL: &str = "all";

/// The names of the columns.
fn heading(signs: CsvSigns) -> String {
    Sheet::new(&HEADING).csv(signs)
}

/// Every reason of an account, below the columns' names if they are asked for; a book that is unknown is an empty cell.
fn render(Titled { title, account }: &Titled, headed: bool, signs: CsvSigns) -> String {
    let mut sheet = Sheet::new(&HEADING);
    for reason in &account.reasons {
        let mut row = cells(title, ALL, reason.status.word(), &over_all(reason), reason.guest_count);
        if reason.lost {
            row[FIGURES].fill(String::new());
        }
        sheet.row(row);
    }
    for vcpu in account.per_vcpu.iter().filter(|_| account.per_vcpu.len() > 1) {
        for reason in &vcpu.reasons {
            let status = status(account, reason.number);
            sheet.row(cells(title, &vcpu.vcpu.to_string(), status, reason, None));
        }
    }
    let text = sheet.csv(signs);
    if headed { text } else { text[heading(signs).len()..].to_owned() }
}

fn over_all(reason: &Reason) -> VcpuReason {
    let &Reason { number, looks, audit_count, .. } = reason;
    VcpuReason { number, name: reason.name.clone(), exits: reason.exits.clone(), looks, audit_count }
}

/// The status of a reason, which is the same on every vCPU.
fn status(account: &Account, number: u16) -> &str {
    let position = account.reasons.binary_search_by_key(&number, |reason| reason.number);
    position.map_or("", |at| account.reasons[at].status.word())
}

fn cells(title: &str, vcpu: &str, status: &str, row: &VcpuReason, guest_count: Option<u64>) -> Vec<String> {
    let book = |count: Option<u64>| count.map_or_else(String::new, |count| count.to_string());
    let average = if row.exits.figures.count == 0 {
        0.0
    } else {
        row.exits.figures.cycles as f64 / row.exits.figures.count as f64
    };
    let mut cells = [title, vcpu, &row.number.to_string(), &row.name, status].map(str::to_owned).to_vec();
    cells.extend(
        [row.exits.figures.count, row.exits.figures.cycles, row.exits.figures.min, row.exits.figures.max]
            .map(|number| number.to_string()),
    );
    cells.extend([format!("{average:.2}"), book(guest_count), book(row.audit_count)]);
    cells
}
