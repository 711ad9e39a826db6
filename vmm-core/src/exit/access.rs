//! The decoded exit: its number and its reason, and the access that it is about.

use tollgate_abi::ExitReason;
use tollgate_abi::svm_exit::code;

/// The exit-reason field (SDM 3C 25.9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct RawReason(pub u32);

/// The number that an extension gives an exit: under VT-x the exit-reason field, under SVM the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct ExitNumber(pub u64);

/// The reasons of an extension's exit numbers, as far as the quick forms need them.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// The reasons of the first numbers; where the number alone does not decide, the one that may have a quick form.
    pub first: [ExitReason; FIRST_NUMBERS],
    /// A number beyond these, and its reason.
    pub far: Option<(u64, ExitReason)>,
    /// One of these reasons, and the one that the exit has where it is not confirmed.
    pub otherwise: Option<(ExitReason, ExitReason)>,
}

impl Numbers {
    /// Each number is its reason's, as under VT-x.
    pub const REASONS: Self = {
        let (mut first, mut number) = ([ExitReason::EXCEPTION_OR_NMI; FIRST_NUMBERS], 0);
        while number < first.len() {
            first[number] = ExitReason(number as u16);
            number += 1;
        }
        Self { first, far: None, otherwise: None }
    };
}

/// The numbers below this have a place in a table of [`Numbers`]: up to the greatest that may have a quick or brief form.
pub const FIRST_NUMBERS: usize = code::XSETBV as usize + 1;

impl RawReason {
    /// The basic exit reason, bits 15:0.
    #[inline(always)]
    pub const fn basic(self) -> ExitReason {
        ExitReason(self.0 as u16)
    }

    /// Bit 31: the VM entry failed, and the guest ran no instruction.
    #[inline(always)]
    pub const fn is_entry_failure(self) -> bool {
        self.0 >> 31 != 0
    }
}

/// A port access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoAccess {
    /// The port.
    pub port: u16,
    /// 1, 2 or 4.
    pub bytes: u8,
    /// IN or INS.
    pub is_in: bool,
    /// INS or OUTS.
    pub is_string: bool,
    /// The instruction has a REP prefix.
    pub is_repeated: bool,
}

/// A control-register access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "register numbers")]
pub enum CrAccess {
    Write { cr: u8, register: u8 },
    Read { cr: u8, register: u8 },
    Clts,
    Lmsw { source: u16 },
}

/// A debug-register access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "register numbers")]
pub struct DrAccess {
    pub dr: u8,
    pub register: u8,
    pub is_read: bool,
}

/// An instruction that reads or writes a descriptor-table register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the instructions' own names")]
pub enum TableInstruction {
    Sgdt,
    Sidt,
    Lgdt,
    Lidt,
    Sldt,
    Str,
    Lldt,
    Ltr,
}

/// The operand of such an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// The number of a general-purpose register.
    Register(u8),
    /// A linear address.
    Memory(u64),
}

/// An access that EPT did not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "kinds of access")]
pub struct PhysicalFault {
    pub gpa: u64,
    pub read: bool,
    pub write: bool,
    pub fetch: bool,
}
