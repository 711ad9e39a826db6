//! THE table of platforms: every way to run the image, the best first, with a check whether it works here.

use std::fmt;
use std::path::Path;

use tollgate_abi::virtualization::Extension;
use tollgate_books::failure::Failure;

use super::{Boot, Launch, Machine, bochs, kvm, qemu};
use crate::selection::{DEFAULT_WATCHDOG_TICKS, KVM_WATCHDOG_TICKS};

/// The engine that executes the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Bochs.
    Bochs,
    /// QEMU with KVM, on the processor of this machine.
    Kvm,
    /// QEMU's own emulation.
    Tcg,
}

/// One way to run the image.
#[derive(Clone, Copy, Debug)]
pub struct Platform {
    /// The engine that executes the image.
    pub engine: Engine,
    /// The virtualization extension that the image finds there.
    pub extension: Extension,
    /// The platform's word on the command line, and its kind in accounts.
    pub name: &'static str,
    /// The word on the command line for this platform and others, besides `auto`.
    pub group: Option<&'static str>,
    /// The platform's line in the help of the command line.
    pub help: &'static str,
    /// The platform's name for people.
    pub title: &'static str,
    /// The processor; `None` if there is a choice of models.
    pub processor: Option<&'static str>,
    /// The platform's requirements.
    pub needs: &'static str,
    /// The extent to which a second run repeats the first, in words.
    pub repeats: &'static str,
    /// Whether a second run repeats the first to the tick.
    pub is_exact: bool,
    /// Whether the engine keeps a log of VM exits of its own, which an audit needs.
    pub logs_exits: bool,
    /// The reason to choose the platform, as a clause.
    pub merit: &'static str,
    /// TSC ticks that a usual machine executes there in a second: without the log of exits, and with it.
    pub ticks_a_second: (u64, u64),
    /// The usual time of the watchdog, in TSC ticks.
    pub watchdog_ticks: u64,
    /// Checks that the platform works here with an extension; if not, the failure has the reason.
    check: fn(Extension) -> Result<(), Failure>,
    /// Makes a machine ready to start from an image in a directory, with the log of exits if that is asked for.
    pub(super) prepare: fn(&Path, Boot<'_>, Machine, bool) -> Result<Launch, Failure>,
}

/// Bochs, with a processor of Intel's.
pub(super) const BOCHS: Platform = Platform {
    engine: Engine::Bochs,
    extension: Extension::VtX,
    name: "bochs",
    group: None,
    help: "Bochs: VT-x in full, or by --cpu SVM; repeatable to the byte",
    title: "Bochs",
    processor: None,
    needs: "Bochs",
    repeats: "to the byte",
    is_exact: true,
    logs_exits: true,
    merit: "it is installed, has VT-x in full and repeats to the byte",
    ticks_a_second: (16_000_000, 5_000_000),
    watchdog_ticks: DEFAULT_WATCHDOG_TICKS,
    check: |_| bochs::find().map(drop),
    prepare: bochs::prepare,
};

const KVM: Platform = Platform {
    engine: Engine::Kvm,
    extension: Extension::VtX,
    name: "qemu-kvm",
    group: Some("qemu"),
    help: "QEMU with KVM, on a host with nested VT-x or nested SVM",
    title: "QEMU with KVM",
    processor: Some("the host's"),
    needs: "QEMU, kvm_intel.nested",
    repeats: "statistically",
    is_exact: false,
    logs_exits: false,
    merit: "KVM offers nested VT-x",
    ticks_a_second: (1_500_000_000, 1_500_000_000),
    watchdog_ticks: KVM_WATCHDOG_TICKS,
    check: |extension| qemu::find().and_then(|_| kvm::nests(extension)),
    prepare: qemu::prepare,
};

/// Every way to run the image, in the order in which one is chosen.
pub const PLATFORMS: [Platform; 5] = [
    BOCHS,
    Platform { extension: Extension::Svm, merit: "it is installed, and the model has SVM", ..BOCHS },
    KVM,
    Platform { extension: Extension::Svm, needs: "QEMU, kvm_amd.nested", merit: "KVM offers nested SVM", ..KVM },
    Platform {
        engine: Engine::Tcg,
        extension: Extension::Svm,
        name: "qemu-tcg",
        group: Some("qemu"),
        help: "QEMU's own emulation: SVM, repeatable to the byte",
        title: "QEMU's own emulation",
        processor: Some("max"),
        needs: "QEMU",
        repeats: "to the byte",
        is_exact: true,
        logs_exits: true,
        merit: "QEMU's own emulation has SVM and repeats to the byte",
        ticks_a_second: (30_000_000, 10_000_000),
        watchdog_ticks: DEFAULT_WATCHDOG_TICKS,
        check: |_| qemu::find().map(drop),
        prepare: qemu::prepare,
    },
];

impl Platform {
    /// Whether there is a choice of the processor's model.
    pub fn has_models(&self) -> bool {
        self.processor.is_none()
    }

    /// Checks that it works here.
    ///
    /// # Errors
    /// It does not; the failure has the reason and the remedy.
    pub fn works(&self) -> Result<(), Failure> {
        (self.check)(self.extension)
    }

    /// The best of these that works here, and the reason for the choice.
    ///
    /// # Errors
    /// None works, or none of the working ones keeps the log that an `audit` needs; the failure is the first one's.
    pub fn choose(candidates: impl Fn(&Platform) -> bool, audit: bool) -> Result<(&'static Self, String), Failure> {
        let processor = kvm::processor();
        // Of the two platforms with KVM, the one for this processor can say what is missing.
        let fits = |row: &&Platform| row.engine != Engine::Kvm || processor.is_none_or(|has| has == row.extension);
        let mut first_failure = None;
        let mut passed_over: Vec<String> = Vec::new();
        for row in PLATFORMS.iter().filter(|row| candidates(row)).filter(fits) {
            let outcome = if audit && !row.logs_exits { Err(row.cannot_be_audited()) } else { row.works() };
            let failure = match outcome {
                Ok(()) => {
                    let mut why = passed_over;
                    why.push(row.merit.to_owned());
                    return Ok((row, why.join("; ")));
                }
                Err(failure) => failure,
            };
            let sentence = failure.sentence().to_owned();
            if !passed_over.contains(&sentence) {
                passed_over.push(sentence);
            }
            first_failure.get_or_insert(failure);
        }
        Err(first_failure.unwrap_or_else(|| Failure::usage("no platform is like that")))
    }

    fn cannot_be_audited(&self) -> Failure {
        let sentence = format_args!("an audit needs an emulator's own log of VM exits, and {self} keeps none");
        Failure::platform(sentence).remedy("leave --audit out, or use --on bochs or --on qemu-tcg")
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_is_refused_where_there_is_no_log() {
        let failure = Platform::choose(|row| row.engine == Engine::Kvm, true).unwrap_err().to_string();
        assert!(failure.starts_with("an audit needs an emulator's own log of VM exits, and QEMU with KVM keeps none"));
        assert!(failure.contains("--on qemu-tcg"), "{failure}");
    }

    #[test]
    fn ways_differ_in_engine_or_extension() {
        for (at, row) in PLATFORMS.iter().enumerate() {
            let same = |other: &Platform| (other.engine, other.extension) == (row.engine, row.extension);
            assert_eq!(PLATFORMS.iter().position(same), Some(at));
            let named_alike = PLATFORMS.iter().filter(|other| other.name == row.name);
            assert!(named_alike.clone().all(|other| other.engine == row.engine), "{}", row.name);
        }
    }
}
