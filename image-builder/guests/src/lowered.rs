//! A kernel as the monitor takes it: pieces of memory, and the state in which its first instruction runs.

use std::fmt;

use tollgate_abi::guest_image::Entry;
use tollgate_abi::machine::Kind;

use crate::packing::Packing;

/// A kernel that is ready to be placed in the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lowered {
    /// The pieces of memory; none overlaps another.
    pub segments: Vec<Segment>,
    /// The state at the first instruction.
    pub entry: Entry,
    /// The facts of the file, for a person.
    pub about: About,
}

/// A piece of guest memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its first guest-physical address.
    pub gpa: u64,
    /// Its first bytes.
    pub bytes: Vec<u8>,
    /// Its length; the part behind `bytes` is zero.
    pub memory_bytes: u64,
    /// Its meaning, as a message names it.
    pub what: &'static str,
}

impl Segment {
    /// A piece whose bytes are all given.
    pub(crate) fn of(gpa: u64, bytes: Vec<u8>, what: &'static str) -> Self {
        Self { gpa, memory_bytes: bytes.len() as u64, bytes, what }
    }

    /// The first address behind it.
    pub fn end(&self) -> u64 {
        self.gpa + self.memory_bytes
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:#x}, {:#x} bytes ({:#x} given)", self.what, self.gpa, self.memory_bytes, self.bytes.len())
    }
}

/// A format that is lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Linux' boot image for x86: a setup part with a header, and a packed kernel.
    BzImage,
    /// A bzImage that names no packed kernel, as memtest86+ is: entered as Linux, and something else.
    PlainBzImage,
    /// An ELF file, as `vmlinux` is.
    Elf,
    /// A kernel with multiboot's first header.
    Multiboot,
    /// A kernel with the header of multiboot's second version.
    Multiboot2,
    /// A kernel and an application of Hermit's, in one file.
    Hermit,
    /// An ELF file with Xen's note about a 32-bit entry.
    Pvh,
}

impl Format {
    /// Whether the kernel is Linux.
    pub fn is_linux(self) -> bool {
        matches!(self, Format::BzImage | Format::Elf)
    }

    /// The machine that the kernel finds: Linux looks for no devices of an ISA bus.
    pub fn machine(self) -> Kind {
        if self.is_linux() { Kind::Pc } else { Kind::LegacyPc }
    }

    /// Whether the kernel is entered as Linux is, and takes such words as Linux.
    pub fn is_like_linux(self) -> bool {
        self.is_linux() || self == Format::PlainBzImage
    }

    /// Whether the kernel is given files besides itself.
    pub fn takes_modules(self) -> bool {
        matches!(self, Format::Multiboot | Format::Multiboot2 | Format::Pvh)
    }

    /// Whether the first word of the kernel's command line is its own name, which a loader puts there.
    pub fn has_name_in_command_line(self) -> bool {
        self == Format::Multiboot
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::BzImage => "a bzImage",
            Format::PlainBzImage => "a bzImage with nothing packed",
            Format::Elf => "an ELF file",
            Format::Multiboot => "a multiboot kernel",
            Format::Multiboot2 => "a multiboot2 kernel",
            Format::Hermit => "a Hermit image",
            Format::Pvh => "a PVH kernel",
        })
    }
}

/// The width of an ELF file's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 32 bits.
    Bits32,
    /// 64 bits.
    Bits64,
}

impl fmt::Display for Width {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Width::Bits32 => "32",
            Width::Bits64 => "64",
        })
    }
}

/// The facts of a kernel's file. Displays as a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The kernel's own words about its version, if they were found.
    pub version: Option<String>,
    /// The file's format.
    pub format: Format,
    /// The width of a kernel that is not Linux, if it is an ELF file.
    pub width: Option<Width>,
    /// A bzImage's version of the boot protocol, major and minor.
    pub protocol: Option<(u8, u8)>,
    /// The form in which the kernel was packed, and its bytes after unpacking.
    pub unpacked: Option<(Packing, usize)>,
    /// The entry point.
    pub entry_gpa: u64,
}

impl About {
    /// A kernel of which no more is known than its format and its entry point.
    pub(crate) fn of(format: Format, entry_gpa: u64) -> Self {
        Self { version: None, format, width: None, protocol: None, unpacked: None, entry_gpa }
    }
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) if self.format.is_linux() => write!(f, "Linux {version}: {}", self.format)?,
            Some(version) if self.format == Format::Hermit => write!(f, "Hermit {version}: {}", self.format)?,
            Some(name) => write!(f, "{name}: {}", self.format)?,
            None if self.format.is_linux() => write!(f, "a kernel of unknown version: {}", self.format)?,
            None => write!(f, "{}", self.format)?,
        }
        if let Some(width) = self.width {
            write!(f, " in an ELF file of {width} bits")?;
        }
        if let Some((major, minor)) = self.protocol {
            write!(f, " of boot protocol {major}.{minor:02}")?;
        }
        if let Some((packing, bytes)) = self.unpacked {
            write!(f, ", {bytes} bytes unpacked from {packing} on the host")?;
        }
        write!(f, ", entered at {:#x}", self.entry_gpa)
    }
}
