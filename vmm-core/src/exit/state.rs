//! The names of guest state that is neither a general-purpose register nor memory.

/// Guest state that is neither a general-purpose register nor memory.
///
/// The order is that in the implementations of [`GuestState`](super::GuestState); it has no other meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the registers' own names")]
pub enum State {
    Rip,
    /// Length in bytes of the instruction that exited.
    InstructionBytes,
    CsBase,
    Rsp,
    Rflags,
    /// The value that the guest reads from CR0. A write also sets the bits that the processor needs.
    Cr0,
    Cr2,
    Cr3,
    /// The value that the guest reads from CR4. A write also sets the bits that the processor needs.
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
    /// The ticks by which the guest's TSC is ahead of the processor's, wrapping.
    TscOffset,
}

/// The parts of the guest's local APIC that the processor virtualizes under the controls in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtualizedApic {
    /// The task priority, as CR8 and as MSR.
    pub priority: bool,
    /// Reads of the other registers.
    pub registers: bool,
    /// Self-IPI, EOI, and delivery by priority.
    pub delivery: bool,
}
