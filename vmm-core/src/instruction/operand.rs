//! ModRM, SIB and displacement, and the address that they make (APM 3 1.4, 1.5, 1.7; SDM 2A 2.1.5, 2.2.1).

use super::prefixes::{CodeMode, Prefixes};
use crate::exit::GuestRegisters;

/// A ModRM byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModRm {
    /// The byte itself: mod in bits 7:6, opcode extension in 5:3.
    pub byte: u8,
    /// The register in reg, extended by REX.R.
    pub reg: u8,
    /// The register in rm, extended by REX.B; it has a meaning only without a memory operand.
    pub rm: u8,
    /// The operand in memory, if it is not a register.
    pub memory: Option<MemoryOperand>,
}

/// An operand in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryOperand {
    /// The number of the base register.
    pub base: Option<u8>,
    /// The number of the index register, never RSP's.
    pub index: Option<u8>,
    /// The factor of the index, as a power of two: 0 to 3.
    pub scale: u8,
    /// The displacement, sign-extended.
    pub displacement: i32,
    /// The displacement counts from the next instruction.
    pub is_rip_relative: bool,
    /// The number of its segment; ES, CS, SS, DS, FS, GS are 0 to 5.
    pub segment: u8,
    /// Address size: 2, 4 or 8.
    pub address_bytes: u8,
    /// 64-bit mode; outside of it a linear address has 32 bits.
    pub is_64_bit: bool,
}

const REX_R: u8 = 4;
const REX_X: u8 = 2;
const REX_B: u8 = 1;

const RBX: u8 = 3;
const RSP: u8 = 4;
const RBP: u8 = 5;
const RSI: u8 = 6;
const RDI: u8 = 7;

const SS: u8 = 2;
const DS: u8 = 3;

impl ModRm {
    /// Reads a ModRM that always means registers.
    pub(super) fn read_registers(bytes: &mut impl Iterator<Item = u8>, prefixes: &Prefixes) -> Option<Self> {
        let byte = bytes.next()?;
        let (reg, rm) = (register(byte >> 3, prefixes.rex & REX_R), register(byte, prefixes.rex & REX_B));
        Some(Self { byte, reg, rm, memory: None })
    }

    /// Reads a ModRM, and the bytes that its mod and rm demand.
    pub(super) fn read(
        bytes: &mut impl Iterator<Item = u8>,
        prefixes: &Prefixes,
        address_bytes: u8,
        mode: CodeMode,
    ) -> Option<Self> {
        let mut modrm = Self::read_registers(bytes, prefixes)?;
        if modrm.byte >> 6 == 3 {
            return Some(modrm);
        }
        let mut memory = MemoryOperand {
            base: None,
            index: None,
            scale: 0,
            displacement: 0,
            is_rip_relative: false,
            segment: DS,
            address_bytes,
            is_64_bit: mode == CodeMode::Bits64,
        };
        if address_bytes == 2 {
            memory.read_16_bit(bytes, modrm.byte)?
        } else {
            memory.read(bytes, &modrm, prefixes.rex)?
        }
        if matches!(memory.base, Some(RSP | RBP)) {
            memory.segment = SS;
        }
        memory.segment = prefixes.segment.unwrap_or(memory.segment);
        modrm.memory = Some(memory);
        Some(modrm)
    }
}

impl MemoryOperand {
    /// 16-bit addressing (APM 3 1.4, appendix A; SDM 2A table 2-1).
    fn read_16_bit(&mut self, bytes: &mut impl Iterator<Item = u8>, modrm: u8) -> Option<()> {
        let displacement_bytes = match (modrm >> 6, modrm & 7) {
            (0, 6) => 2,
            (mode, _) => mode,
        };
        (self.base, self.index) = match modrm & 7 {
            0 => (Some(RBX), Some(RSI)),
            1 => (Some(RBX), Some(RDI)),
            2 => (Some(RBP), Some(RSI)),
            3 => (Some(RBP), Some(RDI)),
            4 => (Some(RSI), None),
            5 => (Some(RDI), None),
            6 if modrm >> 6 == 0 => (None, None),
            6 => (Some(RBP), None),
            _ => (Some(RBX), None),
        };
        self.displacement = displacement(bytes, displacement_bytes)?;
        Some(())
    }

    /// 32-bit and 64-bit addressing (APM 3 1.4, appendix A; SDM 2A tables 2-2, 2-3).
    fn read(&mut self, bytes: &mut impl Iterator<Item = u8>, modrm: &ModRm, rex: u8) -> Option<()> {
        let mode = modrm.byte >> 6;
        let mut displacement_bytes = match mode {
            0 | 1 => mode,
            _ => 4,
        };
        self.base = Some(modrm.rm);
        // A special meaning of rm or base holds with REX.B, too (APM 3 1.8.2).
        let has_sib = modrm.byte & 7 == RSP;
        if has_sib {
            let sib = bytes.next()?;
            self.base = Some(register(sib, rex & REX_B));
            self.index = Some(register(sib >> 3, rex & REX_X)).filter(|&index| index != RSP);
            self.scale = sib >> 6;
        }
        if mode == 0 && matches!(self.base, Some(base) if base & 7 == RBP) {
            self.base = None;
            self.is_rip_relative = self.is_64_bit && !has_sib;
            displacement_bytes = 4;
        }
        self.displacement = displacement(bytes, displacement_bytes)?;
        Some(())
    }

    /// Its linear address. `segment_base` tells the base of ES, CS, SS, DS, FS, GS (0 to 5) in the guest's mode: in
    /// 64-bit mode, 0 for the first four.
    pub fn linear_address(
        &self,
        registers: &mut GuestRegisters,
        rsp: u64,
        rip_of_next_instruction: u64,
        segment_base: impl Fn(u8) -> u64,
    ) -> u64 {
        let mut register = |number| registers.by_number(number).map_or(rsp, |register| *register);
        let base = match self.base {
            Some(base) => register(base),
            None if self.is_rip_relative => rip_of_next_instruction,
            None => 0,
        };
        let index = self.index.map_or(0, |index| register(index) << self.scale);
        let offset = base.wrapping_add(index).wrapping_add(self.displacement as u64);
        let address_mask = match self.address_bytes {
            2 => 0xffff,
            4 => 0xffff_ffff,
            _ => u64::MAX,
        };
        let linear = segment_base(self.segment).wrapping_add(offset & address_mask);
        if self.is_64_bit { linear } else { linear & 0xffff_ffff }
    }
}

/// The number of a register: three bits, and the bit of the REX prefix that extends them.
const fn register(low: u8, extension: u8) -> u8 {
    low & 7 | if extension != 0 { 8 } else { 0 }
}

fn displacement(bytes: &mut impl Iterator<Item = u8>, size: u8) -> Option<i32> {
    Some(match size {
        0 => 0,
        1 => i32::from(bytes.next()? as i8),
        2 => i32::from(i16::from_le_bytes([bytes.next()?, bytes.next()?])),
        _ => i32::from_le_bytes([bytes.next()?, bytes.next()?, bytes.next()?, bytes.next()?]),
    })
}

#[cfg(test)]
mod tests {
    use super::CodeMode::*;
    use super::*;
    use crate::instruction::decode::decode;

    const RIP: u64 = 0xffff_ffff_8000_0000;
    const RSP_VALUE: u64 = 0x7000;

    /// Checks the segment of an instruction's operand and its offset there; segments lie 1 MiB apart.
    #[track_caller]
    fn check(bytes: &[u8], mode: CodeMode, segment: u8, offset: u64) {
        let mut registers = GuestRegisters {
            rax: 0x1_0000_1000,
            rbx: 0xfff0,
            rcx: 0x10,
            rbp: 0x300,
            rsi: 0x20,
            rdi: 0x40,
            r12: 0x5000,
            r13: 0x6000,
            ..Default::default()
        };
        let instruction = decode(bytes, mode).expect("it is decoded");
        assert_eq!(usize::from(instruction.length), bytes.len());
        let memory = instruction.modrm.and_then(|modrm| modrm.memory).expect("it is in memory");
        let base = |segment| u64::from(segment) << 20;
        let linear = memory.linear_address(&mut registers, RSP_VALUE, RIP, base);
        assert_eq!((memory.segment, linear), (segment, base(segment) + offset), "{linear:#x}");
    }

    #[test]
    fn addresses_of_64_bits() {
        check(&[0x0f, 0x01, 0x00], Bits64, DS, 0x1_0000_1000); // SGDT (%rax)
        check(&[0x0f, 0x01, 0x44, 0x88, 0xf8], Bits64, DS, 0x1_0000_1038); // -8(%rax,%rcx,4)
        check(&[0x0f, 0x01, 0x80, 0, 1, 0, 0], Bits64, DS, 0x1_0000_1100); // 0x100(%rax)
        check(&[0x0f, 0x01, 0x04, 0x24], Bits64, SS, RSP_VALUE); // (%rsp)
        check(&[0x0f, 0x01, 0x45, 0x08], Bits64, SS, 0x308); // 8(%rbp)
        check(&[0x41, 0x0f, 0x01, 0x04, 0x24], Bits64, DS, 0x5000); // (%r12)
        check(&[0x41, 0x0f, 0x01, 0x45, 0x08], Bits64, DS, 0x6008); // 8(%r13)
        check(&[0x42, 0x0f, 0x01, 0x04, 0x60], Bits64, DS, 0x1_0000_b000); // (%rax,%r12,2)
        check(&[0x0f, 0x01, 0x04, 0x25, 0, 0x10, 0, 0], Bits64, DS, 0x1000); // 0x1000
        check(&[0x41, 0x0f, 0x01, 0x04, 0xcd, 0, 0x10, 0, 0], Bits64, DS, 0x1080); // 0x1000(,%rcx,8), REX.B
        check(&[0x65, 0x0f, 0x01, 0x1c, 0x24], Bits64, 5, RSP_VALUE); // LIDT %gs:(%rsp)
        check(&[0x2e, 0x0f, 0x01, 0x1c, 0x24], Bits64, SS, RSP_VALUE); // the same with CS, which has no effect
        check(&[0x64, 0x36, 0x0f, 0x01, 0x18], Bits64, 4, 0x1_0000_1000); // FS stays, SS has no effect
    }

    #[test]
    fn addresses_from_the_next_instruction() {
        check(&[0x0f, 0x01, 0x05, 0x10, 0, 0, 0], Bits64, DS, RIP + 0x10); // SGDT 0x10(%rip)
        check(&[0x41, 0x0f, 0x01, 0x05, 0xf0, 0xff, 0xff, 0xff], Bits64, DS, RIP - 0x10); // REX.B
        check(&[0x67, 0x0f, 0x01, 0x05, 0x10, 0, 0, 0], Bits64, DS, 0x8000_0010); // 0x10(%eip)
        check(&[0x0f, 0x01, 0x05, 0x10, 0, 0, 0], Bits32, DS, 0x10); // SGDT 0x10
    }

    #[test]
    fn addresses_of_32_bits_wrap() {
        check(&[0x67, 0x0f, 0x01, 0x00], Bits64, DS, 0x1000); // SGDT (%eax)
        check(&[0x0f, 0x01, 0x45, 0x00], Bits32, SS, 0x300); // (%ebp)
        check(&[0x0f, 0x01, 0x0c, 0x2d, 0, 0, 0, 0], Bits32, DS, 0x300); // SIDT (,%ebp)
        check(&[0x26, 0x0f, 0x01, 0x45, 0x00], Bits32, 0, 0x300); // %es:(%ebp)
        check(&[0x67, 0x0f, 0x01, 0x43, 0x01], Bits16, DS, 0xfff1); // 1(%ebx)
        // (%eax) - 0x2000 below 0, and with the segment's base above 4 GiB.
        let instruction = decode(&[0x0f, 0x01, 0x80, 0, 0xe0, 0xff, 0xff], Bits32).unwrap();
        let memory = instruction.modrm.unwrap().memory.unwrap();
        let mut registers = GuestRegisters { rax: 0x1000, ..Default::default() };
        assert_eq!(memory.linear_address(&mut registers, 0, 0, |_| 0), 0xffff_f000);
        assert_eq!(memory.linear_address(&mut registers, 0, 0, |_| 0x3000), 0x2000);
    }

    #[test]
    fn addresses_of_16_bits_wrap() {
        check(&[0x0f, 0x01, 0x00], Bits16, DS, 0x0010); // SGDT (%bx,%si)
        check(&[0x0f, 0x01, 0x41, 0xff], Bits16, DS, 0x002f); // -1(%bx,%di)
        check(&[0x0f, 0x01, 0x82, 0, 0x10], Bits16, SS, 0x1320); // 0x1000(%bp,%si)
        check(&[0x0f, 0x01, 0x03], Bits16, SS, 0x340); // (%bp,%di)
        check(&[0x0f, 0x01, 0x04], Bits16, DS, 0x20); // (%si)
        check(&[0x0f, 0x01, 0x05], Bits16, DS, 0x40); // (%di)
        check(&[0x0f, 0x01, 0x06, 0x34, 0x12], Bits16, DS, 0x1234); // 0x1234
        check(&[0x0f, 0x01, 0x46, 0x00], Bits16, SS, 0x300); // (%bp)
        check(&[0x67, 0x0f, 0x01, 0x07], Bits32, DS, 0xfff0); // (%bx)
        check(&[0x67, 0x2e, 0x0f, 0x01, 0x07], Bits32, 1, 0xfff0); // %cs:(%bx)
    }
}
