//! A kernel as the monitor takes it: pieces of memory, and the state in which its first instruction runs.

use std::fmt;

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

/// The state at the kernel's first instruction: 64-bit mode at CPL 0, interrupts off, flat segments, all general-purpose registers
/// zero but these. There is no descriptor table: Linux loads its own before it loads a selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The entry point, a guest-physical address that is mapped to itself.
    pub rip: u64,
    /// The end of a page that nobody else has. Linux brings a stack of its own.
    pub rsp: u64,
    /// The address of `boot_params`.
    pub rsi: u64,
    /// The address of the PML4, which maps the first 4 GiB to themselves.
    pub cr3: u64,
}

/// A format that is lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Linux' boot image for x86: a setup part with a header, and a packed kernel.
    BzImage,
    /// An ELF file, as `vmlinux` is.
    Elf,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::BzImage => "a bzImage",
            Format::Elf => "an ELF file",
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
    /// A bzImage's version of the boot protocol, major and minor.
    pub protocol: Option<(u8, u8)>,
    /// The form in which the kernel was packed, and its bytes after unpacking.
    pub unpacked: Option<(Packing, usize)>,
    /// The entry point.
    pub entry_gpa: u64,
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => write!(f, "Linux {version}: {}", self.format)?,
            None => write!(f, "a kernel of unknown version: {}", self.format)?,
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
