//! The atlas: a row for each exit that the extension has, and below it one for each of its variants.

use super::Sheet;
use super::figures::{average, book};
use crate::account::{Account, AtlasRow, AtlasVariant};

/// The number of reasons that an atlas has, of those that it could have, and the same for variants.
pub(super) fn score(account: &Account) -> String {
    let possible = account.atlas.iter().filter(|row| row.possible);
    let variants = account.atlas.iter().flat_map(|row| &row.variants).filter(|variant| variant.possible);
    format!(
        "atlas: {} of the {} exits that the emulator can produce, {} of {} variants",
        possible.clone().filter(|row| row.figures.count > 0).count(),
        possible.count(),
        variants.clone().filter(|variant| variant.row.figures.count > 0).count(),
        variants.count()
    )
}

pub(super) fn sheet(account: &Account) -> Sheet {
    let mut sheet =
        Sheet::new(&["no#", "exit reason", "exits#", "min#", "avg#", "max#", "audit#", "on", "how, or why not"]);
    for row in &account.atlas {
        sheet.row(reason_cells(row));
        row.variants.iter().for_each(|variant| sheet.row(variant_cells(variant, &row.platform)));
    }
    sheet
}

fn reason_cells(row: &AtlasRow) -> Vec<String> {
    let mut cells = vec![row.number.to_string(), row.name.clone()];
    cells.extend(figures(row.figures.count, row.figures.cycles, row.figures.min, row.figures.max));
    cells.push(if row.figures.count > 0 { book(row.audit_count) } else { NOTHING.to_owned() });
    cells.extend([row.platform.clone(), row.how.clone()]);
    cells
}

/// The cells of a variant. `platform` is that of the reason, which is told once.
fn variant_cells(AtlasVariant { row, how, platform: own, .. }: &AtlasVariant, platform: &str) -> Vec<String> {
    let mut cells = vec![String::new(), format!("  {}", row.name)];
    cells.extend(figures(row.figures.count, row.figures.cycles, row.figures.min, row.figures.max));
    let elsewhere = if own == platform { "" } else { own };
    cells.extend(["", elsewhere, how].map(str::to_owned));
    cells
}

/// Stands in place of figures that were not produced.
const NOTHING: &str = "-";

/// Exits, and the shortest, average and longest of them.
fn figures(count: u64, cycles: u64, min: u64, max: u64) -> [String; 4] {
    if count == 0 {
        return [NOTHING; 4].map(str::to_owned);
    }
    [count.to_string(), min.to_string(), average(cycles, count), max.to_string()]
}
