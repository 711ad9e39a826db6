//! The processor's own local APIC (SDM 3A chapter 12), by which one processor starts, interrupts and times another or itself. Its
//! registers are memory-mapped, or MSRs if firmware left it in x2APIC mode.
//!
//! The monitor runs with interrupts disabled, so that an interrupt stays pending until a guest is entered, and then makes an
//! exit.
#![expect(unsafe_code, reason = "reads and writes the registers of the local APIC")]

use tollgate_abi::apic::{
    CURRENT_COUNT, DELIVERY_INIT, DELIVERY_NMI, DELIVERY_START_UP, DIVIDE, EOI, IA32_APIC_BASE, IA32_TSC_DEADLINE, ICR,
    ID, INITIAL_COUNT, LVT_MASKED, LVT_TIMER, LVT_TSC_DEADLINE, MSR_BASE, SVR, SVR_ENABLED, TO_OTHERS, command,
};
use tollgate_abi::x86::control::ADDRESS;
use tollgate_abi::x86::cpuid::ecx_1;
use tollgate_abi::x86::msr::{APIC_AT_RESET, APIC_BASE_ENABLED, APIC_BASE_X2APIC};
use x86_64::registers::model_specific::Msr;

#[cfg(test)]
use crate::host::registers::scripted;
use crate::host::registers::{NEVER, tsc, wait};
use crate::host::vectors::SPURIOUS_VECTOR;

mod settings;

pub use settings::Settings;

/// The address of its registers; the boot block maps the first 4 GiB to themselves.
const MAPPED_AT: u64 = APIC_AT_RESET;
/// SVR: enabled by software.
const ENABLED: u32 = SVR_ENABLED | SPURIOUS_VECTOR as u32;
/// Divide configuration: by 1.
const BY_ONE: u32 = 0b1011;
/// Counts that are added to the measured ones: a timer that fires early fires twice.
const SLACK_COUNTS: u64 = 64;
/// The most counts that the timer is set to: it has 32 bits, and a timer that fires early is armed again.
const FAR_COUNTS: u64 = u32::MAX as u64 - SLACK_COUNTS;
/// The most counts in 2^16 TSC ticks: those of a timer that is 128 times as fast as the TSC.
const FAR_RATE: u64 = 1 << 23;

/// ICR: delivery status.
const SEND_PENDING: u32 = 1 << 12;
/// TSC ticks that a command may take to be sent; then the next one is written all the same.
const SEND_TICKS: u64 = 1 << 22;
/// TSC ticks between INIT and start-up IPI.
const START_TICKS: u64 = 200_000;

/// This processor's APIC, enabled.
#[derive(Clone, Copy, Debug)]
pub struct LocalApic {
    by_msr: bool,
    timer: Timer,
}

/// The way in which the timer counts.
#[derive(Clone, Copy, Debug)]
enum Timer {
    TscDeadline,
    /// The timer counts by itself.
    Counts {
        /// Counts in 2^16 TSC ticks.
        rate: u64,
        /// The most TSC ticks that fit; longer times are cut to these.
        far_ticks: u64,
    },
}

impl LocalApic {
    /// Enables it. `features` is CPUID.1:ECX. If the timer counts at a rate of its own, the rate is measured for `measured_ticks`
    /// of the TSC.
    ///
    /// # Panics
    /// The APIC is switched off, or its registers are mapped elsewhere than after reset.
    pub fn enable(features: u32, measured_ticks: u64) -> Self {
        let mut apic = Self::find().unwrap_or_else(|base| panic!("IA32_APIC_BASE is {base:#x}"));
        apic.write(SVR, ENABLED);
        apic.write(LVT_TIMER, LVT_MASKED);
        apic.write(DIVIDE, BY_ONE);
        if features & ecx_1::TSC_DEADLINE == 0 {
            let rate = apic.measure(measured_ticks).min(FAR_RATE);
            apic.timer = Timer::Counts { rate, far_ticks: (FAR_COUNTS << 16) / rate };
        }
        apic
    }

    /// This processor's APIC as it is, for sending. Its timer is not known.
    ///
    /// # Errors
    /// The APIC is switched off, or its registers are mapped elsewhere than after reset, by this value of IA32_APIC_BASE.
    pub fn find() -> Result<Self, u64> {
        // SAFETY: every processor with 64-bit mode, in which this runs, has the MSR.
        let base = unsafe { Msr::new(IA32_APIC_BASE).read() };
        if base & APIC_BASE_ENABLED == 0 || base & ADDRESS != MAPPED_AT {
            return Err(base);
        }
        Ok(Self { by_msr: base & APIC_BASE_X2APIC != 0, timer: Timer::TscDeadline })
    }

    /// An APIC whose registers no test reads.
    #[cfg(test)]
    pub(crate) fn scripted() -> Self {
        Self { by_msr: true, timer: Timer::TscDeadline }
    }

    /// The APIC's ID.
    pub fn id(&self) -> u32 {
        if self.by_msr { self.read(ID) } else { self.read(ID) >> 24 }
    }

    /// Interrupts the processor with this APIC ID.
    pub fn interrupt(&self, apic_id: u32, vector: u8) {
        self.send(command(apic_id, 0, vector));
    }

    /// Sends INIT to the processor with this APIC ID.
    pub fn init(&self, apic_id: u32) {
        self.send(command(apic_id, DELIVERY_INIT, 0));
    }

    /// Sends an NMI to the processor with this APIC ID.
    pub fn nmi(&self, apic_id: u32) {
        self.send(command(apic_id, DELIVERY_NMI, 0));
    }

    /// Sends a start-up IPI to the processor with this APIC ID.
    pub fn start_up(&self, apic_id: u32, vector: u8) {
        self.send(command(apic_id, DELIVERY_START_UP, vector));
    }

    /// Starts every other processor in real mode at the page with this number.
    pub fn start_others(&self, vector: u8) {
        self.send(command(0, DELIVERY_INIT | TO_OTHERS, 0));
        wait(START_TICKS);
        self.send(command(0, DELIVERY_START_UP | TO_OTHERS, vector));
    }

    /// Ends the interrupt that was taken last.
    pub fn end_of_interrupt(&self) {
        self.write(EOI, 0);
    }

    /// Has the timer interrupt with `vector` from now on, by [`LocalApic::set_timer`].
    pub fn prepare_timer(&self, vector: u8) {
        if let Timer::TscDeadline = self.timer {
            self.write(LVT_TIMER, u32::from(vector) | LVT_TSC_DEADLINE);
            // SAFETY: orders the deadlines to come behind a memory-mapped LVT (SDM 3A 12.5.4.1).
            unsafe { core::arch::asm!("mfence", options(nostack, preserves_flags)) };
        }
    }

    /// Interrupts this processor at a time, with the one `vector` that [`LocalApic::prepare_timer`] was given; 0 for not at all.
    #[inline(always)]
    pub fn set_timer(&self, vector: u8, deadline_tsc: u64) {
        match self.timer {
            // SAFETY: processors with the mode, which `enable` saw in CPUID, have the MSR; 0 disarms.
            Timer::TscDeadline => unsafe { write_msr(IA32_TSC_DEADLINE, deadline_tsc) },
            Timer::Counts { .. } => self.arm_timer(vector, if deadline_tsc == 0 { NEVER } else { deadline_tsc }),
        }
    }

    /// Interrupts this processor with `vector` at a time; not at all if that is [`NEVER`].
    pub fn arm_timer(&self, vector: u8, deadline_tsc: u64) {
        let vector = u32::from(vector);
        match (self.timer, deadline_tsc) {
            (Timer::TscDeadline, deadline) => {
                self.write(LVT_TIMER, vector | LVT_TSC_DEADLINE);
                // SAFETY: processors with the mode, which `enable` saw in CPUID, have the MSR; 0 disarms. MFENCE orders the write
                // behind a memory-mapped LVT (SDM 3A 12.5.4.1).
                unsafe {
                    core::arch::asm!("mfence", options(nostack, preserves_flags));
                    write_msr(IA32_TSC_DEADLINE, if deadline == NEVER { 0 } else { deadline });
                }
            }
            (Timer::Counts { .. }, NEVER) => {
                self.write(LVT_TIMER, LVT_MASKED);
                self.write(INITIAL_COUNT, 0);
            }
            (Timer::Counts { rate, far_ticks }, deadline) => {
                let ticks = deadline.saturating_sub(tsc());
                let counts = ((ticks.min(far_ticks) * rate) >> 16) + SLACK_COUNTS;
                self.write(LVT_TIMER, vector);
                self.write(INITIAL_COUNT, counts as u32);
            }
        }
    }

    /// Counts of the timer in 2^16 TSC ticks.
    fn measure(&self, measured_ticks: u64) -> u64 {
        self.write(INITIAL_COUNT, u32::MAX);
        let start = tsc();
        while tsc().wrapping_sub(start) < measured_ticks {
            core::hint::spin_loop();
        }
        let (counts, ticks) = (u32::MAX - self.read(CURRENT_COUNT), tsc().wrapping_sub(start));
        self.write(INITIAL_COUNT, 0);
        (u64::from(counts.max(1)) << 16).div_ceil(ticks)
    }

    fn send(&self, command: u64) {
        if self.by_msr {
            // SAFETY: in x2APIC mode the register is this MSR; the caller wants the interrupt's effect on the processors that are
            // addressed. The fences order it behind earlier writes that those processors are to read, for which a WRMSR of these
            // registers does not wait (SDM 3A 12.12.3).
            unsafe {
                core::arch::asm!("mfence", "lfence", options(nostack, preserves_flags));
                write_msr(ICR, command);
            }
            return;
        }
        // The APIC takes a command only once the last one has been sent (SDM 3A 12.6.1), which takes as long as a bus message.
        if self.read(ICR) & SEND_PENDING != 0 {
            self.wait_until_sent();
        }
        // The memory-mapped register has 8 bits of destination in its upper half, which is at the next offset.
        self.write(ICR + 1, ((command >> 32) as u32) << 24);
        self.write(ICR, command as u32);
    }

    #[cold]
    #[inline(never)]
    fn wait_until_sent(&self) {
        let start = tsc();
        while self.read(ICR) & SEND_PENDING != 0 && tsc().wrapping_sub(start) < SEND_TICKS {
            core::hint::spin_loop();
        }
    }

    #[inline(always)]
    fn read(&self, register: u32) -> u32 {
        // SAFETY: these are the registers of this processor's APIC, reached as its mode demands and where `enable` found them,
        // which the boot block maps; reading one changes nothing.
        unsafe { if self.by_msr { Msr::new(register).read() as u32 } else { core::ptr::read_volatile(at(register)) } }
    }

    fn write(&self, register: u32, value: u32) {
        // SAFETY: these are the registers of this processor's APIC, as in `read`; only this type writes them, and interrupts are
        // off.
        unsafe {
            if self.by_msr { write_msr(register, value.into()) } else { core::ptr::write_volatile(at(register), value) }
        }
    }
}

/// WRMSR; host tests count it.
///
/// # Safety
/// The processor has the MSR, and the caller wants the effect of the value.
#[inline(always)]
unsafe fn write_msr(msr: u32, value: u64) {
    #[cfg(test)]
    if scripted::counts() {
        return;
    }
    // SAFETY: the caller's contract.
    unsafe { Msr::new(msr).write(value) }
}

fn at(register: u32) -> *mut u32 {
    (MAPPED_AT + u64::from(register - MSR_BASE) * 16) as *mut u32
}
