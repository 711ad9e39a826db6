//! The guest's state and its controls: guest-state area and VM-execution control fields (SDM 3C 25.4, 25.6).

use tollgate_abi::exit_reason::Controls;
use tollgate_abi::profile::Profile;
use tollgate_abi::x86::control::{BLOCKING_BY_MOV_SS, BLOCKING_BY_STI, DR6_BS, EFER_LMA, RFLAGS_TF, RIGHTS_LONG};
use tollgate_abi::x86::controls::{entry, proc2};

use super::field as f;
use super::wanted::{INTERRUPT_WINDOW, NMI_WINDOW};
use super::{Vmx, bitmaps, guest_state};
use crate::exit::{Action, GuestRegisters, GuestState, State, VolatileRegisters};
use crate::host::registers;

/// Interruptibility state: blocking by STI, by MOV SS (SDM 3C table 25-3).
pub(super) const SHADOW: u32 = (BLOCKING_BY_STI | BLOCKING_BY_MOV_SS) as u32;
/// CS access rights: L, 64-bit code.
const CODE_64: u32 = RIGHTS_LONG as u32;
/// VM-entry control.
const IA_32E_MODE_GUEST: u32 = 1 << entry::IA_32E_MODE_GUEST;
/// Pending debug exceptions: a single step, at its place in DR6 (SDM 3C table 25-4).
const PENDING_BS: u64 = DR6_BS;

impl Vmx {
    #[cold]
    #[inline(never)]
    fn clear_interrupt_shadow(&mut self) {
        let interruptibility = self.vmcs.read(f::GUEST_INTERRUPTIBILITY);
        self.vmcs.write(f::GUEST_INTERRUPTIBILITY, interruptibility & !SHADOW);
    }

    /// The effects of an instruction's end besides RIP.
    #[inline(always)]
    fn end_instruction(&mut self) {
        if self.vmcs.read(f::GUEST_INTERRUPTIBILITY) & SHADOW != 0 {
            self.clear_interrupt_shadow();
        }
        if self.vmcs.read(f::GUEST_RFLAGS) & RFLAGS_TF != 0 {
            self.raise_single_step();
        }
    }

    /// Makes the single-step trap pending (SDM 3C table 25-4).
    #[cold]
    #[inline(never)]
    fn raise_single_step(&mut self) {
        let pending = self.vmcs.read(f::GUEST_PENDING_DEBUG);
        self.vmcs.write(f::GUEST_PENDING_DEBUG, pending | PENDING_BS);
    }

    /// The value that the guest reads from a control register with a guest/host mask (SDM 3C 26.3).
    #[inline(always)]
    fn masked(&self, mask: u64, shadow: f::Field<u64>, real: f::Field<u64>) -> u64 {
        let shadow = self.vmcs.read(shadow);
        if mask == u64::MAX { shadow } else { shadow & mask | self.vmcs.read(real) & !mask }
    }
}

impl GuestState for Vmx {
    #[inline(always)]
    fn rax(&self, registers: &VolatileRegisters) -> u64 {
        registers.saved_rax()
    }

    #[inline(always)]
    fn set_rax(&mut self, registers: &mut VolatileRegisters, value: u64) {
        registers.save_rax(value);
    }

    #[inline(always)]
    fn volatile(&self, registers: &VolatileRegisters, number: u8) -> u64 {
        registers.by_number(number)
    }

    #[inline(always)]
    fn set_volatile(&mut self, registers: &mut VolatileRegisters, number: u8, value: u64) {
        registers.set_by_number(number, value);
    }

    #[inline(always)]
    fn get(&self, state: State) -> u64 {
        let vmcs = &self.vmcs;
        match state {
            State::Rip => vmcs.read(f::GUEST_RIP),
            State::InstructionBytes => vmcs.read(f::EXIT_INSTRUCTION_LENGTH).into(),
            State::Rsp => vmcs.read(f::GUEST_RSP),
            State::Rflags => vmcs.read(f::GUEST_RFLAGS),
            State::Cr0 => self.masked(self.cr0_mask, f::CR0_READ_SHADOW, f::GUEST_CR0),
            State::Cr3 => vmcs.read(f::GUEST_CR3),
            State::Cr4 => self.masked(self.cr4_mask, f::CR4_READ_SHADOW, f::GUEST_CR4),
            State::Dr7 => vmcs.read(f::GUEST_DR7),
            State::Efer => vmcs.read(f::GUEST_IA32_EFER),
            State::CsBase => vmcs.read(f::GUEST_CS_BASE),
            State::CsRights => vmcs.read(f::GUEST_CS_RIGHTS).into(),
            State::SsRights => vmcs.read(f::GUEST_SS_RIGHTS).into(),
            State::FsBase => vmcs.read(f::GUEST_FS_BASE),
            State::GsBase => vmcs.read(f::GUEST_GS_BASE),
            State::GdtrBase => vmcs.read(f::GUEST_GDTR_BASE),
            State::GdtrLimit => vmcs.read(f::GUEST_GDTR_LIMIT).into(),
            State::IdtrBase => vmcs.read(f::GUEST_IDTR_BASE),
            State::IdtrLimit => vmcs.read(f::GUEST_IDTR_LIMIT).into(),
            State::LdtrSelector => vmcs.read(f::GUEST_LDTR_SELECTOR).into(),
            State::LdtrBase => vmcs.read(f::GUEST_LDTR_BASE),
            State::LdtrLimit => vmcs.read(f::GUEST_LDTR_LIMIT).into(),
            State::LdtrRights => vmcs.read(f::GUEST_LDTR_RIGHTS).into(),
            State::TrSelector => vmcs.read(f::GUEST_TR_SELECTOR).into(),
            State::TrBase => vmcs.read(f::GUEST_TR_BASE),
            State::TrLimit => vmcs.read(f::GUEST_TR_LIMIT).into(),
            State::TrRights => vmcs.read(f::GUEST_TR_RIGHTS).into(),
            State::SysenterCs => vmcs.read(f::GUEST_IA32_SYSENTER_CS).into(),
            State::SysenterEsp => vmcs.read(f::GUEST_IA32_SYSENTER_ESP),
            State::SysenterEip => vmcs.read(f::GUEST_IA32_SYSENTER_EIP),
            State::TscOffset => vmcs.read(f::TSC_OFFSET),
            State::TscAux => registers::tsc_aux(),
            live => registers::read(live),
        }
    }

    #[inline(always)]
    fn set(&mut self, state: State, value: u64) {
        let vmcs = &mut self.vmcs;
        match state {
            State::Rip => vmcs.write(f::GUEST_RIP, value),
            State::Rsp => vmcs.write(f::GUEST_RSP, value),
            State::Rflags => vmcs.write(f::GUEST_RFLAGS, value),
            State::Cr0 => {
                vmcs.write(f::CR0_READ_SHADOW, value);
                vmcs.write(f::GUEST_CR0, value | self.cr0_forced);
            }
            State::Cr3 => vmcs.write(f::GUEST_CR3, value),
            State::Cr4 => {
                vmcs.write(f::CR4_READ_SHADOW, value);
                vmcs.write(f::GUEST_CR4, value | self.cr4_forced);
            }
            State::Dr7 => vmcs.write(f::GUEST_DR7, value),
            State::Efer => vmcs.write(f::GUEST_IA32_EFER, value),
            State::FsBase => vmcs.write(f::GUEST_FS_BASE, value),
            State::GsBase => vmcs.write(f::GUEST_GS_BASE, value),
            State::GdtrBase => vmcs.write(f::GUEST_GDTR_BASE, value),
            State::GdtrLimit => vmcs.write(f::GUEST_GDTR_LIMIT, value as u32),
            State::IdtrBase => vmcs.write(f::GUEST_IDTR_BASE, value),
            State::IdtrLimit => vmcs.write(f::GUEST_IDTR_LIMIT, value as u32),
            State::LdtrSelector => vmcs.write(f::GUEST_LDTR_SELECTOR, value as u16),
            State::LdtrBase => vmcs.write(f::GUEST_LDTR_BASE, value),
            State::LdtrLimit => vmcs.write(f::GUEST_LDTR_LIMIT, value as u32),
            State::LdtrRights => vmcs.write(f::GUEST_LDTR_RIGHTS, value as u32),
            State::TrSelector => vmcs.write(f::GUEST_TR_SELECTOR, value as u16),
            State::TrBase => vmcs.write(f::GUEST_TR_BASE, value),
            State::TrLimit => vmcs.write(f::GUEST_TR_LIMIT, value as u32),
            State::TrRights => vmcs.write(f::GUEST_TR_RIGHTS, value as u32),
            State::TscOffset => vmcs.write(f::TSC_OFFSET, value),
            State::SysenterCs => vmcs.write(f::GUEST_IA32_SYSENTER_CS, value as u32),
            State::SysenterEsp => vmcs.write(f::GUEST_IA32_SYSENTER_ESP, value),
            State::SysenterEip => vmcs.write(f::GUEST_IA32_SYSENTER_EIP, value),
            State::CsBase | State::CsRights | State::SsRights | State::InstructionBytes => {
                unreachable!("no instruction that a handler emulates writes this state")
            }
            live => registers::write(live, value),
        }
    }

    #[inline(always)]
    fn uses_quick_forms(&self) -> bool {
        self.long_mode
    }

    #[inline(always)]
    fn quick_step_over(&mut self) {
        self.step_over();
    }

    #[inline(always)]
    fn step_over(&mut self) {
        let bytes = self.vmcs.read_extended(f::EXIT_INSTRUCTION_LENGTH);
        self.vmcs.add(f::GUEST_RIP, bytes);
    }

    #[inline(always)]
    fn ends_plainly(&self) -> bool {
        // Blocking by NMI does not end with the instruction. It is counted in, since one test is less than two.
        self.vmcs.read_extended(f::GUEST_INTERRUPTIBILITY) | self.vmcs.read(f::GUEST_RFLAGS) & RFLAGS_TF == 0
    }

    fn advance(&mut self) {
        self.step_over();
        self.end_instruction();
    }

    #[cold]
    fn advance_by(&mut self, bytes: u8) {
        self.vmcs.add(f::GUEST_RIP, bytes.into());
        self.end_instruction();
    }

    fn keep_single_step(&mut self) {
        let steps = self.vmcs.read(f::GUEST_RFLAGS) & RFLAGS_TF != 0;
        if steps && self.vmcs.read(f::GUEST_INTERRUPTIBILITY) & SHADOW != 0 {
            self.raise_single_step();
        }
    }

    #[cold]
    fn after_failed_entry(&mut self, _registers: &mut GuestRegisters) -> Option<Action> {
        let rip = self.vmcs.read(f::GUEST_RIP);
        let wraps = rip >> 32 != 0 && self.vmcs.read(f::GUEST_CS_RIGHTS) & CODE_64 == 0;
        if wraps {
            self.vmcs.write(f::GUEST_RIP, rip & u64::from(u32::MAX));
        }
        wraps.then_some(Action::Resume)
    }

    fn flush_translations(&mut self, linear: Option<u64>) {
        match (self.vpid, linear) {
            (0, _) => {}
            (vpid, None) => self.vmcs.invalidate_vpid(vpid),
            // INVLPG of a non-canonical address does nothing, and INVVPID of one fails.
            (vpid, Some(linear)) if crate::paging::is_canonical(linear) => self.vmcs.invalidate_address(vpid, linear),
            _ => {}
        }
    }

    #[inline(always)]
    fn map_fresh_page(&mut self, gpa: u64) -> bool {
        self.ept.map_fresh(gpa)
    }

    fn start_up(&mut self, vector: u8) {
        (self.long_mode, self.nmi_window) = (false, false);
        self.watch.halted = false;
        guest_state::write_real_mode(&mut self.vmcs, vector);
        self.set(State::Cr0, guest_state::REAL_MODE_CR0);
        self.set(State::Cr4, 0);
        self.vmcs.write(f::ENTRY_INTERRUPTION_INFORMATION, 0);
        self.flush_translations(None);
    }

    #[inline(always)]
    fn is_in_long_mode(&self) -> bool {
        self.long_mode
    }

    fn enter_long_mode(&mut self) {
        self.long_mode = true;
        let efer = self.vmcs.read(f::GUEST_IA32_EFER);
        self.vmcs.write(f::GUEST_IA32_EFER, efer | EFER_LMA);
        let controls = self.vmcs.read(f::ENTRY_CONTROLS);
        self.vmcs.write(f::ENTRY_CONTROLS, controls | IA_32E_MODE_GUEST);
    }

    fn leave_long_mode(&mut self) {
        self.long_mode = false;
        let efer = self.vmcs.read(f::GUEST_IA32_EFER);
        self.vmcs.write(f::GUEST_IA32_EFER, efer & !EFER_LMA);
        let controls = self.vmcs.read(f::ENTRY_CONTROLS);
        self.vmcs.write(f::ENTRY_CONTROLS, controls & !IA_32E_MODE_GUEST);
    }

    fn set_page_directory_pointers(&mut self, entries: [u64; 4]) {
        let fields = [f::GUEST_PDPTE_0, f::GUEST_PDPTE_1, f::GUEST_PDPTE_2, f::GUEST_PDPTE_3];
        fields.into_iter().zip(entries).for_each(|(field, entry)| self.vmcs.write(field, entry));
    }

    fn set_profile(&mut self, profile: Profile) -> Controls {
        let mut fields = self.control_fields(profile);
        if !self.long_mode {
            fields.entry &= !IA_32E_MODE_GUEST;
        }
        if self.window {
            fields.proc |= INTERRUPT_WINDOW;
        }
        if self.nmi_window {
            fields.proc |= NMI_WINDOW;
        }
        let (cr0, cr4) = (self.get(State::Cr0), self.get(State::Cr4));
        let vmcs = &mut self.vmcs;
        vmcs.write(f::PIN_CONTROLS, fields.pin);
        vmcs.write(f::PROC_CONTROLS, fields.proc);
        vmcs.write(f::PROC2_CONTROLS, fields.proc2);
        vmcs.write(f::EXIT_CONTROLS, fields.exit);
        vmcs.write(f::ENTRY_CONTROLS, fields.entry);
        vmcs.write(f::EXCEPTION_BITMAP, fields.exception_bitmap);
        vmcs.write(f::CR0_MASK, fields.cr0_mask);
        vmcs.write(f::CR4_MASK, fields.cr4_mask);
        // These fields exist with their control: no VM function is enabled, and every leaf of the SGX and MKTME instructions
        // exits.
        for (bit, field, value) in [
            (proc2::ENABLE_VM_FUNCTIONS, f::VM_FUNCTION_CONTROLS, 0),
            (proc2::ENABLE_ENCLS_EXITING, f::ENCLS_EXITING_BITMAP, u64::MAX),
            (proc2::ENABLE_PCONFIG, f::PCONFIG_EXITING_BITMAP, u64::MAX),
            (proc2::ENABLE_ENCLV_EXITING, f::ENCLV_EXITING_BITMAP, u64::MAX),
        ] {
            if fields.proc2 >> bit & 1 != 0 {
                vmcs.write(field, value);
            }
        }
        (self.cr0_mask, self.cr4_mask) = (fields.cr0_mask, fields.cr4_mask);
        self.set(State::Cr0, cr0);
        self.set(State::Cr4, cr4);
        self.virtualized_apic = fields.virtualized_apic();
        if self.virtualized_apic.priority {
            self.vmcs.write(f::TPR_THRESHOLD, 0);
        }
        if self.virtualized_apic.delivery {
            for bitmap in [f::EOI_EXIT_BITMAP_0, f::EOI_EXIT_BITMAP_1, f::EOI_EXIT_BITMAP_2, f::EOI_EXIT_BITMAP_3] {
                self.vmcs.write(bitmap, 0);
            }
            self.vmcs.write(f::GUEST_INTERRUPT_STATUS, 0);
        }
        bitmaps::fill_msr_bitmaps(self.msr_bitmaps, profile, self.virtualized_apic);
        self.controls(profile)
    }
}
