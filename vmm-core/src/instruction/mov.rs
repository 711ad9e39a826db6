//! Moves between a register and memory, as a driver accesses the registers of a memory-mapped device (APM 3, MOV, MOVZX; SDM 2B).
//!
//! An exit for a page that is not there tells the address, so that the operand in memory need not be computed. Other instructions
//! with such an operand are not decoded.

use super::decode::MAX_BYTES;
use super::operand::ModRm;
use super::prefixes::{CodeMode, Prefixes};

/// A move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mov {
    /// Length in bytes, 1 to 15.
    pub length: u8,
    /// Bytes in memory: 1, 2, 4 or 8.
    pub bytes: u8,
    /// The end that is not in memory.
    pub other: Other,
    /// It reads memory.
    pub is_read: bool,
}

/// The end of a move that is not in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// A register, by number, of so many bytes. More than are in memory, if zeros are put before those.
    Register {
        /** The register's number; 4 is RSP. */
        number: u8,
        /** Its bytes: 1, 2, 4 or 8. */
        bytes: u8,
    },
    /// The second byte of one of the first four registers: AH, CH, DH, BH.
    HighByte(u8),
    /// An immediate, sign-extended.
    Immediate(u64),
}

/// Decodes the move at the start of `bytes`; the bytes behind it do not matter.
///
/// `None` if it is none, or if it does not end within `bytes`, or within 15 bytes.
pub fn decode(bytes: &[u8], mode: CodeMode) -> Option<Mov> {
    let bytes = bytes.get(..MAX_BYTES).unwrap_or(bytes);
    let mut rest = bytes.iter().copied();
    let (prefixes, first) = Prefixes::read(&mut rest, mode)?;
    // LOCK is #UD; REP and REPNE have a meaning for transactions alone.
    if prefixes.lock || prefixes.repeat != 0 {
        return None;
    }
    let (operand_bytes, address_bytes) = (prefixes.operand_bytes(mode), prefixes.address_bytes(mode));
    let width = |opcode: u8| if opcode & 1 == 0 { 1 } else { operand_bytes };
    let (width, register_bytes, is_read, other) = match first {
        0x88..=0x8b => (width(first), width(first), first >= 0x8a, None),
        0xa0..=0xa3 => {
            (0..address_bytes).try_for_each(|_| rest.next().map(drop))?;
            (width(first), width(first), first < 0xa2, Some(register(0, width(first), &prefixes)))
        }
        0xc6 | 0xc7 => (width(first), 0, false, None),
        0x0f => match rest.next()? {
            second @ (0xb6 | 0xb7) => (second - 0xb5, operand_bytes, true, None),
            _ => return None,
        },
        _ => return None,
    };
    let other = match other {
        Some(other) => other,
        None => {
            let modrm = ModRm::read(&mut rest, &prefixes, address_bytes, mode)?;
            modrm.memory?;
            match first {
                0xc6 | 0xc7 if modrm.byte >> 3 & 7 == 0 => Other::Immediate(immediate(&mut rest, width.min(4))?),
                0xc6 | 0xc7 => return None,
                _ => register(modrm.reg, register_bytes, &prefixes),
            }
        }
    };
    Some(Mov { length: (bytes.len() - rest.len()) as u8, bytes: width, other, is_read })
}

fn register(number: u8, bytes: u8, prefixes: &Prefixes) -> Other {
    // Without REX, numbers 4 to 7 of one byte are the second bytes of the first four registers (APM 3 1.4.1).
    if bytes == 1 && prefixes.rex == 0 && number >= 4 {
        return Other::HighByte(number - 4);
    }
    Other::Register { number, bytes }
}

fn immediate(bytes: &mut impl Iterator<Item = u8>, width: u8) -> Option<u64> {
    let mut value = 0;
    for at in 0..width {
        value |= u64::from(bytes.next()?) << (8 * at);
    }
    let unused = 64 - 8 * u32::from(width);
    Some(((value << unused) as i64 >> unused) as u64)
}

#[cfg(test)]
mod tests {
    use super::CodeMode::*;
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
    use proptest::prelude::*;

    #[test]
    fn moves_of_linuxs_drivers() {
        let of = |number, bytes| Other::Register { number, bytes };
        for (code, length, bytes, other, is_read) in [
            // native_apic_mem_read: mov eax, [rdi - 0xa05000]
            (&[0x8b, 0x87, 0, 0xb0, 0x5f, 0xff][..], 6, 4, of(0, 4), true),
            // native_apic_mem_write: mov [rdi - 0xa05000], esi
            (&[0x89, 0xb7, 0, 0xb0, 0x5f, 0xff], 6, 4, of(6, 4), false),
            // mov dword ptr [0xffffffffff5fb0b0], 0: the EOI
            (&[0xc7, 0x04, 0x25, 0xb0, 0xb0, 0x5f, 0xff, 0, 0, 0, 0], 11, 4, Other::Immediate(0), false),
            // mov r12d, [rax + 0x10]; mov [rax], dh; mov [rax], sil; movzx edx, byte ptr [rax]
            (&[0x44, 0x8b, 0x60, 0x10], 4, 4, of(12, 4), true),
            (&[0x88, 0x30], 2, 1, Other::HighByte(2), false),
            (&[0x40, 0x88, 0x30], 3, 1, of(6, 1), false),
            (&[0x0f, 0xb6, 0x10], 3, 1, of(2, 4), true),
            // mov qword ptr [rax], -1
            (&[0x48, 0xc7, 0x00, 0xff, 0xff, 0xff, 0xff], 7, 8, Other::Immediate(u64::MAX), false),
        ] {
            let followed = [code, &[0x90; 4]].concat();
            assert_eq!(decode(&followed, Bits64), Some(Mov { length, bytes, other, is_read }), "{code:02x?}");
            assert!((0..code.len()).all(|cut| decode(&code[..cut], Bits64).is_none()), "{code:02x?}");
        }
        for other in [&[0x8b, 0xc0][..], &[0xf0, 0x89, 0x00], &[0xf3, 0x89, 0x00], &[0x01, 0x00], &[0xc7, 0x48, 0, 0]] {
            assert_eq!(decode(&[other, &[0; 8]].concat(), Bits64), None, "{other:02x?}");
        }
    }

    /// The same move by iced's decoder.
    fn theirs(instruction: &Instruction) -> Option<Mov> {
        let movzx = instruction.mnemonic() == Mnemonic::Movzx;
        let memory = (0..instruction.op_count()).find(|&at| instruction.op_kind(at) == OpKind::Memory)?;
        if !movzx && instruction.mnemonic() != Mnemonic::Mov
            || instruction.has_rep_prefix()
            || instruction.has_repne_prefix()
        {
            return None;
        }
        let other = match instruction.op_kind(1 - memory) {
            OpKind::Register => {
                let register = instruction.op_register(1 - memory);
                match register {
                    Register::AH | Register::CH | Register::DH | Register::BH => {
                        Other::HighByte(register.full_register().number() as u8)
                    }
                    register if register.is_gpr() => Other::Register {
                        number: register.full_register().number() as u8,
                        bytes: register.size() as u8,
                    },
                    _ => return None,
                }
            }
            _ => Other::Immediate(match instruction.memory_size().size() {
                1 => instruction.immediate(1 - memory) as i8 as u64,
                2 => instruction.immediate(1 - memory) as i16 as u64,
                4 => instruction.immediate(1 - memory) as i32 as u64,
                _ => instruction.immediate(1 - memory),
            }),
        };
        let bytes = instruction.memory_size().size() as u8;
        Some(Mov { length: instruction.len() as u8, bytes, other, is_read: memory == 1 })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8192))]

        #[test]
        fn iced_agrees(
            prefixes in prop::collection::vec(prop::sample::select(&[0x64u8, 0x66, 0x67, 0x41, 0x44, 0x48, 0x40][..]), 0..4),
            opcode in prop_oneof![0x88u8..0x8c, 0xa0u8..0xa4, 0xc6u8..0xc8, Just(0x0f), any::<u8>()],
            second in prop_oneof![Just(0xb6u8), Just(0xb7), any::<u8>()],
            rest in prop::collection::vec(any::<u8>(), 12),
            mode in prop_oneof![Just(Bits64), Just(Bits32), Just(Bits16)],
        ) {
            let code = [&prefixes[..], &[opcode, second], &rest].concat();
            let bitness = match mode { Bits64 => 64, Bits32 => 32, Bits16 => 16 };
            let instruction = Decoder::new(bitness, &code, DecoderOptions::NONE).decode();
            let expected = if instruction.is_invalid() { None } else { theirs(&instruction) };
            prop_assert_eq!(decode(&code, mode), expected, "{:02x?} {:?}", code, instruction);
        }
    }
}
