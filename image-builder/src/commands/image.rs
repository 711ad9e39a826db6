//! `tollgate image`: the bootable image as a file.

use std::path::Path;

use crate::cli::ImageArguments;
use crate::failure::{Failure, Status};
use crate::image;
use crate::output_file;

pub(super) fn run(arguments: &ImageArguments) -> Result<Status, Failure> {
    let options = arguments.image.selection()?.options()?;
    let guest = arguments.image.guest.as_deref();
    if let Some(path) = &arguments.rom {
        let rom = image::build(guest, &options)?;
        write(path, &rom.bytes, rom.monitor_bytes, rom.guest_bytes)?;
    }
    if let Some(path) = &arguments.uefi {
        let stick = image::build_stick(guest, &options)?;
        write(path, &stick.bytes, stick.monitor_bytes, stick.guest_bytes)?;
    }
    Ok(Status::Balanced)
}

fn write(path: &Path, bytes: &[u8], monitor_bytes: usize, guest_bytes: usize) -> Result<(), Failure> {
    output_file::write(path, bytes)?;
    let (path, all) = (path.display(), bytes.len());
    eprintln!("{path}: {all} bytes, of which the monitor has {monitor_bytes} and the guest {guest_bytes}");
    Ok(())
}
