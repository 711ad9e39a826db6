//! The CPU models of Bochs on which the image can be tried: those with 64-bit mode.

use tollgate_abi::emulated::{Emulated, Release};
use tollgate_abi::virtualization::Extension;

/// One processor model of Bochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// Its name in Bochs' configuration; after a `+`, a feature that it gets besides.
    pub name: &'static str,
    /// Versions of Bochs that have the model.
    pub versions: Emulated,
    /// Its virtualization extension, or its lack of one.
    pub offers: Offers,
    /// The model's peculiarity.
    pub note: &'static str,
}

/// The virtualization extension that a model offers, as far as the monitor depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offers {
    /// All features that the monitor needs.
    Enough(Extension),
    /// An extension without a feature that the monitor needs.
    Lacks(Extension, &'static str),
    /// No extension.
    Nothing,
}

impl Offers {
    /// The extension, whether it is sufficient or not.
    pub fn extension(self) -> Option<Extension> {
        match self {
            Offers::Enough(extension) | Offers::Lacks(extension, _) => Some(extension),
            Offers::Nothing => None,
        }
    }
}

/// The model that runs unless another is asked for: the one with most of VT-x.
pub const DEFAULT: &str = "tigerlake";

const fn model(name: &'static str, offers: Offers, note: &'static str) -> Model {
    Model { name, versions: Emulated::Always, offers, note }
}

const fn since(name: &'static str, first: Release, offers: Offers, note: &'static str) -> Model {
    Model { versions: Emulated::From(first), ..model(name, offers, note) }
}

const VTX: Offers = Offers::Enough(Extension::VtX);
const SVM: Offers = Offers::Enough(Extension::Svm);

/// Every model with 64-bit mode, of each extension the best first.
pub const MODELS: [Model; 25] = [
    since("wildcat_lake+user_msr", (3, 1), VTX, "URDMSR and UWRMSR, which it lacks by itself"),
    since("wildcat_lake", (3, 1), VTX, "RDMSRLIST and WRMSRLIST, WRMSRNS"),
    since("arrow_lake", (3, 0), VTX, "UMWAIT and TPAUSE"),
    since("sapphire_rapids", (3, 0), VTX, "UMWAIT and TPAUSE"),
    model("tigerlake", VTX, "sub-page permissions, CET controls"),
    model("corei7_icelake_u", VTX, "sub-page permissions"),
    model("corei7_skylake_x", VTX, "XSAVES exiting, PML, TSC scaling"),
    model("corei3_cnl", VTX, "no PML, no virtual-interrupt delivery"),
    model("broadwell_ult", VTX, "RDSEED exiting"),
    model("corei7_haswell_4770", VTX, "VM functions, VMCS shadowing, INVPCID"),
    model("corei7_ivy_bridge_3770k", VTX, "RDRAND exiting"),
    model("corei7_sandy_bridge_2600k", VTX, "first with XSAVE"),
    model("corei5_arrandale_m520", VTX, "unrestricted guest, SMX"),
    model("corei5_lynnfield_750", VTX, "first with EPT, VPID, preemption timer; SMX"),
    model("core2_penryn_t9600", Offers::Lacks(Extension::VtX, "EPT"), "SMX"),
    Model {
        versions: Emulated::Before((3, 0)),
        ..model("bx_generic", Offers::Lacks(Extension::VtX, "EPT"), "Bochs' own")
    },
    model("p4_prescott_celeron_336", Offers::Nothing, "Intel before VT-x"),
    since("ryzen+invpcid", (3, 1), SVM, "INVPCID, which it lacks by itself"),
    model("ryzen", SVM, "next RIP saved, flush by ASID; the newest"),
    model("trinity_apu", SVM, "next RIP saved, flush by ASID"),
    model("zambezi", SVM, "next RIP saved, flush by ASID"),
    model("phenom_8650_toliman", SVM, "first with nested paging; no next RIP"),
    model("turion64_tyler", Offers::Lacks(Extension::Svm, "nested paging"), "the first SVM"),
    model("athlon64_venice", Offers::Nothing, "AMD before SVM"),
    model("athlon64_clawhammer", Offers::Nothing, "AMD before SVM"),
];

/// The models with control-flow enforcement.
const WITH_CET: [&str; 4] = ["tigerlake", "sapphire_rapids", "arrow_lake", "wildcat_lake"];

impl Model {
    /// The model called [`DEFAULT`].
    pub fn usual() -> &'static Model {
        Self::by_name(DEFAULT).unwrap_or(&MODELS[0])
    }

    /// Whether the model has control-flow enforcement (CET).
    pub fn has_cet(&self) -> bool {
        WITH_CET.contains(&self.parts().0)
    }

    /// The model of Bochs, and the features that it gets besides.
    pub fn parts(&self) -> (&'static str, &'static str) {
        self.name.split_once('+').unwrap_or((self.name, ""))
    }

    /// The model called `name`.
    pub fn by_name(name: &str) -> Option<&'static Model> {
        MODELS.iter().find(|model| model.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_extension_has_models_and_the_default_has_enough_of_vtx() {
        let with = |extension| MODELS.iter().filter(|model| model.offers.extension() == Some(extension)).count();
        assert_eq!((with(Extension::VtX), with(Extension::Svm)), (16, 6));
        let enough = |offers| MODELS.iter().filter(|model| model.offers == offers).count();
        assert_eq!((enough(VTX), enough(SVM), enough(Offers::Nothing)), (14, 5, 3));
        assert_eq!(Model::by_name(DEFAULT).unwrap().offers, VTX);
        assert_eq!(Model::by_name("pentium"), None);
    }
}
