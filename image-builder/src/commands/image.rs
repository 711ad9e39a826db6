//! `tollgate image`: the bootable image as a file.

use std::path::Path;

use tollgate_books::failure::{Failure, Status};
use tollgate_books::output_file;
use tollgate_books::terminal::Terminal;

use super::one_image::no_kernel_on_a_stick;
use crate::cli::ImageArguments;
use crate::images;

pub(super) fn run(arguments: &ImageArguments) -> Result<Status, Failure> {
    let options = arguments.image.selection()?.options()?;
    let guest = arguments.image.guest.as_deref();
    if arguments.image.kernel(None).is_some() {
        return Err(no_kernel_on_a_stick());
    }
    if let Some(path) = &arguments.rom {
        let rom = images::build(guest, &options)?;
        write(path, &rom.bytes, rom.monitor_bytes, rom.guest_bytes, Some(rom.free_bytes))?;
    }
    if let Some(path) = &arguments.uefi {
        let stick = images::build_stick(guest, &options)?;
        write(path, &stick.bytes, stick.monitor_bytes, stick.guest_bytes, None)?;
    }
    Ok(Status::Balanced)
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
