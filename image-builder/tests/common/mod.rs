//! What several tests share: logs built through the protocol's own writer, and the tool as a process.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this module")]

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Output};

use tollgate_abi::record::{Kind, PROTOCOL, Writer};

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

impl LogText {
    pub fn record(&mut self, kind: Kind) -> Writer<'_, String> {
        Writer::new(&mut self.0, kind)
    }

    pub fn header(&mut self, options: &str) {
        let record = self.record(Kind::Tollgate).number("protocol", PROTOCOL).text("build", "0.1.0");
        let record = record.text("platform", "bochs").word("virtualization", "vt-x").text("cpu", "Test CPU");
        let record = record.word("sdm", "2025-06").word("leaf_map", "autumn2021").number("vcpus", 1);
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

    pub fn exit(&mut self, row: &Row) {
        let mut histogram = [0; 64];
        histogram[row.each.ilog2() as usize] = row.count;
        let record = self.record(Kind::Exit).number("vcpu", 0).number("reason", row.reason).text("name", row.name);
        let record = record.word("status", "enabled").number("count", row.count).number("cycles", row.count * row.each);
        record.number("min", row.each).number("max", row.each).histogram("histogram", &histogram).finish().unwrap();
    }

    pub fn total(&mut self, exits: u64, entries: u64, cycles: u64) {
        let record = self.record(Kind::Total).number("vcpu", 0).number("exits", exits).number("entries", entries);
        record.number("cycles", cycles).number("elapsed", 10_000).finish().unwrap();
    }

    pub fn tally(&mut self, reason: u64, guest: u64) {
        self.record(Kind::Tally).number("reason", reason).number("guest", guest).finish().unwrap();
    }

    pub fn stop(&mut self, outcome: &str) {
        self.record(Kind::Stop).word("outcome", outcome).hex("rip", 0x10_0000).finish().unwrap();
    }

    pub fn verdict(&mut self, result: &str, detail: &str) {
        self.record(Kind::Verdict).word("result", result).text("detail", detail).finish().unwrap();
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

/// Runs the tool.
pub fn tollgate(arguments: &[&str]) -> Output {
    tollgate_in(Path::new("."), arguments, &[])
}

/// Runs the tool in a directory, with these variables.
pub fn tollgate_in(directory: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.current_dir(directory).args(arguments).envs(variables.iter().copied());
    command.output().expect("the tool starts")
}

/// A process's output as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
