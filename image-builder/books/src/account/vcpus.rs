//! Each vCPU by itself: its sums, its reasons, and what the emulator logged on the processor that it ran on.

use std::collections::{BTreeMap, BTreeSet};

use compact_str::CompactString;
use serde::Serialize;

use super::is_none;
use super::row_name;
use crate::audit::Audit;
use crate::exits::Exits;
use crate::log::{ExitRow, Log};

/// The account of one vCPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VcpuAccount {
    /// The vCPU's number.
    pub vcpu: u64,
    /// Exits.
    pub exits: u64,
    /// VM entries.
    pub entries: u64,
    /// TSC ticks spent on exits.
    pub cycles: u64,
    /// TSC ticks from the first entry until the last exit was dealt with.
    pub elapsed: u64,
    /// TSC ticks of idle time that were skipped: they passed on the guest's clock alone. Left out where there are none.
    pub skipped: u64,
    /// Exits in the emulator's log of its processor; `null` without an audit, or where that log does not name processors.
    pub audit_count: Option<u64>,
    /// The reasons that the ledger or the emulator has on it, in ascending order.
    pub reasons: Vec<VcpuReason>,
    /// Whether its sums are missing from the log: they are not known, and documents leave them out.
    pub lost: bool,
}

/// One reason on one vCPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VcpuReason {
    /// The basic exit reason; one past the newest collects unknown numbers.
    pub number: u16,
    /// The SDM's name.
    pub name: CompactString,
    /// The reason's exits.
    #[serde(flatten)]
    pub exits: Exits,
    /// Exits by which the monitor looked at a guest that ran long. Left out where there are none.
    #[serde(skip_serializing_if = "is_none")]
    pub looks: u64,
    /// Exits in the emulator's log of its processor; `null` without an audit.
    pub audit_count: Option<u64>,
}

/// Every vCPU that some book mentions.
pub(super) fn of(log: &Log, audit: Option<&Audit>) -> Vec<VcpuAccount> {
    let with_exits = log.exits.iter().filter(|(_, row)| row.exits.figures.count > 0).map(|(&place, _)| place);
    let mut places: BTreeMap<u64, BTreeSet<u16>> = log.totals.keys().map(|&vcpu| (vcpu, BTreeSet::new())).collect();
    for (vcpu, number) in with_exits.chain(audit.iter().flat_map(|audit| audit.places())) {
        places.entry(vcpu).or_default().insert(number);
    }
    let one = |(vcpu, numbers): (u64, BTreeSet<u16>)| {
        let known = log.totals.get(&vcpu).copied();
        let total = known.unwrap_or_default();
        VcpuAccount {
            vcpu,
            exits: total.exits,
            entries: total.entries,
            cycles: total.cycles,
            elapsed: total.elapsed,
            skipped: total.skipped,
            audit_count: audit.and_then(|audit| audit.total_on(vcpu)),
            reasons: numbers.into_iter().map(|number| reason(log, audit, vcpu, number)).collect(),
            lost: known.is_none() && vcpu < log.header.vcpus,
        }
    };
    places.into_iter().map(one).collect()
}

fn reason(log: &Log, audit: Option<&Audit>, vcpu: u64, number: u16) -> VcpuReason {
    let row = log.exits.get(&(vcpu, number)).cloned();
    let ExitRow { name, exits, looks, .. } =
        row.unwrap_or_else(|| ExitRow { name: CompactString::const_new(row_name(number)), ..ExitRow::default() });
    let audit_count = audit.and_then(|audit| audit.count_on(vcpu, number));
    VcpuReason { number, name, exits, looks, audit_count }
}
