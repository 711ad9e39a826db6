//! `tollgate reasons` and `tollgate workloads`: the tables that the monitor itself is built from.

use tollgate_abi::ExitReason;
use tollgate_abi::exit_reason::{OWN_OF_SVM, Row, SDM_EDITION, TABLE as REASONS};
use tollgate_abi::scenario::{RUNS, TABLE as SCENARIOS};
use tollgate_abi::svm_exit::{self, APM_EDITION, INVALID, Own};
use tollgate_abi::workload::{Ends, On, Provokes, Workload, every};
use tollgate_books::needs::enabled_by;
use tollgate_books::report::{Sheet, SheetFormat};
use tollgate_books::terminal::Terminal;

use crate::random;

/// The table of exit reasons and that of SVM's own exits, with their editions; as one table if the form holds but one.
pub(super) fn reasons(format: SheetFormat) -> String {
    match format {
        SheetFormat::Table | SheetFormat::Markdown => {
            let mut sdm = Sheet::new(&REASONS_HEADING);
            REASONS.iter().for_each(|row| sdm.row(sdm_cells(row)));
            let mut own = Sheet::new(&["no#", "SVM code", "name", "provoked by", "platforms"]);
            for (number, row) in own_of_svm() {
                let cells = [
                    &number.to_string(),
                    &svm_codes(ExitReason(number)),
                    row.name,
                    row.provoked_by,
                    &row.places.to_string(),
                ];
                own.row(cells.map(str::to_owned).to_vec());
            }
            let below = [
                format!(
                    "Basic exit reasons of the Intel SDM, edition {SDM_EDITION}; numbers not listed are undefined. The SVM codes \
                     stand for the same under SVM; where two rows have one, EXITINFO1 tells them apart."
                ),
                format!(
                    "Exit codes of the AMD APM, edition {APM_EDITION}, for which the SDM has no reason, under numbers of \
                     Tollgate's own."
                ),
            ];
            let columns = usize::from(Terminal::of_stdout().columns);
            let [below_sdm, below_own] = below.map(|text| textwrap::fill(&text, columns));
            format!("{}\n{below_sdm}\n\n{}\n{below_own}\n", sdm.shown(format), own.shown(format))
        }
        SheetFormat::Json | SheetFormat::Csv => {
            let mut sheet = Sheet::new(&REASONS_HEADING);
            REASONS.iter().for_each(|row| sheet.row(sdm_cells(row)));
            for (number, row) in own_of_svm() {
                let codes = svm_codes(ExitReason(number));
                let cells = [
                    &number.to_string(),
                    row.name,
                    &codes,
                    "SVM",
                    "intercept",
                    row.provoked_by,
                    &row.places.to_string(),
                ];
                sheet.row(cells.map(str::to_owned).to_vec());
            }
            sheet.render(format)
        }
    }
}

const REASONS_HEADING: [&str; 7] = ["no#", "name", "SVM code", "since", "enabled by", "provoked by", "platforms"];

fn sdm_cells(row: &Row) -> Vec<String> {
    let (number, codes, notes) = (row.reason.0.to_string(), svm_codes(row.reason), row.notes());
    let enabled_by = enabled_by(row.enabled_by);
    let cells = [&number, row.name, &codes, notes.since, &enabled_by, notes.provoked_by, &notes.places.to_string()];
    cells.map(str::to_owned).to_vec()
}

/// SVM's own exit codes, each with its number.
fn own_of_svm() -> impl Iterator<Item = (u16, &'static Own)> {
    (OWN_OF_SVM..).map_while(|number| Some((number, ExitReason(number).own_of_svm()?)))
}

/// The SVM exit codes that stand for a reason, as the APM writes them.
fn svm_codes(reason: ExitReason) -> String {
    let range = |(first, last): (u32, u32)| match (first, last) {
        (INVALID, _) => "-1".to_owned(),
        (first, last) if first == last => format!("{first:X}h"),
        (first, last) => format!("{first:X}-{last:X}h"),
    };
    svm_exit::codes(reason).map(range).collect::<Vec<_>>().join(", ")
}

/// The table of workloads, of microbenchmarks, and of scenarios, which are all asked for in the same way.
pub(super) fn workloads() -> Sheet {
    let mut sheet = Sheet::new(&["workload", "profile", "vCPUs", "iterations#", "most#", "predicts", "ends", "about"]);
    for workload in every() {
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
            workload.about().to_owned(),
        ]);
    }
    sheet.row(
        [
            random::NAME,
            "random",
            "every",
            "0",
            &u64::MAX.to_string(),
            "",
            "anyhow",
            "a guest of its own, of random instructions in every mode; the iterations are the seed, and it runs alone",
        ]
        .map(str::to_owned)
        .to_vec(),
    );
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
