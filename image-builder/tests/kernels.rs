//! Kernels of the project's own in the formats of others: they boot under the monitor on both extensions, and every book agrees.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{text, tollgate_in};
use serde_json::Value;

/// The platforms and the processor models on Bochs: VT-x, SVM without decode assists, SVM of QEMU's.
const PLACES: [(&str, &str); 3] = [("bochs", "tigerlake"), ("bochs", "zambezi"), ("qemu-tcg", "")];

/// Assembles a kernel of 32-bit code to `kernel.elf` in a directory. Its header comes first in memory and in the file.
fn assemble(kernel: &str, place: &Path) {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels");
    let mut compiler = Command::new("cc");
    compiler.args(["-m32", "-nostdlib", "-static", "-no-pie", "-Wa,--noexecstack"]);
    compiler.arg("-Wl,-m,elf_i386,-n,-Ttext=0x101000,--section-start=.header=0x100000,--build-id=none");
    compiler.arg("-I").arg(&sources).arg("-o").arg(place.join("kernel.elf")).arg(sources.join(kernel));
    let assembled = compiler.output().expect("Rust links with a C compiler, `cc`");
    assert!(assembled.status.success(), "{kernel}: {}", text(&assembled.stderr));
}

/// Boots a kernel, audited: the account, and the kernel's words.
fn boot(kernel: &str, (on, cpu): (&str, &str), more: &[&str]) -> (Value, Vec<String>) {
    let place = tempfile::tempdir().unwrap();
    assemble(kernel, place.path());
    let mut arguments =
        vec!["run", "--on", on, "--guest", "kernel.elf", "--memory", "16", "--audit", "--json", "--out", "."];
    if !cpu.is_empty() {
        arguments.extend(["--cpu", cpu]);
    }
    arguments.extend(more);
    let output = tollgate_in(place.path(), &arguments, &[]);
    let account = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{kernel} on {on} {cpu}: {}", text(&output.stderr)));
    let log = text(&fs::read(place.path().join("serial.log")).unwrap());
    let words = log.lines().filter_map(|line| Some(line.split_once("text=\"")?.1.split('"').next()?.to_owned()));
    (account, words.collect())
}

#[test]
fn a_kernel_goes_through_every_mode_and_its_words_are_read_in_each() {
    const MODES: [&str; 8] = [
        "protected mode",
        "32-bit paging",
        "PAE paging",
        "64-bit mode",
        "compatibility mode",
        "protected mode again",
        "real mode",
        "back",
    ];
    for place in PLACES {
        let (account, words) = boot("modes.s", place, &[]);
        assert_eq!(words, MODES, "{place:?}: {}", account["verdict"]);
        assert_eq!(account["stop"]["outcome"], "powered-off", "{place:?}");
        assert_eq!(
            (&account["findings"], &account["verdict"]),
            (&Value::Array(vec![]), &"balanced".into()),
            "{place:?}"
        );
        let cpuid = account["reasons"].as_array().unwrap().iter().find(|row| row["number"] == 10).unwrap();
        assert_eq!(cpuid["count"], 5, "{place:?}: the kernel asked in five modes");
    }
}
