//! The processor models that can be measured: those that run the image.

use tollgate_abi::virtualization::Extension;
use tollgate_books::failure::Failure;

use crate::emulator::models::{Model, Offers};

/// The extension that is measured on a model, if the image runs on it.
pub(super) fn extension(model: &Model) -> Result<Extension, Failure> {
    let why = match model.offers {
        Offers::Enough(extension) => return Ok(extension),
        Offers::Lacks(extension, what) => format!("its {extension} has no {what}"),
        Offers::Nothing => "it has neither VT-x nor SVM".to_owned(),
    };
    let refusal = Failure::platform(format_args!("nothing can be measured on {}: {why}", model.name));
    Err(refusal.remedy("`tollgate platforms` tells which models run the image"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_books::failure::Status;

    #[test]
    fn a_model_that_cannot_run_the_image_is_refused_with_the_reason() {
        for (model, why) in [
            ("core2_penryn_t9600", "its VT-x has no EPT"),
            ("turion64_tyler", "its SVM has no nested paging"),
            ("athlon64_venice", "it has neither VT-x nor SVM"),
        ] {
            let failure = extension(Model::by_name(model).unwrap()).unwrap_err();
            assert_eq!(failure.status, Status::Platform);
            assert!(failure.sentence().contains(model) && failure.sentence().contains(why), "{failure}");
        }
    }
}
