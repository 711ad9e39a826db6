//! Control-register accesses: MOV to and from CR0, CR3, CR4, CR8, CLTS and LMSW.
//!
//! A machine in which a guest may be in any mode ([`Configuration::any_mode`](crate::machine::Configuration::any_mode)) lets it
//! change between real mode, protected mode without paging, with 32-bit paging, with PAE paging, and IA-32e mode, as a processor
//! does. In any other a guest in IA-32e mode stays there: a value that would leave it from compatibility mode stops the guest, as
//! does paging without IA-32e mode. 64-bit mode refuses such values in both.

use tollgate_abi::workload::Outcome;
use tollgate_abi::x86::control::*;

use crate::exit::{
    Action, Backend, CrAccess, Event, ExitFacts, GuestRegisters, GuestState, Pause, Quickly, State, VolatileRegisters,
};
use crate::handlers::delivery;
use crate::machine::Machine;
use crate::paging;

/// The bits that LMSW loads.
const LMSW_BITS: u64 = CR0_PE | CR0_MP | CR0_EM | CR0_TS;

/// The bits of CR4 whose change drops translations, and loads the page-directory-pointer entries of PAE paging (SDM 3A 4.4.1).
const CR4_FLUSHES: u64 = CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP;
/// The bits of CR0 whose change loads these entries.
const CR0_LOADS: u64 = CR0_CD | CR0_NW | CR0_PG;

const REFUSED: Action = Action::Inject(Event::GENERAL_PROTECTION);

/// MOV to CR0 of a value that only needs to be stored: caches on, still in IA-32e mode.
#[inline(always)]
pub fn quick<B: ExitFacts + GuestState>(
    registers: &mut VolatileRegisters,
    backend: &mut B,
    _: &mut Machine,
) -> Quickly {
    let Some(register) = backend.cr0_write() else { return Quickly::NotDecided };
    match backend.volatile(registers, register) {
        value if store_cr0(value, backend) => Quickly::Decided,
        // The value of a register that is not at hand.
        0 => Quickly::LacksRegister,
        _ => Quickly::NotDecided,
    }
}

/// [`quick`] with all of the guest's registers at hand.
#[inline(never)]
pub fn quick_of_any<B: ExitFacts + GuestState>(registers: &mut GuestRegisters, backend: &mut B) -> bool {
    let register = backend.cr0_write().and_then(|register| registers.by_number(register).copied());
    register.is_some_and(|value| store_cr0(value, backend))
}

/// Stores a value that only needs to be stored. 0 is none.
#[inline(always)]
fn store_cr0<B: GuestState>(value: u64, backend: &mut B) -> bool {
    const LOOKED_AT: u64 = !0 << 32 | CR0_PG | CR0_CD | CR0_NW | CR0_PE;
    let stays = value & LOOKED_AT == CR0_PG | CR0_PE;
    if stays {
        backend.set(State::Cr0, cr0_stored(value));
    }
    stays
}

/// Whether CR0 can hold the value in IA-32e mode.
const fn cr0_stays(value: u64) -> bool {
    value & (!0 << 32 | CR0_PE | CR0_PG) == CR0_PE | CR0_PG && value & (CR0_NW | CR0_CD) != CR0_NW
}

#[inline(always)]
const fn cr0_stored(value: u64) -> u64 {
    value & CR0_DEFINED | CR0_ET
}

/// The access, by the volatile registers, where it is told. One of another register is left.
pub fn brief<B: Backend>(registers: &mut VolatileRegisters, backend: &mut B, machine: &mut Machine) -> Option<Action> {
    match backend.told_cr_access()? {
        CrAccess::Write { cr, register } if VolatileRegisters::has(register) => {
            Some(write(cr, backend.volatile(registers, register), backend, machine))
        }
        CrAccess::Read { cr, register } if VolatileRegisters::has(register) => {
            backend.set_volatile(registers, register, read(cr, backend, machine));
            Some(Action::Advance)
        }
        CrAccess::Write { .. } | CrAccess::Read { .. } => None,
        CrAccess::Clts => Some(clear_ts(backend)),
        CrAccess::Lmsw { source } => Some(load_low(source, backend, machine)),
    }
}

/// Performs the access.
#[inline(never)]
pub fn handle<B: Backend>(
    access: CrAccess,
    registers: &mut GuestRegisters,
    backend: &mut B,
    machine: &mut Machine,
) -> Action {
    match access {
        CrAccess::Write { cr, register } => {
            let value = match registers.by_number(register) {
                Some(value) => *value,
                None => backend.get(State::Rsp),
            };
            write(cr, value, backend, machine)
        }
        CrAccess::Read { cr, register } => {
            let value = read(cr, backend, machine);
            match registers.by_number(register) {
                Some(into) => *into = value,
                None => backend.set(State::Rsp, value),
            }
            Action::Advance
        }
        CrAccess::Clts => clear_ts(backend),
        CrAccess::Lmsw { source } => load_low(source, backend, machine),
    }
}

/// CLTS. The other bits of CR0 have been checked when they were written.
#[inline(never)]
fn clear_ts<B: GuestState>(backend: &mut B) -> Action {
    backend.set(State::Cr0, backend.get(State::Cr0) & !CR0_TS);
    Action::Advance
}

/// LMSW. It sets PE and never clears it.
#[inline(never)]
fn load_low<B: GuestState>(source: u16, backend: &mut B, machine: &Machine) -> Action {
    let old = backend.get(State::Cr0);
    write_cr0(old & (!LMSW_BITS | CR0_PE) | u64::from(source) & LMSW_BITS, backend, machine)
}

#[inline(always)]
fn read<B: GuestState>(cr: u8, backend: &B, machine: &Machine) -> u64 {
    if cr == 3 { backend.get(State::Cr3) } else { machine.devices.apic.cr8() }
}

#[inline(always)]
fn write<B: Backend>(cr: u8, value: u64, backend: &mut B, machine: &mut Machine) -> Action {
    match cr {
        0 => write_cr0(value, backend, machine),
        3 => write_cr3(value, backend, machine),
        4 => write_cr4(value, backend, machine),
        _ => write_cr8(value, backend, machine),
    }
}

/// The value of a register operand. Outside of 64-bit mode the operand has 32 bits, and those above are undefined (SDM 1
/// 3.4.1.1). Only needed where the whole value would be refused.
fn low_half<B: GuestState>(value: u64, backend: &B) -> u64 {
    if backend.get(State::CsRights) & RIGHTS_LONG != 0 { value } else { value & u64::from(u32::MAX) }
}

fn write_cr0<B: GuestState>(value: u64, backend: &mut B, machine: &Machine) -> Action {
    if !backend.is_in_long_mode() {
        return write_cr0_outside_of_long_mode(value, backend, machine);
    }
    if !cr0_stays(value) {
        return write_other_cr0(value, backend, machine);
    }
    backend.set(State::Cr0, cr0_stored(value));
    Action::Advance
}

/// MOV to CR0 in real mode, or in protected mode with 32-bit or PAE paging or none.
#[inline(never)]
fn write_cr0_outside_of_long_mode<B: GuestState>(value: u64, backend: &mut B, machine: &Machine) -> Action {
    let value = value & u64::from(u32::MAX);
    if value & (CR0_NW | CR0_CD) == CR0_NW || value & (CR0_PG | CR0_PE) == CR0_PG {
        return REFUSED;
    }
    let old = backend.get(State::Cr0);
    let (paging_begins, cr4) = (value & !old & CR0_PG != 0, backend.get(State::Cr4));
    if paging_begins && backend.get(State::Efer) & EFER_LME != 0 {
        // SDM 3A 10.8.5.
        if cr4 & CR4_PAE == 0 || backend.get(State::CsRights) & RIGHTS_LONG != 0 {
            return REFUSED;
        }
        backend.set(State::Cr0, cr0_stored(value));
        backend.enter_long_mode();
        return Action::AdvanceAndPause(Pause::ModeChanged);
    }
    if paging_begins && !machine.config.any_mode {
        return Action::Stop(Outcome::LeftLongMode);
    }
    let loads = value & CR0_PG != 0 && cr4 & CR4_PAE != 0 && (value ^ old) & CR0_LOADS != 0;
    if loads && !load_page_directory_pointers(backend.get(State::Cr3), backend, machine) {
        return REFUSED;
    }
    backend.set(State::Cr0, cr0_stored(value));
    if (value ^ old) & CR0_PG != 0 {
        backend.flush_translations(None);
    }
    Action::Advance
}

/// MOV to CR0 in IA-32e mode of a value that does not stay there, or that is refused.
#[cold]
#[inline(never)]
fn write_other_cr0<B: GuestState>(value: u64, backend: &mut B, machine: &Machine) -> Action {
    let value = low_half(value, backend);
    if cr0_stays(value) {
        backend.set(State::Cr0, cr0_stored(value));
        return Action::Advance;
    }
    let refused = value >> 32 != 0 || value & (CR0_NW | CR0_CD) == CR0_NW;
    let paging_without_protection = value & CR0_PG != 0 && value & CR0_PE == 0;
    let in_64_bit_mode = backend.get(State::CsRights) & RIGHTS_LONG != 0;
    if refused || paging_without_protection || in_64_bit_mode {
        return REFUSED;
    }
    if !machine.config.any_mode {
        return Action::Stop(Outcome::LeftLongMode);
    }
    backend.set(State::Cr0, cr0_stored(value));
    backend.leave_long_mode();
    backend.flush_translations(None);
    Action::AdvanceAndPause(Pause::ModeChanged)
}

/// Loads the page-directory-pointer entries to which a CR3 leads, if none has a bit set that is reserved.
#[cold]
#[inline(never)]
fn load_page_directory_pointers<B: GuestState>(cr3: u64, backend: &mut B, machine: &Machine) -> bool {
    let entries = paging::page_directory_pointers(cr3, &machine.memory, machine.devices.cpuid.physical_address_bits());
    entries.map(|entries| backend.set_page_directory_pointers(entries)).is_some()
}

/// Whether PAE paging is on, whose entries CR3 loads.
fn has_page_directory_pointers<B: GuestState>(backend: &B) -> bool {
    backend.get(State::Cr0) & CR0_PG != 0 && backend.get(State::Cr4) & CR4_PAE != 0
}

#[inline(never)]
fn write_cr3<B: GuestState>(value: u64, backend: &mut B, machine: &Machine) -> Action {
    if value >> 32 != 0 {
        return write_wide_cr3(value, backend, machine);
    }
    if !backend.is_in_long_mode() {
        return write_cr3_outside_of_long_mode(value, backend, machine);
    }
    backend.set(State::Cr3, value);
    backend.flush_translations(None);
    Action::Advance
}

#[cold]
#[inline(never)]
fn write_cr3_outside_of_long_mode<B: GuestState>(value: u64, backend: &mut B, machine: &Machine) -> Action {
    if has_page_directory_pointers(backend) && !load_page_directory_pointers(value, backend, machine) {
        return REFUSED;
    }
    backend.set(State::Cr3, value);
    backend.flush_translations(None);
    Action::Advance
}

#[cold]
#[inline(never)]
fn write_wide_cr3<B: GuestState>(value: u64, backend: &mut B, machine: &Machine) -> Action {
    let value = low_half(value, backend);
    if value >> 32 == 0 {
        return write_cr3(value, backend, machine);
    }
    if value >> machine.devices.cpuid.physical_address_bits() != 0 {
        return REFUSED;
    }
    backend.set(State::Cr3, value);
    backend.flush_translations(None);
    Action::Advance
}

#[inline(never)]
fn write_cr4<B: GuestState>(value: u64, backend: &mut B, machine: &mut Machine) -> Action {
    // No bit is set that is not allowed, and PAE is: one test.
    if (value ^ CR4_PAE) & (!machine.config.cr4_allowed | CR4_PAE) != 0 || !backend.is_in_long_mode() {
        return write_other_cr4(value, backend, machine);
    }
    store_cr4(value, backend, machine)
}

/// MOV to CR4 outside of IA-32e mode, or of a value that is refused in 64-bit mode.
#[cold]
#[inline(never)]
fn write_other_cr4<B: GuestState>(value: u64, backend: &mut B, machine: &mut Machine) -> Action {
    let value = low_half(value, backend);
    let changed = value ^ backend.get(State::Cr4);
    let keeps_paging = value & CR4_PAE != 0 || !backend.is_in_long_mode();
    if value & !machine.config.cr4_allowed != 0 || !keeps_paging || !loads_well(value, changed, backend, machine) {
        return REFUSED;
    }
    store_cr4(value, backend, machine)
}

#[inline(always)]
fn store_cr4<B: GuestState>(value: u64, backend: &mut B, machine: &mut Machine) -> Action {
    let changed = value ^ backend.get(State::Cr4);
    backend.set(State::Cr4, value);
    if changed & CR4_OSXSAVE != 0 {
        machine.devices.cpuid.set_osxsave(value & CR4_OSXSAVE != 0);
    }
    if changed & CR4_FLUSHES != 0 {
        backend.flush_translations(None);
    }
    Action::Advance
}

/// Loads the page-directory-pointer entries if this change of CR4 does; false if they have a bit set that is reserved.
#[cold]
#[inline(never)]
fn loads_well<B: GuestState>(value: u64, changed: u64, backend: &mut B, machine: &Machine) -> bool {
    let is_paging = !backend.is_in_long_mode() && backend.get(State::Cr0) & CR0_PG != 0;
    let loads = is_paging && value & CR4_PAE != 0 && changed & CR4_FLUSHES != 0;
    !loads || load_page_directory_pointers(backend.get(State::Cr3), backend, machine)
}

fn write_cr8<B: Backend>(value: u64, backend: &mut B, machine: &mut Machine) -> Action {
    if value > 15 {
        return write_wide_cr8(value, backend, machine);
    }
    machine.devices.apic.set_cr8(value);
    backend.set_task_priority(value as u8);
    delivery::advance(backend, machine)
}

#[cold]
#[inline(never)]
fn write_wide_cr8<B: Backend>(value: u64, backend: &mut B, machine: &mut Machine) -> Action {
    let value = low_half(value, backend);
    if value > 15 {
        return REFUSED;
    }
    machine.devices.apic.set_cr8(value);
    backend.set_task_priority(value as u8);
    delivery::advance(backend, machine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::GuestState;
    use crate::script::{Script, machine};

    const CR0: u64 = CR0_PG | CR0_ET | CR0_PE | 1 << 5;

    /// Under SVM the guest reads the monitor's MCE where reads make no exit.
    #[test]
    fn what_the_guest_may_read_of_cr4_it_may_write_back() {
        let (mut backend, mut machine) = (script(), machine());
        assert_eq!(write_cr4(CR4_PAE | CR4_MCE, &mut backend, &mut machine), REFUSED);
        machine.config.cr4_allowed |= CR4_MCE;
        assert_eq!(write_cr4(CR4_PAE | CR4_MCE, &mut backend, &mut machine), Action::Advance);
    }

    fn script() -> Script {
        let mut backend = Script::default();
        backend.set(State::Cr0, CR0);
        backend.set(State::Cr4, CR4_PAE);
        backend.set(State::CsRights, RIGHTS_LONG);
        backend.set(State::Efer, EFER_LME | EFER_LMA);
        backend
    }

    fn write(backend: &mut Script, cr: u8, value: u64) -> Action {
        let mut registers = GuestRegisters { rbx: value, ..Default::default() };
        handle(CrAccess::Write { cr, register: 3 }, &mut registers, backend, &mut machine())
    }

    #[test]
    fn operands_have_32_bits_outside_of_64_bit_mode() {
        let garbage = 0xdead_beef << 32;
        for (cr, value, state) in [(0, CR0 | 2, State::Cr0), (3, 0x3000, State::Cr3), (4, CR4_PAE | 8, State::Cr4)] {
            let mut backend = script();
            assert_eq!(write(&mut backend, cr, value | garbage), REFUSED, "CR{cr} in 64-bit mode");
            backend.set(State::CsRights, 0);
            assert_eq!(write(&mut backend, cr, value | garbage), Action::Advance, "CR{cr} in compatibility mode");
            assert_eq!(backend.get(state), value, "CR{cr}");
            assert_eq!(write(&mut backend, cr, value | garbage | 1 << 31), write(&mut backend, cr, value | 1 << 31));
        }
        let mut backend = script();
        assert_eq!(write(&mut backend, 8, 3 | garbage), REFUSED);
        backend.set(State::CsRights, 0);
        assert_eq!(write(&mut backend, 8, 3 | garbage), Action::Advance);
        backend.set(State::Cr0, 1);
        backend.set(State::Efer, 0);
        assert_eq!((write(&mut backend, 0, 0x11 | garbage), backend.get(State::Cr0)), (Action::Advance, 0x11));
    }

    #[test]
    fn values_that_the_processor_refuses_raise_gp() {
        for (cr, value) in [
            (0, CR0 & !CR0_PG),
            (0, CR0 & !CR0_PE),
            (0, CR0 | CR0_NW),
            (0, CR0 | 1 << 63),
            (3, 1 << 62),
            (3, 1 << 45),
            (4, CR4_PAE | 1 << 21),
            (4, CR4_PAE | 1 << 13),
            (4, 0),
            (4, CR4_PAE | 1 << 63),
            (4, CR4_PAE | 1 << 12),
            (8, 16),
        ] {
            let mut backend = script();
            assert_eq!(write(&mut backend, cr, value), REFUSED, "CR{cr} = {value:#x}");
            assert_eq!((backend.get(State::Cr0), backend.get(State::Cr4)), (CR0, CR4_PAE));
        }
    }

    #[test]
    fn leaving_long_mode_from_compatibility_mode_stops() {
        let mut backend = script();
        backend.set(State::CsRights, 0);
        assert_eq!(write(&mut backend, 0, CR0 & !CR0_PG), Action::Stop(Outcome::LeftLongMode));
        assert_eq!(write(&mut backend, 0, CR0 & !CR0_PE), REFUSED);
    }

    #[test]
    fn a_vcpu_goes_from_real_mode_to_ia_32e_mode_and_to_no_other_paging() {
        let mut backend = Script::default();
        backend.set(State::Cr0, CR0_ET);
        let on = CR0_PG | CR0_PE | CR0_ET;
        assert_eq!(write(&mut backend, 0, CR0_PG), REFUSED, "paging without protection");
        assert_eq!(write(&mut backend, 0, CR0_PE), Action::Advance);
        assert_eq!(write(&mut backend, 0, on), Action::Stop(Outcome::LeftLongMode), "32-bit paging");
        backend.set(State::Efer, EFER_LME);
        assert_eq!(write(&mut backend, 0, on), REFUSED, "without PAE");
        assert_eq!(write(&mut backend, 4, CR4_PAE), Action::Advance);
        assert_eq!(write(&mut backend, 0, on), Action::AdvanceAndPause(Pause::ModeChanged));
        assert_eq!((backend.get(State::Cr0), backend.get(State::Efer)), (on, EFER_LME | 1 << 10));
        assert_eq!(write(&mut backend, 4, 0), REFUSED, "PAE stays while paging");
    }

    fn any_mode() -> Machine {
        let mut machine = machine();
        machine.config.any_mode = true;
        machine
    }

    #[track_caller]
    fn check_write(backend: &mut Script, machine: &mut Machine, cr: u8, value: u64, action: Action) {
        let mut registers = GuestRegisters { rbx: value, ..Default::default() };
        assert_eq!(handle(CrAccess::Write { cr, register: 3 }, &mut registers, backend, machine), action);
    }

    #[test]
    fn a_guest_of_any_mode_goes_through_all_of_them() {
        let (mut backend, mut machine) = (Script::default(), any_mode());
        let on = CR0_PG | CR0_PE | CR0_ET;
        let mut check = |cr, value, action| check_write(&mut backend, &mut machine, cr, value, action);
        check(0, CR0_PE | CR0_ET, Action::Advance);
        check(0, on, Action::Advance);
        check(4, CR4_PSE, Action::Advance);
        check(4, CR4_PAE, Action::Advance);
        check(4, 0, Action::Advance);
        check(0, on & !CR0_PE, REFUSED);
        check(0, CR0_ET, Action::Advance);
        check(4, CR4_PAE, Action::Advance);
        backend.set(State::Efer, EFER_LME);
        let mut check = |cr, value, action| check_write(&mut backend, &mut machine, cr, value, action);
        check(0, on, Action::AdvanceAndPause(Pause::ModeChanged));
        check(4, 0, REFUSED);
        check(0, CR0_ET | CR0_PE, Action::AdvanceAndPause(Pause::ModeChanged));
        assert_eq!((backend.get(State::Efer), backend.get(State::Cr0)), (EFER_LME, CR0_ET | CR0_PE));
        backend.set(State::Efer, EFER_LME | EFER_LMA);
        backend.set(State::CsRights, RIGHTS_LONG);
        check_write(&mut backend, &mut machine, 0, CR0_ET | CR0_PE, REFUSED);
    }

    #[test]
    fn pae_paging_loads_its_pointers() {
        let (mut backend, mut machine) = (Script::default(), any_mode());
        machine.memory.write_u64(0x1000, 0x2001).unwrap();
        machine.memory.write_u64(0x2000, 0x2003).unwrap();
        backend.set(State::Cr0, CR0_PE | CR0_ET);
        backend.set(State::Cr4, CR4_PAE);
        backend.set(State::Cr3, 0x2000);
        let on = CR0_PG | CR0_PE | CR0_ET;
        check_write(&mut backend, &mut machine, 0, on, REFUSED);
        check_write(&mut backend, &mut machine, 3, 0x1000, Action::Advance);
        assert_eq!((backend.page_directory_pointers, backend.get(State::Cr0)), (None, CR0_PE | CR0_ET));
        for (cr, value) in [(0, on), (3, 0x1000), (4, CR4_PAE | CR4_PGE), (0, on | CR0_CD)] {
            backend.page_directory_pointers = None;
            check_write(&mut backend, &mut machine, cr, value, Action::Advance);
            assert_eq!(backend.page_directory_pointers, Some([0x2001, 0, 0, 0]), "CR{cr}");
        }
        backend.page_directory_pointers = None;
        for (cr, value) in [(0, on | CR0_CD | CR0_TS), (4, CR4_PAE | CR4_PGE | CR4_OSFXSR)] {
            check_write(&mut backend, &mut machine, cr, value, Action::Advance);
        }
        check_write(&mut backend, &mut machine, 3, 0x2000, REFUSED);
        assert_eq!((backend.page_directory_pointers, backend.get(State::Cr3)), (None, 0x1000));
    }

    #[test]
    fn reserved_low_bits_of_cr0_are_ignored() {
        let mut backend = script();
        assert_eq!(write(&mut backend, 0, CR0 | 1 << 10 | 2), Action::Advance);
        assert_eq!(backend.get(State::Cr0), CR0 | 2);
    }

    #[test]
    fn clts_and_lmsw_touch_their_bits() {
        let mut backend = script();
        backend.set(State::Cr0, CR0 | CR0_TS);
        let mut run = |access| {
            assert_eq!(handle(access, &mut GuestRegisters::default(), &mut backend, &mut machine()), Action::Advance);
            backend.get(State::Cr0)
        };
        assert_eq!(run(CrAccess::Clts), CR0);
        assert_eq!(run(CrAccess::Lmsw { source: 0xfffa }), CR0 | 0xa);
        assert_eq!(run(CrAccess::Lmsw { source: 0 }), CR0, "PE stays");
    }

    #[test]
    fn osxsave_shows_in_cpuid() {
        let (mut backend, mut machine) = (script(), machine());
        let mut registers = GuestRegisters { rax: CR4_PAE | CR4_OSXSAVE, ..Default::default() };
        assert_eq!(
            handle(CrAccess::Write { cr: 4, register: 0 }, &mut registers, &mut backend, &mut machine),
            Action::Advance
        );
        assert_ne!(machine.devices.cpuid.answer(1, 0, 0).ecx & 1 << 27, 0);
    }

    #[test]
    fn cr8_and_cr3_read_back() {
        let (mut backend, mut machine) = (script(), machine());
        let mut registers = GuestRegisters { rcx: 5, rdx: 0x4000, ..Default::default() };
        for access in [
            CrAccess::Write { cr: 8, register: 1 },
            CrAccess::Write { cr: 3, register: 2 },
            CrAccess::Read { cr: 8, register: 15 },
            CrAccess::Read { cr: 3, register: 4 },
        ] {
            assert_eq!(handle(access, &mut registers, &mut backend, &mut machine), Action::Advance);
        }
        assert_eq!((registers.r15, backend.get(State::Rsp)), (5, 0x4000));
        assert_eq!(backend.flushes, 1);
    }
}
