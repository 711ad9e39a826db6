//! What a backend hands over at an exit, and what a handler decides.
//!
//! [`Backend`] is the contract between the common code and a virtualization extension: facts about the exit, read only
//! when asked for, and effects on the guest. VT-x implements it in [`crate::vmx`]; tests script it.

#![expect(unsafe_code, reason = "looks at the registers as an array")]

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
    pub rdi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rax: u64,
}

const _: () = assert!(size_of::<GuestRegisters>() == WORDS * 8);

impl GuestRegisters {
    /// The register with this number in an instruction's encoding; `None` for 4, which is RSP.
    #[inline(always)]
    pub fn by_number(&mut self, number: u8) -> Option<&mut u64> {
        const NONE: u8 = WORDS as u8;
        /// Positions by number: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
        static POSITIONS: [u8; 16] = [14, 11, 13, 10, NONE, 9, 12, 8, 7, 6, 5, 4, 3, 2, 1, 0];
        self.words().get_mut(usize::from(POSITIONS[usize::from(number & 15)]))
    }

    /// All of them, in the order of the fields.
    #[inline(always)]
    fn words(&mut self) -> &mut [u64; WORDS] {
        // SAFETY: the struct is that many quadwords, in C's layout.
        unsafe { &mut *core::ptr::from_mut(self).cast() }
    }
}

/// General-purpose registers without RSP.
const WORDS: usize = 15;

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

/// What [`Backend::frequent_reason`] says of a rare exit.
pub const UNRESOLVED: RawReason = RawReason(u32::MAX);

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
        /** Where the samples of a microbenchmark are; 0 if there are none. */
        samples_gpa: u64,
        /** TSC when it was asked for. */
        tsc: u64,
        /** Cycles of all VMCALLs before this one, which is not of the workload. */
        call_cycles: u64,
    },
    /// Keep so many bytes of the guest's memory for the log. They exist.
    Console {
        /** Where. */
        gpa: u64,
        /** How many. */
        bytes: usize,
    },
    /// Say that this vCPU halts, which it does at the next entry.
    Halted,
    /// Enter through the stub of another mode of the processor.
    ModeChanged,
}

/// What of the guest's local APIC the processor virtualizes under the controls in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtualizedApic {
    /// The task priority, as CR8 and as MSR.
    pub priority: bool,
    /// Reads of the other registers.
    pub registers: bool,
    /// Self-IPI, EOI, and delivery by priority.
    pub delivery: bool,
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
    CsBase,
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
    /// What the guest's TSC is ahead of the processor's, wrapping.
    TscOffset,
}

/// A virtualization extension at one vCPU: facts about the last exit, and effects on the guest.
pub trait Backend {
    /// Whether a time without exits ends by an interrupt at the processor's own APIC, for lack of a timer of the extension's.
    const WATCHDOG_INTERRUPTS: bool;
    /// Whether [`Backend::cr0_write_by_code`] may tell what [`Backend::cr0_write`] does not.
    const MAY_NEED_CODE: bool = false;
    /// Why the guest exited.
    fn exit_reason(&self) -> RawReason;
    /// Likewise, without a call: [`UNRESOLVED`] for what is rare, where finding that out takes one.
    fn frequent_reason(&self) -> RawReason;
    /// The reason of which [`Backend::frequent_reason`] has said this much.
    fn whole_reason(&self, frequent: RawReason) -> RawReason;
    /// Whether the quick forms can be used: to move behind an instruction takes no call.
    fn steps_quickly(&self) -> bool;
    /// [`Backend::step_over`], where [`Backend::steps_quickly`].
    fn quick_step_over(&mut self);
    /// The exit qualification as it is, for reports.
    fn qualification(&self) -> u64;
    /// The port access of an I/O exit.
    fn io_access(&self) -> IoAccess;
    /// The base of the segment that a string I/O exit's instruction accesses; `offset` is what is in RSI or RDI, as wide as
    /// its addresses.
    fn string_io_segment_base(&self, offset: u64) -> u64;
    /// Width in bytes of the addresses that a string I/O instruction steps: 2, 4 or 8.
    fn string_io_address_bytes(&self) -> u8;
    /// The number of the register that a MOV to CR0 reads; `None` for any other control-register access, and where the processor
    /// does not tell.
    fn cr0_write(&self) -> Option<u8>;
    /// Likewise, by the guest's code, where that is found quickly.
    fn cr0_write_by_code(&mut self) -> Option<u8> {
        None
    }
    /// The access of a control-register exit.
    fn cr_access(&self, registers: &mut GuestRegisters) -> CrAccess;
    /// The access of a debug-register exit.
    fn dr_access(&self) -> DrAccess;
    /// The instruction and operand of an exit for a descriptor table.
    fn table_access(&self, registers: &mut GuestRegisters) -> (TableInstruction, Operand);
    /// The access of an EPT violation.
    fn physical_fault(&self) -> PhysicalFault;
    /// Whether an exit for RDTSC is one for RDTSCP.
    fn is_rdtscp(&self) -> bool;
    /// The linear address of INVLPG.
    fn invalidated_address(&self, registers: &mut GuestRegisters) -> u64;
    /// The exception or NMI that caused the exit.
    fn exit_event(&self) -> Option<Event>;
    /// The same, for the handler, with the state that the processor had changed for an instruction that this exit interrupted.
    fn take_exit_event(&mut self) -> Option<Event> {
        self.exit_event()
    }
    /// The vector of the external interrupt that caused the exit, taken from the processor's own APIC.
    fn take_interrupt(&mut self) -> u8;
    /// Takes the NMI that caused the exit.
    fn take_nmi(&mut self);
    /// The NMI handler of the guest comes to its end, at an exit for the instruction that is it.
    fn nmi_handler_ends(&mut self);
    /// Whether an exception is only the end of a step that the monitor made of that instruction, behind which NMIs can be taken.
    #[inline(always)]
    fn takes_own_step(&mut self) -> bool {
        false
    }
    /// The event that was being delivered when the guest exited.
    fn vectoring_event(&self) -> Option<Event>;
    /// Whether there may be such an event, without a call.
    #[inline(always)]
    fn was_delivering(&self) -> bool {
        self.vectoring_event().is_some()
    }
    /// Reads guest state.
    fn get(&self, state: State) -> u64;
    /// The guest's TSC.
    fn guest_tsc(&self) -> u64 {
        self.tsc().wrapping_add(self.get(State::TscOffset))
    }
    /// The current privilege level. Real mode has 0, whatever SS was left with (SDM 3A 21.1).
    #[inline(always)]
    fn privilege_level(&self) -> u8 {
        const CR0_PE: u64 = 1;
        // SDM 3C 25.4.1: the DPL in the access rights of SS.
        let level = (self.get(State::SsRights) >> 5 & 3) as u8;
        if level != 0 && self.get(State::Cr0) & CR0_PE == 0 { 0 } else { level }
    }
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
    /// Sees to it that the guest exits from `limit_tsc` on, at the end of a run of so many ticks; [`NEVER`](crate::machine::NEVER) for
    /// no such end.
    fn set_limit(&mut self, limit_tsc: u64, ticks: u64);
    /// What of the local APIC the processor virtualizes now.
    fn virtualized_apic(&self) -> VirtualizedApic;
    /// With virtual-interrupt delivery: the highest vectors requested and in service have changed in the page.
    fn set_interrupt_status(&mut self, requested: u8, in_service: u8);
    /// With a TPR shadow: exit when the priority class falls below this.
    fn set_priority_threshold(&mut self, class: u8);
    /// CR8 is this from now on, for extensions that let the guest read it from somewhere without a TPR shadow.
    fn set_task_priority(&mut self, class: u8) {
        let _ = class;
    }
    /// Whether an interrupt can be injected at the next entry: RFLAGS.IF is set, and the guest is not right behind STI or
    /// MOV SS, which does not matter if the exit `ends` an instruction. What ends with a single step takes none: the #DB comes
    /// first, and an injected interrupt would discard it (SDM 3C 27.7.3).
    fn takes_interrupts(&self, ends: bool) -> bool;
    /// Whether an NMI can be injected at the next entry: the handler of another does not run, and otherwise as for interrupts,
    /// but for RFLAGS.IF.
    fn takes_nmis(&self, ends: bool) -> bool;
    /// Exit as soon as an interrupt could be injected, or no longer.
    fn ask_for_window(&mut self, wanted: bool);
    /// Exit as soon as an NMI could be injected, or no longer. Where the extension can't tell, at the next IRET.
    fn ask_for_nmi_window(&mut self, wanted: bool);
    /// Halt at the next entry, without a watchdog, until an interrupt.
    fn halt(&mut self);
    /// Be active again.
    fn wake(&mut self);
    /// Interrupts the processor with this APIC ID, on which another vCPU runs: it exits.
    fn kick(&mut self, apic_id: u32);
    /// Ends the interrupt that made this exit, at the processor's own APIC.
    fn end_of_interrupt(&mut self);
    /// Has the processor's own APIC interrupt it at this time, or not at all.
    fn arm_timer(&mut self, deadline_tsc: Option<u64>);
    /// Puts the guest into the state behind INIT and a start-up IPI with this vector.
    fn start_up(&mut self, vector: u8);
    /// Enters IA-32e mode: EFER.LMA is set. CR0 has been written.
    fn enter_long_mode(&mut self);
    /// Puts another profile's controls in force, and says which those are.
    fn set_profile(&mut self, profile: Profile) -> Controls;
    /// Has a time without exits end by an interrupt with [`WATCHDOG_VECTOR`](crate::handlers::apic::WATCHDOG_VECTOR), where
    /// the extension has no timer of its own for that: starts anew.
    fn restart_watchdog(&mut self);
    /// Whether the time without exits is over, once that interrupt has come. If it is not, the watchdog goes on: the interrupt
    /// was pending already when the watchdog was started last, or came early.
    fn watchdog_is_due(&mut self) -> bool;
    /// After an exit that says that a VM entry failed: how the guest goes on, where its state is as it should be all the same.
    ///
    /// Under VT-x RIP may be beyond the 32 bits that it has outside of 64-bit mode, behind an instruction at their end. It is wrapped
    /// then as the processor wraps it, and the entry can be tried again. This spares every other exit a look at the mode. Under SVM it
    /// may be QEMU, which makes this exit where the guest's MOV to CR3 has to raise #GP.
    fn after_failed_entry(&mut self, _registers: &mut GuestRegisters) -> Option<Action> {
        None
    }
    /// Which check a VM entry failed, as far as it can be told, after an exit that says that one did.
    fn entry_failure(&self) -> &'static str;
    /// The time-stamp counter.
    fn tsc(&self) -> u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_have_the_numbers_of_their_encoding() {
        let mut registers = GuestRegisters {
            rax: 0,
            rcx: 1,
            rdx: 2,
            rbx: 3,
            rbp: 5,
            rsi: 6,
            rdi: 7,
            r8: 8,
            r9: 9,
            r10: 10,
            r11: 11,
            r12: 12,
            r13: 13,
            r14: 14,
            r15: 15,
        };
        for number in 0..32 {
            let expected = Some(u64::from(number & 15)).filter(|&number| number != 4);
            assert_eq!(registers.by_number(number).copied(), expected);
        }
    }
}
