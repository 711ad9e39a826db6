//! Exit qualifications, instruction information and interruption information, decoded (SDM 3C 28.2).

use tollgate_abi::ExitReason;

use crate::exit::{
    CrAccess, DrAccess, Event, EventKind, GuestRegisters, IoAccess, Operand, PhysicalFault, TableInstruction,
};

const fn bit(word: u64, position: u32) -> bool {
    word & 1 << position != 0
}

/// I/O instructions (table 28-5).
#[inline(always)]
pub const fn io_access(qualification: u64) -> IoAccess {
    IoAccess {
        port: (qualification >> 16) as u16,
        bytes: (qualification & 7) as u8 + 1,
        is_in: bit(qualification, 3),
        is_string: bit(qualification, 4),
        is_repeated: bit(qualification, 5),
    }
}

/// Control-register accesses (table 28-3).
pub const fn cr_access(qualification: u64) -> CrAccess {
    let (cr, register) = ((qualification & 15) as u8, (qualification >> 8 & 15) as u8);
    match qualification >> 4 & 3 {
        0 => CrAccess::Write { cr, register },
        1 => CrAccess::Read { cr, register },
        2 => CrAccess::Clts,
        _ => CrAccess::Lmsw { source: (qualification >> 16) as u16 },
    }
}

/// The register of a MOV to CR0: CR number and access type both 0.
#[inline(always)]
pub const fn cr0_write(qualification: u64) -> Option<u8> {
    if qualification & 0x3f == 0 { Some((qualification >> 8 & 15) as u8) } else { None }
}

/// MOV DR (table 28-4).
pub const fn dr_access(qualification: u64) -> DrAccess {
    DrAccess {
        dr: (qualification & 7) as u8,
        register: (qualification >> 8 & 15) as u8,
        is_read: bit(qualification, 4),
    }
}

/// EPT violations (table 28-7).
#[inline(always)]
pub const fn physical_fault(qualification: u64, gpa: u64) -> PhysicalFault {
    PhysicalFault { gpa, read: bit(qualification, 0), write: bit(qualification, 1), fetch: bit(qualification, 2) }
}

/// VM-exit interruption information and IDT-vectoring information (tables 25-18, 25-20) share their layout. Few events have an error
/// code or are an instruction's, so that these fields are only read where they count.
#[inline(always)]
pub fn event(
    information: u32,
    error_code: impl FnOnce() -> u32,
    instruction_bytes: impl FnOnce() -> u32,
) -> Option<Event> {
    if information >> 31 == 0 {
        return None;
    }
    let (kind, is_software) = match information >> 8 & 7 {
        0 => (EventKind::ExternalInterrupt, false),
        2 => (EventKind::Nmi, false),
        4 => (EventKind::SoftwareInterrupt, true),
        5 => (EventKind::PrivilegedSoftwareException, true),
        6 => (EventKind::SoftwareException, true),
        _ => (EventKind::HardwareException, false),
    };
    Some(Event {
        vector: information as u8,
        kind,
        error_code: (information >> 11 & 1 != 0).then(error_code),
        instruction_bytes: if is_software { instruction_bytes() as u8 } else { 0 },
    })
}

/// VM-entry interruption information (table 25-17).
#[inline(always)]
pub const fn entry_information(event: Event) -> u32 {
    event.vector as u32 | (event.kind as u32) << 8 | if event.error_code.is_some() { 1 << 11 } else { 0 } | 1 << 31
}

/// The cause of a failed VM entry, as its exit tells it (SDM 3C 27.8).
pub const fn entry_failure(reason: ExitReason, qualification: u64) -> &'static str {
    match (reason, qualification) {
        (ExitReason::ENTRY_FAILURE_GUEST_STATE, 2) => "a guest page-directory-pointer-table entry is invalid",
        (ExitReason::ENTRY_FAILURE_GUEST_STATE, 3) => {
            "an NMI was to be injected while NMIs are blocked by STI or MOV SS"
        }
        (ExitReason::ENTRY_FAILURE_GUEST_STATE, 4) => "the VMCS link pointer is invalid",
        (ExitReason::ENTRY_FAILURE_GUEST_STATE, _) => {
            "a check of the guest-state area failed; the processor does not say which"
        }
        (ExitReason::ENTRY_FAILURE_MSR_LOADING, _) => {
            "an entry of the VM-entry MSR-load area was refused; the qualification is its position, from 1"
        }
        (ExitReason::ENTRY_FAILURE_MACHINE_CHECK, _) => "a machine check came up",
        _ => "unknown reason",
    }
}

/// The operand of an instruction whose information field has the layout of tables 28-11, 28-12.
struct MemoryOperand(u32);

impl MemoryOperand {
    /// The operand's linear address.
    fn linear(
        &self,
        displacement: u64,
        registers: &mut GuestRegisters,
        rsp: u64,
        segment_base: impl Fn(u8) -> u64,
    ) -> u64 {
        let field = |low: u32, mask: u32| (self.0 >> low & mask) as u8;
        let mut register = |number| registers.by_number(number).map_or(rsp, |register| *register);
        let index = if bit(self.0.into(), 22) { 0 } else { register(field(18, 15)) << field(0, 3) };
        let base = if bit(self.0.into(), 27) { 0 } else { register(field(23, 15)) };
        let address_mask = [0xffff, 0xffff_ffff, u64::MAX, u64::MAX][usize::from(field(7, 3))];
        let offset = base.wrapping_add(index).wrapping_add(displacement) & address_mask;
        offset.wrapping_add(segment_base(field(15, 7)))
    }
}

/// The instruction and operand of an access to GDTR or IDTR (`is_system_table` false) or to LDTR or TR (true).
/// `segment_base` tells the base of ES, CS, SS, DS, FS, GS (0 to 5) in the guest's mode.
pub fn table_access(
    is_system_table: bool,
    information: u32,
    displacement: u64,
    registers: &mut GuestRegisters,
    rsp: u64,
    segment_base: impl Fn(u8) -> u64,
) -> (TableInstruction, Operand) {
    use TableInstruction::*;
    let instruction = match (is_system_table, information >> 28 & 3) {
        (false, 0) => Sgdt,
        (false, 1) => Sidt,
        (false, 2) => Lgdt,
        (false, _) => Lidt,
        (true, 0) => Sldt,
        (true, 1) => Str,
        (true, 2) => Lldt,
        (true, _) => Ltr,
    };
    let operand = if is_system_table && bit(information.into(), 10) {
        Operand::Register((information >> 3 & 15) as u8)
    } else {
        Operand::Memory(MemoryOperand(information).linear(displacement, registers, rsp, segment_base))
    };
    (instruction, operand)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn qualifications_seen_on_bochs_decode() {
        assert_eq!(
            io_access(0x80_0000),
            IoAccess { port: 0x80, bytes: 1, is_in: false, is_string: false, is_repeated: false }
        );
        assert_eq!(
            io_access(0x80_0030),
            IoAccess { port: 0x80, bytes: 1, is_in: false, is_string: true, is_repeated: true }
        );
        assert_eq!(cr_access(0x13), CrAccess::Read { cr: 3, register: 0 });
        assert_eq!(cr_access(0x8), CrAccess::Write { cr: 8, register: 0 });
        assert_eq!((cr0_write(0x300), cr0_write(0x304), cr0_write(0x20)), (Some(3), None, None));
        assert_eq!(cr_access(0x20), CrAccess::Clts);
        assert_eq!(cr_access(0xb_0030), CrAccess::Lmsw { source: 0xb });
        assert_eq!(dr_access(0x17), DrAccess { dr: 7, register: 0, is_read: true });
        assert_eq!(
            physical_fault(0x1aa, 0x80_1000),
            PhysicalFault { gpa: 0x80_1000, read: false, write: true, fetch: false }
        );
        assert!(physical_fault(0x19c, 0).fetch);
        assert_eq!(event(0x8000_0306, || 0, || 2), Some(Event::UNDEFINED_OPCODE));
        assert_eq!(event(0x8000_0202, || 0, || 0).map(|event| event.kind), Some(EventKind::Nmi));
        assert_eq!(event(0x0000_0306, || 0, || 0), None);
    }

    #[test]
    fn table_operands_are_found() {
        let mut registers = GuestRegisters { rax: 0x1000, rcx: 0x10, ..Default::default() };
        let mut find = |system, information| {
            table_access(system, information, 8, &mut registers, 0x7000, |segment| {
                if segment < 4 { 0 } else { u64::from(segment) << 20 }
            })
        };
        // SGDT 8(%rax,%rcx,4), 64-bit addresses, DS
        assert_eq!(find(false, 2 | 2 << 7 | 3 << 15 | 1 << 18), (TableInstruction::Sgdt, Operand::Memory(0x1048)));
        // LIDT %gs:8(%rsp), no index
        assert_eq!(
            find(false, 2 << 7 | 5 << 15 | 1 << 22 | 4 << 23 | 3 << 28),
            (TableInstruction::Lidt, Operand::Memory(0x50_7008))
        );
        // LTR %cx
        assert_eq!(find(true, 1 << 3 | 1 << 10 | 3 << 28), (TableInstruction::Ltr, Operand::Register(1)));
        // STR 8, 32-bit addresses, neither base nor index
        assert_eq!(find(true, 1 << 7 | 1 << 22 | 1 << 27 | 1 << 28), (TableInstruction::Str, Operand::Memory(8)));
    }

    proptest! {
        #[test]
        fn an_injected_event_is_encoded_as_it_was_read(vector in any::<u8>(), kind in prop_oneof![Just(0u32), Just(2), Just(3), Just(4), Just(5), Just(6)], error in any::<Option<u32>>()) {
            let information = u32::from(vector) | kind << 8 | u32::from(error.is_some()) << 11 | 1 << 31;
            let event = event(information, || error.unwrap_or(0), || 2).unwrap();
            prop_assert_eq!(entry_information(event), information);
            prop_assert_eq!(event.error_code, error);
        }

        #[test]
        fn any_information_decodes(information in any::<u32>(), displacement in any::<u64>(), system in any::<bool>()) {
            let _ = table_access(system, information, displacement, &mut GuestRegisters::default(), 0, |_| 0);
        }
    }
}
