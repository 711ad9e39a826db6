//! `tollgate platforms --exits`: the exits, and the variants of them, that each processor model of Bochs produced when the atlas
//! ran on it.

use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use tollgate_abi::command_line::Options;
use tollgate_abi::exit_reason::{Feature, Need, TABLE};
use tollgate_abi::key::VARIANTS;
use tollgate_abi::virtualization::Extension;
use tollgate_books::account::Account;
use tollgate_books::account::atlas::{about, denied, lacking};
use tollgate_books::failure::{Failure, Status};
use tollgate_books::needs::{enabled_by, need_names};
use tollgate_books::output_file;
use tollgate_books::report::Sheet;
use tollgate_books::terminal::Terminal;

use super::atlas::{self, Part};
use super::boot::Booting;
use super::place;
use crate::emulator::models::{MODELS, Model, Offers};
use crate::emulator::{Boot, Engine, Limits, Machine, Target, release};
use crate::images;
use crate::selection::{ATLAS, Selection};

/// Runs at a time: each keeps a processor busy.
const AT_ONCE: usize = 2;
const SECONDS: u64 = 180;

/// Runs the atlas on every model that has VT-x and tells the results, reason by reason.
///
/// # Errors
/// A run gave no verdict, or its books differ: no table would then be true.
pub(super) fn sheet() -> Result<Sheet, Failure> {
    let version = release(Engine::Bochs);
    let is_there = |model: &&Model| model.offers.extension() == Some(Extension::VtX) && model.versions.by(version);
    let models: Vec<&'static Model> = MODELS.iter().filter(is_there).collect();
    Terminal::of_stderr().tell(&format!("running the atlas on {} processor models of Bochs", models.len()));
    let runs = run_all(&models)?;
    let names = models.iter().map(|model| model.name);
    let heading: Vec<&str> = ["no#", "exit reason"].into_iter().chain(names).chain(["needs"]).collect();
    let mut sheet = Sheet::new(&heading);
    let column = |cell: &dyn Fn(&Model, &[Account]) -> String| {
        models.iter().zip(&runs).map(|(model, accounts)| cell(model, accounts)).collect::<Vec<_>>()
    };
    let outcomes = column(&|model, accounts| match (worst(accounts), model.offers) {
        (Status::Balanced, _) => "runs".to_owned(),
        (_, Offers::Lacks(_, what)) => format!("no {what}"),
        _ => "refused".to_owned(),
    });
    let mut row = |number: String, name: &str, cells: Vec<String>, needs: String| {
        sheet.row([number, name.to_owned()].into_iter().chain(cells).chain([needs]).collect());
    };
    row(String::new(), "the default run and the atlas", outcomes, String::new());
    for reason in TABLE.iter().filter(|row| row.notes().places.bochs.by(version)) {
        let number = reason.reason.0;
        let mut exit = |number_cell: String, name: &str, variant: Option<&str>, needs: String| {
            let whole = models.iter().zip(&runs).filter(|(_, accounts)| worst(accounts) == Status::Balanced);
            for (model, accounts) in whole.filter(|(_, accounts)| !produced(number, variant, accounts)) {
                let lacking = match variant {
                    None => lacking(number, accounts.iter()),
                    Some(_) => denied(number, variant, accounts.iter()),
                };
                if lacking.is_none() {
                    let model = model.name;
                    let sentence =
                        format_args!("{model} did not produce reason {number} {name}, though it lacks nothing for it");
                    return Err(Failure::new(Status::Differs, sentence));
                }
            }
            let cells = column(&|_, accounts| if produced(number, variant, accounts) { "x" } else { "" }.to_owned());
            row(number_cell, name, cells, needs);
            Ok(())
        };
        exit(number.to_string(), reason.name, None, enabled_by(reason.enabled_by))?;
        let is_vtx = |name: &&str| about(reason.reason, name).is_none_or(|row| row.is_under(Extension::VtX));
        let names = VARIANTS.iter().filter(|(of, _)| *of == reason.reason).map(|(_, name)| *name);
        for name in names.filter(is_vtx) {
            // Needs under SVM are another matter.
            let under_vtx = |need: &&Need| **need != Need::Has(Feature::WholeSvm);
            let needs = about(reason.reason, name).map_or(&[][..], |scenario| scenario.needs);
            let needs: Vec<Need> = needs.iter().filter(under_vtx).copied().collect();
            exit(String::new(), &format!("{}: {name}", reason.name), Some(name), need_names(&needs))?;
        }
    }
    Ok(sheet)
}

/// Whether one of a model's runs has exits of a reason, or of a variant of it.
fn produced(number: u16, variant: Option<&str>, accounts: &[Account]) -> bool {
    let mut reasons = accounts.iter().flat_map(|account| &account.reasons).filter(|reason| reason.number == number);
    reasons.any(|reason| match variant {
        None => reason.exits.figures.count > 0,
        Some(name) => reason.variants.iter().any(|variant| variant.name == name && variant.figures.count > 0),
    })
}

fn worst(accounts: &[Account]) -> Status {
    accounts.iter().map(|account| account.status).max().unwrap_or(Status::NoVerdict)
}

/// The accounts of an atlas' runs by model.
fn run_all(models: &[&'static Model]) -> Result<Vec<Vec<Account>>, Failure> {
    let place = place::temporary()?;
    let (next, found) = (Mutex::new(0..models.len()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(at) = next.lock().ok().and_then(|mut next| next.next()) {
                    let accounts = run_parts(models[at], &place.path().join(models[at].name));
                    if let Ok(mut found) = found.lock() {
                        found.push((at, accounts));
                    }
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap_or_default();
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, accounts)| accounts).collect()
}

/// A model's part in the atlas; one that refuses the first run refuses all.
fn run_parts(model: &'static Model, directory: &Path) -> Result<Vec<Account>, Failure> {
    let selection = Selection { workloads: vec![ATLAS.to_owned()], ..Selection::default() };
    let mut accounts = Vec::new();
    for part in atlas::parts(&selection, Target::bochs(model), true)? {
        let folder = part.folder.as_ref().map_or_else(|| directory.to_owned(), |folder| directory.join(folder));
        let account = run(&part, model, &folder)?;
        let refused = account.status == Status::Platform;
        accounts.push(acceptable(model, account)?);
        if refused {
            break;
        }
    }
    Ok(accounts)
}

fn run(part: &Part, model: &'static Model, directory: &Path) -> Result<Account, Failure> {
    output_file::create_directory(directory)?;
    let rom = images::build(None, &part.options)?;
    let boot = Boot::Rom(&rom.bytes);
    let cpus = Options::parse(&part.options).unwrap_or_default().processors();
    let booting = Booting {
        boot,
        machine: Machine { cpus, ..Machine::new(Target::bochs(model), boot) },
        audit: true,
        limits: Limits::within(Duration::from_secs(SECONDS)),
    };
    booting.silent(directory)?.account()
}

/// A balanced account, or the refusal that the model is known for.
fn acceptable(model: &Model, account: Account) -> Result<Account, Failure> {
    let expected = if matches!(model.offers, Offers::Enough(_)) { Status::Balanced } else { Status::Platform };
    if account.status == expected {
        return Ok(account);
    }
    Err(Failure::new(account.status, format_args!("{}: {}", model.name, account.verdict)))
}
