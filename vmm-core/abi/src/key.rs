//! Sub-keys, which tell the exits of one reason apart: the CPUID leaf, the port, the MSR and so on.

use core::fmt;

use crate::emulated::Emulated::{self, Always, Before, From, Never};
use crate::exit_reason::ExitReason;

/// The kind of keys that a reason has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// CPUID: EAX.
    Leaf,
    /// VMCALL: RAX.
    Call,
    /// RDMSR, WRMSR: ECX.
    Msr,
    /// I/O: port; bit 16: IN; bit 17: string.
    Port,
    /// Control-register accesses: register number; bits 5:4: the access type of the exit qualification.
    ControlRegister,
    /// MOV DR: register number; bit 4: from the register.
    DebugRegister,
    /// Exceptions: the vector.
    Vector,
    /// EPT violations: the guest-physical page; bits 2:0: read, write, fetch.
    Page,
}

/// Every reason with keys, and their kind.
pub const KINDS: [(ExitReason, KeyKind); 9] = [
    (ExitReason::EXCEPTION_OR_NMI, KeyKind::Vector),
    (ExitReason::CPUID, KeyKind::Leaf),
    (ExitReason::VMCALL, KeyKind::Call),
    (ExitReason::CR_ACCESS, KeyKind::ControlRegister),
    (ExitReason::MOV_DR, KeyKind::DebugRegister),
    (ExitReason::IO_INSTRUCTION, KeyKind::Port),
    (ExitReason::RDMSR, KeyKind::Msr),
    (ExitReason::WRMSR, KeyKind::Msr),
    (ExitReason::EPT_VIOLATION, KeyKind::Page),
];

/// Every variant that an atlas shows as a row of its own: kinds of exits of one reason that cost differently, whatever their
/// keys. In the order of [`KINDS`].
///
/// Of the vectors below 32, Bochs raises those that are listed and no other. It has no machine checks (#MC), nothing since the
/// 80386 raises vector 9, and 15 and those from 22 on are reserved (SDM 3A table 6-1) but for AMD's #SX, #HV and #VC, of which
/// the last two need SEV.
pub const VARIANTS: &[(ExitReason, &str)] = &[
    (ExitReason::EXCEPTION_OR_NMI, "#DE"),
    (ExitReason::EXCEPTION_OR_NMI, "#DB"),
    (ExitReason::EXCEPTION_OR_NMI, "NMI"),
    (ExitReason::EXCEPTION_OR_NMI, "#BP"),
    (ExitReason::EXCEPTION_OR_NMI, "#OF"),
    (ExitReason::EXCEPTION_OR_NMI, "#BR"),
    (ExitReason::EXCEPTION_OR_NMI, "#UD"),
    (ExitReason::EXCEPTION_OR_NMI, "#NM"),
    (ExitReason::EXCEPTION_OR_NMI, "#DF"),
    (ExitReason::EXCEPTION_OR_NMI, "#TS"),
    (ExitReason::EXCEPTION_OR_NMI, "#NP"),
    (ExitReason::EXCEPTION_OR_NMI, "#SS"),
    (ExitReason::EXCEPTION_OR_NMI, "#GP"),
    (ExitReason::EXCEPTION_OR_NMI, "#PF"),
    (ExitReason::EXCEPTION_OR_NMI, "#MF"),
    (ExitReason::EXCEPTION_OR_NMI, "#AC"),
    (ExitReason::EXCEPTION_OR_NMI, "#XM"),
    (ExitReason::EXCEPTION_OR_NMI, "#VE"),
    (ExitReason::EXCEPTION_OR_NMI, "#CP"),
    (ExitReason::EXCEPTION_OR_NMI, "#SX"),
    (ExitReason::CR_ACCESS, "CR0 write"),
    (ExitReason::CR_ACCESS, "CR3 write"),
    (ExitReason::CR_ACCESS, "CR4 write"),
    (ExitReason::CR_ACCESS, "CR8 write"),
    (ExitReason::CR_ACCESS, "CR3 read"),
    (ExitReason::CR_ACCESS, "CR8 read"),
    (ExitReason::CR_ACCESS, "CLTS"),
    (ExitReason::CR_ACCESS, "LMSW"),
    (ExitReason::MOV_DR, "DR write"),
    (ExitReason::MOV_DR, "DR read"),
    (ExitReason::IO_INSTRUCTION, "IN"),
    (ExitReason::IO_INSTRUCTION, "OUT"),
    (ExitReason::IO_INSTRUCTION, "INS"),
    (ExitReason::IO_INSTRUCTION, "OUTS"),
    (ExitReason::EPT_VIOLATION, "read"),
    (ExitReason::EPT_VIOLATION, "write"),
    (ExitReason::EPT_VIOLATION, "fetch"),
];

/// The variants that some emulators lack although they have the reason: the versions of Bochs, and of QEMU's own emulation, that
/// make the exit.
///
/// QEMU takes INT3 and INTO for software interrupts, raises no #XM, and never tests an intercept of #DF and #AC; from 9.1 on it
/// looks up reads of control registers as if they were of CR0.
const EMULATED: [(ExitReason, &str, Emulated, Emulated); 8] = [
    (ExitReason::EXCEPTION_OR_NMI, "#BP", Always, Never),
    (ExitReason::EXCEPTION_OR_NMI, "#OF", Always, Never),
    (ExitReason::EXCEPTION_OR_NMI, "#DF", Always, Never),
    (ExitReason::EXCEPTION_OR_NMI, "#AC", Always, Never),
    (ExitReason::EXCEPTION_OR_NMI, "#XM", Always, Never),
    (ExitReason::EXCEPTION_OR_NMI, "#SX", From((3, 0)), Never),
    (ExitReason::CR_ACCESS, "CR3 read", Always, Before((9, 1))),
    (ExitReason::CR_ACCESS, "CR8 read", Always, Before((9, 1))),
];

/// The versions of Bochs, and of QEMU's own emulation, that produce a variant if they produce its reason.
pub fn emulated(reason: ExitReason, variant: &str) -> (Emulated, Emulated) {
    let row = EMULATED.iter().find(|(of, name, ..)| (*of, *name) == (reason, variant));
    row.map_or((Always, Always), |&(_, _, bochs, qemu)| (bochs, qemu))
}

/// The most keys that are kept for each reason; exits with further ones count as others.
pub const SLOTS: usize = 24;

/// Bit 16 of a port key: the access is an IN or INS.
pub const PORT_IN: u64 = 1 << 16;
/// Bit 17 of a port key: the access is an INS or OUTS.
pub const PORT_STRING: u64 = 1 << 17;
/// Bits 5:4 of a control-register key: the access type.
pub const CR_ACCESS_TYPE: u64 = 0b11 << 4;
/// The access type of MOV from the control register.
pub const CR_READ: u64 = 0b01 << 4;
/// The access type of CLTS.
pub const CR_CLTS: u64 = 0b10 << 4;
/// The access type of LMSW.
pub const CR_LMSW: u64 = 0b11 << 4;
/// Bit 0 of a page key: the access is a read.
pub const PAGE_READ: u64 = 1;
/// Bit 1 of a page key: the access is a write.
pub const PAGE_WRITE: u64 = 1 << 1;
/// Bit 2 of a page key: the access is a fetch.
pub const PAGE_FETCH: u64 = 1 << 2;

/// The position of each reason in [`KINDS`], by its number; [`NO_KEYS`] for one without keys.
static POSITIONS: [u8; LAST_WITH_KEYS + 1] = {
    let (mut positions, mut at) = ([NO_KEYS; LAST_WITH_KEYS + 1], 0);
    while at < KINDS.len() {
        positions[KINDS[at].0.0 as usize] = at as u8;
        at += 1;
    }
    positions
};
const NO_KEYS: u8 = u8::MAX;
const LAST_WITH_KEYS: usize = ExitReason::EPT_VIOLATION.0 as usize;

/// The position of a reason in [`KINDS`], if it has keys.
#[inline(always)]
pub fn position_of(reason: ExitReason) -> Option<usize> {
    let position = *POSITIONS.get(usize::from(reason.0))?;
    (position != NO_KEYS).then_some(position.into())
}

/// The positions in [`VARIANTS`] of an access to a page: each touch of another page is a key of its own, so that these are found
/// without a search.
const READ: usize = variant_of(ExitReason::EPT_VIOLATION, "read");
const WRITE: usize = variant_of(ExitReason::EPT_VIOLATION, "write");
const FETCH: usize = variant_of(ExitReason::EPT_VIOLATION, "fetch");

/// The position of a variant. Since constants are made of this, the program does not compile if there is none.
const fn variant_of(reason: ExitReason, name: &str) -> usize {
    let mut at = 0;
    while VARIANTS[at].0.0 != reason.0 || !is_same(VARIANTS[at].1.as_bytes(), name.as_bytes()) {
        at += 1;
    }
    at
}

const fn is_same(left: &[u8], right: &[u8]) -> bool {
    let mut at = 0;
    while at < left.len() && at < right.len() && left[at] == right[at] {
        at += 1;
    }
    at == left.len() && at == right.len()
}

/// The position in [`VARIANTS`] of the variant to which a key belongs, if it has one.
pub fn variant(kind: KeyKind, key: u64) -> Option<usize> {
    let name = match kind {
        KeyKind::Vector | KeyKind::ControlRegister => return position(kind, |name| NameIs::of(name, Key(kind, key))),
        KeyKind::DebugRegister if key >> 4 & 1 != 0 => "DR read",
        KeyKind::DebugRegister => "DR write",
        KeyKind::Port => match (key & PORT_IN != 0, key & PORT_STRING != 0) {
            (true, false) => "IN",
            (false, false) => "OUT",
            (true, true) => "INS",
            (false, true) => "OUTS",
        },
        KeyKind::Page if key & PAGE_FETCH != 0 => return Some(FETCH),
        KeyKind::Page if key & PAGE_WRITE != 0 => return Some(WRITE),
        KeyKind::Page => return Some(READ),
        KeyKind::Leaf | KeyKind::Call | KeyKind::Msr => return None,
    };
    position(kind, |variant| variant == name)
}

fn position(kind: KeyKind, is: impl Fn(&str) -> bool) -> Option<usize> {
    let (reason, _) = *KINDS.iter().find(|(_, of)| *of == kind)?;
    VARIANTS.iter().position(|&(of, name)| of == reason && is(name))
}

/// Compares displayed text with a name, without a buffer.
struct NameIs<'a> {
    rest: &'a str,
}

impl<'a> NameIs<'a> {
    fn of(name: &'a str, key: Key) -> bool {
        let mut compared = Self { rest: name };
        fmt::write(&mut compared, format_args!("{key}")).is_ok() && compared.rest.is_empty()
    }
}

impl fmt::Write for NameIs<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.rest = self.rest.strip_prefix(text).ok_or(fmt::Error)?;
        Ok(())
    }
}

/// A key, displayed as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub KeyKind, pub u64);

/// Mnemonics of the exceptions (SDM 3A table 6-1; from 28 on APM 2 table 8-1); empty for a vector without one.
const EXCEPTIONS: [&str; 31] = [
    "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "", "#TS", "#NP", "#SS", "#GP", "#PF", "", "#MF",
    "#AC", "#MC", "#XM", "#VE", "#CP", "", "", "", "", "", "", "#HV", "#VC", "#SX",
];

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Key(kind, key) = *self;
        match kind {
            KeyKind::Leaf => write!(f, "leaf {key:#x}"),
            KeyKind::Call => write!(f, "call {key}"),
            KeyKind::Msr => write!(f, "MSR {key:#x}"),
            KeyKind::Port => {
                let direction = if key & PORT_IN != 0 { "in" } else { "out" };
                let string = if key & PORT_STRING != 0 { ", string" } else { "" };
                write!(f, "port {:#x} {direction}{string}", key as u16)
            }
            KeyKind::ControlRegister => match key >> 4 & 3 {
                0 => write!(f, "CR{} write", key & 15),
                1 => write!(f, "CR{} read", key & 15),
                2 => write!(f, "CLTS"),
                _ => write!(f, "LMSW"),
            },
            KeyKind::DebugRegister => write!(f, "DR{} {}", key & 15, if key >> 4 & 1 != 0 { "read" } else { "write" }),
            KeyKind::Vector => match EXCEPTIONS.get(key as usize) {
                Some(name) if !name.is_empty() => write!(f, "{name}"),
                _ => write!(f, "vector {key}"),
            },
            KeyKind::Page => {
                let access = match key & 7 {
                    access if access & PAGE_FETCH != 0 => " fetch",
                    access if access & PAGE_WRITE != 0 => " write",
                    access if access & PAGE_READ != 0 => " read",
                    _ => "",
                };
                write!(f, "page {:#x}{access}", key & !0xfff)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use std::vec::Vec;

    #[test]
    fn each_reason_with_keys_has_its_position() {
        let numbers = (0..=u16::MAX).filter_map(|number| position_of(ExitReason(number)).map(|at| (number, at)));
        let mut numbers: Vec<_> = numbers.collect();
        numbers.sort_by_key(|&(_, at)| at);
        let table = KINDS.iter().enumerate().map(|(at, (reason, _))| (reason.0, at));
        assert_eq!(numbers, table.collect::<Vec<_>>());
    }

    #[test]
    fn keys_read_as_people_write_them() {
        for (kind, key, text) in [
            (KeyKind::Leaf, 0x4fff_fffd, "leaf 0x4ffffffd"),
            (KeyKind::Port, 0x80 | PORT_IN, "port 0x80 in"),
            (KeyKind::Port, 0x5f0 | PORT_STRING, "port 0x5f0 out, string"),
            (KeyKind::ControlRegister, 0x13, "CR3 read"),
            (KeyKind::ControlRegister, 0x20, "CLTS"),
            (KeyKind::DebugRegister, 7, "DR7 write"),
            (KeyKind::Vector, 14, "#PF"),
            (KeyKind::Vector, 200, "vector 200"),
            (KeyKind::Page, 0x80_0000 | PAGE_WRITE, "page 0x800000 write"),
            (KeyKind::Page, 0x80_0000 | PAGE_FETCH, "page 0x800000 fetch"),
        ] {
            assert_eq!(Key(kind, key).to_string(), text);
        }
    }

    #[test]
    fn what_not_every_emulator_has_are_variants() {
        assert!(EMULATED.iter().all(|&(reason, name, ..)| VARIANTS.contains(&(reason, name))));
        assert_eq!(emulated(ExitReason::CR_ACCESS, "CR8 read"), (Always, Before((9, 1))));
        assert_eq!(emulated(ExitReason::CR_ACCESS, "CR8 write"), (Always, Always));
    }

    #[test]
    fn every_variant_is_that_of_some_key_and_of_its_own_reason() {
        let mut seen = [false; VARIANTS.len()];
        for (reason, kind) in KINDS {
            for key in (0..=0x3f).chain([PORT_IN, PORT_STRING, PORT_IN | PORT_STRING]) {
                if let Some(position) = variant(kind, key) {
                    assert_eq!(VARIANTS[position].0, reason);
                    seen[position] = true;
                }
            }
        }
        assert_eq!(seen, [true; VARIANTS.len()]);
        assert_eq!(variant(KeyKind::Vector, 14).map(|position| VARIANTS[position].1), Some("#PF"));
        assert_eq!((variant(KeyKind::Vector, 18), variant(KeyKind::Leaf, 0)), (None, None));
    }
}
