//! MOV to and from debug registers (SDM 3B 18.2).
//!
//! DR0 to DR3 and DR6 are the guest's own: the monitor uses no breakpoints, and VM exits leave DR7 disabled for it.

use crate::exit::{Action, DrAccess, Event, ExitFacts, GuestRegisters, GuestState, State, VolatileRegisters, vector};
use crate::machine::Machine;
use tollgate_abi::x86::control::*;

/// The bits of DR6 that can be set. Bus lock and RTM always read 1, since CPUID does not show them.
const DR6_SETTABLE: u64 = DR6_BREAKPOINTS | DR6_BD | DR6_BS | DR6_BT;

/// Debug registers by number. Accesses to DR4 and DR5 have been dealt with before this is asked.
static STATES: [State; 8] =
    [State::Dr0, State::Dr1, State::Dr2, State::Dr3, State::Dr0, State::Dr0, State::Dr6, State::Dr7];

/// The access, by the volatile registers, where it is told. One of another register is left.
pub fn brief<B: ExitFacts + GuestState>(
    registers: &mut VolatileRegisters,
    backend: &mut B,
    _: &mut Machine,
) -> Option<Action> {
    let access = backend.told_dr_access().filter(|access| VolatileRegisters::has(access.register))?;
    let operand = if access.is_read { 0 } else { backend.volatile(registers, access.register) };
    Some(perform(access, backend, operand, |backend, value| backend.set_volatile(registers, access.register, value)))
}

/// Performs the access.
#[inline(never)]
pub fn handle<B: GuestState>(access: DrAccess, registers: &mut GuestRegisters, backend: &mut B) -> Action {
    let operand = match registers.by_number(access.register) {
        Some(value) => *value,
        None => backend.get(State::Rsp),
    };
    perform(access, backend, operand, |backend, value| match registers.by_number(access.register) {
        Some(into) => *into = value,
        None => backend.set(State::Rsp, value),
    })
}

/// Performs the access of an operand with this value, which `put` replaces.
#[inline(always)]
fn perform<B: GuestState>(access: DrAccess, backend: &mut B, operand: u64, put: impl FnOnce(&mut B, u64)) -> Action {
    // VT-x on Bochs exits before it looks at the privilege level.
    if backend.privilege_level() != 0 {
        return Action::Inject(Event::GENERAL_PROTECTION);
    }
    let dr = match access.dr {
        dr if dr & !1 != 4 => dr,
        _ if backend.get(State::Cr4) & CR4_DE != 0 => return Action::Inject(Event::UNDEFINED_OPCODE),
        dr => dr + 2,
    };
    let dr7 = backend.get(State::Dr7);
    if dr7 & DR7_GD != 0 {
        backend.set(State::Dr6, backend.get(State::Dr6) | DR6_BD);
        backend.set(State::Dr7, dr7 & !DR7_GD);
        return Action::Inject(Event::exception(vector::DB));
    }
    let state = STATES[usize::from(dr & 7)];
    if access.is_read {
        let value = backend.get(state);
        put(backend, value);
        return Action::Advance;
    }
    let value = match operand >> 32 {
        0 => operand,
        // Outside of 64-bit mode the operand has 32 bits (SDM 1 3.4.1.1).
        _ if backend.get(State::CsRights) & RIGHTS_LONG == 0 => operand & u64::from(u32::MAX),
        _ if dr >= 6 => return Action::Inject(Event::GENERAL_PROTECTION),
        _ => operand,
    };
    backend.set(
        state,
        match state {
            State::Dr6 => value & DR6_SETTABLE | DR6_AT_RESET,
            State::Dr7 => value & !DR7_ZEROS | DR7_FIXED,
            _ => value,
        },
    );
    Action::Advance
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Script;

    fn access(backend: &mut Script, dr: u8, is_read: bool, rax: u64) -> (Action, u64) {
        let mut registers = GuestRegisters { rax, ..Default::default() };
        (handle(DrAccess { dr, register: 0, is_read }, &mut registers, backend), registers.rax)
    }

    #[test]
    fn registers_read_back_with_their_fixed_bits() {
        let mut backend = Script::default();
        backend.set(State::CsRights, RIGHTS_LONG);
        for (dr, value, read) in
            [(0, 0x1234, 0x1234), (3, !0, !0), (6, !0 >> 32, 0xffff_efff), (6, 0, 0xffff_0ff0), (7, 0xd001, 0x401)]
        {
            assert_eq!(access(&mut backend, dr, false, value).0, Action::Advance);
            assert_eq!(access(&mut backend, dr, true, 0), (Action::Advance, read), "DR{dr}");
        }
        assert_eq!(access(&mut backend, 7, false, 1 << 32).0, Action::Inject(Event::GENERAL_PROTECTION));
        assert_eq!(access(&mut backend, 4, true, 0), (Action::Advance, DR6_AT_RESET), "DR4 is DR6");
        backend.set(State::CsRights, 0);
        for (dr, read) in [(0, 0x401), (7, 0x401)] {
            assert_eq!(access(&mut backend, dr, false, 0xdead_0000_0401).0, Action::Advance);
            assert_eq!(access(&mut backend, dr, true, 0), (Action::Advance, read), "DR{dr} in compatibility mode");
        }
        backend.set(State::Cr4, CR4_DE);
        assert_eq!(access(&mut backend, 4, true, 0).0, Action::Inject(Event::UNDEFINED_OPCODE));
    }

    #[test]
    fn ring_3_has_no_debug_registers() {
        let mut backend = Script::default();
        backend.set(State::Cr0, 1);
        backend.set(State::SsRights, 3 << 5);
        for is_read in [false, true] {
            assert_eq!(access(&mut backend, 7, is_read, 0x401), (Action::Inject(Event::GENERAL_PROTECTION), 0x401));
        }
        assert_eq!(backend.get(State::Dr7), 0);
    }

    #[test]
    fn general_detect_raises_db() {
        let mut backend = Script::default();
        backend.set(State::Dr7, DR7_GD | DR7_FIXED);
        assert_eq!(access(&mut backend, 0, true, 0).0, Action::Inject(Event::exception(vector::DB)));
        assert_eq!((backend.get(State::Dr7), backend.get(State::Dr6) & DR6_BD), (DR7_FIXED, DR6_BD));
    }
}
