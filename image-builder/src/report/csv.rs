//! Accounts as CSV: a line for each reason of each log.

use super::{Sheet, SheetFormat, Titled};

const HEADING: [&str; 11] = [
    "log",
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

/// Writes every reason; a book that is unknown is an empty cell.
pub(super) fn render(accounts: &[Titled]) -> String {
    let mut sheet = Sheet::new(&HEADING);
    for Titled { title, account } in accounts {
        for reason in &account.reasons {
            let book = |count: Option<u64>| count.map_or_else(String::new, |count| count.to_string());
            let average = if reason.count == 0 { 0.0 } else { reason.cycles as f64 / reason.count as f64 };
            let mut cells = vec![title.clone(), reason.number.to_string(), reason.name.clone(), reason.status.clone()];
            cells.extend([reason.count, reason.cycles, reason.min, reason.max].map(|number| number.to_string()));
            cells.extend([format!("{average:.2}"), book(reason.guest_count), book(reason.audit_count)]);
            sheet.row(cells);
        }
    }
    sheet.render(SheetFormat::Csv)
}
