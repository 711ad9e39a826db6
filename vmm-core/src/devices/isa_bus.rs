//! The devices of an ISA bus together: each port's device, and the lines between them.

use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;

use tollgate_abi::machine::Behind;
use tollgate_abi::machine::legacy_pc::{PM_TIMER_BITS, PM_TIMER_HZ, TIMER_HZ, TIMER_LINE};
use tollgate_abi::machine::pc::SERIAL_INTERRUPT;

use super::Effect;
use super::crystal::Rate;
use super::ending_ports::EndingPorts;
use super::interval_timer::IntervalTimer;
use super::keyboard_controller::{self, KeyboardController};
use super::pic::Pair;
use super::test_device::TestDevice;

/// The bus.
#[derive(Debug, Default)]
pub struct IsaBus {
    is_there: AtomicBool,
    rate: Rate,
    timer: IntervalTimer,
    /// The interval timer has interrupted, which the IOAPIC does not know yet.
    timer_rises: AtomicBool,
    /// The pair of interrupt controllers.
    pub pics: Pair,
    keyboard: KeyboardController,
    /// The ports by which a guest ends.
    pub ending: EndingPorts,
    /// The lines that a guest sets by itself.
    pub test: TestDevice,
}

impl IsaBus {
    /// A bus that is not there.
    pub const fn new() -> Self {
        Self {
            is_there: AtomicBool::new(false),
            rate: Rate::new(),
            timer: IntervalTimer::new(),
            timer_rises: AtomicBool::new(false),
            pics: Pair::new(),
            keyboard: KeyboardController::new(),
            ending: EndingPorts::new(),
            test: TestDevice::new(),
        }
    }

    /// Puts the bus into the machine, as firmware leaves it: counter 0 counts. Before the guest runs.
    pub fn begin(&self, tsc_hz: Option<u64>) {
        self.is_there.store(true, Relaxed);
        self.rate.set(tsc_hz.unwrap_or(0));
        /// Counter 0, two halves of the count, mode 3.
        const SQUARE_WAVE: u8 = 0x36;
        [(3, SQUARE_WAVE), (0, 0), (0, 0)].iter().for_each(|&(at, value)| _ = self.timer.write(at, value, 0));
    }

    /// Whether the machine has the bus.
    pub fn is_there(&self) -> bool {
        self.is_there.load(Relaxed)
    }

    fn ticks(&self, now: u64) -> u64 {
        self.rate.ticks(TIMER_HZ, now)
    }

    /// Brings the interval timer's interrupt to the lines.
    pub fn advance(&self, now: u64) {
        if self.timer.takes_rise(self.ticks(now)) {
            self.pics.pulse(TIMER_LINE);
            self.timer_rises.store(true, Relaxed);
        }
    }

    /// Whether the interval timer has interrupted since this was asked last.
    pub fn takes_timer_rise(&self) -> bool {
        let rises = self.timer_rises.load(Relaxed);
        self.timer_rises.store(false, Relaxed);
        rises
    }

    /// The time at which the interval timer interrupts next.
    pub fn deadline(&self) -> Option<u64> {
        self.timer.rises_at().map(|ticks| self.rate.time(TIMER_HZ, ticks))
    }

    /// Sets the serial port's line at the pair of interrupt controllers.
    pub fn set_serial_line(&self, is_up: bool) {
        self.pics.set_line(SERIAL_INTERRUPT as u8, is_up);
    }

    /// IN from a device, at the port at this offset.
    #[cold]
    #[inline(never)]
    pub fn read(&self, behind: Behind, at: u16, now: u64) -> u32 {
        let register = match behind {
            Behind::Timer => self.timer.read(at, self.ticks(now)),
            Behind::Speaker => self.timer.read_speaker(self.ticks(now)),
            Behind::FirstPic | Behind::SecondPic => {
                self.advance(now);
                self.pics.read(which(behind), at)
            }
            Behind::PicLevels => self.pics.levels(at.into()),
            Behind::Keyboard => self.keyboard.read(),
            Behind::KeyboardCommand => self.keyboard.status(),
            Behind::FastReset => keyboard_controller::read_fast(),
            Behind::PmTimer => {
                let ticks = self.rate.ticks(PM_TIMER_HZ, now) as u32 & ((1 << PM_TIMER_BITS) - 1);
                return ticks >> (8 * at);
            }
            Behind::TestBytes => return self.test.read(at),
            Behind::DebugExit => 0,
            _ => u8::MAX,
        };
        // Behind an eight-bit device's register nobody answers.
        !0xff | u32::from(register)
    }

    /// OUT of the low `bytes` bytes of `value` to a device, at the port at this offset.
    #[cold]
    #[inline(never)]
    pub fn write(&self, behind: Behind, at: u16, bytes: u8, value: u32, now: u64) -> Effect {
        let register = value as u8;
        match behind {
            Behind::Timer if self.timer.write(at, register, self.ticks(now)) => return Effect::Rise,
            Behind::Speaker => self.timer.write_speaker(register, self.ticks(now)),
            Behind::FirstPic | Behind::SecondPic => {
                self.advance(now);
                self.pics.write(which(behind), at, register);
                return Effect::Rise;
            }
            Behind::PicLevels => {
                self.pics.set_levels(at.into(), register);
                return Effect::Rise;
            }
            Behind::Keyboard => return self.keyboard.write(register),
            Behind::KeyboardCommand => return self.keyboard.command(register),
            Behind::FastReset => return keyboard_controller::write_fast(register),
            Behind::DebugExit => return self.ending.end(bytes, value),
            Behind::Shutdown => return self.ending.spell(register),
            Behind::TestLines => return self.test.set_line(at, register != 0),
            Behind::TestBytes => self.test.write(at, bytes, value),
            _ => {}
        }
        Effect::None
    }
}

/// The number of an interrupt controller.
fn which(behind: Behind) -> usize {
    usize::from(behind == Behind::SecondPic)
}
