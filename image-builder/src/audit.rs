//! The third book: Bochs' own log of VM exits, which neither the monitor nor the guest wrote.
//!
//! ```text
//! 00000172434d[CPU0  ] VMEXIT reason = 18 (VMCALL) qualification=0x0
//! ```

use std::collections::BTreeMap;
use std::convert::Infallible;

use tollgate_abi::ExitReason;
use tollgate_abi::exit_reason::{ROWS, UNKNOWN_ROW};

use crate::lines::{Line, Lines};

/// How often the emulator logged each reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    counts: BTreeMap<u16, u64>,
}

impl Audit {
    /// Exits in the ledger row `number`.
    pub fn count(&self, number: u16) -> u64 {
        self.counts.get(&number).copied().unwrap_or(0)
    }

    /// Exits in all.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// The rows that are not empty.
    pub fn rows(&self) -> impl Iterator<Item = u16> + '_ {
        self.counts.keys().copied()
    }

    fn add(&mut self, reason: ExitReason) {
        const { assert!(ROWS <= u16::MAX as usize && UNKNOWN_ROW < ROWS) };
        *self.counts.entry(reason.ledger_row() as u16).or_default() += 1;
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
            if let Some(reason) = exit_reason(line) {
                audit.add(reason);
            }
            Ok(())
        });
    }

    /// The counts. A torn last line does not count: the emulator was killed while it wrote it.
    pub fn finish(self) -> Audit {
        self.audit
    }
}

/// The reason in a line about an exit.
fn exit_reason(line: &[u8]) -> Option<ExitReason> {
    let device_end = line.iter().position(|&byte| byte == b']')?;
    let digits = line[device_end..].strip_prefix(b"] VMEXIT reason = ")?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok().map(ExitReason)
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
    fn numbers_beyond_the_table_share_a_row() {
        let mut reader = ExitLogReader::default();
        reader.feed(b"0d[CPU0  ] VMEXIT reason = 9999 (?) q\n0d[CPU0  ] VMEXIT reason = 99999999 (?) q\n");
        assert_eq!(reader.finish().count(UNKNOWN_ROW as u16), 1);
    }
}
