//! `tollgate fuzz`: random guests by the thousand, over platforms and numbers of vCPUs, each audited.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tollgate_abi::command_line::Options;
use tollgate_abi::svm_exit::CS_HAS_L_AND_D;
use tollgate_abi::virtualization::Extension;
use tollgate_abi::workload::Outcome as GuestOutcome;
use tollgate_books::account::Account;
use tollgate_books::failure::{Failure, Status};
use tollgate_books::output_file;
use tollgate_books::report::{Sheet, SheetFormat, counted};
use tollgate_books::terminal::Terminal;

use super::boot::{Booted, Booting, model};
use super::{place, print};
use crate::cli::FuzzArguments;
use crate::emulator::models::Model;
use crate::emulator::process::STDERR;
use crate::emulator::{Boot, Ended, Engine, Launch, Limits, Machine, PLATFORMS, SERIAL, Session, Target, bochs, qemu};
use crate::random;
use crate::selection::{RANDOM_LIMIT_TICKS, RANDOM_WATCHDOG_TICKS, Selection};
use crate::{images, interrupt};

/// The machines that guests run on, one after the other: a processor model of Bochs, or `None` for QEMU, and the number of vCPUs.
const ROTATION: [(Option<&str>, u32); 12] = [
    (Some("tigerlake"), 1),
    (None, 1),
    (Some("corei7_haswell_4770"), 1),
    (Some("ryzen"), 1),
    (Some("tigerlake"), 2),
    (Some("zambezi"), 1),
    (Some("corei7_haswell_4770"), 2),
    (None, 2),
    (Some("tigerlake"), 3),
    (Some("ryzen"), 2),
    (Some("corei7_haswell_4770"), 4),
    (None, 3),
];

/// One seed's run.
struct Job {
    seed: u64,
    target: Target,
    cpus: u32,
}

impl Job {
    /// The command that repeats the run.
    fn command(&self) -> String {
        let option = if self.target.model.is_some() { "--cpu" } else { "--on" };
        let place = format!("{option} {}", self.target.name());
        let cpus = if self.cpus > 1 { format!(" --cpus {}", self.cpus) } else { String::new() };
        format!("tollgate run --workload {}:{} --audit {place}{cpus}", random::NAME, self.seed)
    }

    fn selection(&self) -> Selection {
        Selection {
            workloads: vec![format!("{}:{}", random::NAME, self.seed)],
            run: Options {
                watchdog_ticks: RANDOM_WATCHDOG_TICKS,
                limit_ticks: Some(RANDOM_LIMIT_TICKS),
                cpus: self.cpus,
                ..Options::default()
            },
            ..Selection::default()
        }
    }

    fn run(&self, directory: &Path, seconds: u64) -> Result<Outcome, Failure> {
        output_file::create_directory(directory)?;
        let rom = images::build(None, &self.selection().options()?)?;
        let boot = Boot::Rom(&rom.bytes);
        let booting = Booting {
            boot,
            machine: Machine { cpus: self.cpus, ..Machine::new(self.target, boot) },
            audit: true,
            limits: Limits::within(Duration::from_secs(seconds)),
        };
        Ok(Outcome::of(booting.silent(directory)?))
    }
}

/// The outcome of a run.
struct Outcome {
    /// The word for its end.
    ending: String,
    /// The problem, if it failed.
    problem: Option<String>,
    account: Option<Account>,
}

impl Outcome {
    fn of(Booted { launch, session }: Booted) -> Self {
        let launch = &launch;
        let Session { ended, log, audit, said, .. } = session;
        let account = log.as_ref().ok().map(|log| Account::new(log, audit.as_ref(), Some(launch.platform.name)));
        let (ending, problem) = match account.as_ref().filter(|account| account.status != Status::NoVerdict) {
            Some(account) if account.status == Status::Balanced => {
                (account.stop.as_ref().map_or("unknown", |stop| stop.outcome.word()), None)
            }
            Some(account) => match refused_by_qemu(launch, account) {
                Some(ending) => (ending, None),
                None => (account.verdict.word(), Some(account.verdict.to_string())),
            },
            None => match emulators_doing(launch, &ended, &said) {
                Some(ending) => (ending, None),
                None => ("no verdict", Some(without_verdict(ended, &said))),
            },
        };
        let ending = ending.to_owned();
        Self { ending, problem, account }
    }
}

/// The word for an end without a verdict that is the emulator's doing, or the person's, and not the monitor's fault.
fn emulators_doing(launch: &Launch, ended: &Ended, said: &str) -> Option<&'static str> {
    match ended {
        Ended::Exited(_) if bochs::guest_ended_it(launch, said) => Some(EMULATORS_END),
        Ended::Exited(_) => end_of_qemu(launch),
        Ended::TimedOut | Ended::Flooded(_) if bochs::stayed_in_guest(launch, RANDOM_WATCHDOG_TICKS) => {
            Some(NO_INTERRUPT)
        }
        Ended::TimedOut if qemu::was_in_guest(launch) => Some(NO_TIME),
        // A person who stops the campaign has found no fault.
        Ended::Interrupted => Some("interrupted"),
        Ended::TimedOut | Ended::Flooded(_) | Ended::AfterVerdict => None,
    }
}

/// The sentence for an end without a verdict.
fn without_verdict(ended: Ended, said: &str) -> String {
    match ended {
        Ended::Exited(status) => format!("the emulator ended ({status}) before a verdict: {}", last_line(said)),
        Ended::TimedOut => "no verdict in time".to_owned(),
        Ended::Flooded(log) => format!("the {log} grew beyond its limit"),
        Ended::AfterVerdict | Ended::Interrupted => "interrupted".to_owned(),
    }
}

/// A guest's triple fault under SVM on Bochs, which ends Bochs and leaves no account.
const EMULATORS_END: &str = "Bochs' end at a triple fault under SVM";

/// Under SVM, Bochs 2.7 to 3.1 make no exit for a physical interrupt while RFLAGS.IF has been 0 since VMRUN, so that nothing ends
/// a guest that then loops without an exit.
const NO_INTERRUPT: &str = "no end under SVM on Bochs, which makes no exit for an interrupt while RFLAGS.IF is 0";
/// QEMU's clock counts instructions (`-icount`). A guest executes none if its exception handler raises the next exception before
/// its first instruction is over.
const NO_TIME: &str = "no end on QEMU, whose clock stands still while exceptions follow each other";

/// The words of a QEMU that ends itself in a guest, and the name of that end. QEMU 7.2 lets LTR load a null selector, where #GP
/// is due, and ends when the guest then changes to ring 0. In one guest of some thousands it takes its own lock a second time,
/// which its assertion forbids; the instruction that leads to it is not known.
const QEMUS_ENDS: [(&str, &str); 2] = [
    ("qemu: fatal: invalid tss", "QEMU's end at an invalid TSS of the guest"),
    ("qemu_mutex_lock_iothread_impl: assertion failed", "QEMU's end at an assertion of its own, in the guest"),
];

fn end_of_qemu(launch: &Launch) -> Option<&'static str> {
    if launch.platform.engine != Engine::Tcg || !qemu::was_in_guest(launch) {
        return None;
    }
    let said = std::fs::read_to_string(launch.invocation.directory.join(STDERR)).unwrap_or_default();
    QEMUS_ENDS.into_iter().find_map(|(sentence, ending)| said.contains(sentence).then_some(ending))
}

/// A state that QEMU's emulation lets a guest make and then refuses at VMRUN: its books agree all the same.
fn refused_by_qemu(launch: &Launch, account: &Account) -> Option<&'static str> {
    let stop = account.stop.as_ref().filter(|stop| stop.outcome.is(GuestOutcome::EntryFailed))?;
    let is_qemus =
        launch.platform.engine == Engine::Tcg && account.findings.is_empty() && stop.detail == CS_HAS_L_AND_D;
    is_qemus.then_some("QEMU let the guest load a code segment with L and D, where #GP is due")
}

fn last_line(said: &str) -> &str {
    said.lines().last().unwrap_or("it printed nothing")
}

/// Sums over the runs.
#[derive(Default)]
struct Sums {
    runs: u64,
    exits: u64,
    failures: u64,
    repeated: u64,
    /// Exits of each run, to tell how they are distributed.
    lengths: Vec<u64>,
    endings: BTreeMap<String, u64>,
    /// Runs with exits and their exits, by extension, number and name of the reason.
    reasons: BTreeMap<(bool, u16, String), (u64, u64)>,
}

impl Sums {
    fn add(&mut self, job: &Job, outcome: &Outcome) {
        self.runs += 1;
        *self.endings.entry(outcome.ending.clone()).or_default() += 1;
        let Some(account) = &outcome.account else { return };
        if account.totals.exits > 0 {
            self.exits += account.totals.exits;
            self.lengths.push(account.totals.exits);
        }
        let is_svm = job.target.extension() == Extension::Svm;
        for reason in account.reasons.iter().filter(|reason| reason.exits.figures.count > 0) {
            let row = self.reasons.entry((is_svm, reason.number, reason.name.to_string())).or_default();
            row.0 += 1;
            row.1 += reason.exits.figures.count;
        }
    }
}

pub(super) fn run(arguments: &FuzzArguments) -> Result<Status, Failure> {
    let targets = targets(arguments)?;
    let place = place::temporary()?;
    if arguments.to < arguments.from {
        return Err(Failure::usage(format_args!("seeds go up, and {} is below {}", arguments.to, arguments.from)));
    }
    let begun = Instant::now();
    let (next, sums) = (AtomicU64::new(0), Mutex::new(Sums::default()));
    let seeds = arguments.to - arguments.from;
    let threads = arguments.jobs.map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from);
    let work = |worker: usize| -> Result<(), Failure> {
        let directory = place.path().join(worker.to_string());
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= seeds || interrupt::requested() {
                return Ok(());
            }
            let seed = arguments.from + number;
            let (target, cpus) = targets[(seed % targets.len() as u64) as usize];
            let job = Job { seed, target, cpus };
            let mut outcome = job.run(&directory, arguments.timeout)?;
            let repeats = arguments.repeat_each.filter(|&each| seed.is_multiple_of(each) && outcome.problem.is_none());
            if repeats.is_some() {
                let before = std::fs::read(directory.join(SERIAL)).unwrap_or_default();
                job.run(&directory, arguments.timeout)?;
                if before != std::fs::read(directory.join(SERIAL)).unwrap_or_default() {
                    outcome.problem = Some("a second run has another serial log".to_owned());
                }
            }
            let mut sums = sums.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            sums.add(&job, &outcome);
            sums.repeated += u64::from(repeats.is_some());
            if let Some(problem) = &outcome.problem {
                sums.failures += 1;
                print(&format!("FAILED {}\n  {problem}\n", job.command()))?;
            }
        }
    };
    let work = &work;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|worker| scope.spawn(move || work(worker))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or(Ok(())))
    })?;
    let sums = sums.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    print(&summary(&sums, begun.elapsed()))?;
    Ok(if sums.failures == 0 { Status::Balanced } else { Status::Differs })
}

/// The targets that are asked for, as far as they are installed here.
fn targets(arguments: &FuzzArguments) -> Result<Vec<(Target, u32)>, Failure> {
    let tcg = PLATFORMS.iter().find(|row| row.engine == Engine::Tcg);
    let mut targets = Vec::new();
    if arguments.platforms.is_empty() {
        for (model, cpus) in ROTATION {
            let target = match model {
                Some(name) => Model::by_name(name).map(Target::bochs),
                None => tcg.map(Target::of),
            };
            targets.extend(target.map(|target| (target, cpus)));
        }
    }
    for name in &arguments.platforms {
        let target = match tcg.filter(|row| row.name == name) {
            Some(row) => Target::of(row),
            None => Target::bochs(model(Some(name))?),
        };
        targets.extend([1, 2].map(|cpus| (target, arguments.cpus.unwrap_or(cpus))));
    }
    Ok(targets)
}

fn summary(sums: &Sums, took: Duration) -> String {
    let mut lengths = sums.lengths.clone();
    lengths.sort_unstable();
    let at = |part: usize| lengths.get(lengths.len() * part / 100).copied().unwrap_or(0);
    let mut text = format!(
        "{} in {:.0} s, {} failed, {} repeated; {} exits, of a run {} (10%), {} (median), {} (90%)\n",
        counted(sums.runs, "run"),
        took.as_secs_f64(),
        sums.failures,
        sums.repeated,
        sums.exits,
        at(10),
        at(50),
        at(90),
    );
    let mut endings = Sheet::new(&["ending", "runs#"]);
    for (ending, runs) in &sums.endings {
        endings.row(vec![ending.clone(), runs.to_string()]);
    }
    let mut reasons = Sheet::new(&["under", "no#", "exit reason", "runs#", "exits#"]);
    for ((is_svm, number, name), (runs, exits)) in &sums.reasons {
        let under = if *is_svm { Extension::Svm } else { Extension::VtX };
        reasons.row(vec![under.to_string(), number.to_string(), name.clone(), runs.to_string(), exits.to_string()]);
    }
    let columns = Terminal::of_stdout().columns;
    for sheet in [endings, reasons] {
        text += "\n";
        text += &sheet.within(SheetFormat::Table, columns);
    }
    text
}
