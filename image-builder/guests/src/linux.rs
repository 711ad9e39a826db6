//! Linux, by its 64-bit boot protocol: from a bzImage, whose kernel is unpacked here, or from the ELF file in one.

use tollgate_abi::guest_image::{Entry, Mode};

use crate::boot_params::{self, BootParams};
use crate::bzimage::{BzImage, Code};
use crate::elf::{self, Elf};
use crate::error::Error;
use crate::layout::{self, Setup};
use crate::lowered::{About, Format, Lowered, Segment, Width};
use crate::packing::Packing;
use crate::{Request, acpi, initrd, page_tables, unpack};

/// A kernel: its pieces by ascending addresses, the mode of its first instruction, its setup header, and the facts about it.
struct Kernel {
    segments: Vec<Segment>,
    mode: Mode,
    setup: Setup,
    about: About,
}

/// Lowers the kernel in a bzImage.
pub(crate) fn lower_bzimage(request: &Request<'_>, format: Format) -> Result<Lowered, Error> {
    lower(request, from_bzimage(request.kernel, format)?)
}

/// Lowers the kernel that an ELF file is.
pub(crate) fn lower_elf(request: &Request<'_>) -> Result<Lowered, Error> {
    lower(request, from_elf(request.kernel)?)
}

fn lower(request: &Request<'_>, Kernel { segments: kernel, mode, setup, about }: Kernel) -> Result<Lowered, Error> {
    layout::check_command_line(request.command_line, setup.command_line_bytes)?;
    request.initrd.map_or(Ok(()), initrd::check)?;
    let range = kernel.first().map_or(0, |first| first.gpa)..kernel.last().map_or(0, Segment::end);
    let initrd = layout::place_initrd(&range, &setup, request.initrd, request.memory_bytes)?;
    let boot_params =
        BootParams { setup_header: &setup.header, initrd: initrd.as_ref(), memory_bytes: request.memory_bytes };

    let mut command_line = request.command_line.as_bytes().to_vec();
    command_line.push(0);
    let mut segments = vec![
        Segment::of(layout::BOOT_PARAMS_GPA, boot_params.page(), "boot_params"),
        Segment::of(layout::PAGE_TABLES_GPA, page_tables::identity(layout::PAGE_TABLES_GPA), "page tables"),
        Segment::of(layout::COMMAND_LINE_GPA, command_line, "command line"),
        Segment::of(
            layout::ACPI_GPA,
            acpi::tables(layout::ACPI_GPA, about.format.machine(), request.vcpus),
            "ACPI tables",
        ),
    ];
    if !about.format.is_linux() {
        // A kernel of another kind may look for it.
        segments.push(Segment::of(layout::FOUND_RSDP_GPA, acpi::found(request.vcpus), "RSDP"));
    }
    segments.extend(kernel);
    segments.extend(initrd);
    let entry = Entry {
        mode,
        rip: about.entry_gpa,
        rsp: layout::STACK_TOP_GPA,
        rsi: layout::BOOT_PARAMS_GPA,
        cr3: layout::PAGE_TABLES_GPA,
        ..Entry::default()
    };
    Ok(Lowered { segments, entry, about })
}

fn from_bzimage(file: &[u8], format: Format) -> Result<Kernel, Error> {
    let image = BzImage::parse(file)?;
    let payload = match image.code {
        Code::Packed(payload) => payload,
        Code::Plain { bytes, gpa, entry_gpa, mode } => {
            if gpa.checked_add(bytes.len() as u64).is_none_or(|end| end > layout::MOST_MEMORY_BYTES) {
                return Err(Error::FarBzImage(gpa));
            }
            let segments = vec![Segment::of(gpa, bytes.to_vec(), "kernel")];
            check_floor(&segments)?;
            let about =
                About { version: image.version, protocol: Some(image.protocol), ..About::of(format, entry_gpa) };
            return Ok(Kernel { segments, mode, setup: image.setup, about });
        }
    };
    let packing = Packing::of(payload).ok_or(Error::UnknownPacking)?;
    let unpacked = unpack::unpack(packing, payload)?;
    let elf = parse(&unpacked)?;
    let about = About {
        version: image.version.or_else(|| elf.linux_version()),
        protocol: Some(image.protocol),
        unpacked: Some((packing, unpacked.len())),
        ..About::of(format, elf.entry_gpa()?)
    };
    Ok(Kernel { segments: elf.segments, mode: Mode::Long, setup: image.setup, about })
}

fn from_elf(file: &[u8]) -> Result<Kernel, Error> {
    let elf = parse(file)?;
    let about = About { version: elf.linux_version(), ..About::of(Format::Elf, elf.entry_gpa()?) };
    Ok(Kernel { segments: elf.segments, mode: Mode::Long, setup: boot_params::setup_of_elf(), about })
}

/// A kernel that is entered in 64-bit mode.
fn parse(file: &[u8]) -> Result<Elf, Error> {
    if elf::width(file)? == Width::Bits32 {
        return Err(Error::ThirtyTwoBit);
    }
    let elf = Elf::parse(file)?;
    check_floor(&elf.segments)?;
    Ok(elf)
}

/// Checks that segments leave the boot information its place.
fn check_floor(segments: &[Segment]) -> Result<(), Error> {
    match segments.first() {
        Some(first) if first.gpa < layout::KERNEL_FLOOR_GPA => Err(Error::LowMemory(first.gpa)),
        _ => Ok(()),
    }
}
