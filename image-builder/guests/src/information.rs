//! Boot information in one block: structures, tables and texts that name each other by address. Kernels of multiboot and PVH get
//! one, with ACPI tables, and modules behind the kernel.

use tollgate_abi::guest_image::{Entry, Mode};
use tollgate_abi::machine::Kind;

use crate::error::Error;
use crate::layout::{self, ACPI_GPA, FOUND_RSDP_GPA};
use crate::lowered::Segment;
use crate::{Request, acpi};

/// Parts of a block begin at multiples of this.
const ALIGNMENT: usize = 8;

/// A block that is being written.
pub(crate) struct Block {
    gpa: u64,
    bytes: Vec<u8>,
}

impl Block {
    /// Adds a part, and returns its address.
    pub(crate) fn add(&mut self, part: &[u8]) -> u32 {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        let gpa = self.gpa + self.bytes.len() as u64;
        self.bytes.extend(part);
        gpa as u32
    }

    /// Adds a text with a NUL behind it, and returns its address.
    pub(crate) fn add_text(&mut self, text: &str) -> u32 {
        self.add(&[text.as_bytes(), &[0]].concat())
    }

    /// Writes a word into the block's first part.
    pub(crate) fn put<const N: usize>(&mut self, offset: usize, word: [u8; N]) {
        self.bytes[offset..offset + N].copy_from_slice(&word);
    }
}

/// A module in the machine's memory.
pub(crate) struct Placed<'a> {
    /// Its first address, and the first behind it. All memory is below 4 GiB.
    pub(crate) start: u32,
    pub(crate) end: u32,
    /// The text that comes with it.
    pub(crate) text: &'a str,
}

/// Lays a kernel with its modules and a block of information into the machine. `write` writes the block, whose length does not depend
/// on its address. The entry state has the block's address in RBX, and a stack below it.
pub(crate) fn lay(
    request: &Request<'_>,
    kernel: Vec<Segment>,
    what: &'static str,
    write: impl Fn(&mut Block, &[Placed<'_>]),
) -> Result<(Vec<Segment>, Entry), Error> {
    layout::check_command_line(request.command_line, layout::COMMAND_LINE_ROOM_BYTES)?;
    let kernel_end = layout::check_kernel(&kernel, request.memory_bytes)?;
    let modules = request.all_modules();
    let placed = layout::place_modules(kernel_end, &modules, request.memory_bytes)?;
    let told = placed.iter().zip(&modules).map(|(segment, module)| Placed {
        start: segment.gpa as u32,
        end: segment.end() as u32,
        text: module.text,
    });
    let told: Vec<_> = told.collect();
    let block_at = |gpa| {
        let mut block = Block { gpa, bytes: Vec::new() };
        write(&mut block, &told);
        block.bytes
    };
    let gpa = layout::place_low(&kernel, block_at(0).len() as u64)?;
    let mut segments = vec![
        Segment::of(gpa, block_at(gpa), what),
        Segment::of(ACPI_GPA, acpi::tables(ACPI_GPA, Kind::LegacyPc, request.vcpus), "ACPI tables"),
        Segment::of(FOUND_RSDP_GPA, acpi::found(request.vcpus), "RSDP"),
    ];
    segments.extend(kernel);
    segments.extend(placed);
    Ok((segments, Entry { mode: Mode::Protected, rsp: gpa, rbx: gpa, ..Entry::default() }))
}
