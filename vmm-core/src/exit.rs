//! What a backend hands over at an exit, and what a handler decides.
//!
//! [`Backend`] is the contract between the common code and a virtualization extension: facts about the exit, read only
//! when asked for, and effects on the guest. VT-x implements it in [`crate::vmx`]; tests script it.

use tollgate_abi::ExitReason;
use tollgate_abi::exit_reason::Controls;
use tollgate_abi::profile::Profile;
use tollgate_abi::workload::Outcome;

/// The guest's general-purpose registers, in the order in which the entry stub pushes them downwards.
///
/// RSP, RIP and RFLAGS are the backend's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the registers' own names")]
pub struct GuestRegisters {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdi: u64,
    pub rdx: u64,
    pub rax: u64,
}

const _: () = assert!(size_of::<GuestRegisters>() == 15 * 8);

impl GuestRegisters {
    /// The register with this number in an instruction's encoding; `None` for 4, which is RSP.
    #[inline(always)]
    pub fn by_number(&mut self, number: u8) -> Option<&mut u64> {
        Some(match number & 15 {
            0 => &mut self.rax,
            1 => &mut self.rcx,
            2 => &mut self.rdx,
            3 => &mut self.rbx,
            4 => return None,
            5 => &mut self.rbp,
            6 => &mut self.rsi,
            7 => &mut self.rdi,
            8 => &mut self.r8,
            9 => &mut self.r9,
            10 => &mut self.r10,
            11 => &mut self.r11,
            12 => &mut self.r12,
            13 => &mut self.r13,
            14 => &mut self.r14,
            _ => &mut self.r15,
        })
    }
}

/// The exit-reason field (SDM 3C 25.9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct RawReason(pub u32);

impl RawReason {
    /// Bits 15:0.
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

/// Exception vectors that the monitor raises or tells apart (SDM 3A 6.15).
#[expect(missing_docs, reason = "the manual's mnemonics")]
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const UD: u8 = 6;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MC: u8 = 18;
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

    /// An external interrupt.
    pub const fn interrupt(vector: u8) -> Self {
        Self { kind: EventKind::ExternalInterrupt, ..Self::exception(vector) }
    }
}

/// What a handler decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// The instruction was emulated: go on behind it.
    Advance,
    /// Likewise, without a look at interrupt shadow and single step: CPUID, which has a budget of VMREADs.
    StepOver,
    /// Go on at the same instruction.
    Resume,
    /// Raise an event instead of completing the instruction.
    Inject(Event),
    /// The instruction was emulated, and behind it an interrupt arrives.
    AdvanceAndInject(Event),
    /// The instruction was emulated; before the guest goes on, do this outside the account.
    AdvanceAndPause(Pause),
    /// The guest is over.
    Stop(Outcome),
}

/// What is done between two stretches of guest execution, at the guest's request, when no exit is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// Switch the profile and nothing else.
    Profile(Profile),
    /// Start workload `number` with `iterations`.
    Begin {
        /** Position in the table. */
        number: usize,
        /** As asked for. */
        iterations: u64,
    },
    /// End it; the guest's book is at this guest-physical address.
    End {
        /** Where. */
        book_gpa: u64,
        /** TSC when it was asked for. */
        tsc: u64,
    },
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
    /// With a REP prefix.
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

/// Its operand.
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

/// Guest state that is neither a general-purpose register nor memory.
///
/// The order is that of [`Backend::get`]'s and [`Backend::set`]'s implementations; it has no other meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the registers' own names")]
pub enum State {
    Rip,
    /// Length in bytes of the instruction that exited.
    InstructionBytes,
    Rsp,
    Rflags,
    /// What the guest reads from CR0; a write also sets what the processor needs.
    Cr0,
    Cr2,
    Cr3,
    /// Like [`State::Cr0`].
    Cr4,
    Xcr0,
    Dr0,
    Dr1,
    Dr2,
    Dr3,
    Dr6,
    Dr7,
    Efer,
    CsRights,
    SsRights,
    FsBase,
    GsBase,
    GdtrBase,
    GdtrLimit,
    IdtrBase,
    IdtrLimit,
    LdtrSelector,
    LdtrBase,
    LdtrLimit,
    LdtrRights,
    TrSelector,
    TrBase,
    TrLimit,
    TrRights,
    SysenterCs,
    SysenterEsp,
    SysenterEip,
    Star,
    Lstar,
    Cstar,
    Fmask,
    KernelGsBase,
    TscAux,
    Tsc,
}

/// A virtualization extension at one vCPU: facts about the last exit, and effects on the guest.
pub trait Backend {
    /// Why the guest exited.
    fn exit_reason(&self) -> RawReason;
    /// The exit qualification as it is, for reports.
    fn qualification(&self) -> u64;
    /// The port access of an I/O exit.
    fn io_access(&self) -> IoAccess;
    /// The linear address of the first element of a string I/O exit.
    fn string_io_address(&self) -> u64;
    /// Width in bytes of the addresses that a string I/O instruction steps: 2, 4 or 8.
    fn string_io_address_bytes(&self) -> u8;
    /// The number of the register that a MOV to CR0 reads; `None` for any other control-register access.
    fn cr0_write(&self) -> Option<u8>;
    /// The access of a control-register exit.
    fn cr_access(&self) -> CrAccess;
    /// The access of a debug-register exit.
    fn dr_access(&self) -> DrAccess;
    /// The instruction and operand of an exit for a descriptor table.
    fn table_access(&self, registers: &mut GuestRegisters) -> (TableInstruction, Operand);
    /// The access of an EPT violation.
    fn physical_fault(&self) -> PhysicalFault;
    /// The exception, NMI or interrupt that caused the exit.
    fn exit_event(&self) -> Option<Event>;
    /// The event that was being delivered when the guest exited.
    fn vectoring_event(&self) -> Option<Event>;
    /// Reads guest state.
    fn get(&self, state: State) -> u64;
    /// Writes guest state. The caller has checked the value as the instruction demands.
    fn set(&mut self, state: State, value: u64);
    /// Moves RIP behind the instruction that exited, and nothing else.
    fn step_over(&mut self);
    /// Whether ending the instruction that exited takes no more than that: no interrupt shadow, no single step.
    fn ends_plainly(&self) -> bool;
    /// Ends the instruction that exited as the processor would have: RIP behind it, blocking by STI and MOV SS over, the
    /// single-step #DB pending if RFLAGS.TF is set.
    fn advance(&mut self);
    /// Before #DB is handed back: keeps the entry checks content where a single step meets blocking by STI or MOV SS.
    fn keep_single_step(&mut self);
    /// Delivers `event` at the next entry.
    fn inject(&mut self, event: Event);
    /// Drops the guest's cached translations: of one linear address, or all.
    fn flush_translations(&mut self, linear: Option<u64>);
    /// Maps one fresh page of the guest's memory; false if there is no such page.
    fn map_fresh_page(&mut self, gpa: u64) -> bool;
    /// Puts another profile's controls in force, and says which those are.
    fn set_profile(&mut self, profile: Profile) -> Controls;
    /// Which check a VM entry failed, as far as it can be told, after an exit that says that one did.
    fn entry_failure(&self) -> &'static str;
    /// The time-stamp counter.
    fn tsc(&self) -> u64;
}
