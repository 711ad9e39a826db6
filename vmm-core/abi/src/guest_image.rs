//! A guest in an image: a directory page that the monitor finds, and the guest's segments.
//!
//! ```text
//! ROM:    packed monitor | packed guest segments ... | directory page | boot block with the reset vector
//! stick:  directory page | guest segments ...
//! ```
//!
//! The host tool reads the guest's ELF file and writes this; the monitor checks it again. In a ROM each segment's bytes are packed
//! ([`crate::packed`]), and the boot block unpacks them to their place in the guest's memory before the monitor runs. On a stick,
//! where there is room, they are as they are, and the monitor copies them. The page also has the place of the packed monitor, and
//! sums of the ROM's bytes. Numbers are little-endian.
//!
//! A guest that is too large for a ROM is *placed*: the emulator puts its bytes where guest-physical 0 is before the machine
//! starts ([`PLACED_HPA`]). Such a guest has no segments, and the monitor writes nothing for it. On a stick, where there is room,
//! the same guest has segments.

use core::fmt;

use crate::machine::{
    BOOT_AREA_BYTES, BOOT_INFO_GPA, Kind, LARGE_PAGE_BYTES, OPTIONS_BYTES, PAGE_TABLES_GPA, pc::MOST_MEMORY_MIB,
};
pub use crate::rom::{BOOT_BLOCK_BYTES, DIRECTORY_BYTES, DIRECTORY_OFFSET, ROM_BASE, ROM_BYTES};

use crate::packed::{PACKED_MONITOR_BYTES, PLACE_IN_DIRECTORY, PackedMonitor, SUMS_OFFSET};

/// Marks a directory page.
pub const MAGIC: [u8; 8] = *b"TollGate";
/// Version of this format.
pub const VERSION: u32 = 6;
/// The most segments that a guest may have.
pub const MAX_SEGMENTS: usize = 16;

/// Offset of the number of segments, a doubleword.
pub const SEGMENT_COUNT_IN_DIRECTORY: usize = 12;
/// Offset of the first [`Segment`].
pub const SEGMENTS_IN_DIRECTORY: usize = GUEST_IN_DIRECTORY + size_of::<[u64; GUEST_WORDS]>();
/// Offset of the machine's number and the words behind it.
const GUEST_IN_DIRECTORY: usize = 48;
/// The number of these words.
const GUEST_WORDS: usize = 11;
/// Offset of the bytes of memory that the guest's machine has.
pub const MEMORY_IN_DIRECTORY: usize = GUEST_IN_DIRECTORY + 8;

/// The host-physical address of guest-physical 0 in a machine that starts from the ROM: above the monitor and its heap, and a
/// multiple of 2 MiB for large pages.
pub const PLACED_HPA: u64 = 8 << 20;
/// The address, in the memory of such a machine, of the doubleword that says how many bytes of the guest were placed.
pub const PLACED_BYTES_AT: u32 = ROM_BASE + (DIRECTORY_OFFSET + GUEST_IN_DIRECTORY + 16) as u32;
/// The bytes with which a placed guest begins and ends, so that the monitor sees whether the emulator placed all of it.
pub const PLACED_MARK: [u8; 8] = *b"TollGues";

/// Digits of the TSC's rate in kHz, as the guest has it in its own text ([`Placing::tsc_khz_gpa`]).
pub const TSC_KHZ_DIGITS: usize = 7;
const SEGMENT_BYTES: usize = size_of::<Segment>();

const _: () = assert!(SEGMENT_BYTES == 40);
const _: () = assert!(PLACE_IN_DIRECTORY + PACKED_MONITOR_BYTES <= GUEST_IN_DIRECTORY);
const _: () =
    assert!(SEGMENTS_IN_DIRECTORY + MAX_SEGMENTS * SEGMENT_BYTES + OPTIONS_BYTES <= SUMS_OFFSET - DIRECTORY_OFFSET);

/// A piece of guest memory to be loaded. The directory has it in this form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// The guest-physical address that it goes to.
    pub gpa: u64,
    /// Its length; the part that the file does not fill is zero.
    pub memory_bytes: u64,
    /// Offset of its bytes from the start of the image.
    pub image_offset: u64,
    /// The number of its bytes in the guest's file.
    pub file_bytes: u64,
    /// The bytes that it takes in the image: packed in a ROM, as many as in the file on a stick.
    pub packed_bytes: u64,
}

/// The mode of vCPU 0 at its first instruction. Interrupts are off, segments are flat, and CPL is 0 in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// 64-bit mode.
    #[default]
    Long = 0,
    /// Protected mode with 32-bit segments, without paging, as multiboot and PVH begin.
    Protected = 1,
}

impl Mode {
    /// The mode with this number.
    pub const fn of_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Long),
            1 => Some(Self::Protected),
            _ => None,
        }
    }
}

/// The part of vCPU 0's state at its first instruction in which guests differ. What it does not name is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The mode.
    pub mode: Mode,
    /// RIP, a guest-physical address too: the first tables map it to itself.
    pub rip: u64,
    /// RSP.
    pub rsp: u64,
    /// RAX.
    pub rax: u64,
    /// RBX.
    pub rbx: u64,
    /// RDI.
    pub rdi: u64,
    /// RSI.
    pub rsi: u64,
    /// CR3, in 64-bit mode.
    pub cr3: u64,
}

/// The guest's machine, and the way in which the guest lies in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placing {
    /// The machine.
    pub machine: Kind,
    /// The machine's memory in bytes, where the image chooses.
    pub memory_bytes: u64,
    /// Bytes from guest-physical 0 on that are there before the monitor is; 0 if the monitor loads the guest.
    pub placed_bytes: u64,
    /// The guest's beginning.
    pub entry: Entry,
    /// The address at which the guest is told the TSC's rate in kHz, by [`TSC_KHZ_DIGITS`] decimal digits; 0 if it is not. A monitor
    /// that knows the rate writes it there. Otherwise the rate of emulators stays, whose ticks have no rate of their own.
    pub tsc_khz_gpa: u64,
}

impl Placing {
    /// A guest of the unikernel's machine, with this entry point, which the monitor loads.
    pub const fn unikernel(entry_gpa: u64) -> Self {
        let mode = Mode::Long;
        let entry =
            Entry { mode, rip: entry_gpa, rsp: 0, rax: 0, rbx: 0, rdi: BOOT_INFO_GPA, rsi: 0, cr3: PAGE_TABLES_GPA };
        let memory_bytes = Kind::Unikernel.row().memory_bytes();
        Self { machine: Kind::Unikernel, memory_bytes, placed_bytes: 0, entry, tsc_khz_gpa: 0 }
    }

    /// Bytes of memory that segments may lie in.
    const fn ram_bytes(&self) -> u64 {
        match self.machine {
            Kind::Unikernel => Kind::Unikernel.row().ram_bytes(),
            Kind::Pc | Kind::LegacyPc => self.memory_bytes,
        }
    }

    const fn words(&self) -> [u64; GUEST_WORDS] {
        // RIP has its place further up.
        let Entry { mode, rsp, rax, rbx, rdi, rsi, cr3, .. } = self.entry;
        let Self { machine, memory_bytes, placed_bytes, tsc_khz_gpa, .. } = *self;
        [machine as u64, memory_bytes, placed_bytes, rsp, rdi, rsi, cr3, tsc_khz_gpa, mode as u64, rax, rbx]
    }
}

/// The contents of the directory page.
#[derive(Clone, Copy, Debug)]
pub struct Directory<'a> {
    /// The guest's machine and entry.
    pub placing: Placing,
    /// The run's options; see [`crate::command_line`].
    pub options: &'a str,
    segments: &'a [u8],
}

/// The reason that a guest can't be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The page is not a directory.
    NoDirectory,
    /// The directory is of another version.
    Version(u32),
    /// Lengths in the directory exceed the page.
    Malformed,
    /// There is no segment.
    Empty,
    /// More than [`MAX_SEGMENTS`].
    TooManySegments(usize),
    /// More bytes in the file than in memory.
    FileLongerThanMemory(Segment),
    /// Outside the guest's memory, of which there are so many bytes.
    OutsideMemory(Segment, u64),
    /// In the boot area, which belongs to the monitor.
    OverlapsBootArea(Segment),
    /// Two segments share memory.
    Overlap(Segment, Segment),
    /// The bytes are not in the image.
    OutsideImage(Segment),
    /// The entry point is in no segment.
    EntryOutside(u64),
    /// The options are too long or not printable ASCII.
    Options,
    /// No machine has this number.
    Machine(u64),
    /// No mode has this number.
    Mode(u64),
    /// The unikernel's machine begins in 64-bit mode alone.
    ModeOfMachine(Mode),
    /// The machine can't have as much memory, in bytes, or a guest as long in it.
    Memory(Placing),
    /// The place for the TSC's rate is not in the guest's memory.
    TscRate(u64),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |segment: &Segment| (segment.gpa, segment.memory_bytes);
        match self {
            LoadError::NoDirectory => write!(f, "the image holds no guest"),
            LoadError::Version(version) => {
                write!(f, "the image's directory has version {version}; this monitor reads version {VERSION}")
            }
            LoadError::Malformed => write!(f, "the image's directory is malformed"),
            LoadError::Empty => write!(f, "the guest has nothing to load"),
            LoadError::TooManySegments(n) => {
                write!(f, "the guest has {n} segments; at most {MAX_SEGMENTS} are allowed")
            }
            LoadError::FileLongerThanMemory(segment) => {
                write!(
                    f,
                    "the guest's segment at {:#x} has more bytes in the file ({:#x}) than in memory ({:#x})",
                    segment.gpa, segment.file_bytes, segment.memory_bytes
                )
            }
            LoadError::OutsideMemory(segment, ram_bytes) => {
                let (gpa, bytes) = range(segment);
                write!(
                    f,
                    "the guest's segment at {gpa:#x}, {bytes:#x} bytes long, lies outside the guest's memory (0 to {ram_bytes:#x})"
                )
            }
            LoadError::OverlapsBootArea(segment) => {
                let (gpa, bytes) = range(segment);
                write!(
                    f,
                    "the guest's segment at {gpa:#x}, {bytes:#x} bytes long, overlaps the monitor's boot area (0 to {BOOT_AREA_BYTES:#x})"
                )
            }
            LoadError::Overlap(a, b) => write!(f, "the guest's segments at {:#x} and {:#x} overlap", a.gpa, b.gpa),
            LoadError::OutsideImage(segment) => {
                write!(f, "the guest's segment at {:#x} has its bytes outside the image", segment.gpa)
            }
            LoadError::EntryOutside(entry) => {
                write!(f, "the guest's entry point {entry:#x} is in none of its segments")
            }
            LoadError::Options => write!(f, "the options are longer than {OPTIONS_BYTES} bytes or not printable ASCII"),
            LoadError::Machine(number) => {
                write!(f, "the image's directory names machine {number}, which does not exist")
            }
            LoadError::Mode(number) => {
                write!(f, "the image's directory names mode {number} for the guest's beginning, which does not exist")
            }
            LoadError::ModeOfMachine(mode) => {
                write!(f, "the unikernel's machine begins in 64-bit mode, and the image's directory asks for {mode:?}")
            }
            LoadError::Memory(placing) => {
                let Placing { memory_bytes, placed_bytes, .. } = placing;
                write!(
                    f,
                    "the guest's machine can't have {memory_bytes:#x} bytes of memory with {placed_bytes:#x} bytes placed in \
                     it: it has 2 to {MOST_MEMORY_MIB} MiB, a multiple of 2 MiB"
                )
            }
            LoadError::TscRate(gpa) => {
                write!(f, "the guest is told the TSC's rate at {gpa:#x}, which is not in its memory")
            }
        }
    }
}

/// Checks that segments can be loaded side by side and that the entry point is in one of them.
///
/// # Errors
/// The first rule that the machine or a segment breaks.
pub fn check(placing: &Placing, segments: impl Iterator<Item = Segment> + Clone) -> Result<(), LoadError> {
    let (entry_gpa, count) = (placing.entry.rip, segments.clone().count());
    match placing.machine {
        Kind::Pc | Kind::LegacyPc => check_pc(placing)?,
        Kind::Unikernel if placing.entry.mode != Mode::Long => {
            return Err(LoadError::ModeOfMachine(placing.entry.mode));
        }
        Kind::Unikernel => {}
    }
    if placing.machine != Kind::Unikernel && placing.placed_bytes > 0 {
        if entry_gpa >= placing.placed_bytes {
            return Err(LoadError::EntryOutside(entry_gpa));
        }
        // All of it is placed.
        return if count == 0 { Ok(()) } else { Err(LoadError::TooManySegments(count)) };
    }
    if count == 0 {
        return Err(LoadError::Empty);
    }
    if count > MAX_SEGMENTS {
        return Err(LoadError::TooManySegments(count));
    }
    check_segments(placing, segments.clone())?;
    let holds_entry =
        |segment: &Segment| entry_gpa.checked_sub(segment.gpa).is_some_and(|offset| offset < segment.memory_bytes);
    if segments.clone().any(|segment| holds_entry(&segment)) { Ok(()) } else { Err(LoadError::EntryOutside(entry_gpa)) }
}

/// Checks the memory of a PC, which an image chooses.
fn check_pc(placing: &Placing) -> Result<(), LoadError> {
    let fits = (LARGE_PAGE_BYTES..=MOST_MEMORY_MIB << 20).contains(&placing.memory_bytes)
        && placing.memory_bytes.is_multiple_of(LARGE_PAGE_BYTES)
        && placing.placed_bytes <= placing.memory_bytes;
    if !fits {
        return Err(LoadError::Memory(*placing));
    }
    let end = placing.tsc_khz_gpa.checked_add(TSC_KHZ_DIGITS as u64);
    if end.is_none_or(|end| end > placing.memory_bytes) {
        return Err(LoadError::TscRate(placing.tsc_khz_gpa));
    }
    Ok(())
}

/// Checks that segments lie in memory, beside each other, and not in the area that the monitor writes for its own guests.
fn check_segments(placing: &Placing, segments: impl Iterator<Item = Segment> + Clone) -> Result<(), LoadError> {
    let ram_bytes = placing.ram_bytes();
    for (i, segment) in segments.clone().enumerate() {
        if segment.file_bytes > segment.memory_bytes {
            return Err(LoadError::FileLongerThanMemory(segment));
        }
        let end = segment.gpa.checked_add(segment.memory_bytes).filter(|&end| end <= ram_bytes);
        let end = end.ok_or(LoadError::OutsideMemory(segment, ram_bytes))?;
        if placing.machine == Kind::Unikernel && segment.gpa < BOOT_AREA_BYTES {
            return Err(LoadError::OverlapsBootArea(segment));
        }
        let shares = |other: &Segment| segment.gpa < other.gpa.saturating_add(other.memory_bytes) && other.gpa < end;
        if let Some(other) = segments.clone().skip(i + 1).find(shares) {
            return Err(LoadError::Overlap(segment, other));
        }
    }
    Ok(())
}

fn options_fit(options: &[u8]) -> bool {
    options.len() <= OPTIONS_BYTES && options.iter().all(|byte| (b' '..=b'~').contains(byte))
}

/// Writes a directory page.
///
/// # Errors
/// The error of [`check`], or options that do not fit.
pub fn write_directory(
    page: &mut [u8; DIRECTORY_BYTES],
    monitor: PackedMonitor,
    placing: &Placing,
    segments: &[Segment],
    options: &str,
) -> Result<(), LoadError> {
    check(placing, segments.iter().copied())?;
    if !options_fit(options.as_bytes()) {
        return Err(LoadError::Options);
    }
    page.fill(0);
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        page[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&MAGIC);
    put(&VERSION.to_le_bytes());
    put(&(segments.len() as u32).to_le_bytes());
    put(&placing.entry.rip.to_le_bytes());
    put(&(options.len() as u64).to_le_bytes());
    let mut place = [0; GUEST_IN_DIRECTORY - PLACE_IN_DIRECTORY];
    place[..PACKED_MONITOR_BYTES].copy_from_slice(&monitor.to_bytes());
    put(&place);
    placing.words().iter().for_each(|word| put(&word.to_le_bytes()));
    for segment in segments {
        for word in [segment.gpa, segment.memory_bytes, segment.image_offset, segment.file_bytes, segment.packed_bytes]
        {
            put(&word.to_le_bytes());
        }
    }
    put(options.as_bytes());
    Ok(())
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

impl<'a> Directory<'a> {
    /// Reads and checks a directory page of an image of `image_bytes`.
    ///
    /// # Errors
    /// The page is not a directory, or its guest can't be loaded.
    pub fn read(page: &'a [u8; DIRECTORY_BYTES], image_bytes: u64) -> Result<Self, LoadError> {
        if page[..8] != MAGIC {
            return Err(LoadError::NoDirectory);
        }
        let version = word(&page[8..12]) as u32;
        if version != VERSION {
            return Err(LoadError::Version(version));
        }
        let count = word(&page[SEGMENT_COUNT_IN_DIRECTORY..][..4]) as usize;
        if count > MAX_SEGMENTS {
            return Err(LoadError::TooManySegments(count));
        }
        let (segments, rest) = page[SEGMENTS_IN_DIRECTORY..].split_at(count * SEGMENT_BYTES);
        let options_bytes = usize::try_from(word(&page[24..32])).map_err(|_| LoadError::Malformed)?;
        let options = rest.get(..options_bytes).filter(|bytes| options_fit(bytes)).ok_or(LoadError::Options)?;
        let options = core::str::from_utf8(options).map_err(|_| LoadError::Options)?;
        let guest: [u64; GUEST_WORDS] = core::array::from_fn(|at| word(&page[GUEST_IN_DIRECTORY + 8 * at..]));
        let [machine, memory_bytes, placed_bytes, rsp, rdi, rsi, cr3, tsc_khz_gpa, mode, rax, rbx] = guest;
        let kind = u32::try_from(machine).ok().and_then(Kind::of_number).ok_or(LoadError::Machine(machine))?;
        let mode = Mode::of_number(mode).ok_or(LoadError::Mode(mode))?;
        let entry = Entry { mode, rip: word(&page[16..24]), rsp, rax, rbx, rdi, rsi, cr3 };
        let placing = Placing { machine: kind, memory_bytes, placed_bytes, entry, tsc_khz_gpa };
        let directory = Self { placing, options, segments };
        check(&directory.placing, directory.segments())?;
        let in_image = |segment: &Segment| {
            segment.image_offset.checked_add(segment.packed_bytes).is_some_and(|end| end <= image_bytes)
        };
        match directory.segments().find(|segment| !in_image(segment)) {
            Some(segment) => Err(LoadError::OutsideImage(segment)),
            None => Ok(directory),
        }
    }

    /// The guest's segments.
    pub fn segments(&self) -> impl Iterator<Item = Segment> + Clone + use<'a> {
        self.segments.chunks_exact(SEGMENT_BYTES).map(|bytes| Segment {
            gpa: word(bytes),
            memory_bytes: word(&bytes[8..]),
            image_offset: word(&bytes[16..]),
            file_bytes: word(&bytes[24..]),
            packed_bytes: word(&bytes[32..]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const CODE: Segment =
        Segment { gpa: 0x10_0000, memory_bytes: 0x2000, image_offset: 0x100, file_bytes: 0x1800, packed_bytes: 0x1000 };
    const DATA: Segment =
        Segment { gpa: 0x10_2000, memory_bytes: 0x1000, image_offset: 0x1900, file_bytes: 0, packed_bytes: 0 };

    const MONITOR: PackedMonitor = PackedMonitor { image_offset: 0, packed_bytes: 0x100, unpacked_bytes: 0x180 };

    fn page(entry: u64, segments: &[Segment], options: &str) -> Result<[u8; DIRECTORY_BYTES], LoadError> {
        let mut page = [0; DIRECTORY_BYTES];
        write_directory(&mut page, MONITOR, &Placing::unikernel(entry), segments, options).map(|()| page)
    }

    #[test]
    fn a_directory_reads_as_it_was_written() {
        let page = page(0x10_0010, &[CODE, DATA], "workloads=cpuid").unwrap();
        let directory = Directory::read(&page, 0x4_0000).unwrap();
        assert_eq!((directory.placing, directory.options), (Placing::unikernel(0x10_0010), "workloads=cpuid"));
        assert_eq!((PackedMonitor::read(&page), page[PLACE_IN_DIRECTORY + 8]), (MONITOR, 0x80));
        assert_eq!(directory.segments().collect::<Vec<_>>(), [CODE, DATA]);
        assert_eq!(Directory::read(&page, 0x1000).unwrap_err(), LoadError::OutsideImage(CODE));
    }

    #[test]
    fn each_rule_is_named() {
        let check = |entry, segments: &[Segment], error| assert_eq!(page(entry, segments, "").unwrap_err(), error);
        check(0, &[], LoadError::Empty);
        check(CODE.gpa, &[CODE; 17], LoadError::TooManySegments(17));
        let long = Segment { file_bytes: 0x3000, ..CODE };
        check(CODE.gpa, &[long], LoadError::FileLongerThanMemory(long));
        let ram_bytes = Kind::Unikernel.row().ram_bytes();
        let high = Segment { gpa: ram_bytes - 0x1000, ..CODE };
        check(CODE.gpa, &[CODE, high], LoadError::OutsideMemory(high, ram_bytes));
        let wrapping = Segment { gpa: u64::MAX, ..CODE };
        check(CODE.gpa, &[wrapping], LoadError::OutsideMemory(wrapping, ram_bytes));
        let low = Segment { gpa: 0x1000, ..CODE };
        check(CODE.gpa, &[low], LoadError::OverlapsBootArea(low));
        let inner = Segment { gpa: CODE.gpa + 0x1fff, ..DATA };
        check(CODE.gpa, &[CODE, inner], LoadError::Overlap(CODE, inner));
        check(0x20_0000, &[CODE], LoadError::EntryOutside(0x20_0000));
        assert_eq!(page(CODE.gpa, &[CODE], "\n").unwrap_err(), LoadError::Options);
    }

    /// A PC with 64 MiB, in which 32 MiB are placed.
    const KERNEL: Placing = Placing {
        machine: Kind::Pc,
        memory_bytes: 64 << 20,
        placed_bytes: 32 << 20,
        entry: Entry { mode: Mode::Protected, rip: 0x100_0000, rsp: 1, rax: 5, rbx: 6, rdi: 2, rsi: 3, cr3: 4 },
        tsc_khz_gpa: 0x2_0000,
    };

    fn written(placing: &Placing, segments: &[Segment]) -> Result<[u8; DIRECTORY_BYTES], LoadError> {
        let mut page = [0; DIRECTORY_BYTES];
        write_directory(&mut page, MONITOR, placing, segments, "cpus=2").map(|()| page)
    }

    #[test]
    fn a_placed_guest_has_no_segments_and_lies_in_memory_that_the_machine_can_have() {
        let mut page = written(&KERNEL, &[]).unwrap();
        let directory = Directory::read(&page, 0x4_0000).unwrap();
        assert_eq!((directory.placing, directory.segments().count()), (KERNEL, 0));
        let at = (PLACED_BYTES_AT - ROM_BASE) as usize - DIRECTORY_OFFSET;
        assert_eq!(word(&page[at..]), KERNEL.placed_bytes, "where the boot block looks");
        assert_eq!(written(&KERNEL, &[CODE]), Err(LoadError::TooManySegments(1)));
        let outside = Placing { entry: Entry { rip: KERNEL.placed_bytes, ..KERNEL.entry }, ..KERNEL };
        assert_eq!(written(&outside, &[]), Err(LoadError::EntryOutside(KERNEL.placed_bytes)));
        for (memory_bytes, placed_bytes) in
            [(0, 0), (1 << 20, 1 << 20), (32 << 20, (32 << 20) + 1), ((MOST_MEMORY_MIB + 2) << 20, 1), (3 << 20, 1)]
        {
            let placing = Placing { memory_bytes, placed_bytes, ..KERNEL };
            assert_eq!(written(&placing, &[]), Err(LoadError::Memory(placing)));
        }
        for tsc_khz_gpa in [KERNEL.memory_bytes - TSC_KHZ_DIGITS as u64 + 1, u64::MAX] {
            let placing = Placing { tsc_khz_gpa, ..KERNEL };
            assert_eq!(written(&placing, &[]), Err(LoadError::TscRate(tsc_khz_gpa)));
        }
        page[GUEST_IN_DIRECTORY] = 7;
        assert_eq!(Directory::read(&page, 0x4_0000).unwrap_err(), LoadError::Machine(7));
    }

    #[test]
    fn the_pc_with_an_isa_bus_is_checked_as_the_other_is() {
        let legacy = Placing { machine: Kind::LegacyPc, ..KERNEL };
        let page = written(&legacy, &[]).unwrap();
        assert_eq!(Directory::read(&page, 0x4_0000).unwrap().placing, legacy);
        let placing = Placing { memory_bytes: 3 << 20, ..legacy };
        assert_eq!(written(&placing, &[]), Err(LoadError::Memory(placing)));
        assert_eq!(written(&legacy, &[CODE]), Err(LoadError::TooManySegments(1)));
        let code = Segment { gpa: legacy.entry.rip, ..CODE };
        assert_eq!(written(&Placing { placed_bytes: 0, ..legacy }, &[code]).map(|_| ()), Ok(()));
    }

    #[test]
    fn a_mode_is_one_that_the_machine_begins_in() {
        let mut page = written(&KERNEL, &[]).unwrap();
        page[GUEST_IN_DIRECTORY + 8 * 8] = 2;
        assert_eq!(Directory::read(&page, 0x4_0000).unwrap_err(), LoadError::Mode(2));
        let mut own = Placing::unikernel(CODE.gpa);
        own.entry.mode = Mode::Protected;
        assert_eq!(written(&own, &[CODE]), Err(LoadError::ModeOfMachine(Mode::Protected)));
    }

    #[test]
    fn a_pc_that_is_loaded_has_segments_anywhere_in_its_memory() {
        let loaded = Placing { placed_bytes: 0, ..KERNEL };
        let low = Segment { gpa: 0x1000, ..DATA };
        let code = Segment { gpa: KERNEL.entry.rip, ..CODE };
        let page = written(&loaded, &[low, code]).unwrap();
        let directory = Directory::read(&page, 0x4_0000).unwrap();
        assert_eq!((directory.placing, directory.segments().collect::<Vec<_>>()), (loaded, [low, code].into()));
        assert_eq!(written(&loaded, &[]), Err(LoadError::Empty));
        assert_eq!(written(&loaded, &[low]), Err(LoadError::EntryOutside(KERNEL.entry.rip)));
        let high = Segment { gpa: KERNEL.memory_bytes - 0xfff, ..DATA };
        assert_eq!(written(&loaded, &[code, high]), Err(LoadError::OutsideMemory(high, KERNEL.memory_bytes)));
        assert_eq!(written(&loaded, &[code, code]), Err(LoadError::Overlap(code, code)));
    }

    proptest! {
        #[test]
        fn any_page_reads_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 200..400), keep in any::<bool>()) {
            bytes.resize(DIRECTORY_BYTES, 0);
            let mut page: [u8; DIRECTORY_BYTES] = bytes.try_into().unwrap();
            if keep {
                page[..8].copy_from_slice(&MAGIC);
                page[8..12].copy_from_slice(&VERSION.to_le_bytes());
                page[12..16].copy_from_slice(&2u32.to_le_bytes());
            }
            if let Ok(directory) = Directory::read(&page, 0x4_0000) {
                let _ = directory.segments().count();
            }
        }
    }
}
