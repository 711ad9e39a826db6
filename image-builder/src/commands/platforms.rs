//! `tollgate platforms`: what can run the image here, as ROM and as stick, why not, and what would change it.

use tollgate_abi::virtualization::Extension;

use crate::emulator::models::{self, MODELS, Model, Offers};
use crate::emulator::{Engine, PLATFORMS, Platform, ovmf};
use crate::failure::Failure;
use crate::report::Sheet;

/// Every platform and, for Bochs, every processor model; then the same with UEFI firmware, and a machine without an emulator.
pub(super) fn sheet() -> Sheet {
    let mut sheet = Sheet::new(&["platform", "processor", "extension", "runs here", "repeats", "needs", "remarks"]);
    let mut cells = |cells: [&str; 7]| sheet.row(cells.map(str::to_owned).to_vec());
    let mut row = |platform: &Platform, processor: &str, extension: Option<Extension>, works: bool, remark: String| {
        let extension = extension.map_or_else(|| "none".to_owned(), |extension| extension.to_string());
        cells([platform.name, processor, &extension, yes_or_no(works), platform.repeats, platform.needs, &remark]);
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
    let firmware = ovmf::firmware().map(drop);
    for platform in &PLATFORMS {
        let works = platform.works().and_then(|()| firmware.clone());
        let processor = if platform.engine == Engine::Bochs { "its models" } else { platform.processor };
        let name = format!("{} --uefi", platform.name);
        let (extension, needs) = (platform.extension.to_string(), format!("{}; OVMF is in the tool", platform.needs));
        let remark = works.as_ref().map_or_else(one_line, |()| "the stick, started by UEFI firmware".to_owned());
        cells([&name, processor, &extension, yes_or_no(works.is_ok()), platform.repeats, &needs, &remark]);
    }
    cells([
        "a USB stick",
        "a real machine's",
        "VT-x or SVM",
        "by hand",
        "statistically",
        "UEFI; Secure Boot off",
        "write it with `tollgate image --uefi FILE`; bring its log back to `tollgate report`",
    ]);
    sheet
}

fn yes_or_no(works: bool) -> &'static str {
    if works { "yes" } else { "no" }
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
