//! A boot under two hypervisors, from small logs of Bochs' to the document.

mod common;

use common::golden::golden;
use tollgate_books::beside::{Boot, BootReader, Comparison, Seconds, Wall, document};

/// A log of exits: each with its reason's number and name, its qualification, the ticks up to the next entry, and the ticks of the
/// guest before it. The other lines are those that Bochs writes in between.
fn boot(exits: &[(u16, &str, u32, u64, u64)]) -> Boot {
    let mut tick = 10_256_957;
    let mut log = format!("{tick:011}d[CPU0  ] VMLAUNCH VMCS ptr: 0x0000000000228000\n");
    for (reason, name, qualification, ticks, guest_ticks) in exits {
        tick += guest_ticks;
        log += &format!("{tick:011}d[CPU0  ] VMEXIT reason = {reason} ({name}) qualification={qualification:#x}\n");
        log += &format!("{tick:011}d[CPU0  ] VMEXIT to x86-64 host\n");
        log += &format!("{:011}d[CPU0  ] page walk for address 0x0000000000100d9c\n", tick + 1);
        tick += ticks;
        log += &format!("{tick:011}d[CPU0  ] VMRESUME VMCS ptr: 0x0000000000228000\n");
        log += &format!("{tick:011}d[CPU0  ] VMENTER to x86-64 guest\n");
    }
    let mut reader = BootReader::default();
    reader.feed(log.as_bytes());
    reader.finish()
}

const MARK: (u16, &str, u32, u64, u64) = (30, "I/O Instruction", 0x608_0000, 300, 10);

fn comparison(tollgate: &Boot, kvm: &Boot) -> Comparison {
    let seconds = |wall, processor| Seconds { wall, processor };
    Comparison {
        kernel: "linux-image-6.1.0-57-cloud-amd64_6.1.192-3_amd64".to_owned(),
        emulator: "Bochs x86 Emulator 2.7".to_owned(),
        processor: "corei7_skylake_x".to_owned(),
        extension: "VT-x".to_owned(),
        tollgate: tollgate.clone(),
        kvm: kvm.clone(),
        wall: Wall {
            date: "2026-01-31".to_owned(),
            machine: "2 x a processor".to_owned(),
            runs: 3,
            bare: seconds(10.0, 8.0),
            tollgate: seconds(12.0, 10.0),
            audited: seconds(31.0, 16.0),
        },
    }
}

fn cpuid(ticks: u64) -> (u16, &'static str, u32, u64, u64) {
    (10, "CPUID", 0, ticks, 100)
}

fn out(ticks: u64) -> (u16, &'static str, u32, u64, u64) {
    (30, "I/O Instruction", 0x3f8_0000, ticks, 50)
}

#[test]
fn the_document_is_as_agreed() {
    let kvm = boot(&[cpuid(1000), (48, "EPT violation", 0x182, 15_000, 70), out(3400), out(3500), MARK, out(3500)]);
    let tollgate = boot(&[cpuid(120), out(280), out(290), MARK, cpuid(100), out(270)]);
    let (text, unexplained) = document(&comparison(&tollgate, &kvm));
    assert_eq!(unexplained, Vec::<String>::new());
    golden("beside.md", &text);
}

#[test]
fn a_difference_without_an_explanation_is_named() {
    let (kvm, tollgate) = (boot(&[cpuid(1000), MARK]), boot(&[cpuid(100), (36, "MWAIT", 0, 100, 10), MARK]));
    let (text, unexplained) = document(&comparison(&tollgate, &kvm));
    assert_eq!(unexplained, ["the exits of reason 36, MWAIT, differ without an explanation"]);
    assert!(text.contains("- **MWAIT**: 0 under KVM, 1 under Tollgate. Not explained.\n"), "{text}");
    let (_, same) = document(&comparison(&kvm, &kvm));
    assert!(same.is_empty(), "{same:?}");
}

#[test]
fn goals_that_are_missed_are_named_with_what_was_measured() {
    let kvm = boot(&[cpuid(1000), cpuid(1000), MARK]);
    let reached = boot(&[cpuid(20), cpuid(20), MARK]);
    let (text, _) = document(&comparison(&reached, &kvm));
    let row = |text: &str, goal: &str| text.lines().find(|line| line.contains(goal)).unwrap_or_default().to_owned();
    assert!(
        row(&text, "1/40 of KVM's").contains("| 1/50.0") && row(&text, "1/40 of KVM's").contains("| yes"),
        "{text}"
    );
    assert!(row(&text, "no more exits").contains("| none") && row(&text, "at most 1.25").contains("| 1.20"), "{text}");
    let missed = boot(&[cpuid(200), cpuid(200), cpuid(200), MARK]);
    let (text, _) = document(&comparison(&missed, &kvm));
    assert!(
        row(&text, "of each kind").contains("CPUID 1/5.0") && row(&text, "of each kind").contains("| no"),
        "{text}"
    );
    assert!(
        row(&text, "no more exits").contains("CPUID 1 more") && row(&text, "with `--audit`").contains("| no"),
        "{text}"
    );
}

#[test]
fn a_comparison_comes_back_from_its_file_and_another_file_is_refused() {
    let kvm = boot(&[cpuid(1000), out(3400), MARK, out(3500)]);
    let comparison = comparison(&boot(&[cpuid(100), MARK]), &kvm);
    assert_eq!(Comparison::from_json(&comparison.to_json()).unwrap(), comparison);
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("figures.json");
    comparison.save(&path).unwrap();
    assert_eq!(Comparison::load(&path).unwrap(), comparison);
    std::fs::write(&path, comparison.to_json().replace("\"kernel\"", "\"colonel\"")).unwrap();
    let failure = Comparison::load(&path).unwrap_err().to_string();
    assert!(failure.contains("has no comparison in it: unknown field `colonel`"), "{failure}");
}
