//! The parts of an account in a document: figures that are not known are left out.

use serde::{Serialize, Serializer};
use tollgate_abi::exit_reason::Status;

use super::{Reason, Totals, VcpuAccount, VcpuReason, is_none};
use crate::exits::Exits;
use crate::log::{KeyRow, Named, VariantRow};

/// Sums, or nothing where they are those of some vCPUs only.
pub(super) fn totals<S: Serializer>(totals: &Totals, serializer: S) -> Result<S::Ok, S::Error> {
    Some(totals).filter(|totals| !totals.lost).serialize(serializer)
}

#[derive(Serialize)]
struct ReasonDocument<'a> {
    number: u16,
    name: &'a str,
    status: &'a Named<Status>,
    #[serde(flatten)]
    exits: Option<&'a Exits>,
    guest_count: Option<u64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    keys: &'a [KeyRow],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    variants: &'a [VariantRow],
    scenario_count: u64,
    #[serde(skip_serializing_if = "is_none")]
    looks: u64,
    audit_count: Option<u64>,
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let &Reason { number, guest_count, scenario_count, looks, audit_count, lost, .. } = self;
        let Reason { name, status, exits, keys, variants, .. } = self;
        let exits = Some(exits).filter(|_| !lost);
        let document = ReasonDocument {
            number,
            name,
            status,
            exits,
            guest_count,
            keys,
            variants,
            scenario_count,
            looks,
            audit_count,
        };
        document.serialize(serializer)
    }
}

#[derive(Serialize)]
struct VcpuDocument<'a> {
    vcpu: u64,
    #[serde(flatten)]
    sums: Option<Sums>,
    audit_count: Option<u64>,
    reasons: &'a [VcpuReason],
}

#[derive(Serialize)]
struct Sums {
    exits: u64,
    entries: u64,
    cycles: u64,
    elapsed: u64,
    #[serde(skip_serializing_if = "is_none")]
    skipped: u64,
}

impl Serialize for VcpuAccount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let &VcpuAccount { vcpu, exits, entries, cycles, elapsed, skipped, audit_count, lost, .. } = self;
        let sums = (!lost).then_some(Sums { exits, entries, cycles, elapsed, skipped });
        VcpuDocument { vcpu, sums, audit_count, reasons: &self.reasons }.serialize(serializer)
    }
}
