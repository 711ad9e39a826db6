//! SGDT, SIDT, LGDT, LIDT, SLDT, STR, LLDT, LTR (SDM 2A, 2B; descriptors in SDM 3A 3.5, 7.2).

use crate::exit::{Action, Event, ExitFacts, GuestRegisters, GuestState, Operand, State, TableInstruction, vector};
use crate::machine::Machine;
use crate::paging::{self, Fault};
use tollgate_abi::x86::control::{CR0_PE, RFLAGS_VM, RIGHTS_DEFAULT_BIG, RIGHTS_LONG, RIGHTS_UNUSABLE};
use tollgate_abi::x86::segment::{SELECTOR_OFFSET, SELECTOR_RPL, SELECTOR_TI};

/// The bits of a base that LGDT and LIDT load with an operand of 16 bits (SDM 2A, LGDT/LIDT).
const BASE_24_BITS: u64 = 0x00ff_ffff;
const TYPE_LDT: u64 = 2;
const TYPE_AVAILABLE_TSS: u64 = 9;
const TYPE_AVAILABLE_16_BIT_TSS: u64 = 1;
/// The bit that turns an available TSS descriptor into a busy one.
const BUSY: u64 = 2;
/// The fewest bytes of these instructions: opcode and ModRM, without a prefix.
const PLAIN_BYTES: usize = 3;

/// Performs the instruction.
#[inline(never)]
pub fn handle<B: ExitFacts + GuestState>(
    registers: &mut GuestRegisters,
    backend: &mut B,
    machine: &mut Machine,
) -> Action {
    let (instruction, operand) = backend.table_access(registers);
    match perform(instruction, operand, registers, backend, machine) {
        Ok(()) => Action::Advance,
        Err(fault) => fault.into(),
    }
}

fn perform<B: GuestState>(
    instruction: TableInstruction,
    operand: Operand,
    registers: &mut GuestRegisters,
    backend: &mut B,
    machine: &mut Machine,
) -> Result<(), Fault> {
    use TableInstruction::*;
    match instruction {
        Sgdt => store_table(operand, State::GdtrLimit, State::GdtrBase, backend, machine),
        Sidt => store_table(operand, State::IdtrLimit, State::IdtrBase, backend, machine),
        Lgdt => load_table(operand, State::GdtrLimit, State::GdtrBase, backend, machine),
        Lidt => load_table(operand, State::IdtrLimit, State::IdtrBase, backend, machine),
        Sldt | Str | Lldt | Ltr if backend.is_in_long_mode() => {
            perform_on_selector::<B, true>(instruction, operand, registers, backend, machine)
        }
        Sldt | Str | Lldt | Ltr => outside_of_long_mode(instruction, operand, registers, backend, machine),
    }
}

/// SLDT, STR, LLDT and LTR, with the descriptors of IA-32e mode or those of the other modes.
#[inline(always)]
fn perform_on_selector<B: GuestState, const LONG: bool>(
    instruction: TableInstruction,
    operand: Operand,
    registers: &mut GuestRegisters,
    backend: &mut B,
    machine: &mut Machine,
) -> Result<(), Fault> {
    use TableInstruction::*;
    match instruction {
        Sldt => store_selector(operand, backend.get(State::LdtrSelector), registers, backend, machine),
        Str => store_selector(operand, backend.get(State::TrSelector), registers, backend, machine),
        Lldt => load_ldt::<B, LONG>(load_selector(operand, registers, backend, machine)?, backend, machine),
        _ => load_task_register::<B, LONG>(load_selector(operand, registers, backend, machine)?, backend, machine),
    }
}

/// SLDT, STR, LLDT and LTR outside of IA-32e mode, where only protected mode has them.
#[cold]
#[inline(never)]
fn outside_of_long_mode<B: GuestState>(
    instruction: TableInstruction,
    operand: Operand,
    registers: &mut GuestRegisters,
    backend: &mut B,
    machine: &mut Machine,
) -> Result<(), Fault> {
    if !has_tasks(backend) {
        return Err(Event::UNDEFINED_OPCODE.into());
    }
    perform_on_selector::<B, false>(instruction, operand, registers, backend, machine)
}

/// Whether there are local descriptor tables and tasks: in protected mode, but for virtual-8086 mode (SDM 2A, 2B: LLDT, LTR, SLDT,
/// STR).
fn has_tasks<B: GuestState>(backend: &B) -> bool {
    backend.get(State::Cr0) & CR0_PE != 0 && backend.get(State::Rflags) & RFLAGS_VM == 0
}

fn address(operand: Operand) -> Result<u64, Fault> {
    match operand {
        Operand::Memory(linear) => Ok(linear),
        Operand::Register(_) => Err(Event::UNDEFINED_OPCODE.into()),
    }
}

/// The bytes that limit and base take: 10 in 64-bit mode, 6 in compatibility mode.
fn table_bytes<B: GuestState>(backend: &B) -> usize {
    if backend.get(State::CsRights) & RIGHTS_LONG != 0 { 10 } else { 6 }
}

fn store_table<B: GuestState>(
    operand: Operand,
    limit: State,
    base: State,
    backend: &mut B,
    machine: &mut Machine,
) -> Result<(), Fault> {
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&(backend.get(limit) as u16).to_le_bytes());
    bytes[2..].copy_from_slice(&backend.get(base).to_le_bytes());
    let form = table_bytes(backend);
    paging::write(backend, machine, address(operand)?, &bytes[..form])
}

fn load_table<B: GuestState>(
    operand: Operand,
    limit: State,
    base: State,
    backend: &mut B,
    machine: &mut Machine,
) -> Result<(), Fault> {
    let mut bytes = [0; 10];
    let form = table_bytes(backend);
    paging::read(backend, machine, address(operand)?, &mut bytes[..form])?;
    let [l0, l1, b @ ..] = bytes;
    let mut address = u64::from_le_bytes(b);
    if form < bytes.len() && is_16_bit_operand(backend, machine)? {
        address &= BASE_24_BITS;
    }
    if !paging::is_canonical(address) {
        return Err(Event::GENERAL_PROTECTION.into());
    }
    backend.set(limit, u64::from(u16::from_le_bytes([l0, l1])));
    backend.set(base, address);
    Ok(())
}

/// A 16-bit register operand keeps its upper bits; wider ones are zero-extended.
fn store_selector<B: GuestState>(
    operand: Operand,
    selector: u64,
    registers: &mut GuestRegisters,
    backend: &mut B,
    machine: &mut Machine,
) -> Result<(), Fault> {
    match operand {
        Operand::Memory(linear) => paging::write(backend, machine, linear, &(selector as u16).to_le_bytes()),
        Operand::Register(number) => {
            let old = registers.by_number(number).map_or_else(|| backend.get(State::Rsp), |register| *register);
            let new = if is_16_bit_operand(backend, machine)? { old & !0xffff | selector } else { selector };
            match registers.by_number(number) {
                Some(register) => *register = new,
                None => backend.set(State::Rsp, new),
            }
            Ok(())
        }
    }
}

/// Whether the operand has 16 bits: the one fact about SLDT and STR that the instruction information leaves out. It has 16 if 66H
/// comes before the opcode, unless a REX prefix with W, which comes last, makes it 64. In a 16-bit code segment it has 16 if 66H
/// does not come.
fn is_16_bit_operand<B: GuestState>(backend: &mut B, machine: &mut Machine) -> Result<bool, Fault> {
    let mut instruction = [0; 15];
    let bytes = (backend.get(State::InstructionBytes) as usize).min(instruction.len());
    let rights = backend.get(State::CsRights);
    if bytes == PLAIN_BYTES {
        return Ok(rights & (RIGHTS_LONG | RIGHTS_DEFAULT_BIG) == 0);
    }
    let rip = backend.get(State::Rip);
    let in_64_bit_mode = rights & RIGHTS_LONG != 0;
    let linear = if in_64_bit_mode { rip } else { rip.wrapping_add(backend.get(State::CsBase)) & u64::from(u32::MAX) };
    paging::read(backend, machine, linear, &mut instruction[..bytes])?;
    let (mut has_prefix, mut last) = (false, 0);
    for &byte in instruction[..bytes].iter().take_while(|&&byte| byte != 0x0f) {
        has_prefix |= byte == 0x66;
        last = byte;
    }
    Ok(if in_64_bit_mode {
        has_prefix && last & 0xf8 != 0x48
    } else {
        has_prefix == (rights & RIGHTS_DEFAULT_BIG != 0)
    })
}

#[inline(always)]
fn load_selector<B: GuestState>(
    operand: Operand,
    registers: &mut GuestRegisters,
    backend: &mut B,
    machine: &mut Machine,
) -> Result<u16, Fault> {
    match operand {
        Operand::Register(number) => {
            Ok(registers.by_number(number).map_or_else(|| backend.get(State::Rsp), |register| *register) as u16)
        }
        Operand::Memory(linear) => {
            let mut bytes = [0; 2];
            paging::read(backend, machine, linear, &mut bytes)?;
            Ok(u16::from_le_bytes(bytes))
        }
    }
}

/// A system descriptor of the GDT: 16 bytes in IA-32e mode, compatibility mode included; else 8, with a base of 32 bits (SDM 3A
/// 3.5, 7.2.3).
struct Descriptor {
    linear: u64,
    low: u64,
    high: u64,
}

impl Descriptor {
    fn load<B: GuestState, const IS_LONG: bool>(
        selector: u16,
        wanted_type: u64,
        backend: &mut B,
        machine: &mut Machine,
    ) -> Result<Self, Fault> {
        let form = const { if IS_LONG { 16 } else { 8 } };
        let (offset, error_code) = (u64::from(selector & SELECTOR_OFFSET), u32::from(selector & !SELECTOR_RPL));
        let refused = Fault::Raise(Event::fault(vector::GP, error_code));
        if selector & SELECTOR_TI != 0 || offset + (form as u64 - 1) > backend.get(State::GdtrLimit) {
            return Err(refused);
        }
        let linear = backend.get(State::GdtrBase).wrapping_add(offset);
        let mut bytes = [0; 16];
        paging::read(backend, machine, linear, &mut bytes[..form])?;
        let both = u128::from_le_bytes(bytes);
        let descriptor = Self { linear, low: both as u64, high: (both >> 64) as u64 };
        // Type and S together: a system descriptor has S = 0.
        let kind = descriptor.low >> 40 & 0x1f;
        // IA-32e mode has no TSS of 16 bits (SDM 3A 3.5, table 3-2).
        let is_16_bit_tss = !IS_LONG && wanted_type == TYPE_AVAILABLE_TSS && kind == TYPE_AVAILABLE_16_BIT_TSS;
        if kind != wanted_type && !is_16_bit_tss {
            return Err(refused);
        }
        if descriptor.low >> 47 & 1 == 0 {
            return Err(Event::fault(vector::NP, error_code).into());
        }
        Ok(descriptor)
    }

    fn base(&self) -> u64 {
        self.low >> 16 & 0xff_ffff | self.low >> 32 & 0xff00_0000 | self.high << 32
    }

    fn limit(&self) -> u64 {
        let raw = self.low & 0xffff | self.low >> 32 & 0xf_0000;
        if self.low >> 55 & 1 != 0 { raw << 12 | 0xfff } else { raw }
    }

    fn rights(&self) -> u64 {
        self.low >> 40 & 0xf0ff
    }
}

fn load_ldt<B: GuestState, const IS_LONG: bool>(
    selector: u16,
    backend: &mut B,
    machine: &mut Machine,
) -> Result<(), Fault> {
    if selector & !SELECTOR_RPL == 0 {
        backend.set(State::LdtrSelector, u64::from(selector));
        backend.set(State::LdtrRights, RIGHTS_UNUSABLE);
        return Ok(());
    }
    let descriptor = Descriptor::load::<B, IS_LONG>(selector, TYPE_LDT, backend, machine)?;
    if !paging::is_canonical(descriptor.base()) {
        return Err(Event::fault(vector::GP, u32::from(selector & !SELECTOR_RPL)).into());
    }
    backend.set(State::LdtrSelector, u64::from(selector));
    backend.set(State::LdtrBase, descriptor.base());
    backend.set(State::LdtrLimit, descriptor.limit());
    backend.set(State::LdtrRights, descriptor.rights());
    Ok(())
}

fn load_task_register<B: GuestState, const IS_LONG: bool>(
    selector: u16,
    backend: &mut B,
    machine: &mut Machine,
) -> Result<(), Fault> {
    if selector & !SELECTOR_RPL == 0 {
        return Err(Event::GENERAL_PROTECTION.into());
    }
    let descriptor = Descriptor::load::<B, IS_LONG>(selector, TYPE_AVAILABLE_TSS, backend, machine)?;
    if !paging::is_canonical(descriptor.base()) {
        return Err(Event::fault(vector::GP, u32::from(selector & !SELECTOR_RPL)).into());
    }
    paging::write(backend, machine, descriptor.linear + 5, &[(descriptor.low >> 40) as u8 | BUSY as u8])?;
    backend.set(State::TrSelector, u64::from(selector));
    backend.set(State::TrBase, descriptor.base());
    backend.set(State::TrLimit, descriptor.limit());
    backend.set(State::TrRights, descriptor.rights() | BUSY);
    Ok(())
}

#[cfg(test)]
mod tests {
    use tollgate_abi::x86::control::EFER_LMA;

    use super::*;
    use crate::exit::GuestState;
    use crate::script::{Script, machine};

    const GDT: u64 = 0x4000;

    /// Identity-mapped memory with a GDT of null, LDT (0x10) and TSS (0x20).
    fn set_up() -> (Script, Machine) {
        let (mut backend, mut machine) = (Script::default(), machine());
        for (at, value) in [
            (0x1000, 0x2003),
            (0x2000, 0x83),
            (GDT + 0x10, 0x1200_8234_5678_000f),
            (GDT + 0x18, 0xffff_8000),
            (GDT + 0x20, 0x0000_8900_6000_0067),
        ] {
            machine.memory.write_u64(at, value).unwrap();
        }
        backend.set(State::Cr3, 0x1000);
        backend.set(State::Cr0, 1 << 31 | 1);
        backend.set(State::CsRights, RIGHTS_LONG);
        backend.set(State::Efer, EFER_LMA);
        backend.set(State::GdtrBase, GDT);
        backend.set(State::GdtrLimit, 0x2f);
        (backend, machine)
    }

    fn run(set_up: &mut (Script, Machine), instruction: TableInstruction, operand: Operand, rax: u64) -> (Action, u64) {
        let mut registers = GuestRegisters { rax, ..Default::default() };
        set_up.0.table = Some((instruction, operand));
        let action = handle(&mut registers, &mut set_up.0, &mut set_up.1);
        (action, registers.rax)
    }

    #[test]
    fn tables_are_stored_and_loaded() {
        let mut up = set_up();
        up.0.set(State::IdtrBase, 0x1234_5678_9abc);
        up.0.set(State::IdtrLimit, 0xfff);
        assert_eq!(run(&mut up, TableInstruction::Sidt, Operand::Memory(0x5000), 0).0, Action::Advance);
        assert_eq!(run(&mut up, TableInstruction::Lgdt, Operand::Memory(0x5000), 0).0, Action::Advance);
        assert_eq!((up.0.get(State::GdtrBase), up.0.get(State::GdtrLimit)), (0x1234_5678_9abc, 0xfff));
        up.1.memory.write_u64(0x5002, 1 << 63).unwrap();
        assert_eq!(
            run(&mut up, TableInstruction::Lidt, Operand::Memory(0x5000), 0).0,
            Action::Inject(Event::GENERAL_PROTECTION)
        );
    }

    #[test]
    fn compatibility_mode_has_the_short_form() {
        let mut up = set_up();
        up.0.set(State::CsRights, RIGHTS_DEFAULT_BIG);
        up.0.set(State::GdtrBase, 0x1_2345_6789);
        up.1.memory.write_u64(0x5006, !0).unwrap();
        assert_eq!(run(&mut up, TableInstruction::Sgdt, Operand::Memory(0x5000), 0).0, Action::Advance);
        assert_eq!(up.1.memory.read_u64(0x5000), Ok(0xffff_2345_6789_002f));
        assert_eq!(run(&mut up, TableInstruction::Lidt, Operand::Memory(0x5000), 0).0, Action::Advance);
        assert_eq!(up.0.get(State::IdtrBase), 0x2345_6789);

        // LIDT with an operand of 16 bits: by its prefix, with its code behind the base of CS; and by its segment. Then one of 32
        // bits, by both.
        up.0.set(State::CsBase, 0x4000);
        for (rights, code, bytes, base) in [
            (RIGHTS_DEFAULT_BIG, 0x1f01_0f66_u64, 4, 0x45_6789),
            (0, 0x1f_010f, 3, 0x45_6789),
            (0, 0x1f01_0f66, 4, 0x2345_6789),
        ] {
            up.0.set(State::CsRights, rights);
            up.1.memory.write(0x5010, &code.to_le_bytes()).unwrap();
            up.0.set(State::Rip, 0x1010);
            up.0.set(State::InstructionBytes, bytes);
            assert_eq!(run(&mut up, TableInstruction::Lidt, Operand::Memory(0x5000), 0).0, Action::Advance);
            assert_eq!(up.0.get(State::IdtrBase), base, "{code:#x}");
        }
    }

    #[test]
    fn selectors_keep_or_clear_what_is_above_them() {
        let mut up = set_up();
        up.0.set(State::TrSelector, 0x20);
        up.0.set(State::Rip, 0x5000);
        for (code, bytes, expected) in [
            (0x00c8_000f_u64, 3, 0x20),
            (0xc800_0f66, 4, !0xffff | 0x20),
            (0xc800_0f48, 4, 0x20),
            (0xc8_000f_4866, 5, 0x20),
            (0xc8_000f_4866, 5, 0x20),
        ] {
            up.1.memory.write_u64(0x5000, code).unwrap();
            up.0.set(State::InstructionBytes, bytes);
            assert_eq!(run(&mut up, TableInstruction::Str, Operand::Register(0), !0), (Action::Advance, expected));
        }
    }

    #[test]
    fn system_descriptors_have_eight_bytes_outside_of_ia_32e_mode() {
        let mut up = set_up();
        up.0.set(State::Efer, 0);
        up.0.set(State::Cr0, 1);
        up.0.set(State::CsRights, RIGHTS_DEFAULT_BIG);
        // The bytes behind the LDT are no part of it, and the last descriptor ends with the table.
        for (at, value) in [(0x18, !0), (0x20, 0x1200_8934_5678_0067), (0x28, 0x0000_8134_5678_002b)] {
            up.1.memory.write_u64(GDT + at, value).unwrap();
        }
        assert_eq!(run(&mut up, TableInstruction::Lldt, Operand::Register(0), 0x10).0, Action::Advance);
        assert_eq!((up.0.get(State::LdtrBase), up.0.get(State::LdtrLimit)), (0x1234_5678, 0xf));
        for (selector, base, rights) in [(0x20, 0x1234_5678, 0x8b), (0x28, 0x34_5678, 0x83)] {
            assert_eq!(run(&mut up, TableInstruction::Ltr, Operand::Register(0), selector).0, Action::Advance);
            assert_eq!((up.0.get(State::TrBase), up.0.get(State::TrRights)), (base, rights));
        }
        let refused = |selector| Action::Inject(Event::fault(vector::GP, selector));
        assert_eq!(
            run(&mut up, TableInstruction::Ltr, Operand::Register(0), 0x30).0,
            refused(0x30),
            "beyond the limit"
        );
        up.0.set(State::Efer, EFER_LMA);
        assert_eq!(run(&mut up, TableInstruction::Ltr, Operand::Register(0), 0x28).0, refused(0x28), "half of it");
        up.1.memory.write_u64(GDT + 0x20, 0x0000_8134_5678_002b).unwrap();
        assert_eq!(run(&mut up, TableInstruction::Ltr, Operand::Register(0), 0x20).0, refused(0x20), "of 16 bits");
    }

    #[test]
    fn real_mode_and_virtual_8086_mode_have_no_tasks() {
        use TableInstruction::{Lldt, Ltr, Sgdt, Sldt, Str};
        for (cr0, rflags) in [(0, 0), (1, RFLAGS_VM)] {
            let mut up = set_up();
            up.0.set(State::Efer, 0);
            up.0.set(State::Cr0, cr0);
            up.0.set(State::Rflags, rflags);
            up.0.set(State::CsRights, 0);
            for instruction in [Sldt, Str, Lldt, Ltr] {
                let (action, rax) = run(&mut up, instruction, Operand::Register(0), 0x10);
                assert_eq!((action, rax), (Action::Inject(Event::UNDEFINED_OPCODE), 0x10), "{instruction:?}");
            }
            assert_eq!(run(&mut up, Sgdt, Operand::Memory(0x5000), 0).0, Action::Advance, "it is everywhere");
        }
    }

    #[test]
    fn system_descriptors_are_checked_and_loaded() {
        let mut up = set_up();
        assert_eq!(run(&mut up, TableInstruction::Lldt, Operand::Register(0), 0x10).0, Action::Advance);
        assert_eq!((up.0.get(State::LdtrBase), up.0.get(State::LdtrLimit)), (0xffff_8000_1234_5678, 0xf));
        assert_eq!(run(&mut up, TableInstruction::Lldt, Operand::Register(0), 0).0, Action::Advance);
        assert_eq!(up.0.get(State::LdtrRights), RIGHTS_UNUSABLE);
        assert_eq!(run(&mut up, TableInstruction::Ltr, Operand::Register(0), 0x20).0, Action::Advance);
        assert_eq!((up.0.get(State::TrBase), up.0.get(State::TrRights)), (0x6000, 0x8b));
        let gp = |error_code| Action::Inject(Event::fault(vector::GP, error_code));
        assert_eq!(run(&mut up, TableInstruction::Ltr, Operand::Register(0), 0x20).0, gp(0x20), "busy now");
        assert_eq!(run(&mut up, TableInstruction::Ltr, Operand::Register(0), 0).0, gp(0));
        assert_eq!(run(&mut up, TableInstruction::Ltr, Operand::Register(0), 0x10).0, gp(0x10), "not a TSS");
        assert_eq!(run(&mut up, TableInstruction::Ltr, Operand::Register(0), 0x30).0, gp(0x30), "beyond the limit");
        assert_eq!(run(&mut up, TableInstruction::Lldt, Operand::Register(0), 0x14).0, gp(0x14), "in the LDT");
    }
}
