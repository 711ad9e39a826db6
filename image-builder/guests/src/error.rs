//! The reasons that a kernel is not lowered: a sentence each, and a remedy.

use std::ops::Range;

use tollgate_abi::machine::MOST_VCPUS;
use tollgate_abi::machine::pc::MOST_MEMORY_MIB;

use crate::lowered::Format;
use crate::packing::Packing;

/// The reason that a kernel can't be lowered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The file is something else.
    #[error("the kernel's file is {0}; a bzImage, a multiboot kernel or an ELF file of x86 can be booted")]
    NoKernel(String),
    /// The file ends early.
    #[error("the kernel's file is truncated: its {part} reaches to byte {end}, and the file has {bytes}")]
    Truncated {
        /// The part that is cut off.
        part: &'static str,
        /// The end of that part.
        end: u64,
        /// The end of the file.
        bytes: u64,
    },
    /// The boot protocol has no 64-bit entry yet.
    #[error("the kernel speaks boot protocol {}.{:02}, and 2.12 (Linux 3.8) is the first with a 64-bit entry", .0.0, .0.1)]
    OldProtocol((u8, u8)),
    /// A kernel for 32-bit processors.
    #[error("the kernel is a 32-bit one, and the guest is entered in 64-bit mode")]
    ThirtyTwoBit,
    /// A 32-bit ELF file that says nothing of how it is to be entered.
    #[error("the kernel is a 32-bit ELF file with neither a header of multiboot nor a note about PVH")]
    NoHeader,
    /// A bzImage that prefers a place where no memory is.
    #[error("the bzImage wants to lie at {0:#x} (pref_address), which is beyond the most memory of a machine")]
    FarBzImage(u64),
    /// The packed kernel begins with no mark that is known.
    #[error("the bzImage's packed kernel begins with the mark of no packing that is known here")]
    UnknownPacking,
    /// A packing without a crate to unpack it.
    #[error("the kernel is packed with {0}, which is not unpacked here")]
    UnsupportedPacking(Packing),
    /// The packed kernel does not unpack.
    #[error("the packed kernel is damaged: {packing} can't be unpacked ({cause})")]
    Damaged {
        /// The packing.
        packing: Packing,
        /// The unpacker's own words.
        cause: String,
    },
    /// The packed kernel unpacks to another length than it says.
    #[error("the packed kernel is damaged: {found} bytes are unpacked from {packing}, and its end says {expected}")]
    UnpackedSize {
        /// The packing.
        packing: Packing,
        /// The bytes that were unpacked; the first too many counts, those behind it don't.
        found: u64,
        /// The number at the payload's end.
        expected: u64,
    },
    /// The ELF file can't be loaded.
    #[error("the kernel's ELF file {0}")]
    Elf(String),
    /// A part of the kernel belongs below 1 MiB.
    #[error("the kernel wants memory at {0:#x}; all below 0x100000 belongs to the boot information")]
    LowMemory(u64),
    /// Two parts of the kernel share memory.
    #[error("the kernel's segments at {0:#x} and {1:#x} overlap")]
    Overlap(u64, u64),
    /// The initrd is an empty file.
    #[error("the initrd is empty")]
    EmptyInitrd,
    /// The initrd is nothing that Linux unpacks.
    #[error("the initrd is no archive of cpio, packed or not")]
    NoInitrd,
    /// The initrd ends early, or has something else than files in it.
    #[error("the initrd is damaged: the archive at byte {at} can't be read as {form}: {cause}")]
    DamagedInitrd {
        /// Offset of the archive; there may be several in a file.
        at: usize,
        /// Its form: cpio, or the packing of it.
        form: String,
        /// The reader's own words.
        cause: String,
    },
    /// The initrd is above the last address that the kernel takes.
    #[error(
        "the initrd has {bytes} bytes, and the kernel takes one below {end:#x} only, of which {kernel_end:#x} are its own"
    )]
    InitrdTooLarge {
        /// Bytes of the initrd.
        bytes: u64,
        /// The first address that is too high.
        end: u64,
        /// The end of the kernel.
        kernel_end: u64,
    },
    /// The command line is too long.
    #[error("the command line has {bytes} bytes, and the kernel takes {most}")]
    CommandLineTooLong {
        /// Bytes of the command line.
        bytes: usize,
        /// The kernel's limit.
        most: u32,
    },
    /// The command line has a byte that ends it.
    #[error("the command line has a control character at byte {0}")]
    CommandLineControl(usize),
    /// A kernel's own header of a boot protocol contradicts itself or the file.
    #[error("the kernel's {header} header, at byte {at:#x} of its file, {cause}")]
    Header {
        /// The protocol.
        header: &'static str,
        /// The header's offset.
        at: usize,
        /// The contradiction, as a verb and the rest of the sentence.
        cause: String,
    },
    /// A kernel's own header demands something that is not there.
    #[error(
        "the kernel's {header} header, at byte {at:#x} of its file, demands {demand}, which the machine does not have"
    )]
    Demand {
        /// The protocol.
        header: &'static str,
        /// The header's offset.
        at: usize,
        /// The thing that is demanded.
        demand: String,
    },
    /// A part of the kernel belongs where something else is.
    #[error("the kernel wants memory from {:#x} to {:#x}; free are {:#x} to {:#x}, and all from {floor:#x} on",
        wanted.start, wanted.end, low.start, low.end)]
    Hole {
        /// The part.
        wanted: Range<u64>,
        /// The memory below 1 MiB that a kernel may have.
        low: Range<u64>,
        /// The first address of the other memory that it may have.
        floor: u64,
    },
    /// A device tree can't be written.
    #[error("the device tree of the boot information can't be written: {0}")]
    DeviceTree(String),
    /// The boot information is too long, or the kernel leaves no room for it.
    #[error("the boot information has {bytes:#x} bytes, and the kernel leaves no room for it below {end:#x}")]
    NoLowRoom {
        /// Its bytes.
        bytes: u64,
        /// The end of the memory for it.
        end: u64,
    },
    /// The kernel takes no modules.
    #[error("the kernel's file is {0}, which is given no modules")]
    NoModules(Format),
    /// A module is an empty file; they count from 1.
    #[error("module {0} is empty")]
    EmptyModule(usize),
    /// A module's text has a byte that ends it.
    #[error("the text of module {number} has a control character at byte {at}")]
    ModuleText {
        /// The module's number, from 1 on.
        number: usize,
        /// The byte's offset.
        at: usize,
    },
    /// The parts don't fit.
    #[error(
        "the kernel{} at least {needed_mib} MiB of memory, and the machine has {has_mib}",
        besides.map_or_else(|| " needs".to_owned(), |besides| format!(" and its {besides} need"))
    )]
    TooLittleMemory {
        /// MiB up to the end of the last part.
        needed_mib: u64,
        /// MiB of the machine.
        has_mib: u64,
        /// The parts besides the kernel, if there are some.
        besides: Option<&'static str>,
    },
    /// More memory than the machine can have.
    #[error("a machine of {0} MiB of memory is too large; {MOST_MEMORY_MIB} MiB is the most")]
    TooMuchMemory(u64),
    /// A number of vCPUs that the machine can't have.
    #[error("a machine of {0} vCPUs can't be made; 1 to {MOST_VCPUS} can")]
    Vcpus(u32),
}

impl Error {
    pub(crate) fn truncated(part: &'static str, end: usize, file: &[u8]) -> Self {
        Self::Truncated { part, end: end as u64, bytes: file.len() as u64 }
    }

    /// The remedy, for a person.
    pub fn remedy(&self) -> &'static str {
        match self {
            Error::NoKernel(_) => "name the file that /boot/vmlinuz is on a machine with Linux for x86-64",
            Error::Truncated { .. } | Error::Damaged { .. } | Error::UnpackedSize { .. } => {
                "copy or download the kernel again, and compare its checksum"
            }
            Error::OldProtocol(_) | Error::ThirtyTwoBit => "take a kernel for x86-64 (amd64), of Linux 3.8 or newer",
            Error::UnknownPacking | Error::UnsupportedPacking(_) => {
                "give the unpacked ELF file (vmlinux), or build with CONFIG_KERNEL_ZSTD, _LZ4, _XZ, _LZMA or _GZIP"
            }
            Error::Elf(_) | Error::LowMemory(_) | Error::Overlap(..) => {
                "give a vmlinux of x86-64, or the bzImage of it"
            }
            Error::FarBzImage(_) => "link the kernel to other addresses",
            Error::NoHeader => "give the kernel one of the two, or build it for x86-64",
            Error::Header { .. } => "link the kernel again by a link script that agrees with its header",
            Error::Demand { .. } => {
                "build the kernel for a machine with a serial console and without firmware's services"
            }
            Error::Hole { .. } => "link the kernel to other addresses",
            Error::NoLowRoom { .. } => "give fewer modules, or shorter texts with them",
            Error::NoModules(format) if format.is_like_linux() => "give Linux an archive of the files by --initrd",
            Error::NoModules(Format::Hermit) => "give Hermit one file by --initrd",
            Error::DeviceTree(_) => "change the command line",
            Error::NoModules(_) => "leave --module and --initrd out",
            Error::EmptyModule(_) => "leave it out, or give a file with something in it",
            Error::ModuleText { .. } => "separate words by spaces",
            Error::EmptyInitrd | Error::NoInitrd => {
                "give an archive that `cpio -o -H newc` made, packed or not, or none"
            }
            Error::DamagedInitrd { .. } => "copy the initrd or make it again",
            Error::InitrdTooLarge { .. } => "make the initrd smaller",
            Error::CommandLineTooLong { .. } => "shorten the command line",
            Error::CommandLineControl(_) => "separate parameters by spaces",
            Error::TooLittleMemory { .. } => {
                "give the machine more memory: --memory; a kernel wants some for itself beside what is loaded, and Linux for its initrd's files"
            }
            Error::TooMuchMemory(_) => "give the machine less memory",
            Error::Vcpus(_) => "choose another number of vCPUs",
        }
    }
}
