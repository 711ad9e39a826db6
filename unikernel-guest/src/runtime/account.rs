//! The monitor's account, read through the CPUID leaves. Every query is itself an exit, and booked.

use tollgate_abi::command_line::Options;
use tollgate_abi::exit_reason::{ExitReason, Status};
use tollgate_abi::leaves::{EXITS, Leaf, LeafMap, RowQuery, STATUS, SVM_STATUS};
use tollgate_abi::svm_exit::of_code;

use crate::ops::cpuid::cpuid;

/// The means to read this run's account.
#[derive(Clone, Copy)]
pub(crate) struct Account {
    /// The numbers of the course leaves.
    pub(crate) leaf_map: LeafMap,
    /// True if the monitor keeps an account at all.
    pub(crate) kept: bool,
}

impl Account {
    pub(crate) fn new(options: &Options<'_>) -> Self {
        Self { leaf_map: options.leaf_map, kept: options.accounting }
    }

    /// Low half of the number of exits of all reasons, this query included.
    pub(crate) fn total_exits(&self) -> u32 {
        let leaf = self.leaf_map.encode(Leaf::TotalCount).or_else(|| self.leaf_map.encode(Leaf::Totals));
        leaf.map_or(0, |leaf| cpuid(leaf, 0).eax)
    }

    /// Runs `work` and returns the number of exits that it caused. The exits of the two queries, and the monitor's own looks, are
    /// not among them. Without an account the number is unknown, and 0 is returned.
    pub(crate) fn exits_during<R>(&self, work: impl FnOnce() -> R) -> (R, u64) {
        let before = exits_of_guest();
        let result = work();
        let after = exits_of_guest();
        // The second query is in its own answer.
        let second_query = u64::from(self.kept);
        (result, after.wrapping_sub(before).wrapping_sub(second_query))
    }
}

/// Exits of all reasons on all vCPUs that the guest caused, this query included.
fn exits_of_guest() -> u64 {
    let answer = cpuid(EXITS, RowQuery { reason: 0, vcpu: None }.encode());
    answer.ebx_ecx().wrapping_sub(answer.edx_eax())
}

/// The status of a reason, and the number of its exits that the guest caused.
fn status(reason: ExitReason, vcpu: Option<u16>) -> (u32, u64) {
    let (leaf, asked) = match reason.own_of_svm() {
        Some(own) => (SVM_STATUS, own.code as u16),
        None => (STATUS, reason.0),
    };
    let answer = cpuid(leaf, RowQuery { reason: asked, vcpu }.encode());
    // In the leaf of SVM's own codes, EDX is something else; the monitor never looks by an exit of such a code.
    let looks = if leaf == STATUS { answer.edx } else { 0 };
    (answer.eax, answer.ebx_ecx().wrapping_sub(looks.into()))
}

/// True if the controls in force enable `reason`.
pub(crate) fn is_enabled(reason: ExitReason) -> bool {
    status(reason, None).0 == Status::Enabled as u32
}

/// The reason that stands for one of SVM's own exit codes, and whether the controls in force enable it.
pub(crate) fn own_of_svm(code: u32) -> (ExitReason, bool) {
    let answer = cpuid(SVM_STATUS, RowQuery { reason: code as u16, vcpu: None }.encode());
    (of_code(code).unwrap_or(ExitReason(u16::MAX)), answer.eax == Status::Enabled as u32)
}

/// Exits for `reason` that the guest caused so far, on all vCPUs.
pub(crate) fn exits(reason: ExitReason) -> u64 {
    exits_on(reason, None)
}

/// Exits for `reason` that the guest caused so far on one vCPU, or on all.
pub(crate) fn exits_on(reason: ExitReason, vcpu: Option<u16>) -> u64 {
    status(reason, vcpu).1
}
