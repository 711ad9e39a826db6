//! Facts about an exit: VM-exit information fields (SDM 3C 25.9).

use tollgate_abi::ExitReason;
use tollgate_abi::x86::control::RIGHTS_LONG;

use super::capability::Capabilities;
use super::field as f;
use super::{Vmx, entry_checks, qualification};
use crate::exit::{
    Backend, CrAccess, DrAccess, Event, ExitFacts, ExitNumber, GuestRegisters, IoAccess, Numbers, Operand,
    PhysicalFault, RawReason, TableInstruction,
};

/// CS access rights: L, 64-bit code.
const CODE_64: u32 = RIGHTS_LONG as u32;

impl Vmx {
    /// The event of this VM-exit interruption information.
    #[inline(always)]
    pub(super) fn event_of(&self, information: u32) -> Option<Event> {
        qualification::event(
            information,
            || self.vmcs.read(f::EXIT_INTERRUPTION_ERROR_CODE),
            || self.vmcs.read(f::EXIT_INSTRUCTION_LENGTH),
        )
    }
}

impl ExitFacts for Vmx {
    const NUMBERS: Numbers = Numbers::REASONS;

    #[inline(always)]
    fn number(&self) -> ExitNumber {
        ExitNumber(self.vmcs.read_extended(f::EXIT_REASON))
    }

    #[inline(always)]
    fn confirms(&self, _: ExitReason) -> bool {
        true
    }

    #[inline(always)]
    fn common_reason(&self, number: ExitNumber) -> Option<RawReason> {
        Some(RawReason(number.0 as u32))
    }

    #[inline(always)]
    fn uncommon_reason(&self, number: ExitNumber) -> RawReason {
        RawReason(number.0 as u32)
    }

    #[inline(always)]
    fn qualification(&self) -> u64 {
        self.vmcs.read(f::EXIT_QUALIFICATION)
    }

    #[inline(always)]
    fn io_access(&self) -> IoAccess {
        qualification::io_access(self.qualification())
    }

    fn string_io_segment_base(&self, offset: u64) -> u64 {
        self.vmcs.read(f::GUEST_LINEAR_ADDRESS).wrapping_sub(offset)
    }

    fn string_io_address_bytes(&self) -> u8 {
        2 << (self.vmcs.read(f::EXIT_INSTRUCTION_INFORMATION) >> 7 & 7).min(2)
    }

    #[inline(always)]
    fn cr0_write(&mut self) -> Option<u8> {
        qualification::cr0_write(self.qualification())
    }

    #[inline(always)]
    fn told_cr_access(&mut self) -> Option<CrAccess> {
        Some(qualification::cr_access(self.qualification()))
    }

    fn cr_access(&self, _: &mut GuestRegisters) -> CrAccess {
        qualification::cr_access(self.qualification())
    }

    #[inline(always)]
    fn told_dr_access(&mut self) -> Option<DrAccess> {
        Some(self.dr_access())
    }

    #[inline(always)]
    fn dr_access(&self) -> DrAccess {
        qualification::dr_access(self.qualification())
    }

    fn table_access(&self, registers: &mut GuestRegisters) -> (TableInstruction, Operand) {
        let is_system_table = self.exit_reason().basic() == ExitReason::LDTR_TR_ACCESS;
        let in_64_bit_mode = self.vmcs.read(f::GUEST_CS_RIGHTS) & CODE_64 != 0;
        let bases = [
            f::GUEST_ES_BASE,
            f::GUEST_CS_BASE,
            f::GUEST_SS_BASE,
            f::GUEST_DS_BASE,
            f::GUEST_FS_BASE,
            f::GUEST_GS_BASE,
        ];
        let segment_base = |segment: u8| match bases.get(usize::from(segment)) {
            Some(&base) if segment >= 4 || !in_64_bit_mode => self.vmcs.read(base),
            _ => 0,
        };
        let information = self.vmcs.read(f::EXIT_INSTRUCTION_INFORMATION);
        qualification::table_access(
            is_system_table,
            information,
            self.qualification(),
            registers,
            self.vmcs.read(f::GUEST_RSP),
            segment_base,
        )
    }

    #[inline(always)]
    fn fault_gpa(&self) -> u64 {
        self.vmcs.read(f::GUEST_PHYSICAL_ADDRESS)
    }

    #[inline(always)]
    fn physical_fault(&self) -> PhysicalFault {
        qualification::physical_fault(self.qualification(), self.vmcs.read(f::GUEST_PHYSICAL_ADDRESS))
    }

    fn is_rdtscp(&self) -> bool {
        false
    }

    #[inline(always)]
    fn told_invalidated_address(&self) -> Option<u64> {
        Some(self.qualification())
    }

    fn invalidated_address(&self, _: &mut GuestRegisters) -> u64 {
        self.qualification()
    }

    fn exit_event(&self) -> Option<Event> {
        self.event_of(self.vmcs.read(f::EXIT_INTERRUPTION_INFORMATION))
    }

    #[inline(always)]
    fn vectoring_event(&self) -> Option<Event> {
        let information = self.vmcs.read(f::IDT_VECTORING_INFORMATION);
        if information >> 31 == 0 {
            return None;
        }
        qualification::event(
            information,
            || self.vmcs.read(f::IDT_VECTORING_ERROR_CODE),
            || self.vmcs.read(f::EXIT_INSTRUCTION_LENGTH),
        )
    }

    #[inline(always)]
    fn was_delivering(&self) -> bool {
        self.vectoring_event().is_some()
    }

    fn entry_failure(&self) -> &'static str {
        let raw = self.exit_reason();
        let told = qualification::entry_failure(raw.basic(), self.qualification());
        if raw.basic() != ExitReason::ENTRY_FAILURE_GUEST_STATE || self.qualification() != 0 {
            return told;
        }
        let Capabilities { cr0_fixed0, cr0_fixed1, cr4_fixed0, cr4_fixed1, .. } = self.capabilities;
        let read = |encoding| self.vmcs.read_encoding(encoding);
        let area = entry_checks::GuestArea {
            read,
            physical_bits: self.physical_bits,
            cr0_fixed: (cr0_fixed0, cr0_fixed1),
            cr4_fixed: (cr4_fixed0, cr4_fixed1),
        };
        area.first_failure().unwrap_or(told)
    }
}
