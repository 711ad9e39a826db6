//! Accesses to devices whose registers are in memory: EPT violations in pages that the machine's row gives to devices. The
//! instruction is decoded, since neither extension tells it.

use tollgate_abi::machine::BehindPage;
use tollgate_abi::workload::Outcome;
use tollgate_abi::x86::control::{RIGHTS_DEFAULT_BIG, RIGHTS_LONG};
use tollgate_abi::x86::msr::{APIC_BASE_ENABLED, APIC_BASE_X2APIC};

use crate::devices::guest_apic::Effect;
use crate::devices::guest_apic::mapped::MappedEffect;
use crate::exit::{Action, Backend, Event, GuestRegisters, GuestState, PhysicalFault, State};
use crate::handlers::delivery::{advance, settle};
use crate::handlers::ipi::{initialized, send, send_mapped};
use crate::handlers::lines;
use crate::handlers::timer::arm;
use crate::instruction::decode::MAX_BYTES;
use crate::instruction::mov::{Mov, Other, decode};
use crate::instruction::prefixes::CodeMode;
use crate::machine::Machine;
use crate::paging;

/// The mode in IA32_APIC_BASE (SDM 3A 12.12.1). Its registers are in memory in xAPIC mode alone; elsewhere there is no memory.
const MODE: u64 = APIC_BASE_ENABLED | APIC_BASE_X2APIC;
const NONE: u64 = 0;
const XAPIC: u64 = APIC_BASE_ENABLED;

/// Performs the access of an instruction to a device. One that is no plain move ends the guest, as does a device's page that is
/// code, or the place of a stack or a table while an event is delivered.
#[cold]
#[inline(never)]
pub fn access<B: Backend>(
    fault: PhysicalFault,
    (behind, offset): (BehindPage, u32),
    registers: &mut GuestRegisters,
    backend: &mut B,
    machine: &mut Machine,
) -> Action {
    let is_instructions = !fault.fetch && backend.vectoring_event().is_none();
    let Some(mov) = is_instructions.then(|| instruction(backend, machine)).flatten() else {
        return Action::Stop(Outcome::OutsideMemory);
    };
    let (now_tsc, has_local_apic) = (backend.tsc(), machine.devices.msrs.apic_base() & MODE == XAPIC);
    if mov.is_read {
        // A part of a register lies at its place in the doubleword.
        let doubleword = match behind {
            BehindPage::LocalApic if has_local_apic => machine.devices.apic.read_mapped(offset & !3, now_tsc),
            BehindPage::LocalApic => !0,
            BehindPage::IoApic => machine.shared.devices.io_apic.read(offset & !3),
        };
        let value = doubleword >> (8 * (offset & 3));
        put(mov, value.into(), registers, backend);
        backend.advance_by(mov.length);
        return Action::Resume;
    }
    let value = get(mov, registers, backend);
    backend.advance_by(mov.length);
    if mov.bytes < 4 || offset & 3 != 0 {
        return Action::Resume;
    }
    match behind {
        BehindPage::LocalApic if !has_local_apic => Action::Resume,
        BehindPage::LocalApic => {
            let effect = machine.devices.apic.write_mapped(offset, value as u32, now_tsc);
            of_effect(effect, backend, machine)
        }
        BehindPage::IoApic if machine.shared.devices.io_apic.write(offset, value as u32) => {
            lines::send(backend, machine);
            behind_instruction(backend, machine)
        }
        BehindPage::IoApic => Action::Resume,
    }
}

fn of_effect<B: Backend>(effect: MappedEffect, backend: &mut B, machine: &mut Machine) -> Action {
    match effect {
        MappedEffect::Of(Effect::None) => return Action::Resume,
        MappedEffect::Of(Effect::Timer) => {
            arm(backend, machine);
            return Action::Resume;
        }
        MappedEffect::Of(Effect::TaskPriority) => backend.set_task_priority(machine.devices.apic.cr8() as u8),
        MappedEffect::Of(Effect::Priorities) => {}
        MappedEffect::Of(Effect::EndOfLevel(vector)) => lines::end(vector, backend, machine),
        MappedEffect::Of(Effect::Send(command)) => send(command, backend, machine),
        MappedEffect::Send(command) => send_mapped(command, backend, machine),
        MappedEffect::LogicalId => {
            machine.shared.devices.logical_ids[machine.vcpu].set(&machine.devices.apic);
            return Action::Resume;
        }
    }
    behind_instruction(backend, machine)
}

/// Delivers the interrupt that can be delivered behind an instruction that is done.
fn behind_instruction<B: Backend>(backend: &mut B, machine: &mut Machine) -> Action {
    if machine.activity.init_pending {
        return initialized(backend, machine);
    }
    settle(backend, machine, true).map_or(Action::Resume, Action::Inject)
}

/// The move at RIP.
fn instruction<B: GuestState>(backend: &B, machine: &mut Machine) -> Option<Mov> {
    let rights = backend.get(State::CsRights);
    let (mode, base) = match (rights & RIGHTS_LONG != 0 && backend.is_in_long_mode(), rights & RIGHTS_DEFAULT_BIG != 0)
    {
        (true, _) => (CodeMode::Bits64, 0),
        (false, true) => (CodeMode::Bits32, backend.get(State::CsBase)),
        (false, false) => (CodeMode::Bits16, backend.get(State::CsBase)),
    };
    let mut bytes = [0; MAX_BYTES];
    let physical_bits = machine.devices.cpuid.physical_address_bits();
    let linear = base.wrapping_add(backend.get(State::Rip));
    let read = paging::fetch(backend, &mut machine.memory, physical_bits, linear, &mut bytes);
    decode(&bytes[..read], mode)
}

/// The value that is moved to memory.
fn get<B: GuestState>(mov: Mov, registers: &mut GuestRegisters, backend: &B) -> u64 {
    match mov.other {
        Other::Immediate(value) => value,
        Other::HighByte(number) => registers.by_number(number).map_or(0, |register| *register >> 8 & 0xff),
        Other::Register { number, .. } => {
            registers.by_number(number).map_or_else(|| backend.get(State::Rsp), |register| *register)
        }
    }
}

/// Moves a value from memory. A destination of 4 bytes clears the upper half, a smaller one keeps what is above it.
fn put<B: GuestState>(mov: Mov, value: u64, registers: &mut GuestRegisters, backend: &mut B) {
    let (number, bytes, shift) = match mov.other {
        Other::Immediate(_) => return,
        Other::HighByte(number) => (number, 1, 8),
        Other::Register { number, bytes } => (number, bytes, 0),
    };
    let value = value & u64::MAX >> (64 - 8 * u32::from(mov.bytes));
    let merge = |before: u64| match bytes {
        1 | 2 => {
            let mask = (u64::MAX >> (64 - 8 * u32::from(bytes))) << shift;
            before & !mask | value << shift & mask
        }
        _ => value,
    };
    match registers.by_number(number) {
        Some(register) => *register = merge(*register),
        None => backend.set(State::Rsp, merge(backend.get(State::Rsp))),
    }
}

/// WRMSR of IA32_APIC_BASE where the APIC's mode can be changed (SDM 3A 12.12.5): from either mode to none, from none to xAPIC mode, and
/// from that to x2APIC mode. The address stays.
#[cold]
#[inline(never)]
pub fn set_apic_base<B: Backend>(value: u64, backend: &mut B, machine: &mut Machine) -> Action {
    let before = machine.devices.msrs.apic_base();
    let allowed = match (before & MODE, value & MODE) {
        (from, to) if from == to => true,
        (_, NONE) | (NONE, XAPIC) | (XAPIC, MODE) => true,
        _ => false,
    };
    if !allowed || (before ^ value) & !MODE != 0 {
        return Action::Inject(Event::GENERAL_PROTECTION);
    }
    machine.devices.msrs.set_apic_base(value);
    machine.devices.cpuid.set_apic(value & MODE != NONE);
    if value & MODE == NONE && before & MODE != NONE {
        // The set-up is lost.
        machine.devices.apic.reset();
        arm(backend, machine);
    }
    // Without the APIC, interrupts of the ISA bus' controllers come through.
    advance(backend, machine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;
    use std::vec::Vec;

    use tollgate_abi::apic::{APIC_BASE, BOOT_PROCESSOR, IA32_APIC_BASE, ID, LVT_TIMER};
    use tollgate_abi::machine::PC;
    use tollgate_abi::machine::pc::{IO_APIC_GPA, SERIAL_INPUT};
    use tollgate_abi::x86::control::{EFER_LMA, RFLAGS_IF, RFLAGS_TF};
    use tollgate_abi::x86::cpuid::edx_1;
    use tollgate_abi::x86::msr::APIC_AT_RESET;

    use crate::board::{Condition, Message};
    use crate::devices::SharedDevices;
    use crate::devices::pages::Pages;
    use crate::exit::{GuestState, RawReason};
    use crate::handlers::{dispatch, msr};
    use crate::script::{Script, interruptible, machines};
    use tollgate_abi::ExitReason;

    /// Several vCPUs of the PC, in 64-bit code without paging at 0x1000.
    fn pcs<const VCPUS: usize>() -> [(Script, Machine); VCPUS] {
        let devices: &'static SharedDevices = Box::leak(Box::default());
        machines::<VCPUS>().map(|mut machine| {
            machine.shared.devices = devices;
            machine.devices.pages = Pages::new(&PC);
            let apic_base = machine.devices.msrs.apic_base();
            machine.devices.msrs.set_apic_base(apic_base & !APIC_BASE_X2APIC);
            machine.shared.board.set_condition(machine.vcpu, Condition::Running);
            (interruptible(), machine)
        })
    }

    /// The exit for an access of `code` to an offset in the APIC's page.
    fn exit(
        (backend, machine): &mut (Script, Machine),
        offset: u64,
        code: &[u8],
        registers: &mut GuestRegisters,
    ) -> Action {
        machine.memory.write(0x1000, code).unwrap();
        backend.set(State::Rip, 0x1000);
        backend.set(State::CsRights, RIGHTS_LONG);
        backend.set(State::Efer, EFER_LMA);
        let is_read = code.iter().any(|&byte| matches!(byte, 0x8a | 0x8b | 0xb6));
        let gpa = APIC_AT_RESET.wrapping_add(offset);
        backend.physical_fault = Some(PhysicalFault { gpa, read: is_read, write: !is_read, fetch: false });
        dispatch(RawReason(ExitReason::EPT_VIOLATION.0.into()), registers, backend, machine)
    }

    const STORE: &[u8] = &[0x89, 0x1f];
    const LOAD: &[u8] = &[0x8b, 0x1f];

    fn store(vcpu: &mut (Script, Machine), offset: u64, value: u64) -> Action {
        exit(vcpu, offset, STORE, &mut GuestRegisters { rbx: value, ..Default::default() })
    }

    fn load(vcpu: &mut (Script, Machine), offset: u64) -> u64 {
        let mut registers = GuestRegisters { rbx: u64::MAX, ..Default::default() };
        assert_eq!(exit(vcpu, offset, LOAD, &mut registers), Action::Resume);
        assert_eq!(vcpu.0.get(State::Rip), 0x1002);
        registers.rbx
    }

    #[test]
    fn registers_are_read_and_written_by_moves_of_every_size() {
        let [mut first, mut second] = pcs();
        assert_eq!((load(&mut first, 0x20), load(&mut second, 0x20)), (0, 1 << 24));
        assert_eq!(store(&mut first, 0x80, 0xffff_ff23), Action::Resume);
        assert_eq!((load(&mut first, 0x80), first.1.devices.apic.cr8()), (0x23, 2));
        let mut registers = GuestRegisters { rbx: 0x1111_2222_3333_4444, ..Default::default() };
        for (code, rbx) in [
            (&[0x8a, 0x1f][..], 0x1111_2222_3333_4423),
            (&[0x8a, 0x3f], 0x1111_2222_3333_2323),
            (&[0x66, 0x8b, 0x1f], 0x1111_2222_3333_0023),
            (&[0x48, 0x8b, 0x1f], 0x23),
            (&[0x0f, 0xb6, 0x1f], 0x23),
        ] {
            assert_eq!(exit(&mut first, 0x80, code, &mut registers), Action::Resume);
            assert_eq!(registers.rbx, rbx, "{code:x?}");
            assert_eq!(first.0.get(State::Rip), 0x1000 + code.len() as u64);
        }
        assert_eq!(exit(&mut first, 0x80, &[0x88, 0x1f], &mut registers), Action::Resume, "a byte is not written");
        assert_eq!(load(&mut first, 0x80), 0x23);
        let immediate = &[0xc7, 0x07, 0x30, 0, 0, 0];
        assert_eq!(exit(&mut first, 0x80, immediate, &mut registers), Action::Resume);
        first.0.set(State::Rsp, 0x40);
        assert_eq!(
            (load(&mut first, 0x80), exit(&mut first, 0x80, &[0x89, 0x27], &mut registers)),
            (0x30, Action::Resume)
        );
        assert_eq!(load(&mut first, 0x80), 0x40, "RSP");
    }

    #[test]
    fn what_is_no_move_or_no_devices_ends_the_guest() {
        let [mut first] = pcs();
        let stopped = Action::Stop(Outcome::OutsideMemory);
        let mut registers = GuestRegisters::default();
        assert_eq!(exit(&mut first, 0x80, &[0x01, 0x1f], &mut registers), stopped);
        assert_eq!(exit(&mut first, 0x1000, STORE, &mut registers), stopped);
        first.0.vectoring_event = Some(Event::UNDEFINED_OPCODE);
        assert_eq!(store(&mut first, 0x80, 0), stopped);
        let [mut other] = machines::<1>();
        other.devices.pages = Pages::new(&tollgate_abi::machine::UNIKERNEL);
        assert_eq!(store(&mut (interruptible(), other), 0x80, 0), stopped);
    }

    #[test]
    fn interrupts_are_sent_and_ended_and_come_behind_the_instruction() {
        let [mut first, second] = pcs();
        let _ = store(&mut first, 0x310, 1 << 24);
        assert_eq!(store(&mut first, 0x300, 0x4055), Action::Resume);
        assert_eq!((&first.0.kicks[..], second.1.shared.board.receive(1)), (&[1][..], Some(Message::Interrupt(0x55))));
        let to_self = 0x4_4041;
        assert_eq!(store(&mut first, 0x300, to_self), Action::Inject(Event::interrupt(0x41)));
        assert_eq!(first.0.get(State::Rip), 0x1002, "behind the instruction");
        assert_eq!(store(&mut first, 0x300, to_self), Action::Resume, "0x41 is in service");
        first.0.set(State::Rflags, RFLAGS_IF | RFLAGS_TF);
        assert_eq!(store(&mut first, 0xb0, 0), Action::Resume, "the single step comes first");
        first.0.set(State::Rflags, RFLAGS_IF);
        assert_eq!(load(&mut first, 0x220), 1 << 1, "still requested");
        assert_eq!(store(&mut first, 0x320, 0x31), Action::Resume);
        assert_eq!(store(&mut first, 0x380, 100), Action::Resume);
        assert_eq!(first.0.timer, Some(200));
    }

    /// The IOAPIC's page, as an offset in the local APIC's.
    const IO_APIC: u64 = IO_APIC_GPA.wrapping_sub(APIC_AT_RESET);

    #[test]
    fn a_line_that_is_up_interrupts_once_its_input_is_unmasked() {
        let [mut first] = pcs();
        let devices = first.1.shared.devices;
        for (at, value) in [(4, 8), (1, 2)] {
            devices.serial.write(at, value);
        }
        let entry = 0x10 + 2 * SERIAL_INPUT as u64;
        assert_eq!(store(&mut first, IO_APIC, entry), Action::Resume);
        assert_eq!(store(&mut first, IO_APIC + 0x10, 0x1_8041), Action::Resume);
        assert_eq!(store(&mut first, IO_APIC + 0x10, 0x8041), Action::Inject(Event::interrupt(0x41)));
        assert_eq!(first.0.get(State::Rip), 0x1002, "behind the instruction");
        assert_eq!(load(&mut first, IO_APIC + 0x10), 0xc041);
        let mut registers = GuestRegisters { rbx: 0x1234, ..Default::default() };
        let byte = exit(&mut first, IO_APIC + 0x11, &[0x8a, 0x1f], &mut registers);
        assert_eq!((byte, registers.rbx), (Action::Resume, 0x12c0), "a byte of a register");
        assert_eq!(store(&mut first, IO_APIC + 0x40, 0x41), Action::Resume, "in service: no class above it waits");
        assert_eq!(store(&mut first, 0xb0, 0), Action::Inject(Event::interrupt(0x41)), "sent by the one before");
        devices.serial.read(2);
        assert_eq!(store(&mut first, 0xb0, 0), Action::Resume);
    }

    #[test]
    fn a_logical_destination_is_what_the_receiver_chose() {
        let [mut first, mut second, mut third] = pcs();
        for (vcpu, id) in [(&mut second, 4), (&mut third, 2)] {
            assert_eq!(store(vcpu, 0xe0, u64::from(u32::MAX)), Action::Resume);
            assert_eq!(store(vcpu, 0xd0, id << 24), Action::Resume);
        }
        let _ = store(&mut first, 0x310, 2 << 24);
        assert_eq!(store(&mut first, 0x300, 0x4855), Action::Resume);
        assert_eq!(first.0.kicks, [2]);
        let board = first.1.shared.board;
        assert_eq!((board.receive(1), board.receive(2)), (None, Some(Message::Interrupt(0x55))));
    }

    #[test]
    fn the_registers_are_in_memory_in_xapic_mode_alone() {
        let [mut pc] = pcs();
        let base = pc.1.devices.msrs.apic_base();
        let _ = store(&mut pc, 0x80, 0x20);
        for (mode, has_apic, task_priority) in [
            (base | APIC_BASE_X2APIC, true, u64::from(u32::MAX)),
            (base & !APIC_BASE_ENABLED, false, u32::MAX.into()),
            (base, true, 0),
        ] {
            let registers =
                GuestRegisters { rcx: IA32_APIC_BASE.into(), rax: mode & 0xffff_ffff, ..Default::default() };
            assert_eq!(msr::write(&registers, &mut pc.0, &mut pc.1), Action::Advance);
            assert_eq!(load(&mut pc, 0x80), task_priority, "{mode:#x}");
            let is_shown = pc.1.devices.cpuid.answer(1, 0, 0).edx & edx_1::APIC != 0;
            assert_eq!(is_shown, has_apic, "{mode:#x}");
            if task_priority != 0 {
                assert_eq!(store(&mut pc, 0x80, 0x50), Action::Resume, "to nowhere");
            }
        }
    }

    #[test]
    fn the_mode_changes_as_the_manual_allows() {
        let [mut pc] = pcs();
        let base = APIC_BASE | BOOT_PROCESSOR;
        pc.1.devices.msrs.set_apic_base(base);
        let mut write = |value: u64| {
            let registers = GuestRegisters {
                rcx: IA32_APIC_BASE.into(),
                rax: value & 0xffff_ffff,
                rdx: value >> 32,
                ..Default::default()
            };
            let (backend, machine) = &mut pc;
            let action = msr::write(&registers, backend, machine);
            (action == Action::Advance, machine.devices.msrs.quick(IA32_APIC_BASE))
        };
        let modes: Vec<_> = [
            base & !APIC_BASE_X2APIC,
            base & !APIC_BASE_X2APIC & !APIC_BASE_ENABLED,
            base,
            base & !APIC_BASE_X2APIC,
            base & !APIC_BASE_ENABLED,
            base + 0x1000,
            base & !BOOT_PROCESSOR,
            base,
        ]
        .into_iter()
        .map(&mut write)
        .collect();
        let (none, xapic) = (base & !APIC_BASE_X2APIC & !APIC_BASE_ENABLED, base & !APIC_BASE_X2APIC);
        let expected = [
            (false, base),
            (true, none),
            (false, none),
            (true, xapic),
            (false, xapic),
            (false, xapic),
            (false, xapic),
            (true, base),
        ];
        assert_eq!(modes, expected.map(|(allowed, value)| (allowed, Some(value))));
        let (_, machine) = &pc;
        assert_eq!((machine.devices.apic.read(ID, 0), machine.devices.apic.read(LVT_TIMER, 0)), (Ok(0), Ok(0x1_0000)));
    }
}
