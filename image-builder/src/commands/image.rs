//! `tollgate image`: the bootable image as a file.

use crate::cli::ImageArguments;
use crate::failure::{Failure, Status};
use crate::image;
use crate::output_file;

pub(super) fn run(arguments: &ImageArguments) -> Result<Status, Failure> {
    let options = arguments.image.selection()?.options()?;
    let rom = image::build(arguments.image.guest.as_deref(), &options)?;
    output_file::write(&arguments.rom, &rom.bytes)?;
    eprintln!(
        "{}: {} bytes, of which the monitor has {} and the guest {}, packed; {} are free",
        arguments.rom.display(),
        rom.bytes.len(),
        rom.monitor_bytes,
        rom.guest_bytes,
        rom.free_bytes
    );
    Ok(Status::Balanced)
}
