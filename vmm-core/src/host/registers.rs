//! Guest state that lives in the processor while the monitor runs, and not in a VMCS or VMCB: XCR0, DR0 to DR3, the MSRs of
//! SYSCALL. Under VT-x also CR2 and DR6; under SVM also the state that VMLOAD loads, as far as there are MSRs for it.
//!
//! The monitor uses none of it, so that the guest's values stay in place across exits at no cost.
#![expect(unsafe_code, reason = "reads and writes registers")]

use core::arch::asm;

use tollgate_abi::x86::msr::*;
use x86_64::registers::model_specific::Msr;

use crate::exit::State;

/// A time, by the time-stamp counter, that does not come.
pub const NEVER: u64 = u64::MAX;

/// The time-stamp counter.
#[inline(always)]
pub fn tsc() -> u64 {
    // SAFETY: every 64-bit processor has RDTSC, and CR4.TSD does not concern CPL 0.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Waits for some TSC ticks, with several PAUSEs between two looks at the counter: an emulator that logs each RDTSC would spend
/// its time on that.
pub fn wait(ticks: u64) {
    const PAUSES: u32 = 16;
    let start = tsc();
    while tsc().wrapping_sub(start) < ticks {
        (0..PAUSES).for_each(|_| core::hint::spin_loop());
    }
}

fn msr_of(state: State) -> Option<Msr> {
    Some(Msr::new(match state {
        State::SysenterCs => IA32_SYSENTER_CS,
        State::SysenterEsp => IA32_SYSENTER_ESP,
        State::SysenterEip => IA32_SYSENTER_EIP,
        State::Star => IA32_STAR,
        State::Lstar => IA32_LSTAR,
        State::Cstar => IA32_CSTAR,
        State::Fmask => IA32_FMASK,
        State::FsBase => IA32_FS_BASE,
        State::GsBase => IA32_GS_BASE,
        State::KernelGsBase => IA32_KERNEL_GS_BASE,
        State::TscAux => IA32_TSC_AUX,
        _ => return None,
    }))
}

/// IA32_TSC_AUX, which each RDTSCP asks for.
#[inline(always)]
pub fn tsc_aux() -> u64 {
    #[cfg(test)]
    if let Some(value) = scripted::read(State::TscAux) {
        return value;
    }
    // SAFETY: as in `read`.
    unsafe { Msr::new(IA32_TSC_AUX).read() }
}

macro_rules! read_register {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading a control or debug register has no side effect (CR4.DE and DR7.GD are clear in the monitor).
        unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }};
}

macro_rules! write_register {
    ($name:literal, $value:expr) => {{
        // SAFETY: CR2 is read by page-fault handlers only, and a page fault in the monitor is fatal; DR0 to DR3 and DR6
        // do nothing while DR7 is clear, as it is in the monitor.
        unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) $value, options(nomem, nostack, preserves_flags)) }
    }};
}

/// Reads a register.
#[cold]
#[inline(never)]
pub fn read(state: State) -> u64 {
    #[cfg(test)]
    if let Some(value) = scripted::read(state) {
        return value;
    }
    match state {
        State::Cr2 => read_register!("cr2"),
        State::Dr0 => read_register!("dr0"),
        State::Dr1 => read_register!("dr1"),
        State::Dr2 => read_register!("dr2"),
        State::Dr3 => read_register!("dr3"),
        State::Dr6 => read_register!("dr6"),
        State::Xcr0 => read_xcr0(),
        state => match msr_of(state) {
            // SAFETY: every 64-bit processor has the MSRs of SYSCALL, SYSENTER and the segment bases; TSC_AUX is read only if
            // CPUID shows RDTSCP.
            Some(msr) => unsafe { msr.read() },
            None => unreachable!("this state is not in the processor"),
        },
    }
}

/// Writes a register. The caller has checked the value as the guest's instruction demands.
#[cold]
#[inline(never)]
pub fn write(state: State, value: u64) {
    #[cfg(test)]
    if scripted::write(state, value) {
        return;
    }
    match state {
        State::Cr2 => write_register!("cr2", value),
        State::Dr0 => write_register!("dr0", value),
        State::Dr1 => write_register!("dr1", value),
        State::Dr2 => write_register!("dr2", value),
        State::Dr3 => write_register!("dr3", value),
        State::Dr6 => write_register!("dr6", value),
        State::Xcr0 => write_xcr0(value),
        state => match msr_of(state) {
            // SAFETY: as in `read`; the MSR handler has checked that the value is canonical or has 32 bits.
            Some(mut msr) => unsafe { msr.write(value) },
            None => unreachable!("this state is not in the processor"),
        },
    }
}

/// XCR0; 1, its value at reset, on processors without XSAVE.
fn read_xcr0() -> u64 {
    if !x86_64::registers::control::Cr4::read().contains(x86_64::registers::control::Cr4Flags::OSXSAVE) {
        return 1;
    }
    let (low, high): (u32, u32);
    // SAFETY: CR4.OSXSAVE is set, as just read; the monitor sets it wherever the processor has XSAVE.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

fn write_xcr0(value: u64) {
    // SAFETY: the XSETBV handler has checked the value against CPUID, which shows XSAVE to the guest only where the monitor has
    // set CR4.OSXSAVE.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nomem, nostack, preserves_flags))
    };
}

/// The registers of a test that may not touch the processor's: each thread has its own, once it has asked for them.
#[cfg(test)]
pub(crate) mod scripted {
    use std::cell::{Cell, RefCell};
    use std::collections::HashMap;

    use super::State;

    std::thread_local! {
        static REGISTERS: RefCell<Option<HashMap<State, u64>>> = const { RefCell::new(None) };
        static ACCESSES: Cell<usize> = const { Cell::new(0) };
    }

    /// Gives this thread registers of its own, all 0.
    pub(crate) fn begin() {
        REGISTERS.set(Some(HashMap::new()));
        take_accesses();
    }

    /// The accesses since the last call.
    pub(crate) fn take_accesses() -> usize {
        ACCESSES.take()
    }

    /// Counts another instruction that only a monitor may execute, if this thread has registers of its own.
    pub(crate) fn counts() -> bool {
        let counts = REGISTERS.with_borrow(Option::is_some);
        ACCESSES.set(ACCESSES.get() + usize::from(counts));
        counts
    }

    pub(super) fn read(state: State) -> Option<u64> {
        counts().then(|| REGISTERS.with_borrow(|registers| registers.as_ref()?.get(&state).copied()).unwrap_or(0))
    }

    pub(super) fn write(state: State, value: u64) -> bool {
        REGISTERS.with_borrow_mut(|registers| registers.as_mut().map(|registers| registers.insert(state, value)));
        counts()
    }
}
