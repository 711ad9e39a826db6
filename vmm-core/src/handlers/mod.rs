//! One handler per kind of exit, and the one place that chooses among them.
//!
//! A handler sees the decoded exit, the registers and its device, and returns an [`Action`]. It does not count, print,
//! or know which virtualization extension is at work, and has no `unsafe`.
//!
//! The kinds in [`QUICK`](tollgate_abi::quick::QUICK) also have a `quick` form for the ordinary case: true if it emulated the
//! instruction. Before it changes anything, it asks `may_end`, the condition in that table. It calls nothing, so that the spine
//! needs no stack frame for it. Some handlers have a brief form ([`brief`]). Exits that these leave are decided by [`dispatch`].

pub mod brief;
pub mod control_regs;
pub mod cpuid;
pub mod debug_regs;
pub mod delivery;
pub mod descriptor_tables;
pub mod event;
pub mod guest_apic;
pub mod hypercall;
pub mod idle;
pub mod interrupt;
pub mod io;
pub mod ipi;
mod isa_bus;
pub mod leaves;
pub mod limit;
mod lines;
pub mod look;
pub mod mapped;
pub mod msr;
pub mod power;
pub mod timer;

use tollgate_abi::ExitReason;
use tollgate_abi::workload::Outcome;

use crate::exit::{Action, Backend, Event, GuestRegisters, RawReason, State};
use crate::machine::Machine;

/// Decides one exit before the run's limit.
pub fn dispatch<B: Backend>(
    raw: RawReason,
    registers: &mut GuestRegisters,
    backend: &mut B,
    machine: &mut Machine,
) -> Action {
    // The whole field at once: more than a reason in it is rare.
    let Ok(number) = u16::try_from(raw.0) else {
        return beyond_reason(raw, registers, backend, machine);
    };
    match ExitReason(number) {
        ExitReason::CPUID => leaves::handle(registers, machine, backend.get(State::Xcr0)),
        ExitReason::VMCALL => hypercall::handle(registers, backend, machine),
        ExitReason::RDMSR => msr::read(registers, backend, machine),
        ExitReason::WRMSR => msr::write(registers, backend, machine),
        ExitReason::IO_INSTRUCTION => io::handle(backend.io_access(), registers, backend, machine),
        ExitReason::CR_ACCESS => {
            let access = backend.cr_access(registers);
            control_regs::handle(access, registers, backend, machine)
        }
        ExitReason::EPT_VIOLATION => event::physical_fault(registers, backend, machine),
        ExitReason::MOV_DR => debug_regs::handle(backend.dr_access(), registers, backend),
        ExitReason::GDTR_IDTR_ACCESS | ExitReason::LDTR_TR_ACCESS => {
            descriptor_tables::handle(registers, backend, machine)
        }
        ExitReason::RDTSC if backend.is_rdtscp() => power::read_tscp(registers, backend),
        ExitReason::RDTSC => power::read_tsc(registers, backend),
        ExitReason::RDTSCP => power::read_tscp(registers, backend),
        ExitReason::XSETBV => power::set_xcr0(registers, backend, machine),
        ExitReason::HLT => power::halt(backend, machine),
        ExitReason::INVLPG => power::invalidate_page(registers, backend),
        // Caches are coherent and the guest must not drop their contents; a pause is over once it has exited.
        ExitReason::INVD | ExitReason::WBINVD | ExitReason::PAUSE => Action::Advance,
        ExitReason::EXCEPTION_OR_NMI => event::exception(backend, machine),
        ExitReason::EXTERNAL_INTERRUPT => interrupt::external_interrupt(backend, machine),
        ExitReason::INIT => ipi::init_signal(machine),
        ExitReason::INTERRUPT_WINDOW | ExitReason::NMI_WINDOW | ExitReason::TPR_BELOW_THRESHOLD => {
            delivery::resume(backend, machine)
        }
        // The processor has done the write already.
        ExitReason::VIRTUALIZED_EOI => delivery::resume(backend, machine),
        ExitReason::APIC_WRITE => guest_apic::written(backend, machine),
        // No performance counter exists, so that every index is out of range.
        ExitReason::RDPMC => Action::Inject(Event::GENERAL_PROTECTION),
        ExitReason::VMCLEAR
        | ExitReason::VMLAUNCH
        | ExitReason::VMPTRLD
        | ExitReason::VMPTRST
        | ExitReason::VMREAD
        | ExitReason::VMRESUME
        | ExitReason::VMWRITE
        | ExitReason::VMXOFF
        | ExitReason::VMXON
        | ExitReason::INVEPT
        | ExitReason::INVVPID
        | ExitReason::VMFUNC
        | ExitReason::MONITOR
        | ExitReason::MWAIT
        | ExitReason::RDRAND
        | ExitReason::RDSEED
        | ExitReason::INVPCID
        | ExitReason::ENCLS
        | ExitReason::ENCLV
        | ExitReason::PCONFIG
        | ExitReason::GETSEC
        | ExitReason::UMWAIT
        | ExitReason::TPAUSE
        | ExitReason::RDMSRLIST
        | ExitReason::WRMSRLIST
        | ExitReason::URDMSR
        | ExitReason::UWRMSR
        | ExitReason::RDMSR_IMMEDIATE
        | ExitReason::WRMSRNS_IMMEDIATE
        | ExitReason::SVM_VMRUN
        | ExitReason::SVM_VMLOAD
        | ExitReason::SVM_VMSAVE
        | ExitReason::SVM_STGI
        | ExitReason::SVM_CLGI
        | ExitReason::SVM_SKINIT
        | ExitReason::SVM_INVLPGA
        | ExitReason::SVM_RDPRU => Action::Inject(Event::UNDEFINED_OPCODE),
        ExitReason::SVM_IRET => {
            backend.nmi_handler_ends();
            if machine.activity.beside_apic.has_nmi() { delivery::resume(backend, machine) } else { Action::Resume }
        }
        ExitReason::PREEMPTION_TIMER => look::look(ExitReason::PREEMPTION_TIMER, backend, machine),
        ExitReason::TRIPLE_FAULT | ExitReason::SVM_SHUTDOWN => Action::Stop(Outcome::TripleFault),
        ExitReason::TASK_SWITCH => Action::Stop(Outcome::TaskSwitch),
        _ => Action::Stop(Outcome::UnhandledExit),
    }
}

/// An exit whose reason field has more than the reason: a VM entry that failed, or the guest's activity, which changes nothing.
#[cold]
#[inline(never)]
fn beyond_reason<B: Backend>(
    raw: RawReason,
    registers: &mut GuestRegisters,
    backend: &mut B,
    machine: &mut Machine,
) -> Action {
    if raw.is_entry_failure() {
        // A failed entry has changed nothing, and an event that is to be injected stays (SDM 3C 27.8).
        return backend.after_failed_entry(registers).unwrap_or(Action::Stop(Outcome::EntryFailed));
    }
    dispatch(RawReason(raw.basic().0.into()), registers, backend, machine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Script, machine};

    #[test]
    fn the_rest_of_the_reason_field_tells_a_failed_entry_and_nothing_else() {
        let action =
            |raw| dispatch(RawReason(raw), &mut GuestRegisters::default(), &mut Script::default(), &mut machine());
        let wbinvd = u32::from(ExitReason::WBINVD.0);
        assert_eq!((action(wbinvd), action(wbinvd | 1 << 27)), (Action::Advance, Action::Advance));
        assert_eq!(action(wbinvd | 1 << 31), Action::Stop(Outcome::EntryFailed));
    }
}
