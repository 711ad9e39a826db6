//! The third book: Bochs' own log of VM exits, which neither the monitor nor the guest wrote.
//!
//! ```text
//! 00000172434d[CPU0  ] VMEXIT reason = 18 (VMCALL) qualification=0x0
//! ```
//!
//! vCPU n runs on Bochs' CPU n, so that each vCPU's ledger has a book of its own to agree with.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use tollgate_abi::ExitReason;
use tollgate_abi::exit_reason::{ROWS, UNKNOWN_ROW};

use crate::lines::{Line, Lines};

/// How often the emulator logged each reason on each CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    counts: BTreeMap<(u64, u16), u64>,
}

impl Audit {
    /// Exits in the ledger row `number`, on all CPUs.
    pub fn count(&self, number: u16) -> u64 {
        self.counts.iter().filter(|((_, row), _)| *row == number).map(|(_, count)| count).sum()
    }

    /// Exits in the ledger row `number`, on one CPU.
    pub fn count_on(&self, cpu: u64, number: u16) -> u64 {
        self.counts.get(&(cpu, number)).copied().unwrap_or(0)
    }

    /// Exits in all.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Exits on one CPU.
    pub fn total_on(&self, cpu: u64) -> u64 {
        self.counts.range((cpu, 0)..=(cpu, u16::MAX)).map(|(_, count)| count).sum()
    }

    /// The rows that are not empty on some CPU.
    pub fn rows(&self) -> BTreeSet<u16> {
        self.places().map(|(_, row)| row).collect()
    }

    /// CPU and row wherever there were exits, in ascending order.
    pub fn places(&self) -> impl Iterator<Item = (u64, u16)> + '_ {
        self.counts.keys().copied()
    }

    fn add(&mut self, cpu: u64, reason: ExitReason) {
        const { assert!(ROWS <= u16::MAX as usize && UNKNOWN_ROW < ROWS) };
        *self.counts.entry((cpu, reason.ledger_row() as u16)).or_default() += 1;
    }
}

/// Reads the log as it grows.
#[derive(Debug)]
pub struct ExitLogReader {
    lines: Lines,
    audit: Audit,
}

/// Exit lines are far shorter; what is longer is cut, which their beginning survives.
const MOST_LINE_BYTES: usize = 512;

impl Default for ExitLogReader {
    fn default() -> Self {
        Self { lines: Lines::new(MOST_LINE_BYTES), audit: Audit::default() }
    }
}

impl ExitLogReader {
    /// Takes the next bytes of the log.
    pub fn feed(&mut self, bytes: &[u8]) {
        let audit = &mut self.audit;
        let Ok(()) = self.lines.feed::<Infallible>(bytes, |line| {
            let (Line::Whole(line) | Line::Overlong(line)) = line;
            if let Some((cpu, reason)) = exit(line) {
                audit.add(cpu, reason);
            }
            Ok(())
        });
    }

    /// The counts. A torn last line does not count: the emulator was killed while it wrote it.
    pub fn finish(self) -> Audit {
        self.audit
    }
}

/// CPU and reason in a line about an exit.
fn exit(line: &[u8]) -> Option<(u64, ExitReason)> {
    let device_start = line.iter().position(|&byte| byte == b'[')? + 1;
    let device_end = device_start + line[device_start..].iter().position(|&byte| byte == b']')?;
    // Bochs numbers its processors in hexadecimal.
    let cpu = std::str::from_utf8(&line[device_start..device_end]).ok()?.strip_prefix("CPU")?.trim_end();
    let digits = line[device_end..].strip_prefix(b"] VMEXIT reason = ")?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    let reason = std::str::from_utf8(&digits[..end]).ok()?.parse().ok()?;
    Some((u8::from_str_radix(cpu, 16).ok()?.into(), ExitReason(reason)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_counted_and_other_lines_are_not() {
        let mut reader = ExitLogReader::default();
        let log = b"00000172434d[CPU0  ] VMEXIT reason = 18 (VMCALL) qualification=0x0\n\
            00000472480d[CPU1  ] VMEXIT reason = 3 (INIT) qualification=0x0\n\
            00001320903e[CPU0  ] VMEXIT: EPT violation for guest paddr 0x000000800000 laddr 0x0000000000800000\n\
            00000894847d[CPU0  ] VMENTER to x86-64 guest\n\
            00000172435d[CPU0  ] VMEXIT reason = 18 (VMCALL) qualification=0x0\n\
            00000172436d[CPU0  ] VMEXIT reason = 1";
        for piece in log.chunks(7) {
            reader.feed(piece);
        }
        let audit = reader.finish();
        let vmcall = ExitReason::VMCALL.0;
        assert_eq!((audit.count(vmcall), audit.count(ExitReason::INIT.0), audit.total()), (2, 1, 3));
    }

    #[test]
    fn each_cpu_has_its_own_counts() {
        let mut reader = ExitLogReader::default();
        for cpu in ["0", "1", "1", "F"] {
            reader.feed(format!("0d[CPU{cpu}  ] VMEXIT reason = 10 (CPUID) q\n").as_bytes());
        }
        reader.feed(b"0d[CPU1  ] VMEXIT reason = 18 (VMCALL) q\n0d[APIC1 ] VMEXIT reason = 18 (VMCALL) q\n");
        let audit = reader.finish();
        let (cpuid, vmcall) = (ExitReason::CPUID.0, ExitReason::VMCALL.0);
        assert_eq!([0, 1, 2, 15].map(|cpu| audit.count_on(cpu, cpuid)), [1, 2, 0, 1]);
        assert_eq!((audit.count(cpuid), audit.count(vmcall), audit.total_on(1), audit.total()), (4, 1, 3, 5));
        let places: Vec<_> = audit.places().collect();
        assert_eq!(places, [(0, cpuid), (1, cpuid), (1, vmcall), (15, cpuid)]);
    }

    #[test]
    fn numbers_beyond_the_table_share_a_row() {
        let mut reader = ExitLogReader::default();
        reader.feed(b"0d[CPU0  ] VMEXIT reason = 9999 (?) q\n0d[CPU0  ] VMEXIT reason = 99999999 (?) q\n");
        assert_eq!(reader.finish().count(UNKNOWN_ROW as u16), 1);
    }
}
