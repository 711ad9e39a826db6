//! Rules that reviewers would otherwise have to check by eye.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every file below the workspace's own folders, sorted.
fn files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> =
        ["vmm-core", "unikernel-guest", "image-builder", "ci", ".ci"].map(|name| root().join(name)).into();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.is_file() {
            found.push(path);
        }
    }
    found.extend(
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "Cargo.toml"]
            .map(|name| root().join(name))
            .into_iter()
            .filter(|path| path.is_file()),
    );
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn none(rule: &str, offenders: Vec<String>) {
    assert!(offenders.is_empty(), "{rule}:\n  {}", offenders.join("\n  "));
}

fn name(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

fn rust_files() -> impl Iterator<Item = PathBuf> {
    files().into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
}

#[test]
fn every_rust_file_says_what_it_is() {
    assert!(rust_files().count() > 20);
    none(
        "files that do not start with `//!`",
        rust_files().filter(|path| !read(path).starts_with("//! ")).map(|path| name(&path)).collect(),
    );
}

#[test]
fn no_file_knows_the_machine_that_it_was_written_on() {
    let paths = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/tm", "p/")];
    let offends = |path: &PathBuf| paths.iter().any(|needle| read(path).contains(needle));
    none(
        "files with a path of one machine",
        files().iter().filter(|path| offends(path)).map(|path| name(path)).collect(),
    );
}

/// A comment's text, if the line is a comment by itself.
fn comment(line: &str) -> Option<&str> {
    let text = line.trim_start().strip_prefix('/')?;
    text.starts_with(['/', '*']).then(|| text.trim_start_matches(['/', '*', '!']).trim_start())
}

/// The words that stand for a thing with a name, or for another comment.
const HIDING: [&str; 7] = ["What", "Which", "Who", "Whose", "How", "Where", "Likewise"];

#[test]
fn no_comment_hides_its_thing() {
    let mut hidden = Vec::new();
    for path in rust_files() {
        let text = read(&path);
        let mut begins = true;
        for (at, line) in text.lines().enumerate() {
            let Some(comment) = comment(line) else {
                begins = true;
                continue;
            };
            let said = comment.trim_start_matches("SAFETY: ");
            let first = said.split(|letter: char| !letter.is_alphabetic()).next();
            if begins && first.is_some_and(|first| HIDING.iter().any(|word| word.eq_ignore_ascii_case(first))) {
                hidden.push(format!("{}:{}: {comment}", name(&path), at + 1));
            }
            begins = comment.is_empty() || line.trim_start().starts_with("/*");
        }
    }
    none("comments that begin with a word for another, or for a thing that has a name", hidden);
}

/// The terminal wraps messages for people at its width.
#[test]
fn messages_go_to_standard_error_through_the_terminal() {
    let of_the_tool = |path: &PathBuf| name(path).starts_with("image-builder/") && name(path).contains("/src/");
    let macros = [concat!("eprint", "!("), concat!("eprint", "ln!(")];
    let offends =
        |path: &PathBuf| !path.ends_with("terminal.rs") && macros.iter().any(|word| read(path).contains(word));
    none(
        "files that write to standard error by themselves",
        rust_files().filter(of_the_tool).filter(offends).map(|path| name(&path)).collect(),
    );
}

#[test]
fn no_name_says_nothing() {
    let empty = ["utils", "util", "helpers", "helper", "manager", "misc", "common_utils"];
    let offends = |path: &PathBuf| path.file_stem().is_some_and(|stem| empty.contains(&stem.to_str().unwrap_or("")));
    none("files with an empty name", files().iter().filter(|path| offends(path)).map(|path| name(path)).collect());
}

#[test]
fn the_architecture_names_the_folders_that_exist() {
    let text = read(&root().join("ARCHITECTURE.md"));
    assert!(!text.is_empty(), "ARCHITECTURE.md is missing");
    let folders = [
        "vmm-core",
        "vmm-core/abi",
        "vmm-core/bare-rt",
        "vmm-core/monitor",
        "vmm-core/monitor-run",
        "vmm-core/monitor-uefi",
        "unikernel-guest",
        "image-builder",
        "image-builder/books",
        "image-builder/guests",
        "ci",
    ];
    let unnamed = |folder: &&str| !text.contains(&format!("`{folder}"));
    none(
        "folders that ARCHITECTURE.md does not name",
        folders.into_iter().filter(unnamed).map(str::to_owned).collect(),
    );
    let quoted = text.split('`').skip(1).step_by(2).filter(|word| !word.contains(char::is_whitespace));
    let of_ours = |word: &&str| folders.iter().any(|folder| word.starts_with(&format!("{folder}/")));
    let absent = |word: &&str| !root().join(word.trim_end_matches('/')).exists();
    none(
        "paths in ARCHITECTURE.md that do not exist",
        quoted.filter(of_ours).filter(absent).map(str::to_owned).collect(),
    );
}

#[test]
fn scripts_stop_at_the_first_error_and_can_be_run() {
    use std::os::unix::fs::PermissionsExt;
    let of_ci = |path: &PathBuf| name(path).starts_with("ci/") || name(path).starts_with(".ci/");
    // A file there with an extension is a document.
    let scripts: Vec<PathBuf> = files().into_iter().filter(|path| of_ci(path) && path.extension().is_none()).collect();
    assert!(scripts.len() >= 4);
    let strict = |path: &PathBuf| {
        read(path).starts_with("#!/usr/bin/env bash\n") && read(path).contains("\nset -euo pipefail\n")
    };
    none("scripts that are not strict", scripts.iter().filter(|path| !strict(path)).map(|path| name(path)).collect());
    let runs = |path: &PathBuf| path.metadata().unwrap().permissions().mode() & 0o111 != 0;
    none("scripts that can't be run", scripts.iter().filter(|path| !runs(path)).map(|path| name(path)).collect());
}

/// The guest's floors, from the ground up.
const FLOORS: [&str; 4] = ["books", "ops", "runtime", "workloads"];

#[test]
fn no_floor_of_the_guest_reaches_up() {
    let mut offenders = Vec::new();
    for (level, floor) in FLOORS.iter().enumerate() {
        let folder = root().join("unikernel-guest/src").join(floor);
        let paths: Vec<PathBuf> = rust_files().filter(|path| path.starts_with(&folder)).collect();
        assert!(paths.len() > 3, "{floor} is a floor of several files");
        for path in paths {
            let text = read(&path);
            let above = FLOORS[level + 1..].iter().filter(|above| text.contains(&format!("crate::{above}")));
            offenders.extend(above.map(|above| format!("{} names {above}", name(&path))));
        }
    }
    none("files of the guest that reach up", offenders);
}
