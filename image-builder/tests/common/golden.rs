//! Golden files: output that a person has looked at and agreed with. `TOLLGATE_BLESS=1 cargo test` writes them anew.
#![allow(dead_code, reason = "not every test binary has one")]

use std::fs;
use std::path::Path;

/// Compares a text with the golden file of this name.
pub(crate) fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("TOLLGATE_BLESS").is_some() {
        fs::write(&path, text).unwrap();
    }
    let agreed = fs::read_to_string(&path).unwrap_or_default();
    assert!(agreed == text, "{name} differs from what was agreed on. Now it is:\n{text}");
}
