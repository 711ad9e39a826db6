//! Guests that others built, from the stick under OVMF: loaded into memory of the firmware's, run with VT-x and with SVM, and their log
//! saved; the refusals of sticks and machines.

use std::fs;
use std::time::Duration;

use iced_x86::code_asm::*;
use tollgate::emulator::models::Model;
use tollgate::emulator::{Boot, Engine, Launch, Limits, Machine, PLATFORMS, STICK, Session, Target};
use tollgate::image::{Placed, disk};
use tollgate::images::build_stick_around;
use tollgate_abi::guest_image::TSC_KHZ_DIGITS;
use tollgate_abi::machine::KVM_LEAF;
use tollgate_abi::stick::{APPLICATION, GUEST};
use tollgate_books::account::Account;
use tollgate_books::failure::Status;

use crate::common::sticks::{Booted, FIRST_LOG, replace};
use crate::common::text;
use crate::guest::{MEMORY_BYTES, guest_with, power_off, send};

const OPTIONS: &str = "workloads=none book=none watchdog=200000000 limit=400000000";
/// A guest's text, with the rate of the TSC that it has before it is told another.
const TEXT: &[u8] = b"rate 0000000 kHz\n";
const TEXT_GPA: u64 = 0x20_0000;
const RATE_AT: u64 = 5;

/// A guest that shows its text, looks at the last byte of its memory, asks for KVM's leaf and switches off.
fn shows_its_rate(memory_bytes: u64) -> Placed {
    let code = |code: &mut CodeAssembler| {
        for at in 0..TEXT.len() {
            code.mov(al, byte_ptr(rsi + at)).unwrap();
            send(code);
        }
        let mut is_zero = code.create_label();
        code.mov(rbx, memory_bytes - 1).unwrap();
        code.cmp(byte_ptr(rbx), 0).unwrap();
        code.je(is_zero).unwrap();
        code.ud2().unwrap();
        code.set_label(&mut is_zero).unwrap();
        code.mov(byte_ptr(rbx), 1).unwrap();
        code.mov(eax, KVM_LEAF.leaf).unwrap();
        code.cpuid().unwrap();
        power_off(code);
    };
    guest_with(TEXT_GPA, TEXT, memory_bytes, code).told_tsc_khz_at(TEXT_GPA + RATE_AT)
}

/// A stick with that guest.
fn stick(memory_bytes: u64) -> Vec<u8> {
    build_stick_around(&shows_its_rate(memory_bytes), OPTIONS).unwrap().bytes
}

fn console(log: &str) -> String {
    let lines = log.lines().filter_map(|line| line.strip_prefix("console   text=\"")?.rsplit_once('"'));
    lines.map(|(line, _)| line).collect::<Vec<_>>().join("\n")
}

/// A run whose account is balanced, audited; returns the account, and the console's text on the stick.
fn balanced(target: Target) -> (Account, String) {
    let place = tempfile::tempdir().unwrap();
    let stick = stick(MEMORY_BYTES);
    let boot = Boot::Stick(&stick);
    let launch = Machine::new(target, boot).prepare(place.path(), boot, true).unwrap();
    let limits = Limits { grace: Duration::from_secs(60), ..Limits::within(Duration::from_secs(240)) };
    let session = Session::run(&launch, limits, |_| {}).unwrap();
    let log = session.log.unwrap_or_else(|error| panic!("{error}\n{}", session.said));
    let account = Account::new(&log, session.audit.as_ref(), Some(launch.platform.name));
    assert_eq!(account.status, Status::Balanced, "{}: {}", target.name(), account.verdict);
    let mut stick = fs::read(place.path().join(STICK)).unwrap();
    let saved = text(&disk::read(&mut stick, FIRST_LOG).unwrap());
    assert!(saved.contains(" outcome=powered-off"), "{saved}");
    let text = console(&saved);
    (account, text)
}

fn qemu() -> Target {
    Target::of(PLATFORMS.iter().find(|row| row.engine == Engine::Tcg).unwrap())
}

#[test]
fn a_guest_that_others_built_runs_from_the_stick_and_its_log_is_saved() {
    let exits = [Target::bochs(Model::usual()), qemu()].map(|target| {
        let (account, text) = balanced(target);
        assert_eq!(text, "rate 0000000 kHz", "an emulator's ticks have no rate");
        account.totals.exits
    });
    // One for each character, the leaf, and the end.
    assert_eq!(exits, [TEXT.len() as u64 + 2; 2]);
}

/// The stick's guest, with its bytes changed.
fn with_guest(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut stick = stick(MEMORY_BYTES);
    let [application, mut guest] = [APPLICATION, GUEST].map(|name| disk::read(&mut stick, name).unwrap());
    change(&mut guest);
    disk::build(&[(APPLICATION, &application), (GUEST, &guest)]).unwrap()
}

#[test]
fn a_damaged_guest_and_memory_that_firmware_lacks_are_told_on_screen_and_stick() {
    let refused = |stick: &[u8], sentence: &str| {
        let mut run = Booted::new(stick, |_| {});
        assert!(run.verdict().starts_with("refused: ") && run.verdict().contains(sentence), "{}", run.verdict());
        assert!(run.said.contains(" Verdict: refused: ") && run.said.contains(" Remedy: "), "{}", run.said);
        assert_eq!(run.log(FIRST_LOG).unwrap().verdict, run.serial.verdict);
    };
    refused(&with_guest(|guest| *guest.last_mut().unwrap() ^= 1), "GUEST.BIN is damaged");
    refused(&stick(1 << 30), "no 1026 MiB of contiguous memory for the guest; its largest free piece has ");
}

#[test]
fn on_silicon_a_guest_is_told_the_rate_of_the_tsc() {
    let place = tempfile::tempdir().unwrap();
    let stick = stick(MEMORY_BYTES);
    let boot = Boot::Stick(&stick);
    let mut launch: Launch = Machine::new(qemu(), boot).prepare(place.path(), boot, false).unwrap();
    // An emulator that hides passes for silicon, and here a tick is a nanosecond. Nothing ends it once the account is shown.
    replace(&mut launch, "max,+svm,-rdrand,-rdseed", "max,+svm,-rdrand,-rdseed,-hypervisor");
    let session = Session::run(&launch, Limits::within(Duration::from_secs(180)), |_| {}).unwrap();
    assert!(session.log.unwrap().verdict.is_some_and(|verdict| verdict.result.to_string() == "balanced"));
    let said = text(&fs::read(&launch.serial).unwrap());
    let shown = console(&said);
    let khz: u64 = shown.strip_prefix("rate ").unwrap()[..TSC_KHZ_DIGITS].trim_end().parse().unwrap();
    assert!((990_000..1_010_000).contains(&khz), "{shown}");
    assert!(said.contains(&format!("the TSC counts {khz} kHz, by the firmware's clock")), "{said}");
}
