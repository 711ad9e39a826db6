//! Debian's kernel, as `--guest debian` has it, in the emulators: its account, what it reads of that itself, and the same bytes again.

mod boot;
#[path = "../common/mod.rs"]
mod common;
mod ends;

use boot::{Booted, boot};
use tollgate_books::log::CpuidLine;

/// The commands: a total, a reason that is frequent, one that is undefined, and the total again.
const COMMANDS: &str = "cpuid -1 -l 0x4fffffff; cpuid -1 -l 0x4ffffffd -s 30; cpuid -1 -l 0x4ffffffc -s 30; \
                        cpuid -1 -l 0x4ffffffd -s 35; cpuid -1 -l 0x4fffffff";

/// Boots twice, with audit and without, which the log does not show.
fn check(on: &str) {
    let Some(Booted { account, log, .. }) = boot(on, COMMANDS, &["--audit"]) else { return };
    let findings = &account["findings"];
    assert_eq!(
        (&account["verdict"], account["stop"]["outcome"].as_str()),
        (&"balanced".into(), Some("powered-off")),
        "{findings}"
    );
    assert_eq!(account["books"], serde_json::json!(["ledger", "emulator", "cpuid"]), "{on}");
    let console = |line: &str| log.contains(&format!("text=\"{line}"));
    assert!(console("init: Linux ") && console("init: the commands ended with status 0"), "{log}");
    // The lines of the real program are printed again, byte for byte.
    let printed = log.lines().filter_map(|line| line.split_once("text=\"")?.1.split('"').next());
    let lines: Vec<(&str, CpuidLine)> = printed.filter_map(|text| Some((text, CpuidLine::parse(text)?))).collect();
    assert!(lines.len() >= 3 && lines.iter().all(|(text, line)| line.to_string() == *text), "{on}: {lines:?}");
    let read = account["cpuid"].as_array().unwrap();
    // The kernel may write into one of the lines.
    assert!(read.len() >= 3, "{on}: {read:?}");
    let frequent = read.iter().filter(|value| value["reason"] == 30 && value["unit"] == "exits");
    assert!(frequent.into_iter().all(|value| value["value"].as_u64() > Some(30_000)), "{on}: {read:?}");
    assert!(boot(on, COMMANDS, &[]).unwrap().log == log, "{on}: a second boot has another log");
}

#[test]
fn debian_boots_on_bochs_and_reads_its_account() {
    check("bochs");
}

#[test]
fn debian_boots_on_qemu_and_reads_its_account() {
    check("qemu-tcg");
}

#[test]
fn debian_boots_with_its_apic_in_memory() {
    let more = ["--audit", "--cpus", "2", "--append", "nox2apic quiet", "--keys"];
    let Some(Booted { account, .. }) = boot("bochs", COMMANDS, &more) else { return };
    assert_eq!(account["verdict"], "balanced", "{}", account["findings"]);
    let reasons = account["reasons"].as_array().unwrap();
    let keys = reasons.iter().filter(|row| row["number"] == 48).flat_map(|row| row["keys"].as_array().unwrap());
    let pages: Vec<_> = keys.map(|key| key["name"].as_str().unwrap()).collect();
    // The local APIC's, and the IOAPIC's.
    for prefix in ["page 0xfee00000 ", "page 0xfec00000 "] {
        assert!(pages.iter().any(|page| page.starts_with(prefix)), "{prefix}: {pages:?}");
    }
    let is_of_device = |page: &&str| page.starts_with("page 0xfee00000 ") || page.starts_with("page 0xfec00000 ");
    assert!(pages.iter().all(is_of_device), "{pages:?}");
}
