//! Reads Bochs' log, and takes from it the exits and entries of the first processor with their ticks.
//!
//! ```text
//! 00010256957d[CPU0  ] VMLAUNCH VMCS ptr: 0x0000000000228000
//! 00010257053d[CPU0  ] VMEXIT reason = 10 (CPUID) qualification=0x0
//! 00010257265d[CPU0  ] VMRESUME VMCS ptr: 0x0000000000228000
//! ```

use std::convert::Infallible;

use tollgate_abi::peer::MARK_PORT;
use tollgate_abi::{ExitReason, svm_exit};

use super::{Boot, Stretch};
use crate::lines::{Line, Lines};

/// The bytes that are kept of a line.
const MOST_LINE_BYTES: usize = 256;
/// The processor whose exits are read.
const PROCESSOR: &[u8] = b"[CPU0  ] ";
/// The beginnings of the lines of an entry.
const ENTRIES: [&str; 3] = ["VMLAUNCH VMCS ptr", "VMRESUME VMCS ptr", "VMRUN VMCB ptr"];

/// An exit, or an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passage {
    Exit(ExitReason, IsMark),
    Entry,
}

/// Whether an exit is the access by which user space marks its first instruction.
type IsMark = bool;

/// Reads a log as it grows.
#[derive(Debug)]
pub struct BootReader {
    lines: Lines,
    /// The exit behind which no entry has come yet: its row and tick; none for a mark.
    open: Option<(Option<u16>, u64)>,
    entered: Option<u64>,
    boot: Boot,
}

impl Default for BootReader {
    fn default() -> Self {
        Self { lines: Lines::new(MOST_LINE_BYTES), open: None, entered: None, boot: Boot::default() }
    }
}

impl BootReader {
    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut lines = std::mem::replace(&mut self.lines, Lines::new(0));
        let Ok(()) = lines.feed::<Infallible>(bytes, |line| {
            let (Line::Whole(line) | Line::Overlong(line)) = line;
            if let Some((tick, passage)) = passage(line) {
                self.pass(tick, passage);
            }
            Ok(())
        });
        self.lines = lines;
    }

    /// Exits so far.
    pub fn exits(&self) -> u64 {
        self.boot.until_init.exits() + self.boot.from_init.exits()
    }

    /// The boot. A torn last line does not count.
    pub fn finish(self) -> Boot {
        self.boot
    }

    fn stretch(&mut self) -> &mut Stretch {
        if self.boot.is_marked { &mut self.boot.from_init } else { &mut self.boot.until_init }
    }

    fn pass(&mut self, tick: u64, passage: Passage) {
        match passage {
            Passage::Entry => {
                if let Some((row, left)) = self.open.take()
                    && let Some(row) = row
                {
                    self.stretch().reasons.entry(row).or_default().add_ticks(tick.saturating_sub(left));
                }
                self.entered = Some(tick);
            }
            // Exits of a machine that was there before, and was not entered, are none of this one's.
            Passage::Exit(..) if self.entered.is_none() => {}
            Passage::Exit(reason, is_mark) => {
                let entered = self.entered.take().unwrap_or(tick);
                if !self.boot.is_marked {
                    self.boot.guest_ticks += tick.saturating_sub(entered);
                }
                self.boot.is_marked |= is_mark;
                let row = (!is_mark).then(|| reason.ledger_row() as u16);
                if let Some(row) = row {
                    self.stretch().reasons.entry(row).or_default().add_exit();
                }
                self.open = Some((row, tick));
            }
        }
    }
}

/// The tick of a line, and its passage, if it is about one.
fn passage(line: &[u8]) -> Option<(u64, Passage)> {
    let digits = line.iter().position(|byte| !byte.is_ascii_digit())?;
    let message = line.get(digits + 1..)?.strip_prefix(PROCESSOR)?;
    // Most lines are about something else, and are told by one byte.
    if !matches!(message.first(), Some(b'V' | b'S')) {
        return None;
    }
    let message = std::str::from_utf8(message).ok()?;
    let passage = match ENTRIES.iter().any(|entry| message.starts_with(entry)) {
        true => Passage::Entry,
        false => vtx_exit(message).or_else(|| svm_exit(message))?,
    };
    Some((std::str::from_utf8(&line[..digits]).ok()?.parse().ok()?, passage))
}

/// An exit from VT-x. The qualification of an I/O instruction has the port in bits 31:16 (SDM 3C table 28-5).
fn vtx_exit(message: &str) -> Option<Passage> {
    let (reason, rest) = message.strip_prefix("VMEXIT reason = ")?.split_once(' ')?;
    let reason = ExitReason(reason.parse().ok()?);
    let (_name, qualification) = rest.split_once("qualification=0x")?;
    let qualification = u64::from_str_radix(qualification.split_whitespace().next()?, 16).ok()?;
    Some(Passage::Exit(reason, is_mark(reason, qualification)))
}

/// An exit from SVM. EXITINFO1 of an I/O instruction has the port in bits 31:16, too (APM 2 15.10.2).
fn svm_exit(message: &str) -> Option<Passage> {
    let (code, rest) = message.strip_prefix("SVM VMEXIT reason=")?.split_once(" exitinfo1=")?;
    let (information, _) = rest.split_once(" exitinfo2=")?;
    let (code, information) = (code.parse::<i32>().ok()?, u64::from_str_radix(information, 16).ok()?);
    let reason = svm_exit::reason(code.cast_unsigned(), information);
    Some(Passage::Exit(reason, is_mark(reason, information)))
}

fn is_mark(reason: ExitReason, information: u64) -> IsMark {
    reason == ExitReason::IO_INSTRUCTION && information >> 16 & 0xffff == u64::from(MARK_PORT)
}

#[cfg(test)]
mod tests {
    use super::super::Cost;
    use super::*;

    /// A log of a boot: lines of the emulator's own form, with others between them.
    const VTX: &str = "00000000090d[CPU0  ] VMEXIT reason = 10 (CPUID) qualification=0x0\n\
        00000000100d[CPU0  ] VMLAUNCH VMCS ptr: 0x0000000000228000\n\
        00000000100d[CPU0  ] VMENTER to x86-64 guest\n\
        00000000150d[CPU0  ] VMEXIT reason = 10 (CPUID) qualification=0x0\n\
        00000000150d[CPU0  ] VMEXIT to x86-64 host\n\
        00000000151d[CPU0  ] page walk for address 0x0000000000100d9c\n\
        00000000250d[CPU0  ] VMRESUME VMCS ptr: 0x0000000000228000\n\
        00000000260e[CPU0  ] VMEXIT: I/O port 0x03f8\n\
        00000000260d[CPU0  ] VMEXIT reason = 30 (I/O Instruction) qualification=0x3f80000\n\
        00000000300d[APIC0 ] VMRESUME VMCS ptr: 0x0000000000228000\n\
        00000000360d[CPU0  ] VMRESUME VMCS ptr: 0x0000000000228000\n\
        00000000400d[CPU0  ] VMEXIT reason = 10 (CPUID) qualification=0x0\n\
        00000000430d[CPU0  ] VMRESUME VMCS ptr: 0x0000000000228000\n\
        00000000500d[CPU0  ] VMEXIT reason = 30 (I/O Instruction) qualification=0x6080000\n\
        00000000600d[CPU0  ] VMRESUME VMCS ptr: 0x0000000000228000\n\
        00000000610d[CPU0  ] VMEXIT reason = 30 (I/O Instruction) qualification=0x6000000\n\
        00000000700d[CPU0  ] VMRES";

    fn read(log: &str, piece_bytes: usize) -> Boot {
        let mut reader = BootReader::default();
        log.as_bytes().chunks(piece_bytes).for_each(|piece| reader.feed(piece));
        reader.finish()
    }

    #[test]
    fn each_exit_costs_the_ticks_to_the_next_entry_and_the_mark_parts_the_boot() {
        let (cpuid, io) = (ExitReason::CPUID.0, ExitReason::IO_INSTRUCTION.0);
        for piece_bytes in [1, 13, 4096] {
            let boot = read(VTX, piece_bytes);
            assert!(boot.is_marked);
            let before = &boot.until_init;
            assert_eq!(before.of(cpuid), Cost { exits: 2, returned: 2, ticks: 130 });
            assert_eq!(before.of(io), Cost { exits: 1, returned: 1, ticks: 100 });
            assert_eq!((boot.guest_ticks, before.exits(), before.ticks()), (50 + 10 + 40 + 70, 3, 230));
            assert_eq!(before.of(cpuid).average(), Some(65.0));
            // The mark is no exit of either's; the last one has no end.
            let behind = &boot.from_init;
            assert_eq!(behind.reasons.len(), 1);
            assert_eq!(behind.of(io), Cost { exits: 1, ..Cost::default() });
            assert_eq!(behind.of(io).average(), None);
        }
    }

    #[test]
    fn a_log_of_svm_is_read_alike() {
        let entry = |tick: u64| format!("{tick:011}d[CPU0  ] VMRUN VMCB ptr: 0x0000000000237000\n");
        let exit = |tick: u64, code: u32, information: &str| {
            format!("{tick:011}d[CPU0  ] SVM VMEXIT reason={code} exitinfo1={information} exitinfo2=0000000000000000\n")
        };
        let log = [
            entry(100),
            exit(110, 114, "0000000000000000"),
            entry(150),
            exit(160, 124, "0000000000000001"),
            entry(170),
            exit(180, 123, "0000000006080210"),
            entry(190),
            exit(200, 1024, "0000000100000004"),
        ];
        let boot = read(&log.concat(), 64);
        let before = |reason: ExitReason| boot.until_init.of(reason.0);
        assert_eq!((before(ExitReason::CPUID).ticks, before(ExitReason::WRMSR).ticks), (40, 10));
        assert_eq!((boot.until_init.exits(), boot.from_init.of(ExitReason::EPT_VIOLATION.0).exits), (2, 1));
        assert!(boot.is_marked);
    }

    #[test]
    fn a_log_without_entries_has_no_boot() {
        assert_eq!(
            read("00000000090d[CPU0  ] VMEXIT reason = 10 (CPUID) qualification=0x0\nVM\n\n", 9),
            Boot::default()
        );
    }
}
