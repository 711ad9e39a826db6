//! Sub-keys: what tells the exits of one reason apart, such as the CPUID leaf, the port, the MSR.

use core::fmt;

use crate::exit_reason::ExitReason;

/// What the keys of a reason are.
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
    /// EPT violations: the guest-physical page.
    Page,
}

/// Every reason with keys, and what they are.
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

/// Keys that are kept for each reason; exits with further ones count as others.
pub const SLOTS: usize = 24;

/// Bit 16 of a port key: the access is an IN or INS.
pub const PORT_IN: u64 = 1 << 16;
/// Bit 17 of a port key: the access is an INS or OUTS.
pub const PORT_STRING: u64 = 1 << 17;

/// A key, displayed as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub KeyKind, pub u64);

/// Mnemonics of the exceptions (SDM 3A table 6-1); empty where a vector has none.
const EXCEPTIONS: [&str; 22] = [
    "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "", "#TS", "#NP", "#SS", "#GP", "#PF", "", "#MF",
    "#AC", "#MC", "#XM", "#VE", "#CP",
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
            KeyKind::Page => write!(f, "page {key:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

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
            (KeyKind::Page, 0x80_0000, "page 0x800000"),
        ] {
            assert_eq!(Key(kind, key).to_string(), text);
        }
    }
}
