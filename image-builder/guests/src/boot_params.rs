//! The zero page, `boot_params`: Linux' Documentation/arch/x86/zero-page.rst, and boot.rst for the setup header in it.

use crate::bzimage::{MAGIC, MAGIC_OFFSET, SETUP_HEADER_OFFSET};
use crate::layout::{ACPI_GPA, COMMAND_LINE_GPA, Setup};
use crate::lowered::Segment;
use crate::memory_map;

const PAGE_BYTES: usize = 4096;

// Fields of boot_params.
const ACPI_RSDP_ADDR: usize = 0x070;
const E820_ENTRIES: usize = 0x1e8;
const E820_TABLE: usize = 0x2d0;

// Fields of the setup header, by their offsets in boot_params.
const BOOT_FLAG: usize = 0x1fe;
const VERSION: usize = 0x206;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const CMD_LINE_PTR: usize = 0x228;
const KERNEL_ALIGNMENT: usize = 0x230;
const CMDLINE_SIZE: usize = 0x238;

/// A loader that has no number of its own.
const UNDEFINED_LOADER: u8 = 0xff;
/// Bit of `loadflags`: the kernel lies above 1 MiB.
const LOADED_HIGH: u8 = 1;
const BOOT_FLAG_MARK: u16 = 0xaa55;

/// The boot protocol of a kernel without a setup header: 2.15, the newest.
const PROTOCOL: u16 = 0x020f;
/// Limits that Linux for x86-64 has in its setup header.
const USUAL_CMDLINE_SIZE: u32 = 2047;
const USUAL_INITRD_ADDR_MAX: u32 = 0x7fff_ffff;
const USUAL_ALIGNMENT: u32 = 0x20_0000;

/// The contents of the page.
pub(crate) struct BootParams<'a> {
    /// The kernel's setup header, from offset 1F1h.
    pub(crate) setup_header: &'a [u8],
    /// The initrd, below 4 GiB.
    pub(crate) initrd: Option<&'a Segment>,
    /// The end of memory.
    pub(crate) memory_bytes: u64,
}

fn put(page: &mut [u8], offset: usize, bytes: &[u8]) {
    page[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl BootParams<'_> {
    /// Writes the page.
    pub(crate) fn page(&self) -> Vec<u8> {
        let mut page = vec![0; PAGE_BYTES];
        put(&mut page, SETUP_HEADER_OFFSET, self.setup_header);
        page[TYPE_OF_LOADER] = UNDEFINED_LOADER;
        page[LOADFLAGS] |= LOADED_HIGH;
        put(&mut page, CMD_LINE_PTR, &(COMMAND_LINE_GPA as u32).to_le_bytes());
        if let Some(initrd) = self.initrd {
            put(&mut page, RAMDISK_IMAGE, &(initrd.gpa as u32).to_le_bytes());
            put(&mut page, RAMDISK_SIZE, &(initrd.memory_bytes as u32).to_le_bytes());
        }
        put(&mut page, ACPI_RSDP_ADDR, &ACPI_GPA.to_le_bytes());
        let memory = memory_map::regions(self.memory_bytes);
        page[E820_ENTRIES] = memory.len() as u8;
        let entries = memory.into_iter().flat_map(|region| {
            [&region.start.to_le_bytes()[..], &region.bytes().to_le_bytes(), &region.kind.to_le_bytes()].concat()
        });
        put(&mut page, E820_TABLE, &entries.collect::<Vec<u8>>());
        page
    }
}

/// The setup header for a kernel that comes as an ELF file, without one.
pub(crate) fn setup_of_elf() -> Setup {
    let mut page = [0; PAGE_BYTES];
    put(&mut page, BOOT_FLAG, &BOOT_FLAG_MARK.to_le_bytes());
    put(&mut page, MAGIC_OFFSET, MAGIC);
    put(&mut page, VERSION, &PROTOCOL.to_le_bytes());
    put(&mut page, KERNEL_ALIGNMENT, &USUAL_ALIGNMENT.to_le_bytes());
    put(&mut page, CMDLINE_SIZE, &USUAL_CMDLINE_SIZE.to_le_bytes());
    Setup {
        header: page[SETUP_HEADER_OFFSET..CMDLINE_SIZE + size_of::<u32>()].to_vec(),
        command_line_bytes: USUAL_CMDLINE_SIZE,
        initrd_end: u64::from(USUAL_INITRD_ADDR_MAX) + 1,
        init_bytes: 0,
    }
}
