//! Time from the time-stamp counter: `sys_clock_gettime`, `sys_usleep`, `sys_nanosleep`.
//!
//! Both clocks count from the start of the guest: no clock knows the date, so `CLOCK_REALTIME` stays near its Epoch. The
//! frequency comes from CPUID leaves 15H and 16H (SDM 3B 19.7.3), else 1 GHz is assumed. On an emulator it has nothing to do with
//! the seconds outside, but it repeats.
#![expect(unsafe_code, reason = "defines hermit-abi symbols by name and writes where callers point to")]

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hermit_abi::{CLOCK_MONOTONIC, CLOCK_REALTIME, EFAULT, EINVAL, timespec};

use tollgate_abi::leaves::Answer;

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
    HZ.store(tsc_hz(processor::leaf), Relaxed);
    START_TSC.store(rdtsc(), Relaxed);
}

/// The frequency of the time-stamp counter, as CPUID's leaves tell it.
fn tsc_hz(leaf: impl Fn(u32) -> Option<Answer>) -> u64 {
    leaf(0x15).and_then(crystal_hz).or_else(|| leaf(0x16).and_then(base_hz)).unwrap_or(ASSUMED_HZ)
}

/// Leaf 15H: the crystal's frequency and its ratio to the time-stamp counter's.
fn crystal_hz(leaf: Answer) -> Option<u64> {
    let hz = u64::from(leaf.ecx) * u64::from(leaf.ebx);
    hz.checked_div(u64::from(leaf.eax)).filter(|&hz| hz > 0)
}

/// Leaf 16H: the base frequency in MHz.
fn base_hz(leaf: Answer) -> Option<u64> {
    let mhz = leaf.eax & 0xffff;
    (mhz > 0).then(|| u64::from(mhz) * 1_000_000)
}

/// Nanoseconds since the start.
pub(crate) fn now_ns() -> u64 {
    in_nanoseconds(rdtsc().wrapping_sub(START_TSC.load(Relaxed)), HZ.load(Relaxed))
}

fn in_nanoseconds(ticks: u64, hz: u64) -> u64 {
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
    // SAFETY: by the caller, `time` can be written.
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
    // SAFETY: by the caller, `time` can be read.
    let Some(duration) = nanoseconds(unsafe { &*time }) else { return refused(EINVAL) };
    wait_until(now_ns().saturating_add(duration));
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_counts_by_the_first_leaf_that_tells_a_frequency() {
        let answer = |eax, ebx, ecx| Answer { eax, ebx, ecx, edx: 0 };
        let hz =
            |crystal: Option<Answer>, base: Option<Answer>| tsc_hz(|leaf| if leaf == 0x15 { crystal } else { base });
        let base = Some(answer(0xffff_0bb8, 0, 0));
        assert_eq!(hz(Some(answer(2, 188, 38_400_000)), base), 3_609_600_000);
        assert_eq!(
            hz(Some(answer(2, 188, 0)), base),
            3_000_000_000,
            "the crystal's is not told; bits above 15 are none"
        );
        assert_eq!(hz(Some(answer(0, 188, 38_400_000)), base), 3_000_000_000, "no ratio");
        assert_eq!([hz(None, None), hz(None, Some(answer(0, 0, 0)))], [ASSUMED_HZ; 2]);
    }

    #[test]
    fn ticks_become_nanoseconds_without_a_jump_for_years() {
        const HZ: u64 = 3_609_600_000;
        const YEAR_SECONDS: u64 = 365 * 24 * 3600;
        assert_eq!(
            [0, 1, HZ, 2 * HZ + HZ / 2].map(|ticks| in_nanoseconds(ticks, HZ)),
            [0, 0, 1_000_000_000, 2_500_000_000]
        );
        assert_eq!(in_nanoseconds(100 * YEAR_SECONDS * HZ, HZ), 100 * YEAR_SECONDS * NANOSECONDS);
        for start in [HZ - 5000, 7 * HZ, u64::from(u32::MAX), 50 * YEAR_SECONDS * HZ] {
            let times = (start..start + 10_000).map(|ticks| in_nanoseconds(ticks, HZ));
            assert!(times.clone().zip(times.skip(1)).all(|(before, after)| after == before || after == before + 1));
        }
    }

    #[test]
    fn a_time_that_is_none_is_refused() {
        let of = |tv_sec, tv_nsec| nanoseconds(&timespec { tv_sec, tv_nsec });
        assert_eq!((of(0, 0), of(2, 999_999_999)), (Some(0), Some(2_999_999_999)));
        assert_eq!([of(0, 1_000_000_000), of(0, -1), of(-1, 0), of(i64::MAX, 0)], [None; 4]);
        let most = (u64::MAX / NANOSECONDS) as i64;
        assert_eq!((of(most, 0).is_some(), of(most, 999_999_999)), (true, None));
    }
}
