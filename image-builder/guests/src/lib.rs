//! The host lowers a kernel that others built: a file of their format becomes segments and an entry state, which are put into the
//! guest's memory as they are. The monitor learns no file format.
//!
//! ```text
//! bzImage ─ header, packed ELF ─┐
//! ELF (vmlinux) ────────────────┴► kernel, boot_params, command line,
//!                                  ACPI tables, page tables, initrd   ─► [`Lowered`]
//! ```
//!
//! A bzImage's kernel is unpacked here and entered directly: its own unpacking would be the longest part of a boot.

#![forbid(unsafe_code)]

mod acpi;
mod boot_params;
mod bzimage;
mod elf;
mod error;
mod format;
mod initramfs;
mod initrd;
pub mod layout;
mod lowered;
mod packing;
mod page_tables;
mod unpack;

pub use error::Error;
pub use initramfs::{File, initramfs};
pub use lowered::{About, Entry, Format, Lowered, Segment};
pub use packing::Packing;

use boot_params::BootParams;
use bzimage::BzImage;
use elf::Elf;

/// A kernel, and the machine that it is to find.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The kernel's file: a bzImage of x86-64, or the ELF file in one.
    pub kernel: &'a [u8],
    /// The initial RAM disk: archives of cpio, packed or not.
    pub initrd: Option<&'a [u8]>,
    /// The kernel's command line.
    pub command_line: &'a str,
    /// Bytes of the machine's memory, from guest-physical 0.
    pub memory_bytes: u64,
    /// The number of vCPUs; their APIC IDs count from 0.
    pub vcpus: u32,
}

/// Whether a file that begins with these bytes is a bzImage, or is meant to be one.
pub fn is_bzimage(head: &[u8]) -> bool {
    matches!(format::recognise(head), Ok(Format::BzImage))
}

/// Lowers a kernel to segments, which do not overlap and lie in the machine's memory, and an entry state.
///
/// # Errors
/// The file is no kernel that can be entered, is damaged, or does not fit.
pub fn lower(request: &Request<'_>) -> Result<Lowered, Error> {
    let format = format::recognise(request.kernel)?;
    let (kernel, setup, about) = match format {
        Format::BzImage => from_bzimage(request.kernel)?,
        Format::Elf => from_elf(request.kernel)?,
    };
    layout::check_vcpus(request.vcpus)?;
    layout::check_command_line(request.command_line, setup.command_line_bytes)?;
    request.initrd.map_or(Ok(()), initrd::check)?;
    let initrd = layout::place_initrd(&kernel.range(), &setup, request.initrd, request.memory_bytes)?;
    let boot_params =
        BootParams { setup_header: &setup.header, initrd: initrd.as_ref(), memory_bytes: request.memory_bytes };

    let low = |gpa, bytes: Vec<u8>, what| Segment { gpa, memory_bytes: bytes.len() as u64, bytes, what };
    let mut command_line = request.command_line.as_bytes().to_vec();
    command_line.push(0);
    let mut segments = vec![
        low(layout::BOOT_PARAMS_GPA, boot_params.page(), "boot_params"),
        low(layout::PAGE_TABLES_GPA, page_tables::identity(layout::PAGE_TABLES_GPA), "page tables"),
        low(layout::COMMAND_LINE_GPA, command_line, "command line"),
        low(layout::ACPI_GPA, acpi::tables(layout::ACPI_GPA, request.vcpus), "ACPI tables"),
    ];
    segments.extend(kernel.segments);
    segments.extend(initrd);
    let entry = Entry {
        rip: kernel.entry_gpa,
        rsp: layout::STACK_TOP_GPA,
        rsi: layout::BOOT_PARAMS_GPA,
        cr3: layout::PAGE_TABLES_GPA,
    };
    Ok(Lowered { segments, entry, about })
}

fn from_bzimage(file: &[u8]) -> Result<(Elf, layout::Setup, About), Error> {
    let image = BzImage::parse(file)?;
    let packing = Packing::of(image.payload).ok_or(Error::UnknownPacking)?;
    let unpacked = unpack::unpack(packing, image.payload)?;
    let elf = Elf::parse(&unpacked)?;
    let about = About {
        version: image.version.or_else(|| elf.linux_version()),
        format: Format::BzImage,
        protocol: Some(image.protocol),
        unpacked: Some((packing, unpacked.len())),
        entry_gpa: elf.entry_gpa,
    };
    Ok((elf, image.setup, about))
}

fn from_elf(file: &[u8]) -> Result<(Elf, layout::Setup, About), Error> {
    let elf = Elf::parse(file)?;
    let about = About {
        version: elf.linux_version(),
        format: Format::Elf,
        protocol: None,
        unpacked: None,
        entry_gpa: elf.entry_gpa,
    };
    Ok((elf, boot_params::setup_of_elf(), about))
}
