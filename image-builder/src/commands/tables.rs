//! `tollgate reasons` and `tollgate workloads`: the tables that the monitor itself is built from.

use tollgate_abi::exit_reason::{EnabledBy, Need, SDM_EDITION, TABLE as REASONS};
use tollgate_abi::scenario::{RUNS, TABLE as SCENARIOS};
use tollgate_abi::workload::{Ends, On, Provokes, TABLE as WORKLOADS, Workload};

use crate::report::{Sheet, SheetFormat};

/// The table of exit reasons; with its edition where the form has room for a sentence.
pub(super) fn reasons(format: SheetFormat) -> String {
    let mut sheet = Sheet::new(&["no#", "name", "since", "enabled by", "provoked by", "platforms"]);
    for row in REASONS {
        sheet.row(vec![
            row.reason.0.to_string(),
            row.name.to_owned(),
            row.notes().since.to_owned(),
            enabled_by(row.enabled_by),
            row.notes().provoked_by.to_owned(),
            row.notes().platforms.to_owned(),
        ]);
    }
    let text = sheet.render(format);
    match format {
        SheetFormat::Table | SheetFormat::Markdown => {
            format!(
                "{text}\nBasic exit reasons of the Intel SDM, edition {SDM_EDITION}; numbers not listed are undefined.\n"
            )
        }
        SheetFormat::Json | SheetFormat::Csv => text,
    }
}

/// What makes a reason possible, for people.
pub(super) fn enabled_by(by: EnabledBy) -> String {
    match by {
        EnabledBy::Always => "always".to_owned(),
        EnabledBy::AnyOf(ways) => ways.iter().map(|needs| need_names(needs)).collect::<Vec<_>>().join(" or "),
    }
}

/// Needs that have to be met together.
pub(super) fn need_names(needs: &[Need]) -> String {
    needs.iter().map(|&need| need_name(need)).collect::<Vec<_>>().join(" and ")
}

fn need_name(need: Need) -> String {
    match need {
        Need::Pin(bit) => format!("pin-based {bit}"),
        Need::Proc(bit) => format!("primary {bit}"),
        Need::Proc2(bit) => format!("secondary {bit}"),
        Need::Proc3(bit) => format!("tertiary {bit}"),
        Need::ExceptionBitmap => "exception bitmap".to_owned(),
        Need::CrMasks => "CR0 or CR4 mask".to_owned(),
        Need::IoBitmaps => "I/O bitmaps".to_owned(),
        Need::MsrReads | Need::MsrWrites => "MSR bitmaps".to_owned(),
        Need::Has(feature) => format!("processor: {feature:?}"),
    }
}

/// The table of workloads, and of scenarios, which are asked for in the same way.
pub(super) fn workloads() -> Sheet {
    let mut sheet = Sheet::new(&["workload", "profile", "vCPUs", "iterations#", "most#", "predicts", "ends", "about"]);
    for workload in WORKLOADS {
        sheet.row(vec![
            workload.name.to_owned(),
            workload.profile.name().to_owned(),
            match workload.on {
                On::First => "first",
                On::Every => "every",
                On::Two => "two",
            }
            .to_owned(),
            workload.iterations.to_string(),
            workload.most.to_string(),
            predicts(workload),
            match workload.ends {
                Ends::Returns => "returns".to_owned(),
                Ends::Stopped(outcome) => outcome.name().to_owned(),
                Ends::Anyhow => "anyhow".to_owned(),
            },
            workload.about.to_owned(),
        ]);
    }
    for scenario in SCENARIOS {
        sheet.row(vec![
            scenario.name.to_owned(),
            "own".to_owned(),
            "first".to_owned(),
            RUNS.to_string(),
            RUNS.to_string(),
            format!(
                "{}{} x 1/run",
                scenario.reason.name(),
                scenario.variant.map_or(String::new(), |name| format!(", {name}"))
            ),
            "scenario".to_owned(),
            scenario.about.to_owned(),
        ]);
    }
    sheet
}

fn predicts(workload: &Workload) -> String {
    let one = |row: &Provokes| {
        let reason = row.reason.name();
        let exits = match (row.each, row.once) {
            (each, 0) => format!("{reason} x {each}/iteration"),
            (0, once) => format!("{reason} x {once}"),
            (each, once) => format!("{reason} x {each}/iteration + {once}"),
        };
        let by_hardware = row.unless.map(|reason| format!(" unless {} is enabled", reason.name()));
        exits + &by_hardware.unwrap_or_default()
    };
    workload.provokes.iter().map(one).collect::<Vec<_>>().join(", ")
}
