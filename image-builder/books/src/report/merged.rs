//! Merged runs in every form: for each platform, build and set of options the reasons, with their sums over all runs and
//! the least, the middle and the most that one run had.

use std::io::{self, Write};

use super::figures::{average, counted, percent};
use super::{CsvSigns, Format, Look, Sheet, SheetFormat, bars};
use crate::account::{Group, Merged, MergedReason, Reason};

/// Writes merged runs in one form.
///
/// # Errors
/// They can't be written.
pub fn render_merged(merged: &Merged, format: Format, look: Look, out: &mut impl Write) -> io::Result<()> {
    let text = format.form(false, look).merged(merged);
    out.write_all(text.as_bytes())?;
    out.flush()
}

pub(super) fn json(merged: &Merged) -> String {
    // Maps have string keys and numbers are finite, so there is nothing that JSON can't hold.
    serde_json::to_string_pretty(merged).unwrap_or_default()
}

/// The rows of a group in the order of `look`.
pub(super) fn sorted(group: &Group, look: Look) -> Vec<(Reason, &MergedReason)> {
    let mut plain: Vec<Reason> = group.reasons.iter().map(plain).collect();
    let mut order: Vec<&Reason> = plain.iter().collect();
    look.order.sort(&mut order);
    let numbers: Vec<u16> = order.iter().map(|reason| reason.number).collect();
    plain.sort_by_key(|reason| numbers.iter().position(|&number| number == reason.number));
    let of = |number: u16| group.reasons.iter().find(|row| row.reason.number == number);
    plain
        .into_iter()
        .filter_map(|reason| Some((of(reason.number)?, reason)))
        .map(|(row, reason)| (reason, row))
        .collect()
}

/// A merged row as a row of one run, for charts and orders that take either.
fn plain(MergedReason { reason, .. }: &MergedReason) -> Reason {
    Reason { number: reason.number, name: reason.name.clone(), exits: reason.exits.clone(), ..Reason::default() }
}

/// The platform of a group and the verdicts of its runs, in two lines.
pub(super) fn heading(group: &Group) -> [String; 2] {
    let platform = &group.platform;
    let verdicts: Vec<String> = group.verdicts.iter().map(|(verdict, runs)| format!("{runs} {verdict}")).collect();
    [
        format!("{} on {}, {}; build {}", platform.virtualization, platform.kind, platform.cpu, group.build),
        format!("{}: {}; options: {}", counted(group.runs, "run"), verdicts.join(", "), group.options),
    ]
}

/// A group's reasons as a sheet.
pub(super) fn sheet(group: &Group, look: Look) -> Sheet {
    let mut sheet = Sheet::new(&[
        "no#",
        "exit reason",
        "runs#",
        "samples#",
        "samples%#",
        "time%#",
        "min#",
        "max#",
        "avg#",
        "least of a run#",
        "median#",
        "most#",
        "least avg#",
        "median avg#",
        "most avg#",
    ]);
    for (reason, MergedReason { runs, count, average: averages, .. }) in sorted(group, look) {
        let mut cells = vec![
            reason.number.to_string(),
            reason.name.to_string(),
            runs.to_string(),
            reason.exits.figures.count.to_string(),
        ];
        cells.extend([
            percent(reason.exits.figures.count, group.exits),
            percent(reason.exits.figures.cycles, group.cycles),
        ]);
        cells.extend([reason.exits.figures.min, reason.exits.figures.max].map(|ticks| ticks.to_string()));
        cells.push(average(reason.exits.figures.cycles, reason.exits.figures.count));
        cells.extend([count.min, count.median, count.max].map(|count| count.to_string()));
        cells.extend([averages.min, averages.median, averages.max].map(|ticks| format!("{ticks:.1}")));
        sheet.row(cells);
    }
    sheet
}

pub(super) fn table(merged: &Merged, look: Look) -> String {
    let terminal = &look.terminal;
    let mut text = String::new();
    for group in &merged.groups {
        for line in heading(group) {
            text += &(terminal.wrap(&line) + "\n");
        }
        text += "\n";
        text += &sheet(group, look).within(SheetFormat::Table, terminal.columns);
        if look.histogram {
            for (reason, _) in sorted(group, look) {
                text += &format!("\n{}", bars::block(&reason, terminal));
            }
        }
        text += "\n";
    }
    let (runs, kinds) = (counted(merged.runs, "run"), counted(merged.groups.len() as u64, "kind"));
    let logs = match merged.unusable {
        0 => String::new(),
        unusable => format!("; {} could not be used", counted(unusable, "log")),
    };
    text + &terminal.wrap(&format!("{runs} of {kinds}{logs}")) + "\n"
}

pub(super) fn csv(merged: &Merged, signs: CsvSigns) -> String {
    let mut sheet = Sheet::new(&[
        "virtualization",
        "platform",
        "cpu",
        "build",
        "options",
        "runs#",
        "number#",
        "name",
        "runs_with_any#",
        "count#",
        "cycles#",
        "min#",
        "max#",
        "average#",
        "count_least#",
        "count_median#",
        "count_most#",
        "average_least#",
        "average_median#",
        "average_most#",
    ]);
    for group in &merged.groups {
        let platform = &group.platform;
        for MergedReason { reason, runs, count, average } in &group.reasons {
            let mut cells = [&platform.virtualization, &platform.kind, &platform.cpu, &group.build, &group.options]
                .map(String::clone)
                .to_vec();
            cells.extend([
                group.runs.to_string(),
                reason.number.to_string(),
                reason.name.to_string(),
                runs.to_string(),
            ]);
            cells.extend(
                [
                    reason.exits.figures.count,
                    reason.exits.figures.cycles,
                    reason.exits.figures.min,
                    reason.exits.figures.max,
                ]
                .map(|figure| figure.to_string()),
            );
            cells.push(format!("{:.2}", reason.exits.figures.cycles as f64 / reason.exits.figures.count.max(1) as f64));
            cells.extend([count.min, count.median, count.max].map(|count| count.to_string()));
            cells.extend([average.min, average.median, average.max].map(|ticks| format!("{ticks:.2}")));
            sheet.row(cells);
        }
    }
    sheet.csv(signs)
}
