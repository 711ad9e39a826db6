//! RDMSR and WRMSR: a table of the processor's MSRs that the guest has; the machine's row has the others. Any further MSR raises
//! #GP(0).

use tollgate_abi::apic::{MSR_BASE, MSR_LAST};
use tollgate_abi::x86::control::{CR0_PG, EFER_LMA, EFER_LME, EFER_NXE, EFER_SCE};
use tollgate_abi::x86::msr::*;

use crate::exit::{
    Action, Backend, Event, GuestRegisters, GuestState, Processor, Quickly, State, Timers, VolatileRegisters,
};
use crate::handlers::{guest_apic, mapped, timer};
use crate::machine::Machine;
use crate::paging::is_canonical;

/// The behaviour of an MSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The guest's own: any value.
    Own(State),
    /// The guest's own: 32 bits; more raise #GP.
    Low(State),
    /// The guest's own: a canonical address.
    Address(State),
    /// IA32_TIME_STAMP_COUNTER, the guest's own. A write changes IA32_TSC_ADJUST by as much (SDM 3B 18.17.3).
    TimeStamp,
    /// IA32_TSC_ADJUST.
    TscAdjust,
    /// EFER.
    Efer,
    /// A register of the guest's local APIC.
    GuestApic,
}

/// EFER bits that the guest may write: SCE, LME, NXE. LMA is the processor's; a write of it is ignored.
const EFER_WRITABLE: u64 = EFER_SCE | EFER_LME | EFER_NXE;

/// The table, by MSR number (SDM 4, table 2-2).
#[inline(always)]
fn kind(msr: u32) -> Option<Kind> {
    Some(match msr {
        IA32_TIME_STAMP_COUNTER => Kind::TimeStamp,
        IA32_TSC_ADJUST => Kind::TscAdjust,
        IA32_SYSENTER_CS => Kind::Low(State::SysenterCs),
        IA32_SYSENTER_ESP => Kind::Address(State::SysenterEsp),
        IA32_SYSENTER_EIP => Kind::Address(State::SysenterEip),
        IA32_EFER => Kind::Efer,
        IA32_STAR => Kind::Own(State::Star),
        IA32_LSTAR => Kind::Address(State::Lstar),
        IA32_CSTAR => Kind::Address(State::Cstar),
        IA32_FMASK => Kind::Low(State::Fmask),
        IA32_FS_BASE => Kind::Address(State::FsBase),
        IA32_GS_BASE => Kind::Address(State::GsBase),
        IA32_KERNEL_GS_BASE => Kind::Address(State::KernelGsBase),
        IA32_TSC_AUX => Kind::Low(State::TscAux),
        MSR_BASE..=MSR_LAST | IA32_TSC_DEADLINE => Kind::GuestApic,
        _ => return None,
    })
}

const REFUSED: Action = Action::Inject(Event::GENERAL_PROTECTION);

/// RDMSR of a constant.
#[inline(always)]
pub fn quick<B: GuestState>(registers: &mut VolatileRegisters, backend: &mut B, machine: &mut Machine) -> Quickly {
    let Some(value) = machine.devices.msrs.quick(registers.rcx as u32) else { return Quickly::NotDecided };
    backend.set_edx_eax(registers, value);
    Quickly::Decided
}

/// RDMSR, by the volatile registers.
pub fn brief_read<B: Backend>(
    registers: &mut VolatileRegisters,
    backend: &mut B,
    machine: &mut Machine,
) -> Option<Action> {
    let Some(value) = value(registers.rcx as u32, backend, machine) else { return Some(REFUSED) };
    backend.set_edx_eax(registers, value);
    Some(Action::Advance)
}

/// WRMSR, by the volatile registers.
#[inline(always)]
pub fn brief_write<B: Backend>(
    registers: &mut VolatileRegisters,
    backend: &mut B,
    machine: &mut Machine,
) -> Option<Action> {
    let value = backend.rax(registers) & 0xffff_ffff | registers.rdx << 32;
    Some(set(registers.rcx as u32, value, backend, machine))
}

/// RDMSR.
pub fn read<B: Backend>(registers: &mut GuestRegisters, backend: &B, machine: &Machine) -> Action {
    let Some(value) = value(registers.rcx as u32, backend, machine) else { return REFUSED };
    registers.rax = value & 0xffff_ffff;
    registers.rdx = value >> 32;
    Action::Advance
}

/// WRMSR.
pub fn write<B: Backend>(registers: &GuestRegisters, backend: &mut B, machine: &mut Machine) -> Action {
    set(registers.rcx as u32, registers.rax & 0xffff_ffff | registers.rdx << 32, backend, machine)
}

/// The value of an MSR; `None` if reading it is refused.
#[inline(never)]
fn value<B: Backend>(msr: u32, backend: &B, machine: &Machine) -> Option<u64> {
    Some(match kind(msr) {
        Some(Kind::Low(State::TscAux)) if !machine.devices.cpuid.has_rdtscp() => return None,
        Some(Kind::Own(state) | Kind::Low(state) | Kind::Address(state)) => backend.get(state),
        Some(Kind::TimeStamp) => backend.guest_tsc(),
        // This is the whole lead of the guest's TSC, whichever of the two MSRs was written (SDM 3B 18.17.3).
        // Idle time that was skipped is time that passed.
        Some(Kind::TscAdjust) => backend.get(State::TscOffset).wrapping_sub(machine.skipped_ticks),
        Some(Kind::Efer) => backend.get(State::Efer),
        Some(Kind::GuestApic) => return guest_apic::read(msr, backend, machine),
        None => return machine.devices.msrs.read(msr),
    })
}

/// Writes an MSR.
#[inline(never)]
fn set<B: Backend>(msr: u32, value: u64, backend: &mut B, machine: &mut Machine) -> Action {
    // The registers that are written most come first.
    if (MSR_BASE..=MSR_LAST).contains(&msr) {
        return guest_apic::write(msr, value, backend, machine);
    }
    match kind(msr) {
        Some(Kind::Low(State::TscAux)) if !machine.devices.cpuid.has_rdtscp() => return REFUSED,
        Some(Kind::Own(state)) => backend.set(state, value),
        Some(Kind::Low(state)) if value >> 32 == 0 => backend.set(state, value),
        Some(Kind::Address(state)) if is_canonical(value) => backend.set(state, value),
        Some(Kind::TscAdjust) => set_tsc_offset(value.wrapping_add(machine.skipped_ticks), backend, machine),
        Some(Kind::TimeStamp) => set_tsc_offset(value.wrapping_sub(backend.tsc()), backend, machine),
        Some(Kind::Efer) => return write_efer(value, backend, machine),
        Some(Kind::GuestApic) => return guest_apic::write(msr, value, backend, machine),
        None => return write_constant(msr, value, backend, machine),
        _ => return REFUSED,
    }
    Action::Advance
}

/// WRMSR of an MSR that the processor's table does not have.
#[cold]
#[inline(never)]
fn write_constant<B: Backend>(msr: u32, value: u64, backend: &mut B, machine: &mut Machine) -> Action {
    if msr == IA32_APIC_BASE && machine.devices.pages.have_local_apic() {
        return mapped::set_apic_base(value, backend, machine);
    }
    match machine.devices.msrs.write(msr, value) {
        Some(Ok(())) => Action::Advance,
        Some(Err(_)) | None => REFUSED,
    }
}

/// Sets the ticks by which the guest's TSC is ahead of the processor's.
fn set_tsc_offset<B: GuestState + Timers + Processor>(ticks: u64, backend: &mut B, machine: &mut Machine) {
    backend.set(State::TscOffset, ticks);
    machine.devices.apic.set_tsc_offset(ticks, backend.tsc());
    timer::arm(backend, machine);
}

/// Writes EFER. LME can't change while paging is on (SDM 3A 2.2.1), and NXE is reserved if CPUID shows no NX.
fn write_efer<B: GuestState>(value: u64, backend: &mut B, machine: &Machine) -> Action {
    let old = backend.get(State::Efer);
    let paging = backend.get(State::Cr0) & CR0_PG != 0;
    let reserved = !(EFER_WRITABLE | EFER_LMA) | if machine.devices.cpuid.has_no_execute() { 0 } else { EFER_NXE };
    if value & reserved != 0 || paging && (value ^ old) & EFER_LME != 0 {
        return REFUSED;
    }
    backend.set(State::Efer, value & EFER_WRITABLE | old & EFER_LMA);
    backend.flush_translations(None);
    Action::Advance
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::cpuid_table::CpuidTable;
    use crate::devices::cpuid_table::tests::everything;
    use crate::exit::GuestState;
    use crate::script::{Script, machine};
    use tollgate_abi::apic::{APIC_BASE, BOOT_PROCESSOR, INITIAL_COUNT, LVT_TIMER, LVT_TSC_DEADLINE};
    use tollgate_abi::leaves::Answer;
    use tollgate_abi::x86::msr::APIC_BASE_X2APIC;

    const APIC_BASE_READ: u64 = APIC_BASE | BOOT_PROCESSOR;

    /// A processor with everything but NX.
    fn without_no_execute(leaf: u32, sub_leaf: u32) -> Answer {
        let answer = everything(leaf, sub_leaf);
        if leaf == 0x8000_0001 { Answer { edx: answer.edx & !(1 << 20), ..answer } } else { answer }
    }

    fn rdmsr(backend: &Script, msr: u32) -> Option<u64> {
        let mut registers = GuestRegisters { rcx: msr.into(), rax: !0, rdx: !0, ..Default::default() };
        match read(&mut registers, backend, &machine()) {
            Action::Advance => Some(registers.rax | registers.rdx << 32),
            action => {
                assert_eq!(action, REFUSED);
                None
            }
        }
    }

    fn wrmsr(backend: &mut Script, msr: u32, value: u64) -> bool {
        let registers = GuestRegisters {
            rcx: msr.into(),
            rax: value & 0xffff_ffff | 0xdead << 32,
            rdx: value >> 32,
            ..Default::default()
        };
        write(&registers, backend, &mut machine()) == Action::Advance
    }

    #[test]
    fn the_guest_has_its_own_msrs_and_no_others() {
        let mut backend = Script::default();
        assert_eq!(rdmsr(&backend, IA32_APIC_BASE), Some(APIC_BASE_READ));
        assert!(wrmsr(&mut backend, IA32_SYSENTER_ESP, 0x1234_5678_9abc));
        assert_eq!(rdmsr(&backend, IA32_SYSENTER_ESP), Some(0x1234_5678_9abc));
        for msr in [0x3a, 0x480, 0x48b, 0x1d9, 0x277, 0x4000_0000, 0xc000_0104, 0xffff_ffff] {
            assert_eq!(rdmsr(&backend, msr), None, "{msr:#x}");
            assert!(!wrmsr(&mut backend, msr, 0), "{msr:#x}");
        }
    }

    #[test]
    fn the_guests_time_is_ahead_by_what_it_writes_and_its_deadlines_go_by_it() {
        let (mut backend, mut machine) = (Script { tsc: 1000, ..Script::default() }, machine());
        let mut write = |backend: &mut Script, msr: u32, value: u64| {
            let (rax, rdx) = (value & 0xffff_ffff, value >> 32);
            let registers = GuestRegisters { rcx: msr.into(), rax, rdx, ..Default::default() };
            assert_eq!(super::write(&registers, backend, &mut machine), Action::Advance);
        };
        write(&mut backend, IA32_TSC_ADJUST, 500);
        assert_eq!(
            (rdmsr(&backend, IA32_TSC_ADJUST), rdmsr(&backend, IA32_TIME_STAMP_COUNTER)),
            (Some(500), Some(1500))
        );
        write(&mut backend, LVT_TIMER, u64::from(LVT_TSC_DEADLINE | 0x40));
        write(&mut backend, IA32_TSC_DEADLINE, 2000);
        assert_eq!(backend.timer, Some(1500), "500 ticks from now");
        write(&mut backend, IA32_TSC_ADJUST, 200u64.wrapping_neg());
        assert_eq!(
            (backend.timer, rdmsr(&backend, IA32_TIME_STAMP_COUNTER)),
            (Some(2200), Some(800)),
            "back by 700: 700 later"
        );
        write(&mut backend, IA32_TSC_ADJUST, 5000);
        assert_eq!(backend.timer, Some(1000), "at once");
        write(&mut backend, LVT_TIMER, 0x40);
        write(&mut backend, INITIAL_COUNT, 100);
        assert_eq!(backend.timer, Some(1200), "two ticks for each count");
        write(&mut backend, IA32_TSC_ADJUST, 0);
        assert_eq!(backend.timer, Some(1200), "a count is none of a TSC");
        write(&mut backend, IA32_TIME_STAMP_COUNTER, 7 << 32);
        assert_eq!(
            (rdmsr(&backend, IA32_TIME_STAMP_COUNTER), rdmsr(&backend, IA32_TSC_ADJUST)),
            (Some(7 << 32), Some((7 << 32) - 1000))
        );
        write(&mut backend, LVT_TIMER, u64::from(LVT_TSC_DEADLINE | 0x40));
        write(&mut backend, IA32_TSC_DEADLINE, (7 << 32) + 50);
        write(&mut backend, IA32_TIME_STAMP_COUNTER, 0);
        assert_eq!(rdmsr(&backend, IA32_TSC_ADJUST), Some(1000u64.wrapping_neg()));
        assert_eq!(backend.timer, Some((7 << 32) + 1050), "the deadline goes by what was written");
    }

    #[test]
    fn values_that_the_processor_refuses_are_refused() {
        let mut backend = Script::default();
        assert!(wrmsr(&mut backend, IA32_APIC_BASE, APIC_BASE_READ), "the value that it has");
        assert!(!wrmsr(&mut backend, IA32_APIC_BASE, APIC_BASE_READ & !APIC_BASE_X2APIC), "out of x2APIC mode");
        assert!(!wrmsr(&mut backend, 0x80b, 1) && !wrmsr(&mut backend, 0x802, 0));
        assert!(!wrmsr(&mut backend, IA32_SYSENTER_ESP, 1 << 63));
        assert!(!wrmsr(&mut backend, IA32_SYSENTER_CS, 1 << 32));
        assert!(wrmsr(&mut backend, IA32_BIOS_SIGN_ID, 0));
        assert!(wrmsr(&mut backend, IA32_MISC_ENABLE, 1), "IA32_MISC_ENABLE: the value that it has");
        assert!(!wrmsr(&mut backend, IA32_MISC_ENABLE, 0) && !wrmsr(&mut backend, IA32_MISC_ENABLE, 1 << 18 | 1));
    }

    #[test]
    fn efer_keeps_long_mode() {
        let mut backend = Script::default();
        backend.set(State::Cr0, CR0_PG);
        backend.set(State::Efer, 0x501);
        assert!(wrmsr(&mut backend, IA32_EFER, 0x900));
        assert_eq!(rdmsr(&backend, IA32_EFER), Some(0xd00));
        assert!(!wrmsr(&mut backend, IA32_EFER, 0x800), "LME cleared");
        assert!(!wrmsr(&mut backend, IA32_EFER, 0x1500), "SVME");
        assert!(wrmsr(&mut backend, IA32_EFER, 0xd00) && wrmsr(&mut backend, IA32_EFER, 0x100), "LMA is not written");
        assert_eq!(rdmsr(&backend, IA32_EFER), Some(0x500));
        let mut old = machine();
        old.devices.cpuid = CpuidTable::new(without_no_execute, 0, 1, true);
        let write = |backend: &mut Script, machine: &mut Machine, value| {
            let registers = &mut GuestRegisters { rcx: IA32_EFER.into(), rax: value, ..Default::default() };
            super::write(registers, backend, machine)
        };
        assert_eq!(write(&mut backend, &mut old, 0xd01), REFUSED, "NXE, on a processor without");
        assert_eq!(write(&mut backend, &mut old, 0x501), Action::Advance);
        backend.set(State::Cr0, 1);
        assert!(wrmsr(&mut backend, IA32_EFER, 0x900), "LME set before paging");
    }
}
