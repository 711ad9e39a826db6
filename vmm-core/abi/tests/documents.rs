//! `LEAVES.md` and `RECORDS.md` are what the tables of leaves and of records say. `TOLLGATE_BLESS=1 cargo test` writes them anew.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use tollgate_abi::leaves::{LeafMap, RULES, Row, TABLE};
use tollgate_abi::record::{Kind, PROTOCOL};

const LEAVES: &str = "# The CPUID leaves

A guest reads the monitor's account by CPUID, while it runs. EAX says which figure, ECX of which reason. This page is written
from the table in [`src/leaves.rs`](src/leaves.rs), by which the monitor answers and the built-in guest asks.
";

fn number(map: LeafMap, row: &Row) -> String {
    map.encode(row.leaf).map_or_else(|| "-".to_owned(), |eax| format!("`0x{eax:08X}`"))
}

fn question(row: &Row) -> String {
    let fields: Vec<String> = match row.question.fields() {
        [] => vec!["-".to_owned()],
        [(name, 31, 0)] => vec![(*name).to_owned()],
        fields => fields.iter().map(|(name, high, low)| format!("{name} in {high}:{low}")).collect(),
    };
    fields.join(", ")
}

fn answers(row: &Row) -> String {
    row.answers.iter().map(|(registers, part)| format!("{registers}: {part}")).collect::<Vec<_>>().join("<br>")
}

fn leaves() -> Result<String, std::fmt::Error> {
    let mut text = format!("{LEAVES}\n| EAX | ECX | answer |\n|---|---|---|\n");
    let term = LeafMap::default();
    for row in TABLE.iter().filter(|row| term.encode(row.leaf).is_some()) {
        writeln!(text, "| {} | {} | {} |", number(term, row), question(row), answers(row))?;
    }
    writeln!(text, "\nOf a pair of registers the first has the upper half.\n\n## Rules\n")?;
    RULES.iter().try_for_each(|rule| writeln!(text, "- {rule}"))?;
    let terms = LeafMap::ALL.map(LeafMap::name);
    writeln!(text, "\n## The course's leaves, term by term\n")?;
    writeln!(text, "The course moved its leaves between terms; `--leaf-map TERM` selects one of these.")?;
    writeln!(text, "The default is `{}`, which is the table above.\n", term.name())?;
    writeln!(text, "| answer | {} |\n|---|{}", terms.join(" | "), "---|".repeat(terms.len()))?;
    let is_moved = |row: &&Row| LeafMap::ALL.iter().any(|map| map.encode(row.leaf) != term.encode(row.leaf));
    for row in TABLE.iter().filter(is_moved) {
        writeln!(text, "| {} | {} |", answers(row), LeafMap::ALL.map(|map| number(map, row)).join(" | "))?;
    }
    Ok(text)
}

const RECORDS: &str = "# The records of a log

A log is lines of text on the serial port. A line that begins with one of the words below is a record: the word, padded to nine
columns, then `key=value` with single spaces between, then `~` and four hexadecimal digits, the CRC-16/CCITT-FALSE of everything
before the ` ~`. Numbers are decimal, or hexadecimal behind `0x`. Text stands in double quotes; in it `\"`, `\\` and every byte
outside of printable ASCII are escaped (`\\\"`, `\\\\`, `\\x1b`). Other lines are noise, which firmware and other programs may leave.

This page is written from the table in [`src/record/records.rs`](src/record/records.rs), from which the monitor's writer and the host
tool's reader are made. A record has its fields in this order. Fields in parentheses may be absent.
";

fn records() -> Result<String, std::fmt::Error> {
    let mut text = format!("{RECORDS}\nThe version of the protocol is {PROTOCOL}.\n");
    for kind in Kind::ALL {
        writeln!(
            text,
            "\n## `{}`\n\n{}\n\n| field | form | meaning |\n|---|---|---|",
            kind.word(),
            kind.about().trim()
        )?;
        for field in kind.fields() {
            let key = if field.may_lack { format!("(`{}`)", field.key) } else { format!("`{}`", field.key) };
            writeln!(text, "| {key} | {} | {} |", field.form, field.about.trim())?;
        }
    }
    Ok(text)
}

fn is_as_written(name: &str, written: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("TOLLGATE_BLESS").is_some() {
        fs::write(&path, written).unwrap();
    }
    let agreed = fs::read_to_string(&path).unwrap_or_default();
    assert!(agreed == written, "{name} is out of date; TOLLGATE_BLESS=1 writes it anew:\n{written}");
}

#[test]
fn the_leaves_are_documented_as_the_table_has_them() {
    is_as_written("LEAVES.md", &leaves().unwrap());
}

#[test]
fn the_records_are_documented_as_the_table_has_them() {
    is_as_written("RECORDS.md", &records().unwrap());
}
