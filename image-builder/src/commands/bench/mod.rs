//! `tollgate bench`: the cost of each kind of exit, and the changes since an earlier measurement.

mod boots;
mod budgets;
mod chosen;
mod kvm;
mod logs;
mod measurable;
mod tables;

use tollgate_books::bench::{Baseline, Budget, Identity, Measured, SCHEMA, differences, of_budgets};
use tollgate_books::failure::{Failure, Status};
use tollgate_books::output_file;
use tollgate_books::report::SheetFormat;
use tollgate_books::terminal::Terminal;

use self::chosen::Chosen;
use super::print;
use crate::cli::BenchArguments;
use crate::emulator::Target;

/// The measurement, before it is compared and shown.
struct Outcome {
    measured: Measured,
    platform: Identity,
    /// The image's checksum; empty if that is not known.
    image: String,
    runs: u32,
    budgets: Vec<Budget>,
    /// The differences between runs that should be the same.
    findings: Vec<String>,
    /// The machine on which it was booted, if it was.
    target: Option<Target>,
}

pub(super) fn run(arguments: &BenchArguments) -> Result<Status, Failure> {
    chosen::check(&arguments.filter)?;
    // Checked now, and not only when everything is measured.
    arguments.save.iter().try_for_each(|path| output_file::can_be_written(path))?;
    let before = arguments.against.as_deref().map(|path| Ok((path, Baseline::load(path)?))).transpose()?;
    let outcome = if arguments.logs.is_empty() {
        let target = boots::target(arguments)?;
        boots::measure(arguments, target, &Chosen::new(&arguments.filter, target)?)?
    } else {
        logs::measure(&arguments.logs)?
    };
    let Outcome { measured, platform, image, runs, budgets, mut findings, target } = outcome;
    let (is_all, shows) = (arguments.filter.is_empty(), |name: &str| chosen::shows(&arguments.filter, name));
    let rows = measured.rows().into_iter().filter(|row| shows(&row.name)).collect();
    let measured = Baseline { schema: SCHEMA.to_owned(), platform, image, runs, rows, budgets };
    if let Some((path, before)) = &before {
        before.is_of(&measured.platform, path)?;
        let found = differences(&before.rows, &measured.rows, measured.platform.repeats, is_all);
        let found = found.into_iter().chain(of_budgets(&before.budgets, &measured.budgets));
        findings.extend(found.map(|what| format!("against {}: {what}", path.display())));
    }
    let text = match arguments.format {
        SheetFormat::Json => measured.to_json(),
        format => tables::render(&measured, target, format, Terminal::of_stdout()),
    };
    // The measurement is saved before the table is written, which may fail.
    if let Some(path) = &arguments.save {
        measured.save(path)?;
    }
    print(&text)?;
    let compared =
        if arguments.against.is_some() && findings.is_empty() { "nothing differs\n".to_owned() } else { String::new() };
    let told = compared + &findings.iter().map(|what| format!("{what}\n")).collect::<String>();
    match arguments.format {
        SheetFormat::Table | SheetFormat::Markdown if !told.is_empty() => print(&format!("\n{told}"))?,
        _ if told.is_empty() => {}
        _ => Terminal::of_stderr().tell(told.trim_end()),
    }
    let over = measured.budgets.iter().any(|row| row.verdict != budgets::WITHIN);
    Ok(if over || !findings.is_empty() { Status::Differs } else { Status::Balanced })
}
