//! Asking the monitor for the exits that each profile enables on this processor, before the workloads.

use tollgate_abi::exit_reason::TABLE;
use tollgate_abi::profile::Profile;
use tollgate_abi::svm_exit::OWN;

use super::account;
use crate::books::intercepts::{facts, note};
use crate::ops::hypercall;

/// Asks, in each profile, for the reasons that it enables on this processor.
pub(crate) fn learn() {
    ask(Profile::Minimal);
    for profile in [Profile::Full, Profile::VirtualApic] {
        hypercall::switch_profile(profile);
        ask(profile);
    }
    hypercall::switch_profile(Profile::Minimal);
}

/// Asks the same in the profile of microbenchmarks.
pub(crate) fn learn_timing() {
    hypercall::switch_profile(Profile::Timing);
    ask(Profile::Timing);
    hypercall::switch_profile(Profile::Minimal);
}

/// Asks for the reasons that are enabled now, with `profile` in force.
fn ask(profile: Profile) {
    for row in TABLE {
        note(profile, row.reason, account::is_enabled(row.reason));
    }
    for own in OWN.iter().filter(|_| facts().is_svm()) {
        let (reason, enabled) = account::own_of_svm(own.code);
        note(profile, reason, enabled);
    }
}
