//! The guest's state and its controls: the VMCB's state save area, the state that VMSAVE saves, and intercepts (APM 2 15.5).

use tollgate_abi::exit_reason::Controls;
use tollgate_abi::profile::Profile;
use tollgate_abi::x86::control::{
    CR4_MCE, DR6_BS, EFER_LMA, EFER_LME, EFER_SVME, RFLAGS_TF, RIGHTS_DPL, RIGHTS_DPL_SHIFT, RIGHTS_LONG,
};
use tollgate_abi::x86::segment;

use super::controls::{HLT, IRET, VINTR};
use super::nmi::Nmis;
use super::vmcb::{self as f, Field};
use super::{Svm, guest_state, permission_maps};
use crate::exit::{Action, CrAccess, Event, GuestRegisters, GuestState, Interrupts, State, VolatileRegisters, vector};
use crate::host::registers;

impl Svm {
    #[inline(always)]
    pub(super) fn has_shadow(&self) -> bool {
        self.vmcb.part(f::INTERRUPT_SHADOW) != 0
    }

    #[inline(always)]
    pub(super) fn steps(&self) -> bool {
        self.vmcb.get(f::RFLAGS) & RFLAGS_TF != 0
    }

    /// The effects of an instruction's end besides RIP.
    #[inline(always)]
    fn end_instruction(&mut self) {
        self.vmcb.set_part(f::INTERRUPT_SHADOW, 0);
        if self.steps() {
            // SVM has no pending debug exceptions that could be left to the processor.
            self.vmcb.set(f::DR6, self.vmcb.get(f::DR6) | DR6_BS);
            self.inject(Event::exception(vector::DB));
        }
    }

    pub(super) fn set_intercept_0(&mut self, bit: u32, on: bool) {
        self.vmcb.put(f::INTERCEPTS, u64::from(bit) << 32, on);
    }

    /// Reads state that VMSAVE saves.
    #[cold]
    #[inline(never)]
    fn hidden(&self, read: impl FnOnce() -> u64) -> u64 {
        self.operation.save(self.vmcb);
        read()
    }

    /// Writes state that VMLOAD loads.
    #[cold]
    #[inline(never)]
    fn set_hidden(&mut self, write: impl FnOnce()) {
        self.operation.save(self.vmcb);
        write();
        self.operation.load(self.vmcb);
    }
}

impl GuestState for Svm {
    #[inline(always)]
    fn rax(&self, _: &VolatileRegisters) -> u64 {
        self.vmcb.get(f::RAX)
    }

    #[inline(always)]
    fn set_rax(&mut self, _: &mut VolatileRegisters, value: u64) {
        self.vmcb.set(f::RAX, value);
    }

    #[inline(always)]
    fn volatile(&self, registers: &VolatileRegisters, number: u8) -> u64 {
        if number & 15 == 0 { self.vmcb.get(f::RAX) } else { registers.by_number(number) }
    }

    #[inline(always)]
    fn set_volatile(&mut self, registers: &mut VolatileRegisters, number: u8, value: u64) {
        if number & 15 == 0 {
            self.vmcb.set(f::RAX, value);
        } else {
            registers.set_by_number(number, value);
        }
    }

    #[inline(always)]
    fn get(&self, state: State) -> u64 {
        let vmcb = self.vmcb;
        match state {
            State::Rip => vmcb.get(f::RIP),
            State::Rflags => vmcb.get(f::RFLAGS),
            State::Cr0 => vmcb.get(f::CR0),
            State::InstructionBytes => self.next_rip().wrapping_sub(vmcb.get(f::RIP)),
            State::Cr4 => vmcb.get(f::CR4) & !CR4_MCE,
            State::Efer => vmcb.get(f::EFER) & !EFER_SVME | self.held_back_efer,
            State::CsBase => vmcb.get(f::CS.base()),
            State::CsRights => segment::rights(vmcb.part(f::CS.attributes())),
            // The privilege level has a field of its own.
            State::SsRights => {
                segment::rights(vmcb.part(f::SS.attributes())) & !RIGHTS_DPL | vmcb.part(f::CPL) << RIGHTS_DPL_SHIFT
            }
            State::GdtrLimit => vmcb.part(f::GDTR.limit()),
            State::IdtrLimit => vmcb.part(f::IDTR.limit()),
            State::LdtrSelector => self.hidden(|| vmcb.part(f::LDTR.selector())),
            State::LdtrBase => self.hidden(|| vmcb.get(f::LDTR.base())),
            State::LdtrLimit => self.hidden(|| vmcb.part(f::LDTR.limit())),
            State::LdtrRights => self.hidden(|| segment::rights(vmcb.part(f::LDTR.attributes()))),
            State::TrSelector => self.hidden(|| vmcb.part(f::TR.selector())),
            State::TrBase => self.hidden(|| vmcb.get(f::TR.base())),
            State::TrLimit => self.hidden(|| vmcb.part(f::TR.limit())),
            State::TrRights => self.hidden(|| segment::rights(vmcb.part(f::TR.attributes()))),
            State::TscOffset => vmcb.get(f::TSC_OFFSET),
            State::TscAux => registers::tsc_aux(),
            state => match saved(state) {
                Some(field) => vmcb.get(field),
                None => registers::read(state),
            },
        }
    }

    #[inline(always)]
    fn set(&mut self, state: State, value: u64) {
        let vmcb = self.vmcb;
        match state {
            State::Cr0 => vmcb.set(f::CR0, value),
            State::Efer => {
                self.held_back_efer = if self.long_mode { 0 } else { value & EFER_LME };
                vmcb.set(f::EFER, value & !self.held_back_efer | EFER_SVME);
            }
            State::Cr2 => {
                vmcb.set(f::CR2, value);
                // VMRUN loads it from the block, but not on Bochs 2.7, which leaves the register as it is.
                registers::write(state, value);
            }
            State::TscOffset => vmcb.set(f::TSC_OFFSET, value),
            State::Cr3 => vmcb.set(f::CR3, value),
            State::Dr6 => vmcb.set(f::DR6, value),
            State::Dr7 => vmcb.set(f::DR7, value),
            State::GdtrBase => vmcb.set(f::GDTR.base(), value),
            State::IdtrBase => vmcb.set(f::IDTR.base(), value),
            State::Cr4 => vmcb.set(f::CR4, value | self.machine_check),
            State::GdtrLimit => vmcb.set_part(f::GDTR.limit(), value),
            State::IdtrLimit => vmcb.set_part(f::IDTR.limit(), value),
            State::LdtrSelector => self.set_hidden(|| vmcb.set_part(f::LDTR.selector(), value)),
            State::LdtrBase => self.set_hidden(|| vmcb.set(f::LDTR.base(), value)),
            State::LdtrLimit => self.set_hidden(|| vmcb.set_part(f::LDTR.limit(), value)),
            State::LdtrRights => {
                self.set_hidden(|| vmcb.set_part(f::LDTR.attributes(), segment::attributes(value)));
            }
            State::TrSelector => self.set_hidden(|| vmcb.set_part(f::TR.selector(), value)),
            State::TrBase => self.set_hidden(|| vmcb.set(f::TR.base(), value)),
            State::TrLimit => self.set_hidden(|| vmcb.set_part(f::TR.limit(), value)),
            State::TrRights => self.set_hidden(|| vmcb.set_part(f::TR.attributes(), segment::attributes(value))),
            State::CsBase | State::CsRights | State::SsRights | State::InstructionBytes => {
                unreachable!("no instruction that a handler emulates writes this state")
            }
            state => match saved(state) {
                Some(field) => vmcb.set_any(field, value),
                None => registers::write(state, value),
            },
        }
    }

    #[inline(always)]
    fn uses_quick_forms(&self) -> bool {
        self.long_mode && self.capabilities.next_rip
    }

    #[inline(always)]
    fn quick_step_over(&mut self) {
        self.vmcb.set(f::RIP, self.vmcb.get(f::NRIP));
    }

    #[inline(always)]
    fn step_over(&mut self) {
        self.vmcb.set(f::RIP, self.next_rip());
    }

    #[inline(always)]
    fn ends_plainly(&self) -> bool {
        !self.has_shadow() && !self.steps()
    }

    fn advance(&mut self) {
        if let Some(halt) = &mut self.halt
            && !halt.stays
        {
            halt.stays = true;
            return;
        }
        self.step_over();
        self.end_instruction();
    }

    #[cold]
    fn advance_by(&mut self, bytes: u8) {
        self.vmcb.set(f::RIP, self.vmcb.get(f::RIP).wrapping_add(bytes.into()));
        self.end_instruction();
    }

    fn keep_single_step(&mut self) {}

    /// QEMU makes VMEXIT_INVALID of a MOV to CR3 that is not intercepted, in 64-bit mode with a value beyond the physical-address
    /// width; a processor raises #GP(0) (APM 3, MOV CRn). State and RIP are then those of the guest at that instruction.
    #[cold]
    #[inline(never)]
    fn after_failed_entry(&mut self, registers: &mut GuestRegisters) -> Option<Action> {
        let in_64_bit_mode = self.long_mode && self.get(State::CsRights) & RIGHTS_LONG != 0;
        if !self.capabilities.facts.is_qemu || !in_64_bit_mode || self.named_failure().is_some() {
            return None;
        }
        let Some(CrAccess::Write { cr: 3, register }) = self.instruction()?.cr_access(|| 0) else { return None };
        let value = registers.by_number(register).map_or(self.vmcb.get(f::RSP), |value| *value);
        (value >> self.physical_bits != 0).then_some(Action::Inject(Event::GENERAL_PROTECTION))
    }

    fn flush_translations(&mut self, linear: Option<u64>) {
        match linear {
            None => self.new_asid(),
            Some(linear) => {
                self.operation.invalidate_address(linear, self.asid);
            }
        }
    }

    #[inline(always)]
    fn map_fresh_page(&mut self, gpa: u64) -> bool {
        self.npt.map_fresh(gpa)
    }

    fn start_up(&mut self, vector: u8) {
        self.long_mode = false;
        self.halt = None;
        self.held_back_efer = 0;
        self.nmis = Nmis::default();
        self.set_task_priority(0);
        guest_state::write_real_mode(self.vmcb, vector);
        self.vmcb.set(f::CR4, self.machine_check);
        self.operation.load(self.vmcb);
        self.new_asid();
    }

    #[inline(always)]
    fn is_in_long_mode(&self) -> bool {
        self.long_mode
    }

    fn enter_long_mode(&mut self) {
        self.held_back_efer = 0;
        self.vmcb.set(f::EFER, self.vmcb.get(f::EFER) | EFER_LME | EFER_LMA);
        self.long_mode = true;
        self.new_asid();
    }

    fn leave_long_mode(&mut self) {
        self.long_mode = false;
        let efer = self.vmcb.get(f::EFER);
        self.held_back_efer = efer & EFER_LME;
        self.vmcb.set(f::EFER, efer & !(EFER_LME | EFER_LMA));
        self.new_asid();
    }

    /// Under nested paging the processor reads them from memory at each walk (APM 2 15.25.10).
    fn set_page_directory_pointers(&mut self, _: [u64; 4]) {}

    fn set_profile(&mut self, profile: Profile) -> Controls {
        let intercepts = self.intercepts(profile);
        // From now on a software exception may be the guest's own.
        self.software_bytes = 0;
        intercepts.write(self.vmcb);
        self.set_intercept_0(VINTR, self.window);
        self.set_intercept_0(IRET, self.nmis.intercepts_iret());
        self.set_intercept_0(HLT, self.halt.is_none());
        permission_maps::fill_msrpm(self.msrpm, profile);
        self.vmcb.mark_group(f::PERMISSION_MAPS);
        intercepts.in_force()
    }
}

/// The field of a part of a segment or descriptor-table register, for those registers that #VMEXIT saves.
#[inline(always)]
fn saved(state: State) -> Option<Field> {
    Some(match state {
        State::Rip => f::RIP,
        State::Rsp => f::RSP,
        State::Rflags => f::RFLAGS,
        State::Cr0 => f::CR0,
        State::Cr2 => f::CR2,
        State::Cr3 => f::CR3,
        State::Dr6 => f::DR6,
        State::Dr7 => f::DR7,
        State::GdtrBase => f::GDTR.base(),
        State::IdtrBase => f::IDTR.base(),
        _ => return None,
    })
}
