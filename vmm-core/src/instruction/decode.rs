//! The instructions that SVM intercepts, decoded from their bytes (APM 3 1.1 to 1.7, appendix A; SDM 2A 2.1, 2.2).
//!
//! A processor with next-RIP saving and decode assists (APM 2 chapter 15) tells length and operands in the VMCB; for other
//! processors they are decoded here. Other instructions are not decoded. Neither are those that LOCK or mod turn into #UD, which
//! comes before the intercept. Rarer reasons for #UD are not looked for, since an instruction with one makes no exit.

use super::operand::ModRm;
use super::prefixes::{CodeMode, Prefixes};
use crate::exit::{CrAccess, DrAccess, GuestRegisters, Operand, TableInstruction};

/// The most bytes that an instruction may have (APM 3 1.1).
pub const MAX_BYTES: usize = 15;

/// An instruction that SVM intercepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Length in bytes, 1 to 15.
    pub length: u8,
    /// The opcode's bytes as the manual writes them: 0xf4, 0x0f01, 0x0f3882. The rest of it is in ModRM.
    pub opcode: u32,
    /// Operand size by mode and prefixes: 2, 4 or 8. Some instructions have another one of their own, as MOV CR and IN.
    pub operand_bytes: u8,
    /// Address size: 2, 4 or 8.
    pub address_bytes: u8,
    /// The segment that a prefix names; ES, CS, SS, DS, FS, GS are 0 to 5. In 64-bit mode only FS and GS.
    pub segment_override: Option<u8>,
    /// With a REP or REPNE prefix, which mean the same to INS and OUTS.
    pub is_repeated: bool,
    /// With a LOCK prefix, which only MOV to and from CR0 may have here.
    pub is_locked: bool,
    /// The byte behind the opcode of INT n (the vector), IN and OUT (the port); 0 for others.
    pub immediate: u8,
    /// The ModRM byte, and the bytes that belong to it.
    pub modrm: Option<ModRm>,
}

/// The bytes behind the opcode.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Nothing,
    Immediate,
    /// ModRM, whose mod field is ignored: MOV CR and MOV DR.
    Registers,
    Operand,
}

/// Decodes the instruction at the start of `bytes`; the bytes behind it do not matter.
///
/// `None` if it is not an intercepted one, or if it does not end within `bytes`, or within 15 bytes.
pub fn decode(bytes: &[u8], mode: CodeMode) -> Option<Instruction> {
    let bytes = bytes.get(..MAX_BYTES).unwrap_or(bytes);
    let mut rest = bytes.iter().copied();
    let (prefixes, first) = Prefixes::read(&mut rest, mode)?;
    let opcode = match first {
        0x0f => match rest.next()? {
            0x38 => 0x0f_3800 | u32::from(rest.next()?),
            second => 0x0f00 | u32::from(second),
        },
        _ => u32::from(first),
    };
    let form = form(opcode, &prefixes, mode)?;
    let address_bytes = prefixes.address_bytes(mode);
    let immediate = if form == Form::Immediate { rest.next()? } else { 0 };
    let modrm = match form {
        Form::Nothing | Form::Immediate => None,
        Form::Registers => Some(ModRm::read_registers(&mut rest, &prefixes)?),
        Form::Operand => Some(ModRm::read(&mut rest, &prefixes, address_bytes, mode)?),
    };
    if modrm.is_some_and(|modrm| !is_intercepted(opcode, &prefixes, &modrm)) {
        return None;
    }
    // AltMovCr8 is the only use of LOCK.
    if prefixes.lock && !(matches!(opcode, 0x0f20 | 0x0f22) && modrm.is_some_and(|modrm| modrm.reg == 0)) {
        return None;
    }
    Some(Instruction {
        length: (bytes.len() - rest.len()) as u8,
        opcode,
        operand_bytes: prefixes.operand_bytes(mode),
        address_bytes,
        segment_override: prefixes.segment,
        is_repeated: prefixes.repeat != 0,
        is_locked: prefixes.lock,
        immediate,
        modrm,
    })
}

fn form(opcode: u32, prefixes: &Prefixes, mode: CodeMode) -> Option<Form> {
    Some(match opcode {
        // INS, OUTS; PUSHF, POPF; INT3, IRET; IN, OUT with DX; ICEBP; HLT.
        0x6c..=0x6f | 0x9c | 0x9d | 0xcc | 0xcf | 0xec..=0xef | 0xf1 | 0xf4 => Form::Nothing,
        // PAUSE. With REX.B it may be XCHG with R8, which does not exit.
        0x90 if prefixes.repeat == Prefixes::REP => Form::Nothing,
        // INTO.
        0xce if mode != CodeMode::Bits64 => Form::Nothing,
        // INT n; IN, OUT.
        0xcd | 0xe4..=0xe7 => Form::Immediate,
        // CLTS; INVD; WBINVD, WBNOINVD; UD2; WRMSR, RDTSC, RDMSR, RDPMC; CPUID; RSM.
        0x0f06 | 0x0f08 | 0x0f09 | 0x0f0b | 0x0f30..=0x0f33 | 0x0fa2 | 0x0faa => Form::Nothing,
        0x0f20..=0x0f23 => Form::Registers,
        0x0f00 | 0x0f01 | 0x0fc7 | 0x0f_3882 => Form::Operand,
        _ => return None,
    })
}

/// Whether an opcode is an intercepted instruction. Such an opcode is several instructions, told apart by ModRM and prefixes (APM
/// 3 appendix A).
fn is_intercepted(opcode: u32, prefixes: &Prefixes, modrm: &ModRm) -> bool {
    match (opcode, modrm.byte >> 3 & 7, modrm.memory.is_some()) {
        // SLDT, STR, LLDT, LTR.
        (0x0f00, extension, _) => extension < 4,
        // SGDT, SIDT, LGDT, LIDT; INVLPG.
        (0x0f01, 0..=3 | 7, true) => true,
        // SMSW, LMSW.
        (0x0f01, 4 | 6, _) => true,
        // RDPRU; with F3H it would be RMPQUERY.
        (0x0f01, _, false) if modrm.byte == 0xfd => prefixes.repeat != Prefixes::REP,
        // VMCALL; MONITOR, MWAIT; XGETBV, XSETBV; VMRUN, VMMCALL, VMLOAD, VMSAVE, STGI, CLGI, SKINIT, INVLPGA;
        // SWAPGS, RDTSCP, MONITORX (MCOMMIT with F3H), MWAITX, CLZERO.
        (0x0f01, _, false) => {
            matches!(modrm.byte, 0xc1 | 0xc8 | 0xc9 | 0xd0 | 0xd1 | 0xd8..=0xdf | 0xf8..=0xfc)
        }
        // RDRAND, RDSEED.
        (0x0fc7, 6 | 7, false) => prefixes.repeat == 0,
        // INVPCID.
        (0x0f_3882, _, true) => prefixes.operand_size && prefixes.repeat == 0,
        (0x0f20..=0x0f23, ..) => true,
        _ => false,
    }
}

impl Instruction {
    /// The opcode extension in ModRM.reg, which REX.R does not touch; 0 without ModRM.
    fn extension(&self) -> u8 {
        self.modrm.map_or(0, |modrm| modrm.byte >> 3 & 7)
    }

    /// The access of MOV CR, CLTS or LMSW. `lmsw_source` reads the 16 bits of LMSW's operand, see
    /// [`Instruction::operand`]. SMSW is none.
    #[inline(always)]
    pub fn cr_access(&self, lmsw_source: impl FnOnce() -> u16) -> Option<CrAccess> {
        match (self.opcode, self.modrm, self.extension()) {
            (0x0f06, ..) => Some(CrAccess::Clts),
            (0x0f01, _, 6) => Some(CrAccess::Lmsw { source: lmsw_source() }),
            (0x0f20 | 0x0f22, Some(ModRm { reg, rm: register, .. }), _) => {
                // AltMovCr8 (APM 3, MOV CRn): with LOCK, CR0 is CR8.
                let cr = if self.is_locked { 8 } else { reg };
                let is_read = self.opcode == 0x0f20;
                Some(if is_read { CrAccess::Read { cr, register } } else { CrAccess::Write { cr, register } })
            }
            _ => None,
        }
    }

    /// The access of MOV DR. There is no DR8.
    pub fn dr_access(&self) -> Option<DrAccess> {
        match (self.opcode, self.modrm) {
            (0x0f21 | 0x0f23, Some(ModRm { reg: dr @ 0..8, rm: register, .. })) => {
                Some(DrAccess { dr, register, is_read: self.opcode == 0x0f21 })
            }
            _ => None,
        }
    }

    /// The operand that ModRM names, if there is a ModRM. The parameters are those of [`MemoryOperand::linear_address`].
    ///
    /// [`MemoryOperand::linear_address`]: super::operand::MemoryOperand::linear_address
    pub fn operand(
        &self,
        registers: &mut GuestRegisters,
        rsp: u64,
        rip_of_next_instruction: u64,
        segment_base: impl Fn(u8) -> u64,
    ) -> Option<Operand> {
        let modrm = self.modrm?;
        Some(match modrm.memory {
            Some(memory) => {
                Operand::Memory(memory.linear_address(registers, rsp, rip_of_next_instruction, segment_base))
            }
            None => Operand::Register(modrm.rm),
        })
    }

    /// The instruction and operand of an access to GDTR, IDTR, LDTR or TR.
    pub fn table_instruction(
        &self,
        registers: &mut GuestRegisters,
        rsp: u64,
        rip_of_next_instruction: u64,
        segment_base: impl Fn(u8) -> u64,
    ) -> Option<(TableInstruction, Operand)> {
        use TableInstruction::*;
        let instruction = match (self.opcode, self.extension()) {
            (0x0f00, 0) => Sldt,
            (0x0f00, 1) => Str,
            (0x0f00, 2) => Lldt,
            (0x0f00, 3) => Ltr,
            // With mod 3 the opcode has other instructions.
            (0x0f01, _) if self.modrm?.memory.is_none() => return None,
            (0x0f01, 0) => Sgdt,
            (0x0f01, 1) => Sidt,
            (0x0f01, 2) => Lgdt,
            (0x0f01, 3) => Lidt,
            _ => return None,
        };
        Some((instruction, self.operand(registers, rsp, rip_of_next_instruction, segment_base)?))
    }
}

#[cfg(test)]
mod tests {
    use super::CodeMode::*;
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind, Register};
    use proptest::prelude::*;

    /// Checks the length of an instruction that is followed by other bytes; `None` if it must not be decoded.
    #[track_caller]
    fn check(bytes: &[u8], mode: CodeMode, expected: impl Into<Option<usize>>) {
        let followed = [bytes, &[0x90; 8]].concat();
        let length = decode(&followed, mode).map(|instruction| usize::from(instruction.length));
        assert_eq!(length, expected.into(), "{bytes:02x?}");
        for truncated in 0..length.unwrap_or(0) {
            assert_eq!(decode(&bytes[..truncated], mode), None, "{truncated} of {bytes:02x?}");
        }
    }

    #[test]
    fn opcodes_of_one_byte() {
        for opcode in [0x6c, 0x6d, 0x6e, 0x6f, 0x9c, 0x9d, 0xcc, 0xcf, 0xec, 0xed, 0xee, 0xef, 0xf1, 0xf4] {
            for mode in [Bits64, Bits32, Bits16] {
                check(&[opcode], mode, 1);
                check(&[0x66, opcode], mode, 2);
            }
            check(&[0xf3, 0x48, opcode], Bits64, 3);
        }
        for opcode in [0xcd, 0xe4, 0xe5, 0xe6, 0xe7] {
            check(&[opcode, 0x80], Bits64, 2);
            check(&[0x66, 0x66, opcode, 0x80], Bits16, 4);
            assert_eq!(decode(&[opcode, 0x80], Bits32).unwrap().immediate, 0x80);
        }
        check(&[0xce], Bits32, 1); // INTO
        check(&[0xce], Bits64, None);
        check(&[0xf3, 0x90], Bits64, 2); // PAUSE
        check(&[0x90], Bits64, None); // NOP
        check(&[0x48, 0xf4], Bits32, None); // DEC %eax
    }

    #[test]
    fn opcodes_of_two_bytes() {
        for opcode in [0x06, 0x08, 0x09, 0x0b, 0x30, 0x31, 0x32, 0x33, 0xa2, 0xaa] {
            check(&[0x0f, opcode], Bits16, 2);
            check(&[0x2e, 0x0f, opcode], Bits32, 3);
            check(&[0x66, 0x4f, 0x0f, opcode], Bits64, 4);
        }
        check(&[0xf3, 0x0f, 0x09], Bits64, 3); // WBNOINVD
        check(&[0x0f, 0x05], Bits64, None); // SYSCALL
        check(&[0x0f, 0x07], Bits64, None); // SYSRET
    }

    #[test]
    fn register_forms_of_0f01() {
        for modrm in 0xc0..=0xff {
            let is_one = match modrm {
                0xc1 | 0xc8 | 0xc9 | 0xd0 | 0xd1 | 0xd8..=0xdf | 0xf8..=0xfd => true,
                0xe0..=0xe7 | 0xf0..=0xf7 => true, // SMSW, LMSW
                _ => false,
            };
            check(&[0x0f, 0x01, modrm], Bits64, is_one.then_some(3));
            check(&[0x0f, 0x01, modrm], Bits16, is_one.then_some(3));
            check(&[0x67, 0x44, 0x0f, 0x01, modrm], Bits64, is_one.then_some(5));
        }
    }

    #[test]
    fn operands_in_memory() {
        check(&[0x0f, 0x01, 0x38], Bits64, 3); // INVLPG (%rax)
        check(&[0x0f, 0x01, 0x7c, 0x24, 0x08], Bits64, 5); // INVLPG 8(%rsp)
        check(&[0x0f, 0x01, 0x3d, 0, 0, 0, 0], Bits64, 7); // INVLPG 0(%rip)
        check(&[0x0f, 0x01, 0x3e, 0, 0], Bits16, 5); // INVLPG 0
        check(&[0xf3, 0x0f, 0x01, 0xfd], Bits64, None); // RMPQUERY
        check(&[0x0f, 0x01, 0x28], Bits64, None); // RSTORSSP, if at all
        check(&[0x43, 0x0f, 0x01, 0xb4, 0x88, 0, 0, 0, 0], Bits64, 9); // LMSW 0(%r8,%r9,4)
        check(&[0x0f, 0x01, 0x20], Bits64, 3); // SMSW (%rax)
        check(&[0x66, 0x0f, 0x38, 0x82, 0x02], Bits64, 5); // INVPCID (%rdx), %rax
        check(&[0x66, 0x44, 0x0f, 0x38, 0x82, 0x42, 0x08], Bits64, 7); // INVPCID 8(%rdx), %r8
        check(&[0x0f, 0x38, 0x82, 0x02], Bits64, None); // without 66
        check(&[0x66, 0x0f, 0x38, 0x82, 0xc2], Bits64, None); // of a register
        check(&[0x0f, 0xc7, 0xf0], Bits64, 3); // RDRAND %eax
        check(&[0x66, 0x49, 0x0f, 0xc7, 0xfa], Bits64, 5); // RDSEED %r10
        check(&[0x0f, 0xc7, 0x30], Bits64, None); // VMPTRLD
        check(&[0xf3, 0x0f, 0xc7, 0xf8], Bits64, None); // RDPID
        check(&[0x0f, 0x00, 0xe0], Bits64, None); // VERR
    }

    #[test]
    fn sizes_and_segments() {
        let sizes = |bytes: &[u8], mode| {
            let instruction = decode(bytes, mode).unwrap();
            (instruction.operand_bytes, instruction.address_bytes)
        };
        assert_eq!(sizes(&[0x6d], Bits64), (4, 8));
        assert_eq!(sizes(&[0x66, 0x67, 0x6d], Bits64), (2, 4));
        assert_eq!(sizes(&[0x66, 0x48, 0x6d], Bits64), (8, 8));
        assert_eq!(sizes(&[0x48, 0x66, 0x6d], Bits64), (2, 8), "REX is not right before the opcode");
        assert_eq!(sizes(&[0x6d], Bits32), (4, 4));
        assert_eq!(sizes(&[0x66, 0x67, 0x6d], Bits32), (2, 2));
        assert_eq!(sizes(&[0x6d], Bits16), (2, 2));
        assert_eq!(sizes(&[0x66, 0x67, 0x6d], Bits16), (4, 4));
        let string = |bytes: &[u8], mode| {
            let instruction = decode(bytes, mode).unwrap();
            (instruction.segment_override, instruction.is_repeated)
        };
        assert_eq!(string(&[0xf3, 0x6e], Bits64), (None, true));
        assert_eq!(string(&[0xf2, 0x65, 0x6e], Bits64), (Some(5), true));
        assert_eq!(string(&[0x26, 0x6e], Bits64), (None, false));
        assert_eq!(
            [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65].map(|prefix| string(&[prefix, 0x6e], Bits16).0),
            [Some(0), Some(1), Some(2), Some(3), Some(4), Some(5)]
        );
    }

    #[test]
    fn no_instruction_is_longer_than_15_bytes() {
        let padded = |prefixes: usize| [&vec![0x66; prefixes][..], &[0x0f, 0xa2]].concat();
        check(&padded(13), Bits64, 15);
        check(&padded(14), Bits64, None);
        check(&[0x66; 20], Bits64, None);
        check(&[], Bits64, None);
    }

    #[test]
    fn control_registers() {
        let access = |bytes: &[u8], mode| decode(bytes, mode).unwrap().cr_access(|| 0xb);
        assert_eq!(access(&[0x0f, 0x20, 0xd8], Bits64), Some(CrAccess::Read { cr: 3, register: 0 }));
        assert_eq!(access(&[0x41, 0x0f, 0x22, 0xe4], Bits64), Some(CrAccess::Write { cr: 4, register: 12 }));
        assert_eq!(access(&[0x44, 0x0f, 0x22, 0xc1], Bits64), Some(CrAccess::Write { cr: 8, register: 1 }));
        assert_eq!(access(&[0x0f, 0x22, 0x05], Bits64), Some(CrAccess::Write { cr: 0, register: 5 }), "mod is ignored");
        assert_eq!(access(&[0xf0, 0x0f, 0x20, 0xc2], Bits32), Some(CrAccess::Read { cr: 8, register: 2 }), "AltMovCr8");
        assert_eq!(access(&[0x0f, 0x06], Bits64), Some(CrAccess::Clts));
        assert_eq!(access(&[0x0f, 0x01, 0xf0], Bits64), Some(CrAccess::Lmsw { source: 0xb }));
        assert_eq!(access(&[0x0f, 0x01, 0x30], Bits16), Some(CrAccess::Lmsw { source: 0xb }));
        assert_eq!(access(&[0x0f, 0x01, 0xe0], Bits64), None, "SMSW");
        assert_eq!(access(&[0x0f, 0x21, 0xc0], Bits64), None, "MOV DR");
        check(&[0x0f, 0x22, 0x84, 0x24], Bits64, 3);
        check(&[0x0f, 0x23, 0x45, 0x08], Bits16, 3);
        check(&[0xf0, 0x0f, 0x22, 0xd8], Bits64, None); // LOCK with CR3
        check(&[0xf0, 0x0f, 0xa2], Bits64, None); // LOCK with CPUID
    }

    #[test]
    fn debug_registers() {
        let access = |bytes: &[u8]| decode(bytes, Bits64).unwrap().dr_access();
        assert_eq!(access(&[0x0f, 0x21, 0xf8]), Some(DrAccess { dr: 7, register: 0, is_read: true }));
        assert_eq!(access(&[0x49, 0x0f, 0x23, 0xc7]), Some(DrAccess { dr: 0, register: 15, is_read: false }));
        assert_eq!(access(&[0x44, 0x0f, 0x23, 0xc0]), None, "DR8");
        assert_eq!(access(&[0x0f, 0x20, 0xc0]), None, "MOV CR");
    }

    #[test]
    fn descriptor_tables() {
        let mut registers = GuestRegisters { rax: 0x1000, ..Default::default() };
        let mut table =
            |bytes: &[u8]| decode(bytes, Bits64).unwrap().table_instruction(&mut registers, 0x7000, 0x9000, |_| 0);
        for (modrm, of_tables, of_selectors) in [
            (0x00, TableInstruction::Sgdt, TableInstruction::Sldt),
            (0x08, TableInstruction::Sidt, TableInstruction::Str),
            (0x10, TableInstruction::Lgdt, TableInstruction::Lldt),
            (0x18, TableInstruction::Lidt, TableInstruction::Ltr),
        ] {
            assert_eq!(table(&[0x0f, 0x01, modrm]), Some((of_tables, Operand::Memory(0x1000))));
            assert_eq!(table(&[0x0f, 0x00, modrm]), Some((of_selectors, Operand::Memory(0x1000))));
            assert_eq!(table(&[0x0f, 0x00, modrm | 0xc1]), Some((of_selectors, Operand::Register(1))));
            assert_eq!(table(&[0x45, 0x0f, 0x00, modrm | 0xc4]), Some((of_selectors, Operand::Register(12))));
            let relative = [0x0f, 0x01, modrm | 5, 0xfe, 0xff, 0xff, 0xff];
            assert_eq!(table(&relative), Some((of_tables, Operand::Memory(0x8ffe))));
        }
        for other in [[0x0f, 0x01, 0xd0], [0x0f, 0x01, 0xe0], [0x0f, 0x01, 0x38], [0x0f, 0x22, 0xc0]] {
            assert_eq!(table(&other), None, "{other:02x?}");
        }
    }

    /// The instructions that `decode` knows, but for MOV, by iced's names. VMGEXIT is VMMCALL with a REP prefix.
    fn is_intercepted_here(mnemonic: Mnemonic) -> bool {
        use Mnemonic::*;
        [
            Cpuid, Rdmsr, Wrmsr, Hlt, Rdtsc, Rdpmc, Rdtscp, Swapgs, Xgetbv, Xsetbv, Vmcall, Vmmcall, Vmrun, Vmload,
            Vmsave, Stgi, Clgi, Mcommit, Vmgexit, Skinit, Invlpga, Monitor, Mwait, Monitorx, Mwaitx, Rdpru, Clzero,
            Invd, Wbinvd, Wbnoinvd, Pause, Invlpg, Clts, Lmsw, Smsw, Sgdt, Sidt, Lgdt, Lidt, Sldt, Str, Lldt, Ltr,
            Iret, Iretd, Iretq, Pushf, Pushfd, Pushfq, Popf, Popfd, Popfq, Int, Int3, Into, Int1, Rsm, In, Out, Insb,
            Insw, Insd, Outsb, Outsw, Outsd, Invpcid, Rdrand, Rdseed, Ud2,
        ]
        .contains(&mnemonic)
    }

    fn mode() -> impl Strategy<Value = CodeMode> {
        prop_oneof![Just(Bits64), Just(Bits32), Just(Bits16)]
    }

    /// Prefixes, an opcode that is likely to be known, and anything behind it.
    fn likely() -> impl Strategy<Value = Vec<u8>> {
        let prefix = prop::sample::select(
            &[0x26u8, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x41, 0x42, 0x44, 0x48, 0x4f][..],
        );
        let opcode = prop_oneof![
            any::<u8>().prop_map(|first| vec![first]),
            any::<u8>().prop_map(|second| vec![0x0f, second]),
            prop_oneof![Just(0x00), Just(0x01), Just(0xc7), 0x20u8..0x24].prop_map(|second| vec![0x0f, second]),
            Just(vec![0x0f, 0x38, 0x82]),
        ];
        (prop::collection::vec(prefix, 0..5), opcode, prop::collection::vec(any::<u8>(), 0..10))
            .prop_map(|(prefixes, opcode, rest)| [prefixes, opcode, rest].concat())
    }

    /// Checks that iced decodes the same, from the same bytes. Registers have `values`, by number; segments have `bases`.
    fn compare(
        bytes: &[u8],
        mode: CodeMode,
        rip: u64,
        values: [u64; 16],
        bases: [u32; 6],
    ) -> Result<(), TestCaseError> {
        let bitness = match mode {
            Bits64 => 64,
            Bits32 => 32,
            Bits16 => 16,
        };
        let theirs = Decoder::with_ip(bitness, bytes, rip, DecoderOptions::AMD).decode();
        let (first, second) = (theirs.op0_register(), theirs.op1_register());
        let is_control = |register: Register| register.is_cr() || register.is_dr();
        let is_known = is_intercepted_here(theirs.mnemonic()) || is_control(first) || is_control(second);
        let Some(ours) = decode(bytes, mode) else {
            prop_assert!(!is_known, "not decoded: {}", theirs.mnemonic() as u32);
            return Ok(());
        };
        if theirs.is_invalid() {
            // The register does not exist, or 0F 01 must not have the prefix.
            prop_assert!(matches!(ours.opcode, 0x0f01 | 0x0f20..=0x0f23));
            return Ok(());
        }
        prop_assert!(is_known);
        prop_assert_eq!(usize::from(ours.length), theirs.len());

        let (to, from) = (first.number() as u8, second.number() as u8);
        match ours.opcode {
            0x0f20 => prop_assert_eq!(ours.cr_access(|| 0), Some(CrAccess::Read { cr: from, register: to })),
            0x0f22 => prop_assert_eq!(ours.cr_access(|| 0), Some(CrAccess::Write { cr: to, register: from })),
            0x0f21 => prop_assert_eq!(ours.dr_access(), Some(DrAccess { dr: from, register: to, is_read: true })),
            0x0f23 => prop_assert_eq!(ours.dr_access(), Some(DrAccess { dr: to, register: from, is_read: false })),
            _ => {}
        }

        let operand = (0..theirs.op_count()).find(|&operand| theirs.op_kind(operand) == OpKind::Memory);
        let memory = ours.modrm.and_then(|modrm| modrm.memory);
        prop_assert_eq!(operand.is_some(), memory.is_some());
        let (Some(operand), Some(memory)) = (operand, memory) else { return Ok(()) };
        let base = |segment| if mode == Bits64 && segment < 4 { 0 } else { u64::from(bases[usize::from(segment)]) };
        let expected = theirs.virtual_address(operand, 0, |register, _, _| {
            Some(match register.number() {
                number if register.is_segment_register() => base(number as u8),
                number => values[number] & u64::MAX >> (64 - 8 * register.size()),
            })
        });
        let linear_mask = if mode == Bits64 { u64::MAX } else { 0xffff_ffff };
        let mut registers = GuestRegisters::default();
        for (number, value) in (0..).zip(values) {
            registers.by_number(number).into_iter().for_each(|register| *register = value);
        }
        let next = rip.wrapping_add(u64::from(ours.length));
        let linear = memory.linear_address(&mut registers, values[4], next, base);
        prop_assert_eq!(Some(linear), expected.map(|address| address & linear_mask));
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn any_bytes_decode_or_do_not(bytes in prop::collection::vec(any::<u8>(), 0..20), mode in mode()) {
            if let Some(instruction) = decode(&bytes, mode) {
                prop_assert!((1..=bytes.len().min(MAX_BYTES)).contains(&usize::from(instruction.length)));
            }
        }

        #[test]
        fn iced_agrees(bytes in likely(), mode in mode(), rip: u64, values: [u64; 16], bases: [u32; 6]) {
            compare(&bytes, mode, rip, values, bases)?;
        }
    }
}
