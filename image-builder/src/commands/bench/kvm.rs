//! The cost of the same operations under Linux 6.1's KVM on the same Bochs, in TSC ticks of one iteration, loop included.

use tollgate_abi::virtualization::Extension;

use crate::emulator::Target;
use crate::emulator::models;

/// One microbenchmark's operation, with VT-x and under SVM.
struct Row(&'static str, Option<u64>, Option<u64>);

const TABLE: &[Row] = &[
    Row("cpuid", Some(985), Some(1164)),
    Row("vmcall", Some(984), Some(1115)),
    Row("rdmsr", Some(1123), Some(1231)),
    Row("mov_to_cr0", Some(1129), Some(5916)),
    Row("in", Some(1283), Some(1430)),
    Row("out", Some(3284), Some(2896)),
    Row("wbinvd", Some(897), Some(1054)),
    Row("ept_violation_write", Some(3425), Some(3290)),
];

/// The model on which KVM was measured. There are no figures for other models.
pub(super) const fn model(extension: Extension) -> &'static str {
    match extension {
        Extension::VtX => models::DEFAULT,
        Extension::Svm => "zambezi",
    }
}

/// Whether KVM was measured on this target.
pub(super) fn is_measured_on(target: Target) -> bool {
    target.model.is_some_and(|measured| measured.name == model(target.extension()))
}

/// The ticks of a microbenchmark's operation under KVM, if they were measured.
pub(super) fn ticks(bench: &str, target: Target) -> Option<u64> {
    let Row(_, vtx, svm) = TABLE.iter().find(|row| row.0 == bench && is_measured_on(target))?;
    match target.extension() {
        Extension::VtX => *vtx,
        Extension::Svm => *svm,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::models::Model;
    use tollgate_abi::bench::Bench;

    #[test]
    fn it_stands_beside_the_models_on_which_it_was_measured() {
        let on = |name: &str, bench| ticks(bench, Target::bochs(Model::by_name(name).unwrap()));
        assert_eq!((on("tigerlake", "cpuid"), on("zambezi", "cpuid")), (Some(985), Some(1164)));
        assert_eq!((on("tigerlake", "wbinvd"), on("zambezi", "wbinvd")), (Some(897), Some(1054)));
        assert_eq!((on("corei7_haswell_4770", "cpuid"), on("ryzen", "cpuid")), (None, None));
        assert_eq!(on("tigerlake", "pause"), None);
        assert!(TABLE.iter().all(|row| Bench::by_name(row.0).is_some()));
    }
}
