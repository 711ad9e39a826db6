//! `tollgate peer`: one kernel under Tollgate, under KVM, and alone, on the same Bochs.

mod boots;
mod watchers;

use std::time::Duration;

use time::OffsetDateTime;
use tollgate_books::beside::{Comparison, Wall, document};
use tollgate_books::failure::{Failure, Status};
use tollgate_books::output_file;
use tollgate_books::terminal::Terminal;

use super::boot::model;
use super::print;
use crate::cli::PeerArguments;
use crate::debian;
use crate::emulator::models::Offers;
use crate::emulator::{Engine, installed};
use crate::kernel::{Kernel, Look};
use crate::peer::{self, BARE_WORDS};
use boots::Boots;

/// The commands of the user space: none that would add to the boot's exits.
const COMMANDS: &str = "true";

pub(super) fn run(arguments: &PeerArguments) -> Result<Status, Failure> {
    arguments.out.iter().chain(&arguments.save).try_for_each(|path| output_file::can_be_written(path))?;
    let comparison = match &arguments.figures {
        Some(path) => Comparison::load(path)?,
        None => measured(arguments)?,
    };
    arguments.save.iter().try_for_each(|path| comparison.save(path))?;
    let (text, unexplained) = document(&comparison);
    match &arguments.out {
        Some(path) => output_file::write(path, text.as_bytes())?,
        None => print(&text)?,
    }
    unexplained.iter().for_each(|what| Terminal::of_stderr().tell(&format!("tollgate: {what}")));
    Ok(if unexplained.is_empty() { Status::Balanced } else { Status::Differs })
}

/// Boots all that is compared.
fn measured(arguments: &PeerArguments) -> Result<Comparison, Failure> {
    let model = model(Some(&arguments.cpu))?;
    let Offers::Enough(extension) = model.offers else {
        let sentence = format!("the processor model `{}` has no extension that Tollgate runs on", model.name);
        return Err(Failure::platform(sentence).remedy("choose another with --cpu; `tollgate platforms` lists them"));
    };
    let emulator = installed(Engine::Bochs)?.title;
    let kernel = Kernel {
        file: None,
        look: Look::Linux,
        initrd: None,
        modules: Vec::new(),
        commands: Some(COMMANDS.to_owned()),
        is_marked: true,
        append: String::new(),
        memory_mib: None,
    };
    let guest = kernel.place(1)?;
    let alone = Kernel { append: BARE_WORDS.to_owned(), is_marked: false, ..kernel }.place(1)?;
    let files = debian::debian()?;
    let outer = peer::outer(&files, &debian::kvm(extension)?, &guest)?;

    let boots = Boots { model, within: Duration::from_secs(arguments.timeout), runs: arguments.runs };
    let wall = Wall {
        date: OffsetDateTime::now_utc().date().to_string(),
        machine: machine(),
        runs: arguments.runs,
        bare: boots.alone(&alone)?,
        tollgate: boots.tollgate(&guest, false)?,
        audited: boots.tollgate(&guest, true)?,
    };
    Ok(Comparison {
        kernel: files.version,
        emulator,
        processor: model.name.to_owned(),
        extension: extension.name().to_owned(),
        wall,
        tollgate: boots.audited(&guest)?,
        kvm: boots.kvm(&outer)?,
    })
}

/// The class of this machine: its processor's name, and the number of processors.
fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{processors} x {}", name.unwrap_or("a processor without a name"))
}
