//! A second CPU whose one task is to send the first one what a CPU can't send itself: INIT and SIPI (SDM 3A 10.4, 12.6).
#![expect(unsafe_code, reason = "writes local APIC registers")]

use core::sync::atomic::{AtomicU32, Ordering};

use super::registers::tsc;

/// What it can send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Signal {
    /// INIT.
    Init = 1,
    /// SIPI, with a vector that no one looks at.
    StartUp = 2,
}

/// What is asked of it; 0 for nothing.
static ASKED: AtomicU32 = AtomicU32::new(0);
/// 1 once it serves.
static SERVES: AtomicU32 = AtomicU32::new(0);

/// The interrupt command register of every CPU's local APIC (SDM 3A 12.6.1), mapped to itself.
const ICR_LOW: u64 = 0xfee0_0300;
const ICR_HIGH: u64 = 0xfee0_0310;
/// INIT or SIPI, asserted, to the APIC in ICR_HIGH.
const INIT: u32 = 0x4500;
const START_UP: u32 = 0x4600;
/// To all but the sender.
const OTHERS: u32 = 0xc_0000;

/// Ticks between INIT and SIPI.
const START_TICKS: u64 = 200_000;
/// Ticks after which the first CPU has surely entered its guest; less than a scenario may take.
const SEND_TICKS: u64 = 20_000;
/// Ticks that a CPU has to come up.
const PATIENCE_TICKS: u64 = 20_000_000;

fn write_icr(high: u32, low: u32) {
    // SAFETY: this CPU's own command register, which nothing else of the monitor uses at this time.
    unsafe {
        core::ptr::write_volatile(ICR_HIGH as *mut u32, high);
        core::ptr::write_volatile(ICR_LOW as *mut u32, low);
    }
}

fn pause(ticks: u64) {
    let start = tsc();
    while tsc().wrapping_sub(start) < ticks {
        core::hint::spin_loop();
    }
}

/// Starts the other CPUs at `vector`, where the boot block lets one of them serve. False if none comes up.
pub fn start(vector: u8) -> bool {
    write_icr(0, OTHERS | INIT);
    pause(START_TICKS);
    write_icr(0, OTHERS | START_UP | u32::from(vector));
    let start = tsc();
    while SERVES.load(Ordering::Acquire) == 0 {
        if tsc().wrapping_sub(start) > PATIENCE_TICKS {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// Asks it to send a signal, a while from now.
pub(super) fn ask(signal: Signal) {
    ASKED.store(signal as u32, Ordering::Release);
}

/// What the other CPU does from its start on: sends the boot processor, whose APIC ID is 0, what it is asked to.
pub fn serve() -> ! {
    SERVES.store(1, Ordering::Release);
    loop {
        let command = match ASKED.swap(0, Ordering::Acquire) {
            asked if asked == Signal::Init as u32 => INIT,
            asked if asked == Signal::StartUp as u32 => START_UP,
            _ => {
                core::hint::spin_loop();
                continue;
            }
        };
        pause(SEND_TICKS);
        write_icr(0, command);
    }
}
