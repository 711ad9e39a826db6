//! THE table of the differences between versions of the emulators. All code that depends on a version asks it here
//! ([`Installed::has`]).
//!
//! If an emulator can be asked or probed for a behaviour, that is done, and the row only describes it.

use super::family::{Family, Version};
use super::installed::Installed;

impl Family {
    /// The versions that were tried with all of this tool's tests, in ascending order.
    pub const fn tried(self) -> &'static [Version] {
        match self {
            Family::Bochs => &[V2_7, V3_0, V3_1],
            Family::Qemu => &[V7_2, V10_0, V11_1],
        }
    }
}

const V2_7: Version = Version::new(2, 7);
const V3_0: Version = Version::new(3, 0);
const V3_1: Version = Version::new(3, 1);
const V7_2: Version = Version::new(7, 2);
const V9_1: Version = Version::new(9, 1);
const V10_0: Version = Version::new(10, 0);
const V11_1: Version = Version::new(11, 1);

/// A behaviour that some versions have and others don't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// The debugger is off unless it is asked for.
    DebuggerOnRequest,
    /// Its VGA BIOS has a name under which Debian does not install it.
    VgaBiosElsewhere,
    /// `extfpuirq` is no plugin that can be left out.
    ExtfpuirqIsFixed,
    /// It has other processor models than before.
    OtherModels,
    /// OVMF ends the emulator on a processor with CET.
    CetEndsOvmf,
    /// A ROM image may have 4 MiB, which OVMF has in today's distributions.
    LargeFirmware,
    /// The firmware that the tool has in itself does not come to an end.
    OwnFirmwareHangs,
    /// RAM images lie at address 0 whatever address they were to have.
    RamImagesAtZero,
    /// Reads of control registers make no exit from SVM.
    ControlRegisterReadsStay,
    /// INVD exits with a code of its own.
    InvdIsTold,
    /// Ring 3 may execute INVD and WBINVD.
    CachesInRing3,
    /// Interrupts make an exit from SVM right behind STI, too.
    InterruptsBehindSti,
    /// The first PAUSE behind an entry makes no exit from SVM.
    FirstPauseStays,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    /// The behaviour.
    pub behaviour: Behaviour,
    /// The family of the emulator.
    pub family: Family,
    /// The first version that has the behaviour.
    pub from: Version,
    /// The first later version that does not have it any more.
    pub before: Option<Version>,
    /// The behaviour, as a sentence about the emulator.
    pub what: &'static str,
    /// The way in which this tool copes with it.
    pub done: &'static str,
    /// The way in which it was observed.
    pub evidence: &'static str,
}

const fn row(behaviour: Behaviour, family: Family, from: Version, texts: [&'static str; 3]) -> Difference {
    let [what, done, evidence] = texts;
    Difference { behaviour, family, from, before: None, what, done, evidence }
}

/// Every difference, by emulator and version.
pub const DIFFERENCES: [Difference; 13] = [
    row(
        Behaviour::DebuggerOnRequest,
        Family::Bochs,
        V3_0,
        [
            "is without its debugger unless asked; a tick is no instruction then, and runs with several processors fail",
            "-debugger is passed where --help lists it",
            "without: `run --cpus 4` ends as halted-for-ever, a CPUID exit costs 93 ticks; with: balanced, 89 as before",
        ],
    ),
    row(
        Behaviour::VgaBiosElsewhere,
        Family::Bochs,
        V3_0,
        [
            "looks for its VGA BIOS under a name that Debian's packages don't have",
            "each run brings a VGA BIOS of its own",
            "without: `couldn't open ROM image file`, status 1",
        ],
    ),
    Difference {
        before: Some(V3_1),
        ..row(
            Behaviour::CetEndsOvmf,
            Family::Bochs,
            V3_0,
            [
                "ends itself while OVMF starts, on a processor with CET",
                "with --uefi the processor is without CET, and the run says so",
                "`PAE: asked to set dirty on paging leaf entry with R/W bit clear` on tigerlake, none on corei7_icelake_u",
            ],
        )
    },
    row(
        Behaviour::OtherModels,
        Family::Bochs,
        V3_0,
        [
            "has other processor models: no bx_generic, and newer ones",
            "it is asked for its models",
            "`bochs-bin --help cpu` of each version",
        ],
    ),
    row(
        Behaviour::LargeFirmware,
        Family::Bochs,
        V3_0,
        [
            "takes firmware of 4 MiB, as today's OVMF is; before, it was 2 MiB at most",
            "with --uefi firmware that is too large is not chosen, and one that is named is refused",
            "2.7: `ROM: ROM image too large` with OVMF 2025.02",
        ],
    ),
    row(
        Behaviour::ExtfpuirqIsFixed,
        Family::Bochs,
        V3_1,
        [
            "refuses to be without extfpuirq",
            "it stays with every version",
            "with extfpuirq=0: `Plugin 'extfpuirq' not found`, status 1",
        ],
    ),
    row(
        Behaviour::OwnFirmwareHangs,
        Family::Bochs,
        V3_1,
        [
            "does not get through the UEFI firmware in this tool",
            "with --uefi the system's OVMF is taken if there is one, else the run says what to install",
            "no boot in 180 s on any model, with OVMF 2025.02 and 2026.08 balanced",
        ],
    ),
    row(
        Behaviour::RamImagesAtZero,
        Family::Bochs,
        V3_1,
        [
            "puts every page of a RAM image at address 0: the A20 mask is 0 at that time",
            "a guest that has to be placed in memory, such as Linux, is refused there",
            "`xp /8bx 0` in its debugger at the start shows an image's last page, whatever address was asked for",
        ],
    ),
    row(
        Behaviour::ControlRegisterReadsStay,
        Family::Qemu,
        V9_1,
        [
            "makes no exit from SVM for reads of CR3, CR4 and CR8",
            "nothing by version: the monitor tries MOV from CR8 before its guest runs, and the guest expects as much",
            "`run --audit --workload task-priority:1` logs exits 0x18 and none of 0x08; target/i386/tcg/decode-new.c.inc",
        ],
    ),
    row(
        Behaviour::InvdIsTold,
        Family::Qemu,
        V9_1,
        [
            "makes an exit of its own for INVD, which was WBINVD's before",
            "nothing by version: the monitor tries INVD before its guest runs, and the guest expects as much",
            "`run --audit --workload caches` logs exits 0x76",
        ],
    ),
    row(
        Behaviour::CachesInRing3,
        Family::Qemu,
        V9_1,
        [
            "lets ring 3 execute INVD and WBINVD, where #GP is due",
            "nothing: a guest that does so gets no exception, as without a monitor",
            "`findings/qemu-invd-and-wbinvd-in-ring-3.sh`",
        ],
    ),
    row(
        Behaviour::InterruptsBehindSti,
        Family::Qemu,
        V10_0,
        [
            "lets an interrupt make an exit from SVM right behind STI",
            "nothing by version: HLT that is executed again is behind STI no more",
            "without: `run --cpus 2` ends as halted-for-ever in apic-timer; with a watchdog, interrupt windows nobody predicts",
        ],
    ),
    row(
        Behaviour::FirstPauseStays,
        Family::Bochs,
        V3_1,
        [
            "makes no exit from SVM for the first PAUSE behind an entry: its pause filter takes it for no loop",
            "nothing by version: the monitor tries PAUSE before its guest runs, and each of the guest's is two then",
            "without: `run --cpu zambezi --workload pause` has 250 of 500 exits; SvmInterceptPAUSE in cpu/svm.cc",
        ],
    ),
];

impl Difference {
    /// Whether a version has the behaviour.
    pub fn is_in(&self, version: Version) -> bool {
        self.from <= version && self.before.is_none_or(|end| version < end)
    }

    /// The versions that have it: `from 3.0 on`, `3.0 until 3.1`.
    pub fn versions(&self) -> String {
        match self.before {
            Some(end) => format!("from {} until before {end}", self.from),
            None => format!("from {} on", self.from),
        }
    }
}

impl Installed {
    /// Whether it has a behaviour. An unknown version counts as the newest.
    pub fn has(&self, behaviour: Behaviour) -> bool {
        self.differences().any(|row| row.behaviour == behaviour)
    }

    /// The rows of the table that its version has.
    pub fn differences(&self) -> impl Iterator<Item = &'static Difference> {
        let family = self.family;
        let version = self.version.or(family.tried().last().copied());
        DIFFERENCES.iter().filter(move |row| row.family == family && version.is_some_and(|version| row.is_in(version)))
    }

    /// Whether this version was tried.
    pub fn is_tried(&self) -> bool {
        self.version.is_some_and(|version| self.family.tried().contains(&version))
    }

    /// A sentence if this version was not tried.
    pub fn warning(&self) -> Option<String> {
        let name = self.family.name();
        let tried: Vec<String> = self.family.tried().iter().map(ToString::to_string).collect();
        let tried = tried.join(", ");
        (!self.is_tried()).then(|| match self.version {
            Some(version) => {
                format!(
                    "{name} {version} is unknown: {tried} were tried, and it may differ from them in what it counts"
                )
            }
            None => format!("this {name} does not tell its version: {tried} were tried, and it may differ from them"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_tells_two_tried_versions_apart() {
        for row in &DIFFERENCES {
            let has = |version: &&Version| row.is_in(**version);
            let tried = row.family.tried();
            let having = tried.iter().filter(has).count();
            assert!(having > 0 && having < tried.len(), "{:?}", row.behaviour);
            let same = DIFFERENCES.iter().filter(|other| other.behaviour == row.behaviour);
            assert_eq!(same.count(), 1, "{:?}", row.behaviour);
            assert!(row.before.is_none_or(|end| end > row.from), "{:?}", row.behaviour);
        }
    }

    #[test]
    fn a_behaviour_is_of_a_version() {
        let has = |version, behaviour| Installed::for_tests(Family::Bochs, version).has(behaviour);
        let of = |behaviour| [V2_7, V3_0, V3_1].map(|version| has(Some(version), behaviour));
        assert_eq!(of(Behaviour::CetEndsOvmf), [false, true, false]);
        assert_eq!(of(Behaviour::OwnFirmwareHangs), [false, false, true]);
        assert_eq!(of(Behaviour::InvdIsTold), [false; 3], "it is QEMU's");
        assert!(has(None, Behaviour::OwnFirmwareHangs) && !has(None, Behaviour::CetEndsOvmf), "as the newest");
    }

    #[test]
    fn a_version_that_was_not_tried_is_told() {
        let warning = |version| Installed::for_tests(Family::Qemu, version).warning();
        assert_eq!(warning(Some(V10_0)), None);
        assert!(warning(Some(Version::new(12, 0))).unwrap().starts_with("QEMU 12.0 is unknown: 7.2, 10.0, 11.1 were"));
        assert!(warning(None).unwrap().starts_with("this QEMU does not tell its version"));
    }
}
