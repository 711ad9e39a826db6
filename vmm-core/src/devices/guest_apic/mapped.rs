//! The local APIC's registers in memory, as in xAPIC mode (SDM 3A 12.4.1): the same state as behind the MSRs, with the logical ID
//! that software chooses, 8 bits of destination, and no access that is refused.
//!
//! They answer in xAPIC mode alone, which [`crate::handlers::mapped`] sees to. Left out: the MSRs answer in xAPIC mode, too, and
//! with the APIC switched off in IA32_APIC_BASE; registers are doublewords alone.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tollgate_abi::apic::*;

use super::{
    Effect, GuestApic, ICR_WRITABLE, LVT_TIMER_WRITABLE, LVT_WRITABLE, SVR_WRITABLE, TIMER_DIVIDES, logical_id,
};

/// The logical ID of a vCPU's APIC in xAPIC mode, for those that send to it.
#[derive(Debug)]
pub struct LogicalId(AtomicU32);

/// In a command in xAPIC's form, between command and destination: it is the IOAPIC's, and not one of a vCPU's.
pub const FROM_DEVICE: u64 = 1 << 32;

/// In a [`LogicalId`], above the ID's 8 bits: the ID is a cluster and a position in it.
const CLUSTERED: u32 = 1 << 8;

/// The destination format register: bits 31:28 are all ones for the flat model, 0 for clusters.
const FORMAT_FIXED: u32 = 0x0fff_ffff;
/// The 8 bits of an ID in its register.
const ID_SHIFT: u32 = 24;
const ID_MASK: u32 = 0xff << ID_SHIFT;
/// A physical destination of all.
const BROADCAST: u8 = 0xff;

impl LogicalId {
    /// The ID after reset: none.
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Sets the ID from the APIC's registers.
    pub fn set(&self, apic: &GuestApic) {
        let clustered = if apic.mapped.format >> 28 == 0 { CLUSTERED } else { 0 };
        self.0.store(apic.mapped.logical >> ID_SHIFT | clustered, Relaxed);
    }

    fn is_chosen(&self) -> bool {
        self.0.load(Relaxed) != 0
    }

    /// Whether a message's destination means it (SDM 3A 12.6.2.2).
    fn is_meant(&self, destination: u8) -> bool {
        let word = self.0.load(Relaxed);
        let id = word as u8;
        if word & CLUSTERED == 0 {
            return id & destination != 0;
        }
        let is_in = destination >> 4 == 0xf || destination >> 4 == id >> 4;
        is_in && id & destination & 0xf != 0
    }
}

impl Default for LogicalId {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a command in xAPIC's form, of vCPU `from`, addresses vCPU `to`, which has this logical ID. The eight bits of a device's
/// logical destination are those of x2APIC mode (SDM 3A 12.12.10.2) if it has chosen none.
pub fn addresses(command: u64, from: u32, to: u32, logical: &LogicalId) -> bool {
    let destination = (command >> 56) as u8;
    match command & SHORTHAND_MASK {
        TO_SELF => to == from,
        TO_ALL => true,
        TO_OTHERS => to != from,
        _ if command & LOGICAL != 0 && command & FROM_DEVICE != 0 && !logical.is_chosen() => {
            u32::from(destination) & logical_id(to) != 0
        }
        _ if command & LOGICAL != 0 => logical.is_meant(destination),
        _ => destination == BROADCAST || u32::from(destination) == to,
    }
}

/// The registers that only xAPIC mode has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapped {
    logical: u32,
    format: u32,
    command_high: u32,
}

impl Mapped {
    pub(super) const RESET: Self = Self { logical: 0, format: u32::MAX, command_high: 0 };
}

/// The effect of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappedEffect {
    /// That of a write of the same register by its MSR.
    Of(Effect),
    /// Send the interrupt of this command, with the destination in bits 63:56.
    Send(u64),
    /// The logical ID has changed.
    LogicalId,
}

impl GuestApic {
    /// A doubleword of the page. Behind the doubleword of a register there is nothing.
    pub fn read_mapped(&self, offset: u32, now_tsc: u64) -> u32 {
        if offset & 0xf != 0 {
            return 0;
        }
        match MSR_BASE + (offset >> 4) {
            ID => self.id << ID_SHIFT,
            LDR => self.mapped.logical,
            FORMAT => self.mapped.format,
            ICR_HIGH => self.mapped.command_high,
            register => self.read(register, now_tsc).map_or(0, |value| value as u32),
        }
    }

    /// Writes a doubleword of the page. Bits that can't be written are ignored.
    pub fn write_mapped(&mut self, offset: u32, value: u32, now_tsc: u64) -> MappedEffect {
        let register = MSR_BASE + (offset >> 4);
        let writable = match register {
            _ if offset & 0xf != 0 => return MappedEffect::Of(Effect::None),
            LDR => {
                self.mapped.logical = value & ID_MASK;
                return MappedEffect::LogicalId;
            }
            FORMAT => {
                self.mapped.format = value | FORMAT_FIXED;
                return MappedEffect::LogicalId;
            }
            ICR_HIGH => {
                self.mapped.command_high = value & ID_MASK;
                return MappedEffect::Of(Effect::None);
            }
            ICR => {
                let command = value & ICR_WRITABLE as u32;
                self.page.set(ICR, command);
                return MappedEffect::Send(u64::from(command) | u64::from(self.mapped.command_high) << 32);
            }
            EOI | ESR => 0,
            TPR => 0xff,
            SVR => SVR_WRITABLE,
            LVT_TIMER => LVT_TIMER_WRITABLE,
            LVT_THERMAL..=LVT_ERROR => LVT_WRITABLE,
            INITIAL_COUNT => u32::MAX,
            DIVIDE => TIMER_DIVIDES,
            _ => return MappedEffect::Of(Effect::None),
        };
        MappedEffect::Of(self.write(register, (value & writable).into(), now_tsc).unwrap_or(Effect::None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::guest_apic::Page;

    fn apic(id: u32) -> GuestApic {
        GuestApic::new(Box::leak(Box::new(Page::new())), id)
    }

    /// The accesses by which Linux 6.1 sets an APIC up, sends an IPI and ends an interrupt, by its source
    /// (arch/x86/kernel/apic/apic.c, `setup_local_APIC`): writes, and reads with the value that they get.
    #[test]
    fn linux_sets_it_up_and_sends() {
        enum A {
            R(u32, u32),
            W(u32, u32, MappedEffect),
        }
        use A::*;
        const NOTHING: MappedEffect = MappedEffect::Of(Effect::None);
        let mut apic = apic(2);
        for access in [
            R(0x20, 2 << 24),
            R(0x30, 0x5_0014),
            W(0x280, 0, NOTHING),
            W(0xe0, u32::MAX, MappedEffect::LogicalId),
            W(0xd0, 4 << 24, MappedEffect::LogicalId),
            R(0xd0, 4 << 24),
            W(0x80, 0x10, MappedEffect::Of(Effect::TaskPriority)),
            R(0x200, 0),
            W(0xf0, 0x1ff, NOTHING),
            R(0xf0, 0x1ff),
            W(0x350, 0x1_0700, MappedEffect::Of(Effect::Priorities)),
            R(0x350, 0x1_0700),
            W(0x320, 0x4_00ec, MappedEffect::Of(Effect::Timer)),
            R(0x320, 0x4_00ec),
            W(0x310, 3 << 24, NOTHING),
            W(0x300, 0xc500, MappedEffect::Send(3 << 56 | 0xc500)),
            R(0x300, 0xc500),
            W(0xb0, 0, MappedEffect::Of(Effect::Priorities)),
        ] {
            match access {
                R(offset, value) => assert_eq!(apic.read_mapped(offset, 0), value, "{offset:#x}"),
                W(offset, value, effect) => assert_eq!(apic.write_mapped(offset, value, 0), effect, "{offset:#x}"),
            }
        }
    }

    #[test]
    fn what_can_t_be_written_is_ignored_and_what_is_not_there_reads_0() {
        let mut apic = apic(1);
        for offset in [0x20, 0x30, 0x90, 0xa0, 0x100, 0x390, 0x3f0, 0x400, 0xff0, 0xf4, 0xf1] {
            let before = apic.read_mapped(offset, 0);
            assert_eq!(apic.write_mapped(offset, u32::MAX, 0), MappedEffect::Of(Effect::None), "{offset:#x}");
            assert_eq!(apic.read_mapped(offset, 0), before, "{offset:#x}");
        }
        for (offset, value) in [(0xf0, 0x1ff), (0x80, 0xff), (0x3e0, 0xb), (0xd0, 0xff00_0000), (0xe0, u32::MAX)] {
            let _ = apic.write_mapped(offset, u32::MAX, 0);
            assert_eq!(apic.read_mapped(offset, 0), value, "{offset:#x}");
        }
        apic.reset();
        assert_eq!((apic.read_mapped(0xd0, 0), apic.read_mapped(0xe0, 0)), (0, u32::MAX));
    }

    #[test]
    fn destinations_have_8_bits() {
        let ids = [(); 4].map(|()| LogicalId::new());
        let set = |clustered: bool, logical: [u32; 4]| {
            for (id, logical) in ids.iter().zip(logical) {
                let mut apic = apic(0);
                let _ = apic.write_mapped(0xe0, if clustered { 0 } else { u32::MAX }, 0);
                let _ = apic.write_mapped(0xd0, logical << 24, 0);
                id.set(&apic);
            }
        };
        let to = |command: u64| {
            (0..4).filter(|&to| addresses(command, 1, to, &ids[to as usize])).collect::<std::vec::Vec<_>>()
        };
        set(false, [1, 2, 4, 8]);
        assert_eq!((to(2 << 56), to(0xff << 56), to(4 << 56)), (vec![2], vec![0, 1, 2, 3], vec![]));
        assert_eq!((to(LOGICAL | 0xa << 56), to(LOGICAL | 0xf0 << 56)), (vec![1, 3], vec![]));
        assert_eq!((to(TO_SELF), to(TO_ALL), to(TO_OTHERS)), (vec![1], vec![0, 1, 2, 3], vec![0, 2, 3]));
        set(true, [0x11, 0x12, 0x21, 0x22]);
        assert_eq!((to(LOGICAL | 0x13 << 56), to(LOGICAL | 0xf2 << 56)), (vec![0, 1], vec![1, 3]));
        assert_eq!(to(FROM_DEVICE | LOGICAL | 0x13 << 56), [0, 1], "a device means what software chose, too");
    }

    #[test]
    fn a_device_means_the_ids_of_x2apic_mode_where_no_others_were_chosen() {
        let none = LogicalId::new();
        let to = |command: u64| (0..4).filter(|&to| addresses(command, 0, to, &none)).collect::<std::vec::Vec<_>>();
        assert_eq!((to(FROM_DEVICE | LOGICAL | 0b1010 << 56), to(LOGICAL | 0b1010 << 56)), (vec![1, 3], vec![]));
        assert_eq!((to(FROM_DEVICE | 2 << 56), to(FROM_DEVICE | 0xff << 56)), (vec![2], vec![0, 1, 2, 3]));
    }
}
