//! The CPU models of Bochs on which the image can be tried: those with 64-bit mode.

/// One model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// Its name in Bochs' configuration.
    pub name: &'static str,
    /// What its VT-x has or lacks.
    pub vtx: Vtx,
    /// What is special about it.
    pub note: &'static str,
}

/// How much of VT-x a model has, as far as the monitor depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vtx {
    /// All that the monitor needs.
    Enough,
    /// VT-x without something that the monitor needs.
    Lacks(&'static str),
    /// No VT-x.
    Absent,
}

/// The model that runs unless another is asked for: the one with most of VT-x.
pub const DEFAULT: &str = "tigerlake";

const fn model(name: &'static str, vtx: Vtx, note: &'static str) -> Model {
    Model { name, vtx, note }
}

/// Every model with 64-bit mode, the best first.
pub const MODELS: [Model; 20] = [
    model("tigerlake", Vtx::Enough, "sub-page permissions, CET controls"),
    model("corei7_icelake_u", Vtx::Enough, "sub-page permissions"),
    model("corei7_skylake_x", Vtx::Enough, "XSAVES exiting, PML, TSC scaling"),
    model("corei3_cnl", Vtx::Enough, "no PML, no virtual-interrupt delivery"),
    model("broadwell_ult", Vtx::Enough, "RDSEED exiting"),
    model("corei7_haswell_4770", Vtx::Enough, "VM functions, VMCS shadowing, INVPCID"),
    model("corei7_ivy_bridge_3770k", Vtx::Enough, "RDRAND exiting"),
    model("corei7_sandy_bridge_2600k", Vtx::Enough, "first with XSAVE"),
    model("corei5_arrandale_m520", Vtx::Enough, "unrestricted guest, SMX"),
    model("corei5_lynnfield_750", Vtx::Enough, "first with EPT, VPID, preemption timer; SMX"),
    model("core2_penryn_t9600", Vtx::Lacks("EPT"), "SMX"),
    model("bx_generic", Vtx::Lacks("EPT"), "Bochs' own"),
    model("p4_prescott_celeron_336", Vtx::Absent, "Intel before VT-x"),
    model("athlon64_clawhammer", Vtx::Absent, "AMD before SVM"),
    model("athlon64_venice", Vtx::Absent, "AMD before SVM"),
    model("turion64_tyler", Vtx::Absent, "AMD: SVM"),
    model("phenom_8650_toliman", Vtx::Absent, "AMD: SVM with nested paging"),
    model("zambezi", Vtx::Absent, "AMD: SVM with nested paging"),
    model("trinity_apu", Vtx::Absent, "AMD: SVM with nested paging"),
    model("ryzen", Vtx::Absent, "AMD: SVM with nested paging"),
];

impl Model {
    /// The model called `name`.
    pub fn by_name(name: &str) -> Option<&'static Model> {
        MODELS.iter().find(|model| model.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twelve_models_have_vtx_and_the_default_has_enough() {
        assert_eq!(MODELS.iter().filter(|model| model.vtx != Vtx::Absent).count(), 12);
        assert_eq!(Model::by_name(DEFAULT).unwrap().vtx, Vtx::Enough);
        assert_eq!(Model::by_name("pentium"), None);
    }
}
