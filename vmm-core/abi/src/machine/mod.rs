//! The machine that the guest sees: its memory, its ports, and the page that tells it so.
//!
//! Guest-physical addresses start at 0 and have nothing to do with where the monitor put the memory. The first 8 MiB are
//! mapped before the guest starts; the 8 MiB above are mapped page by page, on first touch.

/// The most vCPUs that a guest can have.
pub const MOST_VCPUS: usize = 16;

/// Bytes of a page.
pub const PAGE_BYTES: u64 = 4096;

/// Memory that is mapped from the start, in bytes from guest-physical 0.
pub const RAM_BYTES: u64 = 8 << 20;
/// Memory that is mapped page by page on first touch, in bytes above [`RAM_BYTES`].
pub const FRESH_BYTES: u64 = 8 << 20;
/// All of the guest's memory in bytes.
pub const GUEST_BYTES: u64 = RAM_BYTES + FRESH_BYTES;

/// What the monitor writes for the guest lies below: [`BootInfo`] and page tables. No segment may be loaded there.
pub const BOOT_AREA_BYTES: u64 = 0x1_0000;
/// Where [`BootInfo`] is; RDI at the guest's entry point.
pub const BOOT_INFO_GPA: u64 = 0x1000;
/// Where the guest's first page tables are: PML4, PDPT, four page directories that map 4 GiB to itself in 2 MiB pages.
pub const PAGE_TABLES_GPA: u64 = 0x2000;

/// A page for the code at which the other vCPUs start; its number is the vector of the start-up IPI.
pub const START_UP_GPA: u64 = 0x8000;

/// A port whose last written byte is read back: POST codes. Like the loopback port, each vCPU has its own, so that no two
/// share memory on the way out of the guest and back.
pub const POST_PORT: u16 = 0x80;
/// A port that gives back what was written to it, in order: a queue of [`LOOPBACK_BYTES`]. Empty, it reads `0xff`.
pub const LOOPBACK_PORT: u16 = 0x5f0;
/// Bytes that the loopback port holds; more are dropped.
pub const LOOPBACK_BYTES: usize = 64;

/// Bytes of [`BootInfo::options`].
pub const OPTIONS_BYTES: usize = 3072;

/// What the monitor tells the guest.
///
/// State at the entry point: 64-bit mode, CPL 0, paging on (see [`PAGE_TABLES_GPA`]), RFLAGS = 2, CR0 = PG WP NE ET PE,
/// CR4 = PAE, EFER = LME LMA NXE SCE, no IDT, a GDTR limit of 0, flat segments in the hidden registers, RSP undefined.
///
/// That is vCPU 0. The others wait for INIT and a start-up IPI, which vCPU 0 sends through its APIC ([`crate::apic`]), and
/// start in real mode at the page that the IPI names, with the state that a processor has then (SDM 3A 10.1.1): CR0 = ET
/// NW CD. They may go to protected mode, and to IA-32e mode, and not back.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BootInfo {
    /// [`BOOT_INFO_MAGIC`].
    pub magic: u64,
    /// [`RAM_BYTES`].
    pub ram_bytes: u64,
    /// First fresh guest-physical address.
    pub fresh_gpa: u64,
    /// [`FRESH_BYTES`].
    pub fresh_bytes: u64,
    /// Number of vCPUs.
    pub vcpus: u64,
    /// What the guest has to know of the processor to predict its exits: [`crate::virtualization::Facts`] as a word.
    pub facts: u64,
    /// Bytes of `options` in use.
    pub options_bytes: u64,
    /// The run's options; see [`crate::command_line`].
    pub options: [u8; OPTIONS_BYTES],
}

/// Marks a [`BootInfo`].
pub const BOOT_INFO_MAGIC: u64 = u64::from_le_bytes(*b"TollBoot");

const _: () = assert!(size_of::<BootInfo>() == 56 + OPTIONS_BYTES && BOOT_INFO_GPA + 4096 <= PAGE_TABLES_GPA);
const _: () = assert!(PAGE_TABLES_GPA + 6 * PAGE_BYTES <= START_UP_GPA && START_UP_GPA + PAGE_BYTES <= BOOT_AREA_BYTES);
