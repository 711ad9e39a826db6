//! Reports against files that a person has looked at. `TOLLGATE_BLESS=1 cargo test` writes them anew.

mod common;

use common::golden::golden;
use common::{
    CPUID, HLT, INTERRUPT, LogText, Row, SECOND, TWO_VCPUS_AUDIT, VMCALL, WRMSR, audit_of, balanced, books, boot, mark,
    paused_total, two_vcpus, two_vcpus_end,
};
use tollgate_abi::ExitReason;
use tollgate_abi::figures::Figures;
use tollgate_abi::record::Kind;
use tollgate_books::account::{Account, AtlasRow, AtlasVariant};
use tollgate_books::audit::{Audit, ExitLogFormat, ExitLogReader};
use tollgate_books::log::{LogReader, VariantRow};
use tollgate_books::report::{Format, Titled, render};

fn titled(title: &str, log: &LogText, audited: bool) -> Titled {
    audited_by(title, log, audited.then(|| audit_of(&[(0, 10, 5), (0, 18, 3)])))
}

fn audited_by(title: &str, log: &LogText, audit: Option<Audit>) -> Titled {
    let log = LogReader::read(log.0.as_bytes()).unwrap();
    Titled { title: title.to_owned(), account: Account::new(&log, audit.as_ref(), Some("bochs")) }
}

fn broken() -> LogText {
    let mut log = LogText::default();
    log.header("workloads=cpuid:5");
    log.workload("cpuid", 5, &[(10, 5, 4, 5)]);
    log.noise("Bochs says something");
    books(&mut log);
    log.stop("triple-fault");
    log.verdict("stopped", "the guest ended as triple-fault at 0x100000");
    log
}

#[test]
fn reports_are_as_agreed() {
    let good = titled("good.log", &balanced(), true);
    let bad = titled("bad.log", &broken(), false);
    golden("balanced.txt", &render(std::slice::from_ref(&good), Format::Table));
    golden("balanced.json", &render(std::slice::from_ref(&good), Format::Json));
    golden("balanced.csv", &render(std::slice::from_ref(&good), Format::Csv));
    golden("stopped.txt", &render(std::slice::from_ref(&bad), Format::Table));
    let both = [good, bad];
    golden("both.txt", &render(&both, Format::Table));
    golden("both.csv", &render(&both, Format::Csv));
}

#[test]
fn workloads_of_the_apic_are_compared_both_ways() {
    let report = |twin: &str| {
        let mut log = LogText::default();
        log.header("workloads=self-ipi:5,self-ipi-virtual:5");
        log.workload("self-ipi", 5, &[(32, 10, 10, 10)]);
        log.workload(twin, 5, &[]);
        log.verdict("stopped", "");
        render(&[titled("", &log, false)], Format::Table)
    };
    let row = |report: &str| {
        let mut lines = report.lines().skip_while(|line| !line.contains("local APIC"));
        lines.nth(1).map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(row(&report("self-ipi-virtual")).as_deref(), Some("self-ipi 10 98.0 0 98.0"));
    assert_eq!(row(&report("cpuid")), None);
}

/// A guest that vCPU 11 of sixteen ended. Sixteen vCPUs are too many to stand side by side.
fn sixteen() -> LogText {
    let mut log = LogText::default();
    log.header_of(16, "workloads=cpuid:5 cpus=16");
    for vcpu in 0..16 {
        let wide = Row {
            reason: ExitReason::ENTRY_FAILURE_GUEST_STATE.0.into(),
            name: ExitReason::ENTRY_FAILURE_GUEST_STATE.name(),
            count: 7_654_321,
            each: 90,
        };
        log.ledger(vcpu, &[INTERRUPT, Row { count: 100 * vcpu + 1, ..CPUID }, HLT, WRMSR, wide]);
    }
    let record = log.record(Kind::Stop).number("vcpu", 11).word("outcome", "triple-fault");
    record.hex("rip", 0x10_0000).hex("reason", 2).finish().unwrap();
    log.verdict("stopped", "vCPU 11 ended the guest as triple-fault");
    log
}

/// Keys and variants, on two vCPUs.
fn divided() -> LogText {
    let mut log = LogText::default();
    log.header_of(2, "workloads=none keys=on cpus=2");
    for vcpu in [0, 1] {
        let row = Row { reason: 28, name: "Control-register accesses", count: 6, each: 70 };
        let record = log.record(Kind::Exit).number("vcpu", vcpu).number("reason", row.reason).text("name", row.name);
        let record = record.word("status", "enabled").number("count", 6).number("cycles", 420);
        let mut histogram = [0; 64];
        (histogram[5], histogram[6]) = (3, 3);
        record.number("min", 60).number("max", 80).histogram("histogram", &histogram).finish().unwrap();
        log.part(Kind::Key, vcpu, 28, "others", 3, &[80, 80 - 4 * vcpu, 80]);
        log.part(Kind::Key, vcpu, 28, "CR3 read", 1, &[60]);
        log.part(Kind::Key, vcpu, 28, "CR0 write", 2, &[60, 60 + 4 * vcpu]);
        log.part(Kind::Variant, vcpu, 28, "LMSW", 3, &[80, 80 - 4 * vcpu, 80]);
        log.part(Kind::Variant, vcpu, 28, "CR3 read", 1, &[60]);
        log.part(Kind::Variant, vcpu, 28, "CR0 write", 2, &[60, 60 + 4 * vcpu]);
        log.total_on(vcpu, 6, 6, 420);
    }
    log.tally(28, 12);
    log.stop("exited");
    log.verdict("balanced", "");
    log
}

#[test]
fn vcpus_stand_side_by_side() {
    let two = [audited_by("two.log", &two_vcpus(), Some(audit_of(&TWO_VCPUS_AUDIT)))];
    golden("two_vcpus.txt", &render(&two, Format::Table));
    golden("two_vcpus.json", &render(&two, Format::Json));
    golden("two_vcpus.csv", &render(&two, Format::Csv));
    let sixteen = [audited_by("sixteen.log", &sixteen(), None)];
    golden("sixteen_vcpus.txt", &render(&sixteen, Format::Table));
}

/// A run on SVM whose emulator does not tell its two processors apart, with an exit that has no Intel twin.
fn svm() -> Titled {
    let mut svm = LogText::default();
    svm.header_on("rom", "SVM", 2, "leaf-map=autumn2021 workloads=cpuid:5 cpus=2");
    svm.workload("cpuid", 5, &[(1, 1, 1, 1), (10, 10, 10, 10), (12, 1, 1, 1), (32, 2, 2, 2)]);
    let shutdown = Row { reason: ExitReason::SVM_SHUTDOWN.0.into(), name: "SHUTDOWN", count: 1, each: 60 };
    svm.ledger(0, &[CPUID, VMCALL, WRMSR, shutdown]);
    svm.ledger(1, &SECOND);
    svm.tally(ExitReason::SVM_SHUTDOWN.0.into(), 1);
    two_vcpus_end(&mut svm);
    let log = LogReader::read(svm.0.as_bytes()).unwrap();
    let mut reader = ExitLogReader::new(ExitLogFormat::Qemu, 2);
    for (code, exitinfo1, count) in
        [(0x72, 0, 10), (0x81, 0, 3), (0x7c, 1, 2), (0x60, 0, 1), (0x78, 0, 1), (0x7f, 0, 1)]
    {
        let line = format!("vmexit({code:08x}, {exitinfo1:016x}, {:016x}, {:016x})!\n", 0, 0);
        reader.feed(line.repeat(count).as_bytes());
    }
    let account = Account::new(&log, Some(&reader.finish()), Some("qemu-tcg"));
    Titled { title: "svm.log".to_owned(), account }
}

#[test]
fn svm_has_its_own_exits_and_an_audit_of_sums() {
    let svm = [svm()];
    golden("svm.txt", &render(&svm, Format::Table));
    golden("svm.json", &render(&svm, Format::Json));
}

#[test]
fn the_monitors_looks_are_told_where_there_are_any() {
    let told = |looks: u64| {
        let mut log = LogText::default();
        log.header("workloads=none");
        log.looked_at(0, 17, looks);
        log.total(17, 17, 17 * 80);
        log.tally(1, 17 - looks);
        log.verdict("balanced", "");
        let titled = [titled("", &log, false)];
        [Format::Table, Format::Json].map(|format| render(&titled, format))
    };
    let [table, json] = told(17);
    let sentence = "\n17 of the external interrupts are the monitor's own looks at a guest that ran long (watchdog, limit) or idled\nverdict: ";
    assert!(table.contains(sentence), "{table}");
    assert_eq!(json.matches("\"looks\": 17").count(), 2, "over all vCPUs and on the one: {json}");
    let [table, _] = told(1);
    assert!(table.contains("\n1 of the external interrupts is the monitor's own look at a guest"), "{table}");
    let [table, json] = told(0);
    assert!(!table.contains("look") && !json.contains("look"), "{table}{json}");
}

#[test]
fn what_decides_the_cost_of_exits_on_silicon_is_told_where_the_processor_tells_it() {
    let told = |microcode: Option<u64>, smis: Option<[u64; 3]>| {
        let mut log = LogText::default();
        log.header_on("uefi", "vt-x", 1, "workloads=cpuid:5");
        log.processor(microcode, smis.map(|[before, ..]| before));
        log.disturbed_workload("cpuid", 5, smis.map(|[_, _, within]| within));
        log.exit(&CPUID);
        log.disturbed_total(0, 5, smis.map(|[_, in_run, _]| in_run));
        log.tally(CPUID.reason, CPUID.count);
        log.stop("exited");
        log.verdict("balanced", "");
        let titled = [titled("", &log, false)];
        [Format::Table, Format::Html, Format::Json].map(|format| render(&titled, format))
    };
    let [table, page, json] = told(Some(0xb00_0040), Some([17, 3, 2]));
    let line = "microcode 0xb000040, 2 threads on a core, IBRS on, STIBP off, SSBD on, 3 SMIs in the run";
    let within = "2 SMIs in cpuid, whose cycles have their time";
    assert!(table.contains(&format!("\n{line}\n{within}\n")), "{table}");
    assert!(page.contains(line) && page.contains(within), "{page}");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let expected = serde_json::json!({
        "microcode": 0xb00_0040, "threads_per_core": 2, "spec_ctrl": 5, "smis_before": 17, "smis": 3
    });
    assert_eq!((&json["silicon"], &json["workloads"][0]["smis"]), (&expected, &2.into()));
    let [table, _, json] = told(Some(0xb00_0040), Some([17, 1, 0]));
    assert!(table.contains(", 1 SMI in the run\n\n"), "{table}");
    assert!(json.contains("\"smis\": 0"), "none is a count, too: {json}");
    let [table, _, json] = told(Some(0), None);
    assert!(!table.contains("microcode") && !table.contains("IBRS"), "{table}");
    assert!(json.contains("\"microcode\": 0") && !json.contains("smis"), "{json}");
}

#[test]
fn what_a_reason_divides_into_is_shown() {
    let divided = [audited_by("divided.log", &divided(), None)];
    golden("divided.txt", &render(&divided, Format::Table));
}

#[test]
fn a_boot_is_shown_in_phases() {
    let boot = [audited_by("boot.log", &boot("powered-off"), None)];
    golden("boot.txt", &render(&boot, Format::Table));
    golden("boot.json", &render(&boot, Format::Json));
    golden("boot.html", &render(&boot, Format::Html));
}

#[test]
fn the_code_that_a_guest_ends_with_is_told_as_qemu_would_tell_it() {
    let told = |code: u64| {
        let mut log = LogText::default();
        log.header("workloads=none book=none");
        log.ledger(0, &[CPUID]);
        log.stop_with_code(code);
        log.verdict("balanced", "");
        let titled = [titled("", &log, false)];
        [Format::Table, Format::Html, Format::Json].map(|format| render(&titled, format))
    };
    for (code, words) in [(0, "with code 0x0 (QEMU's exit status 1)"), (0x10, "with code 0x10 (QEMU's exit status 33)")]
    {
        let [table, page, json] = told(code);
        let sentence = format!("the guest ended itself by the debug-exit port {words}");
        assert!(table.contains(&format!("\n  {sentence}\n")) && !table.contains("last exit"), "{table}");
        assert!(page.replace("&#39;", "'").contains(&sentence), "{page}");
        assert!(json.contains(&format!("\"code\": {code}")), "{json}");
    }
}

#[test]
fn a_boot_is_steady_where_no_phase_has_twice_the_rate_of_another() {
    let answer = |exits: u64| {
        let mut log = LogText::default();
        log.header("workloads=none book=none");
        let rows = |count| [Row { count, ..CPUID }];
        mark(&mut log, "first", "x", [10_000_000, 0], &rows(1000));
        mark(&mut log, "second", "y", [10_000_001, 0], &rows(1001));
        paused_total(&mut log, &rows(1001 + exits), [20_000_000, 0]);
        log.stop("reset");
        log.verdict("balanced", "");
        let table = render(&[titled("", &log, false)], Format::Table);
        let answer = table.lines().find(|line| line.contains("exits in a million ticks")).unwrap();
        answer.split(':').next().unwrap().to_owned()
    };
    assert_eq!(
        [answer(1900), answer(2100), answer(600), answer(400)],
        ["Steadily", "In bursts", "Steadily", "In bursts"]
    );
}

#[test]
fn an_atlas_has_a_row_for_each_variant() {
    let mut good = titled("good.log", &balanced(), true);
    let variant = |name: &str, count| {
        let figures = Figures { count, cycles: 70 * count, min: 60, max: 80 };
        let figures = if count == 0 { Figures::default() } else { figures };
        let row = VariantRow { name: name.into(), figures };
        let (how, platform) = match name {
            "CR3 read" => ("not produced", ""),
            "LMSW" => ("how a scenario does it", "tigerlake, 2 CPUs"),
            _ => ("", "tigerlake"),
        };
        AtlasVariant { row, how: how.to_owned(), platform: platform.to_owned(), possible: true }
    };
    let row = AtlasRow {
        number: 28,
        name: "Control-register accesses".to_owned(),
        figures: Figures { count: 5, cycles: 350, min: 60, max: 80 },
        audit_count: Some(5),
        how: "MOV to CR0".to_owned(),
        platform: "tigerlake".to_owned(),
        possible: true,
        variants: vec![variant("CR0 write", 3), variant("CR3 read", 0), variant("LMSW", 2)],
    };
    let lacking =
        AtlasRow { figures: Figures::default(), number: 60, name: "ENCLS".to_owned(), possible: false, ..row.clone() };
    let lacking = AtlasRow { how: "needs silicon".to_owned(), platform: String::new(), variants: vec![], ..lacking };
    good.account.atlas = vec![row, lacking];
    golden("atlas.txt", &render(&[good], Format::Table));
}

#[test]
fn several_logs_are_one_array() {
    let both = [titled("a", &balanced(), false), titled("b", &balanced(), false)];
    let json: serde_json::Value = serde_json::from_str(&render(&both, Format::Json)).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 2);
}

#[test]
fn microseconds_stand_beside_ticks_that_are_time() {
    let report = |tsc_hz: Option<u64>, format: Format| {
        let mut log = LogText::default();
        log.header_with(["uefi", "vt-x", "Test CPU"], 1, "");
        log.processor_at(Some(7), None, tsc_hz);
        log.ledger(0, &[CPUID, Row { each: 3000, ..VMCALL }]);
        log.verdict("balanced", "");
        render(&[titled("", &log, false)], format)
    };
    let table = report(Some(2_000_000_000), Format::Table);
    let row = |name: &str| {
        let line = table.lines().find(|line| line.contains(name)).unwrap_or_default();
        line.split_whitespace().rev().take(4).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(row("CPUID"), ["-", "-", "0.035", "70.0"], "{table}");
    assert_eq!(row("VMCALL"), ["-", "-", "1.500", "3000.0"], "{table}");
    assert_eq!(row(" all "), ["-", "-", "0.584", "1168.8"], "{table}");
    assert!(table.contains("avg  avg us") && table.contains("TSC 2.000 GHz"), "{table}");
    assert!(report(Some(2_000_000_000), Format::Json).contains("\"tsc_hz\": 2000000000"));
    let without = report(None, Format::Table);
    assert!(!without.contains("us") && !without.contains("GHz"), "{without}");
}
