//! The vectors of the monitor's own interrupts: those at the processors' local APICs, which no guest sees.

use tollgate_abi::machine::MOST_VCPUS;

/// The vector of the timer that stands for a guest's.
pub const TIMER_VECTOR: u8 = 0xf0;
/// The vector for a look at the account: time has passed without exits, or without such a look.
pub const WATCHDOG_VECTOR: u8 = 0xf1;
/// The vector by which vCPU 0 interrupts the others' processors; vCPU n sends `KICK_VECTOR + n`.
pub const KICK_VECTOR: u8 = 0xe0;
const _: () = assert!(KICK_VECTOR as usize + MOST_VCPUS <= TIMER_VECTOR as usize);
/// The vector by which an APIC itself replaces an interrupt that was withdrawn while it was delivered. It is not in service (SDM
/// 3A 12.9).
pub const SPURIOUS_VECTOR: u8 = 0xff;
