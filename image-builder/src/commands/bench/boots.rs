//! Measures operations by booting images that perform them, once or several times.

use std::time::Duration;

use tollgate_books::bench::{Identity, Measured, differences};
use tollgate_books::failure::{Failure, Status};
use tollgate_books::log::Log;
use tollgate_books::terminal::Terminal;

use super::super::boot::{Booting, choose, seconds};
use super::super::place;
use super::Outcome;
use super::budgets;
use super::chosen::{self, Chosen};
use super::measurable::extension;
use crate::cli::BenchArguments;
use crate::emulator::{Boot, Limits, Machine, Target};
use crate::{image, images};

/// The machine that is measured.
pub(super) fn target(arguments: &BenchArguments) -> Result<Target, Failure> {
    let target = choose(arguments.on, arguments.cpu.as_deref(), arguments.audit)?;
    if let Some(model) = target.model {
        extension(model)?;
    }
    Ok(target)
}

/// Boots and measures.
pub(super) fn measure(arguments: &BenchArguments, target: Target, chosen: &Chosen) -> Result<Outcome, Failure> {
    let limit = Duration::from_secs(seconds(arguments.timeout, arguments.audit));
    let budgets = match target.model {
        Some(model) if !chosen.budgets.is_empty() => budgets::measure_all(model, &chosen.budgets, limit)?,
        _ => Vec::new(),
    };
    let mut pooled = Measured::default();
    let mut findings = Vec::new();
    let mut first: Option<Measured> = None;
    let mut platform = None;
    let mut image = String::new();
    for number in 1..=arguments.runs {
        let mut this = Measured::default();
        for boot in chosen.boots() {
            let booted = match boot_rows(&boot, target, limit, arguments.audit, number) {
                Err(failure) if failure.status == Status::Platform && boot.processors() > 1 && chosen.is_all() => {
                    let (processors, why) = (boot.processors(), failure.sentence());
                    let text = format!("tollgate: the rows that take {processors} processors are left out: {why}");
                    Terminal::of_stderr().tell(&text);
                    boot.scenarios.iter().for_each(|scenario| this.add_lacking(scenario, why));
                    continue;
                }
                booted => booted?,
            };
            this.add(&booted.log);
            platform.get_or_insert_with(|| identity(target, &booted));
            image = booted.image;
        }
        for (scenario, why) in chosen.lacking(target) {
            this.add_lacking(scenario, why);
        }
        match &first {
            // If all boots are the same, the first stands for all.
            Some(first) if target.platform.is_exact => {
                let found = differences(&first.rows(), &this.rows(), true, true);
                findings.extend(found.into_iter().map(|what| format!("run {number} differs from the first: {what}")));
            }
            Some(_) => pooled.add_all(&this),
            None => {
                pooled.add_all(&this);
                first = Some(this);
            }
        }
    }
    let platform = platform.ok_or_else(|| Failure::usage("there is nothing to be measured"))?;
    let (runs, target) = (arguments.runs, Some(target));
    Ok(Outcome { measured: pooled, platform, image, runs, budgets, findings, target })
}

/// The result of one boot.
struct Booted {
    log: Log,
    emulator: String,
    memory_mib: u16,
    image: String,
}

fn boot_rows(
    boot: &chosen::Boot,
    target: Target,
    limit: Duration,
    audit: bool,
    number: u32,
) -> Result<Booted, Failure> {
    let (steps, cpus) = (boot.steps(), boot.processors());
    let rom = images::build(None, &boot.options()?)?;
    let directory = place::temporary()?;
    let boot = Boot::Rom(&rom.bytes);
    let machine = Machine { cpus, ..Machine::new(target, boot) };
    let booting = Booting { boot, machine, audit, limits: Limits::within(limit) };
    let booted = booting.shown(directory.path(), steps, &format!("microbenchmarks, run {number}"), false)?;
    let (log, emulator) = (booted.session.log.as_ref().ok().cloned(), booted.launch.emulator.title.clone());
    let account = booted.account()?;
    let (Status::Balanced, Some(log)) = (account.status, log) else {
        let status = account.status.max(Status::Differs);
        return Err(Failure::new(status, format_args!("nothing was measured: {}", account.verdict)));
    };
    Ok(Booted {
        log,
        emulator,
        memory_mib: boot.memory_mib(),
        image: format!("{:016x}", image::checksum(&images::build(None, "")?.bytes)),
    })
}

fn identity(target: Target, booted: &Booted) -> Identity {
    let repeats = target.platform.is_exact;
    let name = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Identity {
        platform: target.platform.name.to_owned(),
        repeats,
        emulator: booted.emulator.clone(),
        extension: target.extension().to_string(),
        model: target.name().to_owned(),
        cpu: booted.log.header.cpu.clone(),
        memory_mib: booted.memory_mib,
        host: if repeats { String::new() } else { name().trim().to_owned() },
        tollgate: format!("{}, monitor {}", env!("CARGO_PKG_VERSION"), booted.log.header.build),
    }
}
