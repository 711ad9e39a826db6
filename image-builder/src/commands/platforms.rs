//! `tollgate platforms`: what can run the image here, why not, and what would change it.

use crate::emulator::models::{self, MODELS, Vtx};
use crate::emulator::{bochs, qemu};
use crate::failure::Failure;
use crate::report::Sheet;

/// Every platform and, for Bochs, every processor model.
pub(super) fn sheet() -> Sheet {
    let mut sheet = Sheet::new(&["platform", "processor", "runs here", "remarks"]);
    let bochs = bochs::find().map(|_| ());
    for model in &MODELS {
        let default = if model.name == models::DEFAULT { "the default; " } else { "" };
        let (works, remark) = match (&bochs, model.vtx) {
            (Err(failure), _) => (false, one_line(failure)),
            (Ok(()), Vtx::Enough) => (true, format!("{default}{}", model.note)),
            (Ok(()), Vtx::Lacks(what)) => {
                (false, format!("its VT-x has no {what}: the image says so and ends; {}", model.note))
            }
            (Ok(()), Vtx::Absent) => (false, format!("no VT-x: the image says so and ends; {}", model.note)),
        };
        sheet.row(vec!["bochs".to_owned(), model.name.to_owned(), yes_no(works), remark]);
    }
    let (works, remark) = match qemu::nested_vtx() {
        Ok(()) => (true, "KVM offers nested VT-x; figures repeat statistically".to_owned()),
        Err(failure) => (false, one_line(&failure)),
    };
    sheet.row(vec!["qemu".to_owned(), "the host's, by KVM".to_owned(), yes_no(works), remark]);
    sheet
}

fn yes_no(works: bool) -> String {
    if works { "yes" } else { "no" }.to_owned()
}

fn one_line(failure: &Failure) -> String {
    failure.to_string().lines().map(str::trim).collect::<Vec<_>>().join("; ")
}
