//! `LEAVES.md` is what the table of leaves says. `TOLLGATE_BLESS=1 cargo test` writes it anew.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use tollgate_abi::leaves::{LeafMap, RULES, Row, TABLE};

const HEADING: &str = "# The CPUID leaves

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

fn document() -> Result<String, std::fmt::Error> {
    let mut text = format!("{HEADING}\n| EAX | ECX | answer |\n|---|---|---|\n");
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

#[test]
fn the_document_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("LEAVES.md");
    let written = document().unwrap();
    if std::env::var_os("TOLLGATE_BLESS").is_some() {
        fs::write(&path, &written).unwrap();
    }
    let agreed = fs::read_to_string(&path).unwrap_or_default();
    assert!(agreed == written, "LEAVES.md is out of date; TOLLGATE_BLESS=1 writes it anew:\n{written}");
}
