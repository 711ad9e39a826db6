//! The local APIC of one vCPU: an x2APIC (SDM 3A 12.12), whose registers are a virtual-APIC page (SDM 3C 30.1).
//!
//! The page is the one place of the registers, whether exits emulate the APIC or the processor virtualizes it. This file has the
//! state and its rules; [`crate::handlers::guest_apic`] connects it with exits.
//!
//! Its registers are in memory as well where the machine's row gives it a page ([`mapped`]).
//!
//! Left out: the LVT entries of pins that are not connected (they read back); lowest-priority delivery of an IPI, which delivers
//! like fixed; that a vector's trigger mode reads back behind its EOI; and, where the processor virtualizes delivery, that an APIC
//! which is disabled by software accepts no self-IPI, and the EOI of a level-triggered interrupt, of which the IOAPIC learns nothing.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tollgate_abi::apic::*;

use self::mapped::Mapped;

pub mod mapped;

/// Doublewords of the page.
const DOUBLEWORDS: usize = 1024;

/// A virtual-APIC page. The processor may write to it while the guest runs.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Page([AtomicU32; DOUBLEWORDS]);

const _: () = assert!(size_of::<Page>() == 4096);

impl Page {
    /// A page of zeros.
    pub const fn new() -> Self {
        Self([const { AtomicU32::new(0) }; DOUBLEWORDS])
    }

    fn register(&self, msr: u32) -> &AtomicU32 {
        &self.0[(msr - MSR_BASE) as usize * 4]
    }

    fn get(&self, msr: u32) -> u32 {
        self.register(msr).load(Relaxed)
    }

    fn set(&self, msr: u32, value: u32) {
        self.register(msr).store(value, Relaxed);
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::new()
    }
}

/// The local APIC of one vCPU. The processors' own are [`crate::host::local_apic`]'s.
#[derive(Debug)]
pub struct GuestApic {
    page: &'static Page,
    id: u32,
    /// The ticks by which the guest's TSC is ahead of the processor's.
    tsc_offset: u64,
    /// IA32_TSC_DEADLINE as the guest wrote it, by the guest's TSC.
    written_deadline: u64,
    /// The time at which the timer fires, by the processor's TSC.
    deadline_tsc: Option<u64>,
    /// The lowest vector that it accepts: 16, or more than any vector while software has disabled it.
    lowest_accepted: u16,
    /// Errors since the last write of ESR. The next write shows them.
    errors: u32,
    /// A level-triggered interrupt has come.
    has_levels: bool,
    /// The first of these errors has raised the error interrupt, or would have if that were not masked.
    error_is_raised: bool,
    /// The registers that only xAPIC mode has.
    mapped: Mapped,
}

/// An access that raises #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// The effect of a write beyond the register itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// No effect.
    None,
    /// The interrupt that is to be delivered next may be another one.
    Priorities,
    /// The guest's task priority has changed, and with it perhaps the interrupt that is to be delivered next.
    TaskPriority,
    /// A level-triggered interrupt with this vector has ended, and the one that is to be delivered next may be another one.
    EndOfLevel(u8),
    /// Send the interrupt of this ICR value.
    Send(u64),
    /// The timer's deadline has changed.
    Timer,
}

/// 0x14: an APIC with x2APIC mode; six LVT entries.
const VERSION_VALUE: u32 = 0x14 | 5 << 16;
/// Spurious vector 0xff, disabled by software (SDM 3A 12.4.7.1).
const SVR_AT_RESET: u32 = 0xff;
const NONE_ACCEPTED: u16 = 0x100;
const SVR_WRITABLE: u32 = 0xff | SVR_ENABLED;
/// LVT timer, bits that can be written: vector, mask, timer mode.
const LVT_TIMER_WRITABLE: u32 = 0xff | LVT_MASKED | LVT_PERIODIC | LVT_TSC_DEADLINE;
/// Other LVT entries, bits that can be written: vector, delivery mode, polarity, trigger mode, mask.
const LVT_WRITABLE: u32 = 0x1_a7ff;
/// The least TSC ticks between two interrupts of a periodic timer (KVM has such a bound as well): under a shorter period a guest
/// could not execute an instruction between two exits.
const LEAST_PERIOD_TICKS: u64 = 1 << 18;
const TIMER_MODE: u32 = LVT_PERIODIC | LVT_TSC_DEADLINE;
/// Divide configuration, bits that can be written.
const TIMER_DIVIDES: u32 = 0b1011;
/// ESR: a vector below 16 was sent, or came by a message, a self-IPI or the LVT (SDM 3A 12.5.3).
const SENT_ILLEGAL_VECTOR: u32 = 1 << 5;
const RECEIVED_ILLEGAL_VECTOR: u32 = 1 << 6;
/// ICR, bits that can be written: destination, vector and modes. Delivery status reads 0.
const ICR_WRITABLE: u64 = 0xffff_ffff_000c_cfff;

impl GuestApic {
    /// The APIC of vCPU `id`, with everything masked. The one of vCPU 0 is enabled, as firmware leaves it.
    pub fn new(page: &'static Page, id: u32) -> Self {
        let mut apic = Self {
            page,
            id,
            tsc_offset: 0,
            written_deadline: 0,
            deadline_tsc: None,
            lowest_accepted: NONE_ACCEPTED,
            has_levels: false,
            errors: 0,
            error_is_raised: false,
            mapped: Mapped::RESET,
        };
        apic.reset();
        if id == 0 {
            page.set(SVR, SVR_AT_RESET | SVR_ENABLED);
            apic.lowest_accepted = LOWEST_VECTOR.into();
        }
        apic
    }

    /// Sets the state after power-up or INIT (SDM 3A 12.4.7.1), but in x2APIC mode.
    pub fn reset(&mut self) {
        self.page.0.iter().for_each(|doubleword| doubleword.store(0, Relaxed));
        self.page.set(ID, self.id);
        self.page.set(VERSION, VERSION_VALUE);
        self.page.set(LDR, logical_id(self.id));
        self.page.set(SVR, SVR_AT_RESET);
        self.mask_all();
        self.deadline_tsc = None;
        (self.lowest_accepted, self.has_levels) = (NONE_ACCEPTED, false);
        (self.errors, self.error_is_raised) = (0, false);
        self.mapped = Mapped::RESET;
    }

    /// Whether software has enabled it. If not, it accepts no interrupt and all LVT entries stay masked. Interrupts that it
    /// accepted before are delivered, and those that it sends are sent (SDM 3A 12.4.7.2).
    fn is_enabled(&self) -> bool {
        self.page.get(SVR) & SVR_ENABLED != 0
    }

    /// Obeys SVR after a write of SVR or an LVT entry.
    #[cold]
    #[inline(never)]
    fn obey_svr(&mut self) {
        self.lowest_accepted = if self.is_enabled() { LOWEST_VECTOR.into() } else { NONE_ACCEPTED };
        if !self.is_enabled() {
            self.mask_all();
        }
    }

    fn mask_all(&self) {
        (LVT_TIMER..=LVT_ERROR).for_each(|entry| self.page.set(entry, self.page.get(entry) | LVT_MASKED));
    }

    /// Lets interrupts of an ISA bus' controllers through, as firmware leaves it on the first processor.
    pub fn let_external_through(&mut self) {
        self.page.set(LVT_LINT0, DELIVERY_EXTERNAL as u32);
    }

    /// Whether interrupts of an ISA bus' controllers come through: LINT0 is theirs, and not masked.
    pub fn takes_external(&self) -> bool {
        self.page.get(LVT_LINT0) & (LVT_MASKED | DELIVERY_MASK as u32) == DELIVERY_EXTERNAL as u32
    }

    /// The page, for the processor.
    pub fn page(&self) -> &'static Page {
        self.page
    }

    /// The time at which the timer fires, by the processor's TSC.
    pub fn deadline_tsc(&self) -> Option<u64> {
        self.deadline_tsc
    }

    /// Sets the ticks by which the guest's TSC is ahead of the processor's from `now_tsc` on, wrapping. TSC deadlines go by the
    /// guest's TSC.
    pub fn set_tsc_offset(&mut self, ticks: u64, now_tsc: u64) {
        self.tsc_offset = ticks;
        if self.has_tsc_deadline() && self.deadline_tsc.is_some() {
            self.set_tsc_deadline(self.written_deadline, now_tsc);
        }
    }

    /// Moves the guest's TSC, and the count of the timer, on by `ticks`, in which nothing happened.
    pub fn skip(&mut self, ticks: u64) {
        self.tsc_offset = self.tsc_offset.wrapping_add(ticks);
        self.deadline_tsc = self.deadline_tsc.map(|deadline| deadline.saturating_sub(ticks));
    }

    fn set_tsc_deadline(&mut self, deadline: u64, now_tsc: u64) {
        let left = deadline.saturating_sub(now_tsc.wrapping_add(self.tsc_offset));
        self.written_deadline = deadline;
        self.deadline_tsc = (deadline != 0).then(|| now_tsc.saturating_add(left));
    }

    /// Whether the timer is in a mode that counts. The reserved mode, which has both bits set, has neither count nor deadline, as
    /// under KVM.
    fn counts(&self) -> bool {
        self.timer_mode() & LVT_TSC_DEADLINE == 0
    }

    fn has_tsc_deadline(&self) -> bool {
        self.timer_mode() == LVT_TSC_DEADLINE
    }

    /// RDMSR.
    ///
    /// # Errors
    /// There is no such register, or it can't be read.
    pub fn read(&self, msr: u32, now_tsc: u64) -> Result<u64, Refused> {
        match msr {
            ID | VERSION | TPR | LDR | SVR | ESR | DIVIDE | INITIAL_COUNT => Ok(self.page.get(msr).into()),
            LVT_TIMER..=LVT_ERROR => Ok(self.page.get(msr).into()),
            PPR => Ok(self.priority().into()),
            ISR..ESR => Ok(self.page.get(msr).into()),
            ICR => Ok(u64::from(self.page.get(ICR)) | u64::from(self.icr_high().load(Relaxed)) << 32),
            CURRENT_COUNT => Ok(self.current_count(now_tsc).into()),
            IA32_TSC_DEADLINE => {
                let is_armed = self.has_tsc_deadline() && self.deadline_tsc.is_some();
                Ok(if is_armed { self.written_deadline } else { 0 })
            }
            _ => Err(Refused),
        }
    }

    /// WRMSR.
    ///
    /// # Errors
    /// There is no such register, it can't be written, or a reserved bit is set.
    #[inline(always)]
    pub fn write(&mut self, msr: u32, value: u64, now_tsc: u64) -> Result<Effect, Refused> {
        match msr {
            TPR if value <= 0xff => {
                self.page.set(TPR, value as u32);
                Ok(Effect::TaskPriority)
            }
            EOI if value == 0 => Ok(self.end_of_interrupt()),
            ICR if value & !ICR_WRITABLE == 0 => {
                self.page.set(ICR, value as u32);
                self.icr_high().store((value >> 32) as u32, Relaxed);
                Ok(Effect::Send(value))
            }
            SELF_IPI if value <= 0xff => {
                let vector = value as u8;
                if !self.accepts(vector) {
                    return self.refuse_self_ipi(vector);
                }
                set_bit(self.page, IRR, vector, true);
                Ok(Effect::Priorities)
            }
            IA32_TSC_DEADLINE => {
                // Ignored in the other modes.
                if self.has_tsc_deadline() {
                    self.set_tsc_deadline(value, now_tsc);
                }
                Ok(Effect::Timer)
            }
            _ => self.write_set_up(msr, value, now_tsc),
        }
    }

    /// WRMSR of registers that are written once, as a rule. Reached by a tail call, so that the others need no stack frame.
    #[cold]
    #[inline(never)]
    fn write_set_up(&mut self, msr: u32, value: u64, now_tsc: u64) -> Result<Effect, Refused> {
        let store = |allowed: u32| {
            let value = u32::try_from(value).ok().filter(|value| value & !allowed == 0).ok_or(Refused)?;
            self.page.set(msr, value);
            Ok(value)
        };
        match msr {
            ESR if value == 0 => {
                self.page.set(ESR, self.errors);
                (self.errors, self.error_is_raised) = (0, false);
                Ok(Effect::None)
            }
            SVR | LVT_THERMAL..=LVT_ERROR => {
                store(if msr == SVR { SVR_WRITABLE } else { LVT_WRITABLE })?;
                self.obey_svr();
                // Interrupts of an ISA bus' controllers may come through now.
                Ok(if msr == LVT_LINT0 { Effect::Priorities } else { Effect::None })
            }
            LVT_TIMER => {
                let before = (self.has_tsc_deadline(), self.counts());
                store(LVT_TIMER_WRITABLE)?;
                self.obey_svr();
                // The timer is disarmed by a change to or from TSC-deadline mode (SDM 3A 12.5.4.1), and by one to or from the
                // reserved mode.
                if before != (self.has_tsc_deadline(), self.counts()) {
                    self.deadline_tsc = None;
                }
                Ok(Effect::Timer)
            }
            INITIAL_COUNT => {
                let count = store(u32::MAX)?;
                if self.counts() {
                    self.deadline_tsc = self.after_count(count, now_tsc);
                }
                Ok(Effect::Timer)
            }
            DIVIDE => {
                let left = self.current_count(now_tsc);
                store(TIMER_DIVIDES)?;
                // The rest of the count is counted at the new rate.
                if left > 0 {
                    self.deadline_tsc = self.after_count(left, now_tsc);
                }
                Ok(Effect::Timer)
            }
            _ => Err(Refused),
        }
    }

    /// Requests the timer's interrupt, and starts the timer again if it is periodic. False if it is not time yet.
    pub fn timer_fired(&mut self, now_tsc: u64) -> bool {
        let Some(deadline) = self.deadline_tsc.filter(|&deadline| deadline <= now_tsc) else { return false };
        let entry = self.page.get(LVT_TIMER);
        self.deadline_tsc = None;
        if entry & TIMER_MODE == LVT_PERIODIC {
            let counted = u64::from(self.page.get(INITIAL_COUNT)) * self.ticks_per_count();
            let period = counted.max(LEAST_PERIOD_TICKS);
            // The next deadline is the first that is still to come: missed ones are not made up for.
            let missed = (now_tsc - deadline) / period;
            let next = deadline.saturating_add((missed + 1).saturating_mul(period));
            self.deadline_tsc = (counted > 0).then_some(next);
        }
        if entry & LVT_MASKED == 0 {
            self.request(entry as u8);
        }
        true
    }

    /// Requests an interrupt, or refuses it.
    pub fn request(&mut self, vector: u8) {
        if !self.accepts(vector) {
            return self.refuse(vector, RECEIVED_ILLEGAL_VECTOR);
        }
        set_bit(self.page, IRR, vector, true);
    }

    /// Requests an interrupt that is level-triggered, so that its EOI ends it at the IOAPIC, too.
    #[cold]
    #[inline(never)]
    pub fn request_level(&mut self, vector: u8) {
        if self.accepts(vector) {
            self.has_levels = true;
            set_bit(self.page, TMR, vector, true);
        }
        self.request(vector);
    }

    #[inline(always)]
    fn accepts(&self, vector: u8) -> bool {
        u16::from(vector) >= self.lowest_accepted
    }

    /// Reports an error for a vector below 16. An APIC that is disabled refuses vectors without an error.
    #[cold]
    #[inline(never)]
    fn refuse(&mut self, vector: u8, error: u32) {
        if vector < LOWEST_VECTOR && self.is_enabled() {
            self.report(error);
        }
    }

    #[cold]
    #[inline(never)]
    fn refuse_self_ipi(&mut self, vector: u8) -> Result<Effect, Refused> {
        self.refuse(vector, SENT_ILLEGAL_VECTOR | RECEIVED_ILLEGAL_VECTOR);
        Ok(Effect::Priorities)
    }

    /// Reports the error of a self-IPI with a vector below 16, which a processor that virtualizes self-IPIs leaves to the APIC.
    pub fn self_ipi_is_illegal(&mut self) {
        self.report(SENT_ILLEGAL_VECTOR | RECEIVED_ILLEGAL_VECTOR);
    }

    /// Notes that an interrupt to be sent had a vector below 16.
    pub fn sent_illegal_vector(&mut self) {
        self.report(SENT_ILLEGAL_VECTOR);
    }

    /// Notes an error. The first since the last write of ESR raises the error interrupt, unless its LVT entry is masked (SDM 3A
    /// 12.5.3).
    #[cold]
    #[inline(never)]
    fn report(&mut self, error: u32) {
        self.errors |= error;
        let entry = self.page.get(LVT_ERROR);
        if !core::mem::replace(&mut self.error_is_raised, true) && entry & LVT_MASKED == 0 {
            self.request(entry as u8);
        }
    }

    /// The task priority's class, bits 7:4, as CR8 has it.
    pub fn cr8(&self) -> u64 {
        u64::from(self.page.get(TPR) >> 4 & 0xf)
    }

    /// MOV to CR8 of a value of four bits.
    pub fn set_cr8(&self, value: u64) {
        self.page.set(TPR, (value as u32 & 0xf) << 4);
    }

    /// The vector that is to be delivered next: the highest requested one, if its class is above the processor's priority (SDM 3A
    /// 12.8.3.1).
    pub fn deliverable(&self) -> Option<u8> {
        let vector = self.highest_requested()?;
        (vector >> 4 > self.priority() >> 4).then_some(vector)
    }

    /// The class of the highest requested vector, if it waits for a lower processor priority; 0 if none waits for that.
    pub fn awaited_class(&self) -> u8 {
        let waits = self.highest_requested().filter(|vector| vector >> 4 > self.in_service() >> 4);
        waits.map_or(0, |vector| vector >> 4)
    }

    /// Moves the vector from requested to in service.
    pub fn accept(&self, vector: u8) {
        set_bit(self.page, IRR, vector, false);
        set_bit(self.page, ISR, vector, true);
        self.page.set(PPR, self.priority().into());
    }

    /// The highest requested vector; 0 for none.
    pub fn requested(&self) -> u8 {
        self.highest_requested().unwrap_or(0)
    }

    /// The highest vector in service; 0 for none.
    pub fn in_service(&self) -> u8 {
        highest(self.page, ISR).unwrap_or(0)
    }

    fn highest_requested(&self) -> Option<u8> {
        highest(self.page, IRR)
    }

    fn end_of_interrupt(&self) -> Effect {
        if let Some(vector) = highest(self.page, ISR) {
            set_bit(self.page, ISR, vector, false);
            self.page.set(PPR, self.priority().into());
            if self.has_levels {
                return self.end_of_any(vector);
            }
        }
        Effect::Priorities
    }

    /// The effect of the end of an interrupt that may be level-triggered.
    #[cold]
    #[inline(never)]
    fn end_of_any(&self, vector: u8) -> Effect {
        let is_level = self.page.get(TMR + u32::from(vector) / 32) >> (vector % 32) & 1 != 0;
        set_bit(self.page, TMR, vector, false);
        if is_level { Effect::EndOfLevel(vector) } else { Effect::Priorities }
    }

    /// The processor's priority: the higher of the task priority and the class in service (SDM 3A 12.8.3.1).
    fn priority(&self) -> u8 {
        let (task, in_service) = (self.page.get(TPR) as u8, self.in_service());
        if task >> 4 >= in_service >> 4 { task } else { in_service & 0xf0 }
    }

    fn icr_high(&self) -> &AtomicU32 {
        &self.page.0[(ICR - MSR_BASE) as usize * 4 + 1]
    }

    fn timer_mode(&self) -> u32 {
        self.page.get(LVT_TIMER) & TIMER_MODE
    }

    /// TSC ticks of one count: 1 to 128, by the divide configuration's bits 3, 1, 0 (SDM 3A figure 12-10).
    fn ticks_per_count(&self) -> u64 {
        let divide = self.page.get(DIVIDE);
        match divide & 0b11 | divide >> 1 & 0b100 {
            0b111 => 1,
            power => 2 << power,
        }
    }

    fn after_count(&self, count: u32, since_tsc: u64) -> Option<u64> {
        (count > 0).then(|| since_tsc.saturating_add(u64::from(count) * self.ticks_per_count()))
    }

    fn current_count(&self, now_tsc: u64) -> u32 {
        match self.deadline_tsc {
            Some(deadline) if !self.has_tsc_deadline() => {
                let counts = deadline.saturating_sub(now_tsc).div_ceil(self.ticks_per_count());
                u32::try_from(counts).unwrap_or(u32::MAX).min(self.page.get(INITIAL_COUNT))
            }
            _ => 0,
        }
    }
}

/// The logical ID: cluster, and position in it (SDM 3A 12.12.10.2).
pub const fn logical_id(id: u32) -> u32 {
    (id >> 4) << 16 | 1 << (id & 15)
}

/// Whether an ICR value that vCPU `from` wrote addresses vCPU `to`.
#[inline(always)]
pub fn addresses(command: u64, from: u32, to: u32) -> bool {
    const BROADCAST: u32 = u32::MAX;
    let destination = (command >> 32) as u32;
    match command & SHORTHAND_MASK {
        TO_SELF => to == from,
        TO_ALL => true,
        TO_OTHERS => to != from,
        _ if destination == BROADCAST => true,
        _ if command & LOGICAL != 0 => {
            let logical = logical_id(to);
            destination >> 16 == logical >> 16 && destination & logical & 0xffff != 0
        }
        _ => destination == to,
    }
}

fn set_bit(page: &Page, first: u32, vector: u8, value: bool) {
    let register = page.register(first + u32::from(vector) / 32);
    let bit = 1 << (vector % 32);
    let old = register.load(Relaxed);
    register.store(if value { old | bit } else { old & !bit }, Relaxed);
}

fn highest(page: &Page, first: u32) -> Option<u8> {
    let of = |register: u32| (register, page.get(first + register));
    let (register, bits) = (0..8).rev().map(of).find(|&(_, bits)| bits != 0)?;
    Some((register * 32 + bits.ilog2()) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apic(id: u32) -> GuestApic {
        GuestApic::new(Box::leak(Box::new(Page::new())), id)
    }

    #[test]
    fn registers_read_as_the_manual_has_them() {
        let apic = apic(3);
        for (msr, value) in [(ID, 3), (VERSION, 0x5_0014), (LDR, 8), (SVR, 0xff), (LVT_TIMER, 0x1_0000), (TPR, 0)] {
            assert_eq!(apic.read(msr, 0), Ok(value), "{msr:#x}");
        }
        for msr in [0x800, 0x801, EOI, SELF_IPI, 0x831, 0x83a, 0x8ff] {
            assert_eq!(apic.read(msr, 0), Err(Refused), "{msr:#x}");
        }
    }

    #[test]
    fn only_the_first_is_enabled_and_reset_disables_it() {
        let mut first = apic(0);
        assert_eq!(first.read(SVR, 0), Ok(0x1ff));
        first.reset();
        assert_eq!(first.read(SVR, 0), Ok(0xff));
    }

    #[test]
    fn disabled_by_software_it_masks_its_entries_and_accepts_nothing() {
        let mut apic = apic(0);
        for (msr, value) in [(LVT_ERROR, 0x30), (LVT_TIMER, 0x31), (SELF_IPI, 0x40)] {
            apic.write(msr, value, 0).unwrap();
        }
        assert_eq!(apic.write(SVR, 0xff, 0), Ok(Effect::None));
        apic.write(SELF_IPI, 0x50, 0).unwrap();
        apic.request(0x51);
        assert_eq!((apic.deliverable(), apic.read(LVT_ERROR, 0)), (Some(0x40), Ok(0x1_0030)), "the one from before");
        assert_eq!(apic.read(LVT_TIMER, 0), Ok(0x1_0031));
        apic.write(LVT_TIMER, 0x32, 0).unwrap();
        apic.write(LVT_ERROR, 0x33, 0).unwrap();
        assert_eq!((apic.read(LVT_TIMER, 0), apic.read(LVT_ERROR, 0)), (Ok(0x1_0032), Ok(0x1_0033)));
        apic.write(SVR, 0x1ff, 0).unwrap();
        assert_eq!(apic.read(LVT_TIMER, 0), Ok(0x1_0032), "it stays masked");
        apic.request(0x51);
        assert_eq!(apic.deliverable(), Some(0x51));
    }

    #[test]
    fn errors_show_once_esr_is_written_and_raise_one_interrupt_until_then() {
        let mut apic = apic(0);
        let esr = |apic: &mut GuestApic| {
            assert_eq!(apic.write(ESR, 0, 0), Ok(Effect::None));
            apic.read(ESR, 0)
        };
        apic.request(3);
        assert_eq!((apic.deliverable(), apic.read(ESR, 0)), (None, Ok(0)), "masked, and not written");
        assert_eq!((esr(&mut apic), esr(&mut apic)), (Ok(0x40), Ok(0)));
        apic.write(LVT_ERROR, 0x45, 0).unwrap();
        apic.write(SELF_IPI, 15, 0).unwrap();
        assert_eq!(apic.deliverable(), Some(0x45));
        apic.accept(0x45);
        apic.write(EOI, 0, 0).unwrap();
        apic.sent_illegal_vector();
        assert_eq!(apic.deliverable(), None, "ESR has not been written since");
        assert_eq!(esr(&mut apic), Ok(0x60));
        apic.sent_illegal_vector();
        assert_eq!((apic.deliverable(), esr(&mut apic)), (Some(0x45), Ok(0x20)));
        apic.write(LVT_ERROR, 5, 0).unwrap();
        apic.sent_illegal_vector();
        assert_eq!(esr(&mut apic), Ok(0x60), "its own vector is one, too");
        for (msr, value) in [(LVT_TIMER, 7), (INITIAL_COUNT, 1)] {
            apic.write(msr, value, 0).unwrap();
        }
        assert!(apic.timer_fired(100));
        assert_eq!(esr(&mut apic), Ok(0x40));
    }

    #[test]
    fn a_count_goes_on_at_the_rate_that_is_written() {
        let mut apic = apic(0);
        for (msr, value, now) in
            [(DIVIDE, 0b1011, 0), (LVT_TIMER, 0x40, 0), (INITIAL_COUNT, 100, 1000), (DIVIDE, 0b0001, 1030)]
        {
            assert_eq!(apic.write(msr, value, now), Ok(Effect::Timer));
        }
        assert_eq!((apic.deadline_tsc(), apic.read(CURRENT_COUNT, 1034)), (Some(1310), Ok(69)));
        apic.write(LVT_TIMER, u64::from(0x40 | LVT_TSC_DEADLINE), 1100).unwrap();
        apic.write(IA32_TSC_DEADLINE, 5000, 1100).unwrap();
        apic.write(DIVIDE, 0b1011, 1200).unwrap();
        assert_eq!(apic.deadline_tsc(), Some(5000), "a deadline is no count");
    }

    #[test]
    fn the_reserved_timer_mode_does_nothing() {
        let mut apic = apic(0);
        for (msr, value) in [(LVT_TIMER, 0x40), (INITIAL_COUNT, 100), (LVT_TIMER, u64::from(0x40 | TIMER_MODE))] {
            assert_eq!(apic.write(msr, value, 0), Ok(Effect::Timer));
        }
        assert_eq!(apic.deadline_tsc(), None, "it ends a count");
        for msr in [INITIAL_COUNT, IA32_TSC_DEADLINE] {
            assert_eq!((apic.write(msr, 100, 0), apic.deadline_tsc()), (Ok(Effect::Timer), None), "{msr:#x}");
        }
    }

    #[test]
    fn reserved_bits_and_read_only_registers_are_refused() {
        let mut apic = apic(0);
        for (msr, value) in [
            (ID, 0),
            (VERSION, 0),
            (PPR, 0),
            (ISR, 0),
            (IRR, 0),
            (CURRENT_COUNT, 0),
            (TPR, 0x100),
            (EOI, 1),
            (ESR, 1),
            (SELF_IPI, 0x100),
            (ICR, 1 << 12),
            (LVT_TIMER, 1 << 12),
            (SVR, 1 << 12),
            (TPR, 1 << 32),
            (DIVIDE, 4),
        ] {
            assert_eq!(apic.write(msr, value, 0), Err(Refused), "{msr:#x} = {value:#x}");
        }
    }

    #[test]
    fn interrupts_are_delivered_by_priority() {
        let mut apic = apic(0);
        apic.request(0x31);
        apic.request(0x52);
        apic.request(3);
        assert_eq!(apic.deliverable(), Some(0x52));
        apic.accept(0x52);
        assert_eq!((apic.deliverable(), apic.in_service(), apic.requested()), (None, 0x52, 0x31));
        assert_eq!(apic.write(EOI, 0, 0), Ok(Effect::Priorities));
        assert_eq!(apic.deliverable(), Some(0x31));
        apic.set_cr8(3);
        assert_eq!((apic.deliverable(), apic.awaited_class(), apic.read(PPR, 0)), (None, 3, Ok(0x30)));
        assert_eq!((apic.write(TPR, 0x2f, 0), apic.cr8()), (Ok(Effect::TaskPriority), 2));
        assert_eq!(apic.deliverable(), Some(0x31));
    }

    #[test]
    fn the_end_of_a_level_triggered_interrupt_is_told() {
        let mut apic = apic(0);
        let end = |apic: &mut GuestApic, vector| {
            assert_eq!(apic.deliverable(), Some(vector));
            apic.accept(vector);
            apic.write(EOI, 0, 0)
        };
        apic.request_level(0x41);
        apic.request(0x42);
        assert_eq!((apic.read(TMR + 2, 0), apic.read(TMR + 1, 0)), (Ok(2), Ok(0)));
        assert_eq!(end(&mut apic, 0x42), Ok(Effect::Priorities));
        assert_eq!(end(&mut apic, 0x41), Ok(Effect::EndOfLevel(0x41)));
        apic.request(0x41);
        assert_eq!((end(&mut apic, 0x41), apic.write(EOI, 0, 0)), (Ok(Effect::Priorities), Ok(Effect::Priorities)));
        apic.request_level(15);
        assert_eq!((apic.deliverable(), apic.read(TMR, 0), apic.write(ESR, 0, 0)), (None, Ok(0), Ok(Effect::None)));
        assert_eq!(apic.read(ESR, 0), Ok(RECEIVED_ILLEGAL_VECTOR.into()));
    }

    #[test]
    fn the_timer_has_three_modes() {
        let mut apic = apic(0);
        let set = |apic: &mut GuestApic, msr, value, now| assert_eq!(apic.write(msr, value, now), Ok(Effect::Timer));
        set(&mut apic, DIVIDE, 0b1011, 0);
        set(&mut apic, LVT_TIMER, 0x40, 0);
        set(&mut apic, INITIAL_COUNT, 100, 1000);
        assert_eq!((apic.deadline_tsc(), apic.read(CURRENT_COUNT, 1030)), (Some(1100), Ok(70)));
        assert!(!apic.timer_fired(1099) && apic.timer_fired(1100));
        assert_eq!((apic.deliverable(), apic.deadline_tsc()), (Some(0x40), None));

        set(&mut apic, DIVIDE, 0b0011, 0);
        set(&mut apic, LVT_TIMER, u64::from(0x41 | LVT_PERIODIC), 0);
        set(&mut apic, INITIAL_COUNT, 1 << 20, 2000);
        let period = 16 << 20;
        assert!(apic.timer_fired(2003 + period));
        assert_eq!(apic.deadline_tsc(), Some(2000 + 2 * period));

        set(&mut apic, LVT_TIMER, u64::from(0x42 | LVT_TSC_DEADLINE), 0);
        assert_eq!(apic.deadline_tsc(), None, "a change of mode disarms");
        set(&mut apic, IA32_TSC_DEADLINE, 5000, 0);
        set(&mut apic, INITIAL_COUNT, 3, 0);
        assert_eq!((apic.deadline_tsc(), apic.read(IA32_TSC_DEADLINE, 0)), (Some(5000), Ok(5000)));
        set(&mut apic, IA32_TSC_DEADLINE, 0, 0);
        assert_eq!(apic.deadline_tsc(), None);
        set(&mut apic, IA32_TSC_DEADLINE, 5000, 0);
        set(&mut apic, LVT_TIMER, u64::from(0x42 | TIMER_MODE), 0);
        assert_eq!(apic.deadline_tsc(), None, "a reserved mode has no TSC deadline");
    }

    #[test]
    fn a_short_period_leaves_the_guest_time() {
        let mut apic = apic(0);
        for (msr, value) in [(DIVIDE, 0b1011), (LVT_TIMER, u64::from(0x41 | LVT_PERIODIC)), (INITIAL_COUNT, 1)] {
            assert_eq!(apic.write(msr, value, 1000), Ok(Effect::Timer));
        }
        assert_eq!(apic.deadline_tsc(), Some(1001), "the first is as asked for");
        assert!(apic.timer_fired(1001));
        assert_eq!((apic.deadline_tsc(), apic.read(CURRENT_COUNT, 1002)), (Some(1001 + LEAST_PERIOD_TICKS), Ok(1)));
        assert_eq!(apic.write(INITIAL_COUNT, 0, 1000), Ok(Effect::Timer));
        assert_eq!(apic.deadline_tsc(), None);
    }

    #[test]
    fn a_deadline_before_the_guests_tsc_wraps_is_not_missed_behind_that() {
        let mut apic = apic(0);
        assert_eq!(apic.write(LVT_TIMER, u64::from(0x40 | LVT_TSC_DEADLINE), 0), Ok(Effect::Timer));
        apic.set_tsc_offset(5000u64.wrapping_neg().wrapping_sub(10_000), 10_000);
        assert_eq!(apic.write(IA32_TSC_DEADLINE, 10u64.wrapping_neg(), 10_000), Ok(Effect::Timer));
        assert_eq!((apic.deadline_tsc(), apic.read(IA32_TSC_DEADLINE, 0)), (Some(14_990), Ok(10u64.wrapping_neg())));
        assert!(!apic.timer_fired(14_989) && apic.timer_fired(15_100));
        assert_eq!((apic.deliverable(), apic.read(IA32_TSC_DEADLINE, 0)), (Some(0x40), Ok(0)));
    }

    #[test]
    fn commands_find_their_destinations() {
        let to = |command, from| (0..4).filter(|&to| addresses(command, from, to)).collect::<Vec<_>>();
        assert_eq!(to(command(2, DELIVERY_FIXED, 0x30), 0), [2]);
        assert_eq!(to(TO_SELF, 1), [1]);
        assert_eq!(to(TO_ALL, 1), [0, 1, 2, 3]);
        assert_eq!(to(TO_OTHERS, 1), [0, 2, 3]);
        assert_eq!(to(LOGICAL | 0b1010 << 32, 0), [1, 3]);
        assert_eq!(to(LOGICAL | 0x1_000a << 32, 0), [] as [u32; 0], "another cluster");
        assert_eq!(to(u64::from(u32::MAX) << 32, 0), [0, 1, 2, 3]);
    }
}
