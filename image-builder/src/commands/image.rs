//! `tollgate image`: the bootable image as a file.

use std::path::Path;

use tollgate_books::failure::{Failure, Status};
use tollgate_books::output_file;
use tollgate_books::terminal::Terminal;

use crate::cli::ImageArguments;
use crate::image::{Rom, Stick};
use crate::images;
use crate::selection::SILICON_WATCHDOG_TICKS;

pub(super) fn run(arguments: &ImageArguments) -> Result<Status, Failure> {
    let mut selection = arguments.image.selection()?;
    let guest = arguments.image.guest.as_deref();
    let kernel = arguments.image.kernel(arguments.memory);
    check(arguments, kernel.is_some())?;
    // A kernel computes for longer without an exit than the built-in guest, and silicon executes more ticks in that time.
    if kernel.is_some() && arguments.image.watchdog.is_none() {
        selection.run.watchdog_ticks = SILICON_WATCHDOG_TICKS;
    }
    selection.run.shows_console = arguments.console;
    let options = selection.options()?;
    if let Some(path) = &arguments.rom {
        let Rom { bytes, monitor_bytes, guest_bytes, free_bytes } = images::build(guest, &options)?;
        write(path, &bytes, monitor_bytes, guest_bytes, Some(free_bytes))?;
    }
    if let Some(path) = &arguments.uefi {
        let Stick { bytes, monitor_bytes, guest_bytes } = match kernel {
            Some(kernel) => images::build_stick_around(&kernel.place(selection.run.cpus)?, &options)?,
            None => images::build_stick(guest, &options)?,
        };
        write(path, &bytes, monitor_bytes, guest_bytes, None)?;
    }
    Ok(Status::Balanced)
}

/// Refuses a kernel in a ROM, and memory for a guest whose machine has its own.
fn check(arguments: &ImageArguments, is_kernel: bool) -> Result<(), Failure> {
    if is_kernel && arguments.rom.is_some() {
        let sentence = "a kernel is too large for a ROM";
        return Err(
            Failure::usage(sentence).remedy("use --uefi FILE, or boot it in an emulator by `tollgate run --guest`")
        );
    }
    if !is_kernel && arguments.memory.is_some() {
        let sentence = "--memory is of a kernel's machine, and the guest is no kernel";
        return Err(Failure::usage(sentence).remedy("leave --memory out, or name a kernel with --guest"));
    }
    Ok(())
}

/// Writes an image and says what its parts take. In a ROM both parts are packed.
fn write(path: &Path, bytes: &[u8], monitor: usize, guest: usize, free: Option<usize>) -> Result<(), Failure> {
    output_file::write(path, bytes)?;
    let free = free.map_or(String::new(), |free| format!(", packed; {free} are free"));
    let (path, all) = (path.display(), bytes.len());
    let text = format!("{path}: {all} bytes, of which the monitor has {monitor} and the guest {guest}{free}");
    Terminal::of_stderr().tell(&text);
    Ok(())
}
