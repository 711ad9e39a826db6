//! The brief forms: handlers that do with the volatile registers, so that the guest's others stay in the processor.
//!
//! Such a form decides as [`dispatch`](super::dispatch) would, or leaves the exit to it without having changed anything. Unlike a
//! quick form it may call functions.

use crate::exit::{Action, Backend, Event, VolatileRegisters};
use crate::handlers::{delivery, event, interrupt, power};
use crate::machine::Machine;

/// Hands the table to a macro: reasons and their forms. A reason that has a quick form, too, comes here when that has left the exit.
macro_rules! brief_exits {
    ($use_rows:ident) => {
        $use_rows! {
            IO_INSTRUCTION io::brief;
            CR_ACCESS control_regs::brief;
            RDMSR msr::brief_read;
            WRMSR msr::brief_write;
            MOV_DR debug_regs::brief;
            RDTSC power::brief_tsc;
            RDTSCP power::brief_tscp;
            XSETBV power::brief_xcr0;
            INVLPG power::brief_invalidation;
            HLT brief::halt;
            EXCEPTION_OR_NMI brief::exception;
            EXTERNAL_INTERRUPT brief::external_interrupt;
            INTERRUPT_WINDOW brief::window;
            WBINVD brief::nothing;
            INVD brief::nothing;
            PAUSE brief::nothing;
            RDPMC brief::no_counter;
            VMCLEAR brief::undefined;
            VMLAUNCH brief::undefined;
            VMPTRLD brief::undefined;
            VMPTRST brief::undefined;
            VMREAD brief::undefined;
            VMRESUME brief::undefined;
            VMWRITE brief::undefined;
            VMXOFF brief::undefined;
            VMXON brief::undefined;
            INVEPT brief::undefined;
            INVVPID brief::undefined;
            MONITOR brief::undefined;
            MWAIT brief::undefined;
            RDRAND brief::undefined;
            RDSEED brief::undefined;
            INVPCID brief::undefined;
            SVM_VMRUN brief::undefined;
            SVM_VMLOAD brief::undefined;
            SVM_VMSAVE brief::undefined;
            SVM_STGI brief::undefined;
            SVM_CLGI brief::undefined;
            SVM_SKINIT brief::undefined;
            SVM_INVLPGA brief::undefined;
        }
    };
}
pub(crate) use brief_exits;

/// An instruction without an effect. Caches are coherent and the guest must not drop their contents; a pause is over once it has
/// exited.
#[inline(always)]
pub fn nothing<B: Backend>(_: &mut VolatileRegisters, _: &mut B, _: &mut Machine) -> Option<Action> {
    Some(Action::Advance)
}

/// An instruction that the guest's processor does not have. Its event is known here, so that injecting it takes fewer instructions
/// than handing it to the spine.
#[inline(always)]
pub fn undefined<B: Backend>(_: &mut VolatileRegisters, backend: &mut B, _: &mut Machine) -> Option<Action> {
    backend.inject(Event::UNDEFINED_OPCODE);
    Some(Action::Resume)
}

/// RDPMC. No performance counter exists, so that every index is out of range.
#[inline(always)]
pub fn no_counter<B: Backend>(_: &mut VolatileRegisters, backend: &mut B, _: &mut Machine) -> Option<Action> {
    backend.inject(Event::GENERAL_PROTECTION);
    Some(Action::Resume)
}

/// HLT.
#[inline(always)]
pub fn halt<B: Backend>(_: &mut VolatileRegisters, backend: &mut B, machine: &mut Machine) -> Option<Action> {
    Some(power::halt(backend, machine))
}

/// An exception or NMI.
#[inline(always)]
pub fn exception<B: Backend>(_: &mut VolatileRegisters, backend: &mut B, machine: &mut Machine) -> Option<Action> {
    match event::exception_now(backend, machine) {
        Action::Inject(event) => {
            backend.inject(event);
            Some(Action::Resume)
        }
        action => Some(action),
    }
}

/// An interrupt at the processor's own APIC.
#[inline(always)]
pub fn external_interrupt<B: Backend>(
    _: &mut VolatileRegisters,
    backend: &mut B,
    machine: &mut Machine,
) -> Option<Action> {
    Some(interrupt::external_interrupt(backend, machine))
}

/// The guest takes interrupts again.
#[inline(always)]
pub fn window<B: Backend>(_: &mut VolatileRegisters, backend: &mut B, machine: &mut Machine) -> Option<Action> {
    Some(delivery::resume(backend, machine))
}
