//! The machines that guests see, one row each ([`Model`]): memory, devices, MSRs; and the page that tells a guest about its
//! machine.
//!
//! A row defines the meaning of each page and port, and of each MSR that is not the processor's own; those of the processor are
//! the same in every machine. Guest-physical addresses start at 0 and have nothing to do with the place where the monitor put the
//! memory.

pub mod legacy_pc;
pub mod pc;
mod unikernel;

pub use legacy_pc::LEGACY_PC;
pub use pc::PC;
pub use unikernel::{LOOPBACK_PORT, UNIKERNEL};

/// The machines that an image chooses among, by their numbers in its directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// [`UNIKERNEL`], for guests that are built for Tollgate.
    #[default]
    Unikernel,
    /// [`PC`], for Linux.
    Pc,
    /// [`LEGACY_PC`], for other kernels that others built.
    LegacyPc,
}

impl Kind {
    /// The machine with this number.
    pub const fn of_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Unikernel),
            1 => Some(Self::Pc),
            2 => Some(Self::LegacyPc),
            _ => None,
        }
    }

    /// The machine's row.
    pub const fn row(self) -> &'static Model {
        match self {
            Self::Unikernel => &UNIKERNEL,
            Self::Pc => &PC,
            Self::LegacyPc => &LEGACY_PC,
        }
    }
}

/// The number that the host adds to the addresses of a guest that is made for Tollgate and runs anywhere, or as little above that as
/// the guest's alignment demands.
pub const RELOCATED_GPA: u64 = 0x10_0000;

/// A machine.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// Its memory, by ascending addresses. The first region begins at 0 and is mapped before the guest starts; at most one is
    /// mapped on first touch.
    pub memory: &'static [Region],
    /// The devices behind ports. A port that none of them has reads all ones and ignores writes.
    pub devices: &'static [Device],
    /// The devices whose registers are in memory.
    pub pages: &'static [DevicePage],
    /// The inputs of the IOAPIC, if the machine has one.
    pub io_apic: Option<IoApicInputs>,
    /// The machine has the interval timer and the interrupt controllers of an ISA bus, whose interrupts go to vCPU 0.
    pub has_isa_bus: bool,
    /// The MSRs that always read the same value. Any other MSR that is not the processor's own raises #GP(0).
    pub msrs: &'static [ConstantMsr],
    /// The CPUID leaf at which a kernel finds an interface that it knows and trusts, if there is one: without features.
    pub paravirtual_leaf: Option<ParavirtualLeaf>,
}

/// The inputs of an IOAPIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApicInputs {
    /// Their number. Linux reads and masks each of them several times, and each access is an exit.
    pub inputs: u32,
    /// The global number of the first.
    pub first_interrupt: u32,
}

/// A hypervisor's signature at a leaf of CPUID further up than our own, as more than one may be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParavirtualLeaf {
    /// The leaf; the next one has the features.
    pub leaf: u32,
    /// The signature in EBX, ECX, EDX.
    pub signature: [u8; 12],
}

/// KVM's signature, at the next place where Linux looks. Linux keeps x2APIC mode only under a hypervisor that it knows.
pub const KVM_LEAF: ParavirtualLeaf = ParavirtualLeaf { leaf: 0x4000_0100, signature: *b"KVMKVMKVM\0\0\0" };

/// A range of guest-physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The first address.
    pub gpa: u64,
    /// The number of bytes.
    pub bytes: u64,
    /// The time at which the guest gets it.
    pub mapping: Mapping,
}

/// The time at which a region is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// Before the guest starts.
    Always,
    /// Page by page, each on its first touch, which is an exit.
    OnFirstTouch,
}

/// A device and its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// The kind.
    pub behind: Behind,
    /// The lowest of its ports.
    pub first_port: u16,
    /// The number of its ports.
    pub ports: u16,
}

/// The kinds of device that a port can have behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// A byte, which reads as it was written last. A model has only one, since exits about it are quick.
    Byte,
    /// A queue of [`LOOPBACK_BYTES`], which gives back what was written to it.
    Loopback,
    /// A 16550A serial port, whose text is the guest's console.
    Serial,
    /// A clock of day that stands still.
    Clock,
    /// Sleep control, sleep status, and reset.
    Power,
    /// A port that reads 0.
    Zero,
    /// An 8254 interval timer: three counters and their control word.
    Timer,
    /// The gate and the output of the interval timer's counter 2, and the speaker.
    Speaker,
    /// The first of two 8259A interrupt controllers.
    FirstPic,
    /// The second one, whose output is an input of the first.
    SecondPic,
    /// The inputs of both that are level-triggered.
    PicLevels,
    /// The data of an 8042 keyboard controller.
    Keyboard,
    /// Its commands and its status.
    KeyboardCommand,
    /// The fast gate A20 and the fast reset.
    FastReset,
    /// ACPI's timer.
    PmTimer,
    /// Ends the guest with a code.
    DebugExit,
    /// Switches the machine off by a word.
    Shutdown,
    /// The lines of the IOAPIC's inputs.
    TestLines,
    /// Bytes that read as they were written, apart or together.
    TestBytes,
}

/// A device whose registers are a page of guest-physical addresses, where no memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevicePage {
    /// The kind.
    pub behind: BehindPage,
    /// The first address.
    pub gpa: u64,
}

/// The kinds of device that a page can have behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BehindPage {
    /// The local APIC of the vCPU that accesses it.
    LocalApic,
    /// The IOAPIC.
    IoApic,
}

/// An MSR that reads the same value, unless the guest writes another and the MSR keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConstantMsr {
    /// The MSR's number.
    pub msr: u32,
    /// The MSR's value.
    pub value: u64,
    /// The effect of writing another value.
    pub writes: Writes,
}

/// The effect of a write to an MSR that a machine's row has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// #GP(0).
    Refused,
    /// None.
    Ignored,
    /// The MSR reads as it was written; one of a row may.
    Kept,
}

impl Model {
    /// Bytes of the first region, from address 0 on: the part of memory that a guest is loaded into. 0 if an image chooses.
    pub const fn ram_bytes(&self) -> u64 {
        if self.memory.is_empty() { 0 } else { self.memory[0].bytes }
    }

    /// The region that is mapped on first touch; an empty one at the end of memory if there is none.
    pub const fn fresh(&self) -> Region {
        let mut at = 0;
        while at < self.memory.len() {
            if matches!(self.memory[at].mapping, Mapping::OnFirstTouch) {
                return self.memory[at];
            }
            at += 1;
        }
        Region { gpa: self.memory_bytes(), bytes: 0, mapping: Mapping::OnFirstTouch }
    }

    /// The end of the guest's memory.
    pub const fn memory_bytes(&self) -> u64 {
        match self.memory.last() {
            Some(last) => last.gpa + last.bytes,
            None => 0,
        }
    }

    /// The kind of device behind a guest-physical address, if there is one, and the address' place in its page.
    pub fn behind_page(&self, gpa: u64) -> Option<(BehindPage, u32)> {
        let page = self.pages.iter().find(|page| gpa & !(PAGE_BYTES - 1) == page.gpa)?;
        Some((page.behind, (gpa - page.gpa) as u32))
    }

    /// The kind of device behind a port, if there is one, and the port's place among the device's.
    pub fn behind(&self, port: u16) -> Option<(Behind, u16)> {
        let place = |device: &Device| {
            let at = port.wrapping_sub(device.first_port);
            (at < device.ports).then_some((device.behind, at))
        };
        self.devices.iter().find_map(place)
    }
}

/// A port whose last written byte is read back: POST codes. Each vCPU has its own, as it has a loopback port, so that no two share
/// memory on the way out of the guest and back.
pub const POST_PORT: u16 = 0x80;

/// The most vCPUs that a guest can have.
pub const MOST_VCPUS: usize = 16;

/// Bytes of a page.
pub const PAGE_BYTES: u64 = 4096;
/// Bytes of a large page.
pub const LARGE_PAGE_BYTES: u64 = 2 << 20;

/// The end of the area that the monitor writes for the guest: [`BootInfo`] and page tables. No segment may be loaded there.
pub const BOOT_AREA_BYTES: u64 = 0x1_0000;
/// Address of [`BootInfo`]; RDI at the guest's entry point.
pub const BOOT_INFO_GPA: u64 = 0x1000;
/// Address of the guest's first page tables: PML4, PDPT, four page directories that map 4 GiB to itself in 2 MiB pages.
pub const PAGE_TABLES_GPA: u64 = 0x2000;

/// A page for the code at which the other vCPUs start; its number is the vector of the start-up IPI.
pub const START_UP_GPA: u64 = 0x8000;

/// Bytes that the loopback port holds; more are dropped.
pub const LOOPBACK_BYTES: usize = 64;

/// Bytes of [`BootInfo::options`].
pub const OPTIONS_BYTES: usize = 3072;

/// The page by which the monitor informs the guest.
///
/// State at the entry point: 64-bit mode, CPL 0, paging on (see [`PAGE_TABLES_GPA`]), RFLAGS = 2, CR0 = PG WP NE ET PE, CR4 =
/// PAE, EFER = LME LMA NXE SCE, no IDT, a GDTR limit of 0, flat segments in the hidden registers, RSP undefined.
///
/// This is the state of vCPU 0. The others wait for INIT and a start-up IPI, which vCPU 0 sends through its APIC
/// ([`crate::apic`]). They start in real mode at the page that the IPI names, with the state that a processor has then (SDM 3A
/// 10.1.1): CR0 = ET NW CD. They may go to protected mode, and to IA-32e mode, and not back.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BootInfo {
    /// [`BOOT_INFO_MAGIC`].
    pub magic: u64,
    /// [`Model::ram_bytes`] of the guest's machine.
    pub ram_bytes: u64,
    /// The first address of [`Model::fresh`].
    pub fresh_gpa: u64,
    /// The bytes of [`Model::fresh`].
    pub fresh_bytes: u64,
    /// Number of vCPUs.
    pub vcpus: u64,
    /// Facts of the processor that the guest needs to predict its exits: [`crate::virtualization::Facts`] as a word.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86::msr::APIC_AT_RESET;
    use std::vec::Vec;

    /// The machines, one that leaves its memory to the image with as much as it may have.
    fn models() -> [Model; 3] {
        let all = Region { gpa: 0, bytes: pc::MOST_MEMORY_MIB << 20, mapping: Mapping::Always };
        let memory: &[Region] = std::vec![all].leak();
        [UNIKERNEL, Model { memory, ..PC }, Model { memory, ..LEGACY_PC }]
    }

    #[test]
    fn a_machine_is_its_number() {
        for kind in [Kind::Unikernel, Kind::Pc, Kind::LegacyPc] {
            assert_eq!(Kind::of_number(kind as u32), Some(kind));
        }
        assert_eq!((Kind::of_number(3), Kind::default().row().memory), (None, UNIKERNEL.memory));
    }

    #[test]
    fn no_two_of_a_model_claim_the_same() {
        for model in models() {
            let mut end = 0;
            for region in model.memory {
                assert!(region.gpa >= end && region.bytes > 0, "{region:x?}");
                assert!(
                    region.gpa.is_multiple_of(PAGE_BYTES) && region.bytes.is_multiple_of(PAGE_BYTES),
                    "{region:x?}"
                );
                end = region.gpa + region.bytes;
            }
            let first = model.memory[0];
            assert_eq!((first.gpa, first.mapping, first.bytes), (0, Mapping::Always, model.ram_bytes()));
            assert!(model.ram_bytes() >= BOOT_AREA_BYTES, "the monitor writes there for the guest");
            let on_touch = model.memory.iter().filter(|region| region.mapping == Mapping::OnFirstTouch);
            assert!(on_touch.count() <= 1 && end == model.memory_bytes());
            let is_apart = |page: &DevicePage| page.gpa.is_multiple_of(PAGE_BYTES) && page.gpa >= end;
            assert!(model.pages.iter().all(is_apart), "{:x?}", model.pages);
            let bytes = model.devices.iter().filter(|device| device.behind == Behind::Byte);
            assert_eq!(bytes.map(|device| device.ports).collect::<Vec<_>>(), [1]);
            let mut ports: Vec<u32> = model
                .devices
                .iter()
                .flat_map(|device| (0..device.ports).map(|at| u32::from(device.first_port) + u32::from(at)))
                .collect();
            let mut msrs: Vec<u32> = model.msrs.iter().map(|msr| msr.msr).collect();
            for numbers in [&mut ports, &mut msrs] {
                let all = numbers.len();
                numbers.sort_unstable();
                numbers.dedup();
                assert_eq!(numbers.len(), all, "{numbers:x?}");
            }
            assert!(ports.iter().all(|&port| port <= u16::MAX.into()), "{ports:x?}");
        }
    }

    #[test]
    fn fresh_memory_is_found_and_may_be_missing() {
        let fresh = UNIKERNEL.fresh();
        assert_eq!((fresh.gpa, fresh.gpa + fresh.bytes), (UNIKERNEL.ram_bytes(), UNIKERNEL.memory_bytes()));
        let ram = Region { gpa: 0, bytes: 1 << 20, mapping: Mapping::Always };
        let last = Region { gpa: 2 << 20, ..ram };
        const NONE: Model = Model { memory: &[], ..UNIKERNEL };
        let without = Model { memory: std::vec![ram, last].leak(), ..NONE };
        assert_eq!((without.ram_bytes(), without.memory_bytes()), (1 << 20, 3 << 20));
        assert_eq!((without.fresh().gpa, without.fresh().bytes), (3 << 20, 0));
    }

    #[test]
    fn a_port_is_its_devices_or_nobodys() {
        let port = |port| UNIKERNEL.behind(port);
        assert_eq!((port(POST_PORT), port(LOOPBACK_PORT)), (Some((Behind::Byte, 0)), Some((Behind::Loopback, 0))));
        assert_eq!(PC.behind(pc::SERIAL_PORT + 5), Some((Behind::Serial, 5)));
        assert_eq!(PC.behind_page(APIC_AT_RESET + 0xb0), Some((BehindPage::LocalApic, 0xb0)));
        assert_eq!((PC.behind_page(APIC_AT_RESET - 1), UNIKERNEL.behind_page(APIC_AT_RESET)), (None, None));
        assert_eq!([POST_PORT - 1, POST_PORT + 1, LOOPBACK_PORT + 1, 0, u16::MAX].map(port), [None; 5]);
    }
}
