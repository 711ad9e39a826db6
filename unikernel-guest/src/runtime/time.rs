//! Time from the time-stamp counter: `sys_clock_gettime`, `sys_usleep`, `sys_nanosleep`.
//!
//! Both clocks count from the start of the guest: no clock knows the date, so `CLOCK_REALTIME` stays near its Epoch. The
//! frequency comes from CPUID leaves 15H and 16H (SDM 3B 19.7.3), else 1 GHz is assumed. On an emulator it has nothing to do with
//! the seconds outside, but it repeats.
#![expect(unsafe_code, reason = "defines hermit-abi symbols by name and writes where callers point to")]

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hermit_abi::{CLOCK_MONOTONIC, CLOCK_REALTIME, EFAULT, EINVAL, timespec};

use super::errno::refused;
use super::processor;
use crate::ops::idle::pause;
use crate::ops::time_stamp::rdtsc;

const NANOSECONDS: u64 = 1_000_000_000;
const ASSUMED_HZ: u64 = 1_000_000_000;

static START_TSC: AtomicU64 = AtomicU64::new(0);
static HZ: AtomicU64 = AtomicU64::new(ASSUMED_HZ);

/// Starts the clock.
pub(crate) fn set_up() {
    HZ.store(crystal_hz().or_else(base_hz).unwrap_or(ASSUMED_HZ), Relaxed);
    START_TSC.store(rdtsc(), Relaxed);
}

/// Leaf 15H: the crystal's frequency and its ratio to the time-stamp counter's.
fn crystal_hz() -> Option<u64> {
    let leaf = processor::leaf(0x15)?;
    let hz = u64::from(leaf.ecx) * u64::from(leaf.ebx);
    hz.checked_div(u64::from(leaf.eax)).filter(|&hz| hz > 0)
}

/// Leaf 16H: the base frequency in MHz.
fn base_hz() -> Option<u64> {
    let mhz = processor::leaf(0x16)?.eax & 0xffff;
    (mhz > 0).then(|| u64::from(mhz) * 1_000_000)
}

/// Nanoseconds since the start.
pub(crate) fn now_ns() -> u64 {
    let ticks = rdtsc().wrapping_sub(START_TSC.load(Relaxed));
    let hz = HZ.load(Relaxed);
    // In two parts, each of which stays within 64 bits for centuries.
    (ticks / hz).wrapping_mul(NANOSECONDS).wrapping_add(ticks % hz * NANOSECONDS / hz)
}

/// Waits until `deadline_ns` after the start.
pub(crate) fn wait_until(deadline_ns: u64) {
    while now_ns() < deadline_ns {
        pause();
    }
}

/// A time in nanoseconds; `None` if it is not one.
pub(crate) fn nanoseconds(time: &timespec) -> Option<u64> {
    let fraction = u64::try_from(time.tv_nsec).ok().filter(|&fraction| fraction < NANOSECONDS)?;
    u64::try_from(time.tv_sec).ok()?.checked_mul(NANOSECONDS)?.checked_add(fraction)
}

/// # Safety
/// `time` can be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn sys_clock_gettime(clock: i32, time: *mut timespec) -> i32 {
    if !matches!(clock, CLOCK_REALTIME | CLOCK_MONOTONIC) {
        return refused(EINVAL);
    }
    if time.is_null() {
        return refused(EFAULT);
    }
    let now = now_ns();
    // SAFETY: the caller says so.
    unsafe { time.write(timespec { tv_sec: (now / NANOSECONDS) as i64, tv_nsec: (now % NANOSECONDS) as i32 }) };
    0
}

#[unsafe(no_mangle)]
extern "C" fn sys_usleep(microseconds: u64) {
    wait_until(now_ns().saturating_add(microseconds.saturating_mul(1000)));
}

/// # Safety
/// `time` can be read.
#[unsafe(no_mangle)]
unsafe extern "C" fn sys_nanosleep(time: *const timespec) -> i32 {
    if time.is_null() {
        return refused(EFAULT);
    }
    // SAFETY: the caller says so.
    let Some(duration) = nanoseconds(unsafe { &*time }) else { return refused(EINVAL) };
    wait_until(now_ns().saturating_add(duration));
    0
}
