//! An 8254 interval timer (Intel order number 231164), and the port of a PC at which its counter 2 is switched and heard. Counter 0
//! makes interrupts, counter 1 nothing, counter 2 sound.
//!
//! Time is handed in as ticks of its crystal. A counter is a rule: its state is the tick at which it was loaded, and a count is
//! worked out when it is read.
//!
//! Left out: counting in decimal, which is done in binary; that a count which is written while modes 2 and 3 run waits for the end
//! of the period.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU64};

/// The place of the control word behind the counters.
const CONTROL: u16 = 3;
/// The counter whose gate software opens.
const GATED: usize = 2;

/// In the control word: the counter, or both bits for a read-back.
const SELECT_SHIFT: u8 = 6;
const READ_BACK: usize = 3;
/// In the control word: the halves of a count that are read and written, low and high; 0 latches the count.
const LOW: u8 = 1 << 4;
const HIGH: u8 = 1 << 5;
/// In a read-back, inverted: the counts and the states of the counters are latched.
const NO_COUNT: u8 = 1 << 5;
const NO_STATUS: u8 = 1 << 4;
/// In a counter's status: its output, and that a count is not loaded yet. Below is its control word.
const STATUS_OUTPUT: u8 = 1 << 7;
const STATUS_NULL: u8 = 1 << 6;

/// At the speaker's port: counter 2's gate.
const GATE: u8 = 1 << 0;
/// At the speaker's port: the bits that read as they were written. The upper two switch checks of memory and bus.
const SPEAKER_WRITABLE: u8 = 0xf;
/// At the speaker's port: memory is refreshed, every 15 µs.
const REFRESH: u8 = 1 << 4;
/// At the speaker's port: counter 2's output.
const OUTPUT: u8 = 1 << 5;
/// Ticks between two refreshes: the period that firmware gives to counter 1.
const REFRESH_TICKS: u64 = 18;

/// The least ticks between two interrupts of counter 0, 262 µs: under a shorter period a guest could not execute an instruction
/// between two exits. The local APIC's timer has such a bound, too.
const LEAST_PERIOD: u64 = 312;

/// In a counter's state: a count was loaded.
const LOADED: u8 = 1 << 0;
/// In a counter's state: the gate holds the count.
const HELD: u8 = 1 << 1;
/// In a counter's state: the high half of a count is the next that is written.
const WRITES_HIGH: u8 = 1 << 2;
/// In a counter's state: the high half is the next that is read.
const READS_HIGH: u8 = 1 << 3;
/// In a counter's state: a count is latched.
const COUNT_LATCHED: u8 = 1 << 4;
/// In a counter's state: a status is latched.
const STATUS_LATCHED: u8 = 1 << 5;

/// The timer.
#[derive(Debug, Default)]
pub struct IntervalTimer {
    counters: [Counter; 3],
    speaker: AtomicU8,
    /// The tick at which counter 0's output rises next; 0 for never.
    rises_at: AtomicU64,
}

/// A counter.
#[derive(Debug, Default)]
struct Counter {
    control: AtomicU8,
    state: AtomicU8,
    /// The count that it is loaded with; 0 stands for 65,536.
    reload: AtomicU16,
    /// The low half of a count whose high half is to come.
    low: AtomicU8,
    latched: AtomicU16,
    latched_status: AtomicU8,
    /// The tick at which it is loaded. While it is held, the ticks that it has counted.
    start: AtomicU64,
}

impl Counter {
    const fn new() -> Self {
        Self {
            control: AtomicU8::new(0),
            state: AtomicU8::new(0),
            reload: AtomicU16::new(0),
            low: AtomicU8::new(0),
            latched: AtomicU16::new(0),
            latched_status: AtomicU8::new(0),
            start: AtomicU64::new(0),
        }
    }

    fn mode(&self) -> u8 {
        // The highest bit of modes 2 and 3 does not matter.
        match self.control.load(Relaxed) >> 1 & 7 {
            mode @ 6..=7 => mode - 4,
            mode => mode,
        }
    }

    fn is(&self, flag: u8) -> bool {
        self.state.load(Relaxed) & flag != 0
    }

    fn set(&self, flag: u8, value: bool) {
        let others = self.state.load(Relaxed) & !flag;
        self.state.store(others | if value { flag } else { 0 }, Relaxed);
    }

    fn period(&self) -> u64 {
        u64::from(self.reload.load(Relaxed).wrapping_sub(1)) + 1
    }

    /// The ticks that it has counted.
    fn counted(&self, now: u64) -> u64 {
        let start = self.start.load(Relaxed);
        if self.is(HELD) { start } else { now.saturating_sub(start) }
    }

    /// The ticks of a square wave's first half.
    fn half(period: u64) -> u64 {
        period.div_ceil(2)
    }

    fn count(&self, now: u64) -> u16 {
        let (period, counted) = (self.period(), self.counted(now));
        let count = match self.mode() {
            2 => period - counted % period,
            3 => {
                // It counts down by two, once for each half.
                let (at, half) = (counted % period, Self::half(period));
                (period & !1) - 2 * if at < half { at } else { at - half }
            }
            _ => period.wrapping_sub(counted),
        };
        count as u16
    }

    fn output(&self, now: u64) -> bool {
        let (period, counted) = (self.period(), self.counted(now));
        match self.mode() {
            mode if !self.is(LOADED) => mode != 0,
            0 | 1 => counted >= period,
            2 => counted % period != period - 1,
            3 => counted % period < Self::half(period),
            _ => counted != period,
        }
    }

    /// The tick behind `now` at which the output rises, if it does.
    fn rise_behind(&self, now: u64) -> Option<u64> {
        if !self.is(LOADED) || self.is(HELD) {
            return None;
        }
        let (period, start) = (self.period(), self.start.load(Relaxed));
        let rise = match self.mode() {
            0 | 1 => start + period,
            2 | 3 => start + (self.counted(now) / period + 1) * period,
            _ => start + period + 1,
        };
        (rise > now).then_some(rise)
    }

    fn set_control(&self, control: u8) {
        self.control.store(control & 0x3f, Relaxed);
        self.state.store(0, Relaxed);
    }

    fn latch_count(&self, now: u64) {
        if !self.is(COUNT_LATCHED) {
            self.latched.store(self.count(now), Relaxed);
            self.set(COUNT_LATCHED, true);
        }
    }

    fn latch_status(&self, now: u64) {
        if !self.is(STATUS_LATCHED) {
            let is_null = !self.is(LOADED) || !self.is(HELD) && now < self.start.load(Relaxed);
            let output = if self.output(now) { STATUS_OUTPUT } else { 0 };
            let null = if is_null { STATUS_NULL } else { 0 };
            self.latched_status.store(output | null | self.control.load(Relaxed), Relaxed);
            self.set(STATUS_LATCHED, true);
        }
    }

    fn read(&self, now: u64) -> u8 {
        if self.is(STATUS_LATCHED) {
            self.set(STATUS_LATCHED, false);
            return self.latched_status.load(Relaxed);
        }
        let count = if self.is(COUNT_LATCHED) { self.latched.load(Relaxed) } else { self.count(now) };
        let halves = self.control.load(Relaxed) & (LOW | HIGH);
        let is_high = halves == HIGH || halves == LOW | HIGH && self.is(READS_HIGH);
        let has_more = halves == LOW | HIGH && !is_high;
        self.set(READS_HIGH, has_more);
        if !has_more {
            self.set(COUNT_LATCHED, false);
        }
        if is_high { (count >> 8) as u8 } else { count as u8 }
    }

    /// Takes a half of a count.
    fn write(&self, value: u8, now: u64, gate: bool) {
        let (halves, mode) = (self.control.load(Relaxed) & (LOW | HIGH), self.mode());
        if halves == LOW | HIGH && !self.is(WRITES_HIGH) {
            self.low.store(value, Relaxed);
            self.set(WRITES_HIGH, true);
            if mode == 0 {
                // It stops until the high half comes.
                self.set(LOADED, false);
            }
            return;
        }
        let (low, high) = match halves {
            LOW => (value, 0),
            HIGH => (0, value),
            _ => (self.low.load(Relaxed), value),
        };
        self.set(WRITES_HIGH, false);
        self.reload.store(u16::from_le_bytes([low, high]), Relaxed);
        // The gate's rise starts the others.
        if !matches!(mode, 1 | 5) {
            self.start(now, !gate);
        }
    }

    /// Loads the counter at the next tick, or once the gate opens.
    fn start(&self, now: u64, is_held: bool) {
        self.start.store(if is_held { 0 } else { now + 1 }, Relaxed);
        self.set(LOADED, true);
        self.set(HELD, is_held);
    }

    /// Obeys a change of the gate.
    fn set_gate(&self, gate: bool, now: u64) {
        match (self.mode(), gate) {
            (1 | 5, true) => self.start(now, false),
            (1 | 5, false) => {}
            _ if !self.is(LOADED) => {}
            // A count goes on where it stopped.
            (0 | 4, _) => {
                let counted = self.counted(now);
                self.start.store(if gate { now.saturating_sub(counted) } else { counted }, Relaxed);
                self.set(HELD, !gate);
            }
            (_, gate) => self.start(now, !gate),
        }
    }
}

impl IntervalTimer {
    /// The timer after reset: no counter counts.
    pub const fn new() -> Self {
        Self { counters: [const { Counter::new() }; 3], speaker: AtomicU8::new(0), rises_at: AtomicU64::new(0) }
    }

    /// A byte from the port at this offset.
    pub fn read(&self, at: u16, now: u64) -> u8 {
        // The control word can't be read.
        self.counters.get(usize::from(at)).map_or(u8::MAX, |counter| counter.read(now))
    }

    /// A byte to the port at this offset. True if the interrupt comes at another time than before.
    pub fn write(&self, at: u16, value: u8, now: u64) -> bool {
        if at != CONTROL {
            let at = usize::from(at);
            let Some(counter) = self.counters.get(at) else { return false };
            counter.write(value, now, at != GATED || self.speaker.load(Relaxed) & GATE != 0);
            return self.settle(at, now);
        }
        let select = usize::from(value >> SELECT_SHIFT);
        if select == READ_BACK {
            let selected = self.counters.iter().enumerate().filter(|(at, _)| value >> (at + 1) & 1 != 0);
            selected.for_each(|(_, counter)| {
                if value & NO_COUNT == 0 {
                    counter.latch_count(now);
                }
                if value & NO_STATUS == 0 {
                    counter.latch_status(now);
                }
            });
            return false;
        }
        if value & (LOW | HIGH) == 0 {
            self.counters[select].latch_count(now);
            return false;
        }
        self.counters[select].set_control(value);
        self.settle(select, now)
    }

    /// Finds out anew when counter 0 interrupts, if it is the one that has changed.
    fn settle(&self, at: usize, now: u64) -> bool {
        if at == 0 {
            self.rises_at.store(self.counters[0].rise_behind(now).unwrap_or(0), Relaxed);
        }
        at == 0
    }

    /// The byte at the speaker's port.
    pub fn read_speaker(&self, now: u64) -> u8 {
        let refresh = if (now / REFRESH_TICKS).is_multiple_of(2) { 0 } else { REFRESH };
        let output = if self.counters[GATED].output(now) { OUTPUT } else { 0 };
        self.speaker.load(Relaxed) | refresh | output
    }

    /// A byte to the speaker's port.
    pub fn write_speaker(&self, value: u8, now: u64) {
        let changed = self.speaker.load(Relaxed) ^ value;
        self.speaker.store(value & SPEAKER_WRITABLE, Relaxed);
        if changed & GATE != 0 {
            self.counters[GATED].set_gate(value & GATE != 0, now);
        }
    }

    /// The tick at which counter 0 interrupts next.
    pub fn rises_at(&self) -> Option<u64> {
        Some(self.rises_at.load(Relaxed)).filter(|&at| at != 0)
    }

    /// Whether counter 0 has interrupted since it was asked last. Interrupts that were missed are not made up for.
    pub fn takes_rise(&self, now: u64) -> bool {
        let Some(at) = self.rises_at().filter(|&at| at <= now) else { return false };
        let next = self.counters[0].rise_behind(now);
        let is_soon = next.is_some_and(|next| next < at + LEAST_PERIOD);
        let next = if is_soon { self.counters[0].rise_behind(at + LEAST_PERIOD - 1) } else { next };
        self.rises_at.store(next.unwrap_or(0), Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// The control word of a counter: its mode, with a count of two halves.
    const fn control(counter: u8, mode: u8) -> u8 {
        counter << SELECT_SHIFT | LOW | HIGH | mode << 1
    }

    fn load(timer: &IntervalTimer, counter: u8, mode: u8, count: u16, now: u64) {
        timer.write(CONTROL, control(counter, mode), now);
        count.to_le_bytes().iter().for_each(|&half| _ = timer.write(counter.into(), half, now));
    }

    fn latched(timer: &IntervalTimer, counter: u8, now: u64) -> u16 {
        timer.write(CONTROL, counter << SELECT_SHIFT, now);
        count(timer, counter, now + 1000)
    }

    fn count(timer: &IntervalTimer, counter: u8, now: u64) -> u16 {
        u16::from_le_bytes([(); 2].map(|()| timer.read(counter.into(), now)))
    }

    /// The status of a counter.
    fn status(timer: &IntervalTimer, counter: u8, now: u64) -> u8 {
        timer.write(CONTROL, 0xe0 | 2 << counter, now);
        timer.read(counter.into(), now)
    }

    /// Linux' measurement of the TSC by counter 2 in mode 0 (arch/x86/kernel/tsc.c, `pit_calibrate_tsc`), and memtest86+'s: the
    /// gate opens, and the output rises when the count is over.
    #[test]
    fn a_wait_for_counter_2_lasts_as_long_as_its_count() {
        let timer = IntervalTimer::new();
        assert_eq!(timer.read_speaker(0), 0, "the gate is closed");
        timer.write_speaker(timer.read_speaker(100) & !2 | 1, 100);
        load(&timer, 2, 0, 11_931, 200);
        let over = (200..20_000).find(|&now| timer.read_speaker(now) & OUTPUT != 0);
        assert_eq!(over, Some(200 + 1 + 11_931), "one tick more than the count, since it is loaded with the next");
        assert_eq!(timer.read_speaker(30_000) & (OUTPUT | GATE), OUTPUT | GATE, "it stays");
    }

    /// Linux' quick measurement (`quick_pit_calibrate`): the high half falls by one every 256 ticks.
    #[test]
    fn the_high_half_of_a_count_falls_by_one_every_256_ticks() {
        let timer = IntervalTimer::new();
        timer.write_speaker(1, 0);
        load(&timer, 2, 0, 0xffff, 0);
        for step in 0..100 {
            let now = 1 + 256 * step;
            let halves = [now, now + 255].map(|now| count(&timer, 2, now) >> 8);
            assert_eq!(halves, [0xff - step as u16; 2], "{step}");
        }
    }

    #[test]
    fn a_latched_count_and_status_stand_until_they_are_read() {
        let timer = IntervalTimer::new();
        load(&timer, 0, 2, 1000, 0);
        assert_eq!(
            (status(&timer, 0, 0), status(&timer, 0, 1)),
            (0xf4, 0xb4),
            "the count is loaded with the next tick"
        );
        assert_eq!((latched(&timer, 0, 11), count(&timer, 0, 21)), (990, 980));
        timer.write(CONTROL, 0xc2, 31);
        timer.write(CONTROL, 0xc2, 41);
        assert_eq!(timer.read(0, 51), 0xb4, "the status comes before the count");
        assert_eq!((count(&timer, 0, 51), count(&timer, 0, 51)), (970, 950), "the first of two latches counts");
        for (halves, expected) in [(LOW, [0x2a; 2]), (HIGH, [0x2a; 2])] {
            timer.write(CONTROL, 1 << SELECT_SHIFT | halves, 100);
            timer.write(1, 0x2a, 100);
            assert_eq!([(); 2].map(|()| timer.read(1, 101)), expected);
        }
        assert_eq!(timer.read(CONTROL, 0), 0xff);
    }

    #[test]
    fn each_mode_has_its_output() {
        let outputs = |mode: u8, count: u16| -> Vec<bool> {
            let timer = IntervalTimer::new();
            timer.write_speaker(1, 0);
            load(&timer, 2, mode, count, 0);
            (1..11).map(|now| timer.read_speaker(now) & OUTPUT != 0).collect()
        };
        let wave = |text: &str| text.bytes().map(|byte| byte == b'1').collect::<Vec<_>>();
        assert_eq!(outputs(0, 4), wave("0000111111"));
        assert_eq!(outputs(2, 4), wave("1110111011"));
        assert_eq!(outputs(6, 4), wave("1110111011"));
        assert_eq!(outputs(3, 4), wave("1100110011"));
        assert_eq!(outputs(3, 5), wave("1110011100"));
        assert_eq!(outputs(4, 4), wave("1111011111"));
    }

    #[test]
    fn a_gate_holds_a_count_starts_it_anew_or_starts_it() {
        let at = |mode: u8, gates: &[(u8, u64)], now: u64| {
            let timer = IntervalTimer::new();
            timer.write_speaker(gates[0].0, 0);
            load(&timer, 2, mode, 100, 0);
            let until = gates[1..].iter().filter(|&&(_, at)| at <= now);
            until.for_each(|&(gate, at)| timer.write_speaker(gate, at));
            (latched(&timer, 2, now), timer.read_speaker(now) & OUTPUT != 0)
        };
        let pause: &[(u8, u64)] = &[(1, 0), (0, 31), (1, 500)];
        assert_eq!((at(0, pause, 400), at(0, pause, 510)), ((70, false), (60, false)));
        assert_eq!((at(2, pause, 400), at(2, pause, 511)), ((100, true), (90, true)));
        let closed: &[(u8, u64)] = &[(0, 0), (1, 500)];
        assert_eq!((at(0, closed, 400), at(0, closed, 510)), ((100, false), (90, false)));
        for mode in [1, 5] {
            assert!(at(mode, closed, 400).1, "mode {mode} waits for the gate");
            assert_eq!(at(mode, closed, 511), (90, mode == 5));
            assert_eq!(at(mode, &[(0, 0), (1, 500), (0, 510)], 600), (1, mode == 5), "and does not stop");
            assert_eq!(at(mode, &[(0, 0), (1, 500), (0, 510), (1, 511)], 601), (11, mode == 5), "but starts anew");
        }
    }

    #[test]
    fn counter_0_interrupts_when_its_output_rises() {
        let rises = |mode: u8, count: u16, until: u64| -> Vec<u64> {
            let timer = IntervalTimer::new();
            load(&timer, 0, mode, count, 0);
            (0..until).filter(|&now| timer.takes_rise(now)).collect()
        };
        assert_eq!(rises(0, 1000, 5000), [1001]);
        assert_eq!(rises(2, 1000, 4000), [1001, 2001, 3001]);
        assert_eq!(rises(3, 1000, 4000), [1001, 2001, 3001]);
        assert_eq!(rises(4, 1000, 5000), [1002]);
        assert_eq!(rises(1, 1000, 5000), [], "its gate is always open, and does not rise");
        assert_eq!(rises(2, 100, 1200), [101, 501, 901], "there is a least period");
        let timer = IntervalTimer::new();
        assert_eq!((timer.takes_rise(u64::MAX), timer.rises_at()), (false, None), "after reset");
        load(&timer, 0, 2, 1000, 0);
        assert!(timer.takes_rise(10_500) && !timer.takes_rise(10_999), "missed ones are not made up for");
        assert_eq!(timer.rises_at(), Some(11_001));
        timer.write(CONTROL, control(0, 0), 10_600);
        assert_eq!(timer.rises_at(), None, "a control word stops it");
    }

    #[test]
    fn memory_is_refreshed_every_15_microseconds() {
        let timer = IntervalTimer::new();
        let changes = (1..1000).filter(|&now| (timer.read_speaker(now) ^ timer.read_speaker(now - 1)) & REFRESH != 0);
        assert_eq!(changes.count(), 999 / 18);
    }

    proptest! {
        /// A count falls by one with each tick, in mode 3 by two, but where it begins anew.
        #[test]
        fn counts_fall_with_time(mode in 0u8..6, count: u16, start in 0u64..1 << 40, ahead in 0u64..1 << 20) {
            let timer = IntervalTimer::new();
            // The gate opens before the count, but for the modes that it starts.
            let gates = if matches!(mode, 1 | 5) { [0, 1] } else { [1, 1] };
            timer.write_speaker(gates[0], 0);
            load(&timer, 2, mode, count, start);
            timer.write_speaker(gates[1], start);
            let period = u64::from(count.wrapping_sub(1)) + 1;
            let now = start + 1 + ahead;
            let (first, second) = (latched(&timer, 2, now), latched(&timer, 2, now + 1));
            match mode {
                2 if (ahead + 1) % period == 0 => prop_assert_eq!((first, second), (1, count)),
                3 => {
                    let at = (ahead + 1) % period;
                    let begins = at == 0 || at == period.div_ceil(2);
                    let expected = if begins { count & !1 } else { first.wrapping_sub(2) };
                    prop_assert_eq!(second, expected);
                }
                _ => prop_assert_eq!(second, first.wrapping_sub(1)),
            }
            if ahead < period / 2 {
                let expected = u64::from(count) + if count == 0 { 1 << 16 } else { 0 };
                let by = if mode == 3 { 2 } else { 1 };
                let from = if mode == 3 { expected & !1 } else { expected };
                prop_assert_eq!(first, (from - by * ahead) as u16);
            }
        }
    }
}
