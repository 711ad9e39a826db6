//! Small guests that do what the unikernel can't or won't do, and tell the result in one line: the corners of the processor that
//! the monitor has to emulate as hardware does. They are assembled by the C compiler that Rust links with.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{text, tollgate_in};
use serde_json::Value;
use tollgate::emulator::versions::Behaviour;
use tollgate::emulator::{Engine, installed};

/// The machine that a probe runs on: the platform, and the processor model on Bochs.
type Place = (&'static str, &'static str);

/// Places under VT-x: without and with the check of error codes, which Bochs 2.7 leaves out on processors with CET.
const TIGERLAKE: Place = ("bochs", "tigerlake");
const HASWELL: Place = ("bochs", "corei7_haswell_4770");
/// Places under SVM: with and without next-RIP saving.
const ZAMBEZI: Place = ("bochs", "zambezi");
const QEMU: Place = ("qemu-tcg", "");

const EVERYWHERE: &[Place] = &[TIGERLAKE, HASWELL, ZAMBEZI, QEMU];

/// Assembles a probe with symbols, `NAME=NUMBER`, to `probe.elf` in a directory.
fn assemble(probe: &str, place: &Path, symbols: &[&str]) {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/probes");
    let mut compiler = Command::new("cc");
    compiler.args(["-nostdlib", "-static", "-no-pie", "-Wl,-Ttext=0x100000,-z,max-page-size=4096,--build-id=none"]);
    compiler
        .arg("-I")
        .arg(&sources)
        .arg("-Wa,--noexecstack")
        .args(symbols.iter().map(|symbol| format!("-Wa,--defsym,{symbol}")))
        .arg("-o")
        .arg(place.join("probe.elf"))
        .arg(sources.join(probe).with_extension("s"));
    let assembled = compiler.output().expect("Rust links with a C compiler, `cc`");
    assert!(assembled.status.success(), "{probe}: {}", text(&assembled.stderr));
}

/// Runs a probe with symbols on so many vCPUs: the account, and the guest's words.
fn run(probe: &str, cpus: u32, (on, cpu): Place, symbols: &[&str]) -> (Value, String) {
    let place = tempfile::tempdir().unwrap();
    assemble(probe, place.path(), symbols);
    let cpus = cpus.to_string();
    let mut arguments =
        vec!["run", "--on", on, "--cpus", &cpus, "--guest", "probe.elf", "--audit", "--json", "--out", "."];
    if !cpu.is_empty() {
        arguments.extend(["--cpu", cpu]);
    }
    let output = tollgate_in(place.path(), &arguments, &[]);
    let account = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{probe} on {on} {cpu}: {}", text(&output.stderr)));
    let log = text(&fs::read(place.path().join("serial.log")).unwrap_or_default());
    let words = log.lines().filter_map(|line| Some(line.split_once("text=\"")?.1.split('"').next()?.to_owned()));
    (account, words.collect::<Vec<_>>().join("; "))
}

/// Runs a probe in each of its places; it has to end with this outcome and these words, with every book in agreement.
fn check(probe: &str, cpus: u32, places: &[Place], outcome: &str, words: &str) {
    for &place in places {
        let symbols: &[&str] = if place == QEMU && qemu_has(Behaviour::CachesInRing3) { &["CACHES=3"] } else { &[] };
        let (account, said) = run(probe, cpus, place, symbols);
        assert_eq!(said, words, "{probe} on {place:?}: {}", account["verdict"]);
        assert_eq!(account["stop"]["outcome"], outcome, "{probe} on {place:?}: {}", account["verdict"]);
        assert_eq!(account["findings"], Value::Array(vec![]), "{probe} on {place:?}");
    }
}

/// Whether the QEMU that is installed has a behaviour.
fn qemu_has(behaviour: Behaviour) -> bool {
    installed(Engine::Tcg).is_ok_and(|qemu| qemu.has(behaviour))
}

/// A guest that has no book of its exits.
const ENDED: &str = "exited-without-book";

#[test]
fn ring_3_gets_the_exception_of_each_privileged_instruction() {
    check("ring_3", 1, EVERYWHERE, ENDED, "each is refused");
}

#[test]
fn real_mode_has_neither_error_codes_nor_page_tables() {
    check("real_mode", 2, EVERYWHERE, ENDED, "as in real mode");
}

#[test]
fn no_interrupt_and_no_halt_swallows_a_single_step() {
    check("single_steps", 1, EVERYWHERE, ENDED, "each step is there");
}

#[test]
fn an_nmi_waits_for_the_handler_of_another() {
    check("nmis", 1, EVERYWHERE, ENDED, "all three came, one after the other");
}

#[test]
fn addresses_wrap_outside_of_64_bit_mode() {
    check("address_wrap", 1, EVERYWHERE, "halted-for-ever", "");
}

#[test]
fn cr3_takes_no_address_beyond_the_processors() {
    check("wide_cr3", 1, EVERYWHERE, ENDED, "each is refused");
}

/// Bochs 2.7 ends itself at a triple fault under SVM.
#[test]
fn a_guest_that_dies_at_its_first_exit_is_not_accused_of_more() {
    check("dies_at_once", 1, &[TIGERLAKE, HASWELL, QEMU], "triple-fault", "");
}

#[test]
fn workloads_that_a_guest_does_not_read_are_told() {
    let place = tempfile::tempdir().unwrap();
    assemble("dies_at_once", place.path(), &[]);
    let said = |more: &[&str]| {
        let output =
            tollgate_in(place.path(), &[&["run", "--on", "bochs", "--guest", "probe.elf"], more].concat(), &[]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
        text(&output.stderr)
    };
    let unread = said(&["--workload", "cpuid"]);
    assert!(unread.contains("(tigerlake): probe.elf, asked for 1 workload\n"), "{unread}");
    assert!(unread.contains("--workload names workloads, and the guest of --guest began none"), "{unread}");
    let plain = said(&[]);
    assert!(plain.contains("(tigerlake): probe.elf\n") && !plain.contains("workload"), "{plain}");
}
