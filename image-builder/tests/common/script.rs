//! A script that a test runs as a program.
#![allow(unreachable_pub, reason = "the library's own tests have this file, too")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes a program. Another process does it: a child that another test starts at that moment would keep the file open for writing,
/// and Linux runs no such file (ETXTBSY).
pub fn write_script(path: &Path, text: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-c", "cat > \"$0\" && chmod 755 \"$0\""]).arg(path).stdin(Stdio::piped());
    let mut writer = shell.spawn().expect("there is a shell");
    writer.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("the shell reads");
    assert!(writer.wait().expect("the shell ends").success(), "{} can't be written", path.display());
}
