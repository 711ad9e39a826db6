//! Modules form no circle: a reader of one can first read those that it builds on.
//!
//! The sources count, without tests: `use` and other paths that begin with `crate`, `super` or `self`. A module and
//! the files of its folder are one room, and may know each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The crates, by their folders.
const CRATES: [&str; 9] = [
    "vmm-core/src",
    "vmm-core/abi/src",
    "vmm-core/monitor-run/src",
    "vmm-core/monitor-uefi/src",
    "image-builder/src",
    "image-builder/books/src",
    "image-builder/guests/src",
    "image-builder/peer/src",
    "unikernel-guest/src",
];

/// Circles that there may be, each with the reason.
const ACCEPTED: &[(&str, &[&str], &str)] = &[(
    "vmm-core/abi/src",
    &["exit_reason", "svm_exit"],
    "one numbering in two tables that are checked against each other when they are compiled: SVM's exit codes stand for \
         reasons of the SDM, and a code without a twin is a reason of its own, so that the ledger has as many rows as both need",
)];

/// The modules that each module names.
type Graph = BTreeMap<String, BTreeSet<String>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The files of a crate's folder, by the names of their modules.
fn modules(source: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![source.to_owned()];
    while let Some(folder) = open.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(source).unwrap().with_extension("");
                let names: Vec<_> = relative.iter().map(|name| name.to_str().unwrap()).collect();
                let is_its_folders = matches!(names.last(), Some(&("mod" | "lib" | "main")));
                let module = names[..names.len() - usize::from(is_its_folders)].join("::");
                found.entry(module).or_insert_with(String::new).push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    // A module for tests alone does not count.
    let of_tests: Vec<String> = found
        .iter()
        .flat_map(|(module, text)| test_modules(text).into_iter().map(move |name| within(module, &name)))
        .collect();
    found.retain(|module, _| !of_tests.iter().any(|of_tests| is_in(of_tests, module)));
    found
}

fn within(module: &str, name: &str) -> String {
    if module.is_empty() { name.to_owned() } else { format!("{module}::{name}") }
}

/// Whether a module is `outer`, or in it.
fn is_in(outer: &str, module: &str) -> bool {
    outer.is_empty() || module == outer || module.strip_prefix(outer).is_some_and(|rest| rest.starts_with("::"))
}

/// The names of the files that are modules for tests alone.
fn test_modules(text: &str) -> Vec<String> {
    let behind = text.split("#[cfg(test)]").skip(1);
    let declared = behind.filter_map(|item| item.split_once(';')).map(|(declaration, _)| declaration);
    let declared = declared.filter(|declaration| !declaration.contains('{'));
    let named =
        declared.filter_map(|declaration| declaration.split_whitespace().skip_while(|word| *word != "mod").nth(1));
    named.filter(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_')).map(str::to_owned).collect()
}

/// A source without comments, and without the items that are for tests alone.
fn without_tests(text: &str) -> String {
    let lines = text.lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line });
    let text = lines.collect::<Vec<_>>().join("\n");
    let mut parts = text.split("#[cfg(test)]");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // The item ends with a semicolon, or with its braces.
        let (mut depth, mut end) = (0, part.len());
        for (at, c) in part.char_indices() {
            depth += i32::from(c == '{') - i32::from(c == '}');
            if depth == 0 && (c == ';' || c == '}') {
                end = at + 1;
                break;
            }
        }
        kept.push_str(&part[end..]);
    }
    kept
}

/// The paths of a `use` tree.
fn expand(prefix: &str, tree: &str, into: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((before, inner)) = tree.split_once('{') else {
        into.push(format!("{prefix}{}", tree.split_whitespace().next().unwrap_or_default()));
        return;
    };
    let inner = inner.trim_end().strip_suffix('}').unwrap_or(inner);
    let (mut depth, mut start) = (0, 0);
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if c == ',' && depth == 0 {
            let branch = &inner[start..at];
            if !branch.trim().is_empty() {
                expand(&format!("{prefix}{before}"), branch, into);
            }
            start = at + 1;
        }
    }
}

/// The paths in a source: those of `use`, and those in its code.
fn paths(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("use ") {
        if text[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '_') {
            expand("", text[at + 4..].split(';').next().unwrap_or_default(), &mut found);
        }
    }
    for start in ["crate::", "super::"] {
        for (at, _) in text.match_indices(start) {
            let end = text[at..].find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(0);
            found.push(text[at..at + end].to_owned());
        }
    }
    found
}

/// The module that a path in a module leads to, if it is one of the crate's.
fn target(module: &str, path: &str, modules: &BTreeMap<String, String>) -> Option<String> {
    let mut names: Vec<&str> = Vec::new();
    let mut parts = path.split("::").peekable();
    match parts.next()? {
        "crate" => {}
        first @ ("super" | "self") => {
            names.extend(module.split("::"));
            if first == "super" {
                names.pop();
            }
            while parts.next_if_eq(&"super").is_some() {
                names.pop();
            }
        }
        _ => return None,
    }
    names.extend(parts);
    (1..=names.len()).rev().map(|length| names[..length].join("::")).find(|name| modules.contains_key(name))
}

fn graph(source: &Path) -> Graph {
    let modules = modules(source);
    let named = |(module, text): (&String, &String)| {
        let targets = paths(&without_tests(text)).into_iter().filter_map(|path| target(module, &path, &modules));
        let others = targets.filter(|target| !is_in(module, target) && !is_in(target, module));
        (module.clone(), others.collect())
    };
    modules.iter().map(named).collect()
}

/// The modules that a module leads to, itself only by a circle.
fn reach(graph: &Graph, from: &str) -> BTreeSet<String> {
    let (mut reached, mut open) = (BTreeSet::new(), vec![from.to_owned()]);
    while let Some(module) = open.pop() {
        for next in graph.get(&module).into_iter().flatten() {
            if reached.insert(next.clone()) {
                open.push(next.clone());
            }
        }
    }
    reached
}

/// Groups of modules in which each leads to each.
fn circles(graph: &Graph) -> BTreeSet<BTreeSet<String>> {
    let reached: BTreeMap<&String, BTreeSet<String>> =
        graph.keys().map(|module| (module, reach(graph, module))).collect();
    let on_one = reached.iter().filter(|(module, reached)| reached.contains(**module));
    on_one
        .map(|(module, leads_to)| leads_to.iter().filter(|other| reached[other].contains(*module)).cloned().collect())
        .collect()
}

#[test]
fn modules_form_no_circle() {
    let mut found = Vec::new();
    let mut arrows = 0;
    for folder in CRATES {
        let graph = graph(&root().join(folder));
        arrows += graph.values().map(BTreeSet::len).sum::<usize>();
        for circle in circles(&graph) {
            let arrows = circle.iter().flat_map(|from| {
                graph[from].iter().filter(|to| circle.contains(*to)).map(move |to| format!("    {from} names {to}\n"))
            });
            let modules = circle.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
            found.push((folder, modules, arrows.collect::<String>()));
        }
    }
    assert!(arrows > 300, "only {arrows} arrows: are the sources elsewhere?");
    let accepted =
        |folder: &str, modules: &str| ACCEPTED.iter().any(|(at, names, _)| *at == folder && names.join(" ") == modules);
    let new: String = found
        .iter()
        .filter(|(folder, modules, _)| !accepted(folder, modules))
        .map(|(folder, modules, arrows)| format!("  {folder}: {modules}\n{arrows}"))
        .collect();
    assert!(new.is_empty(), "circles of modules:\n{new}");
    for (folder, names, _) in ACCEPTED {
        let is_there = found.iter().any(|(at, modules, _)| at == folder && *modules == names.join(" "));
        assert!(is_there, "{folder}: the circle of {} is gone; take it off the list", names.join(", "));
    }
}

/// The processor that the monitor runs on is below everything of the guest's: it leads to the contract with an extension alone.
#[test]
fn the_processors_own_side_knows_nothing_of_the_guests() {
    let graph = graph(&root().join("vmm-core/src"));
    let host: Vec<&String> = graph.keys().filter(|module| is_in("host", module)).collect();
    assert!(host.len() > 5, "the processor's own side is elsewhere");
    for module in host {
        let above: Vec<String> =
            reach(&graph, module).into_iter().filter(|to| !is_in("host", to) && !is_in("exit", to)).collect();
        assert!(above.is_empty(), "{module} leads to {}", above.join(", "));
    }
}

#[test]
fn circles_are_seen_where_there_are_some() {
    let graph = |arrows: &[(&str, &str)]| {
        let mut graph = Graph::new();
        for (from, to) in arrows {
            graph.entry((*from).to_owned()).or_default().insert((*to).to_owned());
            graph.entry((*to).to_owned()).or_default();
        }
        circles(&graph)
    };
    assert!(graph(&[("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]).is_empty());
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let expected = [names(&["a", "b", "c"]), names(&["d", "e"])].into();
    assert_eq!(graph(&[("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "e"), ("e", "d")]), expected);
}

#[test]
fn sources_are_read_as_the_compiler_reads_them() {
    let text = "
//! crate::of_a_comment
use crate::a::{self, b::Thing, c::{Other, d}};
use super::sibling::f as g;
#[cfg(test)]
mod script;
fn f() { crate::e::f(|| { super::super::h() }) }
#[cfg(test)]
mod tests { use crate::of_tests; fn g() { if true {} } }
use crate::last;
";
    assert_eq!(test_modules(text), ["script"]);
    let names = ["a", "a::b", "a::c", "a::c::d", "x::sibling", "e", "h", "last", "of_tests", "of_a_comment", "x::y"];
    let modules = names.into_iter().map(|name| (name.to_owned(), String::new())).collect();
    let found: BTreeSet<String> =
        paths(&without_tests(text)).iter().filter_map(|path| target("x::y", path, &modules)).collect();
    let expected = ["a", "a::b", "a::c", "a::c::d", "x::sibling", "e", "h", "last"];
    assert_eq!(found, expected.into_iter().map(str::to_owned).collect());
}
