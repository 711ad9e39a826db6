//! The atlas: every exit reason of the SDM, produced by one of several runs, or why not.

use tollgate_abi::exit_reason::{Row, TABLE};
use tollgate_abi::scenario;

use crate::account::{Account, AtlasRow, Reason};

/// One row for each reason of the table, from the first run that produced it.
pub(super) fn rows(runs: &[(&str, Account)]) -> Vec<AtlasRow> {
    TABLE.iter().map(|row| atlas_row(row, runs)).collect()
}

fn atlas_row(row: &Row, runs: &[(&str, Account)]) -> AtlasRow {
    let number = row.reason.0;
    let seen = runs.iter().find_map(|(model, account)| {
        let reason = account.reasons.iter().find(|reason| reason.number == number && reason.count > 0)?;
        Some((*model, reason))
    });
    let nothing = Reason::default();
    let (platform, reason) = seen.unwrap_or(("", &nothing));
    // Bochs emulates what the table does not keep for silicon.
    let possible = !row.notes().platforms.starts_with("silicon");
    AtlasRow {
        number,
        name: row.name.to_owned(),
        count: reason.count,
        cycles: reason.cycles,
        min: reason.min,
        max: reason.max,
        audit_count: reason.audit_count,
        how: if reason.count > 0 { provoked_by(row, reason) } else { why_not(row, possible) },
        platform: platform.to_owned(),
        possible,
    }
}

/// A scenario tells it more exactly than the table, where the guest itself did not provoke the reason.
fn provoked_by(row: &Row, reason: &Reason) -> String {
    let by_scenario_alone = reason.guest_count.unwrap_or(0) == 0;
    let scenario = scenario::TABLE.iter().find(|scenario| scenario.reason == row.reason && by_scenario_alone);
    scenario.map_or(row.notes().provoked_by, |scenario| scenario.about).to_owned()
}

fn why_not(row: &Row, possible: bool) -> String {
    let known = scenario::TABLE.iter().find(|scenario| scenario.reason == row.reason);
    match (possible, known.and_then(|scenario| scenario.needs.first())) {
        (false, _) => format!("needs {}", row.notes().platforms),
        (true, Some(need)) => format!("not produced: the runs' processors lack {need}"),
        (true, None) => "not produced".to_owned(),
    }
}
