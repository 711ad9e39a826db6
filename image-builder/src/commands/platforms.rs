//! `tollgate platforms`: what can run the image here, why not, and what would change it.

use tollgate_abi::virtualization::Extension;

use crate::emulator::models::{self, MODELS, Model, Offers};
use crate::emulator::{Engine, PLATFORMS, Platform};
use crate::failure::Failure;
use crate::report::Sheet;

/// Every platform and, for Bochs, every processor model.
pub(super) fn sheet() -> Sheet {
    let mut sheet = Sheet::new(&["platform", "processor", "extension", "runs here", "repeats", "needs", "remarks"]);
    let mut row = |platform: &Platform, processor: &str, extension: Option<Extension>, works: bool, remark: String| {
        let extension = extension.map_or_else(|| "none".to_owned(), |extension| extension.to_string());
        let works = if works { "yes" } else { "no" };
        let cells = [platform.name, processor, &extension, works, platform.repeats, platform.needs, &remark];
        sheet.row(cells.map(str::to_owned).to_vec());
    };
    for platform in &PLATFORMS {
        let works = platform.works();
        if platform.engine != Engine::Bochs {
            let remark = works.as_ref().map_or_else(one_line, |()| platform.merit.to_owned());
            row(platform, platform.processor, Some(platform.extension), works.is_ok(), remark);
            continue;
        }
        let lists = |model: &&Model| match model.offers.extension() {
            Some(extension) => extension == platform.extension,
            None => platform.extension == Extension::Svm,
        };
        for model in MODELS.iter().filter(lists) {
            let (runs, remark) = match &works {
                Err(failure) => (false, one_line(failure)),
                Ok(()) => of_model(model),
            };
            row(platform, model.name, model.offers.extension(), runs, remark);
        }
    }
    sheet
}

/// Whether the image runs on a model of the Bochs that is here, and what there is to say about it.
fn of_model(model: &Model) -> (bool, String) {
    let note = model.note;
    match model.offers {
        Offers::Enough(_) if model.name == models::DEFAULT => (true, format!("the default; {note}")),
        Offers::Enough(_) => (true, note.to_owned()),
        Offers::Lacks(extension, what) => {
            (false, format!("its {extension} has no {what}: the image says so and ends; {note}"))
        }
        Offers::Nothing => (false, format!("neither VT-x nor SVM: the image says so and ends; {note}")),
    }
}

fn one_line(failure: &Failure) -> String {
    failure.to_string().lines().map(str::trim).collect::<Vec<_>>().join("; ")
}
