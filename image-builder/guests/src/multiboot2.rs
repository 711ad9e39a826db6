//! Multiboot 2 (Multiboot2 Specification 2.0, 3.1 to 3.6): a header of tags in the first 32 KiB of a file that is an ELF file, or
//! anything else if a tag has addresses. The kernel is entered in 32-bit protected mode without paging.
//!
//! The information is written by the crate `multiboot2`. The header is read here: the crate for it panics where a file lies about a
//! tag's size. Tags about EFI are for machines with it, as the specification says, and mean nothing here.

use multiboot2::{
    BasicMemoryInfoTag, BootLoaderNameTag, Builder, CommandLineTag, ImageLoadPhysAddrTag, MaybeDynSized, MemoryArea,
    MemoryAreaType, MemoryMapTag, ModuleTag, RsdpV1Tag, RsdpV2Tag, TagType,
};

use tollgate_abi::guest_image::Entry;

use crate::boot_header::{Addresses, Header, words};
use crate::elf::Elf;
use crate::error::Error;
use crate::information::{Block, Placed, lay};
use crate::layout::KERNEL_FLOOR_GPA;
use crate::lowered::{About, Format, Lowered, Segment, Width};
use crate::multiboot::LOADER_NAME;
use crate::{Request, acpi, layout, memory_map};

const MAGIC: u32 = 0xe852_50d6;
/// The mark in EAX.
const LOADER_MAGIC: u64 = 0x36d7_6289;
/// The header lies in so many bytes, at a multiple of the alignment, as its tags do.
const SEARCHED_BYTES: usize = 32 << 10;
const ALIGNMENT: usize = 8;
/// The magic, the architecture, the length of all, and a checksum.
const HEADER_WORDS: usize = 4;
const HEADER_BYTES: usize = HEADER_WORDS * size_of::<u32>();
/// Bytes of a tag's type, flags and size.
const TAG_BYTES: usize = 8;
/// Protected mode of i386.
const I386: u32 = 0;

// Types of the header's tags.
const END: u16 = 0;
const INFORMATION_REQUEST: u16 = 1;
const ADDRESS: u16 = 2;
const ENTRY_ADDRESS: u16 = 3;
const CONSOLE_FLAGS: u16 = 4;
const FRAMEBUFFER: u16 = 5;
const MODULE_ALIGNMENT: u16 = 6;
const EFI_BOOT_SERVICES: u16 = 7;
const EFI_64_ENTRY: u16 = 9;
const RELOCATABLE: u16 = 10;

/// Bit of a tag's flags: a loader may pass over it.
const OPTIONAL: u16 = 1;
/// Bit of the console flags: there has to be a console that the information tells of.
const CONSOLE_REQUIRED: u32 = 1;
/// The load address that means the file's beginning.
const FROM_THE_BEGINNING: u32 = u32::MAX;

/// The parts of the information that every kernel finds. Modules are told where there are some.
const GIVEN: [TagType; 8] = [
    TagType::Cmdline,
    TagType::BootLoaderName,
    TagType::Module,
    TagType::BasicMeminfo,
    TagType::Mmap,
    TagType::AcpiV1,
    TagType::AcpiV2,
    TagType::LoadBaseAddr,
];

/// A tag of the header.
#[derive(Clone, Copy, Debug)]
struct Tag<'a> {
    kind: u16,
    flags: u16,
    contents: &'a [u8],
}

/// The places in which a kernel runs, wherever its file has it.
#[derive(Clone, Copy, Debug)]
struct Relocatable {
    min_addr: u32,
    max_addr: u32,
    align: u32,
}

/// The header's demands that are met.
#[derive(Clone, Copy, Debug, Default)]
struct Wishes {
    addresses: Option<Addresses>,
    entry_addr: Option<u32>,
    relocatable: Option<Relocatable>,
}

/// The header's place, its architecture and its length.
fn header(file: &[u8]) -> Option<(Header, u32, u32)> {
    let searched = &file[..file.len().min(SEARCHED_BYTES)];
    (0..searched.len()).step_by(ALIGNMENT).find_map(|at| {
        let [magic, architecture, length, checksum] = words::<HEADER_WORDS>(searched, at)?;
        let sum = [architecture, length, checksum].into_iter().fold(magic, u32::wrapping_add);
        (magic == MAGIC && sum == 0).then_some((Header { name: "multiboot2", at }, architecture, length))
    })
}

/// Whether a file has a header.
pub(crate) fn is_one(file: &[u8]) -> bool {
    header(file).is_some()
}

/// Lowers a kernel.
pub(crate) fn lower(request: &Request<'_>) -> Result<Lowered, Error> {
    let file = request.kernel;
    let found = header(file).ok_or_else(|| Error::NoKernel("without a multiboot2 header".to_owned()))?;
    let (header, wishes) = (found.0, wishes(file, found)?);
    let (mut kernel, mut entry_gpa, width) = load(file, header, &wishes)?;
    let base = kernel.iter().map(|segment| segment.gpa).min().unwrap_or(0);
    if let Some(places) = wishes.relocatable {
        let to = places.base(header, &kernel, base)?;
        entry_gpa = entry_gpa - base + to;
        kernel.iter_mut().for_each(|segment| segment.gpa = segment.gpa - base + to);
    }
    let base = kernel.iter().map(|segment| segment.gpa).min().unwrap_or(0);
    let write = |block: &mut Block, modules: &[Placed<'_>]| {
        block.add(&information(request, modules, base));
    };
    let (segments, entry) = lay(request, kernel, "multiboot2 information", write)?;
    let about = About { width, ..About::of(Format::Multiboot2, entry_gpa) };
    Ok(Lowered { segments, entry: Entry { rip: entry_gpa, rax: LOADER_MAGIC, ..entry }, about })
}

/// The kernel where its file has it, its entry point, and the width of an ELF file.
fn load(file: &[u8], header: Header, wishes: &Wishes) -> Result<(Vec<Segment>, u64, Option<Width>), Error> {
    let by_header = |kernel: &[Segment]| wishes.entry_addr.map(|entry| header.entry_gpa(entry, kernel)).transpose();
    if let Some(addresses) = wishes.addresses {
        let kernel = vec![header.load(file, addresses)?];
        let entry_gpa = by_header(&kernel)?;
        let entry_gpa = entry_gpa.ok_or_else(|| header.lies("has addresses, and no tag for the entry point"))?;
        return Ok((kernel, entry_gpa, None));
    }
    if !file.starts_with(&object::elf::ELFMAG) {
        return Err(header.lies("has no addresses, and the file is no ELF file that would have them"));
    }
    let elf = Elf::parse(file)?;
    let entry_gpa = by_header(&elf.segments)?.map_or_else(|| elf.entry_gpa_of_any(), Ok)?;
    Ok((elf.segments, entry_gpa, Some(elf.width)))
}

/// Reads the tags, and refuses a header that demands a thing that is not there.
fn wishes(file: &[u8], (header, architecture, length): (Header, u32, u32)) -> Result<Wishes, Error> {
    if architecture != I386 {
        return Err(header.demands(format!("a processor of its architecture {architecture}, which is not x86")));
    }
    let end = header.at.saturating_add(length as usize);
    let bytes = file.get(header.at + HEADER_BYTES..end).filter(|_| end <= SEARCHED_BYTES);
    let mut rest = bytes.ok_or_else(|| {
        header.lies(format!(
            "has {length} bytes by its own word, with which it is not in the file's first {SEARCHED_BYTES}"
        ))
    })?;
    let mut wishes = Wishes::default();
    loop {
        let (tag, behind) =
            Tag::read(rest).ok_or_else(|| header.lies("has tags that reach beyond its end, or no last one"))?;
        if tag.kind == END {
            return Ok(wishes);
        }
        tag.add_to(&mut wishes, header)?;
        rest = behind;
    }
}

impl<'a> Tag<'a> {
    /// The first tag, and the bytes from the next on.
    fn read(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let [kind_and_flags, size] = words::<2>(bytes, 0)?;
        let contents = bytes.get(TAG_BYTES..size as usize)?;
        let tag = Self { kind: kind_and_flags as u16, flags: (kind_and_flags >> 16) as u16, contents };
        Some((tag, bytes.get((size as usize).next_multiple_of(ALIGNMENT)..).unwrap_or_default()))
    }

    fn words<const N: usize>(&self, header: Header) -> Result<[u32; N], Error> {
        words(self.contents, 0).ok_or_else(|| {
            let (kind, bytes) = (self.kind, self.contents.len() + TAG_BYTES);
            header.lies(format!("has a tag of type {kind} that is too short, of {bytes} bytes"))
        })
    }

    /// Takes the tag's wish, or refuses it if it is not optional.
    fn add_to(&self, wishes: &mut Wishes, header: Header) -> Result<(), Error> {
        match self.kind {
            ADDRESS => {
                let [header_addr, load_addr, load_end_addr, bss_end_addr] = self.words(header)?;
                let beginning = header_addr.wrapping_sub(header.at as u32);
                let load_addr = if load_addr == FROM_THE_BEGINNING { beginning } else { load_addr };
                wishes.addresses = Some(Addresses { header_addr, load_addr, load_end_addr, bss_end_addr });
            }
            ENTRY_ADDRESS => wishes.entry_addr = Some(self.words::<1>(header)?[0]),
            RELOCATABLE => {
                let [min_addr, max_addr, align] = self.words(header)?;
                wishes.relocatable = Some(Relocatable { min_addr, max_addr, align });
            }
            // Modules always lie on pages of their own.
            MODULE_ALIGNMENT | EFI_BOOT_SERVICES..=EFI_64_ENTRY => {}
            _ if self.flags & OPTIONAL != 0 => {}
            INFORMATION_REQUEST => {
                let requests = self.contents.chunks_exact(size_of::<u32>());
                let mut kinds = requests.filter_map(|word| words::<1>(word, 0)).map(|[kind]| TagType::from(kind));
                if let Some(kind) = kinds.find(|kind| !GIVEN.contains(kind)) {
                    return Err(header.demands(format!("information about {}", topic(kind))));
                }
            }
            CONSOLE_FLAGS if self.words::<1>(header)?[0] & CONSOLE_REQUIRED == 0 => {}
            CONSOLE_FLAGS => return Err(header.demands("a console that is a screen")),
            FRAMEBUFFER => return Err(header.demands("a framebuffer")),
            kind => {
                return Err(
                    header.demands(format!("what a tag of type {kind} stands for, which no specification tells"))
                );
            }
        }
        Ok(())
    }
}

/// The topic of a part of the information that is not given.
fn topic(kind: TagType) -> String {
    let name = match kind {
        TagType::Bootdev => "the disk that the kernel was loaded from",
        TagType::Vbe => "video modes",
        TagType::Framebuffer => "a framebuffer",
        TagType::ElfSections => "the sections of its ELF file",
        TagType::Apm => "APM",
        TagType::Smbios => "SMBIOS",
        TagType::Network => "a network",
        TagType::Efi32 | TagType::Efi64 | TagType::EfiMmap | TagType::EfiBs | TagType::Efi32Ih | TagType::Efi64Ih => {
            "EFI"
        }
        other => return format!("what type {} stands for", other.val()),
    };
    name.to_owned()
}

impl Relocatable {
    /// The first address of a kernel that lies at `base` in its file: the same if it may lie there, or else the lowest.
    fn base(self, header: Header, kernel: &[Segment], base: u64) -> Result<u64, Error> {
        let bytes = kernel.iter().map(Segment::end).max().unwrap_or(base) - base;
        // The highest address is that of the last byte.
        let (min, end) = (u64::from(self.min_addr), u64::from(self.max_addr) + 1);
        let fits = |first: u64| first >= min && first + bytes <= end;
        let is_free = layout::check_kernel(kernel, u64::MAX).is_ok();
        let lowest = min.max(KERNEL_FLOOR_GPA).next_multiple_of(u64::from(self.align).max(1));
        match (fits(base) && is_free, fits(lowest)) {
            (true, _) => Ok(base),
            (false, true) => Ok(lowest),
            (false, false) => Err(header.lies(format!(
                "lets the kernel, of {bytes:#x} bytes, lie from {min:#x} to {end:#x}, where there is no place for it from \
                 {KERNEL_FLOOR_GPA:#x} on"
            ))),
        }
    }
}

/// The information; `base` is the kernel's first address.
fn information(request: &Request<'_>, modules: &[Placed<'_>], base: u64) -> Vec<u8> {
    let (lower_kib, upper_kib) = memory_map::lower_and_upper_kib(request.memory_bytes);
    let areas = memory_map::regions(request.memory_bytes)
        .map(|region| MemoryArea::new(region.start, region.bytes(), MemoryAreaType::from_val(region.kind)));
    let (rsdt, xsdt) = acpi::roots(request.vcpus);
    let mut builder = Builder::new()
        .cmdline(CommandLineTag::new(request.command_line))
        .bootloader(BootLoaderNameTag::new(LOADER_NAME))
        .meminfo(BasicMemoryInfoTag::new(lower_kib, upper_kib))
        .mmap(MemoryMapTag::new(&areas))
        .rsdpv1(RsdpV1Tag::new(acpi::OEM, 0, rsdt))
        .rsdpv2(RsdpV2Tag::new(acpi::OEM, acpi::RSDP_REVISION, rsdt, acpi::RSDP_BYTES, xsdt))
        .image_load_addr(ImageLoadPhysAddrTag::new(base as u32));
    for module in modules {
        builder = builder.add_module(ModuleTag::new(module.start, module.end, module.text));
    }
    builder.build().as_bytes().to_vec()
}
