//! The state after power-up, and after a start-up IPI (SDM 3A table 10-1).

use tollgate_abi::profile::Profile;
use tollgate_abi::x86::control::{CR0_CD, CR0_NW, DR6_AT_RESET, XCR0_X87};

use super::Vcpu;
use crate::exit::{Backend, GuestRegisters, State};

/// MSRs that INIT leaves as they are, and power-up clears (SDM 3A table 10-1).
const KEPT_BY_INIT: [State; 8] = [
    State::SysenterCs,
    State::SysenterEsp,
    State::SysenterEip,
    State::Star,
    State::Lstar,
    State::Cstar,
    State::Fmask,
    State::KernelGsBase,
];
/// XCR0 after power-up: x87 state alone. INIT leaves XCR0 unchanged.
const XCR0_AT_POWER_UP: u64 = XCR0_X87;
/// CR0.CD and CR0.NW, which power-up sets and INIT leaves unchanged.
const CACHE_BITS: u64 = CR0_CD | CR0_NW;
/// The registers that power-up and INIT both clear, besides those of real mode.
const CLEARED_BY_INIT: [(State, u64); 6] =
    [(State::Cr2, 0), (State::Dr0, 0), (State::Dr1, 0), (State::Dr2, 0), (State::Dr3, 0), (State::Dr6, DR6_AT_RESET)];

impl<B: Backend> Vcpu<B> {
    /// The effect of power-up on state in the processor itself, which firmware has changed. To be called once, on the vCPU's
    /// processor, with CR4.OSXSAVE set if that has XSAVE.
    pub fn power_up(&mut self) {
        if self.machine.has_xsave() {
            self.backend.set(State::Xcr0, XCR0_AT_POWER_UP);
        }
    }

    /// The state after a start-up IPI with this vector, which comes after power-up or INIT (SDM 3A table 10-1): real mode, the
    /// minimal profile. Of the returned registers, EDX has the processor's signature.
    #[inline(never)]
    #[must_use]
    pub fn start_up(&mut self, vector: u8) -> GuestRegisters {
        let signature = self.machine.start_up();
        let backend = &mut self.backend;
        let kept = KEPT_BY_INIT.map(|state| if self.has_started { backend.get(state) } else { 0 });
        let caches = if self.has_started { backend.get(State::Cr0) } else { CACHE_BITS } & CACHE_BITS;
        backend.start_up(vector);
        let kept = KEPT_BY_INIT.into_iter().zip(kept);
        kept.chain(CLEARED_BY_INIT).for_each(|(state, value)| backend.set(state, value));
        backend.set(State::Cr0, backend.get(State::Cr0) & !CACHE_BITS | caches);
        self.has_started = true;
        self.set_profile(Profile::Minimal);
        self.watch_anew();
        GuestRegisters { rdx: signature.into(), ..GuestRegisters::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::GuestState;
    use crate::machine::Activity;
    use crate::script::{Script, machine};
    use tollgate_abi::x86::cpuid::ecx_1;

    #[test]
    fn power_up_sets_xcr0_and_init_leaves_it() {
        let mut vcpu = Vcpu::new(Script::default(), machine());
        vcpu.backend.set(State::Xcr0, 0xe7);
        vcpu.power_up();
        assert_eq!(vcpu.backend.get(State::Xcr0), 1);
        vcpu.backend.set(State::Xcr0, 7);
        let _ = vcpu.start_up(8);
        assert_eq!(vcpu.backend.get(State::Xcr0), 7);
    }

    #[test]
    fn init_leaves_msrs_and_cache_bits_and_clears_the_rest() {
        let mut vcpu = Vcpu::new(Script::default(), machine());
        let signature = u64::from(vcpu.machine.devices.cpuid.answer(1, 0, 0).eax);
        let debug = [State::Dr0, State::Dr3, State::Cr2];
        let fill = |backend: &mut Script| {
            debug.into_iter().chain([State::Lstar, State::SysenterEsp]).for_each(|state| backend.set(state, 0x1234));
            backend.set(State::Cr0, 0x8000_0031);
            backend.set(State::Dr6, 0xffff_4ff0);
        };
        fill(&mut vcpu.backend);
        let registers = vcpu.start_up(8);
        assert_eq!(registers, GuestRegisters { rdx: signature, ..Default::default() });
        let read = |vcpu: &Vcpu<Script>, state| vcpu.backend.get(state);
        assert_eq!((read(&vcpu, State::Cr0), read(&vcpu, State::Lstar)), (0x6000_0010, 0), "power-up");
        fill(&mut vcpu.backend);
        let activity = &mut vcpu.machine.activity;
        activity.beside_apic.set_nmi(true);
        (activity.halted, activity.init_pending) = (true, true);
        vcpu.machine.devices.cpuid.set_osxsave(true);
        let registers = vcpu.start_up(8);
        assert_eq!(registers.rdx, signature);
        assert_eq!(vcpu.machine.activity, Activity::default(), "no event waits any more");
        assert_eq!(vcpu.machine.devices.cpuid.answer(1, 0, 0).ecx & ecx_1::OSXSAVE, 0, "CR4 is 0");
        assert_eq!((read(&vcpu, State::Cr0), read(&vcpu, State::Dr6)), (0x10, 0xffff_0ff0));
        assert_eq!((read(&vcpu, State::Lstar), read(&vcpu, State::SysenterEsp)), (0x1234, 0x1234));
        assert_eq!(debug.map(|state| read(&vcpu, state)), [0; 3]);
    }
}
