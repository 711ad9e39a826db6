//! Logs built through the protocol's own writer, which several tests share.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]

#[path = "../../../tests/common/golden.rs"]
pub mod golden;

use std::fmt::Write;

use tollgate_abi::record::{Kind, PROTOCOL, Writer};
use tollgate_books::audit::{Audit, ExitLogFormat, ExitLogReader};

/// A log in the making.
#[derive(Clone, Debug, Default)]
pub struct LogText(pub String);

/// One ledger row: reason, name, count, and the ticks that each exit took.
pub struct Row {
    pub reason: u64,
    pub name: &'static str,
    pub count: u64,
    pub each: u64,
}

pub const CPUID: Row = Row { reason: 10, name: "CPUID", count: 5, each: 70 };
pub const VMCALL: Row = Row { reason: 18, name: "VMCALL", count: 3, each: 100 };
pub const WRMSR: Row = Row { reason: 32, name: "WRMSR or WRMSRNS", count: 1, each: 90 };
pub const HLT: Row = Row { reason: 12, name: "HLT", count: 1, each: 120 };
pub const INTERRUPT: Row = Row { reason: 1, name: "External interrupt", count: 1, each: 80 };

impl LogText {
    pub fn record(&mut self, kind: Kind) -> Writer<'_, String> {
        Writer::new(&mut self.0, kind)
    }

    pub fn header(&mut self, options: &str) {
        self.header_of(1, options);
    }

    pub fn header_of(&mut self, vcpus: u64, options: &str) {
        self.header_on("bochs", "vt-x", vcpus, options);
    }

    pub fn header_on(&mut self, platform: &str, virtualization: &str, vcpus: u64, options: &str) {
        self.header_with([platform, virtualization, "Test CPU"], vcpus, options);
    }

    /// A header of a platform, an extension and a processor.
    pub fn header_with(&mut self, [platform, virtualization, cpu]: [&str; 3], vcpus: u64, options: &str) {
        let record = self.record(Kind::Tollgate).number("protocol", PROTOCOL).text("build", "0.1.0");
        let record = record.text("platform", platform).word("virtualization", virtualization).text("cpu", cpu);
        let record = record.word("sdm", "2025-06").word("leaf_map", "autumn2021").number("vcpus", vcpus);
        record.text("options", options).finish().unwrap();
    }

    pub fn workload(&mut self, name: &str, iterations: u64, counts: &[(u64, u64, u64, u64)]) {
        self.record(Kind::Begin)
            .word("workload", name)
            .word("profile", "minimal")
            .number("iterations", iterations)
            .finish()
            .unwrap();
        let exits = counts.iter().map(|count| count.3).sum();
        let record = self
            .record(Kind::Result)
            .word("workload", name)
            .number("iterations", iterations)
            .word("verdict", "balanced");
        record.number("exits", exits).number("cycles", iterations * 98).finish().unwrap();
        for &(reason, predicted, guest, observed) in counts {
            let record = self.record(Kind::Count).word("workload", name).number("reason", reason);
            record.number("predicted", predicted).number("guest", guest).number("observed", observed).finish().unwrap();
        }
    }

    /// The processor, with two threads on a core, IBRS and SSBD.
    pub fn processor(&mut self, microcode: Option<u64>, smis: Option<u64>) {
        self.processor_at(microcode, smis, None);
    }

    /// The same, with a time-stamp counter that counts time.
    pub fn processor_at(&mut self, microcode: Option<u64>, smis: Option<u64>, tsc_hz: Option<u64>) {
        let record = self.record(Kind::Processor);
        let record = if let Some(microcode) = microcode { record.hex("microcode", microcode) } else { record };
        let record = record.number("threads", 2).hex("spec_ctrl", 5);
        let record = if let Some(smis) = smis { record.number("smis", smis) } else { record };
        let record = if let Some(hz) = tsc_hz { record.number("tsc_hz", hz) } else { record };
        record.finish().unwrap();
    }

    /// A workload of CPUID alone, in which so many system-management interrupts came.
    pub fn disturbed_workload(&mut self, name: &str, iterations: u64, smis: Option<u64>) {
        let begin = self.record(Kind::Begin).word("workload", name).word("profile", "minimal");
        begin.number("iterations", iterations).finish().unwrap();
        let record = self.record(Kind::Result).word("workload", name).number("iterations", iterations);
        let record = record.word("verdict", "balanced").number("exits", iterations).number("cycles", iterations * 98);
        let record = if let Some(smis) = smis { record.number("smis", smis) } else { record };
        record.finish().unwrap();
        let record = self.record(Kind::Count).word("workload", name).number("reason", CPUID.reason);
        let record = record.number("predicted", iterations).number("guest", iterations);
        record.number("observed", iterations).finish().unwrap();
    }

    /// The sums of so many exits for CPUID, in a run with so many system-management interrupts.
    pub fn disturbed_total(&mut self, vcpu: u64, exits: u64, smis: Option<u64>) {
        let record = self.record(Kind::Total).number("vcpu", vcpu).number("exits", exits).number("entries", exits);
        let record = record.number("cycles", exits * CPUID.each).number("elapsed", 10_000);
        let record = if let Some(smis) = smis { record.number("smis", smis) } else { record };
        record.finish().unwrap();
    }

    /// The prediction of a key by a workload, and the ledger's count.
    pub fn key_count(&mut self, workload: &str, reason: u64, key: u64, predicted: u64, observed: u64) {
        let record = self.record(Kind::KeyCount).word("workload", workload).number("reason", reason).hex("key", key);
        let record = record.text("name", format_args!("leaf {key:#x}")).number("predicted", predicted);
        record.number("observed", observed).finish().unwrap();
    }

    /// The reasons that a profile enables.
    pub fn controls(&mut self, profile: &str, reasons: &[u64]) {
        let bits = reasons.iter().fold(0, |bits: u128, reason| bits | 1 << reason);
        let record = self.record(Kind::Controls).word("profile", profile).hex("pin", 0x5f);
        record.hex("enabled", bits as u64).hex("enabled_high", (bits >> 64) as u64).finish().unwrap();
    }

    /// External interrupts of one vCPU, some of which are the monitor's own looks.
    pub fn looked_at(&mut self, vcpu: u64, count: u64, looks: u64) {
        let (each, mut histogram) = (INTERRUPT.each, [0; 64]);
        histogram[each.ilog2() as usize] = count;
        let record = self.record(Kind::Exit).number("vcpu", vcpu).number("reason", INTERRUPT.reason);
        let record = record.text("name", INTERRUPT.name).word("status", "enabled").number("count", count);
        let record = record.number("cycles", count * each).number("min", each).number("max", each);
        record.histogram("histogram", &histogram).number("looks", looks).finish().unwrap();
    }

    pub fn exit(&mut self, row: &Row) {
        self.exit_on(0, row);
    }

    pub fn exit_on(&mut self, vcpu: u64, row: &Row) {
        let mut histogram = [0; 64];
        histogram[row.each.ilog2() as usize] = row.count;
        let record = self.record(Kind::Exit).number("vcpu", vcpu).number("reason", row.reason).text("name", row.name);
        let record = record.word("status", "enabled").number("count", row.count).number("cycles", row.count * row.each);
        record.number("min", row.each).number("max", row.each).histogram("histogram", &histogram).finish().unwrap();
    }

    /// A part of a row: a key or a variant, each of whose exits took so many ticks.
    pub fn part(&mut self, kind: Kind, vcpu: u64, reason: u64, name: &str, count: u64, ticks: &[u64]) {
        let (min, max) = (ticks.iter().min().unwrap(), ticks.iter().max().unwrap());
        let cycles = ticks.iter().cycle().take(count as usize).sum();
        let record = self.record(kind).number("vcpu", vcpu).number("reason", reason);
        let key = name.bytes().map(u64::from).sum();
        let record = if kind == Kind::Key && name != "others" { record.hex("key", key) } else { record };
        let record = record.text("name", name).number("count", count).number("cycles", cycles);
        record.number("min", *min).number("max", *max).finish().unwrap();
    }

    /// Exits for one reason in steps of so many ticks from this TSC on.
    pub fn rate(&mut self, vcpu: u64, reason: u64, (start, step): (u64, u64), counts: &[u64]) {
        let record = self.record(Kind::Rate).number("vcpu", vcpu).number("reason", reason).number("start", start);
        let record = record.number("step", step).number("from", 0);
        record.numbers("counts", counts.iter().copied()).finish().unwrap();
    }

    /// Rows and their sums on one vCPU.
    pub fn ledger(&mut self, vcpu: u64, rows: &[Row]) {
        rows.iter().for_each(|row| self.exit_on(vcpu, row));
        let exits = rows.iter().map(|row| row.count).sum();
        self.total_on(vcpu, exits, exits, rows.iter().map(|row| row.count * row.each).sum());
    }

    pub fn total(&mut self, exits: u64, entries: u64, cycles: u64) {
        self.total_on(0, exits, entries, cycles);
    }

    pub fn total_on(&mut self, vcpu: u64, exits: u64, entries: u64, cycles: u64) {
        let record = self.record(Kind::Total).number("vcpu", vcpu).number("exits", exits).number("entries", entries);
        record.number("cycles", cycles).number("elapsed", cycles.max(10_000)).finish().unwrap();
    }

    pub fn tally(&mut self, reason: u64, guest: u64) {
        self.record(Kind::Tally).number("reason", reason).number("guest", guest).finish().unwrap();
    }

    pub fn stop(&mut self, outcome: &str) {
        self.record(Kind::Stop).word("outcome", outcome).hex("rip", 0x10_0000).finish().unwrap();
    }

    /// An end by the debug-exit port.
    pub fn stop_with_code(&mut self, code: u64) {
        let record = self.record(Kind::Stop).word("outcome", "debug-exit").hex("rip", 0x10_0000);
        record.hex("code", code).finish().unwrap();
    }

    pub fn verdict(&mut self, result: &str, detail: &str) {
        self.record(Kind::Verdict).word("result", result).text("detail", detail).finish().unwrap();
    }

    /// A verdict that tells the number of records before it.
    pub fn counted_verdict(&mut self, result: &str) {
        let records = self.0.lines().filter(|line| line.contains(" ~")).count() as u64;
        self.record(Kind::Verdict).word("result", result).number("records", records).finish().unwrap();
    }

    pub fn noise(&mut self, line: &str) {
        writeln!(self.0, "{line}").unwrap();
    }
}

/// The books of [`CPUID`] and [`VMCALL`]: ledger, sums and the guest's tally.
pub fn books(log: &mut LogText) {
    log.exit(&CPUID);
    log.exit(&VMCALL);
    log.total(8, 8, 650);
    log.tally(CPUID.reason, CPUID.count);
    log.tally(VMCALL.reason, VMCALL.count);
}

/// A run of one workload that balances.
pub fn balanced() -> LogText {
    let mut log = LogText::default();
    log.header("leaf-map=autumn2021 workloads=cpuid:5");
    log.workload("cpuid", 5, &[(10, 5, 5, 5)]);
    books(&mut log);
    log.stop("exited");
    log.verdict("balanced", "8 exits, every book agrees");
    log
}

/// The reasons that a minimal profile enables, as far as these logs need them.
pub const ENABLED: [u64; 6] = [1, 10, 12, 18, 31, 32];

/// The beginning of a run of one workload on two vCPUs: header, controls, workload.
pub fn two_vcpus_begin(log: &mut LogText) {
    log.header_of(2, "leaf-map=autumn2021 workloads=cpuid:5 cpus=2");
    log.controls("minimal", &ENABLED);
    log.workload("cpuid", 5, &[(1, 1, 1, 1), (10, 10, 10, 10), (12, 1, 1, 1), (32, 2, 2, 2)]);
}

/// The guest's book of that run, and its end.
pub fn two_vcpus_end(log: &mut LogText) {
    for (reason, count) in [(1, 1), (10, 10), (12, 1), (18, 3), (32, 2)] {
        log.tally(reason, count);
    }
    log.stop("exited");
    log.verdict("balanced", "17 exits, every book agrees");
}

/// The exits of vCPU 1 in that run.
pub const SECOND: [Row; 4] = [INTERRUPT, Row { count: 5, each: 75, ..CPUID }, HLT, WRMSR];

/// A run of one workload on two vCPUs that balances.
pub fn two_vcpus() -> LogText {
    let mut log = LogText::default();
    two_vcpus_begin(&mut log);
    log.ledger(0, &[CPUID, VMCALL, WRMSR]);
    log.ledger(1, &SECOND);
    two_vcpus_end(&mut log);
    log
}

/// The emulator's log: CPU, reason, number of exits.
pub fn audit_of(exits: &[(u64, u64, usize)]) -> Audit {
    let mut reader = ExitLogReader::new(ExitLogFormat::Bochs, 1);
    for &(cpu, reason, count) in exits {
        reader.feed(format!("0d[CPU{cpu:X}  ] VMEXIT reason = {reason} (name) q\n").repeat(count).as_bytes());
    }
    reader.finish()
}

/// The emulator's log in the run of [`two_vcpus`].
pub const TWO_VCPUS_AUDIT: [(u64, u64, usize); 7] =
    [(0, 10, 5), (0, 18, 3), (0, 32, 1), (1, 1, 1), (1, 10, 5), (1, 12, 1), (1, 32, 1)];

/// A process's output as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A mark with the account until then: its place in time, pauses, and the exits of reasons with the ticks of each.
pub fn mark(log: &mut LogText, name: &str, text: &str, [at, paused]: [u64; 2], rows: &[Row]) {
    let exits = rows.iter().map(|row| row.count).sum();
    let cycles = rows.iter().map(|row| row.count * row.each).sum();
    let record = log.record(Kind::Mark).word("name", name).text("text", text).number("vcpu", 0).number("at", at);
    record.number("exits", exits).number("cycles", cycles).number("paused", paused).finish().unwrap();
    for row in rows {
        let record = log.record(Kind::AtMark).word("name", name).number("reason", row.reason);
        record.number("count", row.count).number("cycles", row.count * row.each).finish().unwrap();
    }
}

/// A mark that was never reached.
pub fn unreached(log: &mut LogText, name: &str, text: &str) {
    log.record(Kind::Mark).word("name", name).text("text", text).finish().unwrap();
}

/// The sums of vCPU 0 in a run of so many ticks, with pauses.
pub fn paused_total(log: &mut LogText, rows: &[Row], [elapsed, paused]: [u64; 2]) {
    rows.iter().for_each(|row| log.exit(row));
    let exits = rows.iter().map(|row| row.count).sum();
    let record = log.record(Kind::Total).number("vcpu", 0).number("exits", exits).number("entries", exits);
    let record = record.number("cycles", rows.iter().map(|row| row.count * row.each).sum());
    record.number("elapsed", elapsed).number("paused", paused).finish().unwrap();
}

/// The boot of a kernel, cut by marks, of which it did not reach the last.
pub fn boot(outcome: &str) -> LogText {
    const IO: Row = Row { reason: 30, name: "I/O instruction", count: 0, each: 250 };
    let rows = |[cpuid, io, wrmsr]: [u64; 3]| {
        [Row { count: cpuid, ..CPUID }, Row { count: io, ..IO }, Row { count: wrmsr, ..WRMSR }]
    };
    let mut log = LogText::default();
    log.header(
        "leaf-map=autumn2021 workloads=none book=none marks=kernel=Linux%20version,init=as%20init%20process,up=login:",
    );
    let line = |log: &mut LogText, text: &str| log.record(Kind::Console).text("text", text).finish().unwrap();
    line(&mut log, "[    0.000000] Linux version 6.1.0 <test>");
    mark(&mut log, "kernel", "Linux version", [93_000_000, 0], &rows([343, 157, 8])[..]);
    line(&mut log, "[    0.400000] Run /init as init process");
    mark(&mut log, "init", "as init process", [478_000_000, 18_000_000], &rows([446, 34_210, 190])[..]);
    unreached(&mut log, "up", "login:");
    paused_total(&mut log, &rows([838, 34_495, 364]), [832_000_000, 18_400_000]);
    log.stop(outcome);
    let result = if outcome == "powered-off" { "balanced" } else { "stopped" };
    log.verdict(result, "35697 exits; the guest keeps no book, and ended");
    log
}
