//! The layout of a random guest: a block of memory for each vCPU, with code, tables and stacks of its own, and below the blocks a
//! page for each vCPU in which it starts in real mode.
//!
//! ```text
//! 01_0000 + n * 1000   real mode: start, snippets, vectors
//! 40_0000 + n * block  frame | IDT | GDT, TSS, LDT, state | page tables | data | stacks | frames of snippets | snippets
//! ```

use tollgate_abi::machine::{PAGE_BYTES, UNIKERNEL};

/// The pages of real mode: above the monitor's boot area and below 1 MiB, where a start-up IPI can lead.
pub(super) const REAL_PAGES: u64 = 0x1_0000;
const BLOCKS: u64 = 0x40_0000;

/// Linear addresses at which ring 3 finds the guest's memory; for the kernel it is mapped to itself.
pub(super) const USER_ALIAS: u64 = 0x4000_0000;
/// Linear addresses whose page-table entries are random.
pub(super) const WINDOW: u64 = 0x8000_0000;
/// Linear addresses that lead beyond the guest's memory.
pub(super) const OUTSIDE: u64 = 0x3fe0_0000;
/// A guest-physical address beyond the guest's memory.
pub(super) const OUTSIDE_GPA: u64 = 0x1000_0000;

/// The pages of one vCPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    /// The number of the vCPU.
    pub(super) vcpu: u64,
    /// The number of vCPUs.
    pub(super) vcpus: u64,
    /// The address of the block.
    pub(super) base: u64,
}

/// Offsets of the routines in the frame.
pub(super) const ENTRY: u64 = 0;
pub(super) const NEXT: u64 = 0x300;
pub(super) const TRAP: u64 = 0x4c0;
pub(super) const INTERRUPT: u64 = 0x5a0;
pub(super) const FINISH: u64 = 0x640;
/// A routine of [`STUB_BYTES`] for each vector.
pub(super) const STUBS: u64 = 0x800;
pub(super) const STUB_BYTES: u64 = 16;

/// The most bytes of all blocks: more would not be packed.
const ALL_BLOCKS_BYTES: u64 = 1 << 20;
const LARGEST_BLOCK_BYTES: u64 = 1 << 17;

const _: () = assert!(BLOCKS + ALL_BLOCKS_BYTES <= UNIKERNEL.ram_bytes());

impl Block {
    pub(super) fn new(vcpu: u64, vcpus: u64) -> Self {
        Self { vcpu, vcpus, base: BLOCKS + vcpu * Self::bytes_of(vcpus) }
    }

    fn bytes_of(vcpus: u64) -> u64 {
        (ALL_BLOCKS_BYTES / vcpus.next_power_of_two()).min(LARGEST_BLOCK_BYTES)
    }

    pub(super) fn bytes(&self) -> u64 {
        Self::bytes_of(self.vcpus)
    }

    pub(super) fn frame(&self, routine: u64) -> u64 {
        self.base + routine
    }

    pub(super) fn stub(&self, vector: u64) -> u64 {
        self.base + STUBS + vector * STUB_BYTES
    }

    pub(super) fn idt(&self) -> u64 {
        self.base + 0x2000
    }

    /// The GDT; above it in the page are TSS, LDT, pointers and state.
    pub(super) fn tables(&self) -> u64 {
        self.base + 0x3000
    }

    pub(super) fn tss(&self) -> u64 {
        self.tables() + 0x200
    }

    pub(super) fn ldt(&self) -> u64 {
        self.tables() + 0x400
    }

    pub(super) fn gdt_pointer(&self) -> u64 {
        self.tables() + 0x600
    }

    pub(super) fn idt_pointer(&self) -> u64 {
        self.tables() + 0x610
    }

    /// The place of the number of the snippet that runs.
    pub(super) fn index(&self) -> u64 {
        self.tables() + 0x700
    }

    pub(super) fn traps(&self) -> u64 {
        self.tables() + 0x708
    }

    pub(super) fn interrupts(&self) -> u64 {
        self.tables() + 0x710
    }

    /// The place of the number of times that the vCPU came to its end.
    pub(super) fn ends(&self) -> u64 {
        self.tables() + 0x718
    }

    /// PML4, PDPT, the directories of kernel, user alias and window, the window's table.
    pub(super) fn page_tables(&self) -> u64 {
        self.base + 0x4000
    }

    pub(super) fn data(&self) -> u64 {
        self.base + 0xa000
    }

    pub(super) fn user_stack(&self) -> u64 {
        USER_ALIAS + self.data() + 0xf00
    }

    /// The address from which stacks grow down.
    pub(super) fn stack(&self) -> u64 {
        self.base + 0xb800
    }

    /// The stacks of the interrupt stack table.
    pub(super) fn other_stack(&self, number: u64) -> u64 {
        self.base + 0xb800 + 0x200 * number
    }

    /// The frames by which snippets are entered, then the snippets.
    pub(super) fn code(&self) -> u64 {
        self.base + 0xc000
    }

    pub(super) fn end(&self) -> u64 {
        self.base + self.bytes()
    }

    /// The page in which it starts in real mode.
    pub(super) fn real_page(&self) -> u64 {
        REAL_PAGES + self.vcpu * PAGE_BYTES
    }
}
