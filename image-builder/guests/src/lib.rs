//! The host lowers a kernel that others built: a file of their format becomes segments and an entry state, which are put into the
//! guest's memory as they are. The monitor learns no file format.
//!
//! ```text
//! bzImage ─ header, packed ELF ─┐
//! ELF (vmlinux) ────────────────┴► kernel, boot_params, command line,
//!                                  ACPI tables, page tables, initrd   ─► [`Lowered`]
//! multiboot, PVH, Hermit ────────► kernel, boot information, modules,
//!                                  ACPI tables                        ─► the same
//! ```
//!
//! A bzImage's kernel is unpacked here and entered directly: its own unpacking would be the longest part of a boot.

#![forbid(unsafe_code)]

mod acpi;
mod boot_header;
mod boot_params;
mod bzimage;
mod elf;
mod error;
mod format;
mod hermit;
mod information;
mod initramfs;
mod initrd;
pub mod layout;
mod linux;
mod lowered;
mod memory_map;
mod multiboot;
mod multiboot2;
mod packing;
mod page_tables;
mod pie;
mod pvh;
mod unpack;

pub use error::Error;
pub use initramfs::{File, initramfs};
pub use lowered::{About, Format, Lowered, Segment, Width};
pub use packing::Packing;
pub use pie::{Program, place_program};

/// A kernel, and the machine that it is to find.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The kernel's file; it may be packed as a whole.
    pub kernel: &'a [u8],
    /// The initial RAM disk. Linux' is archives of cpio, packed or not; for others it is the first module.
    pub initrd: Option<&'a [u8]>,
    /// The files that a kernel is given besides.
    pub modules: &'a [Module<'a>],
    /// The kernel's command line.
    pub command_line: &'a str,
    /// Bytes of the machine's memory, from guest-physical 0.
    pub memory_bytes: u64,
    /// The number of vCPUs; their APIC IDs count from 0.
    pub vcpus: u32,
}

/// A file that a kernel is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module<'a> {
    /// Its contents.
    pub bytes: &'a [u8],
    /// The text that comes with it: its name, or arguments for it.
    pub text: &'a str,
}

impl<'a> Request<'a> {
    /// The modules, the initial RAM disk first.
    fn all_modules(&self) -> Vec<Module<'a>> {
        let initrd = self.initrd.map(|bytes| Module { bytes, text: "initrd" });
        initrd.into_iter().chain(self.modules.iter().copied()).collect()
    }
}

/// The format of a kernel's file, which may be packed as a whole.
///
/// # Errors
/// It is no kernel that can be entered; the error names its format, if that is known.
pub fn recognise(file: &[u8]) -> Result<Format, Error> {
    format::recognise(&format::unpacked(file)?.0)
}

/// Whether a file is an ELF file without a mark of any kernel: one that is made for Tollgate, or an old vmlinux.
pub fn is_unmarked_elf(file: &[u8]) -> bool {
    format::is_unmarked_elf(file)
}

/// Lowers a kernel to segments, which do not overlap and lie in the machine's memory, and an entry state.
///
/// # Errors
/// The file is no kernel that can be entered, is damaged, or does not fit.
pub fn lower(request: &Request<'_>) -> Result<Lowered, Error> {
    let (kernel, packing) = format::unpacked(request.kernel)?;
    let mut lowered = lower_unpacked(&Request { kernel: &kernel, ..*request })?;
    lowered.about.unpacked = lowered.about.unpacked.or(packing.map(|packing| (packing, kernel.len())));
    Ok(lowered)
}

fn lower_unpacked(request: &Request<'_>) -> Result<Lowered, Error> {
    let format = format::recognise(request.kernel)?;
    layout::check_machine(request.memory_bytes, request.vcpus)?;
    if !request.modules.is_empty() && !format.takes_modules() {
        return Err(Error::NoModules(format));
    }
    match format {
        Format::BzImage | Format::PlainBzImage => linux::lower_bzimage(request, format),
        Format::Elf => linux::lower_elf(request),
        Format::Multiboot => multiboot::lower(request),
        Format::Multiboot2 => multiboot2::lower(request),
        Format::Hermit => hermit::lower(request),
        Format::Pvh => pvh::lower(request),
    }
}
