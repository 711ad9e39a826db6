//! `tollgate platforms`: the platforms that can run the image here, as ROM and as stick; for the others, the reason and the
//! remedy.

use tollgate_abi::virtualization::Extension;
use tollgate_books::failure::Failure;
use tollgate_books::report::Sheet;

use crate::emulator::models::{self, MODELS, Model, Offers};
use crate::emulator::versions::DIFFERENCES;
use crate::emulator::{Engine, PLATFORMS, Platform, installed, ovmf};

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
        if let Some(processor) = platform.processor {
            let remark = works.as_ref().map_or_else(one_line, |()| platform.merit.to_owned());
            row(platform, processor, Some(platform.extension), works.is_ok(), remark);
            continue;
        }
        let emulator = installed(Engine::Bochs).ok();
        let has = |model: &&Model| emulator.as_ref().and_then(|here| here.has_model(model.name)) != Some(false);
        let lists = |model: &&Model| match model.offers.extension() {
            Some(extension) => extension == platform.extension,
            None => platform.extension == Extension::Svm,
        };
        for model in MODELS.iter().filter(lists).filter(has) {
            let (runs, remark) = match &works {
                Err(failure) => (false, one_line(failure)),
                Ok(()) => of_model(model),
            };
            row(platform, model.name, model.offers.extension(), runs, remark);
        }
    }
    for platform in &PLATFORMS {
        let works = platform.works().and_then(|()| ovmf::firmware(&installed(platform.engine)?).map(drop));
        let processor = platform.processor.unwrap_or("its models");
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

/// The emulators that are installed: their versions, whether those were tried, and their differences from other versions.
pub(super) fn emulators() -> Sheet {
    let mut sheet = Sheet::new(&["emulator", "version", "difference", "treatment"]);
    for engine in [Engine::Bochs, Engine::Tcg] {
        let name = engine.family().name();
        let row = |cells: [&str; 4]| cells.map(str::to_owned).to_vec();
        let Ok(here) = installed(engine) else {
            sheet.row(row([name, "-", "is not installed", "run ci/setup"]));
            continue;
        };
        let version = here.version.map_or_else(|| "unknown".to_owned(), |version| version.to_string());
        let known = here.warning().unwrap_or_else(|| "this version was tried".to_owned());
        sheet.row(row([name, &version, &known, ""]));
        here.differences().for_each(|difference| sheet.row(row([name, &version, difference.what, difference.done])));
    }
    sheet
}

/// The whole table of differences between versions.
pub(super) fn versions() -> Sheet {
    let mut sheet = Sheet::new(&["emulator", "versions", "difference", "treatment", "evidence"]);
    for row in &DIFFERENCES {
        let versions = row.versions();
        sheet.row([row.family.name(), &versions, row.what, row.done, row.evidence].map(str::to_owned).to_vec());
    }
    sheet
}

fn yes_or_no(works: bool) -> &'static str {
    if works { "yes" } else { "no" }
}

/// Whether the image runs on a model of the Bochs that is here, and a note on it.
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
