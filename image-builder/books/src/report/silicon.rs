//! The processor in words: what decides the cost of its exits besides its model, and the SMIs that came while it was measured.

use super::figures::counted;
use crate::account::Account;

/// The bits of IA32_SPEC_CTRL (SDM 4 table 2-2).
const MITIGATIONS: [&str; 3] = ["IBRS", "STIBP", "SSBD"];

/// The properties in one line; empty for a processor with neither microcode nor a count of SMIs, as an emulator's may be.
pub(super) fn properties(account: &Account) -> String {
    let Some(silicon) = account.silicon else { return String::new() };
    let microcode = silicon.microcode.filter(|&revision| revision != 0);
    if microcode.is_none() && silicon.smis.is_none() {
        return String::new();
    }
    let mut parts: Vec<_> = microcode.map(|revision| format!("microcode {revision:#x}")).into_iter().collect();
    parts.extend(silicon.threads_per_core.map(|threads| counted(threads, "thread") + " on a core"));
    let is_on = |value: u64, bit: usize| if value >> bit & 1 == 0 { "off" } else { "on" };
    let mitigations = silicon.spec_ctrl.into_iter().flat_map(|value| {
        MITIGATIONS.iter().enumerate().map(move |(bit, name)| format!("{name} {}", is_on(value, bit)))
    });
    parts.extend(mitigations);
    parts.extend(silicon.tsc_hz.map(|hz| format!("TSC {:.3} GHz", hz as f64 / 1e9)));
    parts.extend(silicon.smis.map(|smis| counted(smis, "SMI") + " in the run"));
    parts.join(", ")
}

/// Microseconds of one of `count` exits that took so many ticks together; `None` where ticks are no time.
pub(super) fn microseconds(account: &Account, cycles: u64, count: u64) -> Option<String> {
    let hz = account.silicon?.tsc_hz.filter(|&hz| hz > 0)?;
    Some(format!("{:.3}", cycles as f64 / count.max(1) as f64 * 1e6 / hz as f64))
}

/// The workloads whose cycles have SMIs in them, a line for each.
pub(super) fn disturbed(account: &Account) -> Vec<String> {
    let some = |smis: Option<u64>| smis.filter(|&smis| smis > 0);
    let workloads = account.workloads.iter().filter_map(|workload| Some((workload, some(workload.smis)?)));
    workloads
        .map(|(workload, smis)| format!("{} in {}, whose cycles have their time", counted(smis, "SMI"), workload.name))
        .collect()
}
