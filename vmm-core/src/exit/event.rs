//! Events: exceptions and interrupts, as they are injected or were being delivered.

/// Exception vectors that the monitor raises or tells apart (SDM 3A 6.15).
#[expect(missing_docs, reason = "the manual's mnemonics")]
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const AC: u8 = 17;
    pub const MC: u8 = 18;
    pub const VE: u8 = 20;
    pub const CP: u8 = 21;
    pub const SX: u8 = 30;
}

/// Interruption types (SDM 3C 25.8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the manual's names")]
pub enum EventKind {
    ExternalInterrupt = 0,
    Nmi = 2,
    HardwareException = 3,
    SoftwareInterrupt = 4,
    PrivilegedSoftwareException = 5,
    SoftwareException = 6,
}

/// An event to be injected, or one that was being delivered when the guest exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The vector.
    pub vector: u8,
    /// The type.
    pub kind: EventKind,
    /// The error code, for the exceptions that have one.
    pub error_code: Option<u32>,
    /// Length of the instruction that raised it, for software interrupts and exceptions.
    pub instruction_bytes: u8,
}

impl Event {
    /// A hardware exception without an error code.
    pub const fn exception(vector: u8) -> Self {
        Self { vector, kind: EventKind::HardwareException, error_code: None, instruction_bytes: 0 }
    }

    /// A hardware exception with an error code.
    pub const fn fault(vector: u8, error_code: u32) -> Self {
        Self { error_code: Some(error_code), ..Self::exception(vector) }
    }

    /// #UD.
    pub const UNDEFINED_OPCODE: Self = Self::exception(vector::UD);
    /// #GP(0).
    pub const GENERAL_PROTECTION: Self = Self::fault(vector::GP, 0);

    /// An NMI.
    pub const NMI: Self = Self { kind: EventKind::Nmi, ..Self::exception(2) };

    /// An external interrupt.
    pub const fn interrupt(vector: u8) -> Self {
        Self { kind: EventKind::ExternalInterrupt, ..Self::exception(vector) }
    }
}
