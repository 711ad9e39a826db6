//! The bzImage: Linux' setup header, and the packed kernel that it names (Linux' Documentation/arch/x86/boot.rst, "The Real-Mode
//! Kernel Header").
//!
//! A bzImage that names none, as memtest86+, and one of 32 bits, as 32-bit Linux, which unpacks itself, are entered as they are, at the
//! address that they prefer.

use tollgate_abi::guest_image::Mode;

use crate::error::Error;
use crate::layout::Setup;

/// Offset of the header's mark.
pub(crate) const MAGIC_OFFSET: usize = 0x202;
/// The header's mark.
pub(crate) const MAGIC: &[u8] = b"HdrS";
/// Offset of the setup header, in the file as in `boot_params`.
pub(crate) const SETUP_HEADER_OFFSET: usize = 0x1f1;
/// The first offset behind the room that `boot_params` has for the setup header.
pub(crate) const SETUP_HEADER_ROOM_END: usize = 0x290;

/// Offset of the packed kernel's length.
const PAYLOAD_LENGTH: usize = 0x24c;
/// The first version of the protocol with a 64-bit entry.
const FIRST_PROTOCOL: (u8, u8) = (2, 12);
/// Sectors of the setup part if the header says 0.
const DEFAULT_SETUP_SECTORS: usize = 4;
const SECTOR_BYTES: usize = 512;
/// Offset that `kernel_version` counts from.
const VERSION_BASE: usize = 0x200;
/// The most bytes of a version that are looked at.
const MOST_VERSION_BYTES: usize = 256;
/// Bit of `xloadflags`: the kernel has a 64-bit entry.
const XLF_KERNEL_64: u16 = 1;

/// The distance of the 64-bit entry from the protected-mode part's beginning, which is the 32-bit entry.
const LONG_ENTRY_OFFSET: usize = 0x200;

/// A bzImage whose header is checked.
#[derive(Debug)]
pub(crate) struct BzImage<'a> {
    /// The kernel's version, if the header has it.
    pub(crate) version: Option<String>,
    /// Version of the boot protocol, major and minor.
    pub(crate) protocol: (u8, u8),
    /// The part of the file that is in it.
    pub(crate) code: Code<'a>,
    /// The header, and the limits in it.
    pub(crate) setup: Setup,
}

/// The code in a bzImage.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Code<'a> {
    /// A packed kernel with a 64-bit entry.
    Packed(&'a [u8]),
    /// A kernel that is entered as it is.
    Plain {
        /// Its bytes.
        bytes: &'a [u8],
        /// Their place.
        gpa: u64,
        /// Its first instruction.
        entry_gpa: u64,
        /// The mode of that.
        mode: Mode,
    },
}

/// The bytes of a field of the header, whose name an error tells.
fn field<const N: usize>(file: &[u8], offset: usize, name: &'static str) -> Result<[u8; N], Error> {
    file.get(offset..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .ok_or_else(|| Error::truncated(name, offset + N, file))
}

/// Whether the header of a file that has its mark names no packed kernel.
pub(crate) fn names_no_payload(file: &[u8]) -> bool {
    field(file, PAYLOAD_LENGTH, "payload_length").is_ok_and(|length| u32::from_le_bytes(length) == 0)
}

impl<'a> BzImage<'a> {
    /// Reads and checks the header of a file that has its mark.
    pub(crate) fn parse(file: &'a [u8]) -> Result<Self, Error> {
        let byte = |offset, name| field::<1>(file, offset, name).map(|[byte]| byte);
        let half = |offset, name| field(file, offset, name).map(u16::from_le_bytes);
        let word = |offset, name| field(file, offset, name).map(u32::from_le_bytes);

        let setup_sectors = byte(0x1f1, "setup_sects")?;
        let header_end = MAGIC_OFFSET + usize::from(byte(0x201, "jump")?);
        let [minor, major] = field(file, 0x206, "version")?;
        let protocol = (major, minor);
        if protocol < FIRST_PROTOCOL {
            return Err(Error::OldProtocol(protocol));
        }
        let version_offset = half(0x20e, "kernel_version")?;
        let initrd_most = word(0x22c, "initrd_addr_max")?;
        let is_wide = half(0x236, "xloadflags")? & XLF_KERNEL_64 != 0;
        let command_line_bytes = word(0x238, "cmdline_size")?;
        let payload_offset = word(0x248, "payload_offset")?;
        let payload_length = word(PAYLOAD_LENGTH, "payload_length")?;
        let gpa = field(file, 0x258, "pref_address").map(u64::from_le_bytes)?;
        let init_bytes = word(0x260, "init_size")?;
        let header = file
            .get(SETUP_HEADER_OFFSET..header_end.min(SETUP_HEADER_ROOM_END))
            .ok_or_else(|| Error::truncated("setup header", header_end, file))?;
        let sectors = if setup_sectors == 0 { DEFAULT_SETUP_SECTORS } else { setup_sectors.into() };
        let first = (sectors + 1) * SECTOR_BYTES;
        let code = if is_wide && payload_length != 0 {
            let start = first + payload_offset as usize;
            let end = start + payload_length as usize;
            Code::Packed(file.get(start..end).ok_or_else(|| Error::truncated("packed kernel", end, file))?)
        } else {
            let (mode, offset) = if is_wide { (Mode::Long, LONG_ENTRY_OFFSET) } else { (Mode::Protected, 0) };
            let least = first + offset + 1;
            let bytes = file.get(first..).filter(|bytes| bytes.len() > offset);
            let bytes = bytes.ok_or_else(|| Error::truncated("kernel", least, file))?;
            Code::Plain { bytes, gpa, entry_gpa: gpa.saturating_add(offset as u64), mode }
        };
        Ok(Self {
            version: version(file, version_offset),
            protocol,
            code,
            setup: Setup {
                header: header.to_vec(),
                command_line_bytes,
                initrd_end: u64::from(initrd_most) + 1,
                init_bytes: init_bytes.into(),
            },
        })
    }
}

/// The version's first word, "6.1.0-56-amd64 (builder@host) #1 ..." being longer than a person wants.
fn version(file: &[u8], offset: u16) -> Option<String> {
    let at = VERSION_BASE + usize::from(offset);
    let bytes = file.get(at..).filter(|_| offset != 0)?;
    first_word(&bytes[..bytes.len().min(MOST_VERSION_BYTES)])
}

/// The printable characters up to a blank or a NUL.
pub(crate) fn first_word(bytes: &[u8]) -> Option<String> {
    let word: String = bytes.iter().map(|&byte| char::from(byte)).take_while(char::is_ascii_graphic).collect();
    (!word.is_empty()).then_some(word)
}
