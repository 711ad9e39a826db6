//! The contract between the common code and a virtualization extension: facts about the last exit, the guest's state, its
//! interrupts, and timers, each a trait. VT-x implements them in [`crate::vmx`], SVM in [`crate::svm`], in files of the same
//! names; tests script them. [`Backend`] has everything that follows from them in the same way under both; nobody implements it.

use tollgate_abi::ExitReason;
use tollgate_abi::exit_reason::Controls;
use tollgate_abi::profile::Profile;

use super::{
    Action, CrAccess, DrAccess, Event, ExitNumber, GuestRegisters, IoAccess, Numbers, Operand, PhysicalFault,
    RawReason, State, TableInstruction, VirtualizedApic, VolatileRegisters,
};

/// Facts about the last exit, found out when they are asked for.
pub trait ExitFacts {
    /// The reasons of exit numbers.
    const NUMBERS: Numbers;
    /// The exit's number.
    fn number(&self) -> ExitNumber;
    /// Whether the exit is for this reason, which its number has in [`ExitFacts::NUMBERS`].
    fn confirms(&self, reason: ExitReason) -> bool;
    /// The exit's reason, if a table has it; `number` is its number. Calls no function.
    fn common_reason(&self, number: ExitNumber) -> Option<RawReason>;
    /// The exit's reason where [`ExitFacts::common_reason`] has none.
    fn uncommon_reason(&self, number: ExitNumber) -> RawReason;
    /// The exit qualification as it is, for reports.
    fn qualification(&self) -> u64;
    /// The port access of an I/O exit.
    fn io_access(&self) -> IoAccess;
    /// The base of the segment that a string I/O exit's instruction accesses; `offset` is RSI or RDI, as wide as the
    /// instruction's addresses.
    fn string_io_segment_base(&self, offset: u64) -> u64;
    /// Width in bytes of the addresses that a string I/O instruction steps: 2, 4 or 8.
    fn string_io_address_bytes(&self) -> u8;
    /// The number of the register that a MOV to CR0 reads; `None` for any other control-register access, and where that can't be
    /// found quickly.
    fn cr0_write(&mut self) -> Option<u8>;
    /// The access of a control-register exit, where the processor or a short look at the code tells it.
    fn told_cr_access(&mut self) -> Option<CrAccess>;
    /// The access of a control-register exit.
    fn cr_access(&self, registers: &mut GuestRegisters) -> CrAccess;
    /// The access of a debug-register exit, where the processor or a short look at the code tells it.
    fn told_dr_access(&mut self) -> Option<DrAccess>;
    /// The access of a debug-register exit.
    fn dr_access(&self) -> DrAccess;
    /// The instruction and operand of an exit for a descriptor table.
    fn table_access(&self, registers: &mut GuestRegisters) -> (TableInstruction, Operand);
    /// The guest-physical address of the access that nested paging refused.
    fn fault_gpa(&self) -> u64;
    /// The access of an EPT violation.
    fn physical_fault(&self) -> PhysicalFault;
    /// Whether an exit for RDTSC is in truth one for RDTSCP.
    fn is_rdtscp(&self) -> bool;
    /// The linear address of INVLPG, where the processor tells it.
    fn told_invalidated_address(&self) -> Option<u64>;
    /// The linear address of INVLPG.
    fn invalidated_address(&self, registers: &mut GuestRegisters) -> u64;
    /// The exception or NMI that caused the exit.
    fn exit_event(&self) -> Option<Event>;
    /// The event that was being delivered when the guest exited.
    fn vectoring_event(&self) -> Option<Event>;
    /// Whether there may be a [`ExitFacts::vectoring_event`]. Calls no function.
    fn was_delivering(&self) -> bool;
    /// The check that a VM entry failed, as far as it can be told, after an exit for a failed entry.
    fn entry_failure(&self) -> &'static str;
}

/// The guest's state, and the controls under which it runs.
pub trait GuestState {
    /// RAX, before an exit's registers are all saved.
    fn rax(&self, registers: &VolatileRegisters) -> u64;
    /// Writes RAX, before an exit's registers are all saved.
    fn set_rax(&mut self, registers: &mut VolatileRegisters, value: u64);
    /// Writes EDX:EAX as RDMSR and RDTSC do, before an exit's registers are all saved.
    #[inline(always)]
    fn set_edx_eax(&mut self, registers: &mut VolatileRegisters, value: u64) {
        self.set_rax(registers, value & u64::from(u32::MAX));
        registers.rdx = value >> 32;
    }
    /// The volatile register with this number in an instruction's encoding; 0 for another.
    fn volatile(&self, registers: &VolatileRegisters, number: u8) -> u64;
    /// Writes the volatile register with this number, which is one.
    fn set_volatile(&mut self, registers: &mut VolatileRegisters, number: u8, value: u64);
    /// Reads guest state.
    fn get(&self, state: State) -> u64;
    /// Writes guest state. The caller has checked the value as the instruction demands.
    fn set(&mut self, state: State, value: u64);
    /// Whether the quick forms can be used: the guest is in IA-32e mode, and moving RIP behind the instruction takes no call.
    fn uses_quick_forms(&self) -> bool;
    /// [`GuestState::step_over`] if [`GuestState::uses_quick_forms`].
    fn quick_step_over(&mut self);
    /// Moves RIP behind the instruction that exited, and nothing else.
    fn step_over(&mut self);
    /// Whether ending the instruction that exited takes no more than a [`GuestState::step_over`]: there is no interrupt shadow
    /// and no single step.
    fn ends_plainly(&self) -> bool;
    /// Ends the instruction that exited as the processor would: RIP behind it, no more blocking by STI and MOV SS, the
    /// single-step #DB pending if RFLAGS.TF is set.
    fn advance(&mut self);
    /// [`GuestState::advance`] behind an instruction of so many bytes, whose length the exit does not tell.
    fn advance_by(&mut self, bytes: u8);
    /// Prepares to hand #DB back: sees to it that the next entry passes its checks where a single step meets blocking by STI or
    /// MOV SS.
    fn keep_single_step(&mut self);
    /// The guest's next step after an exit for a failed VM entry, if its state is as it should be all the same.
    ///
    /// Under VT-x, RIP may be beyond the 32 bits that it has outside of 64-bit mode, behind an instruction at their end. RIP is
    /// then wrapped as the processor wraps it, and the entry can be tried again. This spares every other exit a look at the mode.
    /// Under SVM, the processor may be QEMU, which makes this exit where the guest's MOV to CR3 has to raise #GP.
    fn after_failed_entry(&mut self, registers: &mut GuestRegisters) -> Option<Action>;
    /// Drops the guest's cached translations: of one linear address, or all.
    fn flush_translations(&mut self, linear: Option<u64>);
    /// Maps one fresh page of the guest's memory; false if there is no such page.
    fn map_fresh_page(&mut self, gpa: u64) -> bool;
    /// Puts the guest into its state after INIT and a start-up IPI with this vector.
    fn start_up(&mut self, vector: u8);
    /// Whether the guest is in IA-32e mode. Reads none of its registers.
    fn is_in_long_mode(&self) -> bool;
    /// Enters IA-32e mode: EFER.LMA is set. CR0 has been written.
    fn enter_long_mode(&mut self);
    /// Leaves IA-32e mode: EFER.LMA is clear. CR0 has been written.
    fn leave_long_mode(&mut self);
    /// Loads the four page-directory-pointer entries of PAE paging, where the processor has registers for them (SDM 3A 4.4.1).
    fn set_page_directory_pointers(&mut self, entries: [u64; 4]);
    /// Puts another profile's controls in force, and returns them.
    fn set_profile(&mut self, profile: Profile) -> Controls;
    /// The current privilege level. Real mode has 0, whatever is left in SS (SDM 3A 21.1).
    #[inline(always)]
    fn privilege_level(&self) -> u8 {
        use tollgate_abi::x86::control::{CR0_PE, RIGHTS_DPL, RIGHTS_DPL_SHIFT};
        // SDM 3C 25.4.1: the DPL in the access rights of SS.
        let level = ((self.get(State::SsRights) & RIGHTS_DPL) >> RIGHTS_DPL_SHIFT) as u8;
        if level != 0 && self.get(State::Cr0) & CR0_PE == 0 { 0 } else { level }
    }
}

/// Events that are delivered to the guest, and events that arrive for it or for the monitor.
pub trait Interrupts {
    /// Delivers `event` at the next entry.
    fn inject(&mut self, event: Event);
    /// Whether an interrupt can be injected at the next entry: RFLAGS.IF is set, and the guest is not right behind STI or MOV SS,
    /// which does not matter if the exit `ends` an instruction. An instruction that ends with a single step takes none: the #DB
    /// comes first, and an injected interrupt would discard it (SDM 3C 27.7.3).
    fn takes_interrupts(&self, ends: bool) -> bool;
    /// Whether an NMI can be injected at the next entry: no NMI's handler runs, and the conditions for interrupts hold, but for
    /// RFLAGS.IF.
    fn takes_nmis(&self, ends: bool) -> bool;
    /// Has the guest exit as soon as an interrupt could be injected, or no longer.
    fn ask_for_window(&mut self, wanted: bool);
    /// Has the guest exit as soon as an NMI could be injected, or no longer. If the extension can't tell, at the next IRET.
    fn ask_for_nmi_window(&mut self, wanted: bool);
    /// [`ExitFacts::exit_event`] for the handler. State that the processor had changed for an instruction that this exit
    /// interrupted is put back.
    fn take_exit_event(&mut self) -> Option<Event>;
    /// The vector of the external interrupt that caused the exit, taken from the processor's own APIC.
    fn take_interrupt(&mut self) -> u8;
    /// Takes the NMI that caused the exit.
    fn take_nmi(&mut self);
    /// Whether an exception only ends a step that the monitor itself made over an instruction behind which NMIs can be taken.
    fn takes_own_step(&mut self) -> bool;
    /// Notes that the guest's NMI handler ends, at an exit for the instruction that ends it.
    fn nmi_handler_ends(&mut self);
    /// Halts the guest at the next entry, without a watchdog, until an interrupt.
    fn halt(&mut self);
    /// Makes a halted guest active again.
    fn wake(&mut self);
    /// The parts of the guest's local APIC that the processor virtualizes now.
    fn virtualized_apic(&self) -> VirtualizedApic;
    /// With virtual-interrupt delivery: sets the highest vectors requested and in service, which have changed in the page.
    fn set_interrupt_status(&mut self, requested: u8, in_service: u8);
    /// With a TPR shadow: has the guest exit when the priority class falls below this.
    fn set_priority_threshold(&mut self, class: u8);
    /// Sets the value of CR8, for extensions from which the guest can read it without a TPR shadow.
    fn set_task_priority(&mut self, class: u8);
}

/// Exits that time brings about.
pub trait Timers {
    /// Whether a time without exits is ended by an interrupt at the processor's own APIC, because the extension has no timer for
    /// that.
    const WATCHDOG_INTERRUPTS: bool;
    /// Sees to it that the guest exits from `limit_tsc` on, at the end of a run of `ticks`; [`NEVER`](crate::host::registers::NEVER) for
    /// no such end.
    fn set_limit(&mut self, limit_tsc: u64, ticks: u64);
    /// Has the processor's own APIC interrupt it at this time, or not at all.
    fn arm_timer(&mut self, deadline_tsc: Option<u64>);
    /// Has that interrupt come at this time at the latest, from the next [`Timers::arm_timer`] on, or have no such bound any more.
    /// True if that is a change. Where [`Timers::WATCHDOG_INTERRUPTS`], the watchdog's may come instead.
    fn set_bound(&mut self, deadline_tsc: Option<u64>) -> bool;
    /// Starts the watchdog anew, if the extension has no timer of its own for that: a time without exits ends by an interrupt
    /// with [`WATCHDOG_VECTOR`](crate::host::vectors::WATCHDOG_VECTOR).
    fn restart_watchdog(&mut self);
    /// Whether the time without exits is over, once that interrupt has come. If it is not, the watchdog goes on: the interrupt
    /// was pending already at the watchdog's last start, or came early.
    fn watchdog_is_due(&mut self) -> bool;
}

/// The processor under the vCPU, the same under either extension.
pub trait Processor {
    /// The time-stamp counter.
    fn tsc(&self) -> u64;
    /// Interrupts the processor with this APIC ID, which runs another vCPU, so that it exits.
    fn kick(&mut self, apic_id: u32);
    /// Ends, at the processor's own APIC, the interrupt that made this exit.
    fn end_of_interrupt(&mut self);
    /// Whether a person has pressed Esc, on a machine that has such a keyboard.
    fn escape_was_pressed(&mut self) -> bool;
}

/// A virtualization extension at one vCPU, with the facts that follow from its parts.
pub trait Backend: ExitFacts + GuestState + Interrupts + Timers + Processor {
    /// The exit reason.
    #[inline(always)]
    fn exit_reason(&self) -> RawReason {
        let number = self.number();
        self.common_reason(number).unwrap_or_else(|| self.uncommon_reason(number))
    }
    /// The guest's TSC.
    fn guest_tsc(&self) -> u64 {
        self.tsc().wrapping_add(self.get(State::TscOffset))
    }
}

impl<B: ExitFacts + GuestState + Interrupts + Timers + Processor> Backend for B {}
