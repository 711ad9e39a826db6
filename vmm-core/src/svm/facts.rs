//! Facts about an exit: the exit code and its information (APM 2 15.6), and the facts that the instruction's bytes tell.

use tollgate_abi::ExitReason;
use tollgate_abi::svm_exit::{self, code};
use tollgate_abi::x86::control::{DR6_BD, DR6_BREAKPOINTS, DR6_BS, RIGHTS_DEFAULT_BIG, RIGHTS_LONG};

use super::code_page::CodePage;
use super::exit_information as information;
use super::vmcb::{self as f, Segment};
use super::{Svm, entry_checks};
use crate::exit::{
    Backend, CrAccess, DrAccess, Event, EventKind, ExitFacts, ExitNumber, FIRST_NUMBERS, GuestRegisters, GuestState,
    IoAccess, Numbers, Operand, PhysicalFault, RawReason, State, TableInstruction,
};
use crate::instruction::decode::{Instruction, MAX_BYTES, decode};
use crate::instruction::prefixes::CodeMode;
use crate::paging;

/// DR6 bits that tell the causes of a #DB, which the processor has set in the saved DR6 (APM 2 15.12.2).
const DR6_CAUSES: u64 = DR6_BREAKPOINTS | DR6_BD | DR6_BS;
/// EXITINFO1 of a control-register write, with decode assists: it is a MOV, from the register in bits 3:0.
const IS_MOV: u64 = 1 << 63;

/// Segment registers by the number in instructions, ES first.
const SEGMENTS: [Segment; 6] = [f::ES, f::CS, f::SS, f::DS, f::FS, f::GS];

impl Svm {
    /// A virtual interrupt that was injected and not taken, because a physical event came first.
    #[inline(always)]
    fn waiting_interrupt(&self) -> Option<Event> {
        if !self.injects_virtual_interrupts() {
            return None;
        }
        let interrupt = self.vmcb.get(f::VIRTUAL_INTERRUPT);
        let vector = (interrupt >> f::V_INTR_VECTOR_SHIFT) as u8;
        (interrupt & f::V_IRQ != 0).then(|| Event::interrupt(vector))
    }

    #[inline(always)]
    pub(super) fn code(&self) -> u32 {
        self.vmcb.get(f::EXITCODE) as u32
    }

    /// The instruction at RIP.
    #[cold]
    #[inline(never)]
    pub(super) fn instruction(&self) -> Option<Instruction> {
        let rights = self.get(State::CsRights);
        let mode = match (rights & RIGHTS_LONG != 0 && self.long_mode, rights & RIGHTS_DEFAULT_BIG != 0) {
            (true, _) => CodeMode::Bits64,
            (false, true) => CodeMode::Bits32,
            (false, false) => CodeMode::Bits16,
        };
        if mode == CodeMode::Bits64
            && let Some(bytes) = self.code_in_one_page()
        {
            return decode(&bytes, mode);
        }
        let base = if mode == CodeMode::Bits64 { 0 } else { self.vmcb.get(f::CS.base()) };
        let mut bytes = [0; MAX_BYTES];
        let linear = base.wrapping_add(self.vmcb.get(f::RIP));
        let read = paging::fetch(self, &mut self.memory.share(), self.physical_bits, linear, &mut bytes);
        decode(&bytes[..read], mode)
    }

    /// The bytes from RIP on, in 64-bit mode, if as many as an instruction may have lie in one page. The place of the page is noted, for
    /// the next look and for `peek`.
    fn code_in_one_page(&self) -> Option<[u8; MAX_BYTES]> {
        let (rip, cr3) = (self.vmcb.get(f::RIP), self.vmcb.get(f::CR3));
        let noted = self.code_page.get().and_then(|page| page.read(rip, cr3));
        if noted.is_some() {
            return noted;
        }
        let (gpa, path) = paging::path_to(self, &mut self.memory.share(), self.physical_bits, rip)?;
        let page = CodePage::new(rip, cr3, gpa, path, &self.memory);
        self.code_page.set(page);
        page?.read(rip, cr3)
    }

    /// The RIP behind the instruction that exited.
    #[inline(always)]
    pub(super) fn next_rip(&self) -> u64 {
        if self.capabilities.next_rip { self.vmcb.get(f::NRIP) } else { self.computed_next_rip() }
    }

    #[cold]
    #[inline(never)]
    fn computed_next_rip(&self) -> u64 {
        // IOIO tells the next RIP on every processor (APM 2 15.10.2).
        if self.exit_reason().basic() == ExitReason::IO_INSTRUCTION {
            return self.vmcb.get(f::EXITINFO2);
        }
        let bytes = self.instruction().map_or(0, |instruction| instruction.length);
        let next = self.vmcb.get(f::RIP).wrapping_add(bytes.into());
        // The sum wraps if RIP has 32 bits.
        if self.get(State::CsRights) & RIGHTS_LONG != 0 { next } else { next & u64::from(u32::MAX) }
    }

    /// The base of a segment in the guest's mode.
    fn segment_base(&self, number: u8) -> u64 {
        let in_64_bit_mode = self.get(State::CsRights) & RIGHTS_LONG != 0;
        match number {
            4 => self.get(State::FsBase),
            5 => self.get(State::GsBase),
            0..4 if !in_64_bit_mode => self.vmcb.get(SEGMENTS[usize::from(number)].base()),
            _ => 0,
        }
    }

    /// The register of a MOV to CR0 that 64-bit code begins with, if the place of the code is known.
    #[inline(always)]
    pub(super) fn cr0_write_by_code(&mut self) -> Option<u8> {
        mov_to_cr0(self.peek()?)
    }

    /// The first four bytes of the instruction at RIP, if it is 64-bit code whose place is known.
    #[inline(always)]
    fn peek(&mut self) -> Option<u32> {
        let vmcb = self.vmcb;
        if vmcb.part(f::CS.attributes()) & f::ATTRIBUTE_LONG == 0 {
            return None;
        }
        self.code_page.get_mut().as_ref()?.peek(vmcb.get(f::RIP), vmcb.get(f::CR3))
    }

    pub(super) fn named_failure(&self) -> Option<&'static str> {
        entry_checks::first_failure(self.vmcb, self.physical_bits)
    }

    /// The event whose delivery the exit interrupted. For an injected software exception, RIP is behind its instruction. It goes
    /// back to the instruction, as for one of the guest's own, in case another event is to be delivered first.
    #[cold]
    #[inline(never)]
    fn interrupted_event(&self, information: u64) -> Option<Event> {
        let (rip, bytes) = (self.software_rip, self.software_bytes);
        let at = self.vmcb.get(f::RIP);
        let is_here = at == rip || at == rip.wrapping_add(bytes.into());
        if bytes == 0 || !is_here || !information::is_software_exception(information) {
            return information::vectoring_event(information);
        }
        self.vmcb.set(f::RIP, rip);
        let event = Event::exception(information as u8);
        Some(Event { kind: EventKind::SoftwareException, instruction_bytes: bytes, ..event })
    }

    /// The value of LMSW's source operand.
    fn lmsw_source(&self, instruction: &Instruction, registers: &mut GuestRegisters) -> u16 {
        let rsp = self.vmcb.get(f::RSP);
        let operand = instruction.operand(registers, rsp, self.next_rip(), |segment| self.segment_base(segment));
        match operand {
            Some(Operand::Register(number)) => registers.by_number(number).map_or(rsp, |register| *register) as u16,
            Some(Operand::Memory(linear)) => {
                let mut bytes = [0; 2];
                paging::fetch(self, &mut self.memory.share(), self.physical_bits, linear, &mut bytes);
                u16::from_le_bytes(bytes)
            }
            None => 0,
        }
    }
}

impl ExitFacts for Svm {
    const NUMBERS: Numbers = {
        let (mut first, mut code) = ([ExitReason::EXCEPTION_OR_NMI; FIRST_NUMBERS], 0);
        while code < first.len() {
            first[code] = svm_exit::dense_reason(code as u32);
            code += 1;
        }
        Numbers {
            first,
            far: Some((code::NPF as u64, ExitReason::EPT_VIOLATION)),
            otherwise: Some((ExitReason::RDMSR, ExitReason::WRMSR)),
        }
    };

    #[inline(always)]
    fn number(&self) -> ExitNumber {
        ExitNumber(self.vmcb.get(f::EXITCODE))
    }

    #[inline(always)]
    fn confirms(&self, reason: ExitReason) -> bool {
        svm_exit::confirms(reason, || self.vmcb.get(f::EXITINFO1))
    }

    #[inline(always)]
    fn common_reason(&self, number: ExitNumber) -> Option<RawReason> {
        let reason = svm_exit::common_reason(number.0 as u32, || self.vmcb.get(f::EXITINFO1));
        reason.map(|reason| RawReason(reason.0.into()))
    }

    #[cold]
    #[inline(never)]
    fn uncommon_reason(&self, number: ExitNumber) -> RawReason {
        let code = number.0 as u32;
        let failed = if code == svm_exit::INVALID { 1 << 31 } else { 0 };
        RawReason(failed | u32::from(svm_exit::reason(code, self.vmcb.get(f::EXITINFO1)).0))
    }

    fn qualification(&self) -> u64 {
        match self.code() {
            information::PF => self.vmcb.get(f::EXITINFO2),
            information::DB => self.vmcb.get(f::DR6) & DR6_CAUSES,
            _ => self.vmcb.get(f::EXITINFO1),
        }
    }

    #[inline(always)]
    fn io_access(&self) -> IoAccess {
        information::io_access(self.vmcb.get(f::EXITINFO1))
    }

    fn string_io_segment_base(&self, _: u64) -> u64 {
        const ES: u8 = 0;
        const DS: u8 = 3;
        if self.io_access().is_in {
            return self.segment_base(ES);
        }
        let segment = self.instruction().and_then(|instruction| instruction.segment_override).unwrap_or(DS);
        self.segment_base(segment)
    }

    fn string_io_address_bytes(&self) -> u8 {
        information::string_io_address_bytes(self.vmcb.get(f::EXITINFO1))
            .unwrap_or_else(|| self.instruction().map_or(8, |instruction| instruction.address_bytes))
    }

    #[inline(always)]
    fn cr0_write(&mut self) -> Option<u8> {
        if self.code() != code::CR0_WRITE {
            return None;
        }
        // Without decode assists, bit 63 is reserved.
        if !self.capabilities.decode_assists {
            return self.cr0_write_by_code();
        }
        let information = self.vmcb.get(f::EXITINFO1);
        (information & IS_MOV != 0).then_some(information as u8 & 15)
    }

    fn told_cr_access(&mut self) -> Option<CrAccess> {
        let (code, moves) = (self.code(), mov_of_special(self.peek()?)?);
        // The exit code names the register, even if the instruction's bytes have changed meanwhile.
        if moves.is_debug || u32::from(moves.special) != code & 15 || moves.is_read != (code < code::CR0_WRITE) {
            return None;
        }
        let (cr, register) = (moves.special, moves.general);
        Some(if moves.is_read { CrAccess::Read { cr, register } } else { CrAccess::Write { cr, register } })
    }

    fn cr_access(&self, registers: &mut GuestRegisters) -> CrAccess {
        let instruction = self.instruction();
        let access =
            instruction.and_then(|instruction| instruction.cr_access(|| self.lmsw_source(&instruction, registers)));
        // The exit code names the register, even if the instruction's bytes have changed meanwhile.
        access.unwrap_or(match self.code() {
            code @ code::CR0_READ..=code::CR15_READ => CrAccess::Read { cr: code as u8, register: 0 },
            code => CrAccess::Write { cr: code as u8 & 15, register: 0 },
        })
    }

    fn told_dr_access(&mut self) -> Option<DrAccess> {
        let (code, moves) = (self.code(), mov_of_special(self.peek()?)?);
        let is_it = moves.is_debug && u32::from(moves.special) == code & 15;
        (is_it && moves.is_read == (code < code::DR0_WRITE)).then_some(DrAccess {
            dr: moves.special,
            register: moves.general,
            is_read: moves.is_read,
        })
    }

    fn dr_access(&self) -> DrAccess {
        let code = self.code();
        let access = self.instruction().and_then(|instruction| instruction.dr_access());
        access.unwrap_or(DrAccess { dr: code as u8 & 7, register: 0, is_read: code < code::DR0_WRITE })
    }

    fn table_access(&self, registers: &mut GuestRegisters) -> (TableInstruction, Operand) {
        let rsp = self.vmcb.get(f::RSP);
        let access = self.instruction().and_then(|instruction| {
            instruction.table_instruction(registers, rsp, self.next_rip(), |segment| self.segment_base(segment))
        });
        access.unwrap_or((TableInstruction::Sgdt, Operand::Register(0)))
    }

    #[inline(always)]
    fn fault_gpa(&self) -> u64 {
        self.vmcb.get(f::EXITINFO2)
    }

    #[inline(always)]
    fn physical_fault(&self) -> PhysicalFault {
        information::physical_fault(self.vmcb.get(f::EXITINFO1), self.vmcb.get(f::EXITINFO2))
    }

    fn is_rdtscp(&self) -> bool {
        const RDTSC: u32 = 0x0f31;
        self.capabilities.facts.is_qemu && self.instruction().is_some_and(|instruction| instruction.opcode != RDTSC)
    }

    #[inline(always)]
    fn told_invalidated_address(&self) -> Option<u64> {
        self.capabilities.decode_assists.then(|| self.vmcb.get(f::EXITINFO1))
    }

    fn invalidated_address(&self, registers: &mut GuestRegisters) -> u64 {
        if let Some(told) = self.told_invalidated_address() {
            return told;
        }
        let rsp = self.vmcb.get(f::RSP);
        let operand = self.instruction().and_then(|instruction| {
            instruction.operand(registers, rsp, self.next_rip(), |segment| self.segment_base(segment))
        });
        match operand {
            Some(Operand::Memory(linear)) => linear,
            _ => 0,
        }
    }

    fn exit_event(&self) -> Option<Event> {
        let bytes = || self.instruction().map_or(1, |instruction| instruction.length);
        information::event(self.code(), self.vmcb.get(f::EXITINFO1), bytes)
    }

    #[inline(always)]
    fn vectoring_event(&self) -> Option<Event> {
        self.waiting_interrupt().or_else(|| {
            let information = self.vmcb.get(f::EXITINTINFO);
            if information::is_valid(information) { self.interrupted_event(information) } else { None }
        })
    }

    #[inline(always)]
    fn was_delivering(&self) -> bool {
        self.waiting_interrupt().is_some() || information::is_valid(self.vmcb.get(f::EXITINTINFO))
    }

    fn entry_failure(&self) -> &'static str {
        self.named_failure().unwrap_or("the state is invalid for VMRUN")
    }
}

/// The register that a MOV to CR0 reads, if 64-bit code begins with one and without any prefix but REX (APM 3, MOV CRn: mod is
/// ignored).
#[inline(always)]
const fn mov_to_cr0(code: u32) -> Option<u8> {
    const REX: u32 = 0x40;
    const REX_R: u32 = 4;
    const REX_B: u32 = 1;
    const fn is_one(opcode: u32) -> bool {
        opcode & 0x38_ffff == 0x220f
    }
    if is_one(code) {
        return Some((code >> 16) as u8 & 7);
    }
    if code & (0xf0 | REX_R) == REX && is_one(code >> 8) {
        return Some((code >> 24) as u8 & 7 | ((code & REX_B) << 3) as u8);
    }
    None
}

/// A MOV between a general-purpose register and a control or debug register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MovOfSpecial {
    /// The number of the control or debug register.
    special: u8,
    is_debug: bool,
    /// The number of the general-purpose register.
    general: u8,
    /// To the general-purpose register.
    is_read: bool,
}

/// The MOV that 64-bit code begins with, if it begins with one and without any prefix but REX (APM 3, MOV CRn, MOV DRn: mod is
/// ignored).
#[inline(always)]
const fn mov_of_special(code: u32) -> Option<MovOfSpecial> {
    const REX: u32 = 0x40;
    let (rex, code) = if code & 0xf0 == REX { (code & 0xf, code >> 8) } else { (0, code) };
    // 0F 20 to 0F 23: bit 8 for debug registers, bit 9 for writes.
    if code & 0xfcff != 0x200f {
        return None;
    }
    let modrm = code >> 16;
    Some(MovOfSpecial {
        special: (modrm >> 3 & 7 | (rex & 4) << 1) as u8,
        is_debug: code & 1 << 8 != 0,
        general: (modrm & 7 | (rex & 1) << 3) as u8,
        is_read: code & 1 << 9 == 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn moves_of_special_registers_are_known_by_their_bytes() {
        let check = |bytes: [u8; 4], expected: Option<(u8, bool, u8, bool)>| {
            let expected = expected.map(|(special, is_debug, general, is_read)| MovOfSpecial {
                special,
                is_debug,
                general,
                is_read,
            });
            assert_eq!(mov_of_special(u32::from_le_bytes(bytes)), expected, "{bytes:x?}");
        };
        check([0x0f, 0x20, 0xd9, 0x90], Some((3, false, 1, true))); // mov rcx, cr3
        check([0x0f, 0x22, 0xdf, 0x90], Some((3, false, 7, false))); // mov cr3, rdi
        check([0x44, 0x0f, 0x22, 0xc0], Some((8, false, 0, false))); // mov cr8, rax
        check([0x45, 0x0f, 0x20, 0xc7], Some((8, false, 15, true))); // mov r15, cr8
        check([0x0f, 0x21, 0xf8, 0x90], Some((7, true, 0, true))); // mov rax, dr7
        check([0x41, 0x0f, 0x23, 0xc1], Some((0, true, 9, false))); // mov dr0, r9
        check([0x0f, 0x24, 0xc0, 0x90], None);
        check([0x0f, 0xa2, 0xc0, 0x90], None); // cpuid
        check([0xf0, 0x0f, 0x22, 0xc0], None); // with LOCK it is CR8's on some processors
        check([0x66, 0x0f, 0x22, 0xc0], None);
    }

    proptest! {
        #[test]
        fn a_mov_to_cr0_is_the_same_by_either_look(rex in prop_oneof![Just(None), (0x40..0x50u8).prop_map(Some)], opcode in 0x1e..0x26u8, modrm in any::<u8>()) {
            let code = match rex {
                Some(rex) => [rex, 0x0f, opcode, modrm],
                None => [0x0f, opcode, modrm, 0x90],
            };
            let code = u32::from_le_bytes(code);
            let is_it = |found: &MovOfSpecial| found.special == 0 && !found.is_debug && !found.is_read;
            prop_assert_eq!(mov_to_cr0(code), mov_of_special(code).filter(is_it).map(|found| found.general));
        }
    }

    #[test]
    fn mov_to_cr0_is_known_by_its_bytes() {
        let check = |bytes: [u8; 4], expected| {
            assert_eq!(mov_to_cr0(u32::from_le_bytes(bytes)), expected, "{bytes:x?}");
        };
        check([0x0f, 0x22, 0xc3, 0x90], Some(3));
        check([0x0f, 0x22, 0x03, 0x90], Some(3));
        check([0x41, 0x0f, 0x22, 0xc6], Some(14));
        check([0x48, 0x0f, 0x22, 0xc0], Some(0));
        // CR8, CR4, a read, another prefix.
        check([0x44, 0x0f, 0x22, 0xc0], None);
        check([0x0f, 0x22, 0xe0, 0x90], None);
        check([0x0f, 0x20, 0xc0, 0x90], None);
        check([0xf0, 0x0f, 0x22, 0xc0], None);
    }
}
