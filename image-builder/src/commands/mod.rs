//! The commands: each takes its arguments, joins the parts, prints, and returns the exit status.

mod atlas;
mod bench;
mod boot;
mod data_set;
mod destination;
mod exits_by_model;
mod follow;
mod fuzz;
mod image;
mod manual;
mod marks;
mod one_image;
mod outcome;
mod peer;
mod place;
mod platforms;
mod reading;
mod report;
mod run;
mod stick;
mod system_map;
mod tables;
mod trace;

use std::io::{self, Write};

use tollgate_abi::command_line::Options;
use tollgate_abi::leaves::LeafMap;
use tollgate_books::failure::{Failure, Status};
use tollgate_books::report::SheetFormat;

use crate::cli::{Command, Idle, ImageOptions, MissingCpus, Pages};
use crate::kernel::{Kernel, Look};
use crate::selection::{
    ATLAS, DEFAULT_WATCHDOG_TICKS, GuestKind, RANDOM_LIMIT_TICKS, RANDOM_WATCHDOG_TICKS, Selection, nearest,
    random_seed,
};
use crate::user_space::usual_commands;

/// Performs a command.
///
/// # Errors
/// It ended early; the failure has the sentence and the status.
pub fn run(command: Command) -> Result<Status, Failure> {
    match command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Image(arguments) => image::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Trace(arguments) => {
            let map = arguments.system_map.as_deref().map(system_map::read).transpose()?;
            trace::write(&arguments.log, map, arguments.guest.as_deref(), &arguments.out)
        }
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Peer(arguments) => peer::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Completions(arguments) => manual::completions(arguments.shell),
        Command::Man(arguments) => manual::man(&arguments),
        Command::Reasons(arguments) => print(&tables::reasons(arguments.format)).map(|()| Status::Balanced),
        Command::Workloads(arguments) => print(&tables::workloads().shown(arguments.format)).map(|()| Status::Balanced),
        Command::Platforms(arguments) => {
            let format = arguments.sheet.format;
            let text = if arguments.exits {
                exits_by_model::sheet()?.shown(format)
            } else if arguments.versions {
                platforms::versions().shown(format)
            } else if matches!(format, SheetFormat::Table | SheetFormat::Markdown) {
                platforms::sheet().shown(format) + "\n" + &platforms::emulators().shown(format)
            } else {
                platforms::sheet().shown(format)
            };
            print(&text).map(|()| Status::Balanced)
        }
    }
}

/// Writes to standard output. A reader that went away, as `head` does, is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::usage(format_args!("standard output can't be written: {error}")))
        }
        _ => Ok(()),
    }
}

impl ImageOptions {
    /// Whether every exit is asked for that the emulator can produce.
    fn wants_atlas(&self) -> bool {
        self.workloads.iter().flat_map(|list| list.split(',')).any(|item| item.trim() == ATLAS)
    }

    /// Whether a random guest is asked for.
    fn wants_random(&self) -> bool {
        self.workloads.iter().flat_map(|list| list.split(',')).any(|item| random_seed(item.trim()).is_some())
    }

    /// The kernel that is to be the guest, if it is one.
    fn kernel(&self, memory_mib: Option<u16>) -> Option<Kernel> {
        let file = self.guest.as_ref()?;
        let is_debian = Kernel::is_debian(file);
        let has_words =
            self.initrd.is_some() || self.append.is_some() || self.exec.is_some() || !self.modules.is_empty();
        let look = match if is_debian { Look::Linux } else { Kernel::look(file) } {
            Look::Own if !has_words => return None,
            // Whoever gives words to an ELF file takes it for a vmlinux.
            Look::Own => Look::Linux,
            look => look,
        };
        let usual = || usual_commands(LeafMap::parse(&self.leaf_map).unwrap_or_default());
        let commands = self.exec.clone().or_else(|| (is_debian && self.initrd.is_none()).then(usual));
        let (initrd, append) = (self.initrd.clone(), self.append.clone().unwrap_or_default());
        let (file, modules) = (Some(file.clone()).filter(|_| !is_debian), self.modules.clone());
        Some(Kernel { file, look, initrd, modules, commands, is_marked: false, append, memory_mib })
    }

    fn selection(&self) -> Result<Selection, Failure> {
        let names = || LeafMap::ALL.iter().map(|map| map.name());
        let leaf_map = LeafMap::parse(&self.leaf_map).ok_or_else(|| {
            let remedy = match nearest(&self.leaf_map, names()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("choose one of {}", names().collect::<Vec<_>>().join(", ")),
            };
            Failure::usage(format_args!("there is no term `{}`", self.leaf_map)).remedy(remedy)
        })?;
        let as_kernel = self.kernel(None);
        let (random, kernel) = (self.wants_random(), as_kernel.is_some());
        if kernel && !self.workloads.is_empty() {
            let sentence = "a kernel runs no workloads, and --workload names some";
            return Err(Failure::usage(sentence).remedy("leave --workload out"));
        }
        if self.pages.is_some() && !kernel {
            let sentence =
                "--pages is about a kernel's memory, and the guest of --guest is made for a machine of its own";
            return Err(Failure::usage(sentence).remedy("leave --pages out"));
        }
        if self.guest.is_some() && random {
            let sentence = "a random guest takes the guest's place, and --guest names another";
            return Err(Failure::usage(sentence).remedy("leave one of the two out"));
        }
        let guest = match (&self.guest, self.no_book || kernel) {
            (None, _) => GuestKind::BuiltIn,
            (Some(_), false) => GuestKind::Other,
            (Some(_), true) => GuestKind::WithoutBook,
        };
        Ok(Selection {
            workloads: self.workloads.clone(),
            atlas: None,
            run: Options {
                leaf_map,
                watchdog_ticks: self.watchdog.unwrap_or(if random {
                    RANDOM_WATCHDOG_TICKS
                } else {
                    DEFAULT_WATCHDOG_TICKS
                }),
                limit_ticks: self.limit.or(random.then_some(RANDOM_LIMIT_TICKS)),
                keys: self.keys,
                trace_exits: self.trace_exits.unwrap_or(0),
                rate_step_ticks: self.rate_step,
                cpus: self.cpus,
                counts_touches: self.pages == Some(Pages::FourKib),
                skips_idle_time: self.idle == Some(Idle::Skipped),
                without_missing_cpus: self.missing_cpus == MissingCpus::GoOn,
                ..Options::default()
            },
            marks: marks::of(&as_kernel.map_or_else(Vec::new, |kernel| kernel.marks()), &self.marks)?,
            until: self.until.as_deref().map(|text| marks::until(text, guest)).transpose()?,
            guest,
        })
    }
}
