//! The documents against the code: their length and language, links, figures, samples, and the guests that they show.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{text, tollgate_in};
use serde_json::Value;
use tollgate::emulator::Family;
use tollgate::emulator::{Engine, bochs, release};
use tollgate_abi::ExitReason;
use tollgate_abi::emulated::Release;
use tollgate_abi::exit_reason::TABLE;
use tollgate_abi::key::VARIANTS;
use tollgate_abi::scenario;
use tollgate_abi::virtualization::Extension;
use tollgate_books::beside::{Comparison, document};
use tollgate_books::failure::Status;
use tollgate_books::report::{ACCOUNTS, Column, RUNS};

/// Documents for people, written by people.
const WRITTEN: [&str; 5] =
    ["README.md", "image-builder/MANUAL.md", "ARCHITECTURE.md", "findings/README.md", "CHANGELOG.md"];
/// Documents that tests or commands write.
const GENERATED: [&str; 5] = [
    "vmm-core/abi/LEAVES.md",
    "vmm-core/abi/RECORDS.md",
    "image-builder/BENCH.md",
    "image-builder/EXITS.md",
    "image-builder/LINUX.md",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn none(rule: &str, offenders: Vec<String>) {
    assert!(offenders.is_empty(), "{rule}:\n  {}", offenders.join("\n  "));
}

/// A document's lines outside of fenced blocks.
fn outside_of_blocks(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    })
}

/// The body of the fenced block with this beginning, fence included.
fn block<'a>(text: &'a str, beginning: &str) -> &'a str {
    let at = text.find(beginning).unwrap_or_else(|| panic!("there is no block that begins with {beginning:?}"));
    let body = text[at..].split_once('\n').unwrap().1;
    body.split_once("\n```").unwrap().0
}

/// Sentences of paragraphs and list items, without tables and headings.
fn sentences(text: &str) -> Vec<String> {
    let mut paragraphs = vec![String::new()];
    for line in outside_of_blocks(text).map(str::trim) {
        let numbered = line.split_once(". ").filter(|(number, _)| number.parse::<u8>().is_ok()).map(|(_, item)| item);
        let item = line.strip_prefix("- ").or(numbered);
        if line.is_empty() || line.starts_with(['|', '#']) || item.is_some() {
            paragraphs.push(String::new());
        }
        if !line.starts_with(['|', '#']) {
            let paragraph = paragraphs.last_mut().unwrap();
            *paragraph += item.unwrap_or(line);
            paragraph.push(' ');
        }
    }
    let mut found = Vec::new();
    for paragraph in paragraphs {
        let mut sentence: Vec<&str> = Vec::new();
        for word in paragraph.split_whitespace() {
            sentence.push(word);
            if word.trim_end_matches(['*', ')', '"']).ends_with(['.', '!', '?']) {
                found.push(sentence.join(" "));
                sentence.clear();
            }
        }
        if !sentence.is_empty() {
            found.push(sentence.join(" "));
        }
    }
    found
}

#[test]
fn sentences_are_short_and_name_their_thing() {
    const MOST_WORDS: usize = 40;
    let (mut long, mut free) = (Vec::new(), Vec::new());
    for name in WRITTEN {
        let found = sentences(&read(name));
        assert!(!found.is_empty(), "{name}");
        let words = |sentence: &String| sentence.split(' ').count();
        long.extend(
            found.iter().filter(|found| words(found) > MOST_WORDS).map(|sentence| format!("{name}: {sentence}")),
        );
        let begins = |sentence: &String| sentence.starts_with("What ") && !sentence.ends_with('?');
        free.extend(found.iter().filter(|found| begins(found)).map(|sentence| format!("{name}: {sentence}")));
    }
    none("sentences of more than 40 words", long);
    none("sentences that begin with a What of their own", free);
}

#[test]
fn the_readme_fits_a_screen_or_two() {
    let text = read("README.md");
    assert!(text.lines().count() <= 150, "README.md has {} lines, and 150 are the most", text.lines().count());
    let wide = |line: &&str| line.chars().count() > 100;
    none("lines of README.md of more than 100 columns", text.lines().filter(wide).map(str::to_owned).collect());
}

/// The name by which GitHub links to a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().chars();
    let kept = kept.filter(|letter| letter.is_alphanumeric() || [' ', '-', '_'].contains(letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter.to_ascii_lowercase() }).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut dead = Vec::new();
    for name in WRITTEN.iter().chain(&GENERATED) {
        let text = read(name);
        let prose: Vec<&str> = outside_of_blocks(&text).collect();
        let prose = prose.join("\n");
        let links = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        for link in links.filter(|link| !link.starts_with("https://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let folder = Path::new(name).parent().unwrap();
            let path = if file.is_empty() { root().join(name) } else { root().join(folder).join(file) };
            let leads = path.exists()
                && (heading.is_empty() || {
                    let target = fs::read_to_string(&path).unwrap_or_default();
                    outside_of_blocks(&target).any(|line| line.starts_with('#') && anchor(line) == heading)
                });
            if !leads {
                dead.push(format!("{name}: {link}"));
            }
        }
    }
    none("links to nothing", dead);
}

/// A text in which line breaks are spaces.
fn flowing(name: &str) -> String {
    read(name).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_manual_counts_what_the_tables_have() {
    let text = flowing("image-builder/MANUAL.md");
    let possible = |version: Release| TABLE.iter().filter(|row| row.notes().places.bochs.by(Some(version))).count();
    let [first, second, third] = [(2, 7), (3, 0), (3, 1)].map(possible);
    let is_vtx = |name| scenario::TABLE.iter().all(|row| row.variant != Some(name) || row.is_under(Extension::VtX));
    let (defined, variants) = (TABLE.len(), VARIANTS.iter().filter(|(_, name)| is_vtx(name)).count());
    for phrase in [
        format!("{first} of the {defined} that the SDM defines with Bochs 2.7, {second} with 3.0, {third} with 3.1"),
        format!("rows of their own, {variants} of them"),
    ] {
        assert!(text.contains(&phrase), "MANUAL.md does not say \"{phrase}\"");
    }
}

/// Each number in the README's prose is one that this test knows from the code. Commands, the sample and the guest have tests of
/// their own.
#[test]
fn the_readme_has_no_figure_of_its_own() {
    let text = read("README.md");
    let versions = |family: Family| {
        let tried: Vec<String> = family.tried().iter().map(ToString::to_string).collect();
        let (last, others) = tried.split_last().unwrap();
        format!("{} {} and {last}", family.name(), others.join(", "))
    };
    let statuses = [
        (Status::Balanced, "balanced"),
        (Status::Differs, "the books differ or the guest failed"),
        (Status::Usage, "wrong usage"),
        (Status::Platform, "the platform can't run it"),
        (Status::NoVerdict, "no verdict in time"),
    ];
    let statuses = statuses.map(|(status, means)| format!("{} {means}", status as u8)).join(", ");
    let bochs_then_qemu = format!("{} and {}", versions(Family::Bochs), versions(Family::Qemu));
    let mut flowing =
        outside_of_blocks(&text).collect::<Vec<_>>().join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
    for phrase in [bochs_then_qemu.as_str(), &statuses] {
        assert!(flowing.contains(phrase), "README.md does not say \"{phrase}\"");
        flowing = flowing.replace(phrase, "");
    }
    let prose: String = flowing.split('`').step_by(2).collect();
    let known = ["x86-64", "64-bit", "[Apache 2.0](LICENSE-APACHE)"];
    let prose = known.iter().fold(prose, |prose, word| prose.replace(word, ""));
    let figures = prose.split(' ').filter(|word| word.contains(|letter: char| letter.is_ascii_digit()));
    none("figures in README.md that nothing checks", figures.map(str::to_owned).collect());
}

/// The beginning of the sample in the README.
const SAMPLE: &str = "```text\nVT-x on ";
const SAMPLE_COLUMNS: usize = 100;

/// Some rows of a table, its heading, and its last row if that has the sums.
fn shortened(table: &str, rows: usize) -> String {
    let lines: Vec<&str> = table.lines().collect();
    let sums = lines.last().filter(|line| line.trim_start().starts_with("all "));
    lines[..=rows].iter().chain([&" ..."]).chain(sums).map(|line| format!("{line}\n")).collect()
}

/// The output of `ci/boot`, as the README shows it.
fn sample(output: &str) -> String {
    let mut parts = output.split("\n\n");
    let mut next = || parts.next().expect("an account has a heading and tables");
    let (heading, reasons, workloads) = (next(), next(), next());
    let verdict = parts.last().expect("an account has a verdict").trim_end();
    let heading = textwrap::fill(heading, textwrap::Options::new(SAMPLE_COLUMNS).break_words(false));
    format!("{heading}\n\n{}\n{}\n{verdict}", shortened(reasons, 3), shortened(workloads, 2))
}

/// A text whose numbers are all the same, and whose columns are one space apart.
fn without_numbers(text: &str) -> String {
    let word = |word: &str| if word.contains(|letter: char| letter.is_ascii_digit()) { "0" } else { word }.to_owned();
    text.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

/// With the Bochs of the sample, the two are equal to the digit. With others, whose processor costs differently, they are equal
/// but for the figures.
#[test]
fn the_sample_in_the_readme_is_what_ci_boot_prints() {
    if let Err(missing) = bochs::find() {
        panic!("this test needs Bochs. {missing}");
    }
    assert!(read("ci/boot").contains("cargo run --release -- run --audit"));
    let output = tollgate_in(Path::new("."), &["run", "--on", "bochs", "--audit"], &[]);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    let written = sample(&text(&output.stdout));
    let readme = read("README.md");
    let shown = block(&readme, SAMPLE);
    let is_of_this_version = release(Engine::Bochs) == Some((2, 7));
    if is_of_this_version && std::env::var_os("TOLLGATE_BLESS").is_some() {
        fs::write(root().join("README.md"), readme.replace(shown, &written)).unwrap();
        return;
    }
    let agree = if is_of_this_version { shown == written } else { without_numbers(shown) == without_numbers(&written) };
    assert!(agree, "the sample in README.md is out of date; TOLLGATE_BLESS=1 writes it anew:\n{written}");
}

/// Compiles a guest as the README says, with more arguments, and runs it: the exit status, the account, the serial log.
fn run_guest(source: &str, more: &[&str], options: &[&str]) -> (Option<i32>, Value, String) {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("own.rs"), source).unwrap();
    let readme = read("README.md");
    let commands = block(&readme, "```sh\nrustc ");
    let (command, _) = commands.split_once("\ntollgate ").expect("the guest is compiled, and then run");
    let command = format!("{} {}", command.replace("\\\n", " "), more.join(" "));
    let compiled = Command::new("sh").arg("-c").arg(&command).current_dir(place.path()).output().unwrap();
    assert!(compiled.status.success(), "{command}: {}", text(&compiled.stderr));
    let fixed = ["run", "--on", "bochs", "--guest", "own", "--audit", "--json", "--out", "results"];
    let output = tollgate_in(place.path(), &[&fixed, options].concat(), &[]);
    let account = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    let log = fs::read(place.path().join("results/serial.log")).unwrap();
    (output.status.code(), account, text(&log))
}

/// The exits of a reason: in the ledger, in the guest's book, in the emulator's log.
fn exits(account: &Value, name: &str) -> [Value; 3] {
    let reasons = account["reasons"].as_array().unwrap();
    let reason = reasons.iter().find(|reason| reason["name"] == name).unwrap_or_else(|| panic!("{account}"));
    ["count", "guest_count", "audit_count"].map(|book| reason[book].clone())
}

#[test]
fn the_guest_in_the_readme_runs_and_balances_without_a_book() {
    let readme = read("README.md");
    assert!(readme.contains("\ntollgate run --guest own --no-book --audit --out results\n"));
    let (status, account, log) = run_guest(block(&readme, "```rust\n#![no_std]"), &[], &["--no-book"]);
    assert_eq!((status, &account["verdict"]), (Some(0), &"balanced".into()), "{account}");
    assert_eq!(account["stop"]["outcome"], "exited", "{account}");
    assert_eq!(exits(&account, "CPUID"), [1.into(), Value::Null, 1.into()]);
    assert_eq!(exits(&account, "VMCALL"), [2.into(), Value::Null, 2.into()]);
    assert!(log.contains("text=\"1\""), "{log}");
}

#[test]
fn the_guest_in_the_manual_runs_and_balances_with_its_book() {
    let place = tempfile::tempdir().unwrap();
    let library = place.path().join("libtollgate_abi.rlib");
    let mut compiler = Command::new("rustc");
    compiler.args([
        "--edition",
        "2024",
        "-O",
        "-C",
        "panic=abort",
        "--crate-type",
        "rlib",
        "--crate-name",
        "tollgate_abi",
    ]);
    let compiled = compiler.arg("-o").arg(&library).arg(root().join("vmm-core/abi/src/lib.rs")).output().unwrap();
    assert!(compiled.status.success(), "{}", text(&compiled.stderr));
    let manual = read("image-builder/MANUAL.md");
    let library = format!("tollgate_abi={}", library.display());
    let (status, account, _) = run_guest(block(&manual, "```rust\n#![no_std]"), &["--extern", &library], &[]);
    assert_eq!((status, &account["verdict"]), (Some(0), &"balanced".into()), "{account}");
    for reason in ["CPUID", "VMCALL"] {
        assert_eq!(exits(&account, reason), [1, 1, 1].map(Value::from), "{reason}");
    }
}

#[test]
fn the_picture_is_small() {
    let picture = fs::read(root().join("image-builder/page.png")).unwrap();
    assert!(picture.starts_with(b"\x89PNG\r\n"), "page.png is a picture");
    assert!(
        picture.len() < 200_000,
        "page.png has {} bytes; ci/screenshot takes it in a smaller window",
        picture.len()
    );
}

#[test]
fn the_changelog_has_this_version_and_the_licences_are_there() {
    let version = env!("CARGO_PKG_VERSION");
    assert!(read("CHANGELOG.md").contains(&format!("\n## [{version}] - ")), "CHANGELOG.md has no section {version}");
    assert!(read("Cargo.toml").contains("license = \"MIT OR Apache-2.0\""));
    assert!(read("LICENSE-MIT").contains("Permission is hereby granted, free of charge"));
    assert!(
        read("LICENSE-APACHE").contains("Version 2.0, January 2004") && read("LICENSE-APACHE").contains("END OF TERMS")
    );
}

#[test]
fn the_manual_has_the_columns_of_the_data_set() {
    fn table<R>(name: &str, columns: &[Column<R>]) -> String {
        let row = |column: &Column<R>| format!("| `{}` | {} | {} |\n", column.name, column.type_name(), column.about);
        format!("| `{name}` | type | is |\n|---|---|---|\n{}", columns.iter().map(row).collect::<String>())
    }
    let manual = read("image-builder/MANUAL.md");
    for table in [table("runs", RUNS), table("accounts", ACCOUNTS)] {
        assert!(manual.contains(&format!("\n{table}\n")), "the manual lacks this table:\n{table}");
    }
}

/// A run takes too long for a test. So the page is held against the figures of one, and against the tool's form.
#[test]
fn the_comparison_with_kvm_is_that_of_its_figures_and_every_difference_is_explained() {
    let comparison = Comparison::load(&root().join("image-builder/linux.json")).unwrap();
    let (text, unexplained) = document(&comparison);
    if std::env::var_os("TOLLGATE_BLESS").is_some() {
        fs::write(root().join("image-builder/LINUX.md"), &text).unwrap();
    }
    assert!(
        read("image-builder/LINUX.md") == text,
        "LINUX.md is not what its figures say; TOLLGATE_BLESS=1 writes it anew"
    );
    assert_eq!(unexplained, Vec::<String>::new());
    assert!(comparison.tollgate.is_marked && comparison.kvm.is_marked);
    for boot in [&comparison.tollgate, &comparison.kvm] {
        let rows = boot.until_init.reasons.iter().chain(&boot.from_init.reasons);
        for (&row, cost) in rows {
            let (last, is_timed) = (cost.exits - cost.returned, (cost.returned == 0) == (cost.ticks == 0));
            assert!(ExitReason(row).is_named() && last <= 1 && is_timed, "{row} {cost:?}");
        }
    }
}
