//! `tollgate run`: from options to a verdict.

use tollgate_books::failure::{Failure, Status};
use tollgate_books::output_file;
use tollgate_books::report::{Format, Titled, render, render_on};
use tollgate_books::terminal::Terminal;
use tollgate_books::trace::Form;

use super::boot::choose;
use super::one_image::run_image;
use super::place::Place;
use super::{atlas, print, system_map, trace};
use crate::cli::RunArguments;
use crate::emulator::{SERIAL, Target};
use crate::selection::DEFAULT_WATCHDOG_TICKS;

/// Exits of each vCPU that a trace holds between two pauses, unless asked otherwise: more than any workload of the default run has.
const DEFAULT_TRACE_EXITS: u64 = 65536;
pub(super) fn run(arguments: &RunArguments) -> Result<Status, Failure> {
    let mut selection = arguments.image.selection()?;
    if let Some(path) = &arguments.trace {
        Form::of(path)?;
        selection.run.trace_exits = arguments.image.trace_exits.unwrap_or(DEFAULT_TRACE_EXITS);
    }
    let target = target(arguments)?;
    if selection.run.watchdog_ticks == DEFAULT_WATCHDOG_TICKS {
        selection.run.watchdog_ticks = target.platform.watchdog_ticks;
    }
    // A kernel's sleep would cost a person's time, which an emulator passes more slowly than it is.
    selection.run.skips_idle_time |=
        arguments.image.idle.is_none() && target.platform.is_exact && arguments.image.kernel(None).is_some();
    let usual_limit = arguments.limit_ticks(target, selection.run.skips_idle_time);
    selection.run.limit_ticks = selection.run.limit_ticks.or(Some(usual_limit));
    let options = selection.options()?;
    let place = Place::new(arguments.out.as_deref())?;
    // Checked now, and not only when the run is over.
    let map = arguments.system_map.as_deref().map(system_map::read).transpose()?;
    arguments.html.iter().chain(&arguments.trace).try_for_each(|path| output_file::can_be_written(path))?;
    let (title, mut account) = if arguments.image.wants_atlas() {
        atlas::run(arguments, &selection, target, &place)?
    } else {
        run_image(arguments, &options, target, place.path())?
    };
    if let Some(map) = &map {
        account.name_end(map);
    }
    let titled = [Titled { title, account }];
    let printed =
        print(&if arguments.json { render(&titled, Format::Json) } else { render_on(&titled, Terminal::of_stdout()) });
    // Each file is written even if another can't be; the first failure is told.
    let kept = place.keep(None, &titled[0].account);
    let paged =
        arguments.html.iter().try_for_each(|path| output_file::write(path, render(&titled, Format::Html).as_bytes()));
    // A kernel's functions are not known.
    let guest = arguments.image.guest.as_deref().filter(|_| arguments.image.kernel(None).is_none());
    let log = place.path().join(SERIAL);
    let traced = arguments.trace.as_ref().map_or(Ok(()), |path| trace::write(&log, map, guest, path).map(drop));
    let status = titled[0].account.status;
    match printed.and(kept).and(paged).and(traced) {
        Err(failure) if status > failure.status => {
            Terminal::of_stderr().tell(&format!("tollgate: {failure}"));
            Ok(status)
        }
        written => written.map(|()| status),
    }
}

/// The target that the arguments ask for, if it can do what they ask.
fn target(arguments: &RunArguments) -> Result<Target, Failure> {
    let is_atlas = arguments.image.wants_atlas();
    if arguments.uefi && is_atlas {
        return Err(Failure::usage("the atlas takes several runs, and is run from the ROM").remedy("leave --uefi out"));
    }
    // An atlas is always audited.
    choose(arguments.on, arguments.cpu.as_deref(), arguments.audit || is_atlas)
}
