//! Events: exceptions and interrupts, as they are injected or were being delivered.

pub use tollgate_abi::x86::exception as vector;

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
