//! `tollgate bench`: what each kind of exit costs, and what has changed since it was measured last.

mod budgets;
mod tables;

use std::time::Duration;

use tollgate_abi::bench::{Bench, Parts, TABLE};
use tollgate_abi::virtualization::Extension;

use super::run::{self, Target};
use super::{outcome, print};
use crate::bench::{Baseline, Identity, Measured, SCHEMA, differences, of_budgets};
use crate::cli::BenchArguments;
use crate::emulator::models::{Model, Offers};
use crate::emulator::{Boot, Limits, Session, bochs, qemu, version};
use crate::failure::{Failure, Status};
use crate::image;
use crate::log::Log;
use crate::progress::Progress;
use crate::report::SheetFormat;
use crate::selection::{Selection, nearest};

pub(super) fn run(arguments: &BenchArguments) -> Result<Status, Failure> {
    let target = run::choose(arguments.on, arguments.cpu.as_deref(), arguments.audit)?;
    if let Target::Bochs(model) = target {
        extension(model)?;
    }
    let chosen = Chosen::new(&arguments.filter, target)?;
    let limit = Duration::from_secs(super::run::seconds(arguments.timeout, arguments.audit));
    let before = arguments.against.as_deref().map(|path| Ok((path, Baseline::load(path)?))).transpose()?;
    let budgets = match target {
        Target::Bochs(model) if !chosen.budgets.is_empty() => budgets::measure_all(model, &chosen.budgets, limit)?,
        _ => Vec::new(),
    };
    let mut pooled = Measured::default();
    let mut findings = Vec::new();
    let mut first: Option<Measured> = None;
    let mut identity = None;
    let mut image = String::new();
    for number in 1..=arguments.runs {
        let mut this = Measured::default();
        for boot in chosen.boots() {
            let booted = match boot_rows(&boot, target, limit, arguments.audit, number) {
                Err(failure) if failure.status == Status::Platform && boot.0 > 1 && arguments.filter.is_empty() => {
                    eprintln!("tollgate: what takes {} vCPUs is left out: {}", boot.0, failure.sentence());
                    continue;
                }
                booted => booted?,
            };
            this.add(&booted.log);
            identity.get_or_insert_with(|| self::identity(target, &booted));
            image = booted.image;
        }
        match &first {
            // The first stands for all where they are the same.
            Some(first) if target.repeats() => {
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
    let platform = identity.ok_or_else(|| Failure::usage("there is nothing to be measured"))?;
    let measured = Baseline {
        schema: SCHEMA.to_owned(),
        platform,
        image,
        runs: arguments.runs,
        rows: pooled.rows().into_iter().filter(|row| chosen.shows(&row.name)).collect(),
        budgets,
    };
    if let Some((path, before)) = &before {
        before.is_of(&measured.platform, path)?;
        let all = arguments.filter.is_empty();
        let found = differences(&before.rows, &measured.rows, measured.platform.repeats, all);
        let found = found.into_iter().chain(of_budgets(&before.budgets, &measured.budgets));
        findings.extend(found.map(|what| format!("against {}: {what}", path.display())));
    }
    let text = match arguments.format {
        SheetFormat::Json => measured.to_json(),
        format => tables::render(&measured, target, format),
    };
    print(&text)?;
    let compared =
        if arguments.against.is_some() && findings.is_empty() { "nothing differs\n".to_owned() } else { String::new() };
    let told = compared + &findings.iter().map(|what| format!("{what}\n")).collect::<String>();
    match arguments.format {
        SheetFormat::Table | SheetFormat::Markdown if !told.is_empty() => print(&format!("\n{told}"))?,
        _ => eprint!("{told}"),
    }
    if let Some(path) = &arguments.save {
        measured.save(path)?;
    }
    let over = measured.budgets.iter().any(|row| row.verdict != budgets::WITHIN);
    Ok(if over || !findings.is_empty() { Status::Differs } else { Status::Balanced })
}

/// The extension that is measured on a model, if the image runs there.
fn extension(model: &Model) -> Result<Extension, Failure> {
    let why = match model.offers {
        Offers::Enough(extension) => return Ok(extension),
        Offers::Lacks(extension, what) => format!("its {extension} has no {what}"),
        Offers::Nothing => "it has neither VT-x nor SVM".to_owned(),
    };
    let refusal = Failure::platform(format_args!("nothing can be measured on {}: {why}", model.name));
    Err(refusal.remedy("`tollgate platforms` tells which models run the image"))
}

/// What is measured.
struct Chosen {
    rows: Vec<&'static Bench>,
    budgets: Vec<&'static budgets::Row>,
    /// What is shown, by name; none for all.
    filter: Vec<String>,
}

impl Chosen {
    fn new(filter: &[String], target: Target) -> Result<Self, Failure> {
        let extension = target.extension();
        let names = || TABLE.iter().map(Bench::name);
        if let Some(name) = filter.iter().find(|name| Bench::by_name(name).is_none()) {
            let remedy = match nearest(name, names()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there are {}", names().collect::<Vec<_>>().join(", ")),
            };
            return Err(Failure::usage(format_args!("there is no microbenchmark `{name}`")).remedy(remedy));
        }
        let asked = |name: &str| filter.is_empty() || filter.iter().any(|item| item == name);
        for bench in TABLE.iter().filter(|bench| !filter.is_empty() && asked(bench.name())) {
            if !bench.runs_under(extension) {
                let sentence = format!("`{}` is not an operation of {extension}", bench.name());
                return Err(Failure::usage(sentence).remedy("leave it out, or choose another platform"));
            }
        }
        // The timing is measured in any case; and what needs two vCPUs all together, since it depends on what ran before how far one
        // of them is when the other begins.
        let is_in_company = |bench: &&Bench| bench.workload.on.least_vcpus() > 1;
        let wants_company = TABLE.iter().filter(is_in_company).any(|bench| asked(bench.name()));
        let chosen = |bench: &&Bench| {
            let is_wanted = asked(bench.name()) || is_in_company(bench) && wants_company;
            bench.parts == Parts::Timing || is_wanted && bench.runs_under(extension)
        };
        let rows = TABLE.iter().filter(chosen);
        let budgets = budgets::ROWS.iter().filter(|row| asked(row.bench)).collect();
        Ok(Self { rows: rows.collect(), budgets, filter: filter.to_vec() })
    }

    fn shows(&self, name: &str) -> bool {
        self.filter.is_empty() || self.filter.iter().any(|item| item == name)
    }

    /// What is booted together: what needs one vCPU, and what needs two.
    fn boots(&self) -> Vec<(u32, Vec<&'static Bench>)> {
        let on = |cpus: u32| {
            let fits = |bench: &&&Bench| bench.workload.on.least_vcpus() == u64::from(cpus);
            (cpus, self.rows.iter().filter(fits).copied().collect::<Vec<_>>())
        };
        [1, 2].map(on).into_iter().filter(|(_, rows)| !rows.is_empty()).collect()
    }
}

/// What one boot brought.
struct Booted {
    log: Log,
    emulator: String,
    memory_mib: u16,
    image: String,
}

fn boot_rows(
    (cpus, rows): &(u32, Vec<&'static Bench>),
    target: Target,
    limit: Duration,
    audit: bool,
    number: u32,
) -> Result<Booted, Failure> {
    let workloads = vec![rows.iter().map(|bench| bench.workload.name).collect::<Vec<_>>().join(",")];
    let options = Selection { workloads, cpus: *cpus, ..Selection::default() }.options()?;
    let rom = image::build(None, &options)?;
    let directory = temporary()?;
    let boot = Boot::Rom(&rom.bytes);
    let launch = match target {
        Target::Bochs(model) => bochs::prepare(
            directory.path(),
            boot,
            bochs::Machine { cpus: *cpus, ..bochs::Machine::new(model, boot) },
            audit,
        )?,
        Target::Qemu(platform) => qemu::prepare(
            directory.path(),
            boot,
            qemu::Machine { cpus: *cpus, ..qemu::Machine::new(platform, boot) },
            audit,
        )?,
    };
    let progress = Progress::new(rows.len() as u64);
    progress.phase(&format!("{}: microbenchmarks, run {number}", launch.name));
    let session = Session::run(&launch, Limits::within(limit), |record| progress.record(record));
    progress.finish();
    let session = session?;
    let log = session.log.as_ref().ok().cloned();
    let account = outcome::account(&launch, session)?;
    let (Status::Balanced, Some(log)) = (account.status, log) else {
        let status = account.status.max(Status::Differs);
        return Err(Failure::new(status, format_args!("nothing was measured: {}", account.verdict)));
    };
    let emulator = version(target.engine(), &launch);
    Ok(Booted { log, emulator, memory_mib: boot.memory_mib(), image: checksum(&image::build(None, "")?.bytes) })
}

fn temporary() -> Result<tempfile::TempDir, Failure> {
    tempfile::tempdir().map_err(|error| {
        Failure::usage(format_args!("no temporary directory can be made: {error}")).remedy("set TMPDIR")
    })
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> String {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("{hash:016x}")
}

fn identity(target: Target, booted: &Booted) -> Identity {
    let repeats = target.repeats();
    let name = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let platform = match target {
        Target::Bochs(_) => "bochs",
        Target::Qemu(platform) => platform.name,
    };
    Identity {
        platform: platform.to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::models;

    fn bochs(model: &str) -> Target {
        Target::Bochs(Model::by_name(model).unwrap())
    }

    #[test]
    fn a_filter_takes_names_that_exist_here() {
        let all = Chosen::new(&[], bochs(models::DEFAULT)).unwrap();
        assert_eq!(all.rows.len(), TABLE.iter().filter(|bench| bench.runs_under(Extension::VtX)).count());
        assert_eq!(all.boots().len(), 2);
        let one = Chosen::new(&["cpuid".to_owned()], bochs(models::DEFAULT)).unwrap();
        assert_eq!(one.rows.iter().map(|bench| bench.name()).collect::<Vec<_>>(), ["empty", "cpuid"]);
        assert!(!one.shows("empty") && one.shows("cpuid") && one.budgets.len() == 1);
        let company = Chosen::new(&["ipi".to_owned()], bochs(models::DEFAULT)).unwrap();
        assert!(company.rows.iter().any(|bench| bench.name() == "ipi_halt") && !company.shows("ipi_halt"));
        let refusal = |name: &str, model| Chosen::new(&[name.to_owned()], bochs(model)).err().unwrap().to_string();
        assert!(refusal("cpuidd", models::DEFAULT).contains("did you mean `cpuid`?"));
        assert!(refusal("vmrun", models::DEFAULT).contains("`vmrun` is not an operation of VT-x"));
    }

    #[test]
    fn a_model_that_cannot_run_the_image_is_refused_with_the_reason() {
        for (model, why) in [
            ("core2_penryn_t9600", "its VT-x has no EPT"),
            ("turion64_tyler", "its SVM has no nested paging"),
            ("athlon64_venice", "it has neither VT-x nor SVM"),
        ] {
            let failure = extension(Model::by_name(model).unwrap()).unwrap_err();
            assert_eq!(failure.status, Status::Platform);
            assert!(failure.sentence().contains(model) && failure.sentence().contains(why), "{failure}");
        }
    }
}
