//! I/O instructions, single and string: they move bytes between registers or memory and the devices behind ports.

use crate::devices::Effect;
use crate::devices::ports::Reached;
use crate::ended::GuestExit;
use crate::exit::{
    Action, Backend, ExitFacts, GuestRegisters, GuestState, IoAccess, Pause, Processor, Quickly, State,
    VolatileRegisters,
};
use crate::handlers::{delivery, lines};
use crate::machine::Machine;
use crate::paging::{self, Fault};
use tollgate_abi::workload::Outcome;
use tollgate_abi::x86::control::{RFLAGS_DF, RIGHTS_LONG};

/// The most bytes that one exit moves; a longer REP goes on at the same instruction.
const STRING_BYTES: u64 = 4096;
/// Bytes that are few: a buffer for them is cleared in no time.
const FEW_BYTES: usize = 32;

/// IN and OUT on ports that ask no device.
#[inline(always)]
pub fn quick<B: ExitFacts + GuestState>(
    registers: &mut VolatileRegisters,
    backend: &mut B,
    machine: &mut Machine,
) -> Quickly {
    let access = backend.io_access();
    if access.is_string {
        return Quickly::NotDecided;
    }
    let Some(plain) = machine.devices.ports.plain(access.port) else { return Quickly::NotDecided };
    if access.is_in {
        let (rax, value) = (backend.rax(registers), plain.map_or(!0, |byte| byte.read()));
        backend.set_rax(registers, merge(rax, value, access.bytes));
    } else if let Some(byte) = plain {
        byte.write(backend.rax(registers) as u32);
    }
    Quickly::Decided
}

/// IN and OUT on ports that ask a device, by the volatile registers.
#[inline(always)]
pub fn brief<B: Backend>(registers: &mut VolatileRegisters, backend: &mut B, machine: &mut Machine) -> Option<Action> {
    let access = backend.io_access();
    if access.is_string {
        return None;
    }
    let rax = backend.rax(registers);
    Some(single(access, rax, backend, machine, |backend, rax| backend.set_rax(registers, rax)))
}

/// Performs the access.
#[inline(never)]
pub fn handle<B: Backend>(
    access: IoAccess,
    registers: &mut GuestRegisters,
    backend: &mut B,
    machine: &mut Machine,
) -> Action {
    if access.is_string {
        return string(access, registers, backend, machine);
    }
    single(access, registers.rax, backend, machine, |_, rax| registers.rax = rax)
}

/// Performs the access of IN or OUT. `put` replaces RAX.
#[inline(always)]
fn single<B: Backend>(
    access: IoAccess,
    rax: u64,
    backend: &mut B,
    machine: &mut Machine,
    put: impl FnOnce(&mut B, u64),
) -> Action {
    let reached = machine.devices.ports.reach(access.port);
    let now = || machine.skipped_ticks.wrapping_add(backend.tsc());
    if access.is_in {
        let value = machine.devices.ports.read(reached, access.bytes, now);
        put(backend, merge(rax, value, access.bytes));
        return Action::Advance;
    }
    match machine.devices.ports.write(reached, access.bytes, rax as u32, now) {
        Effect::None => Action::Advance,
        effect => of_effect(effect, backend, machine),
    }
}

/// The action for the effect of an OUT that is done.
#[cold]
fn of_effect<B: Backend>(effect: Effect, backend: &mut B, machine: &mut Machine) -> Action {
    let pause = match effect {
        Effect::None => return Action::Advance,
        Effect::Rise if lines::send(backend, machine) => return lines::advance_sent(backend, machine),
        Effect::Rise => return Action::Advance,
        Effect::Print => Pause::Print,
        Effect::Look => Pause::Look,
        Effect::PowerOff => return Action::Stop(Outcome::PoweredOff),
        Effect::Reset => return Action::Stop(Outcome::Reset),
        Effect::DebugExit => {
            let status = machine.shared.devices.isa_bus.ending.code().into();
            machine.stage.exit = Some(GuestExit { status, book_gpa: 0 });
            return Action::Stop(Outcome::DebugExit);
        }
    };
    if lines::send(backend, machine) {
        // It comes behind the pause.
        delivery::refresh(backend, machine);
    }
    Action::AdvanceAndPause(pause)
}

/// RAX after an IN of `bytes` bytes (SDM 1 3.4.1.1: a doubleword clears the upper half).
#[inline(always)]
fn merge(rax: u64, value: u32, bytes: u8) -> u64 {
    /// The bits that change, by the number of bytes.
    static CHANGED: [u64; 9] = [0, 0xff, 0xffff, 0, !0, 0, 0, 0, 0];
    rax ^ (rax ^ u64::from(value)) & CHANGED[usize::from(bytes)]
}

/// Replaces the low `bytes` bytes of a register as an instruction of that address size does.
fn step(register: &mut u64, bytes: u8, value: u64) {
    *register = match bytes {
        2 => *register & !0xffff | value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    };
}

/// Performs the access of a string instruction. Apart, for its buffer: the other instructions need no stack frame.
#[inline(never)]
fn string<B: Backend>(
    access: IoAccess,
    registers: &mut GuestRegisters,
    backend: &mut B,
    machine: &mut Machine,
) -> Action {
    let address_bytes = backend.string_io_address_bytes();
    let address_mask = u64::MAX >> (64 - 8 * u32::from(address_bytes));
    let wanted = if access.is_repeated { registers.rcx & address_mask } else { 1 };
    let backwards = backend.get(State::Rflags) & RFLAGS_DF != 0;
    let offset = if access.is_in { registers.rdi } else { registers.rsi } & address_mask;
    let segment_base = backend.string_io_segment_base(offset);
    // Outside of 64-bit mode linear addresses have 32 bits (SDM 3A 3.3.1), and no instruction has addresses of 64.
    let is_64_bit = address_bytes == 8 || backend.get(State::CsRights) & RIGHTS_LONG != 0;
    let linear_mask = if is_64_bit { u64::MAX } else { u32::MAX.into() };
    let reached = machine.devices.ports.reach(access.port);
    let mut left = wanted.min(STRING_BYTES / u64::from(access.bytes));
    let stops_early = left < wanted;
    let mut effect = Effect::None;
    while left > 0 {
        let pointer = if access.is_in { &mut registers.rdi } else { &mut registers.rsi };
        let offset = *pointer & address_mask;
        let linear = segment_base.wrapping_add(offset) & linear_mask;
        let elements = if backwards { 1 } else { left.min(elements_ahead(linear, offset, address_mask, access.bytes)) };
        let bytes = elements * u64::from(access.bytes);
        let moved = if bytes > FEW_BYTES as u64 {
            many(access, reached, linear, bytes as usize, backend, machine)
        } else {
            piece(access, reached, linear, &mut [0; FEW_BYTES][..bytes as usize], backend, machine)
        };
        match moved {
            Ok(Effect::None) => {}
            Ok(more) => effect = both(effect, more),
            Err(fault) => {
                if effect != Effect::None && lines::send(backend, machine) {
                    delivery::refresh(backend, machine);
                }
                return fault.into();
            }
        }
        let next = if backwards { pointer.wrapping_sub(bytes) } else { pointer.wrapping_add(bytes) };
        step(pointer, address_bytes, next);
        if access.is_repeated {
            let count = registers.rcx.wrapping_sub(elements);
            step(&mut registers.rcx, address_bytes, count);
        }
        left -= elements;
    }
    if stops_early { Action::Resume } else { of_effect(effect, backend, machine) }
}

/// The number of whole elements before the end of the page and the wrap of the address; 1 if the first crosses either.
fn elements_ahead(linear: u64, offset: u64, address_mask: u64, bytes: u8) -> u64 {
    let in_page = 4096 - (linear & 4095);
    let before_wrap = (address_mask - offset).saturating_add(1);
    (in_page.min(before_wrap) / u64::from(bytes)).max(1)
}

/// [`piece`] of more than a few bytes.
#[inline(never)]
fn many<B: GuestState + Processor>(
    access: IoAccess,
    reached: Reached,
    linear: u64,
    bytes: usize,
    backend: &mut B,
    machine: &mut Machine,
) -> Result<Effect, Fault> {
    piece(access, reached, linear, &mut [0; STRING_BYTES as usize][..bytes], backend, machine)
}

/// Moves several elements that lie in one page, or a single element that crosses the end of a page. Nothing is moved if any of
/// them faults: guest memory is tried before the port is asked, since bytes from a port can't be given back.
#[inline(never)]
fn piece<B: GuestState + Processor>(
    access: IoAccess,
    reached: Reached,
    linear: u64,
    buffer: &mut [u8],
    backend: &mut B,
    machine: &mut Machine,
) -> Result<Effect, Fault> {
    let size = usize::from(access.bytes);
    if access.is_in {
        paging::probe_write(backend, machine, linear, buffer.len())?;
        for element in buffer.chunks_exact_mut(size) {
            let now = || machine.skipped_ticks.wrapping_add(backend.tsc());
            let value = machine.devices.ports.read(reached, access.bytes, now);
            element.copy_from_slice(&value.to_le_bytes()[..size]);
        }
        return paging::write(backend, machine, linear, buffer).map(|()| Effect::None);
    }
    paging::read(backend, machine, linear, buffer)?;
    let mut effect = Effect::None;
    for element in buffer.chunks_exact(size) {
        let mut value = [0; 4];
        value[..size].copy_from_slice(element);
        let now = || machine.skipped_ticks.wrapping_add(backend.tsc());
        match machine.devices.ports.write(reached, access.bytes, u32::from_le_bytes(value), now) {
            Effect::None => {}
            more => effect = both(effect, more),
        }
    }
    Ok(effect)
}

/// The effect of two writes in a row: the second's, unless the first's comprises it. That of a line that rises is in the others.
#[cold]
#[inline(never)]
fn both(first: Effect, second: Effect) -> Effect {
    match (first, second) {
        (Effect::Print, Effect::Look | Effect::Rise) | (Effect::Look, Effect::Rise) => first,
        _ => second,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::{Event, GuestState, vector};
    use crate::script::{Script, machine};
    use tollgate_abi::machine::{LOOPBACK_PORT, POST_PORT};
    use tollgate_abi::x86::control::EFER_LMA;

    #[test]
    fn in_keeps_what_is_above_a_small_result() {
        assert_eq!(merge(!0, 0x12, 1), !0xff | 0x12);
        assert_eq!(merge(!0, 0x1234, 2), !0xffff | 0x1234);
        assert_eq!(merge(!0, 0x1234_5678, 4), 0x1234_5678);
    }

    /// Identity-mapped memory with a string at 0xff0.
    fn string_machine(access: IoAccess) -> (Script, Machine) {
        let (mut backend, mut machine) = (Script { string_io: (0xff0, 8), ..Script::default() }, machine());
        for (at, value) in
            [(0x1000, 0x2003), (0x2000, 0x3003), (0x3000, 0x4003), (0x4000, 0x3), (0x4008, 0x1003), (0x4010, 0x2002)]
        {
            machine.memory.write_u64(at, value).unwrap();
        }
        machine.memory.write(0xff0, b"0123456789abcdef").unwrap();
        backend.set(State::Cr3, 0x1000);
        backend.set(State::Cr0, 1 << 31 | 1);
        backend.set(State::Efer, EFER_LMA);
        backend.io = Some(access);
        (backend, machine)
    }

    #[test]
    fn strings_go_out_and_come_in() {
        let access = IoAccess { port: LOOPBACK_PORT, bytes: 2, is_in: false, is_string: true, is_repeated: true };
        let (mut backend, mut machine) = string_machine(access);
        let mut registers = GuestRegisters { rcx: 8, rsi: 0xff0, rdi: 0xff8, ..Default::default() };
        assert_eq!(handle(access, &mut registers, &mut backend, &mut machine), Action::Advance);
        assert_eq!((registers.rcx, registers.rsi), (0, 0x1000));
        backend.string_io.0 = 0xff8;
        registers.rcx = 3;
        assert_eq!(
            handle(IoAccess { is_in: true, ..access }, &mut registers, &mut backend, &mut machine),
            Action::Advance
        );
        assert_eq!((registers.rcx, registers.rdi), (0, 0xffe));
        let mut bytes = [0; 8];
        machine.memory.read(0xff8, &mut bytes).unwrap();
        assert_eq!(&bytes, b"012345ef");
    }

    #[test]
    fn a_string_that_runs_into_an_unmapped_page_stops_there() {
        let access = IoAccess { port: POST_PORT, bytes: 1, is_in: false, is_string: true, is_repeated: true };
        let (mut backend, mut machine) = string_machine(access);
        backend.string_io.0 = 0x1ffe;
        let mut registers = GuestRegisters { rcx: 5, rsi: 0x1ffe, ..Default::default() };
        assert_eq!(
            handle(access, &mut registers, &mut backend, &mut machine),
            Action::Inject(Event::fault(vector::PF, 0))
        );
        assert_eq!((registers.rcx, registers.rsi, backend.get(State::Cr2)), (3, 0x2000, 0x2000));
        backend.string_io.0 = 0x2000;
        let mut registers = GuestRegisters { rcx: 1, rdi: 0x2000, ..Default::default() };
        let action = handle(IoAccess { is_in: true, ..access }, &mut registers, &mut backend, &mut machine);
        assert_eq!(action, Action::Inject(Event::fault(vector::PF, 2)), "a write");
    }

    #[test]
    fn addresses_wrap_at_their_size() {
        assert_eq!(elements_ahead(0x1_0000_0ff8, 0xffff_fff8, 0xffff_ffff, 4), 2);
        assert_eq!(elements_ahead(0xffff_fff0, 0xffff_fff0, 0xffff_ffff, 1), 16);
        assert_eq!(elements_ahead(0xfff, 0xfff, u64::MAX, 2), 1);
        let access = IoAccess { port: POST_PORT, bytes: 1, is_in: false, is_string: true, is_repeated: true };
        let (mut backend, mut machine) = string_machine(access);
        // Offset 0xffff with a segment base of 0x1000 - 0xffff: the first byte lies at 0x1000, the next at the base.
        backend.string_io = (0x1000, 2);
        let mut registers = GuestRegisters { rcx: 0x5_0002, rsi: 0x7_ffff, ..Default::default() };
        let action = handle(access, &mut registers, &mut backend, &mut machine);
        assert_eq!(action, Action::Inject(Event::fault(vector::PF, 0)), "the base wraps to the top, which is unmapped");
        assert_eq!((registers.rcx, registers.rsi), (0x5_0001, 0x7_0000));
        // Offset 0xfff0 with a base that leads beyond 4 GiB, where no linear address lies outside of 64-bit mode.
        let beyond = |rights| {
            let (mut backend, mut machine) = string_machine(access);
            backend.string_io = (0x1_0000_0ff0, 4);
            backend.set(State::CsRights, rights);
            let mut registers = GuestRegisters { rcx: 1, rsi: 0xfff0, ..Default::default() };
            handle(access, &mut registers, &mut backend, &mut machine)
        };
        assert_eq!(beyond(0), Action::Advance);
        assert_eq!(beyond(RIGHTS_LONG), Action::Inject(Event::fault(vector::PF, 0)));
    }

    #[test]
    fn strings_go_out_without_paging() {
        let access = IoAccess { port: POST_PORT, bytes: 1, is_in: false, is_string: true, is_repeated: true };
        let (mut backend, mut machine) = string_machine(access);
        backend.set(State::Cr0, 0);
        backend.string_io = (0x2ffe, 2);
        let mut registers = GuestRegisters { rcx: 4, rsi: 0x2ffe, ..Default::default() };
        assert_eq!(handle(access, &mut registers, &mut backend, &mut machine), Action::Advance);
        assert_eq!((registers.rcx, registers.rsi), (0, 0x3002));
    }

    #[test]
    fn backwards_and_very_long_strings() {
        let access = IoAccess { port: POST_PORT, bytes: 1, is_in: false, is_string: true, is_repeated: true };
        let (mut backend, mut machine) = string_machine(access);
        backend.set(State::Rflags, RFLAGS_DF);
        let mut registers = GuestRegisters { rcx: 4, rsi: 0xff0, ..Default::default() };
        assert_eq!(handle(access, &mut registers, &mut backend, &mut machine), Action::Advance);
        assert_eq!((registers.rcx, registers.rsi), (0, 0xfec));
        backend.set(State::Rflags, 0);
        backend.string_io.0 = 0;
        let mut registers = GuestRegisters { rcx: u64::MAX, ..Default::default() };
        assert_eq!(handle(access, &mut registers, &mut backend, &mut machine), Action::Resume);
        assert_eq!((registers.rcx, registers.rsi), (u64::MAX - 4096, 4096));
    }
}
